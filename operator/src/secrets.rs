//! Reads single keys of Secrets by name: no list, no watch. Values are kept for a short time, so that a lane that retries
//! does not ask each time, and a changed Secret is in use within that time.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tallylight_crds::SecretKeyRef;

/// How long a value, or its absence, is believed.
const TTL: Duration = Duration::from_secs(30);
/// Values kept; when full, all are forgotten and read again as they are needed.
const MAX_ENTRIES: usize = 4096;

/// A value from a Secret. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretText(String);

impl SecretText {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why a value could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("the Secret, or the key in it, does not exist")]
    Absent,
    #[error("the operator may not read the Secret")]
    Forbidden,
    #[error("the API server does not answer")]
    Unavailable,
}

/// Reader with a short memory.
pub(crate) struct Secrets {
    client: Client,
    known: Mutex<HashMap<(String, SecretKeyRef), Known>>,
}

struct Known {
    read: Instant,
    value: Result<SecretText, Error>,
}

impl Secrets {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// The value, at most [`TTL`] old.
    pub(crate) async fn get(&self, namespace: &str, key: &SecretKeyRef) -> Result<SecretText, Error> {
        let place = (namespace.to_owned(), key.clone());
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&place)
            && known.read.elapsed() < TTL
        {
            return known.value.clone();
        }
        let value = self.read(namespace, key).await;
        if value != Err(Error::Unavailable) {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= MAX_ENTRIES {
                known.clear();
            }
            known.insert(place, Known { read: Instant::now(), value: value.clone() });
        }
        value
    }

    async fn read(&self, namespace: &str, key: &SecretKeyRef) -> Result<SecretText, Error> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let secret = match api.get_opt(&key.name).await {
            Ok(found) => found.ok_or(Error::Absent)?,
            Err(kube::Error::Api(status)) if status.is_forbidden() => return Err(Error::Forbidden),
            Err(_) => return Err(Error::Unavailable),
        };
        let bytes = secret.data.as_ref().and_then(|data| data.get(&key.key)).ok_or(Error::Absent)?;
        let text = String::from_utf8(bytes.0.clone()).map_err(|_binary| Error::Absent)?;
        Ok(SecretText(text.trim().to_owned()))
    }
}
