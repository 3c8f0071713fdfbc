//! The operator's own counters. Labels come from enums; nothing is named after an object.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::nodes::Cause;

/// Counters of reconciles and nodes. Clones count together.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) reconciles: Family<ReconcileLabels, Counter>,
    pub(crate) nodes_lost: Family<LostLabels, Counter>,
    pub(crate) unreadable: Counter,
    /// Of sessions whose node was lost; nodes count their own.
    pub(crate) sessions_parked: Counter,
    pub(crate) sessions_expired: Counter,
    /// Recordings that were on the disk of a media node that is gone.
    pub(crate) recordings_lost: Counter,
    /// 1 while this process leads.
    pub(crate) leading: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReconcileLabels {
    pub(crate) result: ReconcileResult,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum ReconcileResult {
    Done,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct LostLabels {
    pub(crate) cause: Cause,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("reconciles", "Reconciles, by how they came out", metrics.reconciles.clone());
        registry.register("media_nodes_lost", "Media nodes that were given up", metrics.nodes_lost.clone());
        registry.register(
            "broadcasts_unreadable",
            "Readings of Broadcasts that this version cannot decode",
            metrics.unreadable.clone(),
        );
        registry.register(
            "sessions_parked",
            "Sessions of lost media nodes that wait for their publisher",
            metrics.sessions_parked.clone(),
        );
        registry.register(
            "sessions_expired",
            "Sessions that ended because their publisher did not come back in time",
            metrics.sessions_expired.clone(),
        );
        registry.register(
            "recordings_lost",
            "Recordings that are lost with the media node whose disk they were on",
            metrics.recordings_lost.clone(),
        );
        registry.register("leading", "Whether this operator is the one that writes", metrics.leading.clone());
        metrics
    }

    pub(crate) fn reconciled(&self, result: ReconcileResult) {
        self.reconciles.get_or_create(&ReconcileLabels { result }).inc();
    }

    pub(crate) fn node_lost(&self, cause: Cause) {
        self.nodes_lost.get_or_create(&LostLabels { cause }).inc();
    }
}
