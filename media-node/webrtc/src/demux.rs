//! Says for whom a datagram is, at the cost of one look-up in a table, and bounds how many sessions there can be.

use std::collections::HashMap;

use crate::path::Path;
use crate::stun;

/// What a datagram is by its first byte (RFC 7983 §7), and SRTP or SRTCP by its second (RFC 5761 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Stun,
    Dtls,
    Rtp,
    Rtcp,
    /// ZRTP, TURN channels, QUIC, and garbage.
    Other,
}

impl Class {
    #[must_use]
    pub fn of(datagram: &[u8]) -> Self {
        match datagram {
            [0..=3, ..] => Self::Stun,
            [20..=63, ..] => Self::Dtls,
            [128..=191, 192..=223, ..] => Self::Rtcp,
            [128..=191, _, ..] => Self::Rtp,
            _ => Self::Other,
        }
    }
}

/// What one worker will hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sessions in all. At 60 kB each the default is what 256 MiB hold.
    pub sessions: usize,
    /// Sessions that are not connected yet. They live 15 s at most, so the default lets about 68 join a second.
    pub half_open: usize,
    /// TCP connections, of which a quarter may be strangers' for 10 s. At up to 1 MiB each, of which the system has half, the default
    /// is what 512 MiB hold.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sessions: 4_096, half_open: 1_024, connections: 512 }
    }
}

/// Why no session can be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("the worker has its most sessions")]
    Sessions,
    #[error("too many sessions are not connected yet")]
    HalfOpen,
    #[error("the session's name is taken")]
    Name,
}

/// The sessions of one worker by name and by path.
///
/// Names come into the table by [`Self::add`] and paths by [`Self::learn`] alone, which the driver calls after a check that
/// was in order: nobody fills it from outside.
pub struct Directory<K> {
    limits: Limits,
    names: HashMap<String, Entry<K>>,
    paths: HashMap<Path, K>,
    half_open: usize,
}

struct Entry<K> {
    key: K,
    /// Checked pairs of one session; a peer has a handful, and the oldest is forgotten.
    paths: Vec<Path>,
    is_open: bool,
}

/// Paths that one session has at a time. A browser with three addresses checks each of ours from each of them, over UDP and TCP.
const MAX_PATHS: usize = 32;

impl<K: Copy + Eq> Directory<K> {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, names: HashMap::new(), paths: HashMap::new(), half_open: 0 }
    }

    /// Adds a session that is not connected yet.
    ///
    /// # Errors
    /// [`Full`] says which bound is met.
    pub fn add(&mut self, ufrag: String, key: K) -> Result<(), Full> {
        if self.names.len() >= self.limits.sessions {
            return Err(Full::Sessions);
        }
        if self.half_open >= self.limits.half_open {
            return Err(Full::HalfOpen);
        }
        if self.names.contains_key(&ufrag) {
            return Err(Full::Name);
        }
        self.names.insert(ufrag, Entry { key, paths: Vec::new(), is_open: false });
        self.half_open += 1;
        Ok(())
    }

    /// Gives a session a second name, until [`Self::rename`]; false if that is taken or there is no such session.
    pub fn alias(&mut self, ufrag: &str, other: String) -> bool {
        let Some(key) = self.named(ufrag).filter(|_| !self.names.contains_key(&other)) else { return false };
        // it is none of those that are awaited
        self.names.insert(other, Entry { key, paths: Vec::new(), is_open: true });
        true
    }

    /// Makes a session's second name its only one.
    pub fn rename(&mut self, ufrag: &str, other: &str) {
        let Some(entry) = self.names.remove(ufrag) else { return };
        self.names.insert(other.to_owned(), entry);
    }

    /// Counts a session as connected.
    pub fn open(&mut self, ufrag: &str) {
        if let Some(entry) = self.names.get_mut(ufrag).filter(|entry| !entry.is_open) {
            entry.is_open = true;
            self.half_open -= 1;
        }
    }

    /// Leads the datagrams of a path to a session.
    pub fn learn(&mut self, ufrag: &str, path: Path) {
        let Some(entry) = self.names.get_mut(ufrag) else { return };
        if self.paths.insert(path, entry.key) == Some(entry.key) {
            return;
        }
        if entry.paths.len() == MAX_PATHS {
            let oldest = entry.paths.remove(0);
            if self.paths.get(&oldest) == Some(&entry.key) {
                self.paths.remove(&oldest);
            }
        }
        entry.paths.push(path);
    }

    /// Forgets a session's path that is no more.
    pub fn unlearn(&mut self, ufrag: &str, path: &Path) {
        let Some(entry) = self.names.get_mut(ufrag) else { return };
        entry.paths.retain(|of_entry| of_entry != path);
        if self.paths.get(path) == Some(&entry.key) {
            self.paths.remove(path);
        }
    }

    /// Forgets a session and all its paths.
    pub fn remove(&mut self, ufrag: &str) {
        let Some(entry) = self.names.remove(ufrag) else { return };
        if !entry.is_open {
            self.half_open -= 1;
        }
        for path in entry.paths {
            if self.paths.get(&path) == Some(&entry.key) {
                self.paths.remove(&path);
            }
        }
    }

    /// For whom a datagram is: STUN by the name in it, all else by its path.
    #[must_use]
    pub fn find(&self, path: &Path, datagram: &[u8]) -> Option<K> {
        match Class::of(datagram) {
            Class::Stun => {
                let request = stun::Request::parse(datagram).ok()?;
                self.names.get(request.local_ufrag()).map(|entry| entry.key)
            }
            Class::Dtls | Class::Rtp | Class::Rtcp => self.paths.get(path).copied(),
            Class::Other => None,
        }
    }

    /// The session of a name.
    #[must_use]
    pub fn named(&self, ufrag: &str) -> Option<K> {
        self.names.get(ufrag).map(|entry| entry.key)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// How many are not connected yet.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.half_open
    }
}

#[cfg(test)]
mod tests;
