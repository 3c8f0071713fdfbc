//! H.265 (ISO/IEC 14496-15 §8.3.3).

use bytes::Bytes;
use media_core::codec::h265::Sequence;
use mp4_atom::{Atom as _, Hvc1, Hvcc};

use super::{Codec, Config, Unsupported, invalid, video_format, visual};

const SPS: u8 = 33;

pub(super) fn config(record: &Bytes) -> Result<Config, Unsupported> {
    let hvcc = Hvcc::decode_body(&mut &record[..]).map_err(|error| invalid(Codec::H265, &error))?;
    let sps = hvcc.arrays.iter().find(|array| array.nal_unit_type == SPS).and_then(|array| array.nalus.first());
    let sps = sps.ok_or_else(|| invalid(Codec::H265, &"it has no SPS"))?;
    let sps = Sequence::read(sps).ok_or_else(|| invalid(Codec::H265, &"its SPS cannot be read"))?;
    let format = video_format(Codec::H265, sps.width, sps.height)?;
    let rfc6381 = rfc6381(&hvcc);
    let entry = Hvc1 { visual: visual(format), hvcc, ..Hvc1::default() };
    Config::new(Codec::H265, format, rfc6381, record.clone(), entry.into())
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
