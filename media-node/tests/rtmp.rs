//! Publishers and players over loopback against a node in this process: the real listener, the real store, real RTMP.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends here, with the reason")]

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, SaltString},
};
use bytes::{Bytes, BytesMut};
use clap::Parser;
use jiff::Timestamp;
use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use ledger::{Change, Input, Key, Owner, SqliteStore, Store};
use prometheus_client::{encoding::text, registry::Registry};
use rtmp::{
    Kind, Message,
    client::{Event, Session, Target},
    status::code,
};
use serde_json::json;
use tallylight_crds::{
    Action, Admission, Broadcast, BroadcastSpec, MediaPool, MediaPoolSpec, Publish, Reason, SecretKeyRef, StreamId,
};
use tallylight_media_node::{
    admission::Apps,
    claim::{Claims, Identity, Leftovers, Windows},
    cli::NodeArgs,
    listener,
    metrics::{Metrics, Protocol},
    server::Node,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Nothing here takes a second; a busy machine may.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not happen within {PATIENCE:?}"))
}

/// A node in this process.
struct Rig {
    address: SocketAddr,
    store: SqliteStore,
    claims: Claims<SqliteStore>,
    registry: Registry,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    _folder: TempDir,
}

#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    node: NodeArgs,
}

impl Rig {
    async fn new(admission: Admission, publisher_timeout: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("ledger.sqlite")).unwrap();
        let mut pool =
            MediaPool::new("default", MediaPoolSpec { app: "LiveApp".into(), admission, ..Default::default() });
        pool.metadata.namespace = Some("default".into());
        store.set_pools([pool]);
        let mut registry = Registry::with_prefix("tallylight");
        let metrics = Metrics::new(&mut registry);
        let identity = Identity {
            namespace: "default".into(),
            node: "node-1".into(),
            address: None,
            windows: Windows::new(Duration::ZERO),
        };
        let (claims, recovery) = Claims::open(store.clone(), identity, folder.path(), metrics.clone()).unwrap();
        recovery.run(Leftovers::Close).await;
        let apps = Apps::default();
        apps.set(BTreeMap::from([("LiveApp".to_owned(), "default".to_owned())]));
        let args = Flags::parse_from(["test"]).node;
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let mut node = Node::new(apps, claims.clone(), metrics, &args, shutdown.clone(), &tasks);
        node.publisher_timeout = publisher_timeout;
        let socket = listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = socket.local_addr().unwrap();
        let tasks = TaskTracker::new();
        tasks.spawn(listener::serve(socket, None, Protocol::Rtmp, Arc::new(node), tasks.clone()));
        let mut changes = store.subscribe();
        let follower = claims.clone();
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(async move {
            while let Ok(change) = changes.recv().await {
                match change {
                    Change::Applied(broadcast) => follower.observe(&broadcast),
                    Change::Deleted { key, .. } => follower.observe_gone(&key),
                    Change::Recorded(_) | Change::RecordingDeleted(_) => {}
                }
            }
        }));
        Self { address, store, claims, registry, shutdown, tasks, _folder: folder }
    }

    async fn open() -> Self {
        Self::new(Admission::Open, Duration::from_secs(20)).await
    }

    async fn register(&self, id: &str, publish: Option<Publish>) -> Broadcast {
        let spec = BroadcastSpec { pool: "default".into(), publish, ..BroadcastSpec::default() };
        let mut broadcast = Broadcast::new(id, spec);
        broadcast.metadata.namespace = Some("default".into());
        self.store.create(&broadcast).await.unwrap()
    }

    async fn read(&self, id: &str) -> Option<Broadcast> {
        self.store.get(&Key::of_stream("default", &StreamId::parse(id).unwrap())).await.unwrap()
    }

    /// The events of a stream: its starts, and the reasons of its ends.
    async fn events(&self, id: &str) -> Vec<Option<Reason>> {
        let Some(broadcast) = self.read(id).await else { return Vec::new() };
        broadcast
            .status_or_default()
            .hooks
            .pending
            .iter()
            .map(|event| {
                assert_eq!(event.reason.is_some(), event.action == Action::LiveStreamEnded);
                event.reason
            })
            .collect()
    }

    async fn events_become(&self, id: &str, wanted: &[Option<Reason>]) {
        let mut seen = Vec::new();
        let wait = async {
            let mut changes = self.store.subscribe();
            loop {
                seen = self.events(id).await;
                if seen == wanted {
                    return;
                }
                changes.recv().await.unwrap();
            }
        };
        let done = timeout(PATIENCE, wait).await;
        assert!(done.is_ok(), "wanted the events {wanted:?}, saw {seen:?}");
    }

    /// Waits until a counter or gauge, as it is written in the metrics, has a value.
    async fn metric_becomes(&self, line: &str) {
        let wait = async {
            loop {
                let mut all = String::new();
                text::encode(&mut all, &self.registry).unwrap();
                if all.lines().any(|l| l == line) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        soon(line, wait).await;
    }

    async fn publish(&self, path: &str) -> Result<Client, String> {
        Client::start(self.address, path, Session::publish).await
    }

    async fn play(&self, path: &str) -> Result<Client, String> {
        Client::start(self.address, path, Session::play).await
    }
}

/// A publisher or player.
struct Client {
    socket: TcpStream,
    session: Session,
    input: BytesMut,
}

impl Client {
    /// Connects and waits for the answer; an error is the status code of a refusal.
    async fn start(address: SocketAddr, path: &str, session: fn(Target) -> Session) -> Result<Self, String> {
        let target = Target::parse(&format!("rtmp://{address}/{path}")).unwrap();
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

    async fn send_headers(&mut self) {
        self.send(Kind::Data, 0, b"\x02\x00\x0aonMetaData\x05").await;
        self.send(Kind::Video, 0, VIDEO_HEADER).await;
        self.send(Kind::Audio, 0, AUDIO_HEADER).await;
    }

    async fn finish(mut self) {
        self.session.finish();
        self.flush().await;
    }

    /// The next message, as kind, time and payload.
    async fn message(&mut self) -> (Kind, u32, Bytes) {
        match soon("a message", self.event()).await {
            Some(Event::Media(message)) => (message.kind, message.timestamp_ms, message.payload),
            other => panic!("no message but {other:?}"),
        }
    }
}

const VIDEO_HEADER: &[u8] = &[0x17, 0, 0, 0, 0, 1];
const AUDIO_HEADER: &[u8] = &[0xAF, 0, 0x12, 0x10];
const KEYFRAME: &[u8] = &[0x17, 1, 0, 0, 0, 2];
const FRAME: &[u8] = &[0x27, 1, 0, 0, 0, 3];

const STARTED: Option<Reason> = None;

#[tokio::test]
async fn a_stream_is_claimed_at_its_first_frame_and_ended_in_due_form() {
    let rig = Rig::open().await;
    let mut publisher = rig.publish("LiveApp/studio").await.unwrap();
    publisher.send_headers().await;
    rig.metric_becomes("tallylight_node_publishers{protocol=\"Rtmp\"} 1").await;
    assert_eq!(rig.events("studio").await, [], "headers and metadata are no media");

    publisher.send(Kind::Video, 40, KEYFRAME).await;
    rig.events_become("studio", &[STARTED]).await;
    publisher.finish().await;

    rig.events_become("studio", &[STARTED, Some(Reason::PublisherClosed)]).await;
}

#[tokio::test]
async fn a_publisher_that_never_sends_media_makes_no_event() {
    let rig = Rig::open().await;
    let mut publisher = rig.publish("LiveApp/studio").await.unwrap();
    publisher.send_headers().await;
    rig.metric_becomes("tallylight_node_publishers{protocol=\"Rtmp\"} 1").await;

    publisher.finish().await;

    rig.metric_becomes("tallylight_node_publishers{protocol=\"Rtmp\"} 0").await;
    assert_eq!(rig.events("studio").await, []);
}

#[tokio::test]
async fn a_player_that_joins_late_starts_at_the_keyframe_after_metadata_and_headers() {
    let rig = Rig::open().await;
    let mut publisher = rig.publish("LiveApp/studio").await.unwrap();
    publisher.send_headers().await;
    publisher.send(Kind::Video, 0, KEYFRAME).await;
    publisher.send(Kind::Video, 2_000, KEYFRAME).await;
    publisher.send(Kind::Video, 2_040, FRAME).await;
    rig.events_become("studio", &[STARTED]).await;

    let mut player = rig.play("LiveApp/studio").await.unwrap();
    let mut got = Vec::new();
    while got.last() != Some(&(Kind::Video, 2_040, Bytes::from_static(FRAME))) {
        got.push(player.message().await);
    }

    let expected: Vec<(Kind, u32, Bytes)> = vec![
        (Kind::Data, 0, Bytes::from_static(b"\x02\x00\x0aonMetaData\x05")),
        (Kind::Video, 2_000, Bytes::from_static(VIDEO_HEADER)),
        (Kind::Audio, 2_000, Bytes::from_static(AUDIO_HEADER)),
        (Kind::Video, 2_000, Bytes::from_static(KEYFRAME)),
        (Kind::Video, 2_040, Bytes::from_static(FRAME)),
    ];
    assert_eq!(got, expected);
    publisher.send(Kind::Video, 2_080, FRAME).await;
    assert_eq!(player.message().await.1, 2_080, "and goes on live");

    publisher.finish().await;
    let ended = soon("the end", player.event()).await;
    assert_eq!(ended, Some(Event::Ended { code: code::PLAY_UNPUBLISH_NOTIFY.to_owned() }));
}

#[tokio::test]
async fn a_second_publisher_is_refused_without_an_event() {
    let rig = Rig::open().await;
    let mut first = rig.publish("LiveApp/studio").await.unwrap();
    assert_eq!(rig.publish("LiveApp/studio").await.err().as_deref(), Some(code::PUBLISH_BAD_NAME));

    first.send(Kind::Video, 0, KEYFRAME).await;
    rig.events_become("studio", &[STARTED]).await;
    assert_eq!(rig.publish("LiveApp/studio").await.err().as_deref(), Some(code::PUBLISH_BAD_NAME));

    assert_eq!(rig.events("studio").await, [STARTED]);
    rig.metric_becomes("tallylight_node_refusals_total{reason=\"AlreadyLive\"} 2").await;
}

#[tokio::test]
async fn only_the_key_opens_a_stream_that_has_one() {
    let rig = Rig::open().await;
    let secret = SecretKeyRef { name: "keys".into(), key: "studio".into() };
    let broadcast = rig.register("studio", Some(Publish { stream_key_secret_ref: Some(secret) })).await;
    assert_eq!(rig.publish("LiveApp/studio?key=hunter2").await.err().as_deref(), Some(code::PUBLISH_FAILED));
    rig.metric_becomes("tallylight_node_refusals_total{reason=\"KeyNotReady\"} 1").await;

    let salt = SaltString::encode_b64(b"a salt of bytes.").unwrap();
    let verifier = Argon2::default().hash_password(b"hunter2", &salt).unwrap().to_string();
    let path = PointerBuf::from_tokens(["status", "publish"]);
    let patch = Patch(vec![PatchOperation::Add(AddOperation { path, value: json!({"keyVerifier": verifier}) })]);
    let uid = broadcast.metadata.uid.unwrap();
    rig.store.patch_status(&Key { namespace: "default".into(), name: "studio".into() }, &uid, &patch).await.unwrap();

    for path in ["LiveApp/studio", "LiveApp/studio?key=hunter3", "LiveApp/studio?key="] {
        assert_eq!(rig.publish(path).await.err().as_deref(), Some(code::PUBLISH_DENIED), "{path}");
    }
    rig.metric_becomes("tallylight_node_refusals_total{reason=\"WrongKey\"} 3").await;
    assert!(rig.publish("LiveApp/studio?key=hunter2").await.is_ok());
    assert_eq!(rig.events("studio").await, []);
}

#[tokio::test]
async fn unknown_streams_and_applications_are_refused() {
    let rig = Rig::new(Admission::RegisteredOnly, PATIENCE).await;
    rig.register("studio", None).await;

    assert_eq!(rig.publish("LiveApp/other").await.err().as_deref(), Some(code::PUBLISH_DENIED));
    assert_eq!(rig.publish("OtherApp/studio").await.err().as_deref(), Some(code::CONNECT_REJECTED));
    assert_eq!(rig.play("LiveApp/studio").await.err().as_deref(), Some(code::PLAY_STREAM_NOT_FOUND));
    assert!(rig.publish("LiveApp/studio").await.is_ok());
}

#[tokio::test]
async fn an_id_that_is_no_dns_label_gets_a_broadcast_of_its_own() {
    let rig = Rig::open().await;
    let mut publisher = rig.publish("LiveApp/Studio_1").await.unwrap();
    publisher.send(Kind::Audio, 0, &[0xAF, 1, 0x21]).await;

    rig.events_become("Studio_1", &[STARTED]).await;
    let broadcast = rig.read("Studio_1").await.unwrap();
    assert_eq!(broadcast.stream_id(), "Studio_1");
    assert!(broadcast.is_ephemeral());
}

#[tokio::test]
async fn a_publisher_whose_ephemeral_broadcast_goes_before_its_first_frame_gets_another() {
    let rig = Rig::open().await;
    let mut publisher = rig.publish("LiveApp/studio").await.unwrap();
    let first = rig.read("studio").await.unwrap();
    let (key, uid) = (Key::of(&first), first.metadata.uid.clone().unwrap());
    rig.store.delete(&key, &uid).await.unwrap();
    rig.store.release(&rig.read("studio").await.unwrap()).await.unwrap();

    publisher.send(Kind::Video, 0, KEYFRAME).await;

    rig.events_become("studio", &[STARTED]).await;
    assert_ne!(rig.read("studio").await.unwrap().metadata.uid, Some(uid));
}

#[tokio::test]
async fn a_publisher_waits_for_an_ephemeral_broadcast_that_is_going() {
    let rig = Rig::open().await;
    let mut publisher = rig.publish("LiveApp/studio").await.unwrap();
    publisher.send(Kind::Video, 0, KEYFRAME).await;
    rig.events_become("studio", &[STARTED]).await;
    publisher.finish().await;
    rig.events_become("studio", &[STARTED, Some(Reason::PublisherClosed)]).await;
    let first = rig.read("studio").await.unwrap();
    let (key, uid) = (Key::of(&first), first.metadata.uid.clone().unwrap());
    rig.store.delete(&key, &uid).await.unwrap();
    let leaving = rig.read("studio").await.unwrap();

    let (second, ()) = tokio::join!(rig.publish("LiveApp/studio"), async {
        rig.metric_becomes("tallylight_node_connections_accepted_total{protocol=\"Rtmp\"} 2").await;
        rig.store.release(&leaving).await.unwrap();
    });

    assert!(second.is_ok());
}

#[tokio::test]
async fn a_connection_that_breaks_loses_the_publisher() {
    let rig = Rig::open().await;
    let mut publisher = rig.publish("LiveApp/studio").await.unwrap();
    publisher.send(Kind::Video, 0, KEYFRAME).await;
    rig.events_become("studio", &[STARTED]).await;

    drop(publisher);

    rig.events_become("studio", &[STARTED, Some(Reason::PublisherLost)]).await;
}

#[tokio::test]
async fn a_publisher_that_leaves_at_once_still_has_a_start_and_an_end() {
    let rig = Rig::open().await;
    let mut publisher = rig.publish("LiveApp/studio").await.unwrap();
    publisher.session.send(&Message { kind: Kind::Video, timestamp_ms: 0, payload: Bytes::from_static(KEYFRAME) });

    publisher.finish().await;

    rig.events_become("studio", &[STARTED, Some(Reason::PublisherClosed)]).await;
}

/// Beyond a hundred publishers sockets are looked at in turn, and are waited for again when there are fewer.
#[tokio::test]
async fn of_many_publishers_each_is_played_and_ended_like_one_of_a_few() {
    let rig = Rig::open().await;
    let mut publishers = Vec::new();
    for index in 0..104 {
        let mut publisher = rig.publish(&format!("LiveApp/camera-{index}")).await.unwrap();
        publisher.send_headers().await;
        publisher.send(Kind::Video, 0, KEYFRAME).await;
        publishers.push(publisher);
    }
    for index in [0, 1, 103] {
        rig.events_become(&format!("camera-{index}"), &[STARTED]).await;
    }
    let mut player = rig.play("LiveApp/camera-1").await.unwrap();
    for time in [40, 80] {
        publishers[1].send(Kind::Video, time, FRAME).await;
        while player.message().await.1 < time {}
    }

    let mut rest = publishers.split_off(2);
    let (broken, finished) = (publishers.remove(0), publishers.remove(0));
    drop(broken);
    finished.finish().await;
    rig.events_become("camera-0", &[STARTED, Some(Reason::PublisherLost)]).await;
    rig.events_become("camera-1", &[STARTED, Some(Reason::PublisherClosed)]).await;

    let mut last = rest.pop().unwrap();
    drop(rest);
    rig.metric_becomes("tallylight_node_publishers{protocol=\"Rtmp\"} 1").await;
    let mut player = rig.play("LiveApp/camera-103").await.unwrap();
    for time in [40, 80, 120] {
        last.send(Kind::Video, time, FRAME).await;
        while player.message().await.1 < time {}
    }
    last.finish().await;
    rig.events_become("camera-103", &[STARTED, Some(Reason::PublisherClosed)]).await;
}

#[tokio::test]
async fn a_silent_publisher_is_timed_out() {
    let rig = Rig::new(Admission::Open, Duration::from_millis(200)).await;
    let mut publisher = rig.publish("LiveApp/studio").await.unwrap();
    publisher.send(Kind::Video, 0, KEYFRAME).await;

    rig.events_become("studio", &[STARTED, Some(Reason::PublisherTimeout)]).await;
    assert!(soon("the end", publisher.event()).await.is_some(), "the publisher is told");
}

#[tokio::test]
async fn a_shutdown_ends_every_session_and_tells_players() {
    let rig = Rig::open().await;
    let mut publisher = rig.publish("LiveApp/studio").await.unwrap();
    publisher.send(Kind::Video, 0, KEYFRAME).await;
    rig.events_become("studio", &[STARTED]).await;
    let mut player = rig.play("LiveApp/studio").await.unwrap();

    rig.shutdown.cancel();

    rig.events_become("studio", &[STARTED, Some(Reason::NodeShutdown)]).await;
    let end = async {
        loop {
            match player.event().await {
                Some(Event::Ended { code }) => return code,
                Some(_) => {}
                None => panic!("the connection was closed without a word"),
            }
        }
    };
    assert_eq!(soon("the end", end).await, code::PLAY_UNPUBLISH_NOTIFY);
    drop((publisher, player));
    rig.tasks.close();
    soon("the end of all connections", rig.tasks.wait()).await;
    assert!(rig.claims.drain(tokio::time::Instant::now() + PATIENCE).await);
}

#[tokio::test]
async fn a_publisher_whose_session_was_closed_starts_anew_and_goes_on() {
    let rig = Rig::open().await;
    let mut publisher = rig.publish("LiveApp/studio").await.unwrap();
    publisher.send(Kind::Video, 0, KEYFRAME).await;
    rig.events_become("studio", &[STARTED]).await;

    let known = rig.read("studio").await.unwrap();
    let owner = Owner::of(&known.status_or_default().session);
    let close = Input::Close { owner, reason: Reason::NodeLost, time: Timestamp::now() };
    ledger::commit(&rig.store, &known, &close).await.unwrap();

    rig.events_become("studio", &[STARTED, Some(Reason::NodeLost), STARTED]).await;
    publisher.finish().await;
    rig.events_become("studio", &[STARTED, Some(Reason::NodeLost), STARTED, Some(Reason::PublisherClosed)]).await;
}

#[tokio::test]
async fn a_publisher_of_a_deleted_broadcast_is_stopped() {
    let rig = Rig::open().await;
    let broadcast = rig.register("studio", None).await;
    let mut publisher = rig.publish("LiveApp/studio").await.unwrap();
    publisher.send(Kind::Video, 0, KEYFRAME).await;
    rig.events_become("studio", &[STARTED]).await;

    rig.store.delete(&Key::of(&broadcast), broadcast.metadata.uid.as_deref().unwrap()).await.unwrap();

    assert!(matches!(soon("the end", publisher.event()).await, Some(Event::Ended { .. } | Event::Refused { .. })));
    rig.metric_becomes("tallylight_node_refusals_total{reason=\"Stopped\"} 1").await;
}

#[tokio::test]
async fn probes_and_garbage_cost_nothing_and_are_counted() {
    let rig = Rig::open().await;

    drop(TcpStream::connect(rig.address).await.unwrap());
    let mut garbage = TcpStream::connect(rig.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();

    assert_eq!(soon("the server hangs up", garbage.read(&mut [0; 16])).await.unwrap_or(0), 0);
    rig.metric_becomes("tallylight_node_refusals_total{reason=\"Protocol\"} 1").await;
    rig.metric_becomes("tallylight_node_connections{state=\"Pending\"} 0").await;
    rig.metric_becomes("tallylight_node_connections_accepted_total{protocol=\"Rtmp\"} 2").await;
}
