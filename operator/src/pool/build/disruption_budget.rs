//! The disruption budget of a pool: no pod whose sessions would end may be evicted, any other may.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use tallylight_crds::LIVE_LABEL;

use crate::pool::validate::ValidatedPool;

/// More than there can be. An integer needs no scale subresource, and holds at once: `maxUnavailable: 0` takes the expected
/// count from the pool's scale, and lets a live pod go when there are more pods than that.
const MIN_AVAILABLE: i32 = 1_000_000;

pub(crate) fn disruption_budget(pool: &ValidatedPool) -> PodDisruptionBudget {
    let mut live = super::selector(pool);
    live.insert(LIVE_LABEL.to_owned(), "true".to_owned());
    PodDisruptionBudget {
        metadata: super::metadata(pool, format!("{}-live", super::base_name(pool))),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(MIN_AVAILABLE)),
            selector: Some(LabelSelector { match_labels: Some(live), ..LabelSelector::default() }),
            // One that crashed has no session to protect, and must not hold up a drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
