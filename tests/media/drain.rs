//! What becomes of sessions when their node stops: how long they last, where they go on, and what receivers and viewers notice.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, ResourceExt as _};
use rustix::process::Signal;
use serde_json::json;
use tallylight_crds::{Broadcast, BroadcastState, Session};
use tempfile::TempDir;
use tests::{
    encoder::{Encoder, Viewer},
    front::Front,
    http, identity,
    install::{self, Tenant},
    media::{self, Publisher},
    receiver::Receiver,
    relaying, repository, rtmp,
    service::{Launch, Service},
    wait,
};

use crate::{
    cluster::{Cluster, LEASE_EXPIRED, is, node, operator},
    standalone::{SOON, Standalone},
};

#[tokio::test]
async fn a_stopped_node_lets_publishers_go_on_until_its_drain_time_is_over() -> Result<()> {
    let mut cluster = Cluster::new("drain", json!({})).await?;
    let launch = node(&cluster.tenant, &cluster.folder, "media-live-2").await?.args(["--drain-seconds=12"]);
    cluster.node = launch.start().await?;
    cluster.broadcast("show").await?;
    let mut publisher = cluster.ffmpeg("show").await?;
    cluster.receiver.wait_for(1, SOON).await?;

    cluster.node.process.signal(Signal::TERM)?;
    let http = cluster.node.address("http")?;
    wait::until("the node not to be ready", SOON, async || match http::get(http, "/readyz").await {
        Ok(answer) if answer.status == 503 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    let refused = rtmp::publish(&cluster.node.rtmp("LiveApp", "other")?).await?.refused()?;
    let mut viewer = rtmp::play(&cluster.node.rtmp("LiveApp", "show")?).await?.started()?;
    wait::throughout("the node drains", Duration::from_secs(2), async || publisher.process.must_run()).await?;
    let served = viewer.next().await?;
    assert_eq!(cluster.receiver.requests().len(), 1, "it is on air");
    let status = cluster.node.process.wait(SOON).await?;

    assert_eq!(refused, "NetStream.Publish.Failed");
    assert!(served.is_some(), "viewers are served");
    assert!(status.success(), "{status}");
    let ended =
        cluster.tenant.until("show", "to have ended", Duration::from_secs(1), is(BroadcastState::Ended)).await?;
    assert_eq!(ended.status_or_default().session.epoch, 1, "by the node itself");
    let requests = cluster.receiver.wait_for(2, SOON).await?;
    assert_eq!(requests[1].field("reason").as_deref(), Some("NodeShutdown"));
    Ok(())
}

#[tokio::test]
async fn a_stopped_node_exits_when_its_last_publisher_has_left() -> Result<()> {
    let mut cluster = Cluster::new("drain-left", json!({})).await?;
    let launch = node(&cluster.tenant, &cluster.folder, "media-live-2").await?.args(["--drain-seconds=3600"]);
    cluster.node = launch.start().await?;
    cluster.broadcast("show").await?;
    let publisher = cluster.ffmpeg("show").await?;
    cluster.receiver.wait_for(1, SOON).await?;

    cluster.node.process.signal(Signal::TERM)?;
    let leases = Api::<Lease>::namespaced(cluster.tenant.admin.clone(), &cluster.tenant.namespace);
    wait::until("the Lease to say that the node drains", SOON, async || {
        let lease = leases.get("media-live-2").await.map_err(|error| error.to_string())?;
        let said = lease.annotations().get("tallylight.dev/draining").cloned();
        if said.as_deref() == Some("true") { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .await?;
    publisher.stop().await?;
    let status = cluster.node.process.wait(SOON).await?;

    assert!(status.success(), "{status}");
    let requests = cluster.receiver.wait_for(2, SOON).await?;
    assert_eq!(requests[1].field("reason").as_deref(), Some("PublisherClosed"));
    Ok(())
}

/// A pool that waits for its publishers: nodes with a relay, and one address for encoders.
struct Pool {
    // Dropped in this order: who writes goes first.
    nodes: BTreeMap<&'static str, Service>,
    launches: BTreeMap<&'static str, Launch>,
    operator: Service,
    front: Front,
    receiver: Receiver,
    tenant: Tenant,
    folder: TempDir,
    key: String,
    window: u32,
}

impl Pool {
    async fn new(name: &str, window: u32) -> Result<Self> {
        let (tenant, folder) = (install::tenant(name).await?, repository::folder(name)?);
        let receiver = Receiver::start().await?;
        tenant.pool(&json!({"reconnectWindowSeconds": window, "listenerHookURL": receiver.url("hook")})).await?;
        let operator = operator(&tenant, &folder).await?;
        let key = relaying::key_file(&tenant, folder.path()).await?;
        let front = Front::start().await?;
        Ok(Self {
            nodes: BTreeMap::new(),
            launches: BTreeMap::new(),
            operator,
            front,
            receiver,
            tenant,
            folder,
            key,
            window,
        })
    }

    /// Starts a node. Viewers reach it; encoders do once it is at the front.
    async fn start(&mut self, name: &'static str) -> Result<&Service> {
        let (key, window) =
            (format!("--relay-key-file={}", self.key), format!("--reconnect-window-seconds={}", self.window));
        let launch = node(&self.tenant, &self.folder, name).await?.args([
            "--relay-address=127.0.0.1:0",
            "--advertise-address=127.0.0.1",
            &key,
            &window,
            "--drain-seconds=60",
        ]);
        self.nodes.insert(name, launch.start().await?);
        self.launches.insert(name, launch);
        Ok(&self.nodes[name])
    }

    /// Starts a node again as the same pod.
    async fn restart(&mut self, name: &'static str) -> Result<()> {
        let node = self.launches[name].start().await?;
        self.front.add(&node)?;
        self.nodes.insert(name, node);
        Ok(())
    }

    async fn start_at_the_front(&mut self, name: &'static str) -> Result<()> {
        self.start(name).await?;
        self.front.add(&self.nodes[name])
    }

    fn node(&mut self, name: &str) -> &mut Service {
        self.nodes.get_mut(name).unwrap()
    }

    fn encoder(&self, stream: &str) -> Encoder {
        Encoder::start(&self.front.rtmp("LiveApp", stream))
    }

    /// Waits until the stream is on air at a node.
    async fn is_on_air_at(&self, stream: &str, node: &str) -> Result<()> {
        let there = |broadcast: &Broadcast| broadcast.status_or_default().session.node.as_deref() == Some(node);
        self.tenant.until(stream, &format!("to be on air at {node}"), SOON, there).await.map(|_| ())
    }

    async fn until(&self, stream: &str, state: BroadcastState) -> Result<Session> {
        let what = format!("to be {state:?}");
        Ok(self.tenant.until(stream, &what, LEASE_EXPIRED, is(state)).await?.status_or_default().session)
    }

    /// Asserts that receivers were told of so many starts and ends, in order and once each.
    fn told(&self, starts: usize, ends: usize) -> Result<()> {
        let requests = self.receiver.requests();
        let count = |action: &str| requests.iter().filter(|request| request.action() == action).count();
        assert_eq!((count("liveStreamStarted"), count("liveStreamEnded")), (starts, ends), "{requests:#?}");
        self.receiver.check_promises()
    }
}

/// What the controller of a pool does with nodes of an old spec: first a new one is ready, then an old one is stopped.
#[tokio::test]
async fn a_rolling_update_with_a_reconnect_window_ends_no_session_and_viewers_stay() -> Result<()> {
    const PUBLISHERS: usize = 100;
    let mut pool = Pool::new("rolling", 30).await?;
    pool.start_at_the_front("old-1").await?;
    pool.start_at_the_front("old-2").await?;
    let elsewhere = pool.start("viewers").await?.rtmp("LiveApp", "")?;
    let streams: Vec<String> = (0..PUBLISHERS).map(|number| format!("stream-{number}")).collect();
    for stream in &streams {
        pool.tenant.broadcast(stream, &json!({})).await?;
    }
    let encoders: Vec<Encoder> = streams.iter().map(|stream| pool.encoder(stream)).collect();
    pool.receiver.wait_for(PUBLISHERS, LEASE_EXPIRED).await?;
    let mut viewers = Vec::new();
    for stream in &streams[..4] {
        viewers.push(Viewer::start(&format!("{elsewhere}{stream}")).await?);
    }

    for (old, new) in [("old-1", "new-1"), ("old-2", "new-2")] {
        pool.start_at_the_front(new).await?;
        let status = pool.node(old).process.stop(LEASE_EXPIRED).await?;
        assert!(status.success(), "{status}");
        identity::delete_pod(&pool.tenant.admin, &pool.tenant.namespace, old).await?;
    }

    for stream in &streams {
        let session = pool.until(stream, BroadcastState::Live).await?;
        assert!(session.ordinal == 1 && session.node.is_some_and(|node| node.starts_with("new-")));
    }
    for viewer in &viewers {
        viewer.sees_more(SOON).await?;
    }
    pool.told(PUBLISHERS, 0)?;
    let seen: Vec<_> = encoders.iter().map(Encoder::seen).collect();
    assert!(seen.iter().all(|seen| seen.connections >= 2), "each has moved: {seen:#?}");
    let in_its_way = seen.iter().flat_map(|seen| &seen.refusals).filter(|code| *code == "NetStream.Publish.BadName");
    assert_eq!(in_its_way.count(), 0, "nobody finds its own session in the way");
    for encoder in encoders {
        encoder.stop().await;
    }
    let requests = pool.receiver.wait_for(2 * PUBLISHERS, LEASE_EXPIRED).await?;
    let closed = requests.iter().filter(|request| request.field("reason").as_deref() == Some("PublisherClosed"));
    assert_eq!(closed.count(), PUBLISHERS);
    pool.told(PUBLISHERS, PUBLISHERS)
}

#[tokio::test]
async fn what_people_use_goes_on_at_another_node() -> Result<()> {
    let mut pool = Pool::new("people", 30).await?;
    pool.start_at_the_front("one").await?;
    pool.tenant.broadcast("show", &json!({})).await?;
    let url = pool.front.rtmp("LiveApp", "show");
    let mut first = Publisher::ffmpeg(pool.folder.path(), "first", &url).await?;
    pool.receiver.wait_for(1, SOON).await?;
    pool.start_at_the_front("two").await?;
    let viewer = Viewer::start(&pool.node("two").rtmp("LiveApp", "show")?).await?;

    pool.node("one").process.signal(Signal::TERM)?;
    first.process.wait(SOON).await?;
    let second = Publisher::ffmpeg(pool.folder.path(), "second", &url).await?;
    pool.is_on_air_at("show", "two").await?;
    pool.node("one").process.wait(SOON).await?;
    viewer.sees_more(SOON).await?;
    let played = media::play_with_ffmpeg(pool.folder.path(), "player", &url).await?;
    pool.told(1, 0)?;
    second.stop().await?;

    assert!(played.frames >= 40, "{played:?}");
    pool.receiver.wait_for(2, SOON).await?;
    pool.told(1, 1)
}

#[tokio::test]
async fn the_publisher_of_a_killed_node_goes_on_at_another() -> Result<()> {
    let mut pool = Pool::new("killed-window", 60).await?;
    pool.start_at_the_front("one").await?;
    pool.tenant.broadcast("show", &json!({})).await?;
    let encoder = pool.encoder("show");
    pool.receiver.wait_for(1, SOON).await?;
    pool.start_at_the_front("two").await?;
    let viewer = Viewer::start(&pool.node("two").rtmp("LiveApp", "show")?).await?;

    pool.node("one").process.kill()?;
    identity::delete_pod(&pool.tenant.admin, &pool.tenant.namespace, "one").await?;
    pool.is_on_air_at("show", "two").await?;

    viewer.sees_more(SOON).await?;
    let session = pool.until("show", BroadcastState::Live).await?;
    assert_eq!((session.ordinal, session.epoch), (1, 3), "the operator fenced off the one, and the other took over");
    pool.told(1, 0)?;
    encoder.stop().await;
    pool.receiver.wait_for(2, SOON).await?;
    pool.told(1, 1)
}

/// The kubelet starts a container that was killed again, in the same pod.
#[tokio::test]
async fn the_publisher_of_a_killed_container_goes_on_when_it_is_back() -> Result<()> {
    let mut pool = Pool::new("container", 60).await?;
    pool.start_at_the_front("one").await?;
    pool.tenant.broadcast("show", &json!({})).await?;
    let encoder = pool.encoder("show");
    pool.receiver.wait_for(1, SOON).await?;

    pool.node("one").process.kill()?;
    pool.restart("one").await?;
    wait::until("the encoder to be back", SOON, async || {
        let seen = encoder.seen();
        if seen.connections >= 2 { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await?;

    pool.is_on_air_at("show", "one").await?;
    encoder.stop().await;
    pool.receiver.wait_for(2, SOON).await?;
    pool.told(1, 1)
}

#[tokio::test]
async fn a_publisher_that_stays_away_has_one_end_as_of_when_it_left() -> Result<()> {
    let mut pool = Pool::new("stays-away", 8).await?;
    pool.start_at_the_front("one").await?;
    pool.start_at_the_front("two").await?;
    for stream in ["lost", "node-lost"] {
        pool.tenant.broadcast(stream, &json!({})).await?;
    }
    let lost = Encoder::start(&pool.node("one").rtmp("LiveApp", "lost")?);
    let node_lost = Encoder::start(&pool.node("two").rtmp("LiveApp", "node-lost")?);
    pool.receiver.wait_for(2, SOON).await?;

    drop(lost); // without a word
    pool.node("two").process.kill()?;
    drop(node_lost);
    identity::delete_pod(&pool.tenant.admin, &pool.tenant.namespace, "two").await?;
    let mut left = Vec::new();
    for (stream, reason) in [("lost", "PublisherLost"), ("node-lost", "NodeLost")] {
        let away = pool.until(stream, BroadcastState::Reconnecting).await?.away.unwrap();
        assert_eq!(away.reason.as_str(), reason);
        left.push((stream, reason, away));
    }
    // what waits is in the status: the next operator finds it there
    pool.operator.process.kill()?;
    pool.operator = operator(&pool.tenant, &pool.folder).await?;

    let requests = pool.receiver.wait_for(4, LEASE_EXPIRED).await?;
    pool.told(2, 2)?;
    for (stream, reason, away) in left {
        let end = requests.iter().find(|r| r.action() == "liveStreamEnded" && r.field("id").as_deref() == Some(stream));
        let end = end.unwrap();
        assert_eq!(end.field("reason").as_deref(), Some(reason));
        assert_eq!(end.field("timestamp"), Some(away.since.as_millisecond().to_string()));
        assert_eq!(pool.until(stream, BroadcastState::Ended).await?.end_time, Some(away.since));
    }
    Ok(())
}

#[tokio::test]
async fn while_no_operator_runs_a_publisher_that_comes_too_late_opens_the_next_session() -> Result<()> {
    let mut pool = Pool::new("late", 2).await?;
    pool.start_at_the_front("one").await?;
    pool.tenant.broadcast("show", &json!({})).await?;
    let encoder = pool.encoder("show");
    pool.tenant.settled("show", 1, SOON).await?;
    pool.operator.process.kill()?;
    drop(encoder);
    let away = pool.until("show", BroadcastState::Reconnecting).await?.away.unwrap();
    wait::until("its time to be over", SOON, async || {
        let now = Timestamp::now();
        if now > away.until { Ok(()) } else { Err(format!("{now}")) }
    })
    .await?;

    let encoder = pool.encoder("show");
    let next = pool.until("show", BroadcastState::Live).await?;
    pool.operator = operator(&pool.tenant, &pool.folder).await?;

    assert_eq!(next.ordinal, 2);
    let requests = pool.receiver.wait_for(3, LEASE_EXPIRED).await?;
    assert_eq!(requests[1].field("reason").as_deref(), Some("PublisherLost"));
    assert_eq!(requests[1].field("timestamp"), Some(away.since.as_millisecond().to_string()));
    encoder.stop().await;
    pool.receiver.wait_for(4, SOON).await?;
    pool.told(2, 2)
}

#[tokio::test]
async fn a_node_that_comes_back_does_not_take_a_session_from_where_it_went_on() -> Result<()> {
    let mut pool = Pool::new("healed", 120).await?;
    pool.start("one").await?;
    pool.start_at_the_front("two").await?;
    pool.tenant.broadcast("show", &json!({})).await?;
    let first = Encoder::start(&pool.node("one").rtmp("LiveApp", "show")?);
    pool.receiver.wait_for(1, SOON).await?;

    // as a partition looks: nothing of it is heard any more, and its publisher feeds on
    pool.node("one").process.signal(Signal::STOP)?;
    pool.until("show", BroadcastState::Reconnecting).await?;
    let second = pool.encoder("show");
    pool.is_on_air_at("show", "two").await?;
    pool.node("one").process.signal(Signal::CONT)?;

    wait::until("the healed node to let its publisher go", SOON, async || {
        let seen = first.seen();
        if seen.refusals.iter().any(|code| code == "NetStream.Publish.BadName") {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await?;
    let session = pool.until("show", BroadcastState::Live).await?;
    assert_eq!((session.ordinal, session.epoch, session.node.as_deref()), (1, 3, Some("two")));
    drop(first);
    second.stop().await;
    pool.receiver.wait_for(2, SOON).await?;
    pool.told(1, 1)
}

#[tokio::test]
async fn an_operator_and_a_node_that_are_lost_at_once_end_each_session_once() -> Result<()> {
    let mut cluster = Cluster::new("both-lost", json!({})).await?;
    cluster.broadcast("killed").await?;
    cluster.broadcast("closed").await?;
    let mut other = node(&cluster.tenant, &cluster.folder, "media-live-2").await?.start().await?;
    let _killed = Encoder::start(&other.rtmp("LiveApp", "killed")?);
    let closed = Encoder::start(&cluster.node.rtmp("LiveApp", "closed")?);
    cluster.receiver.wait_for(2, SOON).await?;

    cluster.operator.process.kill()?;
    other.process.kill()?;
    identity::delete_pod(&cluster.tenant.admin, &cluster.tenant.namespace, "media-live-2").await?;
    closed.stop().await; // what happens meanwhile is kept
    cluster.operator = operator(&cluster.tenant, &cluster.folder).await?;

    let requests = cluster.receiver.wait_for(4, LEASE_EXPIRED).await?;
    let mut ends: Vec<_> = requests[2..].iter().map(|r| (r.field("id").unwrap(), r.field("reason").unwrap())).collect();
    ends.sort();
    assert_eq!(
        ends,
        [("closed", "PublisherClosed"), ("killed", "NodeLost")].map(|(id, r)| (id.to_owned(), r.to_owned()))
    );
    cluster.receiver.check_promises()
}

#[tokio::test]
async fn a_standalone_server_that_is_restarted_goes_on_with_its_sessions() -> Result<()> {
    let mut server = Standalone::with("standalone-window", &["--reconnect-window-seconds=60"]).await?;
    let encoder = Encoder::start(&server.rtmp("show"));
    server.receiver.wait_for(1, SOON).await?;

    assert!(server.service.process.stop(SOON).await?.success());
    drop(encoder);
    server.service = server.launch.start().await?;
    let encoder = Encoder::start(&server.rtmp("show"));
    wait::until("the session to go on", SOON, async || {
        let metrics = http::get(server.service.address("http").unwrap(), "/metrics").await;
        let metrics = metrics.map_err(|error| error.to_string())?.body;
        if metrics.contains("tallylight_node_sessions_resumed_total 1") { Ok(()) } else { Err(metrics) }
    })
    .await?;
    assert_eq!(server.receiver.requests().len(), 1, "{:#?}", server.receiver.requests());
    encoder.stop().await;

    let requests = server.receiver.wait_for(2, SOON).await?;
    assert_eq!(requests[1].field("reason").as_deref(), Some("PublisherClosed"));
    server.receiver.check_promises()
}

#[tokio::test]
async fn viewers_of_a_standalone_server_wait_for_a_publisher_that_was_lost_and_in_the_end_for_nobody() -> Result<()> {
    let server = Standalone::with("standalone-lost", &["--reconnect-window-seconds=4"]).await?;
    let first = Encoder::start(&server.rtmp("show"));
    server.receiver.wait_for(1, SOON).await?;
    let viewer = Viewer::start(&server.rtmp("show")).await?;
    viewer.sees_more(SOON).await?;

    drop(first);
    let second = Encoder::start(&server.rtmp("show"));
    wait::until("the encoder to be taken", SOON, async || {
        let seen = second.seen();
        if seen.connections > 0 { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await?;
    viewer.sees_more(SOON).await?;
    drop(second);

    let requests = server.receiver.wait_for(2, SOON).await?;
    assert_eq!(requests[1].field("reason").as_deref(), Some("PublisherLost"));
    viewer.ends(SOON).await?;
    server.receiver.check_promises()
}
