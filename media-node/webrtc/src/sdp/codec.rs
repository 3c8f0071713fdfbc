//! The codecs we know, and when two H264 streams are of one kind.

use std::fmt;

/// A codec that WebRTC can carry and we pass on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    H264(H264Profile),
    H265,
    Vp8,
    Vp9,
    Av1,
    Opus,
}

impl Codec {
    /// Reads an `a=rtpmap` encoding and its `a=fmtp` parameters; `None` is a codec that we do not know.
    pub(super) fn parse(encoding: &str, parameters: &str) -> Option<Self> {
        let mut parts = encoding.split('/');
        let (name, clock) = (parts.next()?, parts.next()?);
        match (name.to_ascii_uppercase().as_str(), clock) {
            ("H264", "90000") => Some(Self::H264(H264Profile::parse(parameters)?)),
            ("H265", "90000") => Some(Self::H265),
            ("VP8", "90000") => Some(Self::Vp8),
            ("VP9", "90000") => Some(Self::Vp9),
            ("AV1", "90000") => Some(Self::Av1),
            ("OPUS", "48000") => Some(Self::Opus),
            _ => None,
        }
    }

    /// The name and clock of its `a=rtpmap`.
    pub(super) fn encoding(self) -> &'static str {
        match self {
            Self::H264(_) => "H264/90000",
            Self::H265 => "H265/90000",
            Self::Vp8 => "VP8/90000",
            Self::Vp9 => "VP9/90000",
            Self::Av1 => "AV1/90000",
            Self::Opus => "opus/48000/2",
        }
    }

    /// The ticks a second of its RTP timestamps.
    #[must_use]
    pub fn clock(self) -> u32 {
        match self {
            Self::H264(_) | Self::H265 | Self::Vp8 | Self::Vp9 | Self::Av1 => 90_000,
            Self::Opus => 48_000,
        }
    }

    #[must_use]
    pub fn kind(self) -> super::MediaKind {
        match self {
            Self::H264(_) | Self::H265 | Self::Vp8 | Self::Vp9 | Self::Av1 => super::MediaKind::Video,
            Self::Opus => super::MediaKind::Audio,
        }
    }

    /// How well a peer that offers `self` takes a stream of `stream`; `None` is not at all, more is better.
    ///
    /// Among H264 profiles the stream's own is best, then a higher one. The last resort is any: Firefox offers the constrained
    /// baseline alone, and decodes all of them.
    pub(super) fn fitness(self, stream: Self) -> Option<u8> {
        match (self, stream) {
            (Self::H264(offered), Self::H264(sent)) => Some(match offered.rank().cmp(&sent.rank()) {
                std::cmp::Ordering::Equal => 2,
                std::cmp::Ordering::Greater => 1,
                std::cmp::Ordering::Less => 0,
            }),
            (one, other) => (one == other).then_some(2),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::H264(_) => "H264",
            Self::H265 => "H265",
            Self::Vp8 => "VP8",
            Self::Vp9 => "VP9",
            Self::Av1 => "AV1",
            Self::Opus => "Opus",
        })
    }
}

/// The profile of an H264 stream without its level (RFC 6184 §8.1): its `profile_idc` and constraint flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct H264Profile {
    pub idc: u8,
    pub constraints: u8,
}

impl H264Profile {
    /// Reads the parameters of a format.
    fn parse(parameters: &str) -> Option<Self> {
        let value = |name: &str| {
            parameters
                .split(';')
                .filter_map(|part| part.trim().split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value)
        };
        // RFC 6184 §8.1: without the parameter it is the baseline
        let id = u32::from_str_radix(value("profile-level-id").unwrap_or("42000a"), 16).ok()?;
        let [0, idc, constraints, _level] = id.to_be_bytes() else { return None };
        Some(Self { idc, constraints })
    }

    /// Constrained baseline, baseline, main, extended, high, and what is above, each decoding what is before it. A flag of
    /// the constraints says that a stream keeps to a lower profile as well (RFC 6184, table 5).
    fn rank(self) -> u8 {
        let (is_baseline, is_main) = (self.constraints & 0x80 != 0, self.constraints & 0x40 != 0);
        match (self.idc, is_baseline, is_main) {
            (66, _, true) | (77, true, _) | (88, true, true) => 0,
            (66, _, false) | (88, true, false) => 1,
            (77, false, _) => 2,
            (88, false, _) => 3,
            (100, _, _) => 4,
            (_, _, _) => 5,
        }
    }
}
