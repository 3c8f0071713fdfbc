//! A release of the chart in a namespace of the cluster, with a publisher's and a receiver's view of it.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use reqwest::Method;
use serde_json::{Value, json};
use tallylight_crds::Broadcast;
use tests::{
    cluster::{self, CLIENT, Cluster},
    http,
    media::{self, Publisher},
    receiver::{Receiver, Request},
    repository, wait,
};

pub(crate) const NAMESPACE: &str = "studio";
/// Of REST; the Secret `rest` holds it.
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const MEDIA: &str = "app.kubernetes.io/component=media-node";
/// For what takes a moment on a quiet machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) struct Release {
    pub(crate) cluster: Cluster,
    pub(crate) admin: Client,
    pub(crate) receiver: Receiver,
    pub(crate) work: tempfile::TempDir,
    /// From `helm install` until all is ready.
    pub(crate) ready_after: Duration,
}

impl Release {
    /// Installs the chart with two operators and two media nodes, and a Broadcast `show`.
    pub(crate) async fn install() -> Result<Self> {
        let images = cluster::images()?;
        media::clip().await?;
        let cluster = Cluster::start().await?;
        cluster.load_images(&images).await?;
        cluster.kubectl(&["create", "namespace", NAMESPACE]).await?;
        cluster.kubectl(&["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"]).await?;
        let receiver = Receiver::start_on(Ipv4Addr::from(CLIENT)).await?;
        let admin = cluster.client().await?;
        let work = repository::folder("e2e")?;
        let begin = Instant::now();
        let mut release = Self { cluster, admin, receiver, work, ready_after: Duration::ZERO };
        let token = format!("--from-literal=token={TOKEN}");
        release.kubectl(&["create", "secret", "generic", "rest", &token]).await?;
        release.helm("install", &[]).await?;
        release.kubectl(&["rollout", "status", "deployment/tallylight-operator", "--timeout=60s"]).await?;
        release.kubectl(&["wait", "--for=condition=Ready", "mediapool/live", "--timeout=60s"]).await?;
        release.media_nodes(2).await?;
        release.ready_after = begin.elapsed();
        release.cluster.enter_by(1).await?;
        release.broadcast("show").await?;
        Ok(release)
    }

