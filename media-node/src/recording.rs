//! Records what is published to this node: which sessions, into which files, and what the store is told of them.
//!
//! A session has one task, which follows the muxing of its stream; a file that is over is finished by a task of its own; and
//! each Recording's object is kept by another. None of them holds up a publisher: a storage or a store that is slow or away
//! costs the recording at most.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ledger::{Key, Recordings, Store};
use tallylight_crds::{Broadcast, MediaPoolSpec, Recording, RecordingSettings};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    claim::OnAir,
    hub::Name,
    packager::Packagers,
    server::Node,
    storage::{Bucket, Storage, Storages},
};

mod checksum;
mod finish;
mod folder;
mod growing;
mod hls;
mod metrics;
mod mp4;
mod objects;
mod part;
mod salvage;
mod session;
mod trouble;
mod upload;

use folder::Folder;
pub(crate) use metrics::Metrics as RecordingMetrics;
use objects::Objects;
use trouble::{Reason, Trouble};

/// Threads that write for recordings at once. A storage that hangs holds so many, and no thread of the runtime.
const WRITERS: usize = 64;
/// How long what a pool says is taken for what it says now: so many sessions that begin together ask once.
const POOL_FRESH: Duration = Duration::from_secs(2);
/// Longest wait for a pool before a publisher is recorded as its Broadcast alone says.
const POOL_DEADLINE: Duration = Duration::from_secs(5);
/// Longest wait for what was told to stop. A disk that hangs holds a thread of this process as long as it likes.
const GIVE_UP: Duration = Duration::from_secs(2);
/// Pauses between attempts to delete a file that cannot be deleted.
const DELETE_AGAIN: Duration = Duration::from_secs(30);

/// Who records.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) namespace: String,
    pub(crate) node: String,
}

/// The recorder of a node. Clones share it.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    identity: Identity,
    objects: Objects,
    packagers: Packagers,
    folders: BTreeMap<String, Folder>,
    storages: Storages,
    metrics: RecordingMetrics,
    /// Publishers that are here, by their Broadcasts.
    sessions: Mutex<HashMap<Key, Arc<watch::Sender<Stage>>>>,
    /// Recordings whose files this process works on, by name; cancelled when one is to be thrown away.
    open: Mutex<HashMap<String, CancellationToken>>,
    /// One of them is over.
    closed: Notify,
    /// Recordings that are being deleted.
    leaving: Mutex<HashSet<String>>,
    pools: Mutex<HashMap<String, (Instant, MediaPoolSpec)>>,
    writers: Arc<Semaphore>,
    tasks: TaskTracker,
    end: CancellationToken,
}

/// What is known of a publisher and its Broadcast.
#[derive(Clone, Debug)]
struct Stage {
    broadcast: Box<Broadcast>,
    /// `None` before its session is claimed. It stays when the publisher leaves: who looks late must see that there is something to record.
    on_air: Option<Since>,
    has_left: bool,
}

/// Since when a session is on air.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    ThisPublisher,
    /// The session has had a publisher before.
    AnEarlierOne,
}

/// A publisher, as the recorder knows it. Dropping it says that the publisher has left.
#[derive(Debug)]
pub(crate) struct Arrival {
    recorder: Recorder,
    key: Key,
    stage: Arc<watch::Sender<Stage>>,
}

impl Recorder {
    /// Makes the recorder of a node, which takes up what an earlier life has left. Call it before the
    /// first publisher may come.
    pub(crate) async fn serve<S: Store + Recordings>(
        node: &mut Node<S>,
        store: S,
        identity: Identity,
        storages: &Storages,
        metrics: RecordingMetrics,
    ) -> Self {
        let end = CancellationToken::new();
        let folders = storages.all().map(|(name, storage)| (name.to_owned(), Folder::of(storage)));
        let recorder = Self(Arc::new(Inner {
            identity,
            objects: Objects::new(store, node.metrics.clone(), end.clone()),
            packagers: node.packagers.clone(),
            folders: folders.collect(),
            storages: storages.clone(),
            metrics,
            sessions: Mutex::default(),
            open: Mutex::default(),
            closed: Notify::new(),
            leaving: Mutex::default(),
            pools: Mutex::default(),
            writers: Arc::new(Semaphore::new(WRITERS)),
            tasks: TaskTracker::new(),
            end,
        }));
        recorder.recover().await;
        node.recorder = Some(recorder.clone());
        recorder
    }

