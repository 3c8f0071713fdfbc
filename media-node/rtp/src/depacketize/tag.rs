//! The tags of FLV and Enhanced RTMP v2 that a broadcast's packets are.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::Codec;

/// What the tags of a track say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) codec: Codec,
    /// Its index among the tracks of its kind of media: beside the first ones tags name it.
    pub(super) index: u8,
}

/// Of an Enhanced RTMP tag of one of several tracks.
const MULTITRACK: u8 = 6;
const START: u8 = 0;
const CODED: u8 = 1;
const VIDEO_KEY: u8 = 0x10;
const VIDEO_DEPENDENT: u8 = 0x20;
/// Of sound: the sound format that says that a tag is Enhanced RTMP's.
const SOUND: u8 = 0x90;

impl Kind {
    /// A codec's configuration as a tag.
    pub(super) fn configuration(self, record: &[u8]) -> Bytes {
        let mut tag = match (self.codec, self.index) {
            (Codec::H264, 0) => vec![VIDEO_KEY | 7, 0, 0, 0, 0],
            (_, _) => self.enhanced(VIDEO_KEY, START),
        };
        tag.extend_from_slice(record);
        tag.into()
    }

    /// The header of a frame, shown so many milliseconds after it is decoded.
    fn frame(self, keyframe: bool, composition_millis: i64) -> Vec<u8> {
        let frame = if keyframe { VIDEO_KEY } else { VIDEO_DEPENDENT };
        let [.., c2, c1, c0] = composition_millis.clamp(-0x80_0000, 0x7F_FFFF).to_be_bytes();
        match (self.codec, self.index) {
            (Codec::H264, 0) => vec![frame | 7, 1, c2, c1, c0],
            (Codec::H264 | Codec::H265, _) => {
                let mut head = self.enhanced(frame, CODED);
                head.extend_from_slice(&[c2, c1, c0]);
                head
            }
            (Codec::Vp8 | Codec::Vp9 | Codec::Av1 | Codec::Opus, _) => self.enhanced(frame, CODED),
        }
    }

    fn enhanced(self, frame: u8, part: u8) -> Vec<u8> {
        let head = if self.codec.is_video() { 0x80 | frame } else { SOUND };
        let four_cc: &[u8; 4] = match self.codec {
            Codec::H264 => b"avc1",
            Codec::H265 => b"hvc1",
            Codec::Vp8 => b"vp08",
            Codec::Vp9 => b"vp09",
            Codec::Av1 => b"av01",
            Codec::Opus => b"Opus",
        };
        let multitrack = if self.codec.is_video() { MULTITRACK } else { MULTITRACK - 1 };
        match self.index {
            0 => [&[head | part][..], four_cc].concat(),
            index => [&[head | multitrack, part][..], four_cc, &[index]].concat(),
        }
    }

    /// Bytes of a frame's header.
    fn header(self) -> usize {
        let named = if self.index == 0 { 0 } else { 2 };
        match (self.codec, self.index) {
            (Codec::H264, 0) => 5,
            (Codec::H264 | Codec::H265, _) => 8 + named,
            (Codec::Vp8 | Codec::Vp9 | Codec::Av1 | Codec::Opus, _) => 5 + named,
        }
    }
}

/// A frame that is being put together, with room for its tag's header.
#[derive(Debug)]
pub(super) struct Frame {
    kind: Kind,
    pub(super) timestamp: u32,
    pub(super) keyframe: bool,
    data: BytesMut,
}

impl Frame {
    /// About 1 s of a stream of 32 Mbit/s: no picture is larger.
    const MAX_BYTES: usize = 4 << 20;

    pub(super) fn new(kind: Kind, timestamp: u32, expected: usize) -> Self {
        let mut data = BytesMut::with_capacity(expected);
        data.put_bytes(0, kind.header());
        Self { kind, timestamp, keyframe: false, data }
    }

    /// Bytes so far, with the header.
    pub(super) fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there is nothing but the header.
    pub(super) fn is_empty(&self) -> bool {
        self.data.len() <= self.kind.header()
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
        self.data.get(self.kind.header()..).unwrap_or_default()
    }

    /// Puts something before all that is in it.
    pub(super) fn prepend(&mut self, bytes: &[u8]) {
        let rest = self.data.split_off(self.kind.header());
        self.data.put_slice(bytes);
        self.data.put_slice(&rest);
    }

    /// The tag. It is shown so many milliseconds after it is decoded.
    pub(super) fn into_payload(mut self, composition_millis: i64) -> Bytes {
        let head = self.kind.frame(self.keyframe, composition_millis);
        self.data.iter_mut().zip(head).for_each(|(to, from)| *to = from);
        self.data.freeze()
    }
}
