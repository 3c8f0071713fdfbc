//! The store on a laptop or an edge box: one SQLite file, one writer thread.
//!
//! A row holds an object as it would be in a cluster, and a patch is applied to its JSON, so that both stores run the same
//! patches. WAL with `synchronous=FULL`: what was answered is on disk. The thread commits what has queued up meanwhile in
//! one transaction, so a burst of claims shares one fsync.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, RwLock},
    thread::JoinHandle,
};

use json_patch::Patch;
use tallylight_crds::{Broadcast, HOOKS_FINALIZER, MediaPool, RECORDING_FINALIZER, Recording};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{Error, Key, Recordings, Store};

mod change;
mod table;
use change::{Removal, annotate, assign, delete, patch_row, put, release};
use table::{Row, Table};

/// Requests that may wait for the writer; at 1 ms an fsync and 64 a transaction it is never full. Senders wait when it is.
const QUEUE: usize = 1024;
/// Requests that share one transaction, and so one fsync.
const BATCH: usize = 64;
/// Changes that a follower may lag behind; one that lags more reads everything again.
const FOLLOWERS: usize = 1024;

/// A Broadcast or a Recording changed.
#[derive(Debug, Clone)]
pub enum Change {
    Applied(Arc<Broadcast>),
    Deleted { key: Key, uid: String },
    Recorded(Arc<Recording>),
    RecordingDeleted(Arc<Recording>),
}

/// Broadcasts and Recordings in a SQLite file.
#[derive(Clone)]
pub struct SqliteStore {
    requests: mpsc::Sender<Request>,
    changes: broadcast::Sender<Change>,
    pools: Arc<RwLock<BTreeMap<Key, MediaPool>>>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl SqliteStore {
    /// Opens or makes the file. The caller sees to it that no other process has it open.
    ///
    /// # Errors
    /// When the file cannot be opened, is no Tallylight database, or was written by a newer version.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let table = Table::open(path)?;
        let (requests, inbox) = mpsc::channel(QUEUE);
        let (changes, _) = broadcast::channel(FOLLOWERS);
        let sender = changes.clone();
        let writer = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || write(table, inbox, &sender))
            .map_err(unavailable)?;
        let writer = Arc::new(Mutex::new(Some(writer)));
        Ok(Self { requests, changes, pools: Arc::default(), writer })
    }

    /// Follows all changes from now on. Read [`list`](Self::list) and [`recordings`](Self::recordings) after this call, and
    /// again when the receiver lags.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Reads all Broadcasts.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn list(&self) -> Result<Vec<Broadcast>, Error> {
        self.read(|table| table.list()).await
    }

    /// Reads all Recordings.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn recordings(&self) -> Result<Vec<Recording>, Error> {
        self.read(|table| table.list()).await
    }

    /// Makes a Broadcast, or gives an existing one a new spec, new labels and new annotations, as `kubectl apply` does: annotations
    /// that others wrote stay.
    ///
    /// # Errors
    /// [`Error::Invalid`] when an immutable field would change.
    pub async fn apply(&self, broadcast: &Broadcast) -> Result<Broadcast, Error> {
        let broadcast = broadcast.clone();
        self.write(move |table| put(table, &broadcast)).await
    }

    /// Replaces the MediaPools, which live in memory: flags and manifests say them anew at each start.
    pub fn set_pools(&self, pools: impl IntoIterator<Item = MediaPool>) {
        let keyed = pools.into_iter().map(|pool| {
            let namespace = pool.metadata.namespace.clone().unwrap_or_default();
            (Key { namespace, name: pool.metadata.name.clone().unwrap_or_default() }, pool)
        });
        *self.pools.write().unwrap_or_else(std::sync::PoisonError::into_inner) = keyed.collect();
    }

    /// Ends the writer after what was asked so far, and waits for it. Later calls are [`Error::Unavailable`].
    pub async fn close(&self) {
        let done = self.ask(|reply| Request::Close { reply }).await;
        debug_assert!(done.is_ok() || self.requests.is_closed(), "only a closed store does not close");
        let writer = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // It has answered and only drops its connection.
            let _ended = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_closed| closed())?;
        answer.await.map_err(|_dropped| closed())?
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Table) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.ask(|reply| Request::Work(Box::new(move |table| reply_to(reply, work(table), |_| None)))).await
    }

    async fn write<R: Row>(&self, work: impl FnOnce(&Table) -> Result<R, Error> + Send + 'static) -> Result<R, Error> {
        let told = |row: &R| Some(R::applied(Arc::new(row.clone())));
        self.ask(|reply| Request::Work(Box::new(move |table| reply_to(reply, work(table), told)))).await
    }

    async fn remove<R: Row>(
        &self,
        work: impl FnOnce(&Table) -> Result<Removal<R>, Error> + Send + 'static,
    ) -> Result<(), Error> {
        let told = |removal: &Removal<R>| removal.change();
        let request = |reply| Request::Work(Box::new(move |table: &Table| reply_to(reply, work(table), told)));
        self.ask(request).await.map(|_| ())
    }

    async fn matching(&self, wanted: impl Fn(&Recording) -> bool) -> Result<Vec<Recording>, Error> {
        Ok(self.recordings().await?.into_iter().filter(|recording| wanted(recording)).collect())
    }
}

