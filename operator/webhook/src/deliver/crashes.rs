//! A process that dies anywhere between an event and its acknowledgement loses nothing: the test runs itself again as the
//! process that dies.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Stdio,
    time::{Duration, SystemTime},
};

use ledger::{Change, Claim, Input, Key, Owner, SqliteStore, commit};
use tallylight_crds::{BroadcastSpec, MediaPoolSpec, Protocol, Reason};

use super::*;
use crate::http::receiver::{Answer, Receiver};

/// Name of the test below: run with a database, it is the process that dies.
const PROCESS: &str = "deliver::crashes::a_process_that_dies_at_any_point_loses_nothing_and_keeps_the_order";
const DATABASE: &str = "TALLYLIGHT_TEST_DATABASE";
const EPOCH: &str = "TALLYLIGHT_TEST_EPOCH";
const SESSIONS: i64 = 3;
const LAST: i64 = 2 * SESSIONS;
/// How much faster than ours the lanes' time goes.
const SPEED: u32 = 200;
/// Far above what a process here takes.
const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_process_that_dies_at_any_point_loses_nothing_and_keeps_the_order() {
    if let Some(database) = std::env::var_os(DATABASE) {
        return deliver_all(Path::new(&database)).await;
    }
    for point in ["before-post", "after-post", "before-ack", "after-ack", "before-lane", "after-lane"] {
        let mut deaths = 0;
        for nth in 1..=3 {
            deaths += u32::from(dies_and_is_started_again(&format!("{point}:{nth}")).await);
        }
        assert!(deaths > 0, "no process died at {point}");
    }
}

/// Runs one round; says whether the process died as it was told.
async fn dies_and_is_started_again(point: &str) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("ledger.db");
    // Every third request fails.
    let answers: Vec<u16> = (0..60).map(|request| if request % 3 == 1 { 503 } else { 200 }).collect();
    let receiver = Receiver::start(answers.iter().copied().map(Answer::Status)).await;
    fill(&database, &receiver.url).await;

    let epoch = since_1970().as_millis().to_string();
    let died = !run(&database, &epoch, Some(point)).await;
    assert!(run(&database, &epoch, None).await, "the process after {point} ends well");

    let store = SqliteStore::open(&database).unwrap();
    let hooks = store.get(&place()).await.unwrap().unwrap().status.unwrap().hooks;
    assert_eq!((hooks.acked_sequence, hooks.pending.len()), (LAST, 0), "{point}");
    let mut bodies = BTreeMap::new();
    let mut taken = 0;
    for (request, status) in receiver.got().iter().zip(&answers) {
        let sequence: i64 = request.field("sequence").parse().unwrap();
        let known = bodies.entry(sequence).or_insert_with(|| request.text.clone());
        assert_eq!(*known, request.text, "{point}: a repetition says the same");
        assert!(sequence <= taken + 1, "{point}: {sequence} came before {}", taken + 1);
        assert_eq!(request.header("webhook-id"), request.field("eventId"));
        if *status == 200 {
            taken = taken.max(sequence);
        }
    }
    assert_eq!(taken, LAST, "{point}");
    store.close().await;
    died
}

/// Runs the process; says whether it ended well.
async fn run(database: &Path, epoch: &str, point: Option<&str>) -> bool {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", PROCESS]).env(DATABASE, database).env(EPOCH, epoch);
    match point {
        Some(point) => command.env("TALLYLIGHT_CRASH_AT", point),
        None => command.env_remove("TALLYLIGHT_CRASH_AT"),
    };
    let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    tokio::time::timeout(DEADLINE, process.wait()).await.expect("the process ends").unwrap().success()
}

/// Delivers what is in the database, and dies if it is told to.
async fn deliver_all(database: &Path) {
    let epoch = Duration::from_millis(std::env::var(EPOCH).unwrap().parse().unwrap());
    let store = SqliteStore::open(database).unwrap();
    let options = Options { clock: Box::new(SharedClock { epoch }), ..Options::default() };
    let client = Client::new(&[]).unwrap();
    let dispatcher = Dispatcher::new(store.clone(), Defaults, client, options, &mut Registry::default());
    let mut changes = store.subscribe();
    let mut broadcast = Arc::new(store.get(&place()).await.unwrap().unwrap());
    while broadcast.status_or_default().hooks.acked_sequence < LAST {
        dispatcher.observe(&broadcast);
        if let Change::Applied(changed) = changes.recv().await.unwrap() {
            broadcast = changed;
        }
    }
    store.close().await;
}

/// Puts a Broadcast with its events into a new database.
async fn fill(database: &Path, url: &str) {
    let store = SqliteStore::open(database).unwrap();
    let spec = BroadcastSpec { listener_hook_url: Some(url.into()), ..BroadcastSpec::default() };
    let mut broadcast = Broadcast::new(&place().name, spec);
    broadcast.metadata.namespace = Some(place().namespace);
    let mut known = store.create(&broadcast).await.unwrap();
    let time = Timestamp::UNIX_EPOCH;
    for session in 0..SESSIONS {
        let claim = Claim { id: session.to_string(), node: "n".into(), address: None, protocol: Protocol::Rtmp, time };
        let start = Input::Claim(claim);
        commit(&store, &known, &start).await.unwrap();
        known = store.get(&place()).await.unwrap().unwrap();
        let owner = Owner::of(&known.status.as_ref().unwrap().session);
        commit(&store, &known, &Input::End { owner, reason: Reason::PublisherClosed, time }).await.unwrap();
        known = store.get(&place()).await.unwrap().unwrap();
    }
    store.close().await;
}

fn place() -> Key {
    Key { namespace: "default".into(), name: "studio".into() }
}

#[allow(clippy::disallowed_methods, reason = "processes share no other clock")]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

/// A fast clock that two processes agree on.
struct SharedClock {
    epoch: Duration,
}

impl Clock for SharedClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + since_1970().saturating_sub(self.epoch) * SPEED
    }

    fn sleep_until(&self, due: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let wait: Duration = due.duration_since(self.now()).try_into().unwrap_or_default();
        Box::pin(tokio::time::sleep_until(tokio::time::Instant::now() + wait / SPEED))
    }
}

struct Defaults;

impl Resolver for Defaults {
    async fn settings(&self, broadcast: &Broadcast) -> Result<Settings, ResolveError> {
        Settings::of(broadcast, &MediaPoolSpec::default(), None)
    }
}
