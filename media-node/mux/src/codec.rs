//! What a decoder must know of a track, read from the sequence headers of FLV and Enhanced RTMP, and its sample entry in
//! MP4 (ISO/IEC 14496-12, -14, -15; the VP9, AV1 and Opus bindings).

mod aac;
mod av1;
mod avc;
mod hevc;
mod opus;
mod vp9;

use std::fmt;

use bytes::Bytes;
use mp4_atom::{Encode as _, Visual};
use rtmp::tag::{AudioCodec, VideoCodec};

/// A codec that this crate puts into MP4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    H264,
    H265,
    Vp9,
    Av1,
    Aac,
    Opus,
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::H264 => "H.264",
            Self::H265 => "H.265",
            Self::Vp9 => "VP9",
            Self::Av1 => "AV1",
            Self::Aac => "AAC",
            Self::Opus => "Opus",
        })
    }
}

/// Why a track is not in the output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// No way to carry it in MP4, or none that players know.
    #[error("{codec} cannot be recorded or played over HLS")]
    Codec {
        /// The codec's name.
        codec: String,
    },
    /// A decoder configuration that cannot be read.
    #[error("the decoder configuration of {codec} is not valid: {reason}")]
    Configuration {
        /// The codec.
        codec: Codec,
        /// What is wrong with it.
        reason: String,
    },
}

/// What the samples of a track are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Pictures of this many pixels.
    Video { width: u16, height: u16 },
    /// Sound. An AAC frame is `frame` samples long; an Opus packet says its own length.
    Audio { sample_rate: u32, channels: u16, frame: u32 },
}

/// A track's decoder configuration.
#[derive(Clone, Debug)]
pub struct Config {
    codec: Codec,
    format: Format,
    rfc6381: String,
    /// The sequence header as it came.
    record: Bytes,
    entry: mp4_atom::Codec,
}

/// Two configurations are the same when a decoder need not be told of the change.
impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        self.codec == other.codec && self.format == other.format && self.record == other.record
    }
}

impl Config {
    fn new(
        codec: Codec,
        format: Format,
        rfc6381: String,
        record: Bytes,
        entry: mp4_atom::Codec,
    ) -> Result<Self, Unsupported> {
        // what cannot be written must not get as far as a file
        entry.encode(&mut Vec::new()).map_err(|error| invalid(codec, &error))?;
        Ok(Self { codec, format, rfc6381, record, entry })
    }

    /// The codec.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Pixels, or sample rate and channels.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The codec's name in a `CODECS` attribute (RFC 6381), as `avc1.640028`.
    #[must_use]
    pub fn rfc6381(&self) -> &str {
        &self.rfc6381
    }

    /// Ticks a second of the track in MP4.
    #[must_use]
    pub fn timescale(&self) -> u32 {
        match self.format {
            Format::Video { .. } => media_core::Timescale::MPEG.ticks_per_second(),
            Format::Audio { sample_rate, .. } => sample_rate,
        }
    }

    pub(crate) fn entry(&self) -> mp4_atom::Codec {
        self.entry.clone()
    }
}

/// Reads a video sequence header. `keyframe` is what is known of a keyframe: VP9's configuration has no picture size, and
/// AV1's need not have one. `None` means that a keyframe is needed, or that the header is the empty one that FFmpeg sends
/// before it knows more.
pub(crate) fn video(codec: VideoCodec, record: &Bytes, keyframe: Option<&[u8]>) -> Result<Option<Config>, Unsupported> {
    if record.is_empty() {
        return Ok(None);
    }
    video_reader(codec)?(record, keyframe)
}

/// Reads a sequence header and, if there is one, a keyframe.
type VideoReader = fn(&Bytes, Option<&[u8]>) -> Result<Option<Config>, Unsupported>;

fn video_reader(codec: VideoCodec) -> Result<VideoReader, Unsupported> {
    match codec {
        VideoCodec::Avc => Ok(|record, _| avc::config(record).map(Some)),
        VideoCodec::Hevc => Ok(|record, _| hevc::config(record).map(Some)),
        VideoCodec::Av1 => Ok(av1::config),
        VideoCodec::Vp9 => Ok(vp9::config),
        VideoCodec::Vvc | VideoCodec::Vp8 | VideoCodec::Legacy(_) | VideoCodec::Other(_) => {
            Err(Unsupported::Codec { codec: video_name(codec) })
        }
    }
}