impl Store for SqliteStore {
    async fn get(&self, key: &Key) -> Result<Option<Broadcast>, Error> {
        let key = key.clone();
        self.read(move |table| table.get(&key)).await
    }

    async fn create(&self, broadcast: &Broadcast) -> Result<Broadcast, Error> {
        let broadcast = broadcast.clone();
        self.write(move |table| table.create(broadcast)).await
    }

    async fn patch_status(&self, key: &Key, uid: &str, patch: &Patch) -> Result<Broadcast, Error> {
        let (key, uid, patch) = (key.clone(), uid.to_owned(), patch.clone());
        self.write(move |table| patch_row(table, &key, &uid, &patch)).await
    }

    async fn delete(&self, key: &Key, uid: &str) -> Result<(), Error> {
        let (key, uid) = (key.clone(), uid.to_owned());
        self.remove::<Broadcast>(move |table| delete(table, &key, &uid, None)).await
    }

    async fn delete_unchanged(&self, known: &Broadcast) -> Result<(), Error> {
        let (key, uid) = (Key::of(known), known.metadata.uid.clone().unwrap_or_default());
        let version = known.metadata.resource_version.clone();
        self.remove::<Broadcast>(move |table| delete(table, &key, &uid, version.as_deref())).await
    }

    async fn release(&self, known: &Broadcast) -> Result<(), Error> {
        let known = known.clone();
        self.remove(move |table| release(table, &known, HOOKS_FINALIZER)).await
    }

    async fn sessions_of(&self, namespace: &str, node: &str) -> Result<Vec<Broadcast>, Error> {
        let all = self.list().await?;
        let on_node = |b: &Broadcast| {
            b.metadata.namespace.as_deref() == Some(namespace)
                && b.status.as_ref().and_then(|s| s.session.node.as_deref()) == Some(node)
        };
        Ok(all.into_iter().filter(on_node).collect())
    }

    async fn pool(&self, namespace: &str, name: &str) -> Result<Option<MediaPool>, Error> {
        let key = Key { namespace: namespace.to_owned(), name: name.to_owned() };
        Ok(self.pools.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&key).cloned())
    }
}

impl Recordings for SqliteStore {
    async fn recording(&self, key: &Key) -> Result<Option<Recording>, Error> {
        let key = key.clone();
        self.read(move |table| table.get(&key)).await
    }

    async fn create_recording(&self, recording: &Recording) -> Result<Recording, Error> {
        let recording = recording.clone();
        self.write(move |table| table.create(recording)).await
    }

    async fn patch_recording(&self, key: &Key, uid: &str, patch: &Patch) -> Result<Recording, Error> {
        let (key, uid, patch) = (key.clone(), uid.to_owned(), patch.clone());
        self.write(move |table| patch_row(table, &key, &uid, &patch)).await
    }

    async fn assign_recording(&self, known: &Recording, node: &str) -> Result<Recording, Error> {
        let (known, node) = (known.clone(), node.to_owned());
        self.write(move |table| assign(table, &known, node)).await
    }

    async fn recordings_of_node(&self, namespace: &str, node: &str) -> Result<Vec<Recording>, Error> {
        self.matching(|r| r.metadata.namespace.as_deref() == Some(namespace) && r.spec.node == node).await
    }

