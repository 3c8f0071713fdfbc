//! Opens and ends sessions in the store, for all publishers of this node.
//!
//! A claim that nobody waits for any more is looked up and, if it was made, ended. An end is tried until it is durable;
//! while the store is away it waits in the ends log, also through a restart. What others do to our sessions arrives
//! through [`Claims::observe`] and reaches their publishers.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use ledger::{Claim, Committed, Error, Input, Key, Owner, Rejection, Store};
use media_core::broadcast::Denied;
use tallylight_crds::{Away, Broadcast, Protocol, Reason, SessionState};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout},
};
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use crate::{
    ends_log::{End, EndsLog},
    metrics::Metrics,
};

mod note;
mod retry;
mod windows;

use retry::ATTEMPT;
pub(crate) use retry::Backoff;
pub use windows::Windows;

/// An end that takes longer goes to the log. The attempt goes on: a slow store answers when it does.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// Refusals of an end of an earlier life before the node goes on without it: about 20 s. An API server that has just
/// started forbids everything for a second.
const REFUSALS: u32 = 8;

/// Who this node is in the store.
#[derive(Debug, Clone)]
pub struct Identity {
    pub namespace: String,
    pub node: String,
    /// Where other nodes reach this one.
    pub address: Option<String>,
    /// How long sessions wait for their publishers.
    pub windows: Windows,
}

/// How sessions of an earlier life of this node are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    /// With a raised epoch, as an operator does: standalone.
    Close,
    /// With the session's own epoch: the policy allows a pod no other.
    End,
}

/// What somebody else did to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// It was closed; the publisher may be claimed anew.
    Fenced,
    /// Its Broadcast was deleted.
    Stopped,
    /// This node drains: the publisher is to find another.
    Leave,
}

/// What becomes of a session that a publisher of this node had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// It ends.
    Ended,
    /// It waits for its publisher, at whatever node.
    Parked,
}

/// A session on air. Ending consumes it.
#[derive(Debug)]
pub struct OnAir {
    known: Box<Broadcast>,
    owner: Owner,
    resumed: bool,
}

/// Claims and ends. Clones share them.
#[derive(Debug)]
pub struct Claims<S>(Arc<Inner<S>>);

impl<S> Clone for Claims<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Inner<S> {
    store: S,
    identity: Identity,
    log: EndsLog,
    metrics: Metrics,
    state: Mutex<State>,
    /// An end or an abandoned claim was settled.
    settled: Notify,
    /// A publisher has let go of its Broadcast.
    freed: Notify,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<Key, Held>,
    /// Broadcasts with an end or a lookup under way.
    settling: HashSet<Key>,
}

/// A Broadcast that a publisher of this node has, or is about to have.
#[derive(Debug)]
struct Held {
    uid: String,
    /// `None` while the claim is under way.
    owner: Option<Owner>,
    /// What was observed meanwhile: it may be newer than the claim's answer.
    meanwhile: Option<Observed>,
    control: mpsc::Sender<Control>,
}

/// A Broadcast as it is in the store.
#[derive(Debug, Clone)]
enum Observed {
    There(Box<Broadcast>),
    Gone,
}

impl OnAir {
    /// The Broadcast as the claim left it.
    #[must_use]
    pub fn broadcast(&self) -> &Broadcast {
        &self.known
    }

    /// Whether the session has had a publisher before this one.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Number of this session among the Broadcast's.
    #[must_use]
    pub fn ordinal(&self) -> i64 {
        self.owner.ordinal
    }
}

impl<S: Store> Claims<S> {
    /// Opens the ends log in `folder`, and returns what is needed to recover from an earlier life.
    ///
    /// # Errors
    /// When the log cannot be opened.
    pub fn open(store: S, identity: Identity, folder: &Path, metrics: Metrics) -> std::io::Result<(Self, Recovery<S>)> {
        let (log, ends) = EndsLog::open(folder)?;
        let inner = Inner {
            store,
            identity,
            log,
            metrics,
            state: Mutex::default(),
            settled: Notify::new(),
            freed: Notify::new(),
            tasks: TaskTracker::new(),
        };
        let claims = Self(Arc::new(inner));
        Ok((claims.clone(), Recovery { claims, ends }))
    }

    /// What sessions are kept in.
    pub(crate) fn store(&self) -> &S {
        &self.0.store
    }

