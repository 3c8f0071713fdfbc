//! Decides whether a publisher may publish, before any event: application, id, key, and that nobody else is live.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use ledger::{Error, Key, Store};
use tallylight_crds::{
    Admission as PoolAdmission, Broadcast, BroadcastSpec, EPHEMERAL_LABEL, HOOKS_FINALIZER, SessionState, StreamId,
};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::{
    claim::Claims,
    hub::{Hub, Name, Place},
    metrics::{Metrics, RefusalReason},
    packager::discontinuities_before,
    stream_key::KeyChecks,
};

/// Longest time from a publish command to its answer.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Admissions that ask the store at once. More wait; a flood of them costs the store no more than this.
const CONCURRENT: usize = 64;

/// Pause before a store that did not answer is asked again.
const RETRY: Duration = Duration::from_millis(250);

/// Which application is which pool's. Clones share the table.
#[derive(Debug, Clone, Default)]
pub struct Apps(Arc<RwLock<BTreeMap<String, String>>>);

impl Apps {
    /// Replaces the table: application to pool.
    pub fn set(&self, apps: BTreeMap<String, String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = apps;
    }

    /// The pool of an application.
    #[must_use]
    pub fn pool(&self, app: &str) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(app).cloned()
    }
}

/// What a publisher asks for, whatever its protocol.
#[derive(Debug)]
pub struct Request<'a> {
    pub app: &'a str,
    pub id: &'a str,
    pub key: Option<&'a str>,
}

/// A publisher that may send.
#[derive(Debug)]
pub struct Admitted {
    pub broadcast: Broadcast,
    pub place: Place,
}

/// The admission of a node. Clones share it.
#[derive(Debug)]
pub struct Admission<S> {
    store: S,
    namespace: String,
    apps: Apps,
    hub: Hub,
    claims: Claims<S>,
    keys: KeyChecks,
    concurrent: Arc<Semaphore>,
    metrics: Metrics,
}

impl<S: Store> Clone for Admission<S> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            namespace: self.namespace.clone(),
            apps: self.apps.clone(),
            hub: self.hub.clone(),
            claims: self.claims.clone(),
            keys: self.keys.clone(),
            concurrent: Arc::clone(&self.concurrent),
            metrics: self.metrics.clone(),
        }
    }
}

impl<S: Store> Admission<S> {
    /// Makes the admission of a node in `namespace`.
    #[must_use]
    pub fn new(store: S, namespace: String, apps: Apps, hub: Hub, claims: Claims<S>, metrics: Metrics) -> Self {
        let concurrent = Arc::new(Semaphore::new(CONCURRENT));
        Self { store, namespace, apps, hub, claims, keys: KeyChecks::default(), concurrent, metrics }
    }

    /// Which applications there are.
    #[must_use]
    pub fn apps(&self) -> &Apps {
        &self.apps
    }

    /// Decides within [`DEADLINE`].
    ///
    /// # Errors
    /// The reason for which the publisher is refused.
    pub async fn admit(&self, request: Request<'_>) -> Result<Admitted, RefusalReason> {
        timeout(DEADLINE, self.decide(request)).await.unwrap_or(Err(RefusalReason::StoreUnavailable))
    }

    async fn decide(&self, request: Request<'_>) -> Result<Admitted, RefusalReason> {
        let pool = self.apps.pool(request.app).ok_or(RefusalReason::UnknownApp)?;
        let id = StreamId::parse(request.id).map_err(|_invalid| RefusalReason::UnknownStream)?;
        let broadcast = self.find(&pool, &id).await?;
        self.check_key(&broadcast, request.key).await?;
        let session = broadcast.status_or_default().session;
        if session.state == SessionState::Open && session.away.is_none() {
            // should it be this node's and nobody's, it is ended now
            self.claims.observe(&broadcast);
            return Err(RefusalReason::AlreadyLive);
        }
        let name = Name { app: request.app.to_owned(), id };
        let place = self.hub.publish(name, discontinuities_before(session.epoch));
        let place = place.ok_or(RefusalReason::AlreadyLive)?;
        Ok(Admitted { broadcast, place })
    }

    /// Finds the Broadcast of an admitted publisher anew, because the one that it was admitted to is gone: the last event of
    /// an ephemeral Broadcast may be delivered, and it deleted, while the next publisher is on its way.
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub async fn find_anew(&self, name: &Name) -> Result<Broadcast, RefusalReason> {
        let pool = self.apps.pool(&name.app).ok_or(RefusalReason::UnknownApp)?;
        self.find(&pool, &name.id).await
    }

