//! The store on a laptop or an edge box: one SQLite file, one writer thread.
//!
//! A row holds a Broadcast as it would be in a cluster, and a patch is applied to its JSON, so that both stores run the same
//! patches. WAL with `synchronous=FULL`: what was answered is on disk. The thread commits what has queued up meanwhile in
//! one transaction, so a burst of claims shares one fsync.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, RwLock},
    thread::JoinHandle,
};

use json_patch::{Patch, PatchErrorKind};
use tallylight_crds::{Broadcast, BroadcastSpec, MediaPool};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{Error, Key, Store};

mod table;
use table::Table;

/// Requests that may wait for the writer; at 1 ms an fsync and 64 a transaction it is never full. Senders wait when it is.
const QUEUE: usize = 1024;
/// Requests that share one transaction, and so one fsync.
const BATCH: usize = 64;
/// Changes that a follower may lag behind; one that lags more reads everything again.
const FOLLOWERS: usize = 1024;

/// A Broadcast changed.
#[derive(Debug, Clone)]
pub enum Change {
    Applied(Arc<Broadcast>),
    Deleted { key: Key, uid: String },
}

/// Broadcasts in a SQLite file.
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

    /// Follows all changes from now on. Read [`list`](Self::list) after this call, and again when the receiver lags.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Reads all Broadcasts.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn list(&self) -> Result<Vec<Broadcast>, Error> {
        self.ask(|reply| Request::List { reply }).await
    }

    /// Makes a Broadcast, or gives an existing one a new spec and new labels, as `kubectl apply` does.
    ///
    /// # Errors
    /// [`Error::Invalid`] when an immutable field would change.
    pub async fn apply(&self, broadcast: &Broadcast) -> Result<Broadcast, Error> {
        let broadcast = Box::new(broadcast.clone());
        self.ask(|reply| Request::Apply { broadcast, reply }).await
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
}

impl Store for SqliteStore {
    async fn get(&self, key: &Key) -> Result<Option<Broadcast>, Error> {
        let key = key.clone();
        self.ask(|reply| Request::Get { key, reply }).await
    }

    async fn create(&self, broadcast: &Broadcast) -> Result<Broadcast, Error> {
        let broadcast = Box::new(broadcast.clone());
        self.ask(|reply| Request::Create { broadcast, reply }).await
    }

    async fn patch_status(&self, key: &Key, uid: &str, patch: &Patch) -> Result<Broadcast, Error> {
        let (key, uid, patch) = (key.clone(), uid.to_owned(), patch.clone());
        self.ask(|reply| Request::Patch { key, uid, patch, reply }).await
    }

    async fn delete(&self, key: &Key, uid: &str) -> Result<(), Error> {
        let (key, uid) = (key.clone(), uid.to_owned());
        self.ask(|reply| Request::Delete { key, uid, version: None, reply }).await
    }

    async fn delete_unchanged(&self, known: &Broadcast) -> Result<(), Error> {
        let (key, uid) = (Key::of(known), known.metadata.uid.clone().unwrap_or_default());
        let version = known.metadata.resource_version.clone();
        self.ask(|reply| Request::Delete { key, uid, version, reply }).await
    }

