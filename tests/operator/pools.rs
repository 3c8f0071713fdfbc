//! Pools whose nodes the operator makes, under the chart's rights: it grows, shrinks, updates and repairs them, and never at the
//! cost of a session.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Namespace, Pod, Service as KubeService},
    events::v1::Event,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tallylight_crds::{Broadcast, MediaPool};
use tempfile::TempDir;
use tests::{
    install::{self, Tenant},
    kubelet::Kubelet,
    repository,
    service::{Launch, Service},
    status::{claim, end, send},
    wait,
};

use crate::chart::kubectl;

/// Within this everything happens that is not waiting for a rule; a busy machine is slow.
const SOON: Duration = Duration::from_secs(60);
/// An idle node goes after a minute.
const SCALE_IN: Duration = Duration::from_secs(180);

pub(crate) struct Stage {
    // Dropped in this order: the operator before what it talks to.
    operator: Service,
    kubelet: Kubelet,
    pub(crate) tenant: Tenant,
    _folder: TempDir,
}

impl Stage {
    /// An operator, a kubelet, and the pool `live` with these nodes.
    pub(crate) async fn new(name: &str, nodes: Value) -> Result<Self> {
        Self::of(name, &spec(&nodes)).await
    }

    /// As [`Stage::new`], with this spec of the pool.
    async fn of(name: &str, pool: &Value) -> Result<Self> {
        let tenant = install::tenant(name).await?;
        let folder = repository::folder(name)?;
        let kubeconfig = tenant.operator_kubeconfig(folder.path()).await?;
        let launch = Launch::operator(folder.path(), &kubeconfig, &tenant.namespace);
        let operator = launch.args(["--media-node-image=localhost/tallylight/media-node:test"]).start().await?;
        let kubelet = Kubelet::start(tenant.admin.clone(), &tenant.namespace);
        tenant.pool(pool).await?;
        Ok(Self { operator, kubelet, tenant, _folder: folder })
    }

    pub(crate) async fn pool(&self, nodes: &Value) -> Result<()> {
        self.tenant.pool(&spec(nodes)).await
    }

    /// Lets only pods into the namespace that keep to the restricted Pod Security standard.
    async fn restrict(&self) -> Result<()> {
        let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
        let namespaces: Api<Namespace> = Api::all(self.tenant.admin.clone());
        namespaces.patch(&self.tenant.namespace, &PatchParams::default(), &Patch::Merge(label)).await?;
        Ok(())
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.tenant.admin.clone(), &self.tenant.namespace)
    }

    async fn list(&self) -> Result<Vec<Pod>> {
        let ours = ListParams::default().labels("tallylight.dev/pool=live,app.kubernetes.io/component=media-node");
        Ok(self.pods().list(&ours).await?.items)
    }

    /// Waits until exactly `count` pods are there, all of them ready and none of them stopping.
    pub(crate) async fn settled(&self, count: usize, deadline: Duration) -> Result<Vec<Pod>> {
        wait::until(format!("{count} ready media pods"), deadline, async || {
            let pods = self.list().await.map_err(|error| format!("{error:#}"))?;
            let is_well = |pod: &Pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
            if pods.len() == count && pods.iter().all(is_well) { Ok(pods) } else { Err(format!("{:?}", shown(&pods))) }
        })
        .await
    }

    /// Waits until the pod is told to stop.
    async fn stopping(&self, deadline: Duration) -> Result<Pod> {
        wait::until("a media pod to be stopped", deadline, async || {
            let pods = self.list().await.map_err(|error| format!("{error:#}"))?;
            let stopping = pods.iter().find(|pod| pod.metadata.deletion_timestamp.is_some()).cloned();
            stopping.ok_or_else(|| format!("{:?}", shown(&pods)))
        })
        .await
    }

    /// Opens the first session of a new Broadcast on this pod.
    async fn publish(&self, broadcast: &str, pod: &str) -> Result<()> {
        self.tenant.broadcast(broadcast, &json!({})).await?;
        send(&self.tenant.admin, &self.tenant.namespace, broadcast, &claim(pod, 1, 1, 0)).await?;
        Ok(())
    }

    async fn unpublish(&self, broadcast: &str) -> Result<()> {
        // The start has been acknowledged, or not: the log knows.
        wait::until("the session to end", SOON, async || {
            send(&self.tenant.admin, &self.tenant.namespace, broadcast, &end(1, 1)).await.map_err(|e| e.to_string())
        })
        .await?;
        Ok(())
    }

    async fn labelled_live(&self, pod: &str, is_live: bool) -> Result<()> {
        wait::until(format!("the label of {pod} to say {is_live}"), SOON, async || {
            let pod = self.pods().get(pod).await.map_err(|error| error.to_string())?;
            let found = pod.labels().contains_key("tallylight.dev/live");
            if found == is_live { Ok(()) } else { Err(format!("{:?}", pod.labels())) }
        })
        .await
    }

    pub(crate) async fn status(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        let pools: Api<MediaPool> = Api::namespaced(self.tenant.admin.clone(), &self.tenant.namespace);
        wait::until(format!("the pool's status to show {what}"), SOON, async || {
            let pool = pools.get("live").await.map_err(|error| error.to_string())?;
            let status = serde_json::to_value(pool.status).map_err(|error| error.to_string())?;
            if is_it(&status) { Ok(status) } else { Err(status.to_string()) }
        })
        .await
    }

    pub(crate) fn scale(&self, nodes: usize) -> Result<()> {
        let replicas = format!("--replicas={nodes}");
        kubectl(self.tenant.plane, &self.tenant.namespace, &["scale", "mediapool", "live", &replicas])?;
        Ok(())
    }

    /// Every request of the operator was allowed, and it still runs.
    pub(crate) fn nothing_was_refused(&mut self) -> Result<()> {
        self.operator.process.must_run()?;
        let refused: Vec<_> = self.tenant.plane.calls(&self.tenant.namespace)?;
        let refused: Vec<_> =
            refused.iter().filter(|call| call.account == "tallylight-operator" && call.status == 403).collect();
        assert!(refused.is_empty(), "the chart's role lacks rights: {refused:?}");
        Ok(())
    }
}