    /// Runs `helm install` or `helm upgrade` with the values of this suite and `more`.
    pub(crate) async fn helm(&self, verb: &str, more: &[&str]) -> Result<()> {
        let chart = repository::root().join("charts/tallylight").display().to_string();
        let mut arguments = vec![verb, "tallylight", &chart, "--namespace", NAMESPACE];
        let values = [
            "operator.image.repository=localhost/tallylight/operator",
            "operator.image.tag=test",
            "mediaNode.image.repository=localhost/tallylight/media-node",
            "mediaNode.image.tag=test",
            "mediaNode.replicas=2",
            "operator.rest.tokenSecret.name=rest",
            // three pods on two machines is what a test can lose
            "mediaPool.nodes.maxNodes=4",
        ];
        for value in values.iter().chain(more) {
            arguments.extend(["--set", value]);
        }
        self.cluster.helm("helm", &arguments).await.map(drop)
    }

    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["--namespace", NAMESPACE];
        all.extend(arguments);
        self.cluster.kubectl(&all).await
    }

    /// Makes a Broadcast whose hooks go to the receiver by name, and waits until it would take a publisher.
    pub(crate) async fn broadcast(&self, name: &str) -> Result<()> {
        let manifest = json!({
            "apiVersion": "tallylight.dev/v1alpha1", "kind": "Broadcast", "metadata": {"name": name},
            "spec": {"pool": "live", "listenerHookURL": format!("http://client.rig:{}/hook", self.receiver.port())},
        });
        let file = self.folder().join(format!("{name}.json"));
        std::fs::write(&file, manifest.to_string())?;
        self.kubectl(&["apply", "-f", &file.display().to_string()]).await?;
        let broadcast = format!("broadcast/{name}");
        self.kubectl(&["wait", "--for=condition=Ready", &broadcast, "--timeout=60s"]).await.map(drop)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.work.path()
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.admin.clone(), NAMESPACE)
    }

    /// Waits for this many ready media pods that are not leaving, and returns them by name.
    pub(crate) async fn media_nodes(&self, count: usize) -> Result<BTreeMap<String, Pod>> {
        let pods = self.pods();
        wait::until(format!("{count} ready media pods"), SOON * 3, async || {
            let found = pods.list(&ListParams::default().labels(MEDIA)).await.map_err(|error| error.to_string())?;
            let ready: BTreeMap<_, _> =
                found.items.iter().filter(|pod| is_ready(pod)).map(|pod| (pod.name_any(), pod.clone())).collect();
            let all: Vec<_> = found.items.iter().map(|pod| format!("{} {:?}", pod.name_any(), pod.status)).collect();
            if ready.len() >= count { Ok(ready) } else { Err(all.join("; ")) }
        })
        .await
    }

    /// The address of the pool for publishers: the Service's own.
    pub(crate) async fn service_url(&self, broadcast: &str) -> Result<String> {
        Ok(format!("rtmp://{}:1935/LiveApp/{broadcast}", self.service_address().await?))
    }

    /// What REST says of a Broadcast, asked for at the same address.
    pub(crate) async fn rest(&self, broadcast: &str) -> Result<Value> {
        let address = format!("{}:5080", self.service_address().await?);
        let path = format!("/LiveApp/rest/v2/broadcasts/{broadcast}");
        let answer = http::request_as(Some(TOKEN), Method::GET, &address, &path, None).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        answer.json()
    }

    async fn service_address(&self) -> Result<String> {
        let service = Api::<Service>::namespaced(self.admin.clone(), NAMESPACE).get("media-live").await?;
        service.spec.and_then(|spec| spec.cluster_ip).context("the Service has no address")
    }

    pub(crate) async fn publish(&self, name: &str, url: &str) -> Result<Publisher> {
        Publisher::ffmpeg(self.folder(), name, url).await
    }

    /// Returns the pod that has the Broadcast's session.
    pub(crate) async fn owner(&self, broadcast: &str) -> Result<Pod> {
        let found = Api::<Broadcast>::namespaced(self.admin.clone(), NAMESPACE).get(broadcast).await?;
        let node = found.status_or_default().session.node.context("nobody has the session")?;
        Ok(self.pods().get(&node).await?)
    }

    /// Waits for the next hook and returns it, with the time since `begin`.
    pub(crate) async fn hook(&self, count: usize, begin: Instant, deadline: Duration) -> Result<(Request, Duration)> {
        let accepted = self.receiver.wait_for(count, deadline).await?;
        let elapsed = begin.elapsed();
        Ok((accepted.get(count - 1).context("no hook")?.clone(), elapsed))
    }

    /// Kills the pod's container as the kernel does when memory runs out.
    pub(crate) async fn kill_container(&self, pod: &Pod) -> Result<()> {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default();
        let id = statuses.first().and_then(|status| status.container_id.clone()).context("no container")?;
        let id = id.trim_start_matches("containerd://").to_owned();
        self.cluster
            .inside(machine(pod)?, &["ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", &id])
            .await
            .map(drop)
    }
}

/// The number of the machine that a pod is on.
pub(crate) fn machine(pod: &Pod) -> Result<u32> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).context("the pod has no machine")?;
    Ok(node.trim_start_matches("node-").parse()?)
}

pub(crate) fn address(pod: &Pod) -> Result<String> {
    pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("the pod has no address")
}

/// Where publishers and players reach this one pod.
pub(crate) fn url(pod: &Pod, broadcast: &str) -> Result<String> {
    Ok(format!("rtmp://{}:1935/LiveApp/{broadcast}", address(pod)?))
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// Asserts what a hook says.
pub(crate) fn expect(hook: &Request, action: &str, reason: Option<&str>) -> Result<()> {
    let found = (hook.action(), hook.field("reason"));
    ensure!(found == (action.to_owned(), reason.map(str::to_owned)), "{found:?} is not {action} {reason:?}");
    Ok(())
}

/// Shown with `--nocapture`: what BENCHMARKS.md records.
#[expect(clippy::print_stdout, reason = "what a person reads and records")]
pub(crate) fn report(what: &str, times: &[Duration]) {
    let mut seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    seconds.sort_by(f64::total_cmp);
    println!("{what}: {seconds:.2?} s");
}
