//! Reads which SRTP profiles a DTLS client offers, from the handshake's first message.
//!
//! The DTLS library chooses by the client's order, and Chromium lists the slower profile first though it has both. So we look
//! before the library does, and give it what we want chosen.

use crate::bytes::be16;
use crate::flight::{Fragment, Record, records};
use crate::srtp::Profile;

/// A ClientHello with keys for post-quantum exchange has about 1,800 bytes; a longer one is not waited for.
const MAX_HELLO: usize = 8 * 1024;

/// At most this many datagrams are kept until the message is whole.
const MAX_DATAGRAMS: usize = 16;

const CLIENT_HELLO: u8 = 1;
const USE_SRTP: u16 = 14;

/// What is known after a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// The rest is on its way.
    Incomplete,
    /// In the client's order, those that we know.
    Profiles(Vec<Profile>),
    /// No ClientHello, or none that makes sense.
    Malformed,
}

/// A ClientHello that may come in parts.
#[derive(Default)]
pub(crate) struct Hello {
    message: Vec<u8>,
    /// What was received of it, by offset; parts come in order unless datagrams do not.
    received: Vec<(usize, usize)>,
    datagrams: usize,
}

impl Hello {
    /// Takes a datagram into account.
    pub(crate) fn read(&mut self, datagram: &[u8]) -> Offered {
        self.datagrams += 1;
        if self.datagrams > MAX_DATAGRAMS {
            return Offered::Malformed;
        }
        match self.add(datagram) {
            Some(()) if self.is_whole() => match profiles(&self.message) {
                Some(profiles) => Offered::Profiles(profiles),
                None => Offered::Malformed,
            },
            Some(()) => Offered::Incomplete,
            None => Offered::Malformed,
        }
    }

    fn add(&mut self, datagram: &[u8]) -> Option<()> {
        for record in records(datagram) {
            match record? {
                Record::Handshake(Fragment { kind: CLIENT_HELLO, total, at, bytes, .. })
                    if (1..=MAX_HELLO).contains(&total) =>
                {
                    if self.message.is_empty() {
                        self.message.resize(total, 0);
                    }
                    self.message.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
                    self.received.push((at, at + bytes.len()));
                }
                Record::Handshake(_) => return None,
                Record::Other => {}
            }
        }
        Some(())
    }

    fn is_whole(&self) -> bool {
        let mut parts = self.received.clone();
        parts.sort_unstable();
        let end = parts.into_iter().fold(0, |end, (from, to)| if from <= end { end.max(to) } else { end });
        !self.message.is_empty() && end == self.message.len()
    }
}

/// RFC 5246 §7.4.1.2 with the cookie of RFC 6347 §4.2.1: version, random, then five fields with their lengths.
fn profiles(message: &[u8]) -> Option<Vec<Profile>> {
    let mut at = 2 + 32;
    at += 1 + usize::from(*message.get(at)?);
    at += 1 + usize::from(*message.get(at)?);
    at += 2 + usize::from(be16(message, at)?);
    at += 1 + usize::from(*message.get(at)?);
    let length = usize::from(be16(message, at)?);
    let mut extensions = message.get(at + 2..at + 2 + length)?;
    while !extensions.is_empty() {
        let (kind, length) = (be16(extensions, 0)?, usize::from(be16(extensions, 2)?));
        let body = extensions.get(4..4 + length)?;
        if kind == USE_SRTP {
            let length = usize::from(be16(body, 0)?);
            return Some(body.get(2..2 + length)?.chunks_exact(2).filter_map(|id| profile(be16(id, 0)?)).collect());
        }
        extensions = extensions.get(4 + length..)?;
    }
    Some(Vec::new())
}

fn profile(id: u16) -> Option<Profile> {
    match id {
        0x0001 => Some(Profile::CmSha1),
        0x0007 => Some(Profile::Gcm128),
        0x0008 => Some(Profile::Gcm256),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
