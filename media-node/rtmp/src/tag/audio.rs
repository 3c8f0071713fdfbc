//! Audio tags (FLV 10.1 §E.4.2, Enhanced RTMP v2 "Enhanced Audio").

use super::{Cursor, Error, FourCc, Multitrack, Part};

/// An audio codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AudioCodec {
    /// AAC.
    Aac,
    /// MP3.
    Mp3,
    /// Opus.
    Opus,
    /// FLAC.
    Flac,
    /// Dolby Digital.
    Ac3,
    /// Dolby Digital Plus.
    Eac3,
    /// One of FLV's other formats, by its id: 1 ADPCM, 3 PCM, 7 and 8 G.711, 11 Speex …
    Legacy(u8),
    /// A FourCC that this parser does not know; pass it on.
    Other(FourCc),
}

/// What an audio message holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioTag {
    /// The codec.
    pub codec: AudioCodec,
    /// What the bytes from `data_offset` on are.
    pub part: Part,
    /// Where the data begins in the payload, in bytes; at most the payload's length. With `multitrack`, that of the
    /// first track.
    pub data_offset: usize,
    /// Set when the message holds tracks beside the default one.
    pub multitrack: Option<Multitrack>,
}

impl AudioTag {
    /// Reads the header of an audio message.
    ///
    /// # Errors
    /// The message is shorter than its own header says, as an empty one is.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        const ENHANCED: u8 = 9;

        let mut cursor = Cursor::new(payload);
        let first = cursor.byte()?;
        match first >> 4 {
            ENHANCED => enhanced(cursor, first & 0x0F),
            format => legacy(cursor, format),
        }
    }
}

fn legacy(mut cursor: Cursor<'_>, format: u8) -> Result<AudioTag, Error> {
    let (codec, part) = match format {
        10 => {
            let part = match cursor.byte()? {
                0 => Part::SequenceHeader,
                1 => Part::Coded,
                _ => Part::Unknown,
            };
            (AudioCodec::Aac, part)
        }
        // 14 is MP3 at 8 kHz
        2 | 14 => (AudioCodec::Mp3, Part::Coded),
        other => (AudioCodec::Legacy(other), Part::Coded),
    };
    Ok(AudioTag { codec, part, data_offset: cursor.offset, multitrack: None })
}

fn enhanced(mut cursor: Cursor<'_>, packet_type: u8) -> Result<AudioTag, Error> {
    const MULTITRACK: u8 = 5;

    let mut packet_type = cursor.skip_mod_ex(packet_type)?;
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
    let part = match packet_type {
        0 => Part::SequenceHeader,
        1 => Part::Coded,
        2 => Part::SequenceEnd,
        4 => Part::ChannelConfiguration,
        _ => Part::Unknown,
    };
    Ok(AudioTag { codec: codec(four_cc), part, data_offset: cursor.offset, multitrack })
}

fn codec(four_cc: FourCc) -> AudioCodec {
    match &four_cc.0 {
        b"mp4a" => AudioCodec::Aac,
        b".mp3" => AudioCodec::Mp3,
        b"Opus" => AudioCodec::Opus,
        b"fLaC" => AudioCodec::Flac,
        b"ac-3" => AudioCodec::Ac3,
        b"ec-3" => AudioCodec::Eac3,
        _ => AudioCodec::Other(four_cc),
    }
}
