//! Every way to lose a media node, and the parts that its hooks depend on, some of them many times over: one End each, with the right
//! reason, in time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, ResourceExt as _, api::ListParams};
use tallylight_crds::{BroadcastState, SessionState};
use tests::{media::Publisher, receiver::Request, wait};

use crate::{
    newcomers,
    release::{NAMESPACE, Release, SOON, expect, machine, report, url},
};

/// How often the quick losses are repeated.
const ROUNDS: usize = 10;
/// How often those that count as failures of the pool: it puts its next pod off twice as long after each.
const FAILURES: usize = 5;
/// How long what everybody depends on is away.
const OUTAGE: Duration = Duration::from_secs(300);
/// What was down for so long is started again with pauses by the kubelet.
const RECOVERY: Duration = Duration::from_secs(600);

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
async fn the_loss_of_a_pod_ends_its_session_once() -> Result<()> {
    let release = Release::install().await?;
    newcomers::new_pods_take_publishers(&release, ROUNDS).await?;
    deleted_by_force(&release).await?;
    killed_containers(&release).await?;
    out_of_memory(&release).await?;
    release.receiver.check_promises()
}

#[tokio::test]
async fn the_loss_of_a_machine_ends_its_session_once() -> Result<()> {
    let release = Release::install().await?;
    partitioned_and_healed(&release).await?;
    powered_off(&release).await?;
    release.receiver.check_promises()
}

#[tokio::test]
async fn five_minutes_without_an_api_server_or_an_operator_lose_nothing() -> Result<()> {
    let release = Release::install().await?;
    release.broadcasts(&["other".to_owned()]).await?;
    api_server_gone(&release).await?;
    operators_and_a_machine_gone(&release).await?;
    release.receiver.check_promises()
}