    /// Who this node is in the store.
    pub(crate) fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Opens a session of `known` for a publisher whose first media came at `time`. It tries until it is dropped; dropped
    /// before its answer, the claim is looked up and ended.
    ///
    /// # Errors
    /// When there is no session for this publisher.
    pub async fn claim(
        &self,
        known: &Broadcast,
        protocol: Protocol,
        time: Timestamp,
        control: mpsc::Sender<Control>,
    ) -> Result<OnAir, Denied> {
        let started = Instant::now();
        let key = Key::of(known);
        self.settled(&key).await;
        let attempt = Attempt::start(self, known, control);
        let claim = Claim {
            id: attempt.claim_id.clone(),
            node: self.0.identity.node.clone(),
            address: self.0.identity.address.clone(),
            protocol,
            time,
        };
        let committed = self.commit(known, &Input::Claim(claim)).await;
        attempt.answered();
        let denied = match committed {
            Ok(Committed::Done(broadcast)) => {
                let session = broadcast.status_or_default().session;
                let owner = Owner::of(&session);
                self.hold(&key, owner);
                self.0.metrics.session_started(started.elapsed().as_secs_f64());
                let resumed = session.start_time != Some(time);
                if resumed {
                    self.0.metrics.session_resumed();
                    info!(broadcast = %key, session = owner.ordinal, "session.resumed");
                }
                return Ok(OnAir { known: broadcast, owner, resumed });
            }
            Ok(Committed::Rejected(rejection)) => denied(&key, &rejection),
            Ok(Committed::Gone) => Denied::Gone,
            Err(error) => {
                error!(broadcast = %key, %error, "the store refuses a claim");
                Denied::Unavailable
            }
        };
        self.free(&key);
        if denied == Denied::OnAir {
            self.look_again(key);
        }
        Err(denied)
    }

    /// Reads a Broadcast anew and takes note of it: if the session on air is this node's, nobody has it.
    fn look_again(&self, key: Key) {
        let claims = self.clone();
        self.0.tasks.spawn(async move {
            match timeout(ATTEMPT, claims.0.store.get(&key)).await {
                Ok(Ok(Some(broadcast))) => claims.observe(&broadcast),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => debug!(broadcast = %key, %error, "failed to look at a Broadcast again"),
                Err(_elapsed) => debug!(broadcast = %key, "the store does not answer"),
            }
        });
    }

    /// Ends a session, or leaves it to wait for its publisher: now in memory, durably in the background, and
    /// [`settled`](Self::settled) then.
    pub fn end(&self, session: OnAir, reason: Reason, time: Timestamp) -> Farewell {
        let key = Key::of(&session.known);
        self.release(&key);
        let end = self.make_end(&session.known, session.owner, reason, time);
        let farewell = if end.until.is_some() { Farewell::Parked } else { Farewell::Ended };
        let claims = self.clone();
        self.0.tasks.spawn(async move { claims.end_durably(end, Some(session.known)).await });
        farewell
    }

    /// Lets go of a session that somebody else has ended.
    pub fn forget(&self, session: OnAir) {
        let key = Key::of(&session.known);
        self.free(&key);
        self.0.metrics.session_over();
        drop(session);
    }

    /// Asks the publisher of a Broadcast to leave.
    pub(crate) fn ask_to_leave(&self, key: &Key) {
        if let Some(held) = self.state().held.get(key) {
            // A full channel holds a control already: it is asked again.
            let _told = held.control.try_send(Control::Leave);
        }
    }

