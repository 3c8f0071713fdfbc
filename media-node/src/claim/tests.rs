use std::sync::atomic::{AtomicUsize, Ordering};

use json_patch::Patch;
use ledger::SqliteStore;
use prometheus_client::registry::Registry;
use tallylight_crds::{Action, BroadcastSpec, BroadcastStatus, MediaPool, Reason};
use tempfile::TempDir;
use tokio::{sync::watch, time::timeout};

use super::*;

/// What a store does with a write.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Weather {
    Fine,
    /// The request never arrives.
    Down,
    /// The write happens, and its answer is lost.
    Deaf,
    /// The write happens, and its answer never comes.
    Hangs,
}

/// A SQLite store behind weather.
#[derive(Clone)]
struct Weathered {
    store: SqliteStore,
    weather: watch::Sender<Weather>,
    requests: Arc<AtomicUsize>,
}

impl Weathered {
    async fn pass<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let lost = || Error::Unavailable { source: "weather".into() };
        let weather = *self.weather.borrow();
        match weather {
            Weather::Fine => request.await,
            Weather::Down => Err(lost()),
            Weather::Deaf => request.await.and_then(|_| Err(lost())),
            Weather::Hangs => {
                request.await?;
                std::future::pending().await
            }
        }
    }
}

impl Store for Weathered {
    async fn get(&self, key: &Key) -> Result<Option<Broadcast>, Error> {
        self.pass(self.store.get(key)).await
    }
    async fn create(&self, broadcast: &Broadcast) -> Result<Broadcast, Error> {
        self.pass(self.store.create(broadcast)).await
    }
    async fn patch_status(&self, key: &Key, uid: &str, patch: &Patch) -> Result<Broadcast, Error> {
        self.pass(self.store.patch_status(key, uid, patch)).await
    }
    async fn delete(&self, key: &Key, uid: &str) -> Result<(), Error> {
        self.pass(self.store.delete(key, uid)).await
    }
    async fn delete_unchanged(&self, known: &Broadcast) -> Result<(), Error> {
        self.pass(self.store.delete_unchanged(known)).await
    }
    async fn release(&self, known: &Broadcast) -> Result<(), Error> {
        self.pass(self.store.release(known)).await
    }
    async fn sessions_of(&self, namespace: &str, node: &str) -> Result<Vec<Broadcast>, Error> {
        self.pass(self.store.sessions_of(namespace, node)).await
    }
    async fn pool(&self, namespace: &str, name: &str) -> Result<Option<MediaPool>, Error> {
        self.pass(self.store.pool(namespace, name)).await
    }
}

/// A node's claims over a store with weather.
struct Rig {
    folder: TempDir,
    store: Weathered,
    claims: Claims<Weathered>,
    control: (mpsc::Sender<Control>, mpsc::Receiver<Control>),
    window: Duration,
}

impl Rig {
    async fn new() -> Self {
        Self::with_window(Duration::ZERO).await
    }

    async fn with_window(window: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Weathered {
            store: SqliteStore::open(&folder.path().join("ledger.sqlite")).unwrap(),
            weather: watch::Sender::new(Weather::Fine),
            requests: Arc::default(),
        };
        let mut broadcast =
            Broadcast::new("studio", BroadcastSpec { pool: "default".into(), ..BroadcastSpec::default() });
        broadcast.metadata.namespace = Some("default".into());
        store.create(&broadcast).await.unwrap();
        let (claims, recovery) = open(&store, &folder, window);
        recovery.run(Leftovers::Close).await;
        Self { folder, store, claims, control: mpsc::channel(1), window }
    }

    fn weather(&self, weather: Weather) {
        self.store.weather.send_replace(weather);
    }

    async fn read(&self) -> Broadcast {
        let key = Key { namespace: "default".into(), name: "studio".into() };
        self.store.store.get(&key).await.unwrap().unwrap()
    }

    /// The events as text: action, and the reason of an end.
    async fn events(&self) -> Vec<String> {
        let BroadcastStatus { hooks, .. } = self.read().await.status_or_default();
        let text = |e: &tallylight_crds::Event| match e.action {
            Action::LiveStreamStarted => "started".to_owned(),
            Action::LiveStreamEnded => format!("ended {}", e.reason.unwrap().as_str()),
            Action::VodReady | Action::VodFailed => e.action.as_str().to_owned(),
        };
        hooks.pending.iter().map(text).collect()
    }

