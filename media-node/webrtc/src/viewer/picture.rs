//! The number of a picture in the payload formats that have one (RFC 7741 §4.2, RFC 9628 §4.2). Decoders find by it which picture
//! another one needs, so it must not jump where a viewer is led from one encoding to another.

use crate::sdp::Codec;

/// Numbers have 15 bits, under a bit that says so.
const LONG: u16 = 0x8000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Picture {
    at: usize,
    pub(super) number: u16,
}

impl Picture {
    /// Finds a number of 15 bits.
    pub(super) fn find(codec: Codec, payload: &[u8]) -> Option<Self> {
        let at = match (codec, payload) {
            // an extension, and a number in it
            (Codec::Vp8, [first, second, ..]) if first & second & 0x80 != 0 => 2,
            (Codec::Vp9, [first, ..]) if first & 0x80 != 0 => 1,
            (Codec::H264(_) | Codec::H265 | Codec::Vp8 | Codec::Vp9 | Codec::Av1 | Codec::Opus, _) => return None,
        };
        let word = crate::bytes::be16(payload, at)?;
        (word & LONG != 0).then_some(Self { at, number: word & !LONG })
    }

    pub(super) fn plus(self, offset: u16) -> Self {
        Self { number: self.number.wrapping_add(offset) & !LONG, ..self }
    }

    pub(super) fn write(self, payload: &mut [u8]) {
        if let Some(field) = payload.get_mut(self.at..self.at + 2) {
            field.copy_from_slice(&(self.number | LONG).to_be_bytes());
        }
    }
}
