//! The life of a release: installed, used, hurt, upgraded, drained, removed.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams};
use tallylight_crds::REVISION_LABEL;
use tests::{media, wait};

use crate::{
    moves, newcomers,
    recordings::{self, Show},
    release::{BUCKET, NAMESPACE, Release, SHARED, SOON, expect, http_address, machine, report, url},
    webrtc,
};

/// What the issue of node loss promises: 15 s of Lease and the next look.
const NODE_LOSS: Duration = Duration::from_secs(20);
/// A container that is killed is started again at once, and says what it no longer has.
const CONTAINER_LOSS: Duration = Duration::from_secs(3);
/// Others build on the same two cores while CI runs.
const SLACK: u32 = 2;

#[tokio::test]
async fn a_release_is_installed_used_hurt_upgraded_and_removed() -> Result<()> {
    let release = Release::install().await?;
    report("helm install to ready", &[release.ready_after]);
    ensure!(release.ready_after <= Duration::from_secs(15) * SLACK, "ready after {:?}", release.ready_after);

    plays_from_any_pod(&release).await?;
    recordings::is_played_and_fetched(&release).await?;
    outlives_a_container(&release).await?;
    outlives_a_machine(&release).await?;
    is_upgraded_under_a_publisher(&release).await?;
    newcomers::new_pods_take_publishers(&release, 1).await?;
    moves::a_drain_waits_for_a_publisher_that_stays(&release).await?;
    moves::sessions_outlive_their_pods(&release).await?;
    recordings::are_told_of_once(&release).await?;
    webrtc::media_reach_ports_of_the_machines(&release).await?;
    release.receiver.check_promises()?;
    is_removed(&release).await
}

/// Published through the Service, played from the pod that does not have it: from the owner through the relay.
async fn plays_from_any_pod(release: &Release) -> Result<()> {
    let pods = release.media_nodes(2).await?;
    let machines: Vec<u32> = pods.values().map(machine).collect::<Result<_>>()?;
    ensure!(machines[0] != machines[1], "both media pods are on one machine");
    let begin = Instant::now();
    let publisher = release.publish("first", &release.service_url("show").await?).await?;
    let (start, after) = release.hook(1, begin, SOON).await?;
    expect(&start, "liveStreamStarted", None)?;
    report("publish through the Service to Start received", &[after]);
    let owner = release.owner("show").await?.name_any();
    let other = pods.values().find(|pod| pod.name_any() != owner).context("no other pod")?;
    let played = media::play_with_ffmpeg(release.folder(), "relayed", &url(other, "show")?).await?;
    ensure!(played.codecs == ["aac", "h264"] && played.frames >= 40, "{played:?}");
    let (first, _) = webrtc::is_played_at(&http_address(other)?, "show").await?;
    report("WHEP at the other pod to the first picture", &[first]);
    let shown = release.rest("show").await?;
    ensure!(shown["status"] == "broadcasting", "REST through a media pod: {shown}");
    publisher.stop().await?;
    let (end, _) = release.hook(2, begin, SOON).await?;
    expect(&end, "liveStreamEnded", Some("PublisherClosed"))
}

/// What was recorded to a bucket is on the pod's own volume until then: the next container finishes and uploads it.
async fn outlives_a_container(release: &Release) -> Result<()> {
    let mut show = Show::new(release, "clip", BUCKET).await?;
    let (silent, sent) = show.send(&release.service_url("clip").await?).await?;
    let owner = release.owner("clip").await?;
    let begin = Instant::now();
    release.kill_container(&owner).await?;
    show.lost().await?;
    let after = begin.elapsed();
    report("container SIGKILL to End received", &[after]);
    ensure!(after <= CONTAINER_LOSS * SLACK, "{after:?}");
    drop(silent);
    let vod = show.vod().await?;
    report("container SIGKILL to vodReady of the bucket received", &[begin.elapsed()]);
    release.media_nodes(2).await?;
    vod.has(release, &release.http_address().await?, sent).await?;
    recordings::is_redirected(release, &vod).await
}

