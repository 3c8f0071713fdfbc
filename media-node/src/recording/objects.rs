//! The objects of recordings in the store: made when a file is begun, and told what becomes of it. While the store is away
//! the files go on, and it is told when it is back.

use std::{fmt, sync::Arc};

use futures::future::BoxFuture;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, TestOperation, jsonptr::PointerBuf};
use ledger::{Error, Key, Recordings, Store};
use serde_json::{Map, Value};
use tallylight_crds::{MediaPool, Recording, RecordingStatus};
use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{claim::Backoff, metrics::Metrics};

/// Writes at once: those of a node whose sessions all end together. More wait their turn.
const WRITES: usize = 32;
/// Refusals of one write before it is given up until the next start: about 20 s, in which an API server that has just started
/// forbids everything.
const REFUSALS: u32 = 8;
/// Members of a status that the node does not write.
const OTHERS: &str = "hook";

/// What a recorder needs of a store, whichever it is.
trait Calls: Send + Sync {
    fn pool(&self, namespace: String, name: String) -> BoxFuture<'_, Result<Option<MediaPool>, Error>>;
    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Recording>, Error>>;
    fn create(&self, recording: Recording) -> BoxFuture<'_, Result<Recording, Error>>;
    fn patch(&self, known: Recording, patch: Patch) -> BoxFuture<'_, Result<Recording, Error>>;
    fn of_broadcast(&self, namespace: String, name: String) -> BoxFuture<'_, Result<Vec<Recording>, Error>>;
    fn of_node(&self, namespace: String, node: String) -> BoxFuture<'_, Result<Vec<Recording>, Error>>;
    fn release(&self, known: Recording) -> BoxFuture<'_, Result<(), Error>>;
}

impl<S: Store + Recordings> Calls for S {
    fn pool(&self, namespace: String, name: String) -> BoxFuture<'_, Result<Option<MediaPool>, Error>> {
        Box::pin(async move { Store::pool(self, &namespace, &name).await })
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Recording>, Error>> {
        Box::pin(async move { self.recording(&key).await })
    }

    fn create(&self, recording: Recording) -> BoxFuture<'_, Result<Recording, Error>> {
        Box::pin(async move { self.create_recording(&recording).await })
    }

    fn patch(&self, known: Recording, patch: Patch) -> BoxFuture<'_, Result<Recording, Error>> {
        Box::pin(async move {
            let uid = known.metadata.uid.as_deref().unwrap_or_default();
            self.patch_recording(&Key::of_recording(&known), uid, &patch).await
        })
    }

    fn of_broadcast(&self, namespace: String, name: String) -> BoxFuture<'_, Result<Vec<Recording>, Error>> {
        Box::pin(async move { self.recordings_of(&namespace, Some(&name)).await })
    }

    fn of_node(&self, namespace: String, node: String) -> BoxFuture<'_, Result<Vec<Recording>, Error>> {
        Box::pin(async move { self.recordings_of_node(&namespace, &node).await })
    }

    fn release(&self, known: Recording) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { self.release_recording(&known).await })
    }
}

/// The store, as a recorder sees it. Clones share it.
#[derive(Clone)]
pub(super) struct Objects {
    calls: Arc<dyn Calls>,
    at_once: Arc<Semaphore>,
    metrics: Metrics,
    /// Cancelled when the node has no more time: what is not written then is written at the next start.
    end: CancellationToken,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").finish_non_exhaustive()
    }
}

/// How the telling of a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The store has its final status.
    All,
    /// Another node is responsible for it, or it is being deleted: its file is not to be touched by those who wrote it.
    NotOurs,
    /// The node ends, or the store refuses it for good.
    GivenUp,
}

impl Objects {
    pub(super) fn new<S: Store + Recordings>(store: S, metrics: Metrics, end: CancellationToken) -> Self {
        Self { calls: Arc::new(store), at_once: Arc::new(Semaphore::new(WRITES)), metrics, end }
    }

    /// Reads a pool, once.
    pub(super) async fn pool(&self, namespace: &str, name: &str) -> Result<Option<MediaPool>, Error> {
        self.calls.pool(namespace.to_owned(), name.to_owned()).await
    }

    /// Reads the recordings of a Broadcast, once.
    pub(super) async fn of_broadcast(&self, key: &Key) -> Result<Vec<Recording>, Error> {
        self.calls.of_broadcast(key.namespace.clone(), key.name.clone()).await
    }

    /// Reads a Recording until the store answers; `None` also when the node ends before.
    pub(super) async fn get(&self, key: &Key) -> Option<Recording> {
        self.until_answered("read a recording", key, || self.calls.get(key.clone())).await.ok().flatten()
    }

    /// Reads the Recordings that are this node's until the store answers.
    pub(super) async fn of_node(&self, namespace: &str, node: &str) -> Vec<Recording> {
        let key = Key { namespace: namespace.to_owned(), name: node.to_owned() };
        let read = || self.calls.of_node(key.namespace.clone(), key.name.clone());
        self.until_answered("read the recordings of this node", &key, read).await.unwrap_or_default()
    }

