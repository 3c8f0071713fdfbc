//! What WebRTC carries.

use std::fmt;

use media_core::Timescale;

/// A codec with an RTP payload format that browsers know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    H264,
    H265,
    Vp8,
    Vp9,
    Av1,
    Opus,
}

impl Codec {
    /// Ticks a second of its RTP timestamps.
    #[must_use]
    pub const fn clock_rate(self) -> Timescale {
        match self {
            Self::H264 | Self::H265 | Self::Vp8 | Self::Vp9 | Self::Av1 => Timescale::MPEG,
            Self::Opus => Timescale::OPUS,
        }
    }

    /// Whether its frames are pictures.
    #[must_use]
    pub const fn is_video(self) -> bool {
        match self {
            Self::H264 | Self::H265 | Self::Vp8 | Self::Vp9 | Self::Av1 => true,
            Self::Opus => false,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::H264 => "H.264",
            Self::H265 => "H.265",
            Self::Vp8 => "VP8",
            Self::Vp9 => "VP9",
            Self::Av1 => "AV1",
            Self::Opus => "Opus",
        })
    }
}
