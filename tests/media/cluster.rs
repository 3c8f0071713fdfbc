//! The whole of it on Kubernetes: media-nodes and the operator under their own accounts, against a real API server.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use jiff::Timestamp;
use kube::{Api, api::PostParams};
use serde_json::{Value, json};
use tallylight_crds::{Broadcast, BroadcastState, ConditionStatus, FrameOrder, Recording, SessionState};
use tempfile::TempDir;
use tests::{
    apiserver::{Call, ControlPlane, Parts},
    identity,
    install::{self, Tenant},
    media::{self, Publisher},
    receiver::Receiver,
    repository, rtmp,
    service::{Launch, Service},
    wait,
};

use crate::standalone::{SOON, come_back};

/// A Lease lasts 15 s; then come the operator and a busy machine.
pub(crate) const LEASE_EXPIRED: Duration = Duration::from_secs(90);

pub(crate) struct Cluster {
    // Dropped in this order: who writes goes first.
    pub(crate) node: Service,
    pub(crate) operator: Service,
    pub(crate) receiver: Receiver,
    pub(crate) tenant: Tenant,
    pub(crate) folder: TempDir,
}

impl Cluster {
    pub(crate) async fn new(name: &str, pool: Value) -> Result<Self> {
        Self::on(install::tenant(name).await?, name, pool).await
    }

    /// On a control plane of the test's own, that it may stop.
    pub(crate) async fn alone(name: &str, pool: Value) -> Result<Self> {
        // It lives until the process ends; the watchdog stops it then.
        let plane = Box::leak(Box::new(ControlPlane::start(Parts::ApiServer).await?));
        let (admin, namespace) = install::install(plane, name).await?;
        Self::on(Tenant { plane, admin, namespace }, name, pool).await
    }

    async fn on(tenant: Tenant, name: &str, pool: Value) -> Result<Self> {
        let folder = repository::folder(name)?;
        let receiver = Receiver::start().await?;
        tenant.pool(&pool).await?;
        let operator = operator(&tenant, &folder).await?;
        let node = node(&tenant, &folder, "media-live-1").await?.start().await?;
        Ok(Self { node, operator, receiver, tenant, folder })
    }

    /// Does what a kubelet does with an operator that has ended itself.
    pub(crate) async fn restart_operator(&mut self) -> Result<()> {
        let status = self.operator.process.wait(SOON).await?;
        anyhow::ensure!(!status.success(), "it lost its Lease, and did not end in good order");
        self.operator = operator(&self.tenant, &self.folder).await?;
        Ok(())
    }

    pub(crate) async fn broadcast(&self, name: &str) -> Result<()> {
        self.tenant.broadcast(name, &json!({"listenerHookURL": self.receiver.url("hook")})).await
    }

    pub(crate) async fn ffmpeg(&self, stream: &str) -> Result<Publisher> {
        let url = self.node.rtmp("LiveApp", stream)?;
        Publisher::ffmpeg(self.folder.path(), &format!("publisher-{stream}"), &url).await
    }
}

/// Prepares a media-node with the identity of its pod.
pub(crate) async fn operator(tenant: &Tenant, folder: &TempDir) -> Result<Service> {
    let kubeconfig = tenant.operator_kubeconfig(folder.path()).await?;
    Launch::operator(folder.path(), &kubeconfig, &tenant.namespace).start().await
}

pub(crate) async fn node(tenant: &Tenant, folder: &TempDir, name: &str) -> Result<Launch> {
    let credential = tenant.media_pod("live", name).await?;
    let kubeconfig: PathBuf = tenant.plane.kubeconfig(folder.path(), name, &credential, &tenant.namespace)?;
    Ok(Launch::media_node(folder.path(), &kubeconfig, &tenant.namespace, "live", name))
}

pub(crate) fn is(state: BroadcastState) -> impl Fn(&Broadcast) -> bool {
    move |broadcast| broadcast.status_or_default().state == state
}

