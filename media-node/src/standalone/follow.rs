//! Follows the ledger: tells publishers what others do to their sessions, hands events to the dispatcher, and brings
//! Broadcasts that are deleted or done to their end. It is to a standalone server what the operator is to a cluster.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use ledger::{
    Change, Error, Input, Key, SqliteStore, Store,
    disposal::{self, Disposal},
};
use tallylight_crds::{Broadcast, Reason};
use tokio::{sync::broadcast::error::RecvError, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use webhook::Dispatcher;

use super::catalog::Catalog;
use crate::claim::Claims;

/// Pause before a ledger that could not be read is read again.
const RETRY: Duration = Duration::from_secs(1);

/// Follows the ledger.
pub(super) struct Follower {
    store: SqliteStore,
    claims: Claims<SqliteStore>,
    dispatcher: Dispatcher<SqliteStore, Catalog>,
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
    ) -> Self {
        Self { store, claims, dispatcher }
    }

    /// Runs until cancelled.
    pub(super) async fn run(self, until: CancellationToken) {
        // its end may cut a step short: the next start takes it again
        let _cancelled = until.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&self) {
        loop {
            let mut changes = self.store.subscribe();
            match self.store.list().await {
                Ok(all) => {
                    for broadcast in all {
                        self.applied(&Arc::new(broadcast)).await;
                    }
                }
                Err(error) => {
                    warn!(%error, "failed to read the ledger");
                    sleep(RETRY).await;
                    continue;
                }
            }
            loop {
                match changes.recv().await {
                    Ok(Change::Applied(broadcast)) => self.applied(&broadcast).await,
                    Ok(Change::Deleted { key, uid }) => {
                        self.claims.observe_gone(&key);
                        self.dispatcher.forget(&uid);
                    }
                    // more happened than the channel holds: read everything
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }

    async fn applied(&self, broadcast: &Arc<Broadcast>) {
        self.claims.observe(broadcast);
        self.dispatcher.observe(broadcast);
        let key = Key::of(broadcast);
        if let Err(error) = self.dispose(&key, broadcast).await {
            warn!(broadcast = %key, error = &error as &dyn std::error::Error, "failed to dispose of a Broadcast; the next change of it, or the next start, tries again");
        }
    }

    async fn dispose(&self, key: &Key, broadcast: &Broadcast) -> Result<(), Error> {
        let uid = broadcast.metadata.uid.as_deref().unwrap_or_default();
        match disposal::next(broadcast) {
            Disposal::None => Ok(()),
            Disposal::End(owner) => {
                let input = Input::Close { owner, reason: Reason::Stopped, time: Timestamp::now() };
                let committed = ledger::commit(&self.store, broadcast, &input).await?;
                debug!(broadcast = %key, ?committed, "session of a deleted Broadcast ended");
                Ok(())
            }
            Disposal::Release => self.store.release(key, uid).await,
            Disposal::Delete => match self.store.delete(key, uid).await {
                Ok(()) | Err(Error::NotFound | Error::Conflict) => Ok(()),
                Err(error) => Err(error),
            },
        }
    }
}
