//! Video tags (FLV 10.1 §E.4.3, Enhanced RTMP v2 "Enhanced Video").

use super::{Cursor, Error, FourCc, Multitrack, Part};

/// A video codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VideoCodec {
    /// H.264.
    Avc,
    /// H.265, by FourCC or by the codec id 12 that some encoders use.
    Hevc,
    /// H.266.
    Vvc,
    /// AV1, by FourCC or by the codec id 13 that some encoders use.
    Av1,
    /// VP8.
    Vp8,
    /// VP9.
    Vp9,
    /// One of the codecs before H.264, by its FLV codec id.
    Legacy(u8),
    /// A FourCC that this parser does not know; pass it on.
    Other(FourCc),
}

/// What a video message holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoTag {
    /// The codec; `None` for an Enhanced RTMP command, which names none.
    pub codec: Option<VideoCodec>,
    /// What the bytes from `data_offset` on are.
    pub part: Part,
    /// Whether a decoder can start here. Sequence headers are marked so too: look at `part` first.
    pub keyframe: bool,
    /// Presentation time less decoding time, in milliseconds (the composition time offset).
    pub composition_time_ms: i32,
    /// Where the data begins in the payload, in bytes; at most the payload's length. With `multitrack`, that of the
    /// first track.
    pub data_offset: usize,
    /// Set when the message holds tracks beside the default one.
    pub multitrack: Option<Multitrack>,
}

impl VideoTag {
    /// Reads the header of a video message.
    ///
    /// # Errors
    /// The message is shorter than its own header says, as an empty one is.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        let mut cursor = Cursor::new(payload);
        let first = cursor.byte()?;
        if first & 0x80 != 0 { enhanced(cursor, first) } else { legacy(cursor, first) }
    }

    /// Whether a player may start with this message once it has the sequence headers.
    pub fn is_random_access_point(&self) -> bool {
        self.keyframe && self.part == Part::Coded
    }
}

const KEYFRAME: u8 = 1;
const COMMAND: u8 = 5;

fn legacy(mut cursor: Cursor<'_>, first: u8) -> Result<VideoTag, Error> {
    let (frame_type, codec_id) = (first >> 4, first & 0x0F);
    let codec = match codec_id {
        7 => VideoCodec::Avc,
        8 => VideoCodec::Vp8,
        12 => VideoCodec::Hevc,
        13 => VideoCodec::Av1,
        14 => VideoCodec::Vvc,
        other => VideoCodec::Legacy(other),
    };
    let has_packet_type = matches!(codec_id, 7 | 12 | 13 | 14);
    let mut part = Part::Coded;
    let mut composition_time_ms = 0;
    if frame_type == COMMAND {
        part = Part::Command;
    } else if has_packet_type {
        part = match cursor.byte()? {
            0 => Part::SequenceHeader,
            1 => Part::Coded,
            2 => Part::SequenceEnd,
            _ => Part::Unknown,
        };
        composition_time_ms = signed_24(cursor.take()?);
    }
    Ok(VideoTag {
        codec: Some(codec),
        part,
        keyframe: frame_type == KEYFRAME,
        composition_time_ms,
        data_offset: cursor.offset,
        multitrack: None,
    })
}

fn enhanced(mut cursor: Cursor<'_>, first: u8) -> Result<VideoTag, Error> {
    const METADATA: u8 = 4;
    const MULTITRACK: u8 = 6;

    let frame_type = first >> 4 & 0x07;
    let mut packet_type = cursor.skip_mod_ex(first & 0x0F)?;
    if frame_type == COMMAND && packet_type != METADATA {
        return Ok(VideoTag {
            codec: None,
            part: Part::Command,
            keyframe: false,
            composition_time_ms: 0,
            data_offset: cursor.offset,
            multitrack: None,
        });
    }
    let (multitrack, four_cc) = if packet_type == MULTITRACK {
        let (layout, inner, four_cc) = cursor.multitrack()?;
        if inner == MULTITRACK {
            return Err(Error::Multitrack);
        }
        packet_type = inner;
        (Some(layout), four_cc)
    } else {
        (None, FourCc(cursor.take()?))
    };
    let codec = codec(four_cc);
    let mut composition_time_ms = 0;
    let part = match packet_type {
        0 => Part::SequenceHeader,
        1 => {
            if matches!(codec, VideoCodec::Avc | VideoCodec::Hevc | VideoCodec::Vvc) {
                composition_time_ms = signed_24(cursor.take()?);
            }
            Part::Coded
        }
        2 => Part::SequenceEnd,
        // as 1, with a composition time of zero left out
        3 => Part::Coded,
        METADATA => Part::Metadata,
        5 => Part::TransportStreamHeader,
        _ => Part::Unknown,
    };
    Ok(VideoTag {
        codec: Some(codec),
        part,
        keyframe: frame_type == KEYFRAME,
        composition_time_ms,
        data_offset: cursor.offset,
        multitrack,
    })
}

fn codec(four_cc: FourCc) -> VideoCodec {
    match &four_cc.0 {
        b"avc1" => VideoCodec::Avc,
        b"hvc1" => VideoCodec::Hevc,
        b"vvc1" => VideoCodec::Vvc,
        b"av01" => VideoCodec::Av1,
        b"vp08" => VideoCodec::Vp8,
        b"vp09" => VideoCodec::Vp9,
        _ => VideoCodec::Other(four_cc),
    }
}

/// A signed number of three bytes.
fn signed_24([a, b, c]: [u8; 3]) -> i32 {
    i32::from_be_bytes([a, b, c, 0]) >> 8
}