    async fn recording_of_file(&self, namespace: &str, pool: &str, file: &str) -> Result<Option<Recording>, Error> {
        let is_it = |r: &Recording| {
            r.metadata.namespace.as_deref() == Some(namespace) && r.spec.pool == pool && r.spec.file_name == file
        };
        Ok(self.matching(is_it).await?.into_iter().next())
    }

    async fn recordings_of(&self, namespace: &str, broadcast: Option<&str>) -> Result<Vec<Recording>, Error> {
        let is_one = |r: &Recording| {
            r.metadata.namespace.as_deref() == Some(namespace)
                && broadcast.is_none_or(|name| r.spec.broadcast.name == name)
        };
        self.matching(is_one).await
    }

    async fn delete_recording(&self, key: &Key, uid: &str) -> Result<(), Error> {
        let (key, uid) = (key.clone(), uid.to_owned());
        self.remove::<Recording>(move |table| delete(table, &key, &uid, None)).await
    }

    async fn release_recording(&self, known: &Recording) -> Result<(), Error> {
        let mut known = known.clone();
        self.remove(move |table| {
            // Its status may have changed: the file is gone all the same.
            if let Some(row) = table.get::<Recording>(&Key::of_recording(&known))? {
                known.metadata.resource_version = row.metadata.resource_version;
            }
            release(table, &known, RECORDING_FINALIZER)
        })
        .await
    }

    async fn annotate(&self, known: &Broadcast, name: &str, value: Option<&str>) -> Result<Broadcast, Error> {
        let (key, uid) = (Key::of(known), known.metadata.uid.clone().unwrap_or_default());
        let (name, value) = (name.to_owned(), value.map(str::to_owned));
        self.write(move |table| annotate(table, &key, &uid, name, value)).await
    }
}

type Reply<T> = oneshot::Sender<Result<T, Error>>;

enum Request {
    Work(Box<dyn FnOnce(&Table) -> Settled + Send>),
    Close { reply: Reply<()> },
}

/// An answer that waits for the commit, and what followers get with it.
struct Settled {
    answer: Box<dyn FnOnce(Option<Error>) + Send>,
    change: Option<Change>,
}

fn write(mut table: Table, mut inbox: mpsc::Receiver<Request>, changes: &broadcast::Sender<Change>) {
    while let Some(first) = inbox.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = inbox.try_recv()
        {
            batch.push(next);
        }
        let closing = batch.iter().any(|r| matches!(r, Request::Close { .. }));
        let settled: Vec<Settled> = match table.begin() {
            Ok(()) => batch.into_iter().map(|request| settle(&table, request)).collect(),
            Err(error) => {
                tracing::error!(%error, "the ledger's database does not open a transaction");
                continue; // dropping the requests tells their senders
            }
        };
        let committed = table.commit();
        for Settled { answer, change } in settled {
            match &committed {
                Ok(()) => {
                    answer(None);
                    if let Some(change) = change {
                        // Without a follower nobody needs it.
                        let _followers = changes.send(change);
                    }
                }
                Err(error) => answer(Some(Error::Unavailable { source: error.to_string().into() })),
            }
        }
        if closing {
            return;
        }
    }
}

fn settle(table: &Table, request: Request) -> Settled {
    match request {
        Request::Work(work) => work(table),
        Request::Close { reply } => reply_to(reply, Ok(()), |()| None),
    }
}

fn reply_to<T: Send + 'static>(
    reply: Reply<T>,
    result: Result<T, Error>,
    change: impl FnOnce(&T) -> Option<Change>,
) -> Settled {
    let change = result.as_ref().ok().and_then(change);
    let answer = move |failed: Option<Error>| {
        // Whoever asked may have stopped waiting.
        let _gone = reply.send(failed.map_or(result, Err));
    };
    Settled { answer: Box::new(answer), change }
}

