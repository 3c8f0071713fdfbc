//! Who may have what of another node: a statement of who asks, signed with the pool's key, and good for a minute.

use std::{fmt, fs, path::Path};

use anyhow::{Context, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use ledger::Owner;
use ring::hmac;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// How long a token is good, in seconds. It is made for one request; a minute is what clocks of nodes may differ by.
pub const LIFETIME_SECONDS: i64 = 60;

/// Least length of a key, in bytes: what HMAC-SHA256 has of strength (RFC 2104 §3).
const MIN_KEY: usize = 32;
/// Longest token that is looked at: two names of 253 bytes and the rest, in base64.
const MAX_TOKEN: usize = 2_048;

/// The key that all nodes of a pool share.
pub struct PoolKey(hmac::Key);

impl fmt::Debug for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a token allows: one node to pull one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// UID of the Broadcast.
    pub uid: String,
    pub session: Owner,
    /// Name of the node that pulls.
    pub node: String,
    /// Until when, in seconds since 1970.
    pub expires: i64,
}

/// What a token allows: one node to read one file of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loan {
    /// Name of the storage, and path of the file in it.
    pub storage: String,
    pub path: String,
    /// Name of the node that has it.
    pub owner: String,
    /// Name of the node that reads.
    pub node: String,
    /// Until when, in seconds since 1970.
    pub expires: i64,
}

/// What a token allows: one node to pass on what a client asks of one session of WebRTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errand {
    /// The address of the session.
    pub path: String,
    /// Name of the node that passes it on.
    pub node: String,
    /// Until when, in seconds since 1970.
    pub expires: i64,
}

/// What a token may say.
pub trait Statement: Serialize + DeserializeOwned {
    /// First part of its tokens: one for each kind, so that none is taken for another, and another one for another form. No dots.
    const FORM: &'static str;

    /// Until when it holds, in seconds since 1970.
    fn expires(&self) -> i64;
}

impl Statement for Grant {
    const FORM: &'static str = "1";

    fn expires(&self) -> i64 {
        self.expires
    }
}

impl Statement for Loan {
    const FORM: &'static str = "recording-1";

    fn expires(&self) -> i64 {
        self.expires
    }
}

impl Statement for Errand {
    const FORM: &'static str = "session-1";

    fn expires(&self) -> i64 {
        self.expires
    }
}

/// Why a token is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("no token of this pool")]
    Forged,
    #[error("the token has expired; the nodes' clocks may differ")]
    Expired,
}

impl PoolKey {
    /// Takes the bytes of a key.
    ///
    /// # Errors
    /// When there are fewer than 32.
    pub fn new(bytes: &[u8]) -> anyhow::Result<Self> {
        ensure!(bytes.len() >= MIN_KEY, "a relay key has at least {MIN_KEY} bytes, and this one {}", bytes.len());
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// Reads the key that a file holds, all of its bytes.
    ///
    /// # Errors
    /// When it cannot be read or is too short.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let key = fs::read(file).map_err(Into::into).and_then(|bytes| Self::new(&bytes));
        key.with_context(|| format!("failed to read --relay-key-file {}", file.display()))
    }

    /// Makes the token of a statement.
    #[must_use]
    pub fn sign<T: Statement>(&self, statement: &T) -> String {
        let statement = BASE64.encode(serde_json::to_vec(statement).unwrap_or_default());
        let signed = format!("{}.{statement}", T::FORM);
        let tag = hmac::sign(&self.0, signed.as_bytes());
        format!("{signed}.{}", BASE64.encode(tag))
    }

    /// Reads a token, at `now` in seconds since 1970.
    ///
    /// # Errors
    /// When it is not of this pool or says something else, or is too old.
    pub fn verify<T: Statement>(&self, token: &str, now: i64) -> Result<T, Invalid> {
        let statement: T = self.open(token).ok_or(Invalid::Forged)?;
        if now > statement.expires() { Err(Invalid::Expired) } else { Ok(statement) }
    }

