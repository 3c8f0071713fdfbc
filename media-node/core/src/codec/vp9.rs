//! VP9 (VP9 Bitstream Specification §6.2). No crate that is kept reads the picture size.

use super::Bits;

/// The uncompressed header of a keyframe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyframe {
    pub profile: u8,
    /// 8, 10 or 12.
    pub bit_depth: u8,
    /// As VP9 numbers them; 2 is BT.709.
    pub color_space: u8,
    pub full_range: bool,
    /// Whether chroma has half the samples, across and down.
    pub subsampling: (bool, bool),
    pub width: u32,
    pub height: u32,
}

impl Keyframe {
    /// Reads the begin of a frame; `None` when it is no keyframe.
    #[must_use]
    pub fn read(frame: &[u8]) -> Option<Self> {
        const SRGB: u32 = 7;

        let mut bits = Bits::new(frame);
        let marker = bits.take(2)?;
        let profile = u8::from(bits.bit()?) | u8::from(bits.bit()?) << 1;
        if profile == 3 {
            bits.bit()?;
        }
        let show_existing = bits.bit()?;
        let is_inter = bits.bit()?;
        bits.skip(2); // show_frame, error_resilient_mode
        if marker != 2 || show_existing || is_inter || bits.take(24)? != 0x49_83_42 {
            return None;
        }
        let bit_depth = match profile {
            0 | 1 => 8,
            _ if bits.bit()? => 12,
            _ => 10,
        };
        let color_space = bits.take(3)?;
        let odd = profile % 2 == 1;
        let (full_range, subsampling) = if color_space == SRGB {
            bits.take(u32::from(odd))?;
            (true, (false, false))
        } else {
            let range = bits.bit()?;
            let subsampling = if odd { (bits.bit()?, bits.bit()?) } else { (true, true) };
            bits.take(u32::from(odd))?;
            (range, subsampling)
        };
        let (width, height) = (bits.take(16)? + 1, bits.take(16)? + 1);
        let color_space = u8::try_from(color_space).ok()?;
        Some(Self { profile, bit_depth, color_space, full_range, subsampling, width, height })
    }
}
