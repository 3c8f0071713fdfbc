//! Makes the objects of a pool from what was validated. Pure: the same pool gives the same objects.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{core::v1::Service, policy::v1::PodDisruptionBudget},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use tallylight_crds::{API_VERSION, COMPONENT_LABEL, MEDIA_NODE_COMPONENT, POOL_LABEL};

use super::validate::ValidatedPool;

mod disruption_budget;
mod pod;
mod service;
mod storage;

pub(crate) use pod::{RTMP_PORT, pod};

/// Length of the random end of a pod's name.
pub(crate) const SUFFIX: usize = 5;
/// Port of HTTP for users, at the pods and at the Service: the one that clients of Ant Media Server know.
const HTTP_PORT: u16 = 5080;
/// Its name.
const HTTP: &str = "http";
/// Names of the port of WebRTC's media, one a protocol.
pub(crate) const WEBRTC: &str = "webrtc";
const WEBRTC_TCP: &str = "webrtc-tcp";
/// Annotation of pods: the IP by which their machine, or their balancer, is reached from outside, when it is not the one that a pod sees itself.
pub(crate) const MEDIA_ADDRESS_ANNOTATION: &str = "tallylight.dev/media-address";
/// Tells pods that the operator makes from those of a Deployment.
const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
const MANAGED_BY: &str = "tallylight-operator";

/// What a pool has once, beside its pods.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Resources {
    pub(crate) service: Service,
    pub(crate) budget: PodDisruptionBudget,
}

pub(crate) fn resources(pool: &ValidatedPool) -> Resources {
    Resources { service: service::service(pool), budget: disruption_budget::disruption_budget(pool) }
}

/// Selector of all pods that the operator makes.
pub(crate) fn managed_selector() -> String {
    format!("{COMPONENT_LABEL}={MEDIA_NODE_COMPONENT},{MANAGED_BY_LABEL}={MANAGED_BY}")
}

/// Selector of the pods that the operator makes for this pool.
pub(crate) fn pool_selector(pool: &str) -> String {
    format!("{},{POOL_LABEL}={pool}", managed_selector())
}

/// Name of the Service, and the beginning of all other names.
pub(crate) fn base_name(pool: &ValidatedPool) -> String {
    format!("media-{}", pool.name)
}

/// What selects the pool's nodes, whoever made them.
fn selector(pool: &ValidatedPool) -> BTreeMap<String, String> {
    labels([(COMPONENT_LABEL, MEDIA_NODE_COMPONENT), (POOL_LABEL, &pool.name)])
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn metadata(pool: &ValidatedPool, name: String) -> ObjectMeta {
    let mut all = selector(pool);
    all.extend(labels([("app.kubernetes.io/name", "tallylight"), (MANAGED_BY_LABEL, MANAGED_BY)]));
    ObjectMeta {
        name: Some(name),
        namespace: Some(pool.namespace.clone()),
        labels: Some(all),
        owner_references: Some(vec![OwnerReference {
            api_version: API_VERSION.to_owned(),
            kind: "MediaPool".to_owned(),
            name: pool.name.clone(),
            uid: pool.uid.clone(),
            controller: Some(true),
            // Nothing to wait for; and it would need a right to the pool's finalizers.
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    }
}