/// A pool's spec; without nodes others make them.
fn spec(nodes: &Value) -> Value {
    if nodes.is_null() { json!({}) } else { json!({"nodes": nodes}) }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn shown(pods: &[Pod]) -> Vec<String> {
    pods.iter()
        .map(|pod| format!("{} ready={} stop={:?}", pod.name_any(), is_ready(pod), pod.metadata.deletion_timestamp))
        .collect()
}

pub(crate) fn names(pods: &[Pod]) -> BTreeSet<String> {
    pods.iter().map(ResourceExt::name_any).collect()
}

fn condition(status: &Value, kind: &str) -> String {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default();
    format!("{} {}", found["status"].as_str().unwrap_or_default(), found["reason"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn a_pool_has_its_fewest_nodes_and_kubectl_scales_it() -> Result<()> {
    let mut stage = Stage::new("pool-scale", Value::Null).await?;
    stage.restrict().await?;
    stage.pool(&json!({"minNodes": 2})).await?;

    let pods = stage.settled(2, SOON).await?;
    for pod in &pods {
        assert!(pod.name_any().starts_with("media-live-"), "{}", pod.name_any());
        assert_eq!(pod.spec.as_ref().unwrap().service_account_name.as_deref(), Some("tallylight-media"));
    }
    let status = stage.status("two ready nodes", |status| status["readyReplicas"] == 2).await?;
    assert_eq!(condition(&status, "Ready"), "True NodesReady");
    assert_eq!(condition(&status, "CapacityMet"), "True Enough");
    assert_eq!(status["readyCapacity"], 200);

    stage.scale(3)?;
    stage.settled(3, SOON).await?;
    stage.scale(1)?;
    let left = stage.settled(1, SOON).await?;

    assert!(names(&pods).is_superset(&names(&left)), "the youngest goes first: {:?}", names(&left));
    let scale: Value = serde_json::from_str(&kubectl(
        stage.tenant.plane,
        &stage.tenant.namespace,
        &[
            "get",
            "--raw",
            &format!("/apis/tallylight.dev/v1alpha1/namespaces/{}/mediapools/live/scale", stage.tenant.namespace),
        ],
    )?)?;
    assert_eq!(scale["spec"]["replicas"], 1);
    assert!(scale["status"]["selector"].as_str().is_some_and(|text| text.contains("tallylight.dev/pool=live")));
    stage.nothing_was_refused()
}

#[tokio::test]
async fn a_pool_grows_with_its_sessions_and_shrinks_one_idle_node_at_a_time() -> Result<()> {
    let nodes = json!({"minNodes": 1, "maxNodes": 3, "minReadyCapacity": 1, "capacity": {"sessions": 1}});
    let mut stage = Stage::new("pool-grow", nodes).await?;
    let first = stage.settled(1, SOON).await?.remove(0).name_any();

    stage.publish("one", &first).await?;
    let two = stage.settled(2, SOON).await?;
    let second = names(&two).into_iter().find(|name| *name != first).context("the new one")?;
    stage.publish("two", &second).await?;
    stage.settled(3, SOON).await?;
    stage.unpublish("two").await?;
    let after = stage.settled(2, SCALE_IN).await?;

    assert!(names(&after).contains(&first), "the node with a session stays");
    stage.nothing_was_refused()
}

#[tokio::test]
async fn a_node_that_sends_as_much_as_it_may_counts_as_full() -> Result<()> {
    let capacity = json!({"sessions": 10, "megabitsPerSecondOut": 50});
    let nodes = json!({"minNodes": 1, "maxNodes": 2, "minReadyCapacity": 5, "capacity": capacity});
    let mut stage = Stage::new("pool-load", nodes).await?;
    let first = stage.settled(1, SOON).await?.remove(0).name_any();

    stage.kubelet.report(&first, json!({"tallylight.dev/megabits-per-second-out": "50"}));
    stage.settled(2, SOON).await?;

    let status = stage.status("the other node's room", |status| status["readyCapacity"] == 10).await?;
    assert_eq!(condition(&status, "CapacityMet"), "True Enough");
    stage.nothing_was_refused()
}

#[tokio::test]
async fn a_media_node_tells_its_load_in_its_lease() -> Result<()> {
    let tenant = install::tenant("pool-lease").await?;
    tenant.pool(&json!({})).await?;
    let folder = repository::folder("pool-lease")?;
    let credential = tenant.media_pod("live", "media-live-1").await?;
    let kubeconfig = tenant.plane.kubeconfig(folder.path(), "media", &credential, &tenant.namespace)?;
    let launch = Launch::media_node(folder.path(), &kubeconfig, &tenant.namespace, "live", "media-live-1");
    let _node = launch.start().await?;

    let lease = Api::<Lease>::namespaced(tenant.admin.clone(), &tenant.namespace).get("media-live-1").await?;

    let number = |key: &str| lease.annotations().get(key).and_then(|text| text.parse::<u64>().ok());
    assert_eq!(number("tallylight.dev/sessions"), Some(0));
    assert_eq!(number("tallylight.dev/megabits-per-second-out"), Some(0));
    assert!(number("tallylight.dev/cpu-percent").is_some());
    // An operator of the last release reads it.
    let released: Lease = serde_json::from_str(include_str!("../fixtures/0.1.0/lease.json"))?;
    let keys = |lease: &Lease| -> BTreeSet<String> { lease.annotations().keys().cloned().collect() };
    assert!(keys(&lease).is_superset(&keys(&released)), "{lease:?}");
    assert_eq!(lease.labels(), released.labels());
    Ok(())
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_the_api_server() -> Result<()> {
    let tenant = install::tenant("pool-schema").await?;
    for (nodes, message) in [
        (json!({"minNodes": 3, "maxNodes": 2}), "maxNodes must not be less than minNodes"),
        (json!({"portRange": {"first": 7000, "last": 7010}}), "portRange is for exposure HostPort only"),
        (
            json!({"exposure": "HostPort", "portRange": {"first": 8000, "last": 7000}}),
            "first must not be greater than last",
        ),
        (json!({"service": {"loadBalancerClass": "x"}}), "service.loadBalancerClass is for exposure LoadBalancer only"),
        (json!({"drainTimeoutSeconds": 0}), "drainTimeoutSeconds"),
        (json!({"advertiseHost": "live.example.com:1935"}), "advertiseHost must be a DNS name"),
        (json!({"advertiseHost": "999.1.1.1"}), "advertiseHost must be a DNS name"),
        (json!({"exposure": "NodePort"}), "exposure"),
    ] {
        let refused = tenant.pool(&json!({"nodes": nodes})).await;
        let text = format!("{:#}", refused.err().with_context(|| format!("{nodes} was accepted"))?);
        assert!(text.contains(message), "{nodes}: {text}");
    }

    for host in ["live.example.com", "192.0.2.7", "2001:db8::7"] {
        tenant.pool(&json!({"nodes": {"advertiseHost": host}})).await.context(host)?;
    }
    tenant.pool(&json!({"nodes": {"minNodes": 1, "maxNodes": 2}})).await?;
    let scaled = kubectl(tenant.plane, &tenant.namespace, &["scale", "mediapool", "live", "--replicas=3"]);
    let text = format!("{:#}", scaled.err().context("scaled beyond maxNodes")?);
    assert!(text.contains("maxNodes must not be less than minNodes"), "{text}");
    Ok(())
}

#[tokio::test]
async fn an_update_replaces_nodes_one_at_a_time_and_waits_for_sessions() -> Result<()> {
    let mut stage = Stage::new("pool-update", json!({"minNodes": 2})).await?;
    let before = stage.settled(2, SOON).await?;
    let (live, idle) = (before[0].name_any(), before[1].name_any());
    stage.publish("show", &live).await?;
    stage.labelled_live(&live, true).await?;
    stage.kubelet.linger(&live);
    stage.kubelet.linger(&idle);

    stage.pool(&json!({"minNodes": 2, "template": {"annotations": {"release": "two"}}})).await?;

    let stopping = stage.stopping(SOON).await?;
    assert_eq!(stopping.name_any(), idle, "the idle node goes first");
    assert_eq!(stage.list().await?.iter().filter(|pod| is_ready(pod)).count(), 3, "after its successor is ready");
    let one_at_a_time = async || {
        let stopping = stage.list().await?.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()).count();
        anyhow::ensure!(stopping <= 1, "{stopping} nodes are stopped at a time");
        Ok(())
    };
    wait::throughout("one node is stopping", Duration::from_secs(3), one_at_a_time).await?;
    stage.kubelet.finish(&idle);
    let stopping = wait::until("the live node to be stopped", SOON, async || {
        let pods = stage.list().await.map_err(|error| format!("{error:#}"))?;
        let pod = pods.iter().find(|pod| pod.name_any() == live && pod.metadata.deletion_timestamp.is_some());
        pod.cloned().ok_or_else(|| format!("{:?}", shown(&pods)))
    })
    .await?;
    assert_eq!(stopping.metadata.deletion_grace_period_seconds, Some(610), "its sessions have the drain time");
    stage.unpublish("show").await?;
    stage.kubelet.finish(&live);
    let after = stage.settled(2, SOON).await?;

    assert!(names(&after).is_disjoint(&names(&before)));
    stage.status("the update's end", |status| status["updatedReplicas"] == 2 && status["replicas"] == 2).await?;
    stage.nothing_was_refused()
}

#[tokio::test]
async fn a_failed_pod_is_replaced() -> Result<()> {
    let mut stage = Stage::new("pool-failed", json!({"minNodes": 1})).await?;
    let first = stage.settled(1, SOON).await?.remove(0).name_any();

    let failed = Patch::Strategic(json!({"status": {"phase": "Failed", "reason": "Evicted"}}));
    stage.pods().patch_status(&first, &PatchParams::default(), &failed).await?;
    let next = wait::until("another pod", SOON, async || {
        let pods = stage.list().await.map_err(|error| format!("{error:#}"))?;
        match &pods[..] {
            [pod] if pod.name_any() != first && is_ready(pod) => Ok(pod.name_any()),
            _ => Err(format!("{:?}", shown(&pods))),
        }
    })
    .await?;

    assert_ne!(next, first);
    stage.nothing_was_refused()
}

#[tokio::test]
async fn a_node_with_a_session_cannot_be_evicted_and_an_idle_one_can() -> Result<()> {
    let mut stage = Stage::new("pool-evict", json!({"minNodes": 2})).await?;
    let pods = stage.settled(2, SOON).await?;
    let (live, idle) = (pods[0].name_any(), pods[1].name_any());
    stage.publish("show", &live).await?;
    stage.labelled_live(&live, true).await?;

    let refused = stage.pods().evict(&live, &EvictParams::default()).await;
    let allowed = stage.pods().evict(&idle, &EvictParams::default()).await;

    assert!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 429), "{refused:?}");
    allowed.context("an idle node may be evicted")?;
    stage.unpublish("show").await?;
    stage.labelled_live(&live, false).await?;
    stage.pods().evict(&live, &EvictParams::default()).await.context("its session is over")?;
    stage.settled(2, SOON).await?;
    stage.nothing_was_refused()
}

#[tokio::test]
async fn with_a_reconnect_window_a_node_with_a_session_can_be_evicted() -> Result<()> {
    let pool = json!({"nodes": {"minNodes": 2}, "reconnectWindowSeconds": 30});
    let mut stage = Stage::of("pool-evict-window", &pool).await?;
    let live = stage.settled(2, SOON).await?.remove(0).name_any();
    stage.publish("show", &live).await?;
    let is_on_air =
        |broadcast: &Broadcast| broadcast.status_or_default().conditions.iter().any(|c| c.reason == "OnAir");
    stage.tenant.until("show", "to be seen by the operator", SOON, is_on_air).await?;

    wait::throughout("the node is not held", Duration::from_secs(2), async || {
        let pod = stage.pods().get(&live).await?;
        anyhow::ensure!(!pod.labels().contains_key("tallylight.dev/live"), "{:?}", pod.labels());
        Ok(())
    })
    .await?;
    stage.pods().evict(&live, &EvictParams::default()).await.context("its publisher goes on elsewhere")?;

    stage.settled(2, SOON).await?;
    stage.nothing_was_refused()
}

#[tokio::test]
async fn what_a_pool_has_goes_with_it() -> Result<()> {
    let mut stage = Stage::new("pool-gone", json!({"minNodes": 2})).await?;
    stage.settled(2, SOON).await?;
    let (client, namespace) = (stage.tenant.admin.clone(), &stage.tenant.namespace);
    let services: Api<KubeService> = Api::namespaced(client.clone(), namespace);
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), namespace);
    services.get("media-live").await?;
    budgets.get("media-live-live").await?;

    Api::<MediaPool>::namespaced(client, namespace).delete("live", &DeleteParams::default()).await?;

    wait::until("everything to be gone", SOON * 2, async || {
        let left = stage.list().await.map_err(|error| format!("{error:#}"))?.len();
        let service = services.get_opt("media-live").await.map_err(|error| error.to_string())?.is_some();
        let budget = budgets.get_opt("media-live-live").await.map_err(|error| error.to_string())?.is_some();
        if left == 0 && !service && !budget { Ok(()) } else { Err(format!("{left} pods, service {service}, {budget}")) }
    })
    .await?;
    stage.nothing_was_refused()
}

