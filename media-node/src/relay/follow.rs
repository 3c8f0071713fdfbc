//! Follows one stream for the viewers of this node: looks its Broadcast up, takes its packets from where it is on air, and
//! looks again when they end. Viewers see one stream, whatever moves.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use ledger::{Key, Owner, Store};
use media_core::{
    Packet,
    fanout::{Batch, Read},
    splice::{Source, Splice},
    wire::Record,
};
use tallylight_crds::{Broadcast, SessionState};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::{
    Relayed, Relays, State,
    client::Pull,
    token::{Grant, LIFETIME_SECONDS},
};
use crate::{
    hub::{Name, Stream},
    metrics::RefusalReason,
    packager,
};

/// Longest wait for the store.
const LOOK_UP: Duration = Duration::from_secs(3);

/// Pauses before a stream is looked for again double from the first to the longest. The first is about what an end takes to
/// be durable.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Looks for a stream in a row, 40 s in all: a lost node's sessions are ended after 15 s of its silence.
const ATTEMPTS: u32 = 24;
/// A source that flowed for this long was a good one: attempts count anew.
const STEADY: Duration = Duration::from_secs(10);

/// How often it is asked what became of a publisher that is away.
const PARKED: Duration = Duration::from_secs(1);

/// One read of a ring of this node.
const BATCH: Batch = Batch { packets: 256, bytes: usize::MAX };

/// Where a stream is.
pub(super) enum Found {
    /// On air nowhere, and it will not come back by itself.
    Nowhere,
    Elsewhere(Session, String),
    /// On air on this node.
    Here(Session),
    /// Its publisher is away, and awaited: until the store says otherwise, the stream goes on.
    Away,
    /// The store does not say, or its address is none.
    Unknown,
}

/// A session on air, wherever it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) uid: String,
    pub(super) owner: Owner,
    pub(super) node: String,
}

impl Session {
    fn is(&self, other: &Self) -> bool {
        (&self.uid, self.owner, &self.node) == (&other.uid, other.owner, &other.node)
    }
}

/// Looks for a stream in a row.
#[derive(Debug, Default)]
struct Attempts(u32);

impl Attempts {
    /// The pause before the next one; `None` when there were enough.
    fn next(&mut self) -> Option<Duration> {
        if self.0 >= ATTEMPTS {
            return None;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.0.min(16)).min(LONGEST_PAUSE);
        self.0 += 1;
        Some(pause)
    }
}

/// What a relay's ring is fed with.
struct Feed<'a> {
    stream: &'a Stream,
    splice: Splice,
    session: Option<Session>,
    newest: Option<Instant>,
}

impl<'a> Feed<'a> {
    /// Begins where the stream is: its viewers may have had a publisher of this node.
    fn of(stream: &'a Stream) -> Self {
        let mut feed = Self { stream, splice: Splice::default(), session: None, newest: None };
        let (mut packets, mut items) = (stream.subscribe(), Vec::new());
        feed.splice.begin(Source::Other, Duration::ZERO);
        while packets.read(BATCH, &mut items) == Read::Some {
            for item in items.drain(..) {
                let Packet { track, role, payload, .. } = &*item.packet;
                let _known = feed.splice.place(Packet::new(*track, item.time, *role, payload.clone()));
                feed.newest = Some(Instant::now());
            }
        }
        feed
    }

    fn begin(&mut self, session: &Session) {
        let same = self.session.as_ref().is_some_and(|before| before.is(session));
        let gap = self.newest.map_or(Duration::ZERO, |newest| newest.elapsed());
        self.splice.begin(if same { Source::Same } else { Source::Other }, gap);
        self.session = Some(session.clone());
    }

    fn push(&mut self, packet: Packet) {
        if let Some(packet) = self.splice.place(packet) {
            self.newest = Some(Instant::now());
            self.stream.push(packet);
        }
    }
}

impl<S: Store> Relays<S> {
    /// Feeds the stream until there is no more of it; says why then.
    pub(super) async fn follow(&self, relayed: &Relayed) -> RefusalReason {
        let mut feed = Feed::of(&relayed.stream);
        let (mut attempts, mut waits) = (Attempts::default(), Attempts::default());
        loop {
            let flowed = match self.look_up(&relayed.name).await {
                Found::Nowhere => return RefusalReason::NotLive,
                Found::Elsewhere(session, address) => self.pull(relayed, &session, &address, &mut feed).await,
                Found::Here(session) => self.copy(relayed, &session, &mut feed).await,
                Found::Unknown => Duration::ZERO,
                Found::Away => {
                    attempts = Attempts::default();
                    sleep(waits.next().unwrap_or(LONGEST_PAUSE)).await;
                    continue;
                }
            };
            if !flowed.is_zero() {
                waits = Attempts::default();
            }
            if flowed >= STEADY {
                attempts = Attempts::default();
            }
            match attempts.next() {
                Some(pause) => sleep(pause).await,
                None => {
                    warn!(app = relayed.name.app, stream = %relayed.name.id, "a stream that is on air could not be pulled");
                    return RefusalReason::NotRelayed;
                }
            }
        }
    }

