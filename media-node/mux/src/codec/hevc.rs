//! H.265 (ISO/IEC 14496-15 §8.3.3).

use bytes::Bytes;
use mp4_atom::{Atom as _, Hvc1, Hvcc};

use super::{Codec, Config, Unsupported, invalid, video_format, visual};
use crate::bits::Bits;

const SPS: u8 = 33;

pub(super) fn config(record: &Bytes) -> Result<Config, Unsupported> {
    let hvcc = Hvcc::decode_body(&mut &record[..]).map_err(|error| invalid(Codec::H265, &error))?;
    let sps = hvcc.arrays.iter().find(|array| array.nal_unit_type == SPS).and_then(|array| array.nalus.first());
    let sps = sps.ok_or_else(|| invalid(Codec::H265, &"it has no SPS"))?;
    let (width, height) = size(sps).ok_or_else(|| invalid(Codec::H265, &"its SPS cannot be read"))?;
    let format = video_format(Codec::H265, width, height)?;
    let rfc6381 = rfc6381(&hvcc);
    let entry = Hvc1 { visual: visual(format), hvcc, ..Hvc1::default() };
    Config::new(Codec::H265, format, rfc6381, record.clone(), entry.into())
}

/// Width and height in an SPS without what is cropped (H.265 §7.3.2.2.1, §7.4.3.2.1). Read here, because `scuffle-h265`
/// panics on an SPS whose fields do not fit each other.
fn size(sps: &[u8]) -> Option<(u64, u64)> {
    const NAL_HEADER: usize = 16;
    const GENERAL_PROFILE_TIER_LEVEL: usize = 96;
    const SUB_LAYER_PROFILE: usize = 88;
    const LEVEL: usize = 8;

    let sps = unescaped(sps);
    let mut bits = Bits::new(&sps);
    bits.skip(NAL_HEADER + 4);
    let sub_layers = bits.take(3)?;
    bits.skip(1 + GENERAL_PROFILE_TIER_LEVEL);
    let mut rest = 0;
    for _ in 0..sub_layers {
        rest += if bits.bit()? { SUB_LAYER_PROFILE } else { 0 };
        rest += if bits.bit()? { LEVEL } else { 0 };
    }
    if sub_layers > 0 {
        bits.skip(2 * usize::try_from(8_u32.saturating_sub(sub_layers)).ok()?);
    }
    bits.skip(rest);
    bits.exp_golomb()?; // its id
    let (unit_x, unit_y) = match bits.exp_golomb()? {
        1 => (2, 2),
        2 => (2, 1),
        3 => {
            bits.skip(1);
            (1, 1)
        }
        _ => (1, 1),
    };
    let (width, height) = (u64::from(bits.exp_golomb()?), u64::from(bits.exp_golomb()?));
    if !bits.bit()? {
        return Some((width, height));
    }
    let mut cropped = |unit: u64| Some((u64::from(bits.exp_golomb()?) + u64::from(bits.exp_golomb()?)) * unit);
    Some((width.checked_sub(cropped(unit_x)?)?, height.checked_sub(cropped(unit_y)?)?))
}

/// The begin of a NAL unit without the bytes that keep start codes out of it.
fn unescaped(nal: &[u8]) -> Vec<u8> {
    /// More than seven sub-layers and the sizes take.
    const ENOUGH: usize = 160;

    let mut bytes = Vec::with_capacity(ENOUGH);
    for byte in nal.iter().take(ENOUGH) {
        if !(*byte == 3 && bytes.ends_with(&[0, 0])) {
            bytes.push(*byte);
        }
    }
    bytes
}

/// ISO/IEC 14496-15 annex E.3.
fn rfc6381(hvcc: &Hvcc) -> String {
    let space = match hvcc.general_profile_space {
        1 => "A",
        2 => "B",
        3 => "C",
        _ => "",
    };
    let compatibility = u32::from_be_bytes(hvcc.general_profile_compatibility_flags).reverse_bits();
    let tier = if hvcc.general_tier_flag { 'H' } else { 'L' };
    let profile = hvcc.general_profile_idc;
    let constraints = &hvcc.general_constraint_indicator_flags;
    let used = constraints.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let constraints: String = constraints.iter().take(used).map(|byte| format!(".{byte:X}")).collect();
    format!("hvc1.{space}{profile}.{compatibility:X}.{tier}{}{constraints}", hvcc.general_level_idc)
}
