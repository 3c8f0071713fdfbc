//! Follows the ledger: tells publishers what others do to their sessions, hands events to the dispatcher, and brings
//! Broadcasts that are deleted or done to their end. It is to a standalone server what the operator is to a cluster.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use ledger::{
    Change, Error, Input, Key, Owner, Recordings, SqliteStore, Store, Windows,
    disposal::{self, Disposal},
};
use tallylight_crds::{Broadcast, Reason, Recording};
use tokio::{
    sync::{Semaphore, broadcast::error::RecvError},
    task::JoinSet,
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use webhook::Dispatcher;

use super::catalog::Catalog;
use crate::{claim::Claims, recording::Recorder};

mod recordings;
use recordings::{Kept, Teller};

/// Pause before a ledger that could not be read is read again.
const RETRY: Duration = Duration::from_secs(1);

/// Disposals at once: as many as the store's writer puts into one transaction. More wait their turn.
const DISPOSALS: usize = 64;

/// Follows the ledger.
pub(super) struct Follower {
    store: SqliteStore,
    claims: Claims<SqliteStore>,
    dispatcher: Dispatcher<SqliteStore, Catalog>,
    teller: Teller,
    recorder: Option<Recorder>,
    disposing: Arc<Semaphore>,
}

/// Waits until no event waits for its receiver any more.
pub(super) async fn delivered(store: &SqliteStore) {
    loop {
        let mut changes = store.subscribe();
        let waits = |b: &Broadcast| b.status.as_ref().is_some_and(|s| !s.hooks.pending.is_empty());
        match store.list().await {
            Ok(all) if all.iter().any(waits) => {}
            Ok(_) | Err(_) => return,
        }
        if let Err(RecvError::Closed) = changes.recv().await {
            return;
        }
    }
}

impl Follower {
    pub(super) fn new(
        store: SqliteStore,
        claims: Claims<SqliteStore>,
        dispatcher: Dispatcher<SqliteStore, Catalog>,
        recorder: Option<Recorder>,
    ) -> Self {
        let disposing = Arc::new(Semaphore::new(DISPOSALS));
        let teller = Teller::new(store.clone(), Arc::clone(&disposing));
        Self { store, claims, dispatcher, teller, recorder, disposing }
    }

    /// Runs until cancelled.
    pub(super) async fn run(self, until: CancellationToken) {
        // its end may cut a step short: the next start takes it again
        let _cancelled = until.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&self) {
        let mut disposals = JoinSet::new();
        loop {
            let (mut away, mut kept) = (Away::default(), Kept::default());
            let mut changes = self.store.subscribe();
            // asked before the list: what is not in the list then is gone
            let held = self.claims.held();
            match self.all().await {
                Ok((all, recordings)) => {
                    let there: HashSet<Key> = all.iter().map(Key::of).collect();
                    held.iter().filter(|key| !there.contains(key)).for_each(|gone| self.claims.observe_gone(gone));
                    for broadcast in all {
                        self.applied(&Arc::new(broadcast), &mut disposals, &mut away);
                    }
                    for recording in recordings {
                        self.recorded(&Arc::new(recording), &mut disposals, &mut kept);
                    }
                }
                Err(error) => {
                    warn!(%error, "failed to read the ledger");
                    sleep(RETRY).await;
                    continue;
                }
            }
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    overdue = away.overdue() => {
                        if let Some((_, broadcast)) = away.awaited.remove(&overdue) {
                            disposals.spawn(expire(self.store.clone(), broadcast, Arc::clone(&self.disposing)));
                        }
                        continue;
                    }
                    expired = kept.expired() => {
                        self.teller.expire(expired, &mut disposals);
                        continue;
                    }
                };
                match change {
                    Ok(Change::Applied(broadcast)) => self.applied(&broadcast, &mut disposals, &mut away),
                    Ok(Change::Deleted { key, uid }) => {
                        away.forget(&key, &uid);
                        self.claims.observe_gone(&key);
                        self.dispatcher.forget(&uid);
                    }
                    Ok(Change::Recorded(recording)) => {
                        self.recorded(&recording, &mut disposals, &mut kept);
                        if recording.is_announced() {
                            self.unheld(&recording, &mut disposals);
                        }
                    }
                    Ok(Change::RecordingDeleted(recording)) => {
                        kept.forget(&Key::of_recording(&recording));
                        self.unheld(&recording, &mut disposals);
                    }
                    // more happened than the channel holds: read everything
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }

    async fn all(&self) -> Result<(Vec<Broadcast>, Vec<Recording>), Error> {
        Ok((self.store.list().await?, self.store.recordings().await?))
    }

    /// A recording holds its Broadcast no more.
    fn unheld(&self, recording: &Recording, disposals: &mut JoinSet<()>) {
        let (store, key, at_once) = (self.store.clone(), Key::of_recorded(recording), Arc::clone(&self.disposing));
        disposals.spawn(async move {
            if let Ok(Some(broadcast)) = store.get(&key).await {
                dispose(store, disposal::next(&broadcast), Arc::new(broadcast), at_once).await;
            }
        });
    }

    fn recorded(&self, recording: &Arc<Recording>, disposals: &mut JoinSet<()>, kept: &mut Kept) {
        self.teller.recorded(recording, disposals, kept);
        if let Some(recorder) = &self.recorder {
            recorder.observe_recording(recording);
        }
    }

    fn applied(&self, broadcast: &Arc<Broadcast>, disposals: &mut JoinSet<()>, away: &mut Away) {
        away.see(broadcast);
        self.claims.observe(broadcast);
        if let Some(recorder) = &self.recorder {
            recorder.observe(broadcast);
        }
        self.dispatcher.observe(broadcast);
        while disposals.try_join_next().is_some() {}
        self.teller.has_room(broadcast, disposals);
        let next = disposal::next(broadcast);
        if next != Disposal::None {
            // beside this loop: an event must not wait for the write that ends another Broadcast
            let disposal = dispose(self.store.clone(), next, Arc::clone(broadcast), Arc::clone(&self.disposing));
            disposals.spawn(disposal);
        }
    }
}

/// Broadcasts whose publisher is away, and until when.
#[derive(Default)]
struct Away {
    windows: Windows,
    awaited: HashMap<Key, (Instant, Arc<Broadcast>)>,
}

impl Away {
    fn see(&mut self, broadcast: &Arc<Broadcast>) {
        let key = Key::of(broadcast);
        match self.windows.end(broadcast, Timestamp::now(), Instant::now()) {
            Some(end) => self.awaited.insert(key, (end, Arc::clone(broadcast))),
            None => self.awaited.remove(&key),
        };
    }

    fn forget(&mut self, key: &Key, uid: &str) {
        self.windows.forget(uid);
        self.awaited.remove(key);
    }

    /// Waits until a publisher has not come back in time, and says whose.
    async fn overdue(&self) -> Key {
        let Some((end, key)) = self.awaited.iter().map(|(key, (end, _))| (end, key)).min() else {
            return std::future::pending().await;
        };
        sleep_until((*end).into()).await;
        key.clone()
    }
}

/// Ends the session of a publisher that did not come back in time.
async fn expire(store: SqliteStore, broadcast: Arc<Broadcast>, at_once: Arc<Semaphore>) {
    let Ok(_permit) = at_once.acquire().await else { return }; // it is never closed
    let session = broadcast.status_or_default().session;
    let Some(away) = &session.away else { return };
    let (owner, key) = (Owner::of(&session), Key::of(&broadcast));
    let input = Input::Close { owner, reason: away.reason, time: away.since };
    match ledger::commit(&store, &broadcast, &input).await {
        Ok(_) => info!(broadcast = %key, session = owner.ordinal, reason = away.reason.as_str(), "session.expired"),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            warn!(broadcast = %key, error, "failed to end an overdue session; its next change, or the next start, tries again");
        }
    }
}

async fn dispose(store: SqliteStore, next: Disposal, broadcast: Arc<Broadcast>, at_once: Arc<Semaphore>) {
    let Ok(_permit) = at_once.acquire().await else { return }; // it is never closed
    let key = Key::of(&broadcast);
    let done = match next {
        Disposal::None => Ok(()),
        Disposal::End(owner) => {
            let input = Input::Close { owner, reason: Reason::Stopped, time: Timestamp::now() };
            ledger::commit(&store, &broadcast, &input).await.map(|_| ())
        }
        Disposal::Release | Disposal::Delete => match store.recordings_of(&key.namespace, Some(&key.name)).await {
            // it is looked at again when the recording is told of
            Ok(recordings) if disposal::holds(&broadcast, &recordings) => Ok(()),
            Ok(_) if next == Disposal::Release => store.release(&broadcast).await,
            Ok(_) => store.delete_unchanged(&broadcast).await,
            Err(error) => Err(error),
        },
    };
    match done {
        // it went on meanwhile, and its change is on the way here
        Ok(()) | Err(Error::NotFound | Error::Conflict) => {}
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            warn!(broadcast = %key, error, "failed to dispose of a Broadcast; its next change, or the next start, tries again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ledger::conformance::recording_spec;
    use prometheus_client::registry::Registry;
    use tallylight_crds::{
        Admission, BroadcastSpec, EPHEMERAL_LABEL, HOOKS_FINALIZER, MediaPool, MediaPoolSpec, Protocol, RecordingSpec,
    };
    use tempfile::TempDir;
    use tokio::{sync::mpsc, time::timeout};

    use super::*;
    use crate::{
        admission::Apps,
        claim::{Control, Identity, OnAir, Windows},
        metrics::Metrics,
        standalone::NAMESPACE,
    };

    const WINDOW: Duration = Duration::from_secs(1);

    /// A follower over a store, without a receiver: events are settled unsent.
    struct Rig {
        store: SqliteStore,
        claims: Claims<SqliteStore>,
        control: (mpsc::Sender<Control>, mpsc::Receiver<Control>),
        follower: Follower,
        _folder: TempDir,
    }

    impl Rig {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = SqliteStore::open(&folder.path().join("ledger.sqlite")).unwrap();
            let mut registry = Registry::default();
            let windows = Windows::new(WINDOW);
            let identity =
                Identity { namespace: NAMESPACE.into(), node: "node".into(), address: None, windows: windows.clone() };
            let metrics = Metrics::new(&mut registry);
            let (claims, _) = Claims::open(store.clone(), identity, folder.path(), metrics).unwrap();
            let spec = MediaPoolSpec {
                app: "LiveApp".into(),
                admission: Admission::Open,
                reconnect_window_seconds: 1,
                ..Default::default()
            };
            let mut pool = MediaPool::new("default", spec);
            pool.metadata.namespace = Some(NAMESPACE.into());
            let catalog = Catalog::new(store.clone(), Apps::default(), windows, pool);
            let client = webhook::http::Client::new(&[]).unwrap();
            let dispatcher =
                Dispatcher::new(store.clone(), catalog, client, webhook::Options::default(), &mut registry);
            let follower = Follower::new(store.clone(), claims.clone(), dispatcher, None);
            Self { store, claims, control: mpsc::channel(1), follower, _folder: folder }
        }

        async fn on_air(&self, ephemeral: bool) -> OnAir {
            let mut broadcast =
                Broadcast::new("studio", BroadcastSpec { pool: "default".into(), ..Default::default() });
            broadcast.metadata.namespace = Some(NAMESPACE.into());
            broadcast.metadata.finalizers = Some(vec![HOOKS_FINALIZER.into()]);
            broadcast.metadata.labels = ephemeral.then(|| [(EPHEMERAL_LABEL.to_owned(), "true".to_owned())].into());
            let known = self.store.create(&broadcast).await.unwrap();
            let time = Timestamp::now();
            self.claims.claim(&known, Protocol::Rtmp, time, self.control.0.clone()).await.unwrap()
        }

        /// Follows until the Broadcast is gone.
        async fn gone(&self) {
            self.until(|change| matches!(change, Change::Deleted { .. })).await;
        }

        /// Follows until a change is the one that is awaited.
        async fn until(&self, awaited: impl Fn(&Change) -> bool) {
            let mut changes = self.store.subscribe();
            let wait = async { while !changes.recv().await.is_ok_and(|change| awaited(&change)) {} };
            tokio::select! {
                came = timeout(Duration::from_secs(20), wait) => came.expect("it comes within 20 s"),
                () = self.follower.follow() => panic!("the follower ended"),
            }
        }

        /// Begins a recording of the session that is on air.
        async fn record(&self, session: &OnAir) -> Recording {
            let broadcast = session.broadcast();
            let spec = RecordingSpec {
                pool: "default".into(),
                start_time: Timestamp::now(),
                retention_seconds: Some(60),
                ..recording_spec(broadcast, 1, "node")
            };
            self.store.create_recording(&Recording::begun(NAMESPACE, spec)).await.unwrap()
        }

        async fn ready(&self, recording: &Recording, end: Timestamp) {
            let ready = serde_json::json!([
                {"op": "replace", "path": "/status/state", "value": "Ready"},
                {"op": "add", "path": "/status/endTime", "value": end},
                {"op": "add", "path": "/status/durationMilliseconds", "value": 1_000},
            ]);
            let patch = serde_json::from_value(ready).unwrap();
            let uid = recording.metadata.uid.as_deref().unwrap();
            self.store.patch_recording(&Key::of_recording(recording), uid, &patch).await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_ephemeral_broadcast_goes_when_its_end_is_settled() {
        let rig = Rig::new();
        let session = rig.on_air(true).await;
        rig.claims.end(session, Reason::PublisherClosed, Timestamp::now());

        rig.gone().await;
    }

    #[tokio::test]
    async fn a_publisher_that_stays_away_has_its_end_when_its_time_has_passed() {
        let rig = Rig::new();
        let session = rig.on_air(true).await;
        let left = Timestamp::now();
        rig.claims.end(session, Reason::PublisherLost, left);

        rig.gone().await; // as it is when its end is settled

        assert!(Timestamp::now() >= left + WINDOW);
    }

    #[tokio::test]
    async fn a_recording_that_is_ready_is_told_of_and_deleted_when_its_time_is_over() {
        let rig = Rig::new();
        let session = rig.on_air(false).await;
        let recording = rig.record(&session).await;
        rig.ready(&recording, Timestamp::now() - jiff::SignedDuration::from_secs(120)).await;

        rig.until(|change| matches!(change, Change::Recorded(recording) if recording.is_leaving())).await;

        let told = rig.store.recording(&Key::of_recording(&recording)).await.unwrap().unwrap();
        let hooks = rig.store.get(&Key::of_recorded(&recording)).await.unwrap().unwrap().status_or_default().hooks;
        assert_eq!(hooks.announced[0].sequence, 2);
        assert_eq!(told.status.and_then(|status| status.hook).map(|hook| hook.sequence), Some(2));
    }

    #[tokio::test]
    async fn a_broadcast_that_is_deleted_waits_for_its_recording() {
        let rig = Rig::new();
        let session = rig.on_air(false).await;
        let recording = rig.record(&session).await;
        let broadcast = session.broadcast();
        rig.store.delete(&Key::of(broadcast), broadcast.metadata.uid.as_deref().unwrap()).await.unwrap();
        let is_settled = |broadcast: &Broadcast| {
            let hooks = broadcast.status_or_default().hooks;
            hooks.last_sequence == 2 && hooks.acked_sequence == 2
        };
        rig.until(|change| matches!(change, Change::Applied(broadcast) if is_settled(broadcast))).await;
        assert!(rig.store.get(&Key::of_recorded(&recording)).await.unwrap().is_some(), "its recording holds it");

        rig.ready(&recording, Timestamp::now()).await;
        rig.gone().await;

        let told = rig.store.recording(&Key::of_recording(&recording)).await.unwrap().unwrap();
        assert_eq!(told.status.and_then(|status| status.hook).map(|hook| hook.sequence), Some(3));
    }

    #[tokio::test]
    async fn a_broadcast_that_is_deleted_on_air_is_stopped_and_then_goes() {
        let mut rig = Rig::new();
        let session = rig.on_air(false).await;
        let broadcast = session.broadcast();
        rig.store.delete(&Key::of(broadcast), broadcast.metadata.uid.as_deref().unwrap()).await.unwrap();

        rig.gone().await;

        assert_eq!(rig.control.1.try_recv(), Ok(Control::Stopped));
    }
}