    /// Takes up what an earlier life has left growing.
    async fn recover(&self) {
        for (storage, folder) in self.0.folders.clone() {
            match self.blocking(move || folder.growing()).await {
                Ok(found) => {
                    for (place, recording) in found {
                        if self.is_ours(&recording) {
                            self.restore(recording, place);
                        }
                    }
                }
                Err(error) => warn!(storage, %error, "failed to look for recordings of an earlier life"),
            }
        }
        // with a watch this would be seen anyway; without, what another node has left to this one is found here
        let recorder = self.clone();
        self.0.tasks.spawn(async move {
            let Identity { namespace, node } = &recorder.0.identity;
            for recording in recorder.0.objects.of_node(namespace, node).await {
                recorder.observe_recording(&recording);
            }
        });
    }

    /// A publisher may send: it will be recorded from its first packet on if its Broadcast says so.
    pub(crate) fn arrive(&self, name: &Name, broadcast: &Broadcast) -> Arrival {
        let key = Key::of(broadcast);
        let stage = Stage { broadcast: Box::new(broadcast.clone()), on_air: None, has_left: false };
        let stage = Arc::new(watch::Sender::new(stage));
        lock(&self.0.sessions).insert(key.clone(), Arc::clone(&stage));
        self.0.tasks.spawn(session::run(self.clone(), name.clone(), stage.subscribe()));
        Arrival { recorder: self.clone(), key, stage }
    }

    /// Takes note of a Broadcast as it now is in the store.
    pub(crate) fn observe(&self, broadcast: &Broadcast) {
        let stage = lock(&self.0.sessions).get(&Key::of(broadcast)).cloned();
        let Some(stage) = stage else { return };
        stage.send_if_modified(|stage| {
            let known = &mut stage.broadcast;
            let is_same = known.metadata.uid == broadcast.metadata.uid;
            let changes = known.spec.recording != broadcast.spec.recording
                || known.metadata.annotations != broadcast.metadata.annotations;
            if is_same && changes {
                // whose session it is was said by the claim
                known.spec.clone_from(&broadcast.spec);
                known.metadata.annotations.clone_from(&broadcast.metadata.annotations);
            }
            is_same && changes
        });
    }

    /// Takes note of a Recording as it now is in the store: it may be new to this node, or to be deleted.
    pub(crate) fn observe_recording(&self, recording: &Recording) {
        if !self.is_ours(recording) {
            return;
        }
        if recording.is_leaving() {
            self.delete(recording);
        } else if !recording.state().is_final() && !self.is_open(recording) {
            match self.place(recording) {
                Ok(place) => self.restore(recording.clone(), place),
                Err(trouble) => {
                    warn!(recording = %Key::of_recording(recording), %trouble, "a recording cannot be taken over")
                }
            }
        }
    }

    /// Waits until every file is whole and the store knows, or a little beyond the deadline; the next start does the rest.
    pub(crate) async fn drain(&self, deadline: Instant) {
        self.0.tasks.close();
        if timeout_at(deadline, self.0.tasks.wait()).await.is_err() {
            warn!(
                recordings = lock(&self.0.open).len(),
                "not all recordings are finished; the next start finishes them"
            );
        }
        self.0.end.cancel();
        if timeout(GIVE_UP, self.0.tasks.wait()).await.is_err() {
            warn!("a storage answers nothing, not even a write that began long ago; it is left to the system");
        }
    }

    /// Whether, and how, a Broadcast is to be recorded.
    async fn settings(&self, broadcast: &Broadcast) -> Option<RecordingSettings> {
        let pool = self.pool(&broadcast.spec.pool).await;
        let settings = RecordingSettings::of(broadcast, &pool);
        settings.records(broadcast).then_some(settings)
    }

    async fn pool(&self, name: &str) -> MediaPoolSpec {
        let known = lock(&self.0.pools).get(name).cloned();
        if let Some((at, pool)) = &known
            && at.elapsed() < POOL_FRESH
        {
            return pool.clone();
        }
        let asked = timeout(POOL_DEADLINE, self.0.objects.pool(&self.0.identity.namespace, name)).await;
        match asked {
            Ok(Ok(Some(pool))) => {
                lock(&self.0.pools).insert(name.to_owned(), (Instant::now(), pool.spec.clone()));
                pool.spec
            }
            Ok(Ok(None)) => MediaPoolSpec::default(),
            Ok(Err(_)) | Err(_) => known.map(|(_, pool)| pool).unwrap_or_default(), // as it was when it last said
        }
    }

    /// Where a Recording's file is, or will be.
    fn place(&self, recording: &Recording) -> Result<folder::Place, Trouble> {
        let storage = &recording.spec.storage;
        let missing = || {
            let text = format!(
                "this node has no storage {storage}; name one of its pool's storages, or wait for its pods to be renewed"
            );
            Trouble::new(Reason::StorageMissing, text)
        };
        let folder = self.0.folders.get(storage).ok_or_else(missing)?;
        let name = &recording.spec.file_name;
        folder.place(name).ok_or_else(|| Trouble::new(Reason::Damaged, format!("{name} is no name of a file")))
    }

