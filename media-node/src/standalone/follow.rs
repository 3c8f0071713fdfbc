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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::registry::Registry;
    use tallylight_crds::{
        Admission, BroadcastSpec, EPHEMERAL_LABEL, HOOKS_FINALIZER, MediaPool, MediaPoolSpec, Protocol,
    };
    use tempfile::TempDir;
    use tokio::{sync::mpsc, time::timeout};

    use super::*;
    use crate::{
        admission::Apps,
        claim::{Control, Identity, OnAir},
        metrics::Metrics,
        standalone::NAMESPACE,
    };

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
            let identity = Identity { namespace: NAMESPACE.into(), node: "node".into(), address: None };
            let metrics = Metrics::new(&mut registry);
            let (claims, _) = Claims::open(store.clone(), identity, folder.path(), metrics).unwrap();
            let spec = MediaPoolSpec { app: "LiveApp".into(), admission: Admission::Open, ..Default::default() };
            let mut pool = MediaPool::new("default", spec);
            pool.metadata.namespace = Some(NAMESPACE.into());
            let catalog = Catalog::new(store.clone(), Apps::default(), pool);
            let client = webhook::http::Client::new(&[]).unwrap();
            let dispatcher =
                Dispatcher::new(store.clone(), catalog, client, webhook::Options::default(), &mut registry);
            let follower = Follower::new(store.clone(), claims.clone(), dispatcher);
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
            let mut changes = self.store.subscribe();
            let wait = async { while !matches!(changes.recv().await, Ok(Change::Deleted { .. })) {} };
            tokio::select! {
                gone = timeout(Duration::from_secs(20), wait) => gone.expect("the Broadcast goes within 20 s"),
                () = self.follower.follow() => panic!("the follower ended"),
            }
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
    async fn a_broadcast_that_is_deleted_on_air_is_stopped_and_then_goes() {
        let mut rig = Rig::new();
        let session = rig.on_air(false).await;
        let broadcast = session.broadcast();
        rig.store.delete(&Key::of(broadcast), broadcast.metadata.uid.as_deref().unwrap()).await.unwrap();

        rig.gone().await;

        assert_eq!(rig.control.1.try_recv(), Ok(Control::Stopped));
    }
}
