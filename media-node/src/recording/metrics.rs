//! What is counted of recordings. No label names one.

use std::{
    sync::{Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use tallylight_crds::RecordingState;

use super::trouble::Reason;
use crate::metrics::{Counted, Gauge64};

/// What became of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Outcome {
    Ready,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl From<Reason> for ReasonLabel {
    fn from(reason: Reason) -> Self {
        Self { reason: reason.as_str() }
    }
}

/// All metrics of a recorder. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    open: Gauge64,
    uploading: Gauge64,
    in_trouble: Family<ReasonLabel, Gauge64>,
    ended: Family<OutcomeLabel, Counter>,
    troubles: Family<ReasonLabel, Counter>,
    written: Counter<u64, AtomicU64>,
    lost: Counter<u64, AtomicU64>,
    sync: Histogram,
    finish: Histogram,
}

impl Metrics {
    /// Makes the metrics, in `registry`.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        // 0.5 ms to 16 s: a solid-state disk to one that is ill
        let seconds = || Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        let metrics = Self {
            open: Gauge64::default(),
            uploading: Gauge64::default(),
            in_trouble: Family::default(),
            ended: Family::default(),
            troubles: Family::default(),
            written: Counter::default(),
            lost: Counter::default(),
            sync: seconds(),
            finish: seconds(),
        };
        for outcome in [Outcome::Ready, Outcome::Failed] {
            drop(metrics.ended.get_or_create(&OutcomeLabel { outcome })); // from 0: the first failure is an increase, too
        }
        let r = registry.sub_registry_with_prefix("node");
        r.register("recordings_open", "Recordings that grow or are being finished", metrics.open.clone());
        r.register(
            "recordings_uploading",
            "Recordings that are whole and not yet in their bucket",
            metrics.uploading.clone(),
        );
        r.register(
            "recordings_in_trouble",
            "Recordings that wait until their storage does as asked, by reason",
            metrics.in_trouble.clone(),
        );
        r.register("recordings_ended", "Recordings that are Ready or Failed", metrics.ended.clone());
        r.register(
            "recording_troubles",
            "Times that a storage did not do as asked, by reason",
            metrics.troubles.clone(),
        );
        r.register_with_unit("recorded", "Bytes of media written to recordings", Unit::Bytes, metrics.written.clone());
        r.register_with_unit(
            "recording_lost",
            "Bytes of media that are in no recording, because a storage was slow or could not be written",
            Unit::Bytes,
            metrics.lost.clone(),
        );
        r.register_with_unit(
            "recording_sync_duration",
            "Time of one sync of a file",
            Unit::Seconds,
            metrics.sync.clone(),
        );
        r.register_with_unit(
            "recording_finish_duration",
            "Time from the last media of a file until it is whole",
            Unit::Seconds,
            metrics.finish.clone(),
        );
        metrics
    }

    pub(super) fn set_open(&self, count: usize) {
        self.open.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn ended(&self, outcome: Outcome) {
        self.ended.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(super) fn trouble(&self, reason: Reason) {
        self.troubles.get_or_create(&reason.into()).inc();
    }

    pub(super) fn wrote(&self, bytes: u64) {
        self.written.inc_by(bytes);
    }

    pub(super) fn lost(&self, bytes: u64) {
        self.lost.inc_by(bytes);
    }

    pub(super) fn synced(&self, time: Duration) {
        self.sync.observe(time.as_secs_f64());
    }

    pub(super) fn finished(&self, time: Duration) {
        self.finish.observe(time.as_secs_f64());
    }
}

/// What a recording counts as in gauges, while this process works on it.
#[derive(Debug)]
pub(super) struct Standing {
    metrics: Metrics,
    counted: Mutex<Counted>,
}

impl Standing {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics, counted: Mutex::new(Counted::new(Vec::new())) }
    }

    /// It is in this state now, and this is wrong.
    pub(super) fn is(&self, state: RecordingState, trouble: Option<Reason>) {
        let uploading = (state == RecordingState::Uploading).then(|| self.metrics.uploading.clone());
        let in_trouble = trouble.map(|reason| self.metrics.in_trouble.get_or_create(&reason.into()).clone());
        let next = Counted::new(uploading.into_iter().chain(in_trouble).collect());
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }
}
