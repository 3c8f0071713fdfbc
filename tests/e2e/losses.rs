//! Every way to lose a media node, some of them many times over: one End each, with the right reason, in time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _};
use tallylight_crds::{Broadcast, SessionState};
use tests::{media::Publisher, wait};

use crate::release::{NAMESPACE, Release, SOON, expect, machine, report, url};

/// How often the quick losses are repeated.
const ROUNDS: usize = 5;

/// Publishes to a pod of its own choice and waits for the Start.
async fn on_air(release: &Release, pod: &Pod, name: &str) -> Result<(Publisher, usize)> {
    let count = release.receiver.accepted().len();
    let publisher = release.publish(name, &url(pod, "show")?).await?;
    let (start, _) = release.hook(count + 1, Instant::now(), SOON).await?;
    expect(&start, "liveStreamStarted", None)?;
    Ok((publisher, count + 2))
}

/// Waits for the End, and for a moment that nothing follows it.
async fn ended(release: &Release, count: usize, begin: Instant) -> Result<Duration> {
    let (end, after) = release.hook(count, begin, SOON * 2).await?;
    expect(&end, "liveStreamEnded", Some("NodeLost"))?;
    wait::throughout("nothing else is sent", Duration::from_secs(2), async || {
        let sent = release.receiver.accepted();
        ensure!(sent.len() == count, "{:?}", sent.last());
        Ok(())
    })
    .await?;
    Ok(after)
}

async fn any_pod(release: &Release) -> Result<Pod> {
    let pods = release.media_nodes(2).await?;
    pods.into_values().next().context("no media pod")
}

#[tokio::test]
async fn each_loss_ends_its_session_once() -> Result<()> {
    let release = Release::install().await?;
    killed_containers(&release).await?;
    out_of_memory(&release).await?;
    deleted_by_force(&release).await?;
    partitioned_and_healed(&release).await?;
    powered_off(&release).await?;
    release.receiver.check_promises()
}

/// A pod's first death is followed by a start at once, its second by one that the kubelet puts off; then a new pod takes over.
async fn killed_containers(release: &Release) -> Result<()> {
    let (mut at_once, mut put_off) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let name = any_pod(release).await?.name_any();
        for (death, times) in [&mut at_once, &mut put_off].into_iter().enumerate() {
            let pods = release.media_nodes(2).await?;
            let pod = pods.get(&name).context("the pod is not there any more")?;
            let (publisher, end) = on_air(release, pod, &format!("killed-{round}-{death}")).await?;
            let begin = Instant::now();
            release.kill_container(pod).await?;
            times.push(ended(release, end, begin).await?);
            drop(publisher);
        }
        release.kubectl(&["delete", "pod", &name, "--grace-period=0", "--force", "--wait=false"]).await?;
    }
    report("container SIGKILL to End received, started again at once", &at_once);
    report("container SIGKILL to End received, start put off by the kubelet", &put_off);
    Ok(())
}

/// Fills the pod's memory from beside it, with pages that cannot be dropped: the kernel kills the media node.
async fn out_of_memory(release: &Release) -> Result<()> {
    let pod = any_pod(release).await?;
    let (publisher, end) = on_air(release, &pod, "oom").await?;
    let uid = pod.uid().context("a pod has a uid")?;
    let fill = format!(
        "echo $$ > $(find /sys/fs/cgroup/memory -path '*{uid}/*' -name cgroup.procs | while read -r f; do \
         p=$(head -n1 \"$f\"); grep -qa tallylight /proc/$p/cmdline && echo \"$f\"; done | head -n1); \
         echo -999 > /proc/self/oom_score_adj 2>/dev/null; \
         exec timeout 20 dd if=/dev/zero of=/run/fill bs=1M count=1100 status=none"
    );
    let begin = Instant::now();
    let _filled = release.cluster.inside(machine(&pod)?, &["bash", "-c", &fill]).await; // it may be killed too
    let after = ended(release, end, begin).await?;
    release.cluster.inside(machine(&pod)?, &["rm", "-f", "/run/fill"]).await?;
    drop(publisher);
    report("container out of memory to End received, filling included", &[after]);
    Ok(())
}

async fn deleted_by_force(release: &Release) -> Result<()> {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let pod = any_pod(release).await?;
        let (publisher, end) = on_air(release, &pod, &format!("deleted-{round}")).await?;
        let begin = Instant::now();
        release.kubectl(&["delete", "pod", &pod.name_any(), "--grace-period=0", "--force", "--wait=false"]).await?;
        let (hook, after) = release.hook(end, begin, SOON * 2).await?;
        expect(&hook, "liveStreamEnded", Some("NodeLost"))?;
        times.push(after);
        drop(publisher);
        settled(release).await?;
    }
    report("pod deleted by force to End received", &times);
    Ok(())
}

/// A pod that is gone from the API may run for a moment yet, and its publisher claim anew: that session ends as well.
async fn settled(release: &Release) -> Result<()> {
    let broadcasts = Api::<Broadcast>::namespaced(release.admin.clone(), NAMESPACE);
    wait::until("every session to have ended", SOON, async || {
        let status = broadcasts.get("show").await.map_err(|error| error.to_string())?.status_or_default();
        let is_over = status.session.state == SessionState::Ended && status.hooks.pending.is_empty();
        if is_over { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await
}

/// The zombie goes on serving, and its publisher sends on: healed, it claims anew, with a Start.
async fn partitioned_and_healed(release: &Release) -> Result<()> {
    let pod = any_pod(release).await?;
    let (publisher, end) = on_air(release, &pod, "partitioned").await?;
    let begin = Instant::now();
    release.cluster.partition(machine(&pod)?, "on").await?;
    let after = ended(release, end, begin).await?;
    release.cluster.partition(machine(&pod)?, "off").await?;
    let (start, _) = release.hook(end + 1, begin, SOON * 2).await?;
    expect(&start, "liveStreamStarted", None)?;
    publisher.stop().await?;
    let (closed, _) = release.hook(end + 2, begin, SOON).await?;
    expect(&closed, "liveStreamEnded", Some("PublisherClosed"))?;
    report("machine partitioned to End received", &[after]);
    Ok(())
}

async fn powered_off(release: &Release) -> Result<()> {
    let mut times = Vec::new();
    for round in 0..3 {
        let pod = any_pod(release).await?;
        let (publisher, end) = on_air(release, &pod, &format!("off-{round}")).await?;
        let begin = Instant::now();
        release.cluster.kill_node(machine(&pod)?).await?;
        times.push(ended(release, end, begin).await?);
        drop(publisher);
        release.cluster.power_on().await?;
    }
    report("machine powered off to End received", &times);
    Ok(())
}
