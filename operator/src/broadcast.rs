//! Drives the reconcile of Broadcasts: dereference → observe → write. What it decides is in `observe`, `ledger::disposal`
//! and `nodes`; deliveries run apart from it, in the dispatcher.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use json_patch::PatchOperation;
use kube::{ResourceExt as _, core::DeserializeGuard, runtime::controller::Action};
use ledger::{
    Committed, Input, Key, KubeStore, Owner, Recordings as _, Store as _, Windows, commit, disposal, disposal::Disposal,
};
use tallylight_crds::{Away, Broadcast, BroadcastStatus, HOOKS_FINALIZER, Reason, SessionState};

use crate::{
    attempts::Attempts, events::Events, leader::Leadership, metrics::Metrics, node_watch::SharedNodes,
    nodes::Availability, paused::is_paused, recording::Index, resolve::Pools, secrets::Secrets,
};

pub(crate) mod key;
pub(crate) mod observe;

use observe::{Pool, Recorded, StreamKey, Surroundings};

/// What the cache holds: a Broadcast that this version can read, or the reason why it cannot.
pub(crate) type Guarded = DeserializeGuard<Broadcast>;

/// A stream key may change in its Secret, which is not watched: it is looked at again this often.
const KEY_RECHECK: Duration = Duration::from_secs(600);
/// Longest wait after a failed reconcile.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What a reconcile needs.
pub(crate) struct Context {
    pub(crate) store: KubeStore,
    pub(crate) pools: Pools,
    pub(crate) nodes: SharedNodes,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
    pub(crate) attempts: Attempts,
    pub(crate) verified: key::Verified,
    pub(crate) windows: Mutex<Windows>,
    /// How the recordings of each Broadcast are.
    pub(crate) recordings: Index,
    pub(crate) leadership: Leadership,
}

/// What a reconcile was trying when it failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("failed to end the session")]
    EndSession { source: ledger::Error },
    #[error("failed to let the session wait for its publisher")]
    ParkSession { source: ledger::Error },
    #[error("failed to delete the Broadcast")]
    Delete { source: ledger::Error },
    #[error("failed to read the recordings of the Broadcast")]
    ReadRecordings { source: ledger::Error },
    #[error("failed to release the Broadcast")]
    Release { source: ledger::Error },
    #[error("failed to hold the Broadcast until its events are settled")]
    Hold { source: ledger::Error },
    #[error("failed to write the verifier of the stream key")]
    WriteVerifier { source: ledger::Error },
    #[error("failed to read the stream key")]
    ReadKey { source: crate::secrets::Error },
    #[error("failed to write conditions")]
    WriteConditions { source: ledger::Error },
}

impl Context {
    /// What the Broadcast depends on, but for its stream key.
    pub(crate) fn pool_of(&self, broadcast: &Broadcast) -> Pool {
        let namespace = broadcast.namespace().unwrap_or_default();
        if self.pools.get(&namespace, &broadcast.spec.pool).is_none() {
            return Pool::Absent;
        }
        match self.nodes.lock().availability(&namespace, &broadcast.spec.pool) {
            Availability::Unknown => Pool::Unknown,
            Availability::Open => Pool::Serving,
            Availability::Closed => Pool::Empty,
        }
    }
}

impl Context {
    /// Conditions for a patch that the dispatcher is about to send: they cost no write of their own then.
    pub(crate) fn annotate(&self, broadcast: &Broadcast, after: &BroadcastStatus) -> Vec<PatchOperation> {
        let recorded = self.recordings.recorded(broadcast);
        let around = Surroundings { pool: self.pool_of(broadcast), key: observe::key_in(broadcast), recorded };
        observe::patch(broadcast, after, around, now()).unwrap_or_default()
    }

    /// How long the publisher of the session is still awaited; `None` when it is not away.
    fn awaited(&self, broadcast: &Broadcast) -> Option<Duration> {
        let at = Instant::now();
        let end = self.windows.lock().unwrap_or_else(PoisonError::into_inner).end(broadcast, now(), at);
        end.map(|end| end.saturating_duration_since(at))
    }

    /// The Broadcast is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.attempts.forget(uid);
        self.verified.forget(uid);
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).forget(uid);
    }
}

