//! Metrics of delivery. Labels come from enums: never a name, a URL or an error's text.

use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use tallylight_crds::Action;

use super::attempt::Unsent;
use crate::lane::{Activity, Lane};

/// From half a millisecond, a receiver next door, to an hour and a half, the schedule's longest wait and a few more.
const LATENCY_BUCKETS: [f64; 18] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0, 1800.0, 5400.0];

#[derive(Clone)]
pub(super) struct Metrics {
    attempts: Family<Class, Counter>,
    events: Family<Settled, Counter>,
    latency: Histogram,
    lanes: Family<State, Gauge>,
    pending: Gauge,
    unwritten: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Class {
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Settled {
    action: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State(Activity);

impl EncodeLabelSet for State {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        let state = match self.0 {
            Activity::Delivering => "Delivering",
            Activity::Backoff => "Backoff",
            Activity::Gone => "Gone",
        };
        [("state", state)].encode(encoder)
    }
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            attempts: Family::default(),
            events: Family::default(),
            latency: Histogram::new(LATENCY_BUCKETS),
            lanes: Family::default(),
            pending: Gauge::default(),
            unwritten: Counter::default(),
        };
        registry.register(
            "hook_attempts",
            "Attempts to deliver an event, by how they came out",
            metrics.attempts.clone(),
        );
        registry.register(
            "hook_events",
            "Events settled, by how: delivered, or not to be sent",
            metrics.events.clone(),
        );
        registry.register_with_unit(
            "hook_delivery_latency",
            "From the event to the receiver's success",
            Unit::Seconds,
            metrics.latency.clone(),
        );
        registry.register("hook_lanes", "Broadcasts with events that wait, by state", metrics.lanes.clone());
        registry.register("hook_pending_events", "Events that the receivers do not have", metrics.pending.clone());
        registry.register(
            "hook_store_errors",
            "Acknowledgements and lane states that the store did not take; they are written again",
            metrics.unwritten.clone(),
        );
        metrics
    }

    pub(super) fn attempted(&self, class: &'static str) {
        self.attempts.get_or_create(&Class { class }).inc();
    }

    pub(super) fn delivered(&self, action: Action, latency_seconds: f64) {
        self.settled(action, "Delivered");
        self.latency.observe(latency_seconds.max(0.0));
    }

    pub(super) fn unsent(&self, action: Action, why: Unsent) {
        self.settled(
            action,
            match why {
                Unsent::NoEndpoint => "NoEndpoint",
                Unsent::Filtered => "Filtered",
            },
        );
    }

    pub(super) fn unwritten(&self) {
        self.unwritten.inc();
    }

    fn settled(&self, action: Action, outcome: &'static str) {
        self.events.get_or_create(&Settled { action: action.as_str(), outcome }).inc();
    }

    pub(super) fn gauge(&self) -> LaneGauge {
        LaneGauge { metrics: self.clone(), shown: None }
    }
}

/// One lane's part in the gauges, taken back when the lane is dropped.
pub(super) struct LaneGauge {
    metrics: Metrics,
    shown: Option<(Activity, i64)>,
}

impl LaneGauge {
    pub(super) fn show(&mut self, lane: &Lane) {
        let now = (lane.activity(), i64::try_from(lane.waiting()).unwrap_or(i64::MAX));
        if self.shown != Some(now) {
            self.hide();
            self.metrics.lanes.get_or_create(&State(now.0)).inc();
            self.metrics.pending.inc_by(now.1);
            self.shown = Some(now);
        }
    }

    fn hide(&mut self) {
        if let Some((activity, waiting)) = self.shown.take() {
            self.metrics.lanes.get_or_create(&State(activity)).dec();
            self.metrics.pending.dec_by(waiting);
        }
    }
}

impl Drop for LaneGauge {
    fn drop(&mut self) {
        self.hide();
    }
}
