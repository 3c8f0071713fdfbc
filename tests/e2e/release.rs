//! A release of the chart in a namespace of the cluster, with a publisher's and a receiver's view of it.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use reqwest::Method;
use serde_json::{Value, json};
use tallylight_crds::{Broadcast, BroadcastState, BroadcastStatus, Session};
use tests::{
    cluster::{self, CLIENT, Cluster},
    http,
    media::{self, Publisher},
    receiver::{Receiver, Request},
    repository,
    s3::{self, S3},
    wait,
};
use tokio::{net::TcpStream, time::timeout};

pub(crate) const NAMESPACE: &str = "studio";
/// Of REST; the Secret `rest` holds it.
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// Of HTTP, at pods and their Service.
const USERS_PORT: u16 = 5080;
const MEDIA: &str = "app.kubernetes.io/component=media-node";
/// Storages of the pool: a claim that the pods of both machines mount, and a bucket.
pub(crate) const SHARED: &str = "shared";
pub(crate) const BUCKET: &str = "bucket";
/// The claim, its volume, and the Secret of the bucket.
const VODS: &str = "vods";
/// For what takes a moment on a quiet machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) struct Release {
    pub(crate) cluster: Cluster,
    pub(crate) admin: Client,
    pub(crate) receiver: Receiver,
    pub(crate) s3: S3,
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
        let s3 = S3::start_on(Ipv4Addr::from(CLIENT), &[VODS]).await?;
        let admin = cluster.client().await?;
        let work = repository::folder("e2e")?;
        let mut release = Self { cluster, admin, receiver, s3, work, ready_after: Duration::ZERO };
        let token = format!("--from-literal=token={TOKEN}");
        release.kubectl(&["create", "secret", "generic", "rest", &token]).await?;
        release.storages().await?;
        let begin = Instant::now();
        release.helm("install", &[]).await?;
        release.kubectl(&["rollout", "status", "deployment/tallylight-operator", "--timeout=60s"]).await?;
        // the operator that leads makes it
        release.kubectl(&["wait", "--for=create", "mediapool/live", "--timeout=60s"]).await?;
        release.kubectl(&["wait", "--for=condition=Ready", "mediapool/live", "--timeout=60s"]).await?;
        release.media_nodes(2).await?;
        release.ready_after = begin.elapsed();
        release.cluster.enter_by(1).await?;
        release.broadcasts(&["show".to_owned()]).await?;
        Ok(release)
    }

    /// Makes what the storages need. The volume is `local` and not `hostPath`: the kubelet gives that one to the pod's group.
    async fn storages(&self) -> Result<()> {
        let folder = self.shared_folder();
        std::fs::create_dir(&folder)?;
        let (size, modes) = (json!({"storage": "1Gi"}), json!(["ReadWriteMany"]));
        let machines = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "Exists"}]}]);
        let items = json!([
            {
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": VODS},
                "spec": {
                    "capacity": size, "accessModes": modes, "storageClassName": "", "persistentVolumeReclaimPolicy": "Retain",
                    "local": {"path": folder}, "nodeAffinity": {"required": {"nodeSelectorTerms": machines}},
                },
            },
            {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": VODS},
                "spec": {"accessModes": modes, "storageClassName": "", "volumeName": VODS, "resources": {"requests": size}},
            },
            {
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": VODS},
                "stringData": {"access-key-id": s3::KEY_ID, "secret-access-key": s3::SECRET},
            },
        ]);
        self.apply(&items).await
    }

    /// What is in the storage that the nodes share.
    pub(crate) fn shared_folder(&self) -> PathBuf {
        self.cluster.folder().join(SHARED)
    }

    async fn apply(&self, items: &Value) -> Result<()> {
        let file = self.folder().join("applied.json");
        std::fs::write(&file, json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
        self.kubectl(&["apply", "-f", &file.display().to_string()]).await.map(drop)
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
        // pods know no names of the test's network, and neither does the test: the address is one that both reach
        let storages = json!([
            {"name": SHARED, "volume": {"claimName": VODS}},
            {"name": BUCKET, "s3": {"bucket": VODS, "prefix": "live", "endpoint": self.s3.url(), "secretRef": {"name": VODS}}},
        ]);
        let storages = format!("mediaPool.storages={storages}");
        arguments.extend(["--set-json", &storages]);
        self.cluster.helm("helm", &arguments).await.map(drop)
    }

    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["--namespace", NAMESPACE];
        all.extend(arguments);
        self.cluster.kubectl(&all).await
    }

    /// Makes Broadcasts whose hooks go to the receiver by name, and waits until they would take a publisher.
    pub(crate) async fn broadcasts(&self, names: &[String]) -> Result<()> {
        self.broadcasts_with(names, &json!({})).await
    }

    /// As [`Release::broadcasts`], with more in their specs.
    pub(crate) async fn broadcasts_with(&self, names: &[String], spec: &Value) -> Result<()> {
        let hook_url = format!("http://client.rig:{}/hook", self.receiver.port());
        let broadcast = |name: &String| {
            let mut broadcast = json!({
                "apiVersion": "tallylight.dev/v1alpha1", "kind": "Broadcast", "metadata": {"name": name},
                "spec": {"pool": "live", "listenerHookURL": hook_url},
            });
            json_patch::merge(&mut broadcast["spec"], spec);
            broadcast
        };
        self.apply(&names.iter().map(broadcast).collect()).await?;
        let made: Vec<_> = names.iter().map(|name| format!("broadcast/{name}")).collect();
        let mut arguments = vec!["wait", "--for=condition=Ready", "--timeout=60s"];
        arguments.extend(made.iter().map(String::as_str));
        self.kubectl(&arguments).await.map(drop)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.work.path()
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.admin.clone(), NAMESPACE)
    }

    /// Waits for this many ready media pods that are not leaving, and returns them by name.
    pub(crate) async fn media_nodes(&self, count: usize) -> Result<BTreeMap<String, Pod>> {
        self.media_nodes_when(&format!("{count} ready media pods"), |ready, _| ready.len() >= count).await
    }

    /// Waits until two ready media pods are all that there is, none of them one of `before`.
    pub(crate) async fn replaced(&self, before: &BTreeMap<String, Pod>) -> Result<BTreeMap<String, Pod>> {
        self.media_nodes_when("other media pods in their places", |ready, all| {
            ready.len() == 2 && all == 2 && ready.keys().all(|name| !before.contains_key(name))
        })
        .await
    }

    /// Brings one media pod to each machine, as the scheduler likes it without promising it, and returns them by machine.
    pub(crate) async fn spread(&self) -> Result<BTreeMap<u32, Pod>> {
        let by_machine = |pods: &BTreeMap<String, Pod>| -> Result<BTreeMap<u32, Pod>> {
            pods.values().map(|pod| Ok((machine(pod)?, pod.clone()))).collect()
        };
        let pods = self.media_nodes(2).await?;
        let found = by_machine(&pods)?;
        if found.len() == 2 {
            return Ok(found);
        }
        let full = format!("node-{}", found.keys().next().context("no media pod")?);
        self.cluster.kubectl(&["cordon", &full]).await?;
        // All but one: there may be more than the pool asks for.
        for name in pods.keys().skip(1) {
            self.kubectl(&["delete", "pod", name]).await?;
        }
        let is_spread =
            |ready: &BTreeMap<String, Pod>, _| by_machine(ready).is_ok_and(|by_machine| by_machine.len() == 2);
        let pods = self.media_nodes_when("a media pod on each machine", is_spread).await?;
        self.cluster.kubectl(&["uncordon", &full]).await?;
        by_machine(&pods)
    }

    /// Waits until the ready media pods that are not leaving, and the count of all that there are, are as wanted.
    async fn media_nodes_when(
        &self,
        what: &str,
        is_so: impl Fn(&BTreeMap<String, Pod>, usize) -> bool,
    ) -> Result<BTreeMap<String, Pod>> {
        wait::until(what, SOON * 3, async || {
            let found = self.all_media_nodes().await.map_err(|error| format!("{error:#}"))?;
            let ready: BTreeMap<_, _> =
                found.iter().filter(|pod| is_ready(pod)).map(|pod| (pod.name_any(), pod.clone())).collect();
            let all: Vec<_> = found.iter().map(|pod| format!("{} {:?}", pod.name_any(), pod.status)).collect();
            if is_so(&ready, found.len()) { Ok(ready) } else { Err(all.join("; ")) }
        })
        .await
    }

    pub(crate) async fn all_media_nodes(&self) -> Result<Vec<Pod>> {
        Ok(self.pods().list(&ListParams::default().labels(MEDIA)).await?.items)
    }

    /// Deletes a pod at once, whatever it does; its container may run on for a moment.
    pub(crate) async fn delete_by_force(&self, pod: &str) -> Result<()> {
        self.kubectl(&["delete", "pod", pod, "--grace-period=0", "--force", "--wait=false"]).await.map(drop)
    }

    /// The address of the pool for publishers: the Service's own.
    pub(crate) async fn service_url(&self, broadcast: &str) -> Result<String> {
        Ok(format!("rtmp://{}:1935/LiveApp/{broadcast}", self.service_address().await?))
    }

    /// What REST says of a Broadcast, asked for at the same address.
    pub(crate) async fn rest(&self, broadcast: &str) -> Result<Value> {
        let address = self.http_address().await?;
        let path = format!("/LiveApp/rest/v2/broadcasts/{broadcast}");
        let answer = http::request_as(Some(TOKEN), Method::GET, &address, &path, None).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        answer.json()
    }

    /// Where a pod of the Service serves HTTP to users.
    pub(crate) async fn http_address(&self) -> Result<String> {
        Ok(format!("{}:{USERS_PORT}", self.service_address().await?))
    }

    /// Waits until the Service leads to pods that answer and to no other: an encoder that is sent to a machine which is off hears nothing
    /// until its own time is over.
    pub(crate) async fn leads_to_the_living(&self) -> Result<()> {
        /// Each is led to one of two pods by chance: all of them miss one once in 4,096 times.
        const TRIES: usize = 12;
        const ANSWER: Duration = Duration::from_secs(1);
        let address = format!("{}:1935", self.service_address().await?);
        wait::until("the Service to lead to the living", SOON, async || {
            for _ in 0..TRIES {
                let connected = timeout(ANSWER, TcpStream::connect(&address)).await;
                connected.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(())
        })
        .await
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
        let node = self.status(broadcast).await?.session.node.context("nobody has the session")?;
        Ok(self.pods().get(&node).await?)
    }

    pub(crate) async fn status(&self, broadcast: &str) -> Result<BroadcastStatus> {
        let broadcasts = Api::<Broadcast>::namespaced(self.admin.clone(), NAMESPACE);
        Ok(broadcasts.get(broadcast).await?.status_or_default())
    }

    /// Waits until the Broadcast is in this state, and returns its session.
    pub(crate) async fn until(&self, broadcast: &str, state: BroadcastState) -> Result<Session> {
        wait::until(format!("{broadcast} to be {state:?}"), SOON, async || {
            let found = self.status(broadcast).await.map_err(|error| format!("{error:#}"))?;
            if found.state == state { Ok(found.session) } else { Err(format!("{found:?}")) }
        })
        .await
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

/// Where users reach this one pod over HTTP.
pub(crate) fn http_address(pod: &Pod) -> Result<String> {
    Ok(format!("{}:{USERS_PORT}", address(pod)?))
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
    // The value that so many percent of all are no greater than.
    let percentile = |percent: usize| seconds.get((seconds.len() * percent).div_ceil(100).saturating_sub(1));
    if let (Some(half), Some(most)) = (percentile(50), percentile(99)) {
        println!("{what}: {} times, p50 {half:.2} s, p99 {most:.2} s: {seconds:.2?}", seconds.len());
    }
}