    /// The bucket that a Recording's file goes to when it is whole; `None` when it stays in its folder.
    fn bucket(&self, recording: &Recording) -> Option<Bucket> {
        match self.0.storages.get(&recording.spec.storage)? {
            Storage::Volume(_) => None,
            Storage::Bucket { bucket, .. } => Some(bucket.clone()),
        }
    }

    fn is_ours(&self, recording: &Recording) -> bool {
        recording.spec.node == self.0.identity.node
    }

    /// Whether a Recording is this node's, as the store says once it answers. One that it does not know is not made yet.
    async fn has(&self, recording: &Recording) -> bool {
        let found = self.0.objects.get(&Key::of_recording(recording)).await;
        found.is_none_or(|found| self.is_ours(&found))
    }

    /// Deletes what there is of a Recording's file.
    async fn delete_file(&self, recording: &Recording) -> Result<(), String> {
        let place = self.place(recording).map_err(|trouble| trouble.to_string())?;
        if let Some(bucket) = self.bucket(recording) {
            upload::delete(&bucket, &place).await.map_err(|trouble| trouble.to_string())?;
        }
        self.blocking(move || place.delete()).await.map_err(|error| error.to_string())
    }

    /// Finishes what nobody works on any more.
    fn restore(&self, recording: Recording, place: folder::Place) {
        let Some(discard) = self.open(&recording) else { return };
        let recorder = self.clone();
        self.0.tasks.spawn(async move {
            finish::restore(&recorder, recording.clone(), place, discard).await;
            recorder.close(&recording);
        });
    }

    /// Deletes a Recording's file, and lets the Recording go.
    fn delete(&self, recording: &Recording) {
        let (key, name) = (Key::of_recording(recording), name_of(recording));
        if !lock(&self.0.leaving).insert(name.clone()) {
            return;
        }
        let (recorder, recording) = (self.clone(), recording.clone());
        self.0.tasks.spawn(async move {
            recorder.discard(&name).await;
            while !recorder.0.end.is_cancelled() {
                match recorder.delete_file(&recording).await {
                    Ok(()) => {
                        if recorder.0.objects.release(&recording).await {
                            info!(recording = %key, file = recording.spec.file_name, "recording.deleted");
                        }
                        break;
                    }
                    Err(error) => {
                        warn!(recording = %key, error, "failed to delete a recording's file; it is tried again")
                    }
                }
                let _ended = timeout(DELETE_AGAIN, recorder.0.end.cancelled()).await;
            }
            lock(&recorder.0.leaving).remove(&name);
        });
    }

    /// Throws away what is open of a Recording, and waits until nobody works on it.
    async fn discard(&self, name: &str) {
        loop {
            let mut closed = std::pin::pin!(self.0.closed.notified());
            closed.as_mut().enable();
            match lock(&self.0.open).get(name) {
                Some(discard) => discard.cancel(),
                None => return,
            }
            tokio::select! {
                () = closed => {}
                () = self.0.end.cancelled() => return,
            }
        }
    }

    /// Notes that this process works on a Recording's file; `None` when it does already.
    fn open(&self, recording: &Recording) -> Option<CancellationToken> {
        let mut open = lock(&self.0.open);
        let name = name_of(recording);
        if open.contains_key(&name) {
            return None;
        }
        let discard = CancellationToken::new();
        open.insert(name, discard.clone());
        self.0.metrics.set_open(open.len());
        Some(discard)
    }

    fn is_open(&self, recording: &Recording) -> bool {
        lock(&self.0.open).contains_key(&name_of(recording))
    }

    fn close(&self, recording: &Recording) {
        let mut open = lock(&self.0.open);
        open.remove(&name_of(recording));
        self.0.metrics.set_open(open.len());
        drop(open);
        self.0.closed.notify_waiters();
    }

    /// Does what waits for a disk, on a thread that may.
    async fn blocking<T, E>(&self, work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<io::Error> + Send + 'static,
    {
        let place = Arc::clone(&self.0.writers).acquire_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        done.await.unwrap_or_else(|gone| Err(io::Error::other(gone).into()))
    }
}

impl Arrival {
    /// The publisher's session is on air.
    pub(crate) fn on_air(&self, session: &OnAir) {
        let since = if session.is_resumed() { Since::AnEarlierOne } else { Since::ThisPublisher };
        self.stage.send_modify(|stage| {
            stage.on_air = Some(since);
            *stage.broadcast = session.broadcast().clone();
        });
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.stage.send_modify(|stage| stage.has_left = true);
        let mut sessions = lock(&self.recorder.0.sessions);
        if sessions.get(&self.key).is_some_and(|stage| Arc::ptr_eq(stage, &self.stage)) {
            sessions.remove(&self.key);
        }
    }
}

fn name_of(recording: &Recording) -> String {
    recording.metadata.name.clone().unwrap_or_default()
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
