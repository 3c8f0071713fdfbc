//! Drives the reconcile of Recordings: tells of those that are done, finds another node for those whose node is lost, and deletes
//! those whose time is over. What it decides is in `decide`; the files are the nodes' business.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use json_patch::{AddOperation, Patch, PatchOperation, ReplaceOperation, TestOperation, jsonptr::PointerBuf};
use kube::{
    ResourceExt as _,
    core::DeserializeGuard,
    runtime::{
        controller::Action,
        reflector::{ObjectRef, Store},
    },
};
use ledger::{Key, KubeStore, Recordings as _, Store as _};
use serde_json::{Value, json};
use tallylight_crds::{
    Broadcast, Condition, ConditionStatus, Recording, RecordingState, RecordingTrouble, Storage, set_condition,
};
use tokio::sync::mpsc;
use webhook::{Told, tell};

use crate::{
    attempts::Attempts,
    broadcast::{self, now},
    controllers::Wake,
    health::{Health, Watch},
    metrics::Metrics,
    node_watch::SharedNodes,
    paused::is_paused,
    resolve::Pools,
};

mod decide;
mod index;
pub(crate) mod watch;

use decide::{Node, Pool, Step, decide};
pub(crate) use index::Index;

/// What the cache holds: a Recording that this version can read, or the reason why it cannot.
pub(crate) type Guarded = DeserializeGuard<Recording>;

/// A ledger that is full, or a Broadcast that is paused, is looked at again after this, in the cache: it costs no request.
const LATER: Duration = Duration::from_secs(30);
/// Longest sleep before a recording's time is looked at again: the wall clock may be set.
const NAP: Duration = Duration::from_secs(3600);

/// What a reconcile needs.
pub(crate) struct Context {
    store: KubeStore,
    pools: Pools,
    /// Where the Broadcasts are cached.
    broadcasts: Vec<Store<broadcast::Guarded>>,
    nodes: SharedNodes,
    index: Index,
    health: Health,
    /// To tell Broadcasts of what concerns them.
    wake: mpsc::Sender<Wake>,
    attempts: Attempts,
    metrics: Metrics,
}

/// What a reconcile was trying when it failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("failed to read the Broadcast that was recorded")]
    ReadBroadcast { source: ledger::Error },
    #[error("failed to tell of the recording")]
    Tell { source: ledger::Error },
    #[error("failed to make another node responsible")]
    Assign { source: ledger::Error },
    #[error("failed to say that the recording is lost")]
    Fail { source: ledger::Error },
    #[error("failed to delete the Recording")]
    Delete { source: ledger::Error },
    #[error("failed to release the Recording")]
    Release { source: ledger::Error },
}

pub(crate) async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    let reconciled = async {
        match &object.0 {
            Ok(recording) => reconcile_valid(recording, &context).await,
            Err(invalid) => {
                tracing::warn!(recording = %object.name_any(), error = %invalid.error, "a Recording cannot be read");
                Ok(Action::await_change())
            }
        }
    };
    context.attempts.run(&*object, reconciled).await
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of an error policy")]
pub(crate) fn error_policy(object: Arc<Guarded>, error: &Error, context: Arc<Context>) -> Action {
    context.attempts.failed(&*object, error)
}

async fn reconcile_valid(recording: &Recording, context: &Context) -> Result<Action, Error> {
    let (node, pool) = context.around(recording).await;
    let step = decide(recording, node, &pool, now());
    let key = Key::of_recording(recording);
    match step {
        Step::Wait => {}
        Step::Keep(end) => {
            let left = Duration::try_from(end.duration_since(now())).unwrap_or_default();
            return Ok(Action::requeue(left.min(NAP)));
        }
        Step::Tell => return told(recording, context).await,
        Step::Assign(heir) => {
            tracing::info!(recording = %key, from = recording.spec.node, to = heir, "recording.assigned");
            let assigned = context.store.assign_recording(recording, &heir).await;
            done(assigned.map(drop), |source| Error::Assign { source })?;
        }
        Step::Fail => {
            tracing::info!(recording = %key, node = recording.spec.node, "recording.lost");
            let uid = recording.uid().unwrap_or_default();
            let failed = context.store.patch_recording(&key, &uid, &lost(recording)).await;
            if failed.is_ok() {
                context.metrics.recordings_lost.inc();
            }
            done(failed.map(drop), |source| Error::Fail { source })?;
        }
        Step::Release => {
            tracing::info!(recording = %key, node = recording.spec.node, "recording.released");
            done(context.store.release_recording(recording).await, |source| Error::Release { source })?;
        }
        Step::Delete => {
            tracing::info!(recording = %key, "recording.expired");
            let uid = recording.uid().unwrap_or_default();
            done(context.store.delete_recording(&key, &uid).await, |source| Error::Delete { source })?;
        }
    }
    Ok(Action::await_change())
}

