//! VP9 (VP Codec ISO Media File Format Binding; VP9 Bitstream Specification §6.2). No crate that is kept reads the
//! picture size.

use bytes::Bytes;
use media_core::codec::vp9::Keyframe;
use mp4_atom::{Vp09, VpcC};

use super::{Codec, Config, Unsupported, invalid, video_format, visual};

/// `None` until there is a keyframe, which alone says the size.
pub(super) fn config(record: &Bytes, keyframe: Option<&[u8]>) -> Result<Option<Config>, Unsupported> {
    let vpcc = vpcc(record).ok_or_else(|| invalid(Codec::Vp9, &"it is cut off"))?;
    let Some(keyframe) = keyframe else { return Ok(None) };
    let keyframe = Keyframe::read(keyframe).ok_or_else(|| invalid(Codec::Vp9, &"the keyframe has no valid header"))?;
    let format = video_format(Codec::Vp9, keyframe.width.into(), keyframe.height.into())?;
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
