//! A SQLite store that a node can be cut off from.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use json_patch::Patch;
use ledger::{Error, Key, SqliteStore, Store};
use tallylight_crds::{Broadcast, MediaPool};
use tokio::sync::watch;

/// What becomes of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Weather {
    Fine,
    /// None arrives.
    Down,
}

/// A node's way to the store.
#[derive(Clone)]
pub(crate) struct Weathered {
    store: SqliteStore,
    weather: watch::Sender<Weather>,
    requests: Arc<AtomicUsize>,
}

impl Weathered {
    pub(crate) fn new(store: SqliteStore) -> Self {
        Self { store, weather: watch::Sender::new(Weather::Fine), requests: Arc::default() }
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Reads of Broadcasts so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    async fn pass<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let weather = *self.weather.borrow();
        match weather {
            Weather::Fine => request.await,
            Weather::Down => Err(Error::Unavailable { source: "weather".into() }),
        }
    }
}

impl Store for Weathered {
    async fn get(&self, key: &Key) -> Result<Option<Broadcast>, Error> {
        self.requests.fetch_add(1, Ordering::SeqCst);
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
    async fn delete_unchanged(&self, broadcast: &Broadcast) -> Result<(), Error> {
        self.pass(self.store.delete_unchanged(broadcast)).await
    }
    async fn release(&self, broadcast: &Broadcast) -> Result<(), Error> {
        self.pass(self.store.release(broadcast)).await
    }
    async fn sessions_of(&self, namespace: &str, node: &str) -> Result<Vec<Broadcast>, Error> {
        self.pass(self.store.sessions_of(namespace, node)).await
    }
    async fn pool(&self, namespace: &str, name: &str) -> Result<Option<MediaPool>, Error> {
        self.pass(self.store.pool(namespace, name)).await
    }
}
