//! What the relay counts. Labels are enums; no metric names a stream or a node.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::metrics::Direction;

/// Why an owner refused a puller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Refusal {
    /// No such address.
    UnknownPath,
    /// No token, or none of this pool.
    WrongToken,
    ExpiredToken,
    /// The stream has no publisher here: it never had, or it is gone. What is here through a relay is not passed on.
    NotHere,
    /// Another session of the stream is on air here.
    OtherSession,
    /// The stream, or the node, has as many pullers as it may.
    TooManyPullers,
    /// A puller took nothing for too long and was cut.
    Stalled,
}

/// Why a pull did not begin, or broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Failure {
    /// The owner could not be reached.
    Connect,
    /// It did not answer in time.
    NoAnswer,
    Refused,
    /// What it sent is no stream of packets.
    Protocol,
    /// The connection broke, or ended without the stream's end.
    Broken,
    /// Nothing came for too long.
    Silent,
}

/// What became of a request for a recording that is on another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Passage {
    /// The answer of the node that has it was passed on from its head to its end, or for as long as the player wanted.
    Passed,
    /// It broke off.
    Broken,
    /// The player took nothing for too long.
    Stalled,
    /// The file is not there.
    NoFile,
    /// As many as may be were passed on.
    TooMany,
    /// The node did not answer, or refused, or it is not known where it is.
    NodeAway,
    /// The node is gone for good.
    NodeGone,
}

/// What became of a request for a session of WebRTC that is on another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// The other node's answer was passed on.
    Answered,
    /// As many as may be were passed on.
    TooMany,
    /// The node could not be reached, refused, or it is not known where it is.
    NodeAway,
    /// The node is gone for good.
    NodeGone,
    /// It did not answer in time.
    NoAnswer,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PassageLabel {
    outcome: Passage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabel {
    reason: Refusal,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabel {
    reason: Failure,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: Direction,
}

type Gauge64 = Gauge<i64, AtomicI64>;
type Bytes = Counter<u64, AtomicU64>;

/// Clones share the numbers.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pulls: Gauge64,
    pulls_started: Counter,
    pullers: Gauge64,
    files_fetched: Counter,
    recordings_open: Gauge64,
    recordings: Family<PassageLabel, Counter>,
    requests: Family<OutcomeLabel, Counter>,
    bytes: Family<DirectionLabel, Bytes>,
    refusals: Family<RefusalLabel, Counter>,
    failures: Family<FailureLabel, Counter>,
    packets_skipped: Counter,
}

impl Metrics {
    /// Makes the metrics, in `registry`.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let (metrics, r) = (Self::default(), registry);
        r.register("relay_pulls", "Streams that are pulled from other nodes", metrics.pulls.clone());
        r.register(
            "relay_pulls_started",
            "Pulls that were begun, those after a failure too",
            metrics.pulls_started.clone(),
        );
        r.register("relay_pullers", "Pulls of other nodes that are served", metrics.pullers.clone());
        r.register(
            "relay_files_fetched",
            "HLS playlists and files that were asked of other nodes",
            metrics.files_fetched.clone(),
        );
        r.register(
            "relay_recordings_open",
            "Recordings of other nodes that players are sent",
            metrics.recordings_open.clone(),
        );
        r.register(
            "relay_recordings",
            "Requests for recordings of other nodes, by what became of them",
            metrics.recordings.clone(),
        );
        r.register(
            "relay_session_requests",
            "Requests for sessions of WebRTC on other nodes, by what became of them",
            metrics.requests.clone(),
        );
        r.register_with_unit("relay_media", "Bytes between nodes", Unit::Bytes, metrics.bytes.clone());
        r.register("relay_refusals", "Pullers that were refused or cut", metrics.refusals.clone());
        r.register("relay_failures", "Pulls that did not begin, or broke", metrics.failures.clone());
        r.register(
            "relay_packets_skipped",
            "Packets that pullers lost because they lagged",
            metrics.packets_skipped.clone(),
        );
        metrics
    }

    pub(super) fn refused(&self, reason: Refusal) {
        self.refusals.get_or_create(&RefusalLabel { reason }).inc();
    }

    pub(super) fn failed(&self, reason: Failure) {
        self.failures.get_or_create(&FailureLabel { reason }).inc();
    }

    pub(super) fn skipped(&self, packets: u64) {
        self.packets_skipped.inc_by(packets);
    }

    pub(super) fn bytes(&self, direction: Direction) -> Bytes {
        self.bytes.get_or_create(&DirectionLabel { direction }).clone()
    }

    pub(super) fn fetching(&self) {
        self.files_fetched.inc();
    }

    pub(super) fn passed(&self, outcome: Passage) {
        self.recordings.get_or_create(&PassageLabel { outcome }).inc();
    }

    pub(super) fn passed_on(&self, outcome: Outcome) {
        self.requests.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a recording that is passed on while the guard lives.
    pub(super) fn passing(&self) -> Counted {
        Counted::new(&self.recordings_open)
    }

    /// Counts a pull while the guard lives.
    pub(super) fn pulling(&self) -> Counted {
        self.pulls_started.inc();
        Counted::new(&self.pulls)
    }

    /// Counts a puller while the guard lives.
    pub(super) fn serving(&self) -> Counted {
        Counted::new(&self.pullers)
    }
}

/// Counts in a gauge while it lives.
#[derive(Debug)]
pub(super) struct Counted(Gauge64);

impl Counted {
    fn new(gauge: &Gauge64) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
