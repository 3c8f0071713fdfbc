//! What is counted. Labels are enums; no metric names a stream.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// Why a publisher, player or connection was refused or cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum RefusalReason {
    UnknownApp,
    UnknownStream,
    WrongKey,
    KeyNotReady,
    AlreadyLive,
    LedgerFull,
    StoreUnavailable,
    Stopped,
    ShuttingDown,
    /// A player asked for a stream that is not live.
    NotLive,
    /// It is live on another node, and could not be had from there.
    NotRelayed,
    Protocol,
    HandshakeTimeout,
    RequestTimeout,
    /// The oldest connection without a stream gave way to a new one.
    TooManyPending,
    /// A viewer took nothing for too long.
    Stalled,
    NoMedia,
}

/// Why a player over HLS did not get what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum HlsRefusal {
    NotLive,
    NoSuchFile,
    TooFar,
    BadQuery,
    Late,
    Unreachable,
    Busy,
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum ConnectionState {
    /// Neither publishing nor playing yet.
    Pending,
    Publishing,
    Playing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Protocol {
    Rtmp,
    Rtmps,
    Hls,
    WebRtc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Direction {
    In,
    Out,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    Ok,
    Failed,
}

/// Why a session ended, as events say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum EndReason {
    PublisherClosed,
    PublisherLost,
    PublisherTimeout,
    Stopped,
    NodeShutdown,
    NodeLost,
}

impl From<tallylight_crds::Reason> for EndReason {
    fn from(reason: tallylight_crds::Reason) -> Self {
        use tallylight_crds::Reason;
        match reason {
            Reason::PublisherClosed => Self::PublisherClosed,
            Reason::PublisherLost => Self::PublisherLost,
            Reason::PublisherTimeout => Self::PublisherTimeout,
            Reason::Stopped => Self::Stopped,
            Reason::NodeShutdown => Self::NodeShutdown,
            Reason::NodeLost => Self::NodeLost,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    reason: RefusalReason,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HlsLabel {
    reason: HlsRefusal,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndLabel {
    reason: EndReason,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabel {
    state: ConnectionState,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProtocolLabel {
    protocol: Protocol,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BytesLabel {
    protocol: Protocol,
    direction: Direction,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    outcome: Outcome,
}

pub(crate) type Gauge64 = Gauge<i64, AtomicI64>;

/// All metrics of a node. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    sessions_started: Counter,
    sessions_ended: Family<EndLabel, Counter>,
    sessions_parked: Family<EndLabel, Counter>,
    sessions_resumed: Counter,
    sessions_open: Gauge64,
    publishers: Family<ProtocolLabel, Gauge64>,
    viewers: Family<ProtocolLabel, Gauge64>,
    connections: Family<StateLabel, Gauge64>,
    connections_accepted: Family<ProtocolLabel, Counter>,
    refusals: Family<ReasonLabel, Counter>,
    hls_refusals: Family<HlsLabel, Counter>,
    bytes: Family<BytesLabel, Counter<u64, AtomicU64>>,
    packets_skipped: Counter,
    b_frames: Counter,
    claim_duration: Histogram,
    store_errors: Counter,
    ends_waiting: Gauge64,
    lease_renewals: Family<OutcomeLabel, Counter>,
    certificates_read: Family<OutcomeLabel, Counter>,
}

impl Metrics {
    /// Makes the metrics, in `registry`.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        // 0.5 ms to 8 s: a SQLite commit to the claim's deadline
        let claim_duration = Histogram::new(exponential_buckets(0.000_5, 2.0, 15));
        let metrics = Self {
            sessions_started: Counter::default(),
            sessions_ended: Family::default(),
            sessions_parked: Family::default(),
            sessions_resumed: Counter::default(),
            sessions_open: Gauge64::default(),
            publishers: Family::default(),
            viewers: Family::default(),
            connections: Family::default(),
            connections_accepted: Family::default(),
            refusals: Family::default(),
            hls_refusals: Family::default(),
            bytes: Family::default(),
            packets_skipped: Counter::default(),
            b_frames: Counter::default(),
            claim_duration,
            store_errors: Counter::default(),
            ends_waiting: Gauge64::default(),
            lease_renewals: Family::default(),
            certificates_read: Family::default(),
        };
        metrics.register(registry.sub_registry_with_prefix("node"));
        metrics
    }

    fn register(&self, r: &mut Registry) {
        r.register("sessions_started", "Sessions that were claimed", self.sessions_started.clone());
        r.register("sessions_ended", "Sessions that ended here, by reason", self.sessions_ended.clone());
        r.register(
            "sessions_parked",
            "Sessions that wait for a publisher that left, by the reason",
            self.sessions_parked.clone(),
        );
        r.register(
            "sessions_resumed",
            "Sessions that were claimed by a publisher that came back",
            self.sessions_resumed.clone(),
        );
        r.register("sessions_open", "Sessions on air", self.sessions_open.clone());
        r.register("publishers", "Connections that publish", self.publishers.clone());
        r.register("viewers", "Connections that play, and players over HLS and WebRTC", self.viewers.clone());
        r.register("connections", "Connections by what they are at", self.connections.clone());
        r.register("connections_accepted", "Connections that were accepted", self.connections_accepted.clone());
        r.register("refusals", "Publishers, players and connections that were refused or cut", self.refusals.clone());
        r.register("hls_refusals", "Requests of players over HLS that were refused", self.hls_refusals.clone());
        r.register_with_unit("media", "Bytes from publishers and to viewers", Unit::Bytes, self.bytes.clone());
        r.register("packets_skipped", "Packets that viewers lost because they lagged", self.packets_skipped.clone());
        r.register(
            "publishers_with_b_frames",
            "Publishers whose streams WebRTC cannot carry because they have B-frames",
            self.b_frames.clone(),
        );
        r.register_with_unit(
            "claim_duration",
            "Time from first media to the durable start",
            Unit::Seconds,
            self.claim_duration.clone(),
        );
        r.register("store_errors", "Requests to the store that failed", self.store_errors.clone());
        r.register("ends_waiting", "Ends that the store has not taken yet", self.ends_waiting.clone());
        r.register("lease_renewals", "Renewals of this node's Lease", self.lease_renewals.clone());
        r.register("certificates_read", "New certificates of RTMPS, after the first", self.certificates_read.clone());
    }

    pub fn refused(&self, reason: RefusalReason) {
        self.refusals.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn hls_refused(&self, reason: HlsRefusal) {
        self.hls_refusals.get_or_create(&HlsLabel { reason }).inc();
    }

    pub fn accepted(&self, protocol: Protocol) {
        self.connections_accepted.get_or_create(&ProtocolLabel { protocol }).inc();
    }

    /// Counts a connection in `state` until the guard is dropped.
    #[must_use]
    pub fn connection(&self, state: ConnectionState, protocol: Protocol) -> Counted {
        let mut gauges = vec![self.connections.get_or_create(&StateLabel { state }).clone()];
        match state {
            ConnectionState::Pending => {}
            ConnectionState::Publishing => {
                gauges.push(self.publishers.get_or_create(&ProtocolLabel { protocol }).clone());
            }
            ConnectionState::Playing => gauges.push(self.viewers.get_or_create(&ProtocolLabel { protocol }).clone()),
        }
        Counted::new(gauges)
    }

    /// Counts a viewer that has no connection of its own, until the guard is dropped.
    #[must_use]
    pub fn viewer(&self, protocol: Protocol) -> Counted {
        Counted::new(vec![self.viewers.get_or_create(&ProtocolLabel { protocol }).clone()])
    }

    /// The counter of bytes of one direction, to be kept by a connection.
    #[must_use]
    pub fn bytes(&self, protocol: Protocol, direction: Direction) -> Counter<u64, AtomicU64> {
        self.bytes.get_or_create(&BytesLabel { protocol, direction }).clone()
    }

    /// Bytes sent to viewers so far.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        [Protocol::Rtmp, Protocol::Rtmps, Protocol::Hls, Protocol::WebRtc]
            .map(|protocol| self.bytes(protocol, Direction::Out).get())
            .iter()
            .sum()
    }

    /// Sessions on air here.
    #[must_use]
    pub fn sessions(&self) -> i64 {
        self.sessions_open.get()
    }

    pub fn skipped(&self, packets: u64) {
        self.packets_skipped.inc_by(packets);
    }

    /// Counts a publisher that was seen to send B-frames.
    pub fn b_frames(&self) {
        self.b_frames.inc();
    }

    pub fn session_started(&self, claim_seconds: f64) {
        self.sessions_started.inc();
        self.sessions_open.inc();
        self.claim_duration.observe(claim_seconds);
    }

    /// Counts a session that this process no longer has on air.
    pub fn session_over(&self) {
        self.sessions_open.dec();
    }

    pub fn session_ended(&self, reason: tallylight_crds::Reason) {
        self.sessions_ended.get_or_create(&EndLabel { reason: reason.into() }).inc();
    }

    /// Counts a session that waits for its publisher.
    pub fn session_parked(&self, reason: tallylight_crds::Reason) {
        self.sessions_parked.get_or_create(&EndLabel { reason: reason.into() }).inc();
    }

    /// Counts a session that goes on.
    pub fn session_resumed(&self) {
        self.sessions_resumed.inc();
    }

    pub fn store_error(&self) {
        self.store_errors.inc();
    }

    pub fn set_ends_waiting(&self, count: usize) {
        self.ends_waiting.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn lease_renewed(&self, outcome: Outcome) {
        self.lease_renewals.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a certificate that took the place of another, or could not.
    pub fn certificate_read(&self, outcome: Outcome) {
        self.certificates_read.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}

/// Counts in some gauges while it lives.
#[derive(Debug)]
pub struct Counted(Vec<Gauge64>);

impl Counted {
    pub(crate) fn new(gauges: Vec<Gauge64>) -> Self {
        for gauge in &gauges {
            gauge.inc();
        }
        Self(gauges)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        for gauge in &self.0 {
            gauge.dec();
        }
    }
}