    async fn release(&self, known: &Broadcast) -> Result<(), Error> {
        let known = Box::new(known.clone());
        self.ask(|reply| Request::Release { known, reply }).await
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

type Reply<T> = oneshot::Sender<Result<T, Error>>;

enum Request {
    Get {
        key: Key,
        reply: Reply<Option<Broadcast>>,
    },
    List {
        reply: Reply<Vec<Broadcast>>,
    },
    Create {
        broadcast: Box<Broadcast>,
        reply: Reply<Broadcast>,
    },
    Apply {
        broadcast: Box<Broadcast>,
        reply: Reply<Broadcast>,
    },
    Patch {
        key: Key,
        uid: String,
        patch: Patch,
        reply: Reply<Broadcast>,
    },
    /// With a version: only while the row has it.
    Delete {
        key: Key,
        uid: String,
        version: Option<String>,
        reply: Reply<()>,
    },
    Release {
        known: Box<Broadcast>,
        reply: Reply<()>,
    },
    Close {
        reply: Reply<()>,
    },
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
        Request::Get { key, reply } => reply_to(reply, table.get(&key), |_| None),
        Request::List { reply } => reply_to(reply, table.list(), |_| None),
        Request::Create { broadcast, reply } => reply_to(reply, table.create(&broadcast), applied),
        Request::Apply { broadcast, reply } => reply_to(reply, put(table, &broadcast), applied),
        Request::Patch { key, uid, patch, reply } => reply_to(reply, patch_row(table, &key, &uid, &patch), applied),
        Request::Delete { key, uid, version, reply } => {
            let result = delete(table, &key, &uid, version.as_deref());
            let change = result.as_ref().ok().cloned();
            reply_to(reply, result.map(|_| ()), |()| change)
        }
        Request::Release { known, reply } => {
            let result = release(table, &known);
            let change = result.as_ref().ok().cloned().flatten();
            reply_to(reply, result.map(|_| ()), |()| change)
        }
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

#[allow(clippy::unnecessary_wraps, reason = "the shape that reply_to takes")]
fn applied(broadcast: &Broadcast) -> Option<Change> {
    Some(Change::Applied(Arc::new(broadcast.clone())))
}

fn put(table: &Table, broadcast: &Broadcast) -> Result<Broadcast, Error> {
    let Some(mut row) = table.get(&Key::of(broadcast))? else {
        return table.create(broadcast);
    };
    immutable("spec.pool", &row.spec.pool, &broadcast.spec.pool)?;
    immutable("spec.streamID", &row.spec.stream_id, &broadcast.spec.stream_id)?;
    let same: bool = row.spec == broadcast.spec && row.metadata.labels == broadcast.metadata.labels;
    if same {
        return Ok(row);
    }
    if row.spec != broadcast.spec {
        row.metadata.generation = row.metadata.generation.map(|g| g + 1);
    }
    row.spec = BroadcastSpec::clone(&broadcast.spec);
    row.metadata.labels.clone_from(&broadcast.metadata.labels);
    table.update(row)
}

fn immutable<T: PartialEq>(field: &str, old: &T, new: &T) -> Result<(), Error> {
    if old == new { Ok(()) } else { Err(Error::Invalid { message: format!("{field} is immutable") }) }
}

fn patch_row(table: &Table, key: &Key, uid: &str, patch: &Patch) -> Result<Broadcast, Error> {
    let row = table.get(key)?.ok_or(Error::NotFound)?;
    if row.metadata.uid.as_deref() != Some(uid) {
        return Err(Error::Conflict);
    }
    let mut value = serde_json::to_value(&row).map_err(unavailable)?;
    if let Err(error) = json_patch::patch(&mut value, patch) {
        return Err(match error.kind {
            PatchErrorKind::TestFailed => Error::Conflict,
            _ => Error::Invalid { message: error.to_string() },
        });
    }
    let patched: Broadcast =
        serde_json::from_value(value).map_err(|error| Error::Invalid { message: error.to_string() })?;
    // Like a status subresource: nothing but the status changes.
    table.update(Broadcast { status: patched.status, ..row })
}

fn delete(table: &Table, key: &Key, uid: &str, version: Option<&str>) -> Result<Change, Error> {
    let mut row = table.get(key)?.ok_or(Error::NotFound)?;
    let changed = version.is_some() && row.metadata.resource_version.as_deref() != version;
    if row.metadata.uid.as_deref() != Some(uid) || changed {
        return Err(Error::Conflict);
    }
    if row.metadata.finalizers.iter().flatten().next().is_none() {
        table.remove(key)?;
        return Ok(Change::Deleted { key: key.clone(), uid: uid.to_owned() });
    }
    if row.metadata.deletion_timestamp.is_none() {
        row.metadata.deletion_timestamp = Some(table.now());
        row = table.update(row)?;
    }
    Ok(Change::Applied(Arc::new(row)))
}

fn release(table: &Table, known: &Broadcast) -> Result<Option<Change>, Error> {
    let key = Key::of(known);
    let Some(mut row) = table.get(&key)? else {
        return Ok(None);
    };
    if row.metadata.uid != known.metadata.uid {
        return Ok(None);
    }
    if row.metadata.resource_version != known.metadata.resource_version {
        return Err(Error::Conflict);
    }
    let finalizers = row.metadata.finalizers.get_or_insert_default();
    finalizers.retain(|f| f != tallylight_crds::HOOKS_FINALIZER);
    if finalizers.is_empty() && row.metadata.deletion_timestamp.is_some() {
        table.remove(&key)?;
        return Ok(Some(Change::Deleted { key, uid: row.metadata.uid.unwrap_or_default() }));
    }
    Ok(Some(Change::Applied(Arc::new(table.update(row)?))))
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
        named.spec.pool = "other".into();
        assert!(matches!(store.apply(&named).await, Err(Error::Invalid { message }) if message.contains("spec.pool")));
        store.close().await;
    }
}