    /// Lets a Recording go whose file is deleted.
    pub(super) async fn release(&self, known: &Recording) -> bool {
        let key = Key::of_recording(known);
        match self.until_answered("release a recording", &key, || self.calls.release(known.clone())).await {
            Ok(()) => true,
            // whoever changed it has it seen again
            Err(_) => false,
        }
    }

    /// Makes the object of a recording, and writes each status that follows, the last one being final. Whoever gives none any
    /// more leaves the rest to the next start.
    pub(super) async fn tell(&self, recording: Recording, mut wanted: watch::Receiver<RecordingStatus>) -> Told {
        let key = Key::of_recording(&recording);
        let Some(mut known) = self.make(&key, &recording).await else { return Told::GivenUp };
        loop {
            let status = wanted.borrow_and_update().clone();
            while let Some(patch) = difference(&known, &status) {
                if known.spec.node != recording.spec.node || known.is_leaving() {
                    return Told::NotOurs;
                }
                match self
                    .until_answered("write a recording's status", &key, || {
                        self.calls.patch(known.clone(), patch.clone())
                    })
                    .await
                {
                    Ok(patched) => known = patched,
                    Err(Error::Conflict | Error::NotFound) => match self.make(&key, &recording).await {
                        Some(found) => known = found,
                        None => return Told::GivenUp,
                    },
                    Err(_) => return Told::GivenUp,
                }
            }
            if status.state.is_final() {
                return if known.is_leaving() { Told::NotOurs } else { Told::All };
            }
            let changed = tokio::select! {
                changed = wanted.changed() => changed.is_ok(),
                () = self.end.cancelled() => false,
            };
            if !changed {
                return Told::GivenUp;
            }
        }
    }

    /// The object as it is in the store, made if it is not there.
    async fn make(&self, key: &Key, recording: &Recording) -> Option<Recording> {
        loop {
            match self.until_answered("make a recording", key, || self.calls.create(recording.clone())).await {
                Ok(made) => {
                    info!(recording = %key, file = made.spec.file_name, "recording.made");
                    return Some(made);
                }
                Err(Error::AlreadyExists) => {}
                Err(_) => return None,
            }
            // none when it went just now: it is made anew
            match self.until_answered("read a recording", key, || self.calls.get(key.clone())).await {
                Ok(Some(found)) => return Some(found),
                Ok(None) => {}
                Err(_) => return None,
            }
        }
    }

    /// Asks until the store answers with what it did, or with what a caller must decide about.
    async fn until_answered<'a, T>(
        &self,
        attempt: &str,
        key: &Key,
        ask: impl Fn() -> BoxFuture<'a, Result<T, Error>>,
    ) -> Result<T, Error> {
        let (mut backoff, mut refusals) = (Backoff::for_ends(), 0);
        loop {
            let permit = self.at_once.acquire().await;
            let answer = match timeout(backoff.attempt(), ask()).await {
                Ok(answer) => answer,
                Err(elapsed) => Err(Error::Unavailable { source: elapsed.into() }),
            };
            drop(permit);
            let failure = match answer {
                Ok(done) => return Ok(done),
                Err(decides @ (Error::NotFound | Error::AlreadyExists | Error::Conflict)) => return Err(decides),
                Err(failure) => failure,
            };
            self.metrics.store_error();
            match &failure {
                Error::Invalid { .. } | Error::Forbidden { .. } => {
                    refusals += 1;
                    warn!(recording = %key, error = %failure, "the store refuses to {attempt}");
                }
                _ => debug!(recording = %key, error = %failure, "failed to {attempt}; it is tried again"),
            }
            if refusals == REFUSALS {
                error!(recording = %key, error = %failure, "the store refuses to {attempt}; the next start tries again");
                return Err(failure);
            }
            if self.end.run_until_cancelled(sleep(backoff.next())).await.is_none() {
                return Err(failure);
            }
        }
    }
}

/// The patch that makes the object's status what it should be, but for what others write; `None` when it is.
fn difference(known: &Recording, wanted: &RecordingStatus) -> Option<Patch> {
    let found = known.status_or_default();
    if found.state.is_final() {
        return None;
    }
    let (old, new) = (members(&found), members(wanted));
    let place = |member: &str| PointerBuf::from_tokens(["status", member]);
    let mut changes = Vec::new();
    for member in old.keys().filter(|member| !new.contains_key(*member) && *member != OTHERS) {
        changes.push(PatchOperation::Remove(RemoveOperation { path: place(member) }));
    }
    for (member, value) in new.into_iter().filter(|(member, value)| member != OTHERS && old.get(member) != Some(value))
    {
        changes.push(PatchOperation::Add(AddOperation { path: place(&member), value }));
    }
    if changes.is_empty() {
        return None;
    }
    // who is responsible is the fence between nodes
    let test = |path, value| PatchOperation::Test(TestOperation { path, value });
    let guards = [
        test(PointerBuf::from_tokens(["spec", "node"]), Value::from(known.spec.node.clone())),
        test(place("state"), Value::from(found.state.as_str())),
    ];
    Some(Patch(guards.into_iter().chain(changes).collect()))
}

fn members(status: &RecordingStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(members)) => members,
        Ok(_) | Err(_) => Map::new(), // a struct of plain data is an object
    }
}