#[tokio::test]
async fn a_host_port_is_not_given_out_again_at_once() -> Result<()> {
    let nodes = json!({"minNodes": 1, "exposure": "HostPort", "portRange": {"first": 7000, "last": 7001}});
    let mut stage = Stage::new("pool-ports", nodes).await?;
    let port = |pods: &[Pod]| {
        let ports = pods[0].spec.as_ref().unwrap().containers[0].ports.clone().unwrap();
        ports.iter().find_map(|port| port.host_port)
    };
    let first = stage.settled(1, SOON).await?;
    assert_eq!(port(&first), Some(7000));

    stage.pods().delete(&first[0].name_any(), &DeleteParams::default()).await?;
    let second = wait::until("the next pod", SOON, async || {
        let pods = stage.list().await.map_err(|error| format!("{error:#}"))?;
        let is_next = |pod: &Pod| pod.name_any() != first[0].name_any() && is_ready(pod);
        if pods.len() == 1 && pods.iter().all(is_next) { Ok(pods) } else { Err(format!("{:?}", shown(&pods))) }
    })
    .await?;
    assert_eq!(port(&second), Some(7001));
    stage.pods().delete(&second[0].name_any(), &DeleteParams::default()).await?;

    let status = stage.status("that no port is free", |s| condition(s, "CapacityMet") == "False NoFreePort").await?;
    assert_eq!(status["replicas"], 0);
    stage.nothing_was_refused()
}

