//! Datagrams on a connection, each after its length (RFC 4571), and those that wait until the connection has room.

use crate::bytes::be16;

const HEADER: usize = 2;

/// What peers put into a frame fits a datagram of a network; a longer frame ends the connection.
pub(crate) const MAX_FRAME: usize = 4_096;

/// 1 s at 4 Mbit/s, on top of what the system has under way. A viewer that lags more is helped by less, not by more that is late: its
/// frames are refused, and it goes on at a keyframe.
const MAX_QUEUE: usize = 512 * 1024;

/// What a queue that is empty again holds on to.
const KEPT_QUEUE: usize = 16 * 1024;

/// A frame is longer than any that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Oversize;

/// A frame and what follows it.
type Split<'a> = (&'a [u8], &'a [u8]);

/// The first frame and what follows it; `None` until it is whole.
pub(crate) fn split(bytes: &[u8]) -> Result<Option<Split<'_>>, Oversize> {
    let Some(length) = be16(bytes, 0).map(usize::from) else { return Ok(None) };
    if length > MAX_FRAME {
        return Err(Oversize);
    }
    let rest = bytes.get(HEADER..).unwrap_or_default();
    Ok(rest.split_at_checked(length))
}

/// Frames that a connection had no room for yet.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    bytes: Vec<u8>,
    written: usize,
}

impl Queue {
    /// Appends datagrams, all or none: false if there is no room for them.
    pub(crate) fn push<'a>(&mut self, datagrams: impl Iterator<Item = &'a [u8]> + Clone) -> bool {
        let length: usize = datagrams.clone().map(|datagram| HEADER + datagram.len()).sum();
        if self.waiting().len() + length > MAX_QUEUE {
            return false;
        }
        for datagram in datagrams {
            let Ok(length) = u16::try_from(datagram.len()) else { continue };
            self.bytes.extend_from_slice(&length.to_be_bytes());
            self.bytes.extend_from_slice(datagram);
        }
        true
    }

    pub(crate) fn waiting(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    /// So many bytes have gone.
    pub(crate) fn advance(&mut self, count: usize) {
        self.written += count;
        if self.written >= self.bytes.len() {
            self.written = 0;
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_QUEUE);
        } else if self.written > MAX_QUEUE / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests;