    /// Waits until publishers of this node have no Broadcast any more.
    pub(crate) async fn idle(&self) {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.state().held.is_empty() {
                return;
            }
            freed.await;
        }
    }

    /// Waits until no end of this node is under way for the Broadcast.
    pub async fn settled(&self, key: &Key) {
        loop {
            let notified = self.0.settled.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if !self.state().settling.contains(key) {
                return;
            }
            notified.await;
        }
    }

    /// The session of a publisher of this node that is on air: its Broadcast's UID, and which one it is.
    #[must_use]
    pub fn on_air(&self, key: &Key) -> Option<(String, Owner)> {
        let state = self.state();
        let held = state.held.get(key)?;
        Some((held.uid.clone(), held.owner?))
    }

    /// Takes note of a Broadcast as it now is in the store.
    pub fn observe(&self, broadcast: &Broadcast) {
        let key = Key::of(broadcast);
        let session = broadcast.status_or_default().session;
        let mut state = self.state();
        if let Some(held) = state.held.get_mut(&key) {
            return held.observe(|| Observed::There(Box::new(broadcast.clone())));
        }
        let ours = session.state == SessionState::Open && session.node.as_ref() == Some(&self.0.identity.node);
        if ours && !state.settling.contains(&key) {
            drop(state);
            self.end_orphan(broadcast, session.id.unwrap_or_default());
        }
    }

    /// Takes note that a Broadcast is gone.
    pub fn observe_gone(&self, key: &Key) {
        if let Some(held) = self.state().held.get_mut(key) {
            held.observe(|| Observed::Gone);
        }
    }

    /// The Broadcasts that publishers of this node have.
    #[must_use]
    pub fn held(&self) -> Vec<Key> {
        self.state().held.keys().cloned().collect()
    }

    /// Waits until every end is durable, or the deadline; what is not by then stays in the ends log.
    pub async fn drain(&self, deadline: Instant) -> bool {
        self.0.tasks.close();
        tokio::time::timeout_at(deadline, self.0.tasks.wait()).await.is_ok()
    }

    /// Commits until the store answers.
    async fn commit(&self, known: &Broadcast, input: &Input) -> Result<Committed, Error> {
        let mut backoff = Backoff::for_claims();
        loop {
            match ledger::commit(&self.0.store, known, input).await {
                // an API server that has just started forbids what it will allow in a second
                Err(error @ (Error::Unavailable { .. } | Error::Forbidden { .. })) => {
                    self.0.metrics.store_error();
                    if matches!(error, Error::Forbidden { .. }) {
                        warn!(broadcast = %Key::of(known), %error, "the store refuses a claim; it is tried again");
                    } else {
                        debug!(broadcast = %Key::of(known), %error, "the store does not answer a claim");
                    }
                    sleep(backoff.next()).await;
                }
                answer => return answer,
            }
        }
    }

    fn make_end(&self, broadcast: &Broadcast, owner: Owner, reason: Reason, time: Timestamp) -> End {
        let uid = broadcast.metadata.uid.clone().unwrap_or_default();
        let until = self.0.identity.windows.awaited(broadcast, reason, time);
        End { key: Key::of(broadcast), uid, owner, reason, time, until }
    }

    async fn end_durably(&self, end: End, mut known: Option<Box<Broadcast>>) {
        let (mut backoff, mut logged) = (Backoff::for_ends(), Logged::No);
        loop {
            let attempt = timeout(backoff.attempt(), self.try_end(&end, known.take(), Leftovers::End));
            let mut attempt = std::pin::pin!(attempt);
            let answer = match timeout(END_PATIENCE, &mut attempt).await {
                Ok(answer) => answer,
                Err(slow) => {
                    logged = self.log_end(&end, &Error::Unavailable { source: slow.into() }, logged).await;
                    attempt.await
                }
            };
            let failure = match answer {
                Ok(Ok(())) => break,
                Ok(Err(error)) => error,
                Err(elapsed) => Error::Unavailable { source: elapsed.into() },
            };
            self.0.metrics.store_error();
            logged = self.log_end(&end, &failure, logged).await;
            sleep(backoff.next()).await;
        }
        if logged == Logged::Yes
            && let Err(error) = self.0.log.settle(&end).await
        {
            warn!(broadcast = %end.key, %error, "failed to clear a settled end from the ends log");
        }
        self.settle(&end.key);
    }

    /// Puts an end into the log, unless it is there.
    async fn log_end(&self, end: &End, failure: &Error, logged: Logged) -> Logged {
        if logged == Logged::Yes {
            return logged;
        }
        let ordinal = end.owner.ordinal;
        match self.0.log.append(end).await {
            Ok(()) => {
                warn!(
                    broadcast = %end.key,
                    session = ordinal,
                    error = failure as &dyn std::error::Error,
                    "the store does not take a session's end: it waits in the ends log"
                );
                Logged::Yes
            }
            Err(error) => {
                error!(broadcast = %end.key, session = ordinal, %error, "failed to log a session's end");
                Logged::No
            }
        }
    }

    /// Tries to end once. An end that somebody else has written settles it too.
    async fn try_end(&self, end: &End, known: Option<Box<Broadcast>>, how: Leftovers) -> Result<(), Error> {
        let known = match known {
            Some(known) => Some(known),
            None => self.0.store.get(&end.key).await?.map(Box::new),
        };
        let Some(known) = known.filter(|b| b.metadata.uid.as_ref() == Some(&end.uid)) else {
            debug!(broadcast = %end.key, "the Broadcast of an end is gone");
            return Ok(());
        };
        let (owner, reason, time) = (end.owner, end.reason, end.time);
        let until = end.until.filter(|until| Timestamp::now() < *until);
        let input = match (until, how) {
            (Some(until), _) => Input::Park { owner, away: Away { since: time, until, reason } },
            (None, Leftovers::Close) => Input::Close { owner, reason, time },
            (None, Leftovers::End) => Input::End { owner, reason, time },
        };
        match ledger::commit(&self.0.store, &known, &input).await? {
            Committed::Done(_) if until.is_some() => {
                self.0.metrics.session_parked(reason);
                info!(broadcast = %end.key, session = owner.ordinal, reason = reason.as_str(), "session.parked");
            }
            Committed::Done(_) => {
                self.0.metrics.session_ended(reason);
                info!(broadcast = %end.key, session = owner.ordinal, reason = reason.as_str(), "session.ended");
            }
            Committed::Rejected(rejection) => {
                info!(broadcast = %end.key, session = owner.ordinal, %rejection, "somebody else has ended the session");
            }
            Committed::Gone => debug!(broadcast = %end.key, "the Broadcast of an end is gone"),
        }
        Ok(())
    }

    /// Ends a session of this node that no publisher has: a claim that came through after it was given up.
    fn end_orphan(&self, broadcast: &Broadcast, claim_id: String) {
        let (key, uid) = (Key::of(broadcast), broadcast.metadata.uid.clone().unwrap_or_default());
        self.begin_settling(&key);
        let claims = self.clone();
        self.0.tasks.spawn(async move { claims.settle_claim(key, uid, claim_id).await });
    }

    /// Finds out what became of a claim, and ends it if it was made.
    async fn settle_claim(&self, key: Key, uid: String, claim_id: String) {
        let mut backoff = Backoff::for_ends();
        let found = loop {
            match timeout(backoff.attempt(), self.0.store.get(&key)).await {
                Ok(Ok(found)) => break found,
                Ok(Err(error)) => debug!(broadcast = %key, %error, "failed to look up a claim"),
                Err(_elapsed) => debug!(broadcast = %key, "the store does not answer the look-up of a claim"),
            }
            self.0.metrics.store_error();
            sleep(backoff.next()).await;
        };
        let made = found.filter(|broadcast| {
            let session = broadcast.status_or_default().session;
            let same = broadcast.metadata.uid.as_ref() == Some(&uid) && session.id.as_ref() == Some(&claim_id);
            same && session.state == SessionState::Open
        });
        let Some(broadcast) = made else {
            return self.settle(&key);
        };
        warn!(broadcast = %key, "ending a session without a publisher");
        let owner = Owner::of(&broadcast.status_or_default().session);
        let end = self.make_end(&broadcast, owner, Reason::PublisherLost, Timestamp::now());
        self.end_durably(end, Some(Box::new(broadcast))).await;
    }

    fn hold(&self, key: &Key, owner: Owner) {
        if let Some(held) = self.state().held.get_mut(key) {
            held.owner = Some(owner);
            if let Some(meanwhile) = held.meanwhile.take() {
                held.observe(|| meanwhile);
            }
        }
    }

    fn release(&self, key: &Key) {
        self.begin_settling(key);
        self.free(key);
        self.0.metrics.session_over();
    }

    fn free(&self, key: &Key) {
        self.state().held.remove(key);
        self.0.freed.notify_waiters();
    }

    fn begin_settling(&self, key: &Key) {
        let mut state = self.state();
        state.settling.insert(key.clone());
        self.0.metrics.set_ends_waiting(state.settling.len());
    }

    fn settle(&self, key: &Key) {
        let mut state = self.state();
        state.settling.remove(key);
        self.0.metrics.set_ends_waiting(state.settling.len());
        drop(state);
        self.0.settled.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an end is in the ends log.
#[derive(Clone, Copy, PartialEq)]
enum Logged {
    Yes,
    No,
}

fn denied(key: &Key, rejection: &Rejection) -> Denied {
    match rejection {
        Rejection::OnAir { node } => {
            info!(broadcast = %key, node, "claim refused: another publisher is on air");
            Denied::OnAir
        }
        Rejection::LedgerFull => Denied::LedgerFull,
        Rejection::Fenced | Rejection::NotAppended | Rejection::NoSuchSession => {
            warn!(broadcast = %key, %rejection, "claim refused");
            Denied::Unavailable
        }
    }
}

impl Held {
    /// Tells the publisher what others did to its session. While the claim is under way nobody can say whose session it is.
    fn observe(&mut self, observed: impl FnOnce() -> Observed) {
        let Some(owner) = self.owner else {
            self.meanwhile = Some(observed());
            return;
        };
        let control = match observed() {
            Observed::There(broadcast) => self.verdict(&broadcast, owner),
            Observed::Gone => Some(Control::Stopped),
        };
        if let Some(control) = control {
            // A full channel holds a control already, and a closed one has no publisher.
            let _told = self.control.try_send(control);
        }
    }

    /// What a Broadcast in the store means for the publisher that holds it.
    fn verdict(&self, broadcast: &Broadcast, owner: Owner) -> Option<Control> {
        if broadcast.metadata.uid.as_ref() != Some(&self.uid) {
            return Some(Control::Stopped);
        }
        let session = broadcast.status_or_default().session;
        let seen = Owner::of(&session);
        let is_old = (seen.ordinal, seen.epoch) < (owner.ordinal, owner.epoch);
        let is_ours = seen == owner && session.state == SessionState::Open;
        if is_old || is_ours {
            return None;
        }
        let deleted = broadcast.metadata.deletion_timestamp.is_some();
        Some(if deleted { Control::Stopped } else { Control::Fenced })
    }
}

/// A claim under way. Dropped without an answer, it is looked up.
struct Attempt<'a, S: Store> {
    claims: &'a Claims<S>,
    key: Key,
    uid: String,
    claim_id: String,
    answered: bool,
}