/// Everything that a reconcile reads and nothing that it writes: only a change of this wakes it.
#[expect(clippy::unnecessary_wraps, reason = "the shape of a predicate")]
pub(crate) fn inputs(object: &Guarded) -> Option<u64> {
    let mut hash = DefaultHasher::new();
    let meta = kube::Resource::meta(object);
    (&meta.uid, meta.generation, &meta.finalizers, meta.deletion_timestamp.is_some(), &meta.labels).hash(&mut hash);
    is_paused(object).hash(&mut hash);
    if let Ok(broadcast) = &object.0 {
        let status = broadcast.status_or_default();
        (status.session.epoch, status.session.ordinal, status.session.state == SessionState::Open).hash(&mut hash);
        (status.hooks.last_sequence, status.hooks.acked_sequence).hash(&mut hash);
    }
    Some(hash.finish())
}

pub(crate) async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    let reconciled = async {
        match &object.0 {
            Ok(broadcast) => reconcile_valid(broadcast, &context).await,
            Err(invalid) => {
                tracing::warn!(broadcast = %object.name_any(), error = %invalid.error, "a Broadcast cannot be read");
                context.metrics.unreadable.inc();
                report_unreadable(&object, &context).await;
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

async fn reconcile_valid(broadcast: &Broadcast, context: &Context) -> Result<Action, Error> {
    if is_paused(broadcast) {
        write_conditions(broadcast, observe::key_in(broadcast), context).await?;
        return Ok(Action::await_change());
    }
    match disposal::next(broadcast) {
        Disposal::End(owner) => {
            close(broadcast, owner, Reason::Stopped, context).await?;
            return Ok(Action::await_change());
        }
        Disposal::Release | Disposal::Delete if is_held(broadcast, context).await? => {
            return Ok(Action::await_change()); // its recordings wake it when they are told of, or gone
        }
        Disposal::Release => {
            return match context.store.release(broadcast).await {
                Ok(()) | Err(ledger::Error::Conflict) => Ok(Action::await_change()),
                Err(source) => Err(Error::Release { source }),
            };
        }
        Disposal::Delete => {
            return match context.store.delete_unchanged(broadcast).await {
                Ok(()) | Err(ledger::Error::NotFound | ledger::Error::Conflict) => Ok(Action::await_change()),
                Err(source) => Err(Error::Delete { source }),
            };
        }
        Disposal::None => {}
    }
    if broadcast.metadata.deletion_timestamp.is_none() && !broadcast.finalizers().iter().any(|f| f == HOOKS_FINALIZER) {
        context.store.hold(broadcast).await.map_err(|source| Error::Hold { source })?;
    }
    close_if_lost(broadcast, context).await?;
    let session = broadcast.status_or_default().session;
    let awaited = context.awaited(broadcast);
    if let (Some(away), Some(Duration::ZERO)) = (&session.away, awaited) {
        expire(broadcast, Owner::of(&session), away, context).await?;
        return Ok(Action::await_change());
    }
    let key_state = key::sync(broadcast, context).await?;
    write_conditions(broadcast, key_state, context).await?;
    let recheck = match key_state {
        StreamKey::NotAsked => None,
        StreamKey::Known => Some(KEY_RECHECK),
        StreamKey::Absent | StreamKey::Forbidden => Some(Duration::from_secs(30)),
    };
    Ok(awaited.into_iter().chain(recheck).min().map_or_else(Action::await_change, Action::requeue))
}

/// Whether a recording will still be told of. Asked of the API server: one may have begun that the cache does not know.
async fn is_held(broadcast: &Broadcast, context: &Context) -> Result<bool, Error> {
    if !disposal::may_be_held(broadcast) {
        return Ok(false);
    }
    let key = Key::of(broadcast);
    match context.store.recordings_of(&key.namespace, Some(&key.name)).await {
        Ok(recordings) => Ok(disposal::holds(broadcast, &recordings)),
        // The kind is not served, or these are the roles of a release before recordings: there are none.
        Err(ledger::Error::NotFound | ledger::Error::Forbidden { .. }) => Ok(false),
        Err(source) => Err(Error::ReadRecordings { source }),
    }
}

/// Ends the session of a publisher that did not come back in time.
async fn expire(broadcast: &Broadcast, owner: Owner, away: &Away, context: &Context) -> Result<(), Error> {
    if close(broadcast, owner, away.reason, context).await? {
        context.metrics.sessions_expired.inc();
    }
    Ok(())
}

/// Ends the session of a node that is lost, or lets it wait for its publisher when the pool has a reconnect window. The node
/// itself is fenced off by the new epoch.
async fn close_if_lost(broadcast: &Broadcast, context: &Context) -> Result<(), Error> {
    let session = broadcast.status_or_default().session;
    let (SessionState::Open, Some(node)) = (session.state, session.node.as_deref()) else { return Ok(()) };
    let node = Key { namespace: broadcast.namespace().unwrap_or_default(), name: node.to_owned() };
    let lost = {
        let mut nodes = context.nodes.lock();
        nodes.expect(&node, Instant::now());
        nodes.is_lost(&node)
    };
    if !lost {
        return Ok(());
    }
    let window =
        context.pools.get(&node.namespace, &broadcast.spec.pool).map_or(0, |p| p.spec.reconnect_window_seconds);
    let away = (window > 0).then(|| {
        let since = now();
        let until = since.saturating_add(SignedDuration::from_secs(window.into())).unwrap_or(since);
        Away { since, until, reason: Reason::NodeLost }
    });
    match &away {
        Some(away) => park(broadcast, Owner::of(&session), away, context).await?,
        None => {
            close(broadcast, Owner::of(&session), Reason::NodeLost, context).await?;
        }
    }
    context.events.node_lost(broadcast, &node.name, away.map(|away| away.until)).await;
    Ok(())
}

async fn park(broadcast: &Broadcast, owner: Owner, away: &Away, context: &Context) -> Result<(), Error> {
    match commit(&context.store, broadcast, &Input::Park { owner, away: away.clone() }).await {
        Ok(Committed::Done(_)) => {
            context.metrics.sessions_parked.inc();
            let (key, reason) = (Key::of(broadcast), away.reason.as_str());
            tracing::info!(broadcast = %key, session = owner.ordinal, reason, until = %away.until, "session.parked");
            Ok(())
        }
        // The node ended or parked it meanwhile, or the Broadcast is gone.
        Ok(Committed::Rejected(_) | Committed::Gone) => Ok(()),
        Err(source) => Err(Error::ParkSession { source }),
    }
}

/// Ends a session whose owner does not. Says whether it did.
async fn close(broadcast: &Broadcast, owner: Owner, reason: Reason, context: &Context) -> Result<bool, Error> {
    let input = Input::Close { owner, reason, time: now() };
    match commit(&context.store, broadcast, &input).await {
        Ok(Committed::Done(_)) => {
            tracing::info!(broadcast = %Key::of(broadcast), session = owner.ordinal, ?reason, "session.closed");
            Ok(true)
        }
        // The node ended it meanwhile, or the Broadcast is gone: there is nothing left to end.
        Ok(Committed::Rejected(_) | Committed::Gone) => Ok(false),
        Err(source) => Err(Error::EndSession { source }),
    }
}

async fn write_conditions(broadcast: &Broadcast, key: StreamKey, context: &Context) -> Result<(), Error> {
    let status = broadcast.status_or_default();
    // That all is well is said with the next acknowledgement, and is worth no write of its own.
    let was_in_trouble = observe::is_in_trouble(&status);
    let recorded = context.recordings.recorded(broadcast).filter(|now| *now != Recorded::Well || was_in_trouble);
    let around = Surroundings { pool: context.pool_of(broadcast), key, recorded };
    let Some(operations) = observe::patch(broadcast, &status, around, now()) else { return Ok(()) };
    // The conditions speak of this state of the ledger: a later one brings its own.
    let guard = ledger::unchanged(&status);
    let patch = json_patch::Patch(guard.0.into_iter().chain(operations).collect());
    let uid = broadcast.uid().unwrap_or_default();
    match context.store.patch_status(&Key::of(broadcast), &uid, &patch).await {
        Ok(_) | Err(ledger::Error::NotFound | ledger::Error::Conflict) => Ok(()), // a conflict: the change wakes us again
        Err(source) => Err(Error::WriteConditions { source }),
    }
}

/// Says in `Accepted` that this version cannot read the object; once a generation, since its own write does not wake it.
async fn report_unreadable(object: &Guarded, context: &Context) {
    let key = Key { namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
    let generation = kube::Resource::meta(object).generation;
    let patch = observe::unreadable(generation, now());
    let uid = object.uid().unwrap_or_default();
    if let Err(error) = context.store.patch_status(&key, &uid, &patch).await {
        // The answer cannot be read either, and that is no failure of the write.
        tracing::debug!(broadcast = %key, %error, "the answer to a condition of an unreadable Broadcast");
    }
}

/// The time that is written down: whole milliseconds, which is what receivers are told.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