    /// Finds out, until the node shuts down, what becomes of the publishers that muxings of this node await.
    pub(super) async fn watch_parked(self) {
        while let Some(names) = self.0.shutdown.run_until_cancelled(self.0.packagers.parked()).await {
            for name in names {
                match self.look_up(&name).await {
                    Found::Nowhere => self.0.packagers.settle(&name, packager::State::Ended),
                    Found::Elsewhere(..) => self.0.packagers.settle(&name, packager::State::GivenUp),
                    // a muxing learns of a publisher of this node by itself
                    Found::Here(_) | Found::Away | Found::Unknown => {}
                }
            }
            let _shutting_down = self.0.shutdown.run_until_cancelled(sleep(PARKED)).await;
        }
    }

    pub(super) async fn look_up(&self, name: &Name) -> Found {
        let Ok(_permit) = self.0.look_ups.acquire().await else {
            return Found::Unknown; // the semaphore is never closed
        };
        let key = Key::of_stream(&self.0.place.namespace, &name.id);
        match timeout(LOOK_UP, self.0.place.store.get(&key)).await {
            Ok(Ok(Some(broadcast))) => self.judge(name, &broadcast),
            Ok(Ok(None)) => Found::Nowhere,
            Ok(Err(error)) => {
                debug!(broadcast = %key, %error, "failed to look a stream up");
                Found::Unknown
            }
            Err(_elapsed) => {
                debug!(broadcast = %key, "the store does not say where a stream is");
                Found::Unknown
            }
        }
    }

    fn judge(&self, name: &Name, broadcast: &Broadcast) -> Found {
        let session = broadcast.status_or_default().session;
        let ours = self.0.apps.pool(&name.app).as_ref() == Some(&broadcast.spec.pool);
        if !ours || !broadcast.carries(&name.id) || session.state != SessionState::Open {
            return Found::Nowhere;
        }
        if session.away.is_some() {
            return Found::Away;
        }
        let owner = Owner::of(&session);
        let (Some(uid), Some(node)) = (broadcast.metadata.uid.clone(), session.node) else {
            return Found::Unknown;
        };
        let found = Session { uid, owner, node };
        if found.node == self.0.place.node {
            return Found::Here(found);
        }
        match session.address {
            Some(address) => Found::Elsewhere(found, address),
            None => Found::Unknown,
        }
    }

    /// Takes the packets of another node until they end; says for how long they came.
    async fn pull(&self, relayed: &Relayed, session: &Session, address: &str, feed: &mut Feed<'_>) -> Duration {
        let Some(key) = &self.0.key else { return Duration::ZERO }; // it came back to another node of a pool without a key
        let _counted = self.0.metrics.pulling();
        let grant = Grant {
            uid: session.uid.clone(),
            session: session.owner,
            node: self.0.place.node.clone(),
            expires: Timestamp::now().as_second() + LIFETIME_SECONDS,
        };
        let (name, from) = (&relayed.name, &session.node);
        let mut pull = match Pull::open(address, name, &key.sign(&grant), &self.0.metrics).await {
            Ok(pull) => pull,
            Err(error) => {
                self.0.metrics.failed(error.failure());
                debug!(app = name.app, stream = %name.id, from, error = &error as &dyn std::error::Error, "failed to pull");
                return Duration::ZERO;
            }
        };
        let started = Instant::now();
        feed.begin(session);
        info!(app = name.app, stream = %name.id, from, session = session.owner.ordinal, "relay.started");
        relayed.flows();
        loop {
            match pull.next().await {
                Ok(Record::Packet(packet)) => feed.push(packet),
                Ok(Record::Silence | Record::Unknown) => {}
                Ok(Record::End) => break,
                Err(error) => {
                    self.0.metrics.failed(error.failure());
                    info!(app = name.app, stream = %name.id, from, error = &error as &dyn std::error::Error, "the pull broke");
                    break;
                }
            }
        }
        started.elapsed()
    }

    /// Takes the packets of a publisher that has come to this node, for those who watch already.
    async fn copy(&self, relayed: &Relayed, session: &Session, feed: &mut Feed<'_>) -> Duration {
        let Some((stream, mut packets)) = self.0.hub.subscribe(&relayed.name) else {
            return Duration::ZERO;
        };
        let started = Instant::now();
        feed.begin(session);
        relayed.flows();
        let mut items = Vec::new();
        loop {
            let source = Arc::clone(&stream);
            let mut more = std::pin::pin!(source.more().notified());
            more.as_mut().enable();
            let is_published = source.is_published();
            match packets.read(BATCH, &mut items) {
                Read::Some => {
                    for item in items.drain(..) {
                        let Packet { track, role, payload, .. } = &*item.packet;
                        feed.push(Packet::new(*track, item.time, *role, payload.clone()));
                    }
                }
                Read::UpToDate if is_published => more.await,
                Read::UpToDate | Read::Ended => return started.elapsed(),
            }
        }
    }
}

impl Relayed {
    fn flows(&self) {
        self.state.send_replace(State::Flowing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_looked_for_40_s() {
        let mut attempts = Attempts::default();
        let pauses: Vec<_> = std::iter::from_fn(|| attempts.next()).collect();

        assert_eq!(pauses.len(), 24);
        assert_eq!(pauses.first(), Some(&FIRST_PAUSE));
        assert!(pauses.iter().sum::<Duration>() > Duration::from_secs(36));
        assert!(pauses.iter().sum::<Duration>() < Duration::from_secs(44));
    }
}