#[tokio::test]
async fn a_streams_start_and_end_reach_its_webhook() -> Result<()> {
    let cluster = Cluster::new("story", json!({})).await?;
    cluster.broadcast("show").await?;
    let ready = |broadcast: &Broadcast| {
        let conditions = serde_json::to_value(broadcast.status_or_default().conditions).unwrap();
        conditions.as_array().unwrap().iter().any(|found| found["type"] == "Ready" && found["status"] == "True")
    };
    cluster.tenant.until("show", "to be ready", SOON, ready).await?;

    let publisher = cluster.ffmpeg("show").await?;
    let live = cluster.tenant.until("show", "to be live", SOON, is(BroadcastState::Live)).await?;
    cluster.receiver.wait_for(1, SOON).await?;
    let played =
        media::play_with_ffmpeg(cluster.folder.path(), "player", &cluster.node.rtmp("LiveApp", "show")?).await?;
    publisher.stop().await?;
    let requests = cluster.receiver.wait_for(2, SOON).await?;
    cluster.tenant.settled("show", 2, SOON).await?;

    assert_eq!(live.status_or_default().session.node.as_deref(), Some("media-live-1"));
    assert!(played.frames >= 40, "{played:?}");
    assert_eq!(requests[1].field("reason").as_deref(), Some("PublisherClosed"));
    assert_eq!(cluster.receiver.requests().len(), 2, "each is sent once");
    cluster.receiver.check_promises()?;
    let calls = cluster.tenant.plane.calls(&cluster.tenant.namespace)?;
    let writes = calls.iter().filter(|call| call.writes() && call.resource.starts_with("broadcasts")).count();
    assert!(writes <= 8, "{writes} writes: {calls:#?}");
    let refused: Vec<_> = calls.iter().filter(|call| call.status == 403).collect();
    assert!(refused.is_empty(), "the chart's roles miss rights: {refused:#?}");
    Ok(())
}

/// x264 with B-frames, of which each keyframe's group has some.
const WITH_B_FRAMES: &str =
    "-f lavfi -i testsrc2=size=320x180:rate=25 -pix_fmt yuv420p -c:v libx264 -preset ultrafast -bf 2 -g 50";

#[tokio::test]
async fn a_publisher_with_b_frames_is_said_so_for_as_long_as_its_session_lasts() -> Result<()> {
    let cluster = Cluster::new("b-frames", json!({})).await?;
    cluster.broadcast("show").await?;
    let of_webrtc = |broadcast: &Broadcast| {
        let conditions = broadcast.status_or_default().conditions;
        conditions.into_iter().find(|condition| condition.kind == "WebRTCPlayable")
    };

    let url = cluster.node.rtmp("LiveApp", "show")?;
    let publisher = Publisher::encoding(cluster.folder.path(), "publisher", &url, &[WITH_B_FRAMES])?;
    let told = cluster.tenant.until("show", "to be told of", SOON, |b| of_webrtc(b).is_some()).await?;
    publisher.stop().await?;
    let over = cluster.tenant.until("show", "to be told of no more", SOON, |b| of_webrtc(b).is_none()).await?;
    cluster.tenant.settled("show", 2, SOON).await?;

    assert_eq!(told.status_or_default().session.frame_order, Some(FrameOrder::Reordered));
    let condition = of_webrtc(&told).unwrap();
    assert_eq!((condition.status, condition.reason.as_str()), (ConditionStatus::False, "ReorderedFrames"));
    assert!(condition.message.contains("bframes=0"), "{}", condition.message);
    assert_eq!(over.status_or_default().session.state, SessionState::Ended);
    let calls = cluster.tenant.plane.calls(&cluster.tenant.namespace)?;
    let writes = calls.iter().filter(|call| call.writes() && call.resource.starts_with("broadcasts")).count();
    assert!(writes <= 8, "{writes} writes: {calls:#?}");
    let refused: Vec<_> = calls.iter().filter(|call| call.status == 403).collect();
    assert!(refused.is_empty(), "the chart's roles or its policy refuse what was seen: {refused:#?}");
    Ok(())
}

