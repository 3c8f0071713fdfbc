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
    names: Names,
    /// Of a restart that the peer has not checked with yet (RFC 8839 §4.4.1).
    next: Option<Names>,
    selected: Option<Selected>,
    consent: Option<Instant>,
}

/// What a check must know.
struct Names {
    local_ufrag: String,
    remote_ufrag: String,
    key: hmac::Key,
}

impl Names {
    fn new(local: &Credentials, remote_ufrag: String) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, local.password.as_bytes());
        Self { local_ufrag: local.ufrag.clone(), remote_ufrag, key }
    }

    fn verify(&self, request: &Request<'_>) -> Result<(), Error> {
        request.verify(&self.local_ufrag, &self.remote_ufrag, &self.key)
    }
}

/// What a check that was in order led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) response: Vec<u8>,
    /// It was the first one with the credentials of a restart, which are the only ones now.
    pub(crate) restarted: bool,
}

struct Selected {
    path: Path,
    seen: Instant,
}

impl Agent {
    pub(crate) fn new(local: &Credentials, remote_ufrag: String) -> Self {
        Self { names: Names::new(local, remote_ufrag), next: None, selected: None, consent: None }
    }

    /// Takes new credentials, beside those that there are until the peer checks with the new ones.
    pub(crate) fn restart(&mut self, local: &Credentials, remote_ufrag: String) {
        self.next = Some(Names::new(local, remote_ufrag));
    }

    /// Answers a check, for the path that it came by, and moves there if the peer prefers it or has left the other one.
    pub(crate) fn check(&mut self, path: Path, datagram: &[u8], now: Instant) -> Result<Checked, Error> {
        let request = Request::parse(datagram)?;
        let next = self.next.take_if(|next| next.verify(&request).is_ok());
        let restarted = next.is_some();
        match next {
            Some(next) => self.names = next,
            None => self.names.verify(&request)?,
        }
        self.consent = Some(now);
        // a peer restarts because it has left the other path, or is about to
        let moves = restarted
            || self.selected.as_ref().is_none_or(|selected| {
                selected.path == path || request.nominates || now.saturating_duration_since(selected.seen) > SILENT
            });
        if moves {
            self.selected = Some(Selected { path, seen: now });
        }
        Ok(Checked { response: request.success(path.peer, &self.names.key), restarted })
    }

    /// A connection is no more; the next check that comes by another path is followed there.
    pub(crate) fn lost(&mut self, path: &Path) {
        if self.path().as_ref() == Some(path) {
            self.selected = None;
        }
    }

    /// The peer has proved otherwise that it is there and wants us: it sends media, under its keys.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.consent = self.consent.map(|_| now);
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
    fn after_a_restart_the_old_credentials_are_good_until_the_new_ones_are_checked() {
        let (mut agent, start) = (agent(), crate::clock::for_tests());
        let (old, new) = (check("us:peer", b"secret", NOMINATES), check("we:other", b"another", !NOMINATES));
        agent.check(path(1), &old, start).unwrap();
        assert!(agent.check(path(2), &new, start).is_err(), "nobody has told of them");
        for ufrag in ["never", "we"] {
            let credentials = Credentials { ufrag: ufrag.to_owned(), password: "another".to_owned() };
            agent.restart(&credentials, "other".to_owned());
        }
        assert!(!agent.check(path(1), &old, start).unwrap().restarted);
        assert!(agent.check(path(2), &check("we:other", b"secret", NOMINATES), start).is_err());
        assert_eq!(agent.path(), Some(path(1)));

        assert!(agent.check(path(2), &new, start).unwrap().restarted);
        assert_eq!(agent.path(), Some(path(2)), "without being nominated");
        assert!(agent.check(path(1), &old, start).is_err());
        assert!(!agent.check(path(2), &new, start).unwrap().restarted);
    }

    #[test]
    fn a_connection_that_is_lost_gives_way_to_the_next_check() {
        let (mut agent, start) = (agent(), crate::clock::for_tests());
        agent.check(path(1), &check("us:peer", b"secret", NOMINATES), start).unwrap();
        agent.lost(&path(2));
        assert_eq!(agent.path(), Some(path(1)));
        agent.lost(&path(1));
        assert_eq!((agent.path(), agent.expires()), (None, Some(start + CONSENT)));
        agent.check(path(2), &check("us:peer", b"secret", !NOMINATES), start).unwrap();
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
