//! The ICE-lite side of one session (RFC 8445 §2.5): it answers the peer's checks, and sends to where they come from for as
//! long as they come.

use std::fmt;
use std::time::{Duration, Instant};

use ring::hmac;

use crate::path::Path;
use crate::stun::{Error, Request};

/// A peer whose checks stay away is gone: RFC 7675 §5.1.
pub const CONSENT: Duration = Duration::from_secs(30);

/// Peers check a pair about every 2.5 s. One that was not checked for two of them and more has lost to another that is.
const SILENT: Duration = Duration::from_secs(6);

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A session's name and password for connectivity checks.
#[derive(Clone)]
pub struct Credentials {
    pub ufrag: String,
    password: String,
}

impl Credentials {
    /// Makes them of random bytes: 48 bits of name, which nobody guesses within a session's life, and 192 of password.
    #[must_use]
    pub fn new(random: [u8; 40]) -> Self {
        let mut letters =
            random.iter().filter_map(|byte| ALPHABET.get(usize::from(byte % 64))).map(|letter| char::from(*letter));
        Self { ufrag: letters.by_ref().take(8).collect(), password: letters.collect() }
    }

    pub(crate) fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("ufrag", &self.ufrag).field("password", &"***").finish()
    }
}

/// The checks of one session.
pub(crate) struct Agent {
    local_ufrag: String,
    remote_ufrag: String,
    key: hmac::Key,
    selected: Option<Selected>,
    consent: Option<Instant>,
}

struct Selected {
    path: Path,
    seen: Instant,
}

impl Agent {
    pub(crate) fn new(local: &Credentials, remote_ufrag: String) -> Self {
        Self {
            local_ufrag: local.ufrag.clone(),
            remote_ufrag,
            key: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, local.password.as_bytes()),
            selected: None,
            consent: None,
        }
    }

    /// Answers a check, for the path that it came by, and moves there if the peer prefers it or has left the other one.
    pub(crate) fn check(&mut self, path: Path, datagram: &[u8], now: Instant) -> Result<Vec<u8>, Error> {
        let request = Request::parse(datagram)?;
        request.verify(&self.local_ufrag, &self.remote_ufrag, &self.key)?;
        self.consent = Some(now);
        let moves = self.selected.as_ref().is_none_or(|selected| {
            selected.path == path || request.nominates || now.saturating_duration_since(selected.seen) > SILENT
        });
        if moves {
            self.selected = Some(Selected { path, seen: now });
        }
        Ok(request.success(path.peer, &self.key))
    }

    /// A connection is no more; the next check that comes by another path is followed there.
    pub(crate) fn lost(&mut self, path: &Path) {
        if self.path().as_ref() == Some(path) {
            self.selected = None;
        }
    }

    /// Where to send.
    pub(crate) fn path(&self) -> Option<Path> {
        self.selected.as_ref().map(|selected| selected.path)
    }

    /// When the peer is taken for gone, unless it checks before; `None` before its first check.
    pub(crate) fn expires(&self) -> Option<Instant> {
        self.consent.map(|consent| consent + CONSENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Transport;
    use crate::stun::tests::check;

    const NOMINATES: bool = true;

    fn agent() -> Agent {
        Agent::new(&Credentials { ufrag: "us".to_owned(), password: "secret".to_owned() }, "peer".to_owned())
    }

    fn path(port: u16) -> Path {
        Path { peer: ([192, 0, 2, 1], port).into(), local: None, transport: Transport::Udp }
    }

    #[test]
    fn the_first_pair_that_works_is_used_and_a_nominated_one_at_once() {
        let (mut agent, start) = (agent(), crate::clock::for_tests());
        assert_eq!(agent.path(), None);
        agent.check(path(1), &check("us:peer", b"secret", !NOMINATES), start).unwrap();
        assert_eq!(agent.path(), Some(path(1)));
        agent.check(path(2), &check("us:peer", b"secret", !NOMINATES), start).unwrap();
        assert_eq!(agent.path(), Some(path(1)), "a pair that is tried is not one that is chosen");
        agent.check(path(3), &check("us:peer", b"secret", NOMINATES), start).unwrap();
        assert_eq!(agent.path(), Some(path(3)));
    }

    #[test]
    fn a_pair_that_is_checked_no_more_gives_way_to_one_that_is() {
        let (mut agent, start) = (agent(), crate::clock::for_tests());
        agent.check(path(1), &check("us:peer", b"secret", NOMINATES), start).unwrap();
        let other = check("us:peer", b"secret", !NOMINATES);
        agent.check(path(2), &other, start + SILENT).unwrap();
        assert_eq!(agent.path(), Some(path(1)));
        agent.check(path(2), &other, start + SILENT + Duration::from_millis(1)).unwrap();
        assert_eq!(agent.path(), Some(path(2)));
    }

    #[test]
    fn consent_is_renewed_by_genuine_checks_alone() {
        let (mut agent, start) = (agent(), crate::clock::for_tests());
        assert_eq!(agent.expires(), None);
        agent.check(path(1), &check("us:peer", b"secret", NOMINATES), start).unwrap();
        for (username, password) in [("us:peer", &b"guess"[..]), ("us:other", b"secret"), ("them:peer", b"secret")] {
            let checked = agent.check(path(2), &check(username, password, NOMINATES), start + Duration::from_secs(9));
            assert!(checked.is_err(), "{username}");
        }
        assert_eq!((agent.expires(), agent.path()), (Some(start + CONSENT), Some(path(1))));
    }
}
