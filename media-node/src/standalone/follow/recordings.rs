//! Tells of recordings that are done, and deletes those whose time is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use ledger::{Error, Key, Recordings, SqliteStore, Store, duty, expiry};
use tallylight_crds::{Broadcast, Recording};
use tokio::{sync::Semaphore, task::JoinSet, time::sleep_until};
use tracing::{info, warn};
use webhook::{Told, tell};

/// Longest sleep before a recording's time is looked at again: a wall clock that was set is noticed within this.
const NAP: Duration = Duration::from_secs(60);

/// Tells of recordings in the ledgers of their Broadcasts.
#[derive(Clone)]
pub(super) struct Teller {
    store: SqliteStore,
    at_once: Arc<Semaphore>,
    /// Broadcasts whose ledger had no room.
    full: Arc<Mutex<BTreeSet<Key>>>,
}

impl Teller {
    pub(super) fn new(store: SqliteStore, at_once: Arc<Semaphore>) -> Self {
        Self { store, at_once, full: Arc::default() }
    }

    /// A recording is as it is now.
    pub(super) fn recorded(&self, recording: &Arc<Recording>, tasks: &mut JoinSet<()>, kept: &mut Kept) {
        kept.see(recording);
        if duty(recording, |_| true) != ledger::Duty::None {
            let (teller, recording) = (self.clone(), Arc::clone(recording));
            tasks.spawn(async move { teller.tell(&recording).await });
        }
    }

    /// A Broadcast has changed: perhaps its receiver has taken an event.
    pub(super) fn has_room(&self, broadcast: &Broadcast, tasks: &mut JoinSet<()>) {
        let key = Key::of(broadcast);
        if self.full.lock().unwrap_or_else(PoisonError::into_inner).remove(&key) {
            let teller = self.clone();
            tasks.spawn(async move {
                match teller.store.recordings_of(&key.namespace, Some(&key.name)).await {
                    Ok(recordings) => {
                        for recording in recordings {
                            teller.tell(&recording).await;
                        }
                    }
                    Err(error) => warn!(broadcast = %key, %error, "failed to read recordings"),
                }
            });
        }
    }

    /// A recording's time is over: whoever keeps its file deletes it.
    pub(super) fn expire(&self, key: Key, tasks: &mut JoinSet<()>) {
        let teller = self.clone();
        tasks.spawn(async move {
            let Ok(_permit) = teller.at_once.acquire().await else { return }; // it is never closed
            match teller.delete_expired(&key).await {
                Ok(()) => {}
                Err(error) => warn!(recording = %key, %error, "failed to delete a recording whose time is over"),
            }
        });
    }

    async fn delete_expired(&self, key: &Key) -> Result<(), Error> {
        let Some(recording) = self.store.recording(key).await? else { return Ok(()) };
        if expiry(&recording).is_none_or(|end| end > Timestamp::now()) {
            return Ok(());
        }
        info!(recording = %key, "recording.expired");
        match self.store.delete_recording(key, recording.metadata.uid.as_deref().unwrap_or_default()).await {
            Ok(()) | Err(Error::NotFound | Error::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn tell(&self, recording: &Recording) {
        let Ok(_permit) = self.at_once.acquire().await else { return }; // it is never closed
        let key = Key::of_recording(recording);
        match self.try_to_tell(recording).await {
            Ok(Told::Nothing | Told::Done) => {}
            Ok(Told::LedgerFull) => {
                self.full.lock().unwrap_or_else(PoisonError::into_inner).insert(Key::of_recorded(recording));
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(recording = %key, error, "failed to tell of a recording; its next change, or the next start, tries again");
            }
        }
    }

    async fn try_to_tell(&self, recording: &Recording) -> Result<Told, Error> {
        let found = self.store.get(&Key::of_recorded(recording)).await?;
        let broadcast = found.filter(|found| found.metadata.uid.as_ref() == Some(&recording.spec.broadcast.uid));
        let namespace = recording.metadata.namespace.as_deref().unwrap_or_default();
        let pool = self.store.pool(namespace, &recording.spec.pool).await?;
        let pool = pool.as_ref().map(|pool| &pool.spec);
        let sends = |action| broadcast.as_ref().is_some_and(|broadcast| broadcast.sends(pool, action));
        tell(&self.store, broadcast.as_ref(), recording, sends, Timestamp::now()).await
    }
}

/// Recordings that are kept for a time, and until when.
#[derive(Default)]
pub(super) struct Kept(BTreeMap<Key, Timestamp>);

impl Kept {
    fn see(&mut self, recording: &Recording) {
        let key = Key::of_recording(recording);
        match expiry(recording) {
            Some(end) => self.0.insert(key, end),
            None => self.0.remove(&key),
        };
    }

    pub(super) fn forget(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// Waits until a recording's time is over, and says whose.
    pub(super) async fn expired(&mut self) -> Key {
        loop {
            let Some((end, key)) = self.0.iter().map(|(key, end)| (*end, key)).min() else {
                return std::future::pending().await;
            };
            let left = Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default();
            if left.is_zero() {
                let key = key.clone();
                self.forget(&key);
                return key;
            }
            sleep_until((Instant::now() + left.min(NAP)).into()).await;
        }
    }
}
