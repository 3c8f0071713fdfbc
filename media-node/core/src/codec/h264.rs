//! H.264.

use super::{Bits, unescaped};

/// What a configuration record repeats of a sequence parameter set (H.264 §7.3.2.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    pub profile: u8,
    /// The constraint flags.
    pub compatibility: u8,
    pub level: u8,
    /// Chroma format, luma depth and chroma depth, these two less 8; only the high profiles say them.
    pub formats: Option<[u8; 3]>,
}

impl Sequence {
    /// Reads an SPS with its NAL header.
    #[must_use]
    pub fn read(sps: &[u8]) -> Option<Self> {
        let sps = unescaped(sps);
        let &[_, profile, compatibility, level, ref rest @ ..] = &sps[..] else { return None };
        let mut bits = Bits::new(rest);
        bits.exp_golomb()?; // its id
        let has_formats = matches!(profile, 44 | 83 | 86 | 100 | 110 | 118 | 122 | 128 | 134 | 135 | 138 | 139 | 244);
        let formats = if has_formats { Some(formats(&mut bits)?) } else { None };
        Some(Self { profile, compatibility, level, formats })
    }
}

fn formats(bits: &mut Bits<'_>) -> Option<[u8; 3]> {
    let mut number =
        |most: u32| bits.exp_golomb().filter(|value| *value <= most).and_then(|value| u8::try_from(value).ok());
    let chroma = number(3)?;
    if chroma == 3 {
        number(1).map(|_| ())?;
    }
    Some([chroma, number(6)?, number(6)?])
}
