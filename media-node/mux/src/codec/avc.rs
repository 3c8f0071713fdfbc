//! H.264 (ISO/IEC 14496-15 §5.3.3).

use bytes::Bytes;
use h264_reader::nal::{Nal as _, RefNal, sps::SeqParameterSet};
use mp4_atom::{Atom as _, Avc1, Avcc};

use super::{Codec, Config, Unsupported, invalid, video_format, visual};

pub(super) fn config(record: &Bytes) -> Result<Config, Unsupported> {
    let avcc = Avcc::decode_body(&mut &record[..]).map_err(|error| invalid(Codec::H264, &error))?;
    let sps = avcc
        .sequence_parameter_sets
        .iter()
        .find(|sps| !sps.is_empty())
        .ok_or_else(|| invalid(Codec::H264, &"it has no SPS"))?;
    let (width, height) = size(sps)?;
    let format = video_format(Codec::H264, width.into(), height.into())?;
    let rfc6381 = format!(
        "avc1.{:02X}{:02X}{:02X}",
        avcc.avc_profile_indication, avcc.profile_compatibility, avcc.avc_level_indication
    );
    let entry = Avc1 { visual: visual(format), avcc, ..Avc1::default() };
    Config::new(Codec::H264, format, rfc6381, record.clone(), entry.into())
}

fn size(sps: &[u8]) -> Result<(u32, u32), Unsupported> {
    let nal = RefNal::new(sps, &[], true);
    let sps =
        SeqParameterSet::from_bits(nal.rbsp_bits()).map_err(|error| invalid(Codec::H264, &format!("{error:?}")))?;
    sps.pixel_dimensions().map_err(|error| invalid(Codec::H264, &format!("{error:?}")))
}
