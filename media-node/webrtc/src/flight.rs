//! The plain messages of a DTLS handshake, and which of them were here before (RFC 6347 §4.2).

use crate::bytes::{be16, be24};

const RECORD_HEADER: usize = 13;
const HANDSHAKE: u8 = 22;
const MESSAGE_HEADER: usize = 12;

/// A handshake has about ten messages, of which certificates come in a few parts; what is beyond this is taken for new.
const MAX_SEEN: usize = 64;

pub(crate) enum Record<'a> {
    Handshake(Fragment<'a>),
    /// Of another kind, or encrypted.
    Other,
}

/// A part of a message, or all of it.
pub(crate) struct Fragment<'a> {
    pub(crate) kind: u8,
    /// The message's length and number.
    pub(crate) total: usize,
    pub(crate) message: u16,
    pub(crate) at: usize,
    pub(crate) bytes: &'a [u8],
}

/// The records of a datagram; after a malformed one, which is `None`, there are no more.
pub(crate) fn records(mut rest: &[u8]) -> impl Iterator<Item = Option<Record<'_>>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = split(rest);
        rest = record.as_ref().map_or(&[], |(_, rest)| rest);
        Some(record.map(|(record, _)| record))
    })
}

fn split(datagram: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (kind, epoch, length) = (*datagram.first()?, be16(datagram, 3)?, usize::from(be16(datagram, 11)?));
    let body = datagram.get(RECORD_HEADER..RECORD_HEADER + length)?;
    let rest = datagram.get(RECORD_HEADER + length..)?;
    if kind != HANDSHAKE || epoch != 0 {
        return Some((Record::Other, rest));
    }
    let size = |at: usize| usize::try_from(be24(body, at)?).ok();
    let (total, at, length) = (size(1)?, size(6)?, size(9)?);
    let bytes = body.get(MESSAGE_HEADER..MESSAGE_HEADER + length)?;
    Some((Record::Handshake(Fragment { kind: *body.first()?, total, message: be16(body, 4)?, at, bytes }), rest))
}

/// The fragments that a peer has sent.
#[derive(Default)]
pub(crate) struct Seen(Vec<(u16, usize, usize)>);

impl Seen {
    /// Reports whether all of a datagram was here before, so that it is a repetition, and remembers it.
    ///
    /// The library stops its own repeating when it reads one, and does not begin again: both ends would wait. But a first
    /// message alone may be repeated: what answers it is not repeated otherwise.
    pub(crate) fn is_repetition(&mut self, datagram: &[u8]) -> bool {
        let mut is_repetition = true;
        for record in records(datagram) {
            let Some(Record::Handshake(Fragment { message, at, bytes, .. })) = record else { return false };
            let place = (message, at, bytes.len());
            if !self.0.contains(&place) {
                is_repetition = false;
                if self.0.len() < MAX_SEEN {
                    self.0.push(place);
                }
            }
        }
        is_repetition && self.0.iter().any(|(message, _, _)| *message > 0)
    }
}