    async fn claim(&self) -> Result<OnAir, Denied> {
        let known = self.read().await;
        self.claims.claim(&known, Protocol::Rtmp, Timestamp::now(), self.control.0.clone()).await
    }

    /// Another life of the same node over the same disk.
    fn restart(&mut self) -> Recovery<Weathered> {
        let (claims, recovery) = open(&self.store, &self.folder, self.window);
        self.claims = claims;
        recovery
    }

    async fn settled(&self) {
        let key = Key { namespace: "default".into(), name: "studio".into() };
        within(self.claims.settled(&key)).await;
    }

    fn ends_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("ends.log")).unwrap()
    }

    /// Waits until something is in the ends log.
    async fn logged(&self) {
        within(async {
            while self.ends_log().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

fn open(store: &Weathered, folder: &TempDir, window: Duration) -> (Claims<Weathered>, Recovery<Weathered>) {
    let identity =
        Identity { namespace: "default".into(), node: "node-1".into(), address: None, windows: Windows::new(window) };
    let metrics = Metrics::new(&mut Registry::default());
    Claims::open(store.clone(), identity, folder.path(), metrics).unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("it happens within 20 s")
}

/// Waits until the store was asked once more.
async fn asked(rig: &Rig) {
    let before = rig.store.requests.load(Ordering::SeqCst);
    within(async {
        while rig.store.requests.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_session_is_claimed_once_and_ended_once() {
    let rig = Rig::new().await;

    let session = rig.claim().await.unwrap();
    assert_eq!(rig.claim_by_another().await, Denied::OnAir);
    rig.claims.end(session, Reason::PublisherClosed, Timestamp::now());
    rig.settled().await;

    assert_eq!(rig.events().await, ["started", "ended PublisherClosed"]);
    assert_eq!(rig.ends_log(), "");
}

impl Rig {
    async fn claim_by_another(&self) -> Denied {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity {
            namespace: "default".into(),
            node: "node-2".into(),
            address: None,
            windows: Windows::new(Duration::ZERO),
        };
        let metrics = Metrics::new(&mut Registry::default());
        let (claims, _) = Claims::open(self.store.clone(), identity, folder.path(), metrics).unwrap();
        let known = self.read().await;
        claims.claim(&known, Protocol::Rtmp, Timestamp::now(), self.control.0.clone()).await.unwrap_err()
    }
}

#[tokio::test]
async fn a_claim_whose_answers_are_lost_is_found_again() {
    let rig = Rig::new().await;
    let known = rig.read().await;
    rig.weather(Weather::Deaf);

    let claim = rig.claims.claim(&known, Protocol::Rtmp, Timestamp::now(), rig.control.0.clone());
    let (claimed, ()) = tokio::join!(within(claim), async {
        asked(&rig).await;
        rig.weather(Weather::Fine);
    });

    assert!(claimed.is_ok());
    assert_eq!(rig.events().await, ["started"]);
}

#[tokio::test]
async fn a_claim_that_is_given_up_and_was_made_is_ended() {
    let rig = Rig::new().await;
    let known = rig.read().await;
    rig.weather(Weather::Hangs);
    {
        let claim = rig.claims.claim(&known, Protocol::Rtmp, Timestamp::now(), rig.control.0.clone());
        tokio::select! {
            _claimed = claim => panic!("the answer never comes"),
            () = async { while rig.events().await.is_empty() { tokio::task::yield_now().await } } => {}
        }
    }
    rig.weather(Weather::Fine);

    rig.settled().await;
    assert_eq!(rig.events().await, ["started", "ended PublisherLost"]);
}

#[tokio::test]
async fn an_end_waits_on_disk_while_the_store_is_away() {
    let rig = Rig::new().await;
    let session = rig.claim().await.unwrap();
    let time: Timestamp = Timestamp::now();
    rig.weather(Weather::Down);

    rig.claims.end(session, Reason::PublisherLost, time);
    rig.logged().await;
    assert_eq!(rig.events().await, ["started"]);
    rig.weather(Weather::Fine);
    rig.settled().await;

    assert_eq!(rig.events().await, ["started", "ended PublisherLost"]);
    assert_eq!(rig.read().await.status_or_default().session.end_time, Some(time));
    assert_eq!(rig.ends_log(), "");
}

#[tokio::test]
async fn an_end_whose_answer_is_lost_is_written_once() {
    let rig = Rig::new().await;
    let session = rig.claim().await.unwrap();
    rig.weather(Weather::Deaf);

    rig.claims.end(session, Reason::PublisherClosed, Timestamp::now());
    asked(&rig).await;
    rig.weather(Weather::Fine);
    rig.settled().await;

    assert_eq!(rig.events().await, ["started", "ended PublisherClosed"]);
}

#[tokio::test]
async fn a_logged_end_survives_a_restart_with_its_own_time_and_reason() {
    let mut rig = Rig::new().await;
    let session = rig.claim().await.unwrap();
    let time = Timestamp::now();
    rig.weather(Weather::Down);
    rig.claims.end(session, Reason::PublisherClosed, time);
    rig.logged().await;

    let recovery = rig.restart();
    rig.weather(Weather::Fine);
    within(recovery.run(Leftovers::Close)).await;

    assert_eq!(rig.events().await, ["started", "ended PublisherClosed"]);
    assert_eq!(rig.read().await.status_or_default().session.end_time, Some(time));
}

#[tokio::test]
async fn sessions_of_a_killed_life_are_ended_once_as_node_lost() {
    for how in [Leftovers::Close, Leftovers::End] {
        let mut rig = Rig::new().await;
        let session = rig.claim().await.unwrap();
        let epoch = session.owner.epoch;
        std::mem::forget(session);

        within(rig.restart().run(how)).await;
        within(rig.restart().run(how)).await;

        assert_eq!(rig.events().await, ["started", "ended NodeLost"]);
        let raised = i64::from(how == Leftovers::Close);
        assert_eq!(rig.read().await.status_or_default().session.epoch, epoch + raised);
    }
}

#[tokio::test]
async fn a_publisher_hears_that_its_session_was_closed_and_may_be_claimed_anew() {
    let mut rig = Rig::new().await;
    let session = rig.claim().await.unwrap();
    let seen = rig.read().await;
    rig.claims.observe(&seen);
    assert!(rig.control.1.try_recv().is_err(), "its own claim is no news");

    let input = Input::Close { owner: session.owner, reason: Reason::NodeLost, time: Timestamp::now() };
    ledger::commit(&rig.store, &seen, &input).await.unwrap();
    rig.claims.observe(&rig.read().await);

    assert_eq!(rig.control.1.try_recv(), Ok(Control::Fenced));
    rig.claims.forget(session);
    assert!(rig.claim().await.is_ok());
    assert_eq!(rig.events().await, ["started", "ended NodeLost", "started"]);
}

#[tokio::test]
async fn an_open_session_that_no_publisher_has_is_ended() {
    let rig = Rig::new().await;
    let claim = Claim {
        id: "late".into(),
        node: "node-1".into(),
        address: None,
        protocol: Protocol::Rtmp,
        time: Timestamp::now(),
    };
    ledger::commit(&rig.store, &rig.read().await, &Input::Claim(claim)).await.unwrap();

    rig.claims.observe(&rig.read().await);
    rig.settled().await;

    assert_eq!(rig.events().await, ["started", "ended PublisherLost"]);
}

#[tokio::test]
async fn a_close_that_is_seen_before_the_claims_answer_is_not_missed() {
    let mut rig = Rig::new().await;
    let known = rig.read().await;
    rig.weather(Weather::Hangs);
    let claim = rig.claims.claim(&known, Protocol::Rtmp, Timestamp::now(), rig.control.0.clone());
    let mut claim = std::pin::pin!(claim);
    tokio::select! {
        _claimed = &mut claim => panic!("the answer never comes"),
        () = async { while rig.events().await.is_empty() { tokio::task::yield_now().await } } => {}
    }
    let open = rig.read().await;
    let owner = Owner::of(&open.status_or_default().session);
    let close = Input::Close { owner, reason: Reason::Stopped, time: Timestamp::now() };
    ledger::commit(&rig.store.store, &open, &close).await.unwrap();
    let closed = rig.read().await;

    rig.claims.observe(&closed);
    assert!(rig.control.1.try_recv().is_err(), "nobody knows yet whose session it was");
    rig.claims.hold(&Key::of(&closed), owner);

    assert_eq!(rig.control.1.try_recv(), Ok(Control::Fenced));
}

const WINDOW: Duration = Duration::from_secs(60);

impl Rig {
    async fn session(&self) -> tallylight_crds::Session {
        self.read().await.status_or_default().session
    }

    fn now() -> Timestamp {
        Timestamp::now()
    }
}

#[tokio::test]
async fn a_publisher_that_was_lost_goes_on_with_its_session_and_one_that_closed_has_its_end() {
    let rig = Rig::with_window(WINDOW).await;
    let session = rig.claim().await.unwrap();
    let left = Rig::now();

    assert_eq!(rig.claims.end(session, Reason::PublisherLost, left), Farewell::Parked);
    rig.settled().await;
    let away = rig.session().await.away.unwrap();
    assert_eq!((away.since, away.until, away.reason), (left, left + WINDOW, Reason::PublisherLost));
    let back = rig.claim().await.unwrap();
    assert_eq!((back.owner, rig.session().await.away), (Owner { ordinal: 1, epoch: 3 }, None));
    assert_eq!(rig.claims.end(back, Reason::PublisherClosed, Rig::now()), Farewell::Ended);
    rig.settled().await;

    assert_eq!(rig.events().await, ["started", "ended PublisherClosed"]);
}

#[tokio::test]
async fn a_publisher_that_leaves_while_the_store_is_away_left_when_it_left() {
    let mut rig = Rig::with_window(WINDOW).await;
    let session = rig.claim().await.unwrap();
    let left = Rig::now();
    rig.weather(Weather::Down);
    rig.claims.end(session, Reason::NodeShutdown, left);
    rig.logged().await;

    let recovery = rig.restart();
    rig.weather(Weather::Fine);
    within(recovery.run(Leftovers::End)).await;

    assert_eq!(rig.session().await.away.map(|away| (away.since, away.reason)), Some((left, Reason::NodeShutdown)));
    assert_eq!((rig.events().await, rig.ends_log().as_str()), (vec!["started".to_owned()], ""));
}

#[tokio::test]
async fn a_publisher_whose_time_has_passed_before_the_store_hears_of_it_has_its_end() {
    let rig = Rig::with_window(WINDOW).await;
    let session = rig.claim().await.unwrap();

    rig.claims.end(session, Reason::PublisherTimeout, Rig::now() - WINDOW);
    rig.settled().await;

    assert_eq!(rig.events().await, ["started", "ended PublisherTimeout"]);
}

#[tokio::test]
async fn sessions_of_a_killed_life_wait_for_their_publishers() {
    for how in [Leftovers::Close, Leftovers::End] {
        let mut rig = Rig::with_window(WINDOW).await;
        std::mem::forget(rig.claim().await.unwrap());

        within(rig.restart().run(how)).await;
        within(rig.restart().run(how)).await;

        assert_eq!(rig.session().await.away.map(|away| away.reason), Some(Reason::NodeLost));
        assert!(rig.claim().await.is_ok());
        assert_eq!(rig.events().await, ["started"]);
    }
}

#[tokio::test]
async fn a_publisher_that_still_feeds_takes_back_the_session_that_others_thought_it_had_left() {
    let mut rig = Rig::with_window(WINDOW).await;
    let session = rig.claim().await.unwrap();
    let (open, since) = (rig.read().await, Rig::now());
    let away = Away { since, until: since + WINDOW, reason: Reason::NodeLost };
    ledger::commit(&rig.store, &open, &Input::Park { owner: session.owner, away }).await.unwrap();

    rig.claims.observe(&rig.read().await);

    assert_eq!(rig.control.1.try_recv(), Ok(Control::Fenced));
    rig.claims.forget(session);
    assert_eq!(rig.claim().await.unwrap().owner, Owner { ordinal: 1, epoch: 3 });
    assert_eq!(rig.events().await, ["started"]);
}