    /// The pool's Broadcast with that id, made now if the pool is open to any.
    async fn find(&self, pool: &str, id: &StreamId) -> Result<Broadcast, RefusalReason> {
        let key = Key::of_stream(&self.namespace, id);
        self.claims.settled(&key).await;
        let Ok(_permit) = self.concurrent.acquire().await else {
            return Err(RefusalReason::ShuttingDown); // the semaphore is never closed
        };
        loop {
            match self.find_once(pool, id, &key).await {
                Ok(Found::Yes(broadcast)) => return Ok(*broadcast),
                Ok(Found::No) => return Err(RefusalReason::UnknownStream),
                Ok(Found::Leaving) => sleep(RETRY).await,
                // an API server that has just started forbids what it will allow in a second
                Err(error @ (Error::Unavailable { .. } | Error::Forbidden { .. })) => {
                    self.metrics.store_error();
                    if matches!(error, Error::Forbidden { .. }) {
                        warn!(broadcast = %key, %error, "the store refuses an admission; it is tried again");
                    } else {
                        debug!(broadcast = %key, %error, "the store does not answer an admission");
                    }
                    sleep(RETRY).await;
                }
                Err(error) => {
                    warn!(broadcast = %key, %error, "the store refuses an admission");
                    return Err(RefusalReason::StoreUnavailable);
                }
            }
        }
    }

    async fn find_once(&self, pool: &str, id: &StreamId, key: &Key) -> Result<Found, Error> {
        if let Some(found) = self.store.get(key).await? {
            return Ok(Found::of(found, pool, id));
        }
        let open =
            self.store.pool(&self.namespace, pool).await?.is_some_and(|p| p.spec.admission == PoolAdmission::Open);
        if !open {
            return Ok(Found::No);
        }
        match self.store.create(&ephemeral(&self.namespace, pool, id)).await {
            Ok(created) => Ok(Found::Yes(Box::new(created))),
            Err(Error::AlreadyExists) => {
                let found = self.store.get(key).await?;
                Ok(found.map_or(Found::Leaving, |found| Found::of(found, pool, id)))
            }
            Err(error) => Err(error),
        }
    }

    async fn check_key(&self, broadcast: &Broadcast, key: Option<&str>) -> Result<(), RefusalReason> {
        if broadcast.spec.publish.as_ref().is_none_or(|publish| publish.stream_key_secret_ref.is_none()) {
            return Ok(());
        }
        let verifier = broadcast.status.as_ref().and_then(|s| s.publish.as_ref()?.key_verifier.as_deref());
        let verifier = verifier.ok_or(RefusalReason::KeyNotReady)?;
        let key = key.ok_or(RefusalReason::WrongKey)?;
        if self.keys.fits(key, verifier).await { Ok(()) } else { Err(RefusalReason::WrongKey) }
    }
}

/// What a look for a Broadcast found.
enum Found {
    Yes(Box<Broadcast>),
    No,
    /// An ephemeral one that is about to go: then the id is free again.
    Leaving,
}

impl Found {
    fn of(broadcast: Broadcast, pool: &str, id: &StreamId) -> Self {
        let is_it = broadcast.carries(id) && broadcast.spec.pool == pool;
        let leaves = broadcast.metadata.deletion_timestamp.is_some();
        match (is_it, leaves) {
            (true, false) => Self::Yes(Box::new(broadcast)),
            (true, true) if broadcast.is_ephemeral() => Self::Leaving,
            (true, true) | (false, _) => Self::No,
        }
    }
}

/// The Broadcast of an id that nobody registered.
fn ephemeral(namespace: &str, pool: &str, id: &StreamId) -> Broadcast {
    let name = tallylight_crds::object_name(id);
    let stream_id = (name != id.as_str()).then(|| id.as_str().to_owned());
    let mut broadcast =
        Broadcast::new(&name, BroadcastSpec { pool: pool.to_owned(), stream_id, ..BroadcastSpec::default() });
    broadcast.metadata.namespace = Some(namespace.to_owned());
    broadcast.metadata.labels = Some(BTreeMap::from([(EPHEMERAL_LABEL.to_owned(), "true".to_owned())]));
    broadcast.metadata.finalizers = Some(vec![HOOKS_FINALIZER.to_owned()]);
    broadcast
}
