//! Nodes of one pool in this process, each with a runtime of its own so that it can be killed, over one store: what is published
//! to one is played from another.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends here, with the reason")]

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use clap::Parser;
use jiff::Timestamp;
use ledger::{Change, Input, Key, Owner, SqliteStore, Store};
use prometheus_client::{encoding::text, registry::Registry};
use rtmp::{
    Kind, Message,
    client::{Event, Session, Target},
    status::code,
};
use tallylight_crds::{Admission, MediaPool, MediaPoolSpec, Reason, StreamId};
use tallylight_media_node::{
    admission::Apps,
    claim::{Claims, Identity, Leftovers, Windows},
    cli::NodeArgs,
    listener,
    metrics::{Metrics, Protocol},
    relay::{
        self,
        token::{Grant, PoolKey},
    },
    server::Node,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::JoinSet,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[path = "relay/weather.rs"]
mod weather;
use weather::{Weather, Weathered};

/// Nothing here takes ten seconds; a busy machine may.
const PATIENCE: Duration = Duration::from_secs(40);

const VIDEO_HEADER: &[u8] = &[0x17, 0, 0, 0, 0, 1];
const KEYFRAME: &[u8] = &[0x17, 1, 0, 0, 0, 2];
const FRAME: &[u8] = &[0x27, 1, 0, 0, 0, 3];

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not happen within {PATIENCE:?}"))
}

fn key() -> PoolKey {
    PoolKey::new(&[7; 32]).unwrap()
}

/// What the nodes of a pool share.
struct Pool {
    store: SqliteStore,
    folder: TempDir,
    window: Duration,
}

impl Pool {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("ledger.sqlite")).unwrap();
        let spec = MediaPoolSpec { app: "LiveApp".into(), admission: Admission::Open, ..Default::default() };
        let mut pool = MediaPool::new("default", spec);
        pool.metadata.namespace = Some("default".into());
        store.set_pools([pool]);
        Self { store, folder, window: Duration::ZERO }
    }

    /// One that waits for publishers that are lost.
    fn that_waits() -> Self {
        Self { window: Duration::from_secs(60), ..Self::new() }
    }

    async fn node(&self, name: &str) -> Member {
        self.node_reached_at(name, None).await
    }

    /// A node that others are told another address of than its relay's.
    async fn node_reached_at(&self, name: &str, address: Option<SocketAddr>) -> Member {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let look_ups = Weathered::new(self.store.clone());
        let start = Member::start(name.to_owned(), folder, look_ups.clone(), self.store.clone(), address, self.window);
        let (rtmp, relay, registry, shutdown) = runtime.spawn(start).await.unwrap();
        Member { runtime: Some(runtime), look_ups, rtmp, relay, registry, shutdown }
    }

    /// What the operator does when a node is lost.
    async fn close_session(&self) {
        let broadcast = self.store.get(&studio()).await.unwrap().unwrap();
        let owner = Owner::of(&broadcast.status_or_default().session);
        let close = Input::Close { owner, reason: Reason::NodeLost, time: Timestamp::now() };
        ledger::commit(&self.store, &broadcast, &close).await.unwrap();
    }

    async fn grant(&self) -> Grant {
        let broadcast = self.store.get(&studio()).await.unwrap().unwrap();
        let session = Owner::of(&broadcast.status_or_default().session);
        let expires = Timestamp::now().as_second() + 60;
        Grant { uid: broadcast.metadata.uid.unwrap(), session, node: "test".into(), expires }
    }
}

fn studio() -> Key {
    Key::of_stream("default", &StreamId::parse("studio").unwrap())
}

/// A node. Dropping it kills it: its connections break, and its session stays as it is in the store.
struct Member {
    runtime: Option<Runtime>,
    /// Its relay's way to the store; all else has another.
    look_ups: Weathered,
    rtmp: SocketAddr,
    relay: SocketAddr,
    registry: Arc<Registry>,
    shutdown: CancellationToken,
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    node: NodeArgs,
}

