//! What WebRTC counts. Labels are enums; no metric names a stream or a peer.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicI64, AtomicU64},
};

use media_webrtc::{
    pool::Pool,
    publisher,
    transport::Cause,
    viewer::{Counters, Quality},
    worker::Counted as Workers,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::metrics::{ConnectionState, Counted, Direction, Metrics as Node, Protocol};

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum State {
    /// Answered, and not connected yet.
    Opening,
    Connected,
}

/// What ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum End {
    NeverConnected,
    ConsentExpired,
    HandshakeFailed,
    PeerClosed,
    /// By DELETE, with its stream, or with the node.
    Closed,
}

impl From<&Cause> for End {
    fn from(cause: &Cause) -> Self {
        match cause {
            Cause::NeverConnected => Self::NeverConnected,
            Cause::ConsentExpired => Self::ConsentExpired,
            Cause::Dtls(_) => Self::HandshakeFailed,
            Cause::PeerClosed => Self::PeerClosed,
            Cause::Closed => Self::Closed,
        }
    }
}

/// Why a request over HTTP was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Refusal {
    BadOffer,
    WrongKey,
    NotLive,
    NoSuchSession,
    CodecMissing,
    /// The stream has B-frames.
    Reordered,
    Conflict,
    TooLarge,
    ContentType,
    Unsupported,
    Full,
    Unavailable,
    TurnedOff,
}

