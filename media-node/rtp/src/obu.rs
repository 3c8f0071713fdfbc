//! AV1's open bitstream units (AV1 Bitstream §5.3), as they lie in a frame and in RTP.

use bytes::{Buf, BufMut, Bytes};

const HAS_SIZE: u8 = 0x02;
const HAS_EXTENSION: u8 = 0x04;

const TEMPORAL_DELIMITER: u8 = 2;
const TILE_LIST: u8 = 8;
const PADDING: u8 = 15;

/// A unit without its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Obu {
    /// Its header: one byte, and one more if it has an extension.
    pub(crate) header: [u8; 2],
    pub(crate) body: Bytes,
}

/// What a bridge does with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    SequenceHeader,
    /// A frame, or its header.
    Frame,
    Other,
    /// What is not sent over RTP (AV1 RTP §5), nor kept in files.
    Filler,
}

impl Obu {
    /// Takes a unit from the front of a frame; the last one may go to the end without saying so.
    pub(crate) fn split_from(frame: &mut Bytes) -> Option<Self> {
        let header = Self::split_header(frame)?;
        let size = if header[0] & HAS_SIZE == 0 { frame.len() } else { leb128(frame)? };
        (size <= frame.len()).then(|| Self { header, body: frame.split_to(size) })
    }

    fn split_header(bytes: &mut Bytes) -> Option<[u8; 2]> {
        let first = *bytes.first()?;
        let length = if first & HAS_EXTENSION == 0 { 1 } else { 2 };
        if bytes.len() < length {
            return None;
        }
        let mut header = [0; 2];
        header.iter_mut().zip(bytes.split_to(length)).for_each(|(to, from)| *to = from);
        Some(header)
    }

    pub(crate) fn role(&self) -> Role {
        match self.header[0] >> 3 & 0x0F {
            1 => Role::SequenceHeader,
            3 | 6 => Role::Frame,
            TEMPORAL_DELIMITER | TILE_LIST | PADDING => Role::Filler,
            _ => Role::Other,
        }
    }

    /// The header, which says that a size follows or that none does.
    pub(crate) fn header(&self, size: Size) -> impl Iterator<Item = u8> {
        let first = match size {
            Size::Follows => self.header[0] | HAS_SIZE,
            Size::LeftOut => self.header[0] & !HAS_SIZE,
        };
        std::iter::once(first).chain((first & HAS_EXTENSION != 0).then_some(self.header[1]))
    }
}

/// Whether a unit says its own size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Follows,
    LeftOut,
}

/// Takes a number from the front (AV1 Bitstream §4.10.5); `None` for one that no frame has.
pub(crate) fn leb128(bytes: &mut Bytes) -> Option<usize> {
    /// 28 bits: more than a frame has.
    const MOST_BYTES: usize = 4;

    let mut value = 0;
    for index in 0..MOST_BYTES {
        if bytes.is_empty() {
            return None;
        }
        let byte = bytes.get_u8();
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Writes a number.
pub(crate) fn write_leb128(mut value: usize, buffer: &mut impl BufMut) {
    loop {
        let low = u8::try_from(value & 0x7F).expect("seven bits fit");
        value >>= 7;
        if value == 0 {
            return buffer.put_u8(low);
        }
        buffer.put_u8(low | 0x80);
    }
}
