use std::{
    sync::{
        RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use json_patch::AddOperation;
use ledger::{Change, Claim, Error, Input, Key, Owner, SqliteStore, commit};
use tallylight_crds::{Action, BroadcastSpec, Hooks, HooksStatus, LaneState, MediaPoolSpec, Protocol, Reason};
use tokio::{task::JoinSet, time::Instant};

use super::*;
use crate::http::receiver::{Answer, Receiver};

const DEADLINE: Duration = Duration::from_secs(20);
/// How much faster than ours the lanes' time goes: a schedule of minutes passes in a test.
const SPEED: u32 = 200;
const START: &str = "2026-01-01T00:00:00Z";

/// One Broadcast, its store on disk, a dispatcher that follows it, and a receiver.
struct World {
    store: SqliteStore,
    pool: Arc<RwLock<MediaPoolSpec>>,
    reports: Arc<Mutex<Vec<ReportKind>>>,
    failing: Arc<AtomicU32>,
    running: Option<Running>,
    started: Instant,
    _directory: tempfile::TempDir,
}

/// Whom a dispatcher hears of changes from, after the first reading.
#[derive(PartialEq)]
enum Follow {
    Store,
    Nothing,
}

struct Running {
    dispatcher: Dispatcher<Flaky, Pools>,
    registry: Registry,
    /// How often it has asked for settings.
    looks: Arc<AtomicU32>,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

impl World {
    async fn new(spec: BroadcastSpec) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&directory.path().join("ledger.db")).unwrap();
        let mut broadcast = Broadcast::new("studio", BroadcastSpec { pool: "main".into(), ..spec });
        broadcast.metadata.namespace = Some("default".into());
        store.create(&broadcast).await.unwrap();
        let pool = MediaPoolSpec { app: "LiveApp".into(), ..MediaPoolSpec::default() };
        let mut world = Self {
            store,
            pool: Arc::new(RwLock::new(pool)),
            reports: Arc::default(),
            failing: Arc::default(),
            running: None,
            started: Instant::now(),
            _directory: directory,
        };
        world.start(Follow::Store).await;
        world
    }

    async fn to(receiver: &Receiver) -> Self {
        Self::new(BroadcastSpec { listener_hook_url: Some(receiver.url.clone()), ..BroadcastSpec::default() }).await
    }

    async fn start(&mut self, follow: Follow) {
        let reports = self.reports.clone();
        let options = Options {
            report: Box::new(move |_, report| reports.lock().unwrap().push(report.kind)),
            clock: Box::new(FastClock { started: self.started }),
            annotate: Box::new(|_, status| {
                let value = serde_json::json!(status.hooks.acked_sequence);
                let path = json_patch::jsonptr::PointerBuf::from_tokens(["status", "observedGeneration"]);
                vec![PatchOperation::Add(AddOperation { path, value })]
            }),
            ..Options::default()
        };
        let store = Flaky { store: self.store.clone(), failing: self.failing.clone() };
        let looks = Arc::new(AtomicU32::new(0));
        let pools = Pools { pool: self.pool.clone(), looks: looks.clone() };
        let mut registry = Registry::default();
        let dispatcher = Dispatcher::new(store, pools, Client::new(&[]).unwrap(), options, &mut registry);
        let (cancel, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let mut changes = self.store.subscribe();
        for broadcast in self.store.list().await.unwrap() {
            dispatcher.observe(&Arc::new(broadcast));
        }
        let follower = dispatcher.clone();
        if follow == Follow::Store {
            tasks.spawn(async move {
                while let Ok(change) = changes.recv().await {
                    match change {
                        Change::Applied(broadcast) => follower.observe(&broadcast),
                        Change::Deleted { uid, .. } => follower.forget(&uid),
                        Change::Recorded(_) | Change::RecordingDeleted(_) => {}
                    }
                }
            });
        }
        let (runner, token) = (dispatcher.clone(), cancel.clone());
        tasks.spawn(async move { runner.run(token).await });
        self.running = Some(Running { dispatcher, registry, looks, cancel, tasks });
    }

    /// Ends the dispatcher at once, as a crash would.
    fn kill(&mut self) {
        let running = self.running.take().unwrap();
        running.dispatcher.forget(&uid_of(&running));
        drop(running);
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    async fn read(&self) -> Broadcast {
        let key = Key { namespace: "default".into(), name: "studio".into() };
        self.store.get(&key).await.unwrap().unwrap()
    }

    async fn say(&self, input: &Input) {
        commit(&self.store, &self.read().await, input).await.unwrap();
    }

    async fn publish(&self) {
        let time = START.parse().unwrap();
        let id = format!("claim-{}", self.read().await.status.unwrap().session.ordinal);
        let claim = Claim { id, node: "node".into(), address: None, protocol: Protocol::Rtmp, time };
        self.say(&Input::Claim(claim)).await;
    }

    async fn unpublish(&self) {
        let time = START.parse().unwrap();
        let owner = Owner::of(&self.read().await.status.unwrap().session);
        self.say(&Input::End { owner, reason: Reason::PublisherClosed, time }).await;
    }

    async fn edit(&self, change: impl FnOnce(&mut BroadcastSpec)) {
        let mut broadcast = self.read().await;
        change(&mut broadcast.spec);
        self.store.apply(&broadcast).await.unwrap();
    }

    /// Waits until the store says so.
    async fn until(&self, holds: impl Fn(&HooksStatus) -> bool) -> HooksStatus {
        let mut changes = self.store.subscribe();
        let wait = async {
            loop {
                let hooks = self.read().await.status.unwrap().hooks;
                if holds(&hooks) {
                    return hooks;
                }
                let _any = changes.recv().await;
            }
        };
        match tokio::time::timeout(DEADLINE, wait).await {
            Ok(hooks) => hooks,
            Err(_) => panic!("never happened; last seen {:?}", self.read().await.status.unwrap().hooks),
        }
    }

    async fn acked(&self, sequence: i64) -> HooksStatus {
        self.until(|hooks| hooks.acked_sequence >= sequence).await
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.running().registry).unwrap();
        text
    }

    fn has_metric(&self, line: &str) -> bool {
        self.metrics().lines().any(|found| found == line)
    }

    fn reports(&self) -> Vec<ReportKind> {
        self.reports.lock().unwrap().clone()
    }

    /// Waits until the dispatcher holds nothing any more.
    async fn idle(&self) {
        self.no_tasks().await;
        self.eventually("it to keep nothing", |running| running.dispatcher.0.lock().is_empty()).await;
    }

    async fn no_tasks(&self) {
        self.eventually("its tasks to end", |running| running.dispatcher.0.tasks.is_empty()).await;
    }

    /// Waits until the dispatcher has asked that often for settings.
    async fn looked_up(&self, times: u32) {
        self.eventually("it to look", |running| running.looks.load(Ordering::Relaxed) >= times).await;
    }

    async fn eventually(&self, what: &str, holds: impl Fn(&Running) -> bool) {
        let wait = async {
            while !holds(self.running()) {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(DEADLINE, wait).await.is_ok(), "waited in vain for {what}");
    }
}

fn uid_of(running: &Running) -> String {
    running.dispatcher.0.lock().keys().next().cloned().unwrap_or_default()
}

fn sequences(receiver: &Receiver) -> Vec<String> {
    receiver.got().iter().map(|request| request.field("sequence")).collect()
}

struct FastClock {
    started: Instant,
}

impl Clock for FastClock {
    fn now(&self) -> Timestamp {
        START.parse::<Timestamp>().unwrap() + self.started.elapsed() * SPEED
    }

    fn sleep_until(&self, due: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let wait: Duration = due.duration_since(self.now()).try_into().unwrap_or_default();
        Box::pin(tokio::time::sleep_until(Instant::now() + wait / SPEED))
    }
}

struct Pools {
    pool: Arc<RwLock<MediaPoolSpec>>,
    looks: Arc<AtomicU32>,
}

impl Resolver for Pools {
    async fn settings(&self, broadcast: &Broadcast) -> Result<Settings, ResolveError> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        Settings::of(broadcast, &self.pool.read().unwrap(), None)
    }
}

/// A store that does not answer as many patches as it is told.
#[derive(Clone)]
struct Flaky {
    store: SqliteStore,
    failing: Arc<AtomicU32>,
}

impl Store for Flaky {
    async fn get(&self, key: &Key) -> Result<Option<Broadcast>, Error> {
        self.store.get(key).await
    }
    async fn create(&self, broadcast: &Broadcast) -> Result<Broadcast, Error> {
        self.store.create(broadcast).await
    }
    async fn patch_status(&self, key: &Key, uid: &str, patch: &json_patch::Patch) -> Result<Broadcast, Error> {
        let left = self.failing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left.is_ok() {
            return Err(Error::Unavailable { source: "away".into() });
        }
        self.store.patch_status(key, uid, patch).await
    }
    async fn delete(&self, key: &Key, uid: &str) -> Result<(), Error> {
        self.store.delete(key, uid).await
    }
    async fn delete_unchanged(&self, known: &Broadcast) -> Result<(), Error> {
        self.store.delete_unchanged(known).await
    }
    async fn release(&self, known: &Broadcast) -> Result<(), Error> {
        self.store.release(known).await
    }
    async fn sessions_of(&self, namespace: &str, node: &str) -> Result<Vec<Broadcast>, Error> {
        self.store.sessions_of(namespace, node).await
    }
    async fn pool(&self, namespace: &str, name: &str) -> Result<Option<tallylight_crds::MediaPool>, Error> {
        self.store.pool(namespace, name).await
    }
}

#[tokio::test]
async fn a_start_and_an_end_arrive_once_and_in_order() {
    let receiver = Receiver::start([]).await;
    let world = World::to(&receiver).await;
    world.publish().await;
    world.unpublish().await;

    let hooks = world.acked(2).await;

    let got = receiver.got();
    assert_eq!(sequences(&receiver), ["1", "2"]);
    assert_eq!(
        (got[0].field("action"), got[1].field("reason")),
        ("liveStreamStarted".into(), "PublisherClosed".into())
    );
    assert_eq!(got[1].header("webhook-id"), got[1].field("eventId"));
    assert_eq!((hooks.pending.len(), hooks.lane), (0, None));
    assert_eq!(world.read().await.status.unwrap().observed_generation, Some(2), "the owner's part of the patch");
    world.idle().await;
    assert!(world.has_metric(r#"hook_attempts_total{class="Delivered"} 2"#), "{}", world.metrics());
    assert!(world.has_metric(r#"hook_events_total{action="liveStreamEnded",outcome="Delivered"} 1"#));
    assert!(world.has_metric("hook_delivery_latency_seconds_count 2"));
    assert!(world.has_metric("hook_pending_events 0"));
    assert!(world.has_metric(r#"hook_lanes{state="Delivering"} 0"#));
    assert_eq!(world.reports(), []);
}

#[tokio::test]
async fn failures_hold_up_the_lane_and_lose_nothing() {
    let receiver = Receiver::start([500, 503, 302].map(Answer::Status)).await;
    let world = World::to(&receiver).await;
    for _ in 0..3 {
        world.publish().await;
        world.unpublish().await;
    }
    world.acked(6).await;
    assert_eq!(sequences(&receiver), ["1", "1", "1", "1", "2", "3", "4", "5", "6"]);
    let ids: std::collections::BTreeSet<String> =
        receiver.got().iter().map(|request| request.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), 6, "a repetition carries the id of the first attempt");
    assert_eq!(world.reports(), [ReportKind::Failing, ReportKind::Recovered]);
}

#[tokio::test]
async fn a_receiver_that_is_down_for_long_gets_everything_when_it_is_back() {
    let receiver = Receiver::start([]).await;
    receiver.answer(Answer::Status(503));
    let world = World::to(&receiver).await;
    for _ in 0..10 {
        world.publish().await;
        world.unpublish().await;
    }
    receiver.wait_for(4).await;
    receiver.answer(Answer::Status(204));
    world.acked(20).await;
    let mut got = sequences(&receiver);
    got.dedup();
    assert_eq!(got, (1..=20).map(|sequence| sequence.to_string()).collect::<Vec<_>>());
    world.idle().await;
}

#[tokio::test]
async fn a_restart_in_the_middle_goes_on_where_the_ledger_is() {
    let receiver = Receiver::start([]).await;
    receiver.answer(Answer::Status(503));
    let mut world = World::to(&receiver).await;
    world.publish().await;
    world.until(|hooks| hooks.lane.as_ref().is_some_and(|lane| lane.attempts >= 2)).await;

    world.kill();
    world.unpublish().await;
    receiver.answer(Answer::Status(200));
    world.start(Follow::Store).await;

    world.acked(2).await;
    let mut got = sequences(&receiver);
    got.dedup();
    assert_eq!(got, ["1", "2"]);
}

#[tokio::test]
async fn an_action_that_is_not_wanted_is_settled_unsent() {
    let receiver = Receiver::start([]).await;
    let world = World::to(&receiver).await;
    world
        .edit(|spec| spec.hooks = Some(Hooks { actions: Some(vec![Action::LiveStreamEnded]), ..Hooks::default() }))
        .await;
    world.publish().await;
    world.unpublish().await;
    world.acked(2).await;
    assert_eq!(sequences(&receiver), ["2"]);
    assert!(world.has_metric(r#"hook_events_total{action="liveStreamStarted",outcome="Filtered"} 1"#));
}

#[tokio::test]
async fn without_a_url_events_are_settled_and_the_pools_url_is_looked_up_at_delivery() {
    let receiver = Receiver::start([]).await;
    let world = World::new(BroadcastSpec::default()).await;
    world.publish().await;
    world.acked(1).await;
    world.pool.write().unwrap().listener_hook_url = Some(receiver.url.clone());
    world.unpublish().await;
    world.acked(2).await;
    assert_eq!(sequences(&receiver), ["2"]);
    assert!(world.has_metric(r#"hook_events_total{action="liveStreamStarted",outcome="NoEndpoint"} 1"#));
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_left_alone_until_the_spec_changes() {
    let (gone, new) = (Receiver::start([Answer::Status(410)]).await, Receiver::start([]).await);
    let world = World::to(&gone).await;
    world.publish().await;
    world.until(|hooks| hooks.lane.as_ref().is_some_and(|lane| lane.state == LaneState::Gone)).await;
    world.unpublish().await;
    world.edit(|spec| spec.listener_hook_url = Some(new.url.clone())).await;
    world.acked(2).await;
    assert_eq!((sequences(&gone), sequences(&new)), (vec!["1".to_owned()], vec!["1".to_owned(), "2".to_owned()]));
    assert_eq!(world.reports(), [ReportKind::Gone, ReportKind::Recovered]);
}

#[tokio::test]
async fn a_pool_that_changes_wakes_its_lanes() {
    let (gone, new) = (Receiver::start([Answer::Status(410)]).await, Receiver::start([]).await);
    let mut world = World::new(BroadcastSpec::default()).await;
    world.pool.write().unwrap().listener_hook_url = Some(gone.url.clone());
    world.publish().await;
    world.until(|hooks| hooks.lane.is_some()).await;
    world.kill();
    world.start(Follow::Store).await;
    world.looked_up(1).await;
    world.pool.write().unwrap().listener_hook_url = Some(new.url.clone());
    world.running().dispatcher.wake_pool("default", "other");
    world.running().dispatcher.wake_pool("default", "main");
    world.acked(1).await;
    assert_eq!((gone.got().len(), new.got().len()), (1, 1));
}

#[tokio::test]
async fn a_pool_that_is_read_again_and_is_the_same_wakes_nothing() {
    let receiver = Receiver::start([]).await;
    receiver.answer(Answer::Status(410));
    let mut world = World::to(&receiver).await;
    world.publish().await;
    world.until(|hooks| hooks.lane.is_some()).await;
    world.running().dispatcher.wake_pool("default", "main");
    world.looked_up(2).await;
    world.kill();
    world.start(Follow::Store).await;
    world.looked_up(1).await;
    world.running().dispatcher.wake_pool("default", "main");
    world.looked_up(2).await;

    receiver.answer(Answer::Status(200));
    world.edit(|spec| spec.name = Some("new".into())).await;
    world.acked(1).await;
    assert_eq!(receiver.got().len(), 2, "the 410 and the success");
}

#[tokio::test]
async fn a_pool_that_changes_while_a_request_fails_wakes_its_lanes() {
    let (hung, new) = (Receiver::start([Answer::Stopped(410)]).await, Receiver::start([]).await);
    let world = World::new(BroadcastSpec::default()).await;
    world.pool.write().unwrap().listener_hook_url = Some(hung.url.clone());
    world.publish().await;
    hung.wait_for(1).await;
    world.pool.write().unwrap().listener_hook_url = Some(new.url.clone());
    world.running().dispatcher.wake_pool("default", "main");
    hung.go_on();
    world.acked(1).await;
    assert_eq!((hung.got().len(), new.got().len()), (1, 1));
}

#[tokio::test]
async fn a_pool_that_comes_at_last_wakes_those_that_wait_for_it() {
    let receiver = Receiver::start([]).await;
    let world = World::new(BroadcastSpec::default()).await;
    world.pool.write().unwrap().listener_hook_url = Some("nonsense".into());
    world.publish().await;
    // By now it waits for 15 minutes of its time, 4.5 s of ours.
    world.until(|hooks| hooks.lane.as_ref().is_some_and(|lane| lane.attempts >= 7)).await;
    world.pool.write().unwrap().listener_hook_url = Some(receiver.url.clone());
    world.running().dispatcher.wake_pool("default", "main");
    world.acked(1).await;
    assert!(world.has_metric(r#"hook_attempts_total{class="InvalidURL"} 7"#), "{}", world.metrics());
}

#[tokio::test]
async fn settings_that_cannot_be_had_are_tried_again() {
    let receiver = Receiver::start([]).await;
    let world = World::new(BroadcastSpec::default()).await;
    world.pool.write().unwrap().listener_hook_url = Some("nonsense".into());
    world.publish().await;
    let hooks = world.until(|hooks| hooks.lane.is_some()).await;
    assert_eq!(hooks.lane.unwrap().last_error.as_deref(), Some("InvalidURL"));
    world.pool.write().unwrap().listener_hook_url = Some(receiver.url.clone());
    world.acked(1).await;
    assert_eq!(sequences(&receiver), ["1"]);
}

#[tokio::test]
async fn a_store_that_is_away_delays_acknowledgements_and_repeats_no_delivery() {
    let receiver = Receiver::start([]).await;
    let world = World::to(&receiver).await;
    for _ in 0..3 {
        world.publish().await;
        world.unpublish().await;
    }
    world.acked(6).await;
    world.failing.store(3, Ordering::Relaxed);
    world.publish().await;
    world.unpublish().await;
    world.acked(8).await;
    assert_eq!(sequences(&receiver), (1..=8).map(|sequence| sequence.to_string()).collect::<Vec<_>>());
    assert!(world.has_metric("hook_store_errors_total 3"), "{}", world.metrics());
}

#[tokio::test]
async fn an_old_reading_that_arrives_late_repeats_no_delivery() {
    let receiver = Receiver::start([]).await;
    let mut world = World::to(&receiver).await;
    world.kill();
    world.start(Follow::Nothing).await;
    world.publish().await;
    let old = Arc::new(world.read().await);
    let dispatcher = &world.running().dispatcher;
    dispatcher.observe(&old);
    world.acked(1).await;
    world.no_tasks().await;

    dispatcher.observe(&old);

    assert_eq!(dispatcher.0.tasks.len(), 0, "nothing is sent again");
    world.unpublish().await;
    dispatcher.observe(&Arc::new(world.read().await));
    world.acked(2).await;
    dispatcher.observe(&Arc::new(world.read().await));
    world.idle().await;
    assert_eq!(sequences(&receiver), ["1", "2"]);
}

#[tokio::test]
async fn a_receiver_that_hangs_holds_up_no_other_broadcast() {
    let (hung, well) = (Receiver::start([]).await, Receiver::start([]).await);
    hung.answer(Answer::Never);
    let world = World::to(&well).await;
    let studio = world.read().await;
    for number in 0..20 {
        let mut other = Broadcast::new(&format!("other-{number}"), studio.spec.clone());
        other.metadata.namespace = Some("default".into());
        other.spec.listener_hook_url = Some(hung.url.clone());
        let other = world.store.create(&other).await.unwrap();
        let time = START.parse().unwrap();
        let claim = Claim { id: "c".into(), node: "n".into(), address: None, protocol: Protocol::Rtmp, time };
        commit(&world.store, &other, &Input::Claim(claim)).await.unwrap();
    }
    hung.wait_for(20).await;

    world.publish().await;
    world.unpublish().await;

    world.acked(2).await;
    assert_eq!(hung.got().len(), 20, "each of them waits for its own answer");
}

#[tokio::test]
async fn a_retry_after_is_waited_for() {
    let receiver = Receiver::start([Answer::RetryAfter(503, "600")]).await;
    let world = World::to(&receiver).await;
    world.publish().await;
    let started = Instant::now();
    world.acked(1).await;
    let waited = started.elapsed() * SPEED;
    assert!(waited >= Duration::from_secs(590), "{waited:?}");
}

#[tokio::test]
async fn a_shutdown_lets_the_request_in_flight_end_and_writes_what_came_of_it() {
    let receiver = Receiver::start([Answer::Stalled]).await;
    let mut world = World::to(&receiver).await;
    world.edit(|spec| spec.hooks = Some(Hooks { timeout_seconds: Some(1), ..Hooks::default() })).await;
    world.publish().await;
    receiver.wait_for(1).await;

    let mut running = world.running.take().unwrap();
    running.cancel.cancel();
    world.unpublish().await;
    tokio::time::timeout(DEADLINE, running.tasks.join_next()).await.expect("it ends").unwrap().unwrap();

    let hooks = world.read().await.status.unwrap().hooks;
    assert_eq!((hooks.acked_sequence, hooks.pending.len()), (1, 1));
    assert_eq!(receiver.got().len(), 1, "nothing new is sent");
}

#[tokio::test]
async fn ten_thousand_idle_broadcasts_leave_nothing_behind() {
    let receiver = Receiver::start([]).await;
    let world = World::to(&receiver).await;
    let broadcast = world.read().await;
    for number in 0..10_000 {
        let mut broadcast = broadcast.clone();
        broadcast.metadata.uid = Some(number.to_string());
        world.running().dispatcher.observe(&Arc::new(broadcast));
    }
    assert_eq!(world.running().dispatcher.0.lock().len(), 0);
    assert_eq!(world.running().dispatcher.0.tasks.len(), 0);
}
