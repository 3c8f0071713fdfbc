//! What there is of a pool: its pods, their sessions and their load, as the planner looks at them.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api, ResourceExt as _,
    api::ListParams,
    runtime::reflector::{ObjectRef, Store},
};
use tallylight_crds::{ADDRESS_ANNOTATION, LIVE_LABEL, ORDER_ANNOTATION, POOL_LABEL, REVISION_LABEL, SessionState};

use super::{Context, Error, build, plan, plan::State, validate::ValidatedPool};
use crate::{broadcast::Guarded, node_watch, nodes::NodeKey};

/// The pool's pods in the caches: a look that costs nothing, and may be a little old.
pub(super) fn cached(pool: &ValidatedPool, context: &Context) -> Vec<plan::Pod> {
    let is_ours = |pod: &Pod| {
        pod.namespace().as_deref() == Some(&pool.namespace) && pod.labels().get(POOL_LABEL) == Some(&pool.name)
    };
    let pods: Vec<_> = context.world.pods.iter().flat_map(Store::state).filter(|pod| is_ours(pod)).collect();
    view(pool, pods.iter().map(|pod| &**pod), context)
}

/// The pool's pods as the API server has them now: what is done is decided upon these, so that nothing is made twice.
///
/// # Errors
/// When they cannot be listed.
pub(super) async fn listed(pool: &ValidatedPool, context: &Context) -> Result<Vec<plan::Pod>, Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pool.namespace);
    let pods = api.list(&ListParams::default().labels(&build::pool_selector(&pool.name))).await;
    let pods = pods.map_err(|source| Error::ListPods { source })?;
    Ok(view(pool, pods.items.iter(), context))
}

/// The pool's Service, when it was made.
pub(super) fn service(pool: &ValidatedPool, context: &Context) -> Option<Arc<Service>> {
    let name = ObjectRef::new(&build::base_name(pool)).within(&pool.namespace);
    context.world.services.iter().find_map(|cache| cache.get(&name))
}

fn view<'a>(pool: &ValidatedPool, pods: impl Iterator<Item = &'a Pod>, context: &Context) -> Vec<plan::Pod> {
    let sessions = sessions(&pool.namespace, &context.broadcasts);
    let mut view: Vec<plan::Pod> = pods
        .map(|pod| {
            let node = NodeKey { namespace: pool.namespace.clone(), name: pod.name_any() };
            let is_lost = context.nodes.lock().is_lost(&node);
            let label = |key: &str| pod.labels().get(key).map(String::as_str);
            plan::Pod {
                uid: pod.uid().unwrap_or_default(),
                state: state(pod, is_lost),
                revision: if label(REVISION_LABEL) == Some(&pool.revision) {
                    plan::Revision::Current
                } else {
                    plan::Revision::Outdated
                },
                sessions: sessions.get(&node.name).copied().unwrap_or(0),
                load: context.loads.of(&node),
                order: order(pod),
                port: host_port(pod),
                media_port: media_port(pod),
                machine: machine(pod),
                address: pod.annotations().get(ADDRESS_ANNOTATION).cloned(),
                media_address: pod.annotations().get(build::MEDIA_ADDRESS_ANNOTATION).cloned(),
                labelled: if label(LIVE_LABEL).is_some() { plan::Sessions::Live } else { plan::Sessions::None },
                name: node.name,
            }
        })
        .collect();
    view.sort_by(|a, b| a.name.cmp(&b.name));
    view
}

fn state(pod: &Pod, is_lost: bool) -> State {
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        _ if pod.metadata.deletion_timestamp.is_some() => State::Draining,
        Some("Failed" | "Succeeded") => State::Failed,
        _ if is_lost => State::Lost,
        _ if node_watch::is_ready(pod) == Some(true) => State::Ready,
        _ => State::Starting,
    }
}

/// One whose annotation is gone counts as the oldest.
fn order(pod: &Pod) -> i64 {
    pod.annotations().get(ORDER_ANNOTATION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn machine(pod: &Pod) -> Option<plan::Machine> {
    let name = pod.spec.as_ref()?.node_name.clone()?;
    Some(plan::Machine { name, ip: pod.status.as_ref().and_then(|status| status.host_ip.clone()) })
}

fn host_port(pod: &Pod) -> Option<u16> {
    let containers = &pod.spec.as_ref()?.containers;
    let ports = containers.iter().filter_map(|container| container.ports.as_ref()).flatten();
    // On the host's own network every port is one of the host.
    let is_given_out = !pod.spec.as_ref()?.host_network.unwrap_or(false);
    ports.filter_map(|port| port.host_port).filter(|_| is_given_out).find_map(|port| u16::try_from(port).ok())
}

fn media_port(pod: &Pod) -> Option<u16> {
    let ports = pod.spec.as_ref()?.containers.iter().filter_map(|container| container.ports.as_ref()).flatten();
    let of_media = ports.filter(|port| port.name.as_deref() == Some(build::WEBRTC));
    of_media.filter_map(|port| port.host_port).find_map(|port| u16::try_from(port).ok())
}

/// Sessions on air in this namespace, by node.
fn sessions(namespace: &str, caches: &[Store<Guarded>]) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for object in caches.iter().flat_map(Store::state) {
        let Ok(broadcast) = &object.0 else { continue };
        let session = broadcast.status.as_ref().map(|status| &status.session);
        if let Some(session) = session.filter(|session| session.state == SessionState::Open)
            && let Some(node) = &session.node
            && broadcast.metadata.namespace.as_deref() == Some(namespace)
        {
            *counts.entry(node.clone()).or_default() += 1;
        }
    }
    counts
}