/// Publish to `vodReady`, and what is noted after it: all that both accounts ask to be written of it.
#[tokio::test]
async fn the_life_of_a_stream_that_is_recorded_costs_few_writes() -> Result<()> {
    let cluster = Cluster::new("record-writes", json!({"recording": {"mode": "On"}})).await?;
    cluster.broadcast("show").await?;
    let ready = |broadcast: &Broadcast| !broadcast.status_or_default().conditions.is_empty();
    cluster.tenant.until("show", "to have conditions", SOON, ready).await?;
    cluster.ffmpeg("show").await?.stop_after(&cluster.receiver, 1).await?;
    let hooks = cluster.receiver.wait_for(3, SOON).await?;
    assert_eq!(hooks[2].action(), "vodReady");
    cluster.tenant.settled("show", 3, SOON).await?;
    let recordings = Api::<Recording>::namespaced(cluster.tenant.admin.clone(), &cluster.tenant.namespace);
    wait::until("the recording to note its hook", SOON, async || {
        let all = recordings.list(&kube::api::ListParams::default()).await.map_err(|error| error.to_string())?.items;
        if all.len() == 1 && all.iter().all(Recording::is_announced) { Ok(()) } else { Err(format!("{all:#?}")) }
    })
    .await?;

    // What follows the last acknowledgement comes at once.
    let writes = || -> Result<Vec<Call>> {
        let calls = cluster.tenant.plane.calls(&cluster.tenant.namespace)?.into_iter();
        let is_of_it = |call: &Call| ["broadcasts", "recordings"].iter().any(|kind| call.resource.starts_with(kind));
        Ok(calls.filter(|call| call.writes() && is_of_it(call)).collect())
    };
    wait::throughout("nothing follows", Duration::from_secs(3), async || {
        let writes = writes()?;
        anyhow::ensure!(writes.len() <= 12, "{} writes: {writes:#?}", writes.len());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_broadcast_made_by_rest_can_be_published_at_once() -> Result<()> {
    let cluster = Cluster::new("rest", json!({})).await?;
    let address = cluster.operator.address("rest")?;
    let body = json!({"name": "test_video", "listenerHookURL": cluster.receiver.url("own")}).to_string();

    let created = tests::http::post(address, "/LiveApp/rest/broadcast/create", &body).await?;
    let id = created.json()?["streamId"].as_str().unwrap().to_owned();
    cluster.ffmpeg(&id).await?.stop_after(&cluster.receiver, 1).await?;

    let requests = cluster.receiver.wait_for(2, SOON).await?;
    assert_eq!(created.status, 200, "{}", created.body);
    assert_eq!(requests[0].field("id"), Some(id));
    assert_eq!(requests[0].field("streamName").as_deref(), Some("test_video"));
    Ok(())
}

#[tokio::test]
async fn a_publisher_at_another_pod_is_refused_while_the_first_is_live() -> Result<()> {
    let cluster = Cluster::new("other-pod", json!({})).await?;
    let other = node(&cluster.tenant, &cluster.folder, "media-live-2").await?.start().await?;
    cluster.broadcast("show").await?;
    let first = cluster.ffmpeg("show").await?;
    cluster.receiver.wait_for(1, SOON).await?;

    let code = rtmp::publish(&other.rtmp("LiveApp", "show")?).await?.refused()?;
    first.stop().await?;
    cluster.receiver.wait_for(2, SOON).await?;
    let url = other.rtmp("LiveApp", "show")?;
    Publisher::ffmpeg(cluster.folder.path(), "second", &url).await?.stop_after(&cluster.receiver, 3).await?;

    assert_eq!(code, "NetStream.Publish.BadName");
    assert_eq!(cluster.receiver.wait_for(4, SOON).await?.len(), 4);
    cluster.receiver.check_promises()
}

#[tokio::test]
async fn an_open_pool_takes_any_id_and_forgets_it() -> Result<()> {
    let receiver = Receiver::start().await?;
    let pool = json!({"admission": "Open", "listenerHookURL": receiver.url("default")});
    let cluster = Cluster::new("open", pool).await?;

    cluster.ffmpeg("Any_Id.1").await?.stop_after(&receiver, 1).await?;

    let requests = receiver.wait_for(2, SOON).await?;
    assert_eq!(requests[0].field("id").as_deref(), Some("Any_Id.1"));
    let broadcasts = Api::<Broadcast>::namespaced(cluster.tenant.admin.clone(), &cluster.tenant.namespace);
    wait::until("the ephemeral Broadcast to be gone", SOON, async || {
        let left = broadcasts.list(&kube::api::ListParams::default()).await.map_err(|error| error.to_string())?.items;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
    })
    .await
}

#[tokio::test]
async fn in_an_open_pool_a_publisher_that_comes_back_at_once_is_taken() -> Result<()> {
    let receiver = Receiver::start().await?;
    let pool = json!({"admission": "Open", "listenerHookURL": receiver.url("default")});
    let cluster = Cluster::new("again", pool).await?;
    let url = cluster.node.rtmp("LiveApp", "show")?;
    for round in 1..=20 {
        let mut client = come_back(&url).await?;
        client.send_video(0, 1_000).await?;
        receiver.wait_for(2 * round - 1, SOON).await?;
        client.finish().await?;
    }
    receiver.wait_for(40, SOON).await?;
    receiver.check_promises()
}

#[tokio::test]
async fn a_stream_key_from_a_secret_is_asked_for() -> Result<()> {
    let cluster = Cluster::new("key", json!({})).await?;
    let secret = serde_json::from_value(json!({"metadata": {"name": "keys"}, "stringData": {"show": "s3cr3t"}}))?;
    let secrets =
        Api::<k8s_openapi::api::core::v1::Secret>::namespaced(cluster.tenant.admin.clone(), &cluster.tenant.namespace);
    secrets.create(&PostParams::default(), &secret).await?;
    let spec = json!({
        "listenerHookURL": cluster.receiver.url("hook"),
        "publish": {"streamKeySecretRef": {"name": "keys", "key": "show"}},
    });
    cluster.tenant.broadcast("show", &spec).await?;
    let verified = |broadcast: &Broadcast| {
        broadcast.status_or_default().publish.is_some_and(|publish| publish.key_verifier.is_some())
    };
    cluster.tenant.until("show", "to have a key verifier", SOON, verified).await?;
    let url = cluster.node.rtmp("LiveApp", "show")?;

    assert_eq!(rtmp::publish(&url).await?.refused()?, "NetStream.Publish.Denied");
    assert_eq!(rtmp::publish(&format!("{url}?key=wrong")).await?.refused()?, "NetStream.Publish.Denied");
    let publisher = Publisher::ffmpeg(cluster.folder.path(), "publisher", &format!("{url}?key=s3cr3t")).await?;
    publisher.stop_after(&cluster.receiver, 1).await?;

    cluster.receiver.wait_for(2, SOON).await?;
    for log in [cluster.node.process.log(), cluster.operator.process.log()] {
        assert!(!log.contains("s3cr3t"), "a log shows the key");
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_node_ends_its_sessions_once_by_its_pod_or_by_its_lease() -> Result<()> {
    let mut cluster = Cluster::new("killed", json!({})).await?;
    let mut other = node(&cluster.tenant, &cluster.folder, "media-live-2").await?.start().await?;
    cluster.broadcast("by-pod").await?;
    cluster.broadcast("by-lease").await?;
    let _one = cluster.ffmpeg("by-pod").await?;
    let url = other.rtmp("LiveApp", "by-lease")?;
    let _two = Publisher::ffmpeg(cluster.folder.path(), "publisher-by-lease", &url).await?;
    cluster.receiver.wait_for(2, SOON).await?;

    cluster.node.process.kill()?;
    other.process.kill()?;
    identity::delete_pod(&cluster.tenant.admin, &cluster.tenant.namespace, "media-live-1").await?;

    let requests = cluster.receiver.wait_for(4, LEASE_EXPIRED).await?;
    let ended: Vec<_> = requests[2..].iter().filter_map(|request| request.field("id")).collect();
    assert_eq!(ended, ["by-pod", "by-lease"], "the pod's end is seen at once, the Lease's later");
    assert!(requests[2..].iter().all(|request| request.field("reason").as_deref() == Some("NodeLost")));
    cluster.tenant.settled("by-pod", 2, SOON).await?;
    cluster.tenant.settled("by-lease", 2, SOON).await?;
    assert_eq!(cluster.receiver.requests().len(), 4, "one end each");
    cluster.receiver.check_promises()
}

#[tokio::test]
async fn a_restart_of_the_api_server_in_mid_stream_is_not_noticed() -> Result<()> {
    let cluster = Cluster::alone("restart", json!({})).await?;
    cluster.broadcast("show").await?;
    let mut publisher = cluster.ffmpeg("show").await?;
    cluster.receiver.wait_for(1, SOON).await?;

    for _ in 0..2 {
        cluster.tenant.plane.kill_api()?;
        cluster.tenant.plane.start_api().await?;
    }
    let url = cluster.node.rtmp("LiveApp", "show")?;
    let played = media::play_with_ffmpeg(cluster.folder.path(), "player", &url).await?;
    publisher.process.must_run()?;
    publisher.stop().await?;

    let requests = cluster.receiver.wait_for(2, SOON).await?;
    assert!(played.frames >= 40, "{played:?}");
    assert_eq!(requests[1].field("reason").as_deref(), Some("PublisherClosed"));
    assert_eq!(requests[0].field("session"), requests[1].field("session"));
    cluster.receiver.check_promises()
}

#[tokio::test]
async fn an_outage_delays_ends_and_keeps_their_times() -> Result<()> {
    let mut cluster = Cluster::alone("outage", json!({})).await?;
    cluster.broadcast("ends").await?;
    cluster.broadcast("stays").await?;
    let ends = cluster.ffmpeg("ends").await?;
    let mut stays = cluster.ffmpeg("stays").await?;
    cluster.receiver.wait_for(2, SOON).await?;

    // Two minutes: first as a partition looks, then as a dead server.
    cluster.tenant.plane.freeze_api()?;
    ends.stop().await?;
    let ended = Timestamp::now();
    wait::throughout("the API server is frozen", Duration::from_secs(15), async || stays.process.must_run()).await?;
    cluster.tenant.plane.kill_api()?;
    wait::throughout("the API server is gone", Duration::from_secs(105), async || stays.process.must_run()).await?;
    assert!(rtmp::publish(&cluster.node.rtmp("LiveApp", "other")?).await?.refused().is_ok(), "no answer, no publisher");
    cluster.tenant.plane.start_api().await?;
    cluster.restart_operator().await?;

    let requests = cluster.receiver.wait_for(3, SOON).await?;
    let end = requests.iter().find(|request| request.action() == "liveStreamEnded").unwrap();
    assert_eq!(end.field("id").as_deref(), Some("ends"), "an outage is not node loss");
    assert_eq!(end.field("reason").as_deref(), Some("PublisherClosed"));
    let told = Timestamp::from_millisecond(end.field("timestamp").unwrap().parse()?)?;
    let late = told.duration_since(ended).as_secs_f64();
    assert!(late.abs() < 5.0, "the end is told {late} s after it was");
    stays.process.must_run()?;
    stays.stop().await?;
    cluster.receiver.wait_for(4, SOON).await?;
    cluster.node.process.must_run()?;
    cluster.receiver.check_promises()
}

#[tokio::test]
async fn the_charts_check_goes_the_whole_way_with_the_rights_that_the_chart_gives_it() -> Result<()> {
    let cluster = Cluster::new("check", json!({})).await?;
    let namespace = &cluster.tenant.namespace;
    let documents = install::render(namespace, &[&format!("watchNamespaces={{{namespace}}}")])?;
    let rights = documents.iter().filter(|it| it["metadata"]["name"] == "tallylight-check" && it["kind"] != "Pod");
    for document in rights {
        install::apply(&cluster.tenant.admin, namespace, document).await?;
    }
    let credential = identity::account(&cluster.tenant.admin, namespace, "tallylight-check").await?;
    let kubeconfig = cluster.tenant.plane.kubeconfig(cluster.folder.path(), "check", &credential, namespace)?;
    let rtmp = cluster.node.rtmp("LiveApp", "x")?.replace("rtmp://", "").replace("/LiveApp/x", "");

    let mut check = tokio::process::Command::new(repository::binary("tallylight-media-node")?);
    check.arg("check").arg("--kubeconfig").arg(&kubeconfig).args([
        "--advertise-address=127.0.0.1",
        "--hook-address=127.0.0.1:0",
        &format!("--rtmp-server={rtmp}"),
    ]);
    let output = tokio::time::timeout(SOON, check.kill_on_drop(true).output()).await??;

    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.ends_with("check    all of it works\n"), "{said}");
    Ok(())
}
