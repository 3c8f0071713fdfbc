//! H.265. Read here, because `scuffle-h265` panics on an SPS whose fields do not fit each other.

use super::{Bits, unescaped};

/// What a sequence parameter set says (H.265 §7.3.2.2.1, §7.4.3.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Profile, tier, compatibility, constraints and level, as they lie in it and in a configuration record.
    pub profile_tier_level: [u8; 12],
    /// Sub-layers less one.
    pub sub_layers: u8,
    pub temporal_id_nested: bool,
    /// 0 for grey, 1 to 3 for 4:2:0, 4:2:2 and 4:4:4.
    pub chroma_format: u32,
    /// Without what is cropped.
    pub width: u64,
    pub height: u64,
    /// Bits of a sample less 8.
    pub luma_depth: u32,
    pub chroma_depth: u32,
}

impl Sequence {
    /// Reads an SPS with its NAL header.
    #[must_use]
    pub fn read(sps: &[u8]) -> Option<Self> {
        const NAL_HEADER: usize = 16;
        const GENERAL_PROFILE_TIER_LEVEL: usize = 96;

        let sps = unescaped(sps);
        let profile_tier_level = *sps.get(3..)?.first_chunk()?;
        let mut bits = Bits::new(&sps);
        bits.skip(NAL_HEADER + 4);
        let sub_layers = bits.take(3)?;
        let temporal_id_nested = bits.bit()?;
        bits.skip(GENERAL_PROFILE_TIER_LEVEL);
        skip_sub_layers(&mut bits, sub_layers)?;
        bits.exp_golomb()?; // its id
        let chroma_format = bits.exp_golomb()?;
        let (unit_x, unit_y) = match chroma_format {
            1 => (2, 2),
            2 => (2, 1),
            3 => {
                bits.skip(1);
                (1, 1)
            }
            _ => (1, 1),
        };
        let (mut width, mut height) = (u64::from(bits.exp_golomb()?), u64::from(bits.exp_golomb()?));
        if bits.bit()? {
            let mut cropped = |unit: u64| Some((u64::from(bits.exp_golomb()?) + u64::from(bits.exp_golomb()?)) * unit);
            width = width.checked_sub(cropped(unit_x)?)?;
            height = height.checked_sub(cropped(unit_y)?)?;
        }
        Some(Self {
            profile_tier_level,
            sub_layers: u8::try_from(sub_layers).ok()?,
            temporal_id_nested,
            chroma_format,
            width,
            height,
            luma_depth: bits.exp_golomb()?,
            chroma_depth: bits.exp_golomb()?,
        })
    }
}

fn skip_sub_layers(bits: &mut Bits<'_>, sub_layers: u32) -> Option<()> {
    const SUB_LAYER_PROFILE: usize = 88;
    const LEVEL: usize = 8;

    let mut rest = 0;
    for _ in 0..sub_layers {
        rest += if bits.bit()? { SUB_LAYER_PROFILE } else { 0 };
        rest += if bits.bit()? { LEVEL } else { 0 };
    }
    if sub_layers > 0 {
        bits.skip(2 * usize::try_from(8_u32.saturating_sub(sub_layers)).ok()?);
    }
    bits.skip(rest);
    Some(())
}
