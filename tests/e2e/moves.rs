//! Media pods that are taken away in good order, by a drain of their machine or an update of their pool. Without a reconnect window
//! they wait for their publishers; with one nothing ends, receivers hear nothing, and viewers of other pods stay.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tallylight_crds::{BroadcastState, LIVE_LABEL};
use tests::{
    encoder::{Encoder, Viewer},
    wait,
};

use crate::release::{NAMESPACE, Release, SOON, expect, machine, report, url};

const PUBLISHERS: usize = 8;
/// What lets publishers move, and gives each pod a port of its machine.
const MOVING: [&str; 2] = ["mediaPool.reconnectWindowSeconds=30", "mediaPool.nodes.exposure=HostPort"];

/// `kubectl drain` asks again until nobody is on air there, and the session ends when its publisher ends it.
pub(crate) async fn a_drain_waits_for_a_publisher_that_stays(release: &Release) -> Result<()> {
    let begin = release.receiver.accepted().len();
    let publisher = release.publish("stays", &release.service_url("show").await?).await?;
    release.receiver.wait_for(begin + 1, SOON).await?;
    let owner = release.owner("show").await?;
    wait::until("the pod to be held", SOON, async || {
        let pod = release.pods().get(&owner.name_any()).await.map_err(|error| error.to_string())?;
        if pod.labels().contains_key(LIVE_LABEL) { Ok(()) } else { Err(format!("{:?}", pod.labels())) }
    })
    .await?;
    let refused = drain(release, &owner, "3s").await.err().context("the drain did not wait")?.to_string();
    ensure!(refused.contains("disruption budget"), "{refused}");
    ensure!(release.receiver.accepted().len() == begin + 1, "the drain ended the session");
    publisher.stop().await?;
    let (end, _) = release.hook(begin + 2, Instant::now(), SOON).await?;
    expect(&end, "liveStreamEnded", Some("PublisherClosed"))?;
    drain(release, &owner, "120s").await?;
    release.cluster.kubectl(&["uncordon", &machine_name(&owner)?]).await?;
    release.media_nodes(2).await.map(drop)
}

/// Gives the pool a reconnect window, and takes pods away under publishers.
pub(crate) async fn sessions_outlive_their_pods(release: &Release) -> Result<()> {
    let before = release.media_nodes(2).await?;
    // Ports of machines are more than the stricter Pod Security standards allow.
    let label = ["label", "namespace", NAMESPACE, "--overwrite", "pod-security.kubernetes.io/enforce=privileged"];
    release.cluster.kubectl(&label).await?;
    release.helm("upgrade", &MOVING).await?;
    release.replaced(&before).await?;
    a_pod_is_reached_at_the_port_of_its_machine(release).await?;

    release.spread().await?;
    let publishers = Publishers::start(release).await?;
    publishers.outlive_a_drain().await?;
    publishers.outlive_an_update().await?;
    publishers.stop().await
}

async fn a_pod_is_reached_at_the_port_of_its_machine(release: &Release) -> Result<()> {
    let begin = release.receiver.accepted().len();
    let pods = release.media_nodes(2).await?;
    let pod = pods.values().next().context("no media pod")?;
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let port = containers.flat_map(|container| container.ports.iter().flatten()).find_map(|port| port.host_port);
    let host = pod.status.as_ref().and_then(|status| status.host_ip.clone());
    let (host, port) = (host.context("the pod has no machine")?, port.context("the pod has no port of its machine")?);
    let publisher = release.publish("host-port", &format!("rtmp://{host}:{port}/LiveApp/show")).await?;
    let (start, _) = release.hook(begin + 1, Instant::now(), SOON).await?;
    expect(&start, "liveStreamStarted", None)?;
    let owner = release.owner("show").await?.name_any();
    ensure!(owner == pod.name_any(), "{owner} took what came to the port of {}", pod.name_any());
    publisher.stop().await?;
    let (end, _) = release.hook(begin + 2, Instant::now(), SOON).await?;
    expect(&end, "liveStreamEnded", Some("PublisherClosed"))
}

