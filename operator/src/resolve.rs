//! Answers where an event goes, at the moment it is sent: the Broadcast's own URL, else its pool's default.

use std::sync::Arc;

use kube::{
    ResourceExt as _,
    runtime::reflector::{ObjectRef, Store},
};
use tallylight_crds::{Broadcast, MediaPool};
use webhook::{
    ResolveError, Resolver, Settings,
    settings::{UrlSource, url_source},
};

use crate::secrets::{Error, SecretText, Secrets};

/// All MediaPools, as the watches saw them last: one cache a watched namespace, or one for all.
#[derive(Clone)]
pub(crate) struct Pools(Arc<Vec<Store<MediaPool>>>);

impl Pools {
    pub(crate) fn new(caches: Vec<Store<MediaPool>>) -> Self {
        Self(Arc::new(caches))
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<MediaPool>> {
        let place = ObjectRef::new(name).within(namespace);
        self.0.iter().find_map(|cache| cache.get(&place))
    }

    /// The pool of an application; of several, the first by namespace and name.
    pub(crate) fn of_app(&self, app: &str) -> Option<Arc<MediaPool>> {
        let all = self.0.iter().flat_map(Store::state);
        let place = |pool: &Arc<MediaPool>| (pool.namespace(), pool.name_any());
        all.filter(|pool| pool.spec.app == app).min_by_key(place)
    }
}

/// Resolves a Broadcast's endpoint.
pub(crate) struct Resolve {
    pub(crate) pools: Pools,
    pub(crate) secrets: Arc<Secrets>,
}

impl Resolver for Resolve {
    async fn settings(&self, broadcast: &Broadcast) -> Result<Settings, ResolveError> {
        let namespace = broadcast.namespace().unwrap_or_default();
        let pool = self.pools.get(&namespace, &broadcast.spec.pool).ok_or(ResolveError::PoolMissing)?;
        let secret = match url_source(broadcast, &pool.spec) {
            Some(UrlSource::Secret(key)) => Some(self.secrets.get(&namespace, key).await.map_err(unreadable)?),
            Some(UrlSource::Spec(_)) | None => None,
        };
        Settings::of(broadcast, &pool.spec, secret.as_ref().map(SecretText::expose))
    }
}

fn unreadable(error: Error) -> ResolveError {
    match error {
        // A right that is missing looks like a Secret that is missing: `kubectl auth can-i` tells them apart.
        Error::Absent | Error::Forbidden => ResolveError::SecretMissing,
        Error::Unavailable => ResolveError::Unavailable,
    }
}