/// Why a packet did not reach a viewer, or not again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Dropped {
    /// It was asked for again when it was no longer kept.
    TooOld,
    /// More was asked for again than a viewer may have.
    OverBudget,
    /// The socket had no room.
    SocketFull,
    /// No datagram holds it.
    Oversize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabel {
    cause: End,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabel {
    reason: Refusal,
}

/// What became of packets of publishers that did not simply come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Missed {
    /// Asked for again.
    Asked,
    /// Came when they had been asked for.
    Recovered,
    /// Never came.
    Lost,
    /// Belong to no track that was agreed on.
    Unrouted,
    /// More came at once than anybody takes.
    Dropped,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MissLabel {
    what: Missed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabel {
    reason: Dropped,
}

type Gauge64 = Gauge<i64, AtomicI64>;

/// The metrics of a node's WebRTC. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    node: Node,
    sessions: Family<StateLabel, Gauge64>,
    sessions_ended: Family<EndLabel, Counter>,
    refusals: Family<RefusalLabel, Counter>,
    streams: Gauge64,
    bytes: Counter<u64, AtomicU64>,
    bytes_received: Counter<u64, AtomicU64>,
    packets_received: Counter,
    packets_missed: Family<MissLabel, Counter>,
    keyframes_asked: Counter,
    packets_sent: Counter,
    packets_resent: Counter,
    packets_dropped: Family<DropLabel, Counter>,
    frames_skipped: Counter,
    keyframe_requests: Counter,
    checks_refused: Counter,
    datagrams_ignored: Counter,
    loss: Histogram,
    round_trip: Histogram,
    jitter: Histogram,
}

impl Metrics {
    /// Makes the metrics, in `registry`.
    pub(super) fn new(registry: &mut Registry, node: &Node) -> Self {
        let metrics = Self {
            node: node.clone(),
            sessions: Family::default(),
            sessions_ended: Family::default(),
            refusals: Family::default(),
            streams: Gauge64::default(),
            bytes: node.bytes(Protocol::WebRtc, Direction::Out),
            bytes_received: node.bytes(Protocol::WebRtc, Direction::In),
            packets_received: Counter::default(),
            packets_missed: Family::default(),
            keyframes_asked: Counter::default(),
            packets_sent: Counter::default(),
            packets_resent: Counter::default(),
            packets_dropped: Family::default(),
            frames_skipped: Counter::default(),
            keyframe_requests: Counter::default(),
            checks_refused: Counter::default(),
            datagrams_ignored: Counter::default(),
            // of 256: nothing, and 0.4 % to all
            loss: Histogram::new([0.0, 0.004, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]),
            // 1 ms to 2 s
            round_trip: Histogram::new(exponential_buckets(0.001, 2.0, 12)),
            jitter: Histogram::new(exponential_buckets(0.001, 2.0, 12)),
        };
        metrics.register(registry);
        metrics
    }

    fn register(&self, r: &mut Registry) {
        r.register("webrtc_sessions", "Sessions over WebRTC by how far they have come", self.sessions.clone());
        r.register(
            "webrtc_sessions_ended",
            "Sessions over WebRTC that are over, by cause",
            self.sessions_ended.clone(),
        );
        r.register("webrtc_refusals", "Requests of WHEP and WHIP that were refused", self.refusals.clone());
        r.register("webrtc_streams", "Streams that are prepared for viewers over WebRTC", self.streams.clone());
        r.register("webrtc_packets_sent", "Packets sent to viewers", self.packets_sent.clone());
        r.register("webrtc_packets_resent", "Packets sent to viewers again on request", self.packets_resent.clone());
        r.register(
            "webrtc_packets_dropped",
            "Packets that viewers did not get, by reason",
            self.packets_dropped.clone(),
        );
        r.register(
            "webrtc_frames_skipped",
            "Frames that viewers lost while they waited for a keyframe",
            self.frames_skipped.clone(),
        );
        r.register("webrtc_packets_received", "Packets of publishers", self.packets_received.clone());
        r.register(
            "webrtc_packets_missed",
            "Packets of publishers that were asked for again, or did not reach their track, by what became of them",
            self.packets_missed.clone(),
        );
        r.register("webrtc_keyframes_asked", "Requests to publishers for a keyframe", self.keyframes_asked.clone());
        r.register("webrtc_keyframe_requests", "Requests of viewers for a keyframe", self.keyframe_requests.clone());
        r.register(
            "webrtc_checks_refused",
            "Connectivity checks with a wrong name or password",
            self.checks_refused.clone(),
        );
        r.register(
            "webrtc_datagrams_ignored",
            "Datagrams of sessions that were not genuine, or of no use",
            self.datagrams_ignored.clone(),
        );
        r.register_with_unit(
            "webrtc_loss",
            "Part of the packets that viewers lost, as they report it",
            Unit::Ratios,
            self.loss.clone(),
        );
        r.register_with_unit("webrtc_round_trip", "Time to viewers and back", Unit::Seconds, self.round_trip.clone());
        r.register_with_unit("webrtc_jitter", "Jitter that viewers report", Unit::Seconds, self.jitter.clone());
    }

    /// Counts a session in `state` until the guard is dropped.
    pub(super) fn session(&self, state: State) -> Counted {
        Counted::new(vec![self.sessions.get_or_create(&StateLabel { state }).clone()])
    }

    /// Counts a viewer that has connected until the guard is dropped.
    pub(super) fn viewer(&self) -> Counted {
        self.node.viewer(Protocol::WebRtc)
    }

    /// Counts a publisher that has connected until the guard is dropped.
    pub(super) fn publisher(&self) -> Counted {
        self.node.connection(ConnectionState::Publishing, Protocol::WebRtc)
    }

    pub(super) fn session_ended(&self, cause: &Cause) {
        self.sessions_ended.get_or_create(&EndLabel { cause: cause.into() }).inc();
    }

    pub(crate) fn refused(&self, reason: Refusal) {
        self.refusals.get_or_create(&RefusalLabel { reason }).inc();
    }

    /// Counts a stream that is prepared until the guard is dropped.
    pub(super) fn stream(&self) -> Counted {
        Counted::new(vec![self.streams.clone()])
    }

    /// Packets that the ring has lost for all viewers of a stream.
    pub(super) fn skipped(&self, packets: u64) {
        self.node.skipped(packets);
    }

    pub(super) fn counted(&self, counters: &Counters) {
        let Counters {
            packets,
            bytes,
            resent,
            resend_too_old,
            resend_over_budget,
            frames_skipped,
            packets_refused,
            packets_oversize,
            keyframe_requests,
            checks_refused,
            datagrams_ignored,
        } = *counters;
        self.packets_sent.inc_by(packets);
        self.bytes.inc_by(bytes);
        self.packets_resent.inc_by(resent);
        for (reason, dropped) in [
            (Dropped::TooOld, resend_too_old),
            (Dropped::OverBudget, resend_over_budget),
            (Dropped::SocketFull, packets_refused),
            (Dropped::Oversize, packets_oversize),
        ] {
            self.packets_dropped.get_or_create(&DropLabel { reason }).inc_by(dropped);
        }
        self.frames_skipped.inc_by(frames_skipped);
        self.keyframe_requests.inc_by(keyframe_requests);
        self.checks_refused.inc_by(checks_refused);
        self.datagrams_ignored.inc_by(datagrams_ignored);
    }

    pub(super) fn received(&self, counters: &publisher::Counters) {
        let publisher::Counters {
            packets,
            bytes,
            asked,
            recovered,
            lost,
            keyframe_requests,
            unrouted,
            dropped,
            checks_refused,
            datagrams_ignored,
        } = *counters;
        self.packets_received.inc_by(packets);
        self.bytes_received.inc_by(bytes);
        for (what, count) in [
            (Missed::Asked, asked),
            (Missed::Recovered, recovered),
            (Missed::Lost, lost),
            (Missed::Unrouted, unrouted),
            (Missed::Dropped, dropped),
        ] {
            self.packets_missed.get_or_create(&MissLabel { what }).inc_by(count);
        }
        self.keyframes_asked.inc_by(keyframe_requests);
        self.checks_refused.inc_by(checks_refused);
        self.datagrams_ignored.inc_by(datagrams_ignored);
    }

    pub(super) fn reported(&self, quality: &Quality) {
        self.loss.observe(f64::from(quality.fraction_lost) / 256.0);
        self.jitter.observe(quality.jitter.as_secs_f64());
        if let Some(round_trip) = quality.round_trip {
            self.round_trip.observe(round_trip.as_secs_f64());
        }
    }
}

/// Shows what the workers count themselves.
pub(super) fn register_pool(r: &mut Registry, pool: &Arc<Pool>) {
    let of = |read: fn(&Workers) -> u64| OfWorkers { pool: Arc::downgrade(pool), read };
    r.register("webrtc_sessions_adopted", "Sessions that a worker took up at their first check", of(|c| c.adopted));
    r.register(
        "webrtc_datagrams_handed_over",
        "Datagrams that came to another worker than their session's",
        of(|c| c.handed_over),
    );
    r.register("webrtc_handovers_dropped", "Of these, those that it had no room for", of(|c| c.handovers_dropped));
    r.register("webrtc_checks_unknown", "Connectivity checks for nobody's session", of(|c| c.checks_unknown));
    r.register("webrtc_datagrams_unknown", "Other datagrams of nobody's session", of(|c| c.datagrams_unknown));
    r.register("webrtc_frames_dropped", "Frames that a worker had no room for", of(|c| c.frames_dropped));
    r.register("webrtc_received_dropped", "Packets of publishers that nobody had room for", of(|c| c.received_dropped));
    r.register(
        "webrtc_requests_dropped",
        "Requests for keyframes that a worker had no room for",
        of(|c| c.requests_dropped),
    );
    r.register("webrtc_sends_refused", "Datagrams that the socket did not take", of(|c| c.sends_refused));
    r.register("webrtc_connections_accepted", "TCP connections that came", of(|c| c.connections_accepted));
    r.register(
        "webrtc_connections_refused",
        "Of these, those that were closed because there were too many",
        of(|c| c.connections_refused),
    );
    r.register(
        "webrtc_connections_unproven",
        "Of these, those that were closed because they did not prove to be a session's",
        of(|c| c.connections_unproven),
    );
    r.register(
        "webrtc_connection_sends_refused",
        "Datagrams that a TCP connection had no room for",
        of(|c| c.connection_sends_refused),
    );
}

/// One count of the workers.
struct OfWorkers {
    pool: Weak<Pool>,
    read: fn(&Workers) -> u64,
}

impl std::fmt::Debug for OfWorkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OfWorkers")
    }
}

impl EncodeMetric for OfWorkers {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        let counted = self.pool.upgrade().map_or(0, |pool| (self.read)(&pool.counted()));
        encoder.encode_counter::<NoLabelSet, _, u64>(&counted, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}