impl<'a, S: Store> Attempt<'a, S> {
    fn start(claims: &'a Claims<S>, known: &Broadcast, control: mpsc::Sender<Control>) -> Self {
        let uid = known.metadata.uid.clone().unwrap_or_default();
        let claim_id = uuid::Uuid::new_v4().to_string();
        let key = Key::of(known);
        let held = Held { uid: uid.clone(), owner: None, meanwhile: None, control };
        claims.state().held.insert(key.clone(), held);
        Self { claims, key, uid, claim_id, answered: false }
    }

    fn answered(mut self) {
        self.answered = true;
    }
}

impl<S: Store> Drop for Attempt<'_, S> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        self.claims.begin_settling(&self.key);
        self.claims.free(&self.key);
        let claims = self.claims.clone();
        let (key, uid, claim_id) = (self.key.clone(), self.uid.clone(), self.claim_id.clone());
        self.claims.0.tasks.spawn(async move { claims.settle_claim(key, uid, claim_id).await });
    }
}

/// What an earlier life of this node has left behind.
#[derive(Debug)]
pub struct Recovery<S> {
    claims: Claims<S>,
    ends: Vec<End>,
}

impl<S: Store> Recovery<S> {
    /// Ends what is still open of an earlier life: first the sessions in the ends log with their own times, then all
    /// others with the reason `NodeLost`. Returns when the store has everything.
    pub async fn run(self, how: Leftovers) {
        let claims = &self.claims;
        for end in self.ends {
            info!(broadcast = %end.key, session = end.owner.ordinal, time = %end.time, "replaying a session's end");
            claims.replay(&end).await;
        }
        let mut backoff = Backoff::for_ends();
        while let Err(error) = claims.end_leftovers(how).await {
            warn!(
                error = &error as &dyn std::error::Error,
                "failed to end the sessions of an earlier life; it is tried again"
            );
            claims.0.metrics.store_error();
            sleep(backoff.next()).await;
        }
    }
}

