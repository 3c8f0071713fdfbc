//! WebRTC of a release: WHIP and WHEP at any pod or the Service, and media straight to the pod that answered.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tests::{
    cluster::CLIENT,
    media,
    webrtc::{self, Clip, Options},
};

use crate::release::{NAMESPACE, Release, SOON, expect, http_address, machine, report};

/// A second of the clip.
const PICTURES: u64 = 25;

fn options() -> Options {
    Options { bind: CLIENT.into(), ..Options::default() }
}

/// Plays a stream where HTTP is served; returns the time to the first picture, and the addresses that the answer names.
pub(crate) async fn is_played_at(http: &str, broadcast: &str) -> Result<(Duration, Vec<String>)> {
    let mut viewer = webrtc::play(&format!("http://{http}/LiveApp/whep/{broadcast}"), &options()).await?;
    viewer.pictures(PICTURES).await?;
    let first = viewer.first_picture_after().context("no picture came")?;
    let addresses = candidates(&viewer.answer.body);
    viewer.close().await?;
    Ok((first, addresses))
}

/// IP:port of each candidate.
fn candidates(answer: &str) -> Vec<String> {
    let lines = answer.lines().filter_map(|line| line.strip_prefix("a=candidate:"));
    lines
        .filter_map(|line| {
            let mut parts = line.split(' ').skip(4);
            Some(format!("{}:{}", parts.next()?, parts.next()?))
        })
        .collect()
}

/// With ports of the machines, which Pod Security must allow for it: published through the Service, watched at the other machine's pod and
/// through the Service, which may send a request for a session to another pod than the one that has it.
pub(crate) async fn media_reach_ports_of_the_machines(release: &Release) -> Result<()> {
    let enforce = "pod-security.kubernetes.io/enforce=privileged";
    release.cluster.kubectl(&["label", "namespace", NAMESPACE, enforce, "--overwrite"]).await?;
    let before = release.media_nodes(2).await?;
    release.helm("upgrade", &["operator.podAnnotations.upgraded=yes", "mediaPool.webRTC.exposure=HostPort"]).await?;
    release.replaced(&before).await?;
    let by_machine = release.spread().await?;
    let hooks = release.receiver.accepted().len();
    let begin = Instant::now();

    let publisher = release.publish("by-ports", &release.service_url("show").await?).await?;
    let (start, _) = release.hook(hooks + 1, begin, SOON).await?;
    expect(&start, "liveStreamStarted", None)?;

    let owner = machine(&release.owner("show").await?)?;
    let other = by_machine.get(&(3 - owner)).context("no pod on the other machine")?;
    let (first, addresses) = is_played_at(&http_address(other)?, "show").await?;
    report("WHEP at the other machine to the first picture", &[first]);
    let expected = at_host_port(other)?;
    ensure!(addresses.contains(&expected), "{} told {addresses:?}, and not {expected}", other.name_any());
    is_played_at(&release.http_address().await?, "show").await?;
    publisher.stop().await?;
    let (end, _) = release.hook(hooks + 2, begin, SOON).await?;
    expect(&end, "liveStreamEnded", Some("PublisherClosed"))?;
    is_published_and_played(release).await
}

/// Published over WHIP through the Service, and watched over WHEP at the other machine's pod.
async fn is_published_and_played(release: &Release) -> Result<()> {
    let (hooks, begin) = (release.receiver.accepted().len(), Instant::now());
    let clip = Clip::flv(media::clip().await?)?;
    let url = format!("http://{}/LiveApp/whip/show", release.http_address().await?);
    let publisher = webrtc::publish(&url, &clip, &options()).await?;
    let (start, after) = release.hook(hooks + 1, begin, SOON).await?;
    expect(&start, "liveStreamStarted", None)?;
    report("WHIP through the Service to Start received", &[after]);
    let owner = machine(&release.owner("show").await?)?;
    let by_machine = release.spread().await?;
    let other = by_machine.get(&(3 - owner)).context("no pod on the other machine")?;
    is_played_at(&http_address(other)?, "show").await?;
    publisher.close().await?;
    let (end, _) = release.hook(hooks + 2, begin, SOON).await?;
    expect(&end, "liveStreamEnded", Some("PublisherClosed"))
}

/// The machine's address, and its port that is the pod's.
fn at_host_port(pod: &Pod) -> Result<String> {
    let host = pod.status.as_ref().and_then(|status| status.host_ip.clone()).context("the pod has no machine")?;
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let port = ports.find(|port| port.name.as_deref() == Some("webrtc")).and_then(|port| port.host_port);
    Ok(format!("{host}:{}", port.context("the pod has no host port for media")?))
}
