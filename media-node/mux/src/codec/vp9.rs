//! VP9 (VP Codec ISO Media File Format Binding; VP9 Bitstream Specification §6.2). No crate that is kept reads the
//! picture size.

use bytes::Bytes;
use mp4_atom::{Vp09, VpcC};

use super::{Codec, Config, Unsupported, invalid, video_format, visual};
use crate::bits::Bits;

/// `None` until there is a keyframe, which alone says the size.
pub(super) fn config(record: &Bytes, keyframe: Option<&[u8]>) -> Result<Option<Config>, Unsupported> {
    let vpcc = vpcc(record).ok_or_else(|| invalid(Codec::Vp9, &"it is cut off"))?;
    let Some(keyframe) = keyframe else { return Ok(None) };
    let (width, height) = size(keyframe).ok_or_else(|| invalid(Codec::Vp9, &"the keyframe has no valid header"))?;
    let format = video_format(Codec::Vp9, width, height)?;
    let rfc6381 = format!("vp09.{:02}.{:02}.{:02}", vpcc.profile, vpcc.level, vpcc.bit_depth);
    let entry = Vp09 { visual: visual(format), vpcc, ..Vp09::default() };
    Config::new(Codec::Vp9, format, rfc6381, record.clone(), entry.into()).map(Some)
}

/// The record: some encoders send version and flags of its box before it. Profile 1 has no level 0, so they are no profile.
fn vpcc(record: &[u8]) -> Option<VpcC> {
    let body = record.strip_prefix(&[1, 0, 0, 0]).unwrap_or(record);
    let [profile, level, depth, color_primaries, transfer_characteristics, matrix_coefficients] =
        *body.first_chunk()?;
    Some(VpcC {
        profile,
        level,
        bit_depth: depth >> 4,
        chroma_subsampling: depth >> 1 & 0x07,
        video_full_range_flag: depth & 1 == 1,
        color_primaries,
        transfer_characteristics,
        matrix_coefficients,
        codec_initialization_data: Vec::new(),
    })
}

/// The size in the uncompressed header of a keyframe.
fn size(frame: &[u8]) -> Option<(u64, u64)> {
    const SRGB: u32 = 7;

    let mut bits = Bits::new(frame);
    let marker = bits.take(2)?;
    let profile = u32::from(bits.bit()?) | u32::from(bits.bit()?) << 1;
    if profile == 3 {
        bits.bit()?;
    }
    let show_existing = bits.bit()?;
    let is_inter = bits.bit()?;
    let _ = bits.take(2)?; // show_frame, error_resilient_mode
    if marker != 2 || show_existing || is_inter || bits.take(24)? != 0x49_83_42 {
        return None;
    }
    if profile >= 2 {
        bits.bit()?; // 10 or 12 bits
    }
    let odd = profile % 2 == 1;
    if bits.take(3)? == SRGB {
        bits.take(u32::from(odd))?;
    } else {
        bits.bit()?; // range
        bits.take(if odd { 3 } else { 0 })?;
    }
    let width = bits.take(16)?;
    let height = bits.take(16)?;
    Some((u64::from(width) + 1, u64::from(height) + 1))
}