impl Member {
    async fn start(
        name: String,
        folder: std::path::PathBuf,
        look_ups: Weathered,
        sqlite: SqliteStore,
        reached_at: Option<SocketAddr>,
        window: Duration,
    ) -> (SocketAddr, SocketAddr, Arc<Registry>, CancellationToken) {
        let store = Weathered::new(sqlite.clone());
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut registry = Registry::with_prefix("tallylight");
        let (metrics, relay_metrics) = (Metrics::new(&mut registry), relay::Metrics::new(&mut registry));
        let socket = relay::Socket::new(listener::bind(loopback).unwrap(), key(), "127.0.0.1").unwrap();
        let (namespace, relay) = ("default".to_owned(), socket.address());
        let address = Some(reached_at.map_or_else(|| socket.advertised().to_owned(), |address| address.to_string()));
        let identity =
            Identity { namespace: namespace.clone(), node: name.clone(), address, windows: Windows::new(window) };
        let (claims, recovery) = Claims::open(store.clone(), identity, &folder, metrics.clone()).unwrap();
        recovery.run(Leftovers::Close).await;
        let apps = Apps::default();
        apps.set(BTreeMap::from([("LiveApp".to_owned(), "default".to_owned())]));
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let args = Flags::parse_from(["test"]).node;
        let place = relay::Place { store: look_ups, namespace: namespace.clone(), node: name, disks: None };
        let mut node = Node::new(apps, claims.clone(), metrics, &args, shutdown.clone(), &tasks);
        socket.serve(&mut node, place, relay_metrics, &tasks);
        let rtmp = listener::bind(loopback).unwrap();
        let address = rtmp.local_addr().unwrap();
        tasks.spawn(listener::serve(rtmp, None, Protocol::Rtmp, Arc::new(node), tasks.clone()));
        let mut changes = sqlite.subscribe();
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(async move {
            while let Ok(change) = changes.recv().await {
                match change {
                    Change::Applied(broadcast) => claims.observe(&broadcast),
                    Change::Deleted { key, .. } => claims.observe_gone(&key),
                    Change::Recorded(_) | Change::RecordingDeleted(_) => {}
                }
            }
        }));
        (address, relay, Arc::new(registry), shutdown)
    }

    async fn publish(&self) -> Client {
        let mut publisher = Client::start(self.rtmp, Session::publish).await.unwrap();
        publisher.send(Kind::Video, 0, VIDEO_HEADER).await;
        publisher.send(Kind::Video, 0, KEYFRAME).await;
        publisher
    }

    /// Waits until the node knows that its claim is durable: it serves pullers from then on.
    async fn is_on_air(&self) {
        self.metric_becomes("tallylight_node_sessions_open", |sessions| sessions == 1).await;
    }

    async fn play(&self) -> Result<Client, String> {
        Client::start(self.rtmp, Session::play).await
    }

    /// The value of a metric; 0 when it was never counted.
    fn metric(&self, name: &str) -> u64 {
        let mut all = String::new();
        text::encode(&mut all, &self.registry).unwrap();
        let line = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    async fn metric_becomes(&self, name: &str, is: impl Fn(u64) -> bool) {
        let wait = async {
            while !is(self.metric(name)) {
                tokio::task::yield_now().await;
            }
        };
        let done = timeout(PATIENCE, wait).await;
        assert!(done.is_ok(), "{name} is {}", self.metric(name));
    }

    /// Asks for the stream as a puller does; returns the connection, and the status line.
    async fn ask(&self, token: &str) -> (TcpStream, String) {
        self.ask_with(&format!(
            "Connection: upgrade\r\nUpgrade: tallylight-packets\r\nAuthorization: Bearer {token}\r\n"
        ))
        .await
    }

    async fn ask_with(&self, headers: &str) -> (TcpStream, String) {
        let mut socket = TcpStream::connect(self.relay).await.unwrap();
        let request = format!("GET /relay/v1/LiveApp/studio HTTP/1.1\r\nHost: owner\r\n{headers}\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n") {
            answer.push(soon("an answer", socket.read_u8()).await.unwrap());
        }
        (socket, String::from_utf8(answer).unwrap().trim().to_owned())
    }
}

/// A publisher or player of the stream `studio`.
struct Client {
    socket: TcpStream,
    session: Session,
    input: BytesMut,
}