/// A pod's first death is followed by a start at once, its second by one that the kubelet puts off; then a new pod takes over.
async fn killed_containers(release: &Release) -> Result<()> {
    let (mut at_once, mut put_off) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let name = any_pod(release).await?.name_any();
        let deaths = if round < FAILURES { 2 } else { 1 };
        for (death, times) in [&mut at_once, &mut put_off].into_iter().take(deaths).enumerate() {
            let pods = release.media_nodes(2).await?;
            let pod = pods.get(&name).context("the pod is not there any more")?;
            let (publisher, end) = on_air(release, pod, &format!("killed-{round}-{death}")).await?;
            let begin = Instant::now();
            release.kill_container(pod).await?;
            times.push(ended(release, end, begin).await?);
            drop(publisher);
        }
        release.delete_by_force(&name).await?;
    }
    report("container SIGKILL to End received, started again at once", &at_once);
    report("container SIGKILL to End received, start put off by the kubelet", &put_off);
    report("container SIGKILL to End received, all", &[at_once, put_off].concat());
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
        release.delete_by_force(&pod.name_any()).await?;
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
    wait::until("every session to have ended", SOON, async || {
        let status = release.status("show").await.map_err(|error| format!("{error:#}"))?;
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

/// With the operator that leads, whose standby has to take over first, and without.
async fn powered_off(release: &Release) -> Result<()> {
    let (mut with_leader, mut without) = (Vec::new(), Vec::new());
    for round in 0..2 {
        for (kind, times) in [("leader", &mut with_leader), ("other", &mut without)] {
            let pods = release.spread().await?;
            let leads = leading_machine(release).await?;
            let lost = if kind == "leader" { leads } else { 3 - leads };
            let (publisher, end) = on_air(release, &pods[&lost], &format!("off-{round}-{kind}")).await?;
            let begin = Instant::now();
            release.cluster.kill_node(lost).await?;
            times.push(ended(release, end, begin).await?);
            drop(publisher);
            release.cluster.power_on().await?;
        }
    }
    report("machine powered off to End received, the leading operator with it", &with_leader);
    report("machine powered off to End received", &without);
    Ok(())
}

/// The number of the machine that the operator is on which leads.
async fn leading_machine(release: &Release) -> Result<u32> {
    let lease = Api::<Lease>::namespaced(release.admin.clone(), NAMESPACE).get("tallylight-operator").await?;
    let holder = lease.spec.and_then(|spec| spec.holder_identity).context("nobody leads")?;
    machine(&release.pods().get(&holder).await?)
}

/// Streams go on, and a publisher that leaves meanwhile has left when it did.
async fn api_server_gone(release: &Release) -> Result<()> {
    let pods = release.media_nodes(2).await?;
    let (mut stays, hooks) = on_air(release, pods.values().next().context("no media pod")?, "stays").await?;
    let leaves = release.publish("leaves", &url(pods.values().last().context("no media pod")?, "other")?).await?;
    release.hook(hooks, Instant::now(), SOON).await?;
    release.cluster.kill_control("kube-apiserver").await?;
    leaves.stop().await?;
    let left = Timestamp::now();
    wait::throughout("the API server is gone", OUTAGE, async || stays.process.must_run()).await?;
    let begin = Instant::now();
    release.cluster.power_on().await?;
    let (end, after) = release.hook(hooks + 1, begin, RECOVERY).await?;
    ensure!(end.field("id").as_deref() == Some("other"), "an outage is not the loss of a node: {end:?}");
    expect(&end, "liveStreamEnded", Some("PublisherClosed"))?;
    is_told_to_have_ended(&end, left)?;
    report("API server back after 5 min to the End that waited received, nodes Ready included", &[after]);
    stays.stop().await?;
    let (end, _) = release.hook(hooks + 2, begin, RECOVERY).await?;
    expect(&end, "liveStreamEnded", Some("PublisherClosed"))?;
    release.media_nodes(2).await.map(drop)
}

/// A machine is lost together with every operator. A whole session passes elsewhere before anybody looks.
async fn operators_and_a_machine_gone(release: &Release) -> Result<()> {
    let pods = release.spread().await?;
    let (lost, other) = (&pods[&1], &pods[&2]);
    let (publisher, hooks) = on_air(release, lost, "lost").await?;
    release.kubectl(&["scale", "deployment/tallylight-operator", "--replicas=0"]).await?;
    wait::until("the operators to be gone", SOON, async || {
        let operators = ListParams::default().labels("app.kubernetes.io/component=operator");
        let left = release.pods().list(&operators).await.map_err(|error| error.to_string())?.items.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} pods")) }
    })
    .await?;
    release.cluster.kill_node(1).await?;
    drop(publisher);
    let mut passes = release.publish("passes", &url(other, "other")?).await?;
    release.until("other", BroadcastState::Live).await?;
    wait::throughout("no operator runs", OUTAGE, async || passes.process.must_run()).await?;
    ensure!(release.receiver.accepted().len() == hooks - 1, "somebody sent hooks");
    passes.stop().await?;
    let left = Timestamp::now();
    release.until("other", BroadcastState::Ended).await?;

    let begin = Instant::now();
    release.kubectl(&["scale", "deployment/tallylight-operator", "--replicas=2"]).await?;
    let accepted = release.receiver.wait_for(hooks + 2, RECOVERY).await?;
    report("operators back after 5 min to every hook that waited received", &[begin.elapsed()]);
    let waited = &accepted[hooks - 1..];
    let of = |id: &str| waited.iter().filter(|hook| hook.field("id").as_deref() == Some(id)).collect::<Vec<_>>();
    let [end] = of("show")[..] else { anyhow::bail!("{waited:#?}") };
    expect(end, "liveStreamEnded", Some("NodeLost"))?;
    let [start, end] = of("other")[..] else { anyhow::bail!("{waited:#?}") };
    expect(start, "liveStreamStarted", None)?;
    expect(end, "liveStreamEnded", Some("PublisherClosed"))?;
    is_told_to_have_ended(end, left)?;
    release.cluster.power_on().await?;
    release.media_nodes(2).await.map(drop)
}

/// Asserts that the hook has the time of the event, not of its delivery.
fn is_told_to_have_ended(end: &Request, left: Timestamp) -> Result<()> {
    let told = Timestamp::from_millisecond(end.field("timestamp").context("no timestamp")?.parse()?)?;
    let late = told.duration_since(left).as_secs_f64();
    ensure!(late.abs() < 10.0, "the end is told {late} s after it was");
    Ok(())
}