fn closed() -> Error {
    Error::Unavailable { source: "the store is closed".into() }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Unavailable { source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tallylight_crds::{BroadcastSpec, RECORD_ANNOTATION};

    use super::*;
    use crate::{Claim, Input, Owner, commit};

    fn open(dir: &tempfile::TempDir) -> SqliteStore {
        SqliteStore::open(&dir.path().join("ledger.db")).unwrap()
    }

    fn broadcast(name: &str) -> Broadcast {
        let mut new = Broadcast::new(name, BroadcastSpec { pool: "default".into(), ..BroadcastSpec::default() });
        new.metadata.namespace = Some("default".into());
        new
    }

    #[tokio::test]
    async fn it_passes_the_suite_of_all_stores() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        crate::conformance::run(&store, "default").await;
        store.close().await;
    }

    #[tokio::test]
    async fn what_was_answered_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let made = store.create(&broadcast("x")).await.unwrap();
        let claim = Claim {
            id: "c".into(),
            node: "n".into(),
            address: None,
            protocol: tallylight_crds::Protocol::Rtmp,
            time: jiff::Timestamp::UNIX_EPOCH,
        };
        commit(&store, &made, &Input::Claim(claim)).await.unwrap();
        store.close().await;
        assert!(store.list().await.is_err(), "a closed store does not answer");

        let again = open(&dir);
        let found = again.list().await.unwrap();
        assert_eq!(Owner::of(&found[0].status_or_default().session), Owner { ordinal: 1, epoch: 1 });
        again.close().await;
    }

    #[tokio::test]
    async fn followers_see_each_change_after_it_is_durable() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let mut changes = store.subscribe();
        let made = store.create(&broadcast("x")).await.unwrap();
        store.delete(&Key::of(&made), made.metadata.uid.as_deref().unwrap()).await.unwrap();
        let mut next = async || tokio::time::timeout(Duration::from_secs(5), changes.recv()).await.unwrap().unwrap();
        assert!(matches!(next().await, Change::Applied(b) if b.stream_id() == "x"));
        assert!(matches!(next().await, Change::Deleted { key, .. } if key.name == "x"));
        store.close().await;
    }

    #[tokio::test]
    async fn applying_a_manifest_again_changes_the_spec_and_keeps_the_status() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let made = store.apply(&broadcast("x")).await.unwrap();
        let mut named = broadcast("x");
        named.spec.name = Some("Title".into());
        let changed = store.apply(&named).await.unwrap();
        assert_eq!(changed.metadata.uid, made.metadata.uid);
        assert_eq!(changed.metadata.generation, Some(2));
        let annotated = |all: &[(&str, &str)]| {
            let mut annotated = named.clone();
            annotated.metadata.annotations = Some(all.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
            annotated
        };
        let asked = store.apply(&annotated(&[(RECORD_ANNOTATION, "true"), ("example.com/a", "1")])).await.unwrap();
        assert!(asked.is_asked_to_record());
        assert_eq!(asked.metadata.generation, Some(2), "the spec is the same");
        store.annotate(&asked, "example.com/theirs", Some("x")).await.unwrap();
        let less = store.apply(&annotated(&[("example.com/a", "2")])).await.unwrap();
        assert!(!less.is_asked_to_record(), "the manifest says it no more");
        let found = |name: &str| less.metadata.annotations.as_ref().and_then(|all| all.get(name)).map(String::as_str);
        assert_eq!((found("example.com/a"), found("example.com/theirs")), (Some("2"), Some("x")));
        store.annotate(&less, RECORD_ANNOTATION, Some("true")).await.unwrap();
        let kept = store.apply(&named).await.unwrap();
        assert!(kept.is_asked_to_record(), "somebody else has asked");
        named.spec.pool = "other".into();
        assert!(matches!(store.apply(&named).await, Err(Error::Invalid { message }) if message.contains("spec.pool")));
        store.close().await;
    }

    /// What 0.1.0 left behind.
    #[tokio::test]
    async fn a_database_of_the_first_version_opens_and_takes_recordings() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.db");
        let old = rusqlite::Connection::open(&path).unwrap();
        let row = serde_json::to_string(&broadcast("old")).unwrap();
        old.execute_batch(
            "CREATE TABLE broadcasts (
               namespace TEXT NOT NULL, name TEXT NOT NULL, object TEXT NOT NULL,
               PRIMARY KEY (namespace, name)) STRICT, WITHOUT ROWID;
             PRAGMA user_version = 1",
        )
        .unwrap();
        old.execute("INSERT INTO broadcasts VALUES ('default', 'old', ?1)", [row]).unwrap();
        drop(old);

        let store = open(&dir);

        assert_eq!(store.list().await.unwrap()[0].stream_id(), "old");
        assert!(store.recordings().await.unwrap().is_empty());
        store.close().await;
        let version: i64 =
            rusqlite::Connection::open(&path).unwrap().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, 2, "an older program must not open it");
    }
}