#[tokio::test]
async fn a_template_that_no_pod_can_have_is_reported_and_nodes_run_on() -> Result<()> {
    let mut stage = Stage::new("pool-template", json!({"minNodes": 1})).await?;
    let before = stage.settled(1, SOON).await?;

    stage.pool(&json!({"minNodes": 1, "template": {"tolerations": [{"kee": "spot"}]}})).await?;

    let status = stage.status("the reason", |status| condition(status, "Accepted") == "False InvalidTemplate").await?;
    assert!(status["conditions"].to_string().contains("spec.nodes.template.tolerations"), "{status}");
    assert_eq!(names(&stage.settled(1, SOON).await?), names(&before));
    stage.nothing_was_refused()
}

#[tokio::test]
async fn a_pool_whose_nodes_others_make_is_only_watched() -> Result<()> {
    let mut stage = Stage::new("pool-watched", Value::Null).await?;

    let status = stage.status("no node", |status| condition(status, "Ready") == "False NoMediaNode").await?;
    assert_eq!(status["replicas"], Value::Null);
    tests::identity::media_pod(&stage.tenant.admin, &stage.tenant.namespace, "live", "by-hand").await?;
    stage.status("a node", |status| condition(status, "Ready") == "True NodesServe").await?;

    assert_eq!(names(&stage.list().await?), BTreeSet::from(["by-hand".to_owned()]));
    let writes = stage.tenant.plane.writes(&stage.tenant.namespace)?;
    let pods: Vec<_> =
        writes.keys().filter(|write| write.contains("tallylight-operator") && write.contains("pods")).collect();
    assert!(pods.is_empty(), "{pods:?}");
    stage.nothing_was_refused()
}

