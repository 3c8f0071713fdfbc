//! Watches the Leases and pods of media nodes, and looks closer when a renewal is overdue. What it means, `nodes` decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream, stream::BoxStream};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ContainerStatus, Pod},
};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::watcher::{self, Event},
};
use tallylight_crds::{COMPONENT_LABEL, DRAINING_ANNOTATION, MEDIA_NODE_COMPONENT, POOL_LABEL};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    health::{Health, Watch},
    nodes::{Change, Listed, Next, NodeKey, Nodes},
    pool::loads::Loads,
    scope::{Place, Scope},
};

/// How often overdue nodes are looked at: often enough that two looks are one contact interval apart.
const PROBE_PERIOD: Duration = Duration::from_secs(2);
/// Longest wait for a probe's answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The nodes, as reconciles ask about them.
#[derive(Clone)]
pub(crate) struct SharedNodes(Arc<Mutex<Nodes>>);

impl SharedNodes {
    pub(crate) fn new(lease: Duration) -> Self {
        Self(Arc::new(Mutex::new(Nodes::new(lease))))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Nodes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Feeds `nodes` until cancelled, and sends what changes for pools and sessions.
pub(crate) async fn run(
    client: Client,
    scope: Scope,
    nodes: SharedNodes,
    loads: Loads,
    changes: mpsc::Sender<Change>,
    health: Health,
    cancel: CancellationToken,
) {
    let selector = watcher::Config::default().labels(&format!("{COMPONENT_LABEL}={MEDIA_NODE_COMPONENT}"));
    let mut leases = all::<Lease>(&client, &scope, &selector);
    let mut pods = all::<Pod>(&client, &scope, &selector);
    let mut listed = BTreeMap::new();
    let mut probes = tokio::time::interval(PROBE_PERIOD);
    probes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let found = tokio::select! {
            () = cancel.cancelled() => return,
            Some((place, event)) = leases.next() => {
                match &event {
                    Ok(Event::InitDone) => health.synced(Watch::Leases, &place),
                    Err(error) => health.failed(Watch::Leases, &place, error),
                    Ok(_) => {}
                }
                on_lease(&nodes, &loads, &place, event)
            }
            Some((place, event)) = pods.next() => on_pod(&nodes, listed.entry(place.clone()).or_default(), &place, event),
            _ = probes.tick() => probe(&client, &nodes).await,
        };
        let turned = nodes.lock().settle(Instant::now());
        for change in found.into_iter().chain(turned) {
            log(&change);
            if changes.send(change).await.is_err() {
                return; // the controller has ended
            }
        }
    }
}

/// The events of one watch a namespace, each with the namespace; without one when a single watch covers all.
type Watched<K> = BoxStream<'static, (Place, watcher::Result<Event<K>>)>;

fn all<K>(client: &Client, scope: &Scope, config: &watcher::Config) -> Watched<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let watches = scope
        .apis::<K>(client)
        .into_iter()
        .map(|(place, api)| ledger::watch(api, config.clone()).map(move |event| (place.clone(), event)).boxed());
    stream::select_all(watches).boxed()
}

fn on_lease(nodes: &SharedNodes, loads: &Loads, place: &Place, event: watcher::Result<Event<Lease>>) -> Vec<Change> {
    match &event {
        Ok(Event::Apply(lease) | Event::InitApply(lease)) => loads.see(lease),
        Ok(Event::Delete(lease)) => loads.forget(lease),
        Ok(Event::Init | Event::InitDone) | Err(_) => {}
    }
    let mut nodes = nodes.lock();
    let now = Instant::now();
    let change = match event {
        Ok(Event::Apply(lease) | Event::InitApply(lease)) => observe(&mut nodes, &lease, now),
        Ok(Event::Delete(lease)) => nodes.lease_gone(&key(&lease)),
        Ok(Event::Init) => {
            nodes.contact(now);
            None
        }
        Ok(Event::InitDone) => {
            nodes.contact(now);
            nodes.listed(Listed::Leases, place)
        }
        Err(error) => {
            tracing::debug!(%error, "the watch of Leases broke");
            nodes.lost_contact();
            None
        }
    };
    change.into_iter().collect()
}

fn on_pod(
    nodes: &SharedNodes,
    listed: &mut BTreeSet<NodeKey>,
    place: &Place,
    event: watcher::Result<Event<Pod>>,
) -> Vec<Change> {
    let mut nodes = nodes.lock();
    match event {
        Ok(Event::Init) => listed.clear(),
        Ok(Event::InitApply(pod)) => {
            listed.insert(key(&pod));
            return seen(&mut nodes, &pod);
        }
        Ok(Event::InitDone) => {
            let mut changes = nodes.pods_listed(place.as_deref(), &std::mem::take(listed));
            changes.extend(nodes.listed(Listed::Pods, place));
            return changes;
        }
        Ok(Event::Apply(pod)) => return seen(&mut nodes, &pod),
        Ok(Event::Delete(pod)) => return nodes.pod_gone(&key(&pod)).into_iter().collect(),
        Err(error) => {
            tracing::debug!(%error, "the watch of pods broke");
            nodes.lost_contact();
        }
    }
    Vec::new()
}

