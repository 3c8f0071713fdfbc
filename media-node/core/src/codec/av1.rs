//! AV1 (AV1 Bitstream §5.5). Read here, because `scuffle-av1` counts zeros without a bound.

use super::Bits;

/// What a sequence header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    pub profile: u8,
    /// Of the first operating point, as the tier.
    pub level: u8,
    pub high_tier: bool,
    /// The greatest picture.
    pub width: u64,
    pub height: u64,
    pub color: Color,
}

/// How samples are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Color {
    /// 8, 10 or 12.
    pub bit_depth: u8,
    pub monochrome: bool,
    /// Whether chroma has half the samples, across and down.
    pub subsampling: (bool, bool),
    pub sample_position: u8,
}

impl Sequence {
    /// Reads the body of a sequence header OBU.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let bits = &mut Bits::new(body);
        let profile = byte(bits, 3)?;
        bits.skip(1); // still picture
        let reduced = bits.bit()?;
        let (level, high_tier) = if reduced { (byte(bits, 5)?, false) } else { operating_points(bits)? };
        let (width_bits, height_bits) = (bits.take(4)? + 1, bits.take(4)? + 1);
        let width = u64::from(bits.take(width_bits)?) + 1;
        let height = u64::from(bits.take(height_bits)?) + 1;
        skip_tools(bits, reduced)?;
        let color = color(bits, profile)?;
        Some(Self { profile, level, high_tier, width, height, color })
    }
}

/// Level and tier of the first.
fn operating_points(bits: &mut Bits<'_>) -> Option<(u8, bool)> {
    let mut delay_bits = None;
    if bits.bit()? {
        bits.skip(64);
        if bits.bit()? {
            bits.exp_golomb()?; // ticks a picture, of the same form
        }
        if bits.bit()? {
            delay_bits = Some(usize::try_from(bits.take(5)? + 1).ok()?);
            bits.skip(32 + 5 + 5);
        }
    }
    let has_display_delay = bits.bit()?;
    let mut first = None;
    for _ in 0..=bits.take(5)? {
        bits.skip(12);
        let level = byte(bits, 5)?;
        let high_tier = level > 7 && bits.bit()?;
        first = first.or(Some((level, high_tier)));
        if let Some(delay_bits) = delay_bits
            && bits.bit()?
        {
            bits.skip(2 * delay_bits + 1);
        }
        if has_display_delay && bits.bit()? {
            bits.skip(4);
        }
    }
    first
}

/// Passes over which coding tools there are.
fn skip_tools(bits: &mut Bits<'_>, reduced: bool) -> Option<()> {
    if !reduced && bits.bit()? {
        bits.skip(4 + 3); // lengths of frame ids
    }
    bits.skip(3); // superblocks, filter intra, intra edge
    if !reduced {
        bits.skip(4); // interintra, masked compound, warped motion, dual filter
        let has_order_hint = bits.bit()?;
        if has_order_hint {
            bits.skip(2);
        }
        let has_screen_content = bits.bit()? || bits.bit()?;
        if has_screen_content && !bits.bit()? {
            bits.skip(1); // integer motion vectors
        }
        if has_order_hint {
            bits.skip(3);
        }
    }
    bits.skip(3); // superres, cdef, restoration
    Some(())
}

fn color(bits: &mut Bits<'_>, profile: u8) -> Option<Color> {
    /// BT.709, sRGB and identity.
    const SRGB: u32 = 0x01_0D_00;

    let high = bits.bit()?;
    let bit_depth = match (high, profile == 2 && high && bits.bit()?) {
        (_, true) => 12,
        (true, false) => 10,
        (false, false) => 8,
    };
    let monochrome = profile != 1 && bits.bit()?;
    let description = if bits.bit()? { bits.take(24)? } else { 0x02_02_02 };
    if monochrome {
        return Some(Color { bit_depth, monochrome, subsampling: (true, true), sample_position: 0 });
    }
    let subsampling = if description == SRGB {
        (false, false)
    } else {
        bits.skip(1); // range
        match profile {
            0 => (true, true),
            1 => (false, false),
            _ if bit_depth == 12 => {
                let across = bits.bit()?;
                (across, across && bits.bit()?)
            }
            _ => (true, false),
        }
    };
    let sample_position = if subsampling == (true, true) { byte(bits, 2)? } else { 0 };
    Some(Color { bit_depth, monochrome, subsampling, sample_position })
}

fn byte(bits: &mut Bits<'_>, count: u32) -> Option<u8> {
    bits.take(count).and_then(|value| u8::try_from(value).ok())
}