impl Client {
    /// Connects and waits for the answer; an error is the status code of a refusal.
    async fn start(address: SocketAddr, session: fn(Target) -> Session) -> Result<Self, String> {
        let target = Target::parse(&format!("rtmp://{address}/LiveApp/studio")).unwrap();
        let socket = TcpStream::connect(address).await.unwrap();
        let mut client = Self { socket, session: session(target), input: BytesMut::new() };
        match soon("an answer", client.event()).await {
            Some(Event::Started) => Ok(client),
            Some(Event::Refused { code, .. }) => Err(code),
            other => panic!("neither started nor refused: {other:?}"),
        }
    }

    /// The next event; `None` when the connection is closed.
    async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.session.receive(&mut self.input).unwrap() {
                self.flush().await;
                return Some(event);
            }
            self.flush().await;
            if self.socket.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn flush(&mut self) {
        let output = self.session.take_output();
        // a server that has closed the connection says so at the next read
        let _written = self.socket.write_all(&output).await;
    }

    async fn send(&mut self, kind: Kind, timestamp_ms: u32, payload: &'static [u8]) {
        self.session.send(&Message { kind, timestamp_ms, payload: Bytes::from_static(payload) });
        self.flush().await;
    }

    async fn finish(mut self) {
        self.session.finish();
        self.flush().await;
    }

    /// The next message: time and payload.
    async fn message(&mut self) -> (u32, Bytes) {
        match soon("a message", self.event()).await {
            Some(Event::Media(message)) => (message.timestamp_ms, message.payload),
            other => panic!("no message but {other:?}"),
        }
    }