fn seen(nodes: &mut Nodes, pod: &Pod) -> Vec<Change> {
    let node = key(pod);
    nodes.pod(node.clone(), pod.metadata.deletion_timestamp.is_some() || is_ready(pod) == Some(false));
    down(pod).and_then(|next| nodes.container_down(&node, next)).into_iter().collect()
}

/// What the pod's readiness probe says, once there is a kubelet that asks it.
pub(crate) fn is_ready(pod: &Pod) -> Option<bool> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready").map(|condition| condition.status == "True")
}

/// What follows when nothing of the pod runs, nor will for some time: it has failed as a whole, or its container died and the kubelet
/// puts the next start off. A container that is started again at once says itself, sooner, which sessions it no longer has.
fn down(pod: &Pod) -> Option<Next> {
    let status = pod.status.clone().unwrap_or_default();
    let over = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
    let put_off = |container: &ContainerStatus| {
        let has_died = container.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
        has_died && container.state.as_ref().is_some_and(|state| state.waiting.is_some())
    };
    let is_put_off = status.container_statuses.iter().flatten().any(put_off);
    if over { Some(Next::Nothing) } else { is_put_off.then_some(Next::Start) }
}

/// Reads the Leases of overdue nodes: an unchanged one proves that the connection works and the node is silent.
async fn probe(client: &Client, nodes: &SharedNodes) -> Vec<Change> {
    let suspects = nodes.lock().suspects(Instant::now());
    let mut changes = Vec::new();
    for node in suspects {
        let api: Api<Lease> = Api::namespaced(client.clone(), &node.namespace);
        let answer = tokio::time::timeout(PROBE_TIMEOUT, api.get_opt(&node.name)).await;
        let mut nodes = nodes.lock();
        match answer {
            Ok(Ok(Some(lease))) => changes.extend(observe(&mut nodes, &lease, Instant::now())),
            Ok(Ok(None)) => nodes.contact(Instant::now()),
            Ok(Err(_)) | Err(_) => {
                nodes.lost_contact();
                break; // the others would only wait as long
            }
        }
    }
    changes.extend(nodes.lock().expire());
    changes
}

fn log(change: &Change) {
    match change {
        Change::Found { node, pool } => tracing::info!(%node, pool, "node.found"),
        Change::Lost { node, pool, cause } => tracing::info!(%node, pool, ?cause, "node.lost"),
        Change::Gone { node } => tracing::info!(%node, "node.gone"),
        Change::Turned { pool, now } => tracing::info!(%pool, ?now, "pool.turned"),
        Change::Listed { place } => tracing::debug!(place, "nodes.listed"),
    }
}

fn observe(nodes: &mut Nodes, lease: &Lease, now: Instant) -> Option<Change> {
    let spec = lease.spec.clone().unwrap_or_default();
    let renewal = format!("{:?}/{:?}", spec.holder_identity, spec.renew_time);
    let is_draining = lease.annotations().get(DRAINING_ANNOTATION).is_some_and(|value| value == "true");
    nodes.draining(&key(lease), is_draining);
    nodes.lease(key(lease), lease.labels().get(POOL_LABEL).cloned(), &renewal, now)
}

fn key<K: kube::Resource>(object: &K) -> NodeKey {
    NodeKey { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "default"}, "status": status})).unwrap()
    }

    #[test]
    fn a_container_whose_next_start_is_put_off_is_down() {
        let died = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let container = |state, last| {
            pod(&json!({"phase": "Running", "containerStatuses": [{
                "name": "media-node", "image": "", "imageID": "", "ready": false, "restartCount": 1,
                "state": state, "lastState": last,
            }]}))
        };

        assert_eq!(
            down(&container(json!({"waiting": {"reason": "CrashLoopBackOff"}}), died.clone())),
            Some(Next::Start)
        );
        assert_eq!(down(&pod(&json!({"phase": "Failed", "reason": "Evicted"}))), Some(Next::Nothing));
        assert_eq!(down(&container(json!({"running": {}}), died.clone())), None, "it runs again");
        assert_eq!(down(&container(died, json!({}))), None, "it is started again at once");
        assert_eq!(
            down(&container(json!({"waiting": {"reason": "ContainerCreating"}}), json!({}))),
            None,
            "it never ran"
        );
    }
}