/// What was recorded to a claim that the machines share is finished on the other one.
async fn outlives_a_machine(release: &Release) -> Result<()> {
    let mut show = Show::new(release, "serial", SHARED).await?;
    let (silent, sent) = show.send(&release.service_url("serial").await?).await?;
    let lost = machine(&release.owner("serial").await?)?;
    let begin = Instant::now();
    release.cluster.kill_node(lost).await?;
    show.lost().await?;
    let after = begin.elapsed();
    report("machine powered off to End received", &[after]);
    ensure!(after <= NODE_LOSS * SLACK, "{after:?}");
    drop(silent);

    // The other machine has the pool, and takes the same publisher through the same address.
    release.cluster.enter_by(3 - lost).await?;
    let vod = show.vod().await?;
    report("machine powered off to vodReady received", &[begin.elapsed()]);
    let heir = release.pods().get(&vod.recording.spec.node).await?;
    ensure!(machine(&heir)? != lost, "it was finished by a pod that is off");
    vod.has(release, &http_address(&heir)?, sent).await?;
    release.leads_to_the_living().await?;
    let hooks = release.receiver.accepted().len();
    let again = release.publish("fourth", &release.service_url("show").await?).await?;
    let (start, _) = release.hook(hooks + 1, begin, SOON).await?;
    expect(&start, "liveStreamStarted", None)?;
    again.stop().await?;
    release.hook(hooks + 2, begin, SOON).await?;
    release.cluster.power_on().await?;
    release.media_nodes(2).await.map(drop)
}

/// Two new operators, and not one media pod touched: the session goes on.
async fn is_upgraded_under_a_publisher(release: &Release) -> Result<()> {
    let hooks = release.receiver.accepted().len();
    let publisher = release.publish("fifth", &release.service_url("show").await?).await?;
    release.hook(hooks + 1, Instant::now(), SOON).await?;
    let before = revisions(release).await?;
    let owner = fingerprint(&release.owner("show").await?);
    release.helm("upgrade", &["operator.podAnnotations.upgraded=yes"]).await?;
    release.kubectl(&["rollout", "status", "deployment/tallylight-operator", "--timeout=90s"]).await?;
    let now = fingerprint(&release.owner("show").await?);
    ensure!(now == owner, "the pod on air was touched: {owner} became {now}");
    ensure!(revisions(release).await? == before, "the upgrade made media pods of a new revision");
    ensure!(release.receiver.accepted().len() == hooks + 1, "the upgrade ended or started something");
    publisher.stop().await?;
    let (end, _) = release.hook(hooks + 2, Instant::now(), SOON).await?;
    expect(&end, "liveStreamEnded", Some("PublisherClosed"))
}

/// Who the pod is, and how often its container was started again.
fn fingerprint(pod: &Pod) -> String {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone());
    let restarts: i32 = statuses.iter().flatten().map(|status| status.restart_count).sum();
    format!("{:?} {restarts}", pod.metadata.uid)
}

/// The revisions of the pods that are ready; how many there are is the pool's business.
async fn revisions(release: &Release) -> Result<BTreeSet<Option<String>>> {
    let pods = release.media_nodes(2).await?;
    Ok(pods.values().map(|pod| pod.labels().get(REVISION_LABEL).cloned()).collect())
}

async fn is_removed(release: &Release) -> Result<()> {
    recordings::are_deleted(release).await?;
    release.kubectl(&["delete", "broadcast", "--all", "--timeout=60s"]).await?;
    release.cluster.helm("helm3", &["uninstall", "tallylight", "--namespace", NAMESPACE, "--wait"]).await?;
    let pods = release.pods();
    wait::until("the pods to be gone", SOON * 2, async || {
        let left = pods.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let names: Vec<_> = left.items.iter().map(ResourceExt::name_any).collect();
        if names.is_empty() { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await?;
    let kinds = "deployments,services,secrets,leases,configmaps,serviceaccounts,roles,rolebindings,poddisruptionbudgets,\
                 mediapools,broadcasts,recordings,networkpolicies";
    wait::until("nothing to be left in the namespace", SOON, async || {
        let left = release.kubectl(&["get", kinds, "-o", "name"]).await.map_err(|error| error.to_string())?;
        // The Lease of the election is the operators' own, and the next release's to take over.
        let stays = [
            "configmap/kube-root-ca.crt",
            "serviceaccount/default",
            "lease.coordination.k8s.io/tallylight-operator",
            "secret/rest",
            "secret/vods",
        ];
        let left: Vec<_> = left.lines().filter(|line| !stays.contains(line)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await?;
    let cluster = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings";
    let left =
        release.cluster.kubectl(&["get", cluster, "-l", "app.kubernetes.io/name=tallylight", "-o", "name"]).await?;
    ensure!(left.trim().is_empty(), "left behind: {left}");
    Ok(())
}