    fn open<T: Statement>(&self, token: &str) -> Option<T> {
        let (signed, tag) = token.rsplit_once('.').filter(|_| token.len() <= MAX_TOKEN)?;
        // in constant time
        hmac::verify(&self.0, signed.as_bytes(), &BASE64.decode(tag).ok()?).ok()?;
        let (form, statement) = signed.split_once('.')?;
        (form == T::FORM).then_some(())?;
        serde_json::from_slice(&BASE64.decode(statement).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> Grant {
        let session = Owner { ordinal: 3, epoch: 5 };
        Grant { uid: "0b3f".into(), session, node: "media-live-2".into(), expires: 1_000 }
    }

    #[test]
    fn a_token_says_what_was_signed_until_it_expires() {
        let key = PoolKey::new(&[7; 32]).unwrap();
        let token = key.sign(&grant());

        assert_eq!(key.verify(&token, 1_000), Ok(grant()));
        assert_eq!(key.verify::<Grant>(&token, 1_001), Err(Invalid::Expired));
    }

    #[test]
    fn a_token_for_one_thing_is_none_for_another() {
        let key = PoolKey::new(&[7; 32]).unwrap();
        let loan = Loan {
            storage: "local".into(),
            path: "show-1.mp4".into(),
            owner: "media-live-1".into(),
            node: "media-live-2".into(),
            expires: 1_000,
        };

        assert_eq!(key.verify(&key.sign(&loan), 1_000), Ok(loan.clone()));
        assert_eq!(key.verify::<Loan>(&key.sign(&loan), 1_001), Err(Invalid::Expired));
        assert_eq!(key.verify::<Grant>(&key.sign(&loan), 0), Err(Invalid::Forged));
        assert_eq!(key.verify::<Loan>(&key.sign(&grant()), 0), Err(Invalid::Forged));
        let errand = Errand { path: "/a/whep/b/c/d".into(), node: "media-live-2".into(), expires: 1_000 };
        assert_eq!(key.verify(&key.sign(&errand), 1_000), Ok(errand.clone()));
        assert_eq!(key.verify::<Errand>(&key.sign(&errand), 1_001), Err(Invalid::Expired));
        assert_eq!(key.verify::<Errand>(&key.sign(&loan), 0), Err(Invalid::Forged));
        assert_eq!(key.verify::<Loan>(&key.sign(&errand), 0), Err(Invalid::Forged));
    }

    #[test]
    fn a_token_of_release_0_1_0_is_good_and_is_made_the_same() {
        let key = PoolKey::new(&[7; 32]).unwrap();
        let released = include_str!("../../../tests/fixtures/0.1.0/relay-token.txt").trim();

        assert_eq!(key.verify(released, 1_000), Ok(grant()));
        assert_eq!(key.sign(&grant()), released);
    }

    #[test]
    fn a_token_of_another_key_or_a_changed_one_is_refused() {
        let (key, other) = (PoolKey::new(&[7; 32]).unwrap(), PoolKey::new(&[8; 32]).unwrap());
        let token = key.sign(&grant());
        let forged = other.sign(&Grant { expires: i64::MAX, ..grant() });
        assert_eq!(key.verify::<Grant>(&forged, 0), Err(Invalid::Forged));
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(
                key.verify::<Grant>(std::str::from_utf8(&changed).unwrap(), 0),
                Err(Invalid::Forged),
                "byte {at}"
            );
        }
        for garbage in ["", ".", "1..", "1.e30.", &"x".repeat(5_000)] {
            assert_eq!(key.verify::<Grant>(garbage, 0), Err(Invalid::Forged));
        }
    }

    #[test]
    fn a_short_key_is_refused_and_none_is_shown() {
        assert!(PoolKey::new(&[7; 31]).is_err());
        assert_eq!(format!("{:?}", PoolKey::new(&[7; 32]).unwrap()), "***");
    }
}
