//! The tags of FLV and Enhanced RTMP v2 that a broadcast's packets are.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::Codec;

/// A codec's configuration as a tag.
pub(super) fn configuration(codec: Codec, record: &[u8]) -> Bytes {
    let head: &[u8] = match codec {
        Codec::H264 => &[0x17, 0, 0, 0, 0],
        Codec::H265 => b"\x90hvc1",
        Codec::Vp8 => b"\x90vp08",
        Codec::Vp9 => b"\x90vp09",
        Codec::Av1 => b"\x90av01",
        Codec::Opus => b"\x90Opus",
    };
    [head, record].concat().into()
}

/// A frame that is being put together, with room for its tag's header.
#[derive(Debug)]
pub(super) struct Frame {
    codec: Codec,
    pub(super) timestamp: u32,
    pub(super) keyframe: bool,
    data: BytesMut,
}

impl Frame {
    /// About 1 s of a stream of 32 Mbit/s: no picture is larger.
    const MAX_BYTES: usize = 4 << 20;

    pub(super) fn new(codec: Codec, timestamp: u32, expected: usize) -> Self {
        let mut data = BytesMut::with_capacity(expected);
        data.put_bytes(0, header(codec));
        Self { codec, timestamp, keyframe: false, data }
    }

    /// Bytes so far, with the header.
    pub(super) fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there is nothing but the header.
    pub(super) fn is_empty(&self) -> bool {
        self.data.len() <= header(self.codec)
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.data.len() + bytes <= Self::MAX_BYTES
    }

    /// All of it, to add to.
    pub(super) fn data(&mut self) -> &mut BytesMut {
        &mut self.data
    }

    /// What is in it so far, without the header.
    pub(super) fn body(&self) -> &[u8] {
        self.data.get(header(self.codec)..).unwrap_or_default()
    }

    /// Puts something before all that is in it.
    pub(super) fn prepend(&mut self, bytes: &[u8]) {
        let rest = self.data.split_off(header(self.codec));
        self.data.put_slice(bytes);
        self.data.put_slice(&rest);
    }

    /// The tag. It is shown so many milliseconds after it is decoded.
    pub(super) fn into_payload(mut self, composition_millis: i64) -> Bytes {
        let kind = if self.keyframe { 0x10 } else { 0x20 };
        let [.., c2, c1, c0] = composition_millis.clamp(-0x80_0000, 0x7F_FFFF).to_be_bytes();
        match self.codec {
            Codec::H264 => self.write_header([kind | 7, 1, c2, c1, c0]),
            Codec::H265 => self.write_header([0x80 | kind | 1, b'h', b'v', b'c', b'1', c2, c1, c0]),
            Codec::Vp8 => self.write_header([0x80 | kind | 1, b'v', b'p', b'0', b'8']),
            Codec::Vp9 => self.write_header([0x80 | kind | 1, b'v', b'p', b'0', b'9']),
            Codec::Av1 => self.write_header([0x80 | kind | 1, b'a', b'v', b'0', b'1']),
            Codec::Opus => self.write_header(*b"\x91Opus"),
        }
        self.data.freeze()
    }

    fn write_header<const N: usize>(&mut self, header: [u8; N]) {
        self.data.iter_mut().zip(header).for_each(|(to, from)| *to = from);
    }
}

/// Bytes of a frame's header.
fn header(codec: Codec) -> usize {
    match codec {
        Codec::H265 => 8,
        Codec::H264 | Codec::Vp8 | Codec::Vp9 | Codec::Av1 | Codec::Opus => 5,
    }
}