    async fn sees(&mut self, expected: &[(u32, &'static [u8])]) {
        for (time, payload) in expected {
            assert_eq!(self.message().await, (*time, Bytes::from_static(payload)));
        }
    }

    async fn ends(&mut self) {
        let ended = soon("the end", self.event()).await;
        assert_eq!(ended, Some(Event::Ended { code: code::PLAY_UNPUBLISH_NOTIFY.to_owned() }));
    }
}

const START: [(u32, &[u8]); 2] = [(0, VIDEO_HEADER), (0, KEYFRAME)];

#[tokio::test]
async fn a_viewer_on_another_node_starts_at_the_latest_keyframe_and_goes_on_live() {
    let pool = Pool::new();
    let (a, b) = (pool.node("a").await, pool.node("b").await);
    let mut publisher = a.publish().await;
    publisher.send(Kind::Video, 2_000, KEYFRAME).await;
    publisher.send(Kind::Video, 2_040, FRAME).await;
    a.is_on_air().await;
    let mut there = a.play().await.unwrap();
    while there.message().await.0 < 2_040 {}

    let mut viewer = b.play().await.unwrap();

    viewer.sees(&[(2_000, VIDEO_HEADER), (2_000, KEYFRAME), (2_040, FRAME)]).await;
    publisher.send(Kind::Video, 2_080, FRAME).await;
    viewer.sees(&[(2_080, FRAME)]).await;
    publisher.finish().await;
    viewer.ends().await;
    b.metric_becomes("tallylight_relay_pulls", |pulls| pulls == 0).await;
    assert_eq!(b.play().await.err().as_deref(), Some(code::PLAY_STREAM_NOT_FOUND));
}

#[tokio::test]
async fn many_viewers_cost_the_owner_one_pull_and_the_store_one_read() {
    let pool = Pool::new();
    let (a, b) = (pool.node("a").await, pool.node("b").await);
    let mut publisher = a.publish().await;
    a.is_on_air().await;
    let reads = b.look_ups.requests();

    let viewers = futures::future::join_all((0..20).map(|_| b.play())).await;

    let mut viewers: Vec<_> = viewers.into_iter().map(Result::unwrap).collect();
    for viewer in &mut viewers {
        viewer.sees(&START).await;
    }
    publisher.send(Kind::Video, 40, FRAME).await;
    for viewer in &mut viewers {
        viewer.sees(&[(40, FRAME)]).await;
    }
    assert_eq!(b.look_ups.requests() - reads, 1);
    assert_eq!(b.metric("tallylight_relay_pulls_started_total"), 1);
    assert_eq!((a.metric("tallylight_relay_pullers"), b.metric("tallylight_relay_pulls")), (1, 1));
    let moved = a.metric("tallylight_relay_media_bytes_total{direction=\"Out\"}");
    b.metric_becomes("tallylight_relay_media_bytes_total{direction=\"In\"}", |bytes| bytes >= moved).await;
}

#[tokio::test]
async fn a_stream_that_is_live_nowhere_is_refused_at_the_price_of_one_read_for_all_who_ask() {
    let pool = Pool::new();
    let b = pool.node("b").await;

    let answers = futures::future::join_all((0..20).map(|_| b.play())).await;

    assert!(
        answers.iter().all(|answer| answer.as_ref().err().map(String::as_str) == Some(code::PLAY_STREAM_NOT_FOUND))
    );
    assert_eq!(b.look_ups.requests(), 1);
}

#[tokio::test]
async fn viewers_of_a_killed_owner_get_the_end_once_the_session_has_it() {
    let pool = Pool::new();
    let (a, b) = (pool.node("a").await, pool.node("b").await);
    let _publisher = a.publish().await;
    a.is_on_air().await;
    let mut viewer = b.play().await.unwrap();
    viewer.sees(&START).await;

    drop(a);
    b.metric_becomes("tallylight_relay_failures_total{reason=\"Connect\"}", |failures| failures > 1).await;
    pool.close_session().await;

    viewer.ends().await;
}

#[tokio::test]
async fn a_pull_that_breaks_goes_on_where_it_was() {
    let pool = Pool::new();
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, b) = (pool.node_reached_at("a", Some(door.local_addr().unwrap())).await, pool.node("b").await);
    let mut publisher = a.publish().await;
    a.is_on_air().await;
    let (viewer, mut line) = tokio::join!(b.play(), connect_through(&door, a.relay));
    let mut viewer = viewer.unwrap();
    viewer.sees(&START).await;
    publisher.send(Kind::Video, 40, FRAME).await;
    viewer.sees(&[(40, FRAME)]).await;

    line.shutdown().await;
    publisher.send(Kind::Video, 80, FRAME).await;
    let _line = connect_through(&door, a.relay).await;

    viewer.sees(&[(80, FRAME)]).await;
    publisher.send(Kind::Video, 120, FRAME).await;
    viewer.sees(&[(120, FRAME)]).await;
    assert_eq!(b.metric("tallylight_relay_failures_total{reason=\"Broken\"}"), 1);
}

/// Takes one connection at a door on to where it leads; it breaks when the task is ended.
async fn connect_through(door: &TcpListener, address: SocketAddr) -> JoinSet<()> {
    let (mut puller, _) = soon("a puller comes", door.accept()).await.unwrap();
    let mut owner = TcpStream::connect(address).await.unwrap();
    let mut line = JoinSet::new();
    line.spawn(async move { drop(tokio::io::copy_bidirectional(&mut puller, &mut owner).await) });
    line
}

#[tokio::test]
async fn viewers_stay_when_the_stream_moves_to_a_third_node() {
    let pool = Pool::new();
    let (a, b, c) = (pool.node("a").await, pool.node("b").await, pool.node("c").await);
    let _publisher = a.publish().await;
    a.is_on_air().await;
    let mut viewer = b.play().await.unwrap();
    viewer.sees(&START).await;

    // so that the relay learns of the end and the new start at once
    b.look_ups.set(Weather::Down);
    drop(a);
    pool.close_session().await;
    let mut publisher = c.publish().await;
    c.is_on_air().await;
    b.look_ups.set(Weather::Fine);

    let (time, payload) = viewer.message().await;
    assert_eq!(payload, KEYFRAME, "the header is the one that the viewer has");
    assert!(time >= 20, "time goes on: {time}");
    publisher.send(Kind::Video, 40, FRAME).await;
    viewer.sees(&[(time + 40, FRAME)]).await;
    publisher.finish().await;
    viewer.ends().await;
}

#[tokio::test]
async fn viewers_stay_when_the_stream_moves_to_their_own_node() {
    let pool = Pool::new();
    let (a, b) = (pool.node("a").await, pool.node("b").await);
    let _publisher = a.publish().await;
    a.is_on_air().await;
    let mut viewer = b.play().await.unwrap();
    viewer.sees(&START).await;

    b.look_ups.set(Weather::Down);
    drop(a);
    pool.close_session().await;
    let mut publisher = b.publish().await;
    b.is_on_air().await;
    b.look_ups.set(Weather::Fine);

    let (time, payload) = viewer.message().await;
    assert_eq!(payload, KEYFRAME);
    publisher.send(Kind::Video, 40, FRAME).await;
    viewer.sees(&[(time + 40, FRAME)]).await;
    let mut newcomer = b.play().await.unwrap();
    newcomer.sees(&[(time, VIDEO_HEADER), (time, KEYFRAME), (time + 40, FRAME)]).await;
    publisher.finish().await;
    viewer.ends().await;
}

#[tokio::test]
async fn viewers_stay_at_the_node_that_their_publisher_has_left() {
    let pool = Pool::that_waits();
    let (a, b) = (pool.node("a").await, pool.node("b").await);
    let publisher = a.publish().await;
    a.is_on_air().await;
    let mut here = a.play().await.unwrap();
    here.sees(&START).await;
    let mut there = b.play().await.unwrap();
    there.sees(&START).await;

    drop(publisher);
    a.metric_becomes("tallylight_node_sessions_parked_total{reason=\"PublisherLost\"}", |parked| parked == 1).await;
    let mut publisher = b.publish().await;
    b.is_on_air().await;
    publisher.send(Kind::Video, 40, FRAME).await;

    for viewer in [&mut here, &mut there] {
        let (time, payload) = viewer.message().await;
        assert!(payload == KEYFRAME && time >= 20, "time goes on: {time}");
        viewer.sees(&[(time + 40, FRAME)]).await;
    }
    // and back
    drop(publisher);
    b.metric_becomes("tallylight_node_sessions_parked_total{reason=\"PublisherLost\"}", |parked| parked == 1).await;
    let mut publisher = a.publish().await;
    a.metric_becomes("tallylight_node_sessions_resumed_total", |resumed| resumed == 1).await;
    for viewer in [&mut here, &mut there] {
        let (time, payload) = viewer.message().await;
        assert!(payload == KEYFRAME && time >= 60, "time goes on: {time}");
    }
    publisher.send(Kind::Video, 40, FRAME).await;
    publisher.finish().await;
    for viewer in [&mut here, &mut there] {
        assert_eq!(viewer.message().await.1, FRAME);
        viewer.ends().await;
    }
    let broadcast = pool.store.get(&studio()).await.unwrap();
    let hooks = broadcast.map(|broadcast| broadcast.status_or_default().hooks);
    assert!(hooks.is_none_or(|hooks| hooks.last_sequence == 2), "one start and one end");
}

#[tokio::test]
async fn a_publisher_does_not_notice_a_puller_that_is_killed() {
    let pool = Pool::new();
    let (a, b, c) = (pool.node("a").await, pool.node("b").await, pool.node("c").await);
    let mut publisher = a.publish().await;
    a.is_on_air().await;
    let mut viewer = b.play().await.unwrap();
    viewer.sees(&START).await;

    drop(b);

    publisher.send(Kind::Video, 40, FRAME).await;
    a.metric_becomes("tallylight_relay_pullers", |pullers| pullers == 0).await;
    let mut viewer = c.play().await.unwrap();
    viewer.sees(&START).await;
    viewer.sees(&[(40, FRAME)]).await;
}

#[tokio::test]
async fn a_pull_ends_a_little_after_its_last_viewer_has_left() {
    let pool = Pool::new();
    let (a, b) = (pool.node("a").await, pool.node("b").await);
    let _publisher = a.publish().await;
    a.is_on_air().await;
    let mut first = b.play().await.unwrap();
    first.sees(&START).await;

    drop(first);
    let mut second = b.play().await.unwrap();
    second.sees(&START).await;
    assert_eq!(b.metric("tallylight_relay_pulls_started_total"), 1, "a reload finds the pull");
    drop(second);

    a.metric_becomes("tallylight_relay_pullers", |pullers| pullers == 0).await;
    b.metric_becomes("tallylight_relay_pulls", |pulls| pulls == 0).await;
}

#[tokio::test]
async fn only_a_fresh_token_of_the_pool_for_the_session_on_air_opens_a_stream() {
    let pool = Pool::new();
    let a = pool.node("a").await;
    let _publisher = a.publish().await;
    a.is_on_air().await;
    let grant = pool.grant().await;
    let other = Owner { epoch: grant.session.epoch + 1, ..grant.session };
    let foreign = PoolKey::new(&[8; 32]).unwrap();

    let refused = [
        (String::new(), "HTTP/1.1 401 Unauthorized"),
        (foreign.sign(&grant), "HTTP/1.1 401 Unauthorized"),
        (key().sign(&Grant { expires: grant.expires - 120, ..grant.clone() }), "HTTP/1.1 401 Unauthorized"),
        (key().sign(&Grant { session: other, ..grant.clone() }), "HTTP/1.1 409 Conflict"),
    ];
    for (token, expected) in refused {
        assert_eq!(a.ask(&token).await.1, expected);
    }
    assert_eq!(a.ask(&key().sign(&grant)).await.1, "HTTP/1.1 101 Switching Protocols");
    let plain = format!("Authorization: Bearer {}\r\n", key().sign(&grant));
    assert_eq!(a.ask_with(&plain).await.1, "HTTP/1.1 404 Not Found", "the connection must be for records");
    for (reason, count) in [("UnknownPath", 1), ("WrongToken", 2), ("ExpiredToken", 1), ("OtherSession", 1)] {
        assert_eq!(a.metric(&format!("tallylight_relay_refusals_total{{reason=\"{reason}\"}}")), count, "{reason}");
    }
}

#[tokio::test]
async fn a_relayed_stream_is_not_relayed_again() {
    let pool = Pool::new();
    let (a, b) = (pool.node("a").await, pool.node("b").await);
    let _publisher = a.publish().await;
    a.is_on_air().await;
    let mut viewer = b.play().await.unwrap();
    viewer.sees(&START).await;

    let (_, status) = b.ask(&key().sign(&pool.grant().await)).await;

    assert_eq!(status, "HTTP/1.1 404 Not Found");
    assert_eq!(b.metric("tallylight_relay_refusals_total{reason=\"NotHere\"}"), 1);
}

#[tokio::test]
async fn a_puller_that_lags_skips_and_the_publisher_goes_on() {
    const LARGE: &[u8] = &{
        let mut frame = [0x5A; 512 << 10];
        frame[0] = 0x17;
        frame[1] = 1;
        frame
    };
    let pool = Pool::new();
    let a = pool.node("a").await;
    let mut publisher = a.publish().await;
    a.is_on_air().await;
    let (mut socket, status) = a.ask(&key().sign(&pool.grant().await)).await;
    assert_eq!(status, "HTTP/1.1 101 Switching Protocols");

    // more than any socket holds, in keyframes far from each other
    for frame in 1..=80 {
        soon("the publisher goes on", publisher.send(Kind::Video, frame * 5_000, LARGE)).await;
    }

    let mut bytes = vec![0; 1 << 20];
    let drain = async {
        while a.metric("tallylight_relay_packets_skipped_total") == 0 {
            assert!(socket.read(&mut bytes).await.unwrap() > 0);
        }
    };
    soon("packets are skipped, and counted", drain).await;
}

#[tokio::test]
async fn a_node_that_shuts_down_ends_what_it_relays() {
    let pool = Pool::new();
    let (a, b) = (pool.node("a").await, pool.node("b").await);
    let _publisher = a.publish().await;
    a.is_on_air().await;
    let mut viewer = b.play().await.unwrap();
    viewer.sees(&START).await;

    b.shutdown.cancel();

    viewer.ends().await;
    a.metric_becomes("tallylight_relay_pullers", |pullers| pullers == 0).await;
}
