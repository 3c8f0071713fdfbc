//! Checks a publisher's key against its verifier (an argon2id PHC string), and makes verifiers.

use std::sync::Arc;

use argon2::{
    Argon2,
    password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString},
};
use tokio::sync::Semaphore;

/// Checks at once. Each takes about 19 MiB and 20 ms of a core, so that a flood of wrong keys takes at most this much
/// from the media; more wait, and are refused with the admission's deadline.
const CONCURRENT_CHECKS: usize = 2;

/// The checks of a node. Clones share the bound.
#[derive(Debug, Clone)]
pub(crate) struct KeyChecks(Arc<Semaphore>);

impl Default for KeyChecks {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CONCURRENT_CHECKS)))
    }
}

impl KeyChecks {
    /// Whether the key is the verifier's. A verifier that cannot be read fits no key.
    pub(crate) async fn fits(&self, key: &str, verifier: &str) -> bool {
        let Ok(permit) = Arc::clone(&self.0).acquire_owned().await else {
            return false; // the semaphore is never closed
        };
        let (key, verifier) = (key.to_owned(), verifier.to_owned());
        let check = tokio::task::spawn_blocking(move || {
            let _held = permit;
            fits(&key, &verifier)
        });
        check.await.unwrap_or(false)
    }
}

/// Compares in constant time.
pub(crate) fn fits(key: &str, verifier: &str) -> bool {
    PasswordHash::new(verifier)
        .is_ok_and(|verifier| Argon2::default().verify_password(key.as_bytes(), &verifier).is_ok())
}

/// Makes a verifier with a salt of its own.
pub(crate) fn verifier(key: &str) -> Result<String, argon2::password_hash::Error> {
    let salt = SaltString::encode_b64(uuid::Uuid::new_v4().as_bytes())?;
    Argon2::default().hash_password(key.as_bytes(), &salt).map(|hash| hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_key_of_a_verifier_fits_it() {
        let verifier = verifier("hunter2").unwrap();
        let checks = KeyChecks::default();

        assert!(verifier.starts_with("$argon2id$") && verifier.len() <= 256, "{verifier}");
        assert!(checks.fits("hunter2", &verifier).await);
        assert!(!checks.fits("hunter3", &verifier).await);
        assert!(!checks.fits("hunter2", "no verifier").await);
    }
}