#[tokio::test]
async fn a_paused_pool_keeps_its_nodes_as_they_are() -> Result<()> {
    let mut stage = Stage::new("pool-paused", json!({"minNodes": 1})).await?;
    let before = names(&stage.settled(1, SOON).await?);
    let pools: Api<MediaPool> = Api::namespaced(stage.tenant.admin.clone(), &stage.tenant.namespace);
    let pause = async |value: Value| {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"tallylight.dev/paused": value}}}));
        pools.patch("live", &PatchParams::default(), &patch).await
    };

    pause(json!("true")).await?;
    stage.status("that it is paused", |status| condition(status, "Paused") == "True Annotated").await?;
    stage.scale(2)?;
    stage.status("the new spec", |status| condition(status, "CapacityMet") == "False NodesStarting").await?;
    wait::throughout("the pool is paused", Duration::from_secs(3), async || {
        anyhow::ensure!(names(&stage.list().await?) == before, "a node was made or stopped");
        Ok(())
    })
    .await?;
    pause(Value::Null).await?;

    stage.settled(2, SOON).await?;
    stage.status("that it goes on", |status| condition(status, "Paused") == " ").await?;
    stage.nothing_was_refused()
}

#[tokio::test]
async fn what_happens_to_a_pool_is_told_in_events() -> Result<()> {
    let mut stage = Stage::new("pool-events", json!({"minNodes": 2})).await?;
    stage.settled(2, SOON).await?;
    let events: Api<Event> = Api::namespaced(stage.tenant.admin.clone(), &stage.tenant.namespace);
    let told = async |reason: &str| {
        wait::until(format!("an Event {reason}"), SOON, async || {
            let all = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
            let of_pool = all
                .into_iter()
                .filter(|e| e.regarding.as_ref().is_some_and(|r| r.kind.as_deref() == Some("MediaPool")));
            let reasons: Vec<String> = of_pool.filter_map(|event| event.reason).collect();
            if reasons.iter().any(|found| found == reason) { Ok(()) } else { Err(format!("{reasons:?}")) }
        })
        .await
    };

    told("ScaledOut").await?;
    stage.scale(1)?;
    told("ScaledIn").await?;
    stage.settled(1, SOON).await?;
    stage.pool(&json!({"minNodes": 1, "template": {"tolerations": [{"kee": "spot"}]}})).await?;
    told("SpecRejected").await?;
    stage.pool(&json!({"minNodes": 1, "template": {"annotations": {"release": "two"}}})).await?;
    told("UpdateStarted").await?;
    told("UpdateFinished").await?;
    stage.nothing_was_refused()
}
