//! What is about every reconcile, whatever its kind: it is the leader's to do, it is counted, and one that fails is tried again,
//! ever later. Knows nothing of what a reconcile does.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kube::{Resource, ResourceExt as _, runtime::controller::Action};

use crate::{
    leader::Leadership,
    metrics::{Metrics, ReconcileResult},
};

/// First wait after a failed reconcile; doubled in between.
const FIRST: Duration = Duration::from_secs(1);

/// The attempts at the objects of one kind.
pub(crate) struct Attempts {
    leadership: Leadership,
    metrics: Metrics,
    /// The longest wait after a failed reconcile.
    longest: Duration,
    /// How often each object, by UID, has failed in a row.
    failures: Mutex<HashMap<String, u32>>,
}

impl Attempts {
    pub(crate) fn new(leadership: Leadership, metrics: Metrics, longest: Duration) -> Self {
        Self { leadership, metrics, longest, failures: Mutex::default() }
    }

    /// Does it, if this process leads.
    pub(crate) async fn run<K: Resource, E>(
        &self,
        object: &K,
        reconcile: impl Future<Output = Result<Action, E>>,
    ) -> Result<Action, E> {
        if !self.leadership.holds() {
            return Ok(Action::await_change()); // everything is woken when this process comes to lead
        }
        let action = reconcile.await?;
        self.forget(object.meta().uid.as_deref().unwrap_or_default());
        self.metrics.reconciled(ReconcileResult::Done);
        Ok(action)
    }

    /// It has failed: says so, and when it is tried again.
    pub(crate) fn failed<K: Resource<DynamicType = ()>>(&self, object: &K, error: &dyn std::error::Error) -> Action {
        let (attempt, wait) = self.wait(object.uid().unwrap_or_default());
        self.metrics.reconciled(ReconcileResult::Failed);
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        let (kind, name) = (K::kind(&()), object.name_any());
        tracing::warn!(%kind, name, %error, source, attempt, ?wait, "reconcile failed");
        Action::requeue(wait)
    }

    /// The object is well, or gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// How often it has failed now, and how long to wait before the next attempt.
    fn wait(&self, uid: String) -> (u32, Duration) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = failures.entry(uid).or_insert(0);
        *attempt += 1;
        (*attempt, self.longest.min(FIRST * 2_u32.saturating_pow((*attempt).min(10) - 1)))
    }
}