/// A conflict, or an object that is gone, is a change that is on its way here.
fn done(result: Result<(), ledger::Error>, failed: impl FnOnce(ledger::Error) -> Error) -> Result<(), Error> {
    match result {
        Ok(()) | Err(ledger::Error::NotFound | ledger::Error::Conflict) => Ok(()),
        Err(source) => Err(failed(source)),
    }
}

async fn told(recording: &Recording, context: &Context) -> Result<Action, Error> {
    let broadcast = context.broadcast_of(recording).await?;
    let has_to_wait =
        |broadcast: &Broadcast| is_paused(broadcast) || !ledger::has_room_for_recording(&broadcast.status_or_default());
    if broadcast.as_ref().is_some_and(has_to_wait) {
        return Ok(Action::requeue(LATER));
    }
    let pool = context.pools.get(&recording.namespace().unwrap_or_default(), &recording.spec.pool);
    let spec = pool.as_ref().map(|pool| &pool.spec);
    let sends = |action| broadcast.as_ref().is_some_and(|broadcast| broadcast.sends(spec, action));
    match tell(&context.store, broadcast.as_ref(), recording, sends, now()).await {
        Ok(Told::Nothing | Told::Done) => Ok(Action::await_change()),
        Ok(Told::LedgerFull) => Ok(Action::requeue(LATER)),
        Err(source) => Err(Error::Tell { source }),
    }
}

impl Context {
    /// With what the reconciles of Broadcasts have.
    pub(crate) fn new(
        shared: &broadcast::Context,
        broadcasts: Vec<Store<broadcast::Guarded>>,
        health: Health,
        wake: mpsc::Sender<Wake>,
    ) -> Self {
        Self {
            store: shared.store.clone(),
            pools: shared.pools.clone(),
            broadcasts,
            nodes: shared.nodes.clone(),
            index: shared.recordings.clone(),
            health,
            wake,
            attempts: Attempts::new(shared.leadership.clone(), shared.metrics.clone(), broadcast::LONGEST_WAIT),
            metrics: shared.metrics.clone(),
        }
    }

    /// What a decision depends on, but for the object. Waits until the pools are listed.
    async fn around(&self, recording: &Recording) -> (Node, Pool) {
        self.health.listed(Watch::Pools).await;
        let namespace = recording.namespace().unwrap_or_default();
        let key = Key { namespace: namespace.clone(), name: recording.spec.node.clone() };
        let pool = self.pools.get(&namespace, &recording.spec.pool);
        let is_bucket = |storage: &Storage| storage.name == recording.spec.storage && storage.s3.is_some();
        let uploads = pool.as_ref().is_some_and(|pool| pool.spec.storages.iter().any(is_bucket));
        let mut nodes = self.nodes.lock();
        if recording.is_leaving() || !recording.state().is_final() {
            nodes.expect(&key, Instant::now());
        }
        let node = match (nodes.is_lost(&key), nodes.is_gone(&key)) {
            (false, _) => Node::Alive,
            (true, false) if nodes.starts_again(&key) => Node::Down,
            (true, false) => Node::Silent,
            (true, true) => Node::Gone,
        };
        let present = |_| Pool::Present { open: nodes.open(&namespace, &recording.spec.pool), uploads };
        (node, pool.map_or(Pool::Absent, present))
    }

    /// The Broadcast that was recorded: as the cache has it, else as the API server says; `None` when it is gone.
    async fn broadcast_of(&self, recording: &Recording) -> Result<Option<Broadcast>, Error> {
        let key = Key::of_recorded(recording);
        let is_it = |found: &Broadcast| found.metadata.uid.as_ref() == Some(&recording.spec.broadcast.uid);
        let place = ObjectRef::new(&key.name).within(&key.namespace);
        let cached = self.broadcasts.iter().find_map(|cache| cache.get(&place));
        if let Some(Ok(broadcast)) = cached.as_deref().map(|object| &object.0)
            && is_it(broadcast)
        {
            return Ok(Some(broadcast.clone()));
        }
        let found = self.store.get(&key).await.map_err(|source| Error::ReadBroadcast { source })?;
        Ok(found.filter(is_it))
    }
}

/// Says that a recording is lost with its node.
fn lost(recording: &Recording) -> Patch {
    let status = recording.status_or_default();
    let path = |name: &str| PointerBuf::from_tokens(["status", name]);
    let mut conditions = status.conditions;
    let message = format!("media node {} is gone, and the recording was on its disk alone", recording.spec.node);
    let ready = Condition {
        kind: "Ready".into(),
        status: ConditionStatus::False,
        observed_generation: recording.metadata.generation,
        last_transition_time: now(),
        reason: RecordingTrouble::NodeLost.as_str().into(),
        message,
    };
    set_condition(&mut conditions, ready);
    Patch(vec![
        PatchOperation::Test(TestOperation { path: path("state"), value: json!(status.state) }),
        PatchOperation::Replace(ReplaceOperation { path: path("state"), value: json!(RecordingState::Failed) }),
        PatchOperation::Add(AddOperation {
            path: path("conditions"),
            value: serde_json::to_value(conditions).unwrap_or(Value::Null),
        }),
    ])
}
