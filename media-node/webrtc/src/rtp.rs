//! The headers of RTP packets (RFC 3550 §5.1) and their extensions (RFC 8285), read without leaving the packet.

use std::ops::Range;

use crate::bytes::{be16, be32};

const FIXED: usize = 12;
/// RFC 8285 §4.2: extensions with headers of one byte.
const ONE_BYTE: u16 = 0xbede;
/// §4.3: of two bytes, in the upper twelve bits.
const TWO_BYTES: u16 = 0x1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed RTP")]
pub(crate) struct Malformed;

/// What is sent in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) payload_type: u8,
    pub(crate) marker: bool,
    pub(crate) sequence: u16,
    pub(crate) timestamp: u32,
    pub(crate) ssrc: u32,
    /// Of all of it; the payload follows.
    pub(crate) length: usize,
    is_padded: bool,
    extensions: Option<Extensions>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Extensions {
    profile: u16,
    at: Range<usize>,
}

impl Header {
    pub(crate) fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        Self::read(packet).filter(|header| header.length <= packet.len()).ok_or(Malformed)
    }

    fn read(packet: &[u8]) -> Option<Self> {
        let (first, second) = (*packet.first()?, *packet.get(1)?);
        if first >> 6 != 2 {
            return None;
        }
        let mut length = FIXED + 4 * usize::from(first & 0x0f);
        let extensions = if first & 0x10 == 0 {
            None
        } else {
            let (profile, words) = (be16(packet, length)?, usize::from(be16(packet, length + 2)?));
            let at = length + 4..length + 4 + 4 * words;
            length = at.end;
            Some(Extensions { profile, at })
        };
        Some(Self {
            payload_type: second & 0x7f,
            marker: second & 0x80 != 0,
            sequence: be16(packet, 2)?,
            timestamp: be32(packet, 4)?,
            ssrc: be32(packet, 8)?,
            length,
            is_padded: first & 0x20 != 0,
            extensions,
        })
    }

    /// Where the payload of an opened packet is: its last byte says how much of it is padding.
    pub(crate) fn payload(&self, packet: &[u8]) -> Result<Range<usize>, Malformed> {
        let padding = match packet.last() {
            Some(last) if self.is_padded && *last > 0 => usize::from(*last),
            Some(_) | None if self.is_padded => return Err(Malformed),
            Some(_) | None => 0,
        };
        let end = packet.len().checked_sub(padding).filter(|end| *end >= self.length).ok_or(Malformed)?;
        Ok(self.length..end)
    }

    /// The value of an extension of the packet; the first of a kind counts.
    pub(crate) fn extension<'a>(&self, packet: &'a [u8], id: u8) -> Option<&'a [u8]> {
        let Extensions { profile, at } = self.extensions.as_ref()?;
        let mut rest = packet.get(at.clone())?;
        while let Some((&first, after)) = rest.split_first() {
            // a zero fills up, between any two
            if first == 0 {
                rest = after;
                continue;
            }
            let (found, length, after) = match *profile {
                // 15 ends them
                ONE_BYTE if first >> 4 == 15 => return None,
                ONE_BYTE => (first >> 4, usize::from(first & 0x0f) + 1, after),
                profile if profile & 0xfff0 == TWO_BYTES => {
                    let (length, after) = after.split_first()?;
                    (first, usize::from(*length), after)
                }
                _ => return None,
            };
            let (value, after) = after.split_at_checked(length)?;
            if found == id {
                return Some(value);
            }
            rest = after;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(first: u8, rest: &[u8]) -> Vec<u8> {
        [&[first, 0xe0, 0x12, 0x34, 0, 0, 0, 9, 1, 2, 3, 4][..], rest].concat()
    }

    #[test]
    fn a_header_is_read_with_what_may_be_in_it() {
        let plain = packet(0x80, b"payload");
        let header = Header::parse(&plain).unwrap();
        assert_eq!((header.payload_type, header.marker, header.sequence), (0x60, true, 0x1234));
        assert_eq!((header.timestamp, header.ssrc), (9, 0x0102_0304));
        assert_eq!(header.payload(&plain), Ok(12..19));

        let full = packet(0xb1, &[5, 5, 5, 5, 0xbe, 0xde, 0, 2, 0x10, b'0', 0, 0x22, 1, 2, 3, 0, 7, 7, 7, 2]);
        let header = Header::parse(&full).unwrap();
        assert_eq!(header.payload(&full), Ok(28..30), "two sources' words, two of extensions, two bytes of padding");
        assert_eq!(header.extension(&full, 1), Some(&b"0"[..]));
        assert_eq!(header.extension(&full, 2), Some(&[1, 2, 3][..]));
        assert_eq!(header.extension(&full, 3), None);
    }

    #[test]
    fn extensions_of_two_bytes_may_be_empty_and_long() {
        let long = packet(0x90, &[&[0x10, 0, 0, 6, 1, 0, 0, 0, 2, 18][..], &[1; 18]].concat());
        let header = Header::parse(&long).unwrap();
        assert_eq!(header.extension(&long, 1), Some(&[][..]));
        assert_eq!(header.extension(&long, 2), Some(&[1; 18][..]));

        let mut cut_off = long;
        cut_off[21] = 19;
        assert_eq!(header.extension(&cut_off, 2), None, "it leaves the extensions");
    }

    #[test]
    fn padding_that_is_longer_than_the_payload_is_refused() {
        for last in [0, 3, 255] {
            let padded = packet(0xa0, &[9, last]);
            assert_eq!(Header::parse(&padded).unwrap().payload(&padded), Err(Malformed), "{last}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_packet_or_refused(mut packet in proptest::collection::vec(any::<u8>(), 0..64), is_rtp: bool) {
            if let Some(first) = packet.first_mut().filter(|_| is_rtp) {
                *first = 0x80 | (*first & 0x3f);
            }
            if let Ok(header) = Header::parse(&packet) {
                prop_assert!(header.length <= packet.len());
                if let Ok(payload) = header.payload(&packet) {
                    prop_assert!(payload.start == header.length && payload.end <= packet.len());
                }
                for id in 0..=255 {
                    prop_assert!(header.extension(&packet, id).is_none_or(|value| value.len() <= packet.len()));
                }
            }
        }
    }
}
