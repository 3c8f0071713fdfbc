//! Keeps `status.publish.keyVerifier` in step with the Secret that holds the stream key, so that media pods can check a
//! publisher without the right to read Secrets.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, PoisonError},
};

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher as _, PasswordVerifier as _, Version,
    password_hash::{SaltString, rand_core::OsRng},
};
use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use kube::ResourceExt as _;
use ledger::{Key, Store as _};
use serde_json::json;
use tallylight_crds::{Broadcast, PublishStatus};
use tokio::sync::Semaphore;

use super::{Context, Error, observe::StreamKey};
use crate::secrets;

/// OWASP's second choice for argon2id halves memory and keeps a guess dear: 12 MiB, 3 passes, about 15 ms.
const MEMORY_KIB: u32 = 12 * 1024;
const PASSES: u32 = 3;
/// Verifiers that are made or checked at once: each takes a core and [`MEMORY_KIB`].
const AT_ONCE: usize = 2;

/// Which verifiers are known to be of which keys, so that looking at a Secret again costs next to nothing.
pub(crate) struct Verified {
    /// Of each Broadcast, by UID: a hash of the verifier and the key that it was checked with.
    known: Mutex<HashMap<String, u64>>,
    /// Drawn at the start of the process: the hashes tell nobody anything.
    hasher: RandomState,
    room: Semaphore,
}

impl Default for Verified {
    fn default() -> Self {
        Self { known: Mutex::default(), hasher: RandomState::new(), room: Semaphore::new(AT_ONCE) }
    }
}

impl Verified {
    /// The Broadcast is gone.
    pub(super) fn forget(&self, uid: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    fn holds(&self, uid: &str, verifier: &str, key: &str) -> bool {
        let hash = self.hasher.hash_one((verifier, key));
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(uid) == Some(&hash)
    }

    fn note(&self, uid: &str, verifier: &str, key: &str) {
        let hash = self.hasher.hash_one((verifier, key));
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), hash);
    }
}

/// Brings the verifier up to date, and says whether there is one.
pub(super) async fn sync(broadcast: &Broadcast, context: &Context) -> Result<StreamKey, Error> {
    let wanted = broadcast.spec.publish.as_ref().and_then(|publish| publish.stream_key_secret_ref.as_ref());
    let Some(wanted) = wanted else { return Ok(StreamKey::NotAsked) };
    let namespace = broadcast.namespace().unwrap_or_default();
    let secret = match context.secrets.get(&namespace, wanted).await {
        Ok(secret) => secret,
        Err(secrets::Error::Absent) => return Ok(StreamKey::Absent),
        Err(secrets::Error::Forbidden) => return Ok(StreamKey::Forbidden),
        Err(source) => return Err(Error::ReadKey { source }),
    };
    let known = broadcast.status.as_ref().and_then(|s| s.publish.as_ref()).and_then(|p| p.key_verifier.clone());
    let (uid, verified) = (broadcast.uid().unwrap_or_default(), &context.verified);
    if known.as_deref().is_some_and(|known| verified.holds(&uid, known, secret.expose())) {
        return Ok(StreamKey::Known);
    }
    let Ok(_place) = verified.room.acquire().await else { return Ok(StreamKey::Known) }; // it is never closed
    let key = secret.clone();
    let checked = tokio::task::spawn_blocking(move || match known {
        Some(known) if verifies(&known, key.expose()) => Some(Checked::Good(known)),
        _ => verifier(key.expose()).map(Checked::New),
    });
    match checked.await {
        Ok(Some(Checked::Good(verifier))) => verified.note(&uid, &verifier, secret.expose()),
        Ok(Some(Checked::New(verifier))) => {
            write(broadcast, verifier.clone(), context).await?;
            verified.note(&uid, &verifier, secret.expose());
        }
        Ok(None) | Err(_) => {}
    }
    Ok(StreamKey::Known)
}

/// The verifier of a key.
enum Checked {
    /// The one that the status has.
    Good(String),
    New(String),
}

async fn write(broadcast: &Broadcast, verifier: String, context: &Context) -> Result<(), Error> {
    let publish = PublishStatus { key_verifier: Some(verifier) };
    let path = PointerBuf::from_tokens(["status", "publish"]);
    let patch = Patch(vec![PatchOperation::Add(AddOperation { path, value: json!(publish) })]);
    let uid = broadcast.uid().unwrap_or_default();
    match context.store.patch_status(&Key::of(broadcast), &uid, &patch).await {
        Ok(_) | Err(ledger::Error::NotFound) => Ok(()),
        Err(source) => Err(Error::WriteVerifier { source }),
    }
}

fn verifier(key: &str) -> Option<String> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).ok()?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let salt = SaltString::generate(&mut OsRng);
    let hash = argon2.hash_password(key.as_bytes(), &salt).ok()?;
    Some(hash.to_string())
}

fn verifies(verifier: &str, key: &str) -> bool {
    let Ok(hash) = PasswordHash::new(verifier) else { return false };
    Argon2::default().verify_password(key.as_bytes(), &hash).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_checked_again_when_it_or_its_verifier_changes() {
        let verified = Verified::default();
        verified.note("u", "v1", "k1");

        assert!(verified.holds("u", "v1", "k1"));
        assert!(
            !verified.holds("u", "v2", "k1") && !verified.holds("u", "v1", "k2") && !verified.holds("w", "v1", "k1")
        );
        verified.forget("u");
        assert!(!verified.holds("u", "v1", "k1"));
    }

    #[test]
    fn a_verifier_knows_its_key_and_no_other_and_fits_the_schema() {
        let made = verifier("s3cret").unwrap();
        assert!(made.len() <= 256 && !made.contains("s3cret"), "{made}");
        assert!(verifies(&made, "s3cret"));
        assert!(!verifies(&made, "s3cret ") && !verifies("garbage", "s3cret"));
    }
}