/// Publishers that come back by themselves, through the Service.
struct Publishers<'a> {
    release: &'a Release,
    encoders: BTreeMap<String, Encoder>,
    /// Hooks that were received once all were on air.
    hooks: usize,
}

impl<'a> Publishers<'a> {
    async fn start(release: &'a Release) -> Result<Self> {
        let before = release.receiver.accepted().len();
        let names: Vec<String> = (0..PUBLISHERS).map(|number| format!("moving-{number}")).collect();
        release.broadcasts(&names).await?;
        let mut encoders = BTreeMap::new();
        for name in names {
            let encoder = Encoder::start(&release.service_url(&name).await?);
            encoders.insert(name, encoder);
        }
        let hooks = before + PUBLISHERS;
        release.receiver.wait_for(hooks, SOON).await?;
        Ok(Self { release, encoders, hooks })
    }

    /// The machine that most of them are on is drained, with a viewer at the other one.
    async fn outlive_a_drain(&self) -> Result<()> {
        let release = self.release;
        let name = self.encoders.keys().next().context("no publisher")?;
        let left = release.owner(name).await?;
        let pods = release.spread().await?;
        let other = pods.get(&(3 - machine(&left)?)).context("no pod on the other machine")?;
        let viewer = Viewer::start(&url(other, name)?).await?;
        let begin = Instant::now();
        drain(release, &left, "120s").await?;
        report(&format!("drain of a machine with some of {PUBLISHERS} publishers"), &[begin.elapsed()]);
        self.go_on(|node| node != left.name_any()).await?;
        viewer.sees_more(SOON).await?;
        release.cluster.kubectl(&["uncordon", &machine_name(&left)?]).await?;
        self.nobody_was_told()
    }

    /// A new template replaces every pod of the pool under them.
    async fn outlive_an_update(&self) -> Result<()> {
        let release = self.release;
        let before = release.media_nodes(2).await?;
        let begin = Instant::now();
        release
            .helm("upgrade", &[&MOVING[..], &["mediaPool.nodes.template.annotations.edition=second"]].concat())
            .await?;
        let after = release.replaced(&before).await?;
        report(
            &format!("update of a pool of two pods with {PUBLISHERS} publishers, Helm included"),
            &[begin.elapsed()],
        );
        self.go_on(|node| after.contains_key(node)).await?;
        self.nobody_was_told()
    }

    /// Waits until each is on air in the session that it began, at such a pod.
    async fn go_on(&self, is_there: impl Fn(&str) -> bool) -> Result<()> {
        for name in self.encoders.keys() {
            let session = self.release.until(name, BroadcastState::Live).await?;
            ensure!(session.ordinal == 1, "{name} is in session {}", session.ordinal);
            ensure!(session.node.as_deref().is_some_and(&is_there), "{name} is at {:?}", session.node);
        }
        Ok(())
    }

    fn nobody_was_told(&self) -> Result<()> {
        let accepted = self.release.receiver.accepted();
        ensure!(accepted.len() == self.hooks, "{:#?}", &accepted[self.hooks..]);
        Ok(())
    }

    /// Each ends once, as its publisher says.
    async fn stop(self) -> Result<()> {
        let gaps: Vec<Duration> = self.encoders.values().map(|encoder| encoder.seen().longest_gap).collect();
        report("longest time without a frame of a publisher that moved twice or more", &gaps);
        for (_, encoder) in self.encoders {
            encoder.stop().await;
        }
        let accepted = self.release.receiver.wait_for(self.hooks + PUBLISHERS, SOON).await?;
        for end in &accepted[self.hooks..] {
            expect(end, "liveStreamEnded", Some("PublisherClosed"))?;
        }
        self.release.receiver.check_promises()
    }
}

/// Drains the machine of a pod as an administrator does.
async fn drain(release: &Release, pod: &Pod, timeout: &str) -> Result<()> {
    let (machine, timeout) = (machine_name(pod)?, format!("--timeout={timeout}"));
    let how = ["--ignore-daemonsets", "--delete-emptydir-data", &timeout];
    release.cluster.kubectl(&[&["drain", &machine][..], &how].concat()).await.map(drop)
}

fn machine_name(pod: &Pod) -> Result<String> {
    Ok(format!("node-{}", machine(pod)?))
}