impl<S: Store> Claims<S> {
    /// Writes an end of an earlier life. One that the store refuses for good stays in the log, for a person to look at.
    async fn replay(&self, end: &End) {
        let (mut backoff, mut refusals) = (Backoff::for_ends(), 0);
        loop {
            match timeout(backoff.attempt(), self.try_end(end, None, Leftovers::End)).await {
                Ok(Ok(())) => break,
                Ok(Err(error @ (Error::Invalid { .. } | Error::Forbidden { .. }))) if refusals == REFUSALS => {
                    return error!(broadcast = %end.key, %error, "the store refuses an end of the ends log; it stays there");
                }
                Ok(Err(error)) => {
                    refusals += u32::from(!matches!(error, Error::Unavailable { .. }));
                    debug!(broadcast = %end.key, %error, "failed to replay an end");
                }
                Err(_elapsed) => debug!(broadcast = %end.key, "the store does not answer the replay of an end"),
            }
            self.0.metrics.store_error();
            sleep(backoff.next()).await;
        }
        if let Err(error) = self.0.log.settle(end).await {
            warn!(broadcast = %end.key, %error, "failed to clear a settled end from the ends log");
        }
    }

    async fn end_leftovers(&self, how: Leftovers) -> Result<(), Error> {
        let Identity { namespace, node, .. } = &self.0.identity;
        for broadcast in self.0.store.sessions_of(namespace, node).await? {
            let session = broadcast.status_or_default().session;
            if session.state == SessionState::Open {
                let end = self.make_end(&broadcast, Owner::of(&session), Reason::NodeLost, Timestamp::now());
                self.try_end(&end, Some(Box::new(broadcast)), how).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