/// Whether a keyframe may change what [`video`] says.
pub(crate) fn size_is_in_keyframes(codec: VideoCodec) -> bool {
    codec == VideoCodec::Vp9 || codec == VideoCodec::Av1
}

/// Reads an audio sequence header; `None` for an empty one.
pub(crate) fn audio(codec: AudioCodec, record: &Bytes) -> Result<Option<Config>, Unsupported> {
    if record.is_empty() {
        return Ok(None);
    }
    audio_reader(codec)?(record).map(Some)
}

/// Reads a sequence header.
type AudioReader = fn(&Bytes) -> Result<Config, Unsupported>;

fn audio_reader(codec: AudioCodec) -> Result<AudioReader, Unsupported> {
    match codec {
        AudioCodec::Aac => Ok(aac::config),
        AudioCodec::Opus => Ok(opus::config),
        AudioCodec::Mp3
        | AudioCodec::Flac
        | AudioCodec::Ac3
        | AudioCodec::Eac3
        | AudioCodec::Legacy(_)
        | AudioCodec::Other(_) => Err(Unsupported::Codec { codec: audio_name(codec) }),
    }
}

/// The codec's name if it cannot be put into MP4 here.
pub(crate) fn unsupported_video(codec: VideoCodec) -> Option<Unsupported> {
    video_reader(codec).err()
}

/// As [`unsupported_video`].
pub(crate) fn unsupported_audio(codec: AudioCodec) -> Option<Unsupported> {
    audio_reader(codec).err()
}

fn video_name(codec: VideoCodec) -> String {
    match codec {
        VideoCodec::Avc => "H.264".to_owned(),
        VideoCodec::Hevc => "H.265".to_owned(),
        VideoCodec::Vvc => "H.266".to_owned(),
        VideoCodec::Av1 => "AV1".to_owned(),
        VideoCodec::Vp8 => "VP8".to_owned(),
        VideoCodec::Vp9 => "VP9".to_owned(),
        VideoCodec::Legacy(2) => "Sorenson H.263 (FLV1)".to_owned(),
        VideoCodec::Legacy(3 | 6) => "Screen Video".to_owned(),
        VideoCodec::Legacy(4 | 5) => "VP6".to_owned(),
        VideoCodec::Legacy(id) => format!("FLV video codec {id}"),
        VideoCodec::Other(four_cc) => four_cc.to_string(),
    }
}

fn audio_name(codec: AudioCodec) -> String {
    match codec {
        AudioCodec::Aac => "AAC".to_owned(),
        AudioCodec::Mp3 => "MP3".to_owned(),
        AudioCodec::Opus => "Opus".to_owned(),
        AudioCodec::Flac => "FLAC".to_owned(),
        AudioCodec::Ac3 => "AC-3".to_owned(),
        AudioCodec::Eac3 => "E-AC-3".to_owned(),
        AudioCodec::Legacy(0 | 3) => "PCM".to_owned(),
        AudioCodec::Legacy(1) => "ADPCM".to_owned(),
        AudioCodec::Legacy(4..=6) => "Nellymoser".to_owned(),
        AudioCodec::Legacy(7 | 8) => "G.711".to_owned(),
        AudioCodec::Legacy(11) => "Speex".to_owned(),
        AudioCodec::Legacy(id) => format!("FLV audio codec {id}"),
        AudioCodec::Other(four_cc) => four_cc.to_string(),
    }
}

fn invalid(codec: Codec, reason: &dyn fmt::Display) -> Unsupported {
    Unsupported::Configuration { codec, reason: reason.to_string() }
}

/// A picture size that MP4 can say.
fn video_format(codec: Codec, width: u64, height: u64) -> Result<Format, Unsupported> {
    match (u16::try_from(width), u16::try_from(height)) {
        (Ok(width @ 1..), Ok(height @ 1..)) => Ok(Format::Video { width, height }),
        _ => Err(invalid(codec, &format!("pictures of {width}x{height} pixels"))),
    }
}

fn visual(format: Format) -> Visual {
    let (width, height) = match format {
        Format::Video { width, height } => (width, height),
        Format::Audio { .. } => (0, 0),
    };
    Visual { data_reference_index: 1, width, height, ..Visual::default() }
}

fn sound(channels: u16, sample_rate: u32) -> mp4_atom::Audio {
    mp4_atom::Audio {
        data_reference_index: 1,
        channel_count: channels,
        sample_size: 16,
        // 16 bits hold no more than 65,535 Hz; the codec's own configuration says it then
        sample_rate: u16::try_from(sample_rate).unwrap_or(0).into(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
