//! What an audio or video message holds, read from the few bytes at its start (FLV 10.1 §E.4, Enhanced RTMP v2).
//!
//! Not scuffle-flv, which is the oracle of the tests only: it also parses decoder configurations and fails on those it
//! cannot read, such as the empty AV1 sequence start that FFmpeg sends first. Here the payload is only described.

mod audio;
mod video;

pub use audio::{AudioCodec, AudioTag};
pub use video::{VideoCodec, VideoTag};

/// What the bytes after the tag's header are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The decoder configuration. It may be empty: FFmpeg announces AV1 so before it knows it.
    SequenceHeader,
    /// Frames.
    Coded,
    /// The sequence is over; no bytes.
    SequenceEnd,
    /// AMF 0 metadata of the video, as HDR information.
    Metadata,
    /// An MPEG-2 TS descriptor in place of a decoder configuration.
    TransportStreamHeader,
    /// The order of the audio channels.
    ChannelConfiguration,
    /// A seek or other command to the player; no frames.
    Command,
    /// A kind that this parser does not know; pass it on.
    Unknown,
}

/// How the tracks of a multitrack message (Enhanced RTMP v2) are laid out. The rest of the tag describes its first track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Multitrack {
    /// One track that is not the default one.
    One {
        /// Its number.
        track: u8,
    },
    /// Several tracks of one codec.
    Many,
    /// Several tracks, each with its codec.
    ManyCodecs,
}

/// A codec's four characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FourCc(pub [u8; 4]);

impl std::fmt::Display for FourCc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{}", byte.escape_ascii()))
    }
}

/// Why a message is no tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The message ends inside the tag's header.
    #[error("the tag header is cut off")]
    CutOff,
    /// A multitrack message inside another, or a layout that nobody has defined.
    #[error("the multitrack header is not valid")]
    Multitrack,
}

/// Reads a tag's header from the front of a payload.
struct Cursor<'a> {
    payload: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    fn new(payload: &'a [u8]) -> Self {
        Self { payload, offset: 0 }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let bytes = self.payload.get(self.offset..).and_then(|rest| rest.first_chunk::<N>()).ok_or(Error::CutOff)?;
        self.offset = self.offset.saturating_add(N);
        Ok(*bytes)
    }

    fn byte(&mut self) -> Result<u8, Error> {
        self.take().map(|[byte]| byte)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), Error> {
        let offset = self.offset.saturating_add(bytes);
        if offset > self.payload.len() {
            return Err(Error::CutOff);
        }
        self.offset = offset;
        Ok(())
    }

    /// Passes over the ModEx parts of a header and returns the packet type that follows them. Both kinds of tag have
    /// them alike: a length less one, in one byte or after 255 in two; the bytes; the part's type and the next packet
    /// type in one byte.
    fn skip_mod_ex(&mut self, mut packet_type: u8) -> Result<u8, Error> {
        const MOD_EX: u8 = 7;

        while packet_type == MOD_EX {
            let mut length = usize::from(self.byte()?).saturating_add(1);
            if length == 256 {
                length = usize::from(u16::from_be_bytes(self.take()?)).saturating_add(1);
            }
            self.skip(length)?;
            packet_type = self.byte()? & 0x0F;
        }
        Ok(packet_type)
    }

    /// Reads a multitrack header up to its first track's body: layout, packet type, codec.
    fn multitrack(&mut self) -> Result<(Multitrack, u8, FourCc), Error> {
        let byte = self.byte()?;
        let (layout, packet_type) = (byte >> 4, byte & 0x0F);
        let four_cc = FourCc(self.take()?);
        let track = self.byte()?;
        match layout {
            0 => Ok((Multitrack::One { track }, packet_type, four_cc)),
            1 => self.skip(3).map(|()| (Multitrack::Many, packet_type, four_cc)),
            2 => self.skip(3).map(|()| (Multitrack::ManyCodecs, packet_type, four_cc)),
            _ => Err(Error::Multitrack),
        }
    }
}
