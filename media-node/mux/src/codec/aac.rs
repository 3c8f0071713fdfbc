//! AAC (AudioSpecificConfig, ISO/IEC 14496-3 §1.6.2.1).

use bytes::Bytes;
use media_core::codec::Bits;
use mp4_atom::{
    Esds, Mp4a,
    esds::{DecoderConfig, DecoderSpecific, EsDescriptor, SLConfig},
};

use super::{Codec, Config, Format, Unsupported, invalid, sound};

/// More is no configuration, and would not fit the descriptor's length.
const MAX_RECORD: usize = 1024;
const RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];

pub(super) fn config(record: &Bytes) -> Result<Config, Unsupported> {
    let described = describe(record).filter(|_| record.len() <= MAX_RECORD);
    let Description { object, sample_rate, channels, frame } =
        described.ok_or_else(|| invalid(Codec::Aac, &"it cannot be read"))?;
    let esds = Esds {
        es_desc: EsDescriptor {
            es_id: 1,
            dec_config: DecoderConfig {
                object_type_indication: 0x40,
                stream_type: 5,
                dec_specific: Some(DecoderSpecific { raw: record.to_vec(), ..DecoderSpecific::default() }),
                ..DecoderConfig::default()
            },
            sl_config: SLConfig::default(),
            ..EsDescriptor::default()
        },
    };
    let format = Format::Audio { sample_rate, channels, frame };
    let entry = Mp4a { audio: sound(channels, sample_rate), esds, btrt: None, taic: None };
    Config::new(Codec::Aac, format, format!("mp4a.40.{object}"), record.clone(), entry.into())
}

struct Description {
    object: u32,
    /// Of the core: with SBR what is heard has twice as much.
    sample_rate: u32,
    channels: u16,
    frame: u32,
}

fn describe(record: &[u8]) -> Option<Description> {
    const SBR: u32 = 5;
    const LOW_DELAY: u32 = 23;
    const ENHANCED_LOW_DELAY: u32 = 39;
    const PARAMETRIC_STEREO: u32 = 29;

    let mut bits = Bits::new(record);
    let object = object_type(&mut bits)?;
    let sample_rate = rate(&mut bits)?;
    let channels = bits.take(4)?;
    let core = if object == SBR || object == PARAMETRIC_STEREO {
        rate(&mut bits)?;
        object_type(&mut bits)?
    } else {
        object
    };
    let short = bits.bit()?;
    let frame = match (core, short) {
        (LOW_DELAY | ENHANCED_LOW_DELAY, false) => 512,
        (LOW_DELAY | ENHANCED_LOW_DELAY, true) => 480,
        (_, false) => 1024,
        (_, true) => 960,
    };
    let channels = match channels {
        // in a program config element, which decoders read
        0 => 2,
        7 => 8,
        11 => 7,
        12 | 14 => 8,
        count @ 1..=6 => u16::try_from(count).ok()?,
        _ => return None,
    };
    Some(Description { object, sample_rate, channels, frame })
}

fn object_type(bits: &mut Bits<'_>) -> Option<u32> {
    match bits.take(5)? {
        0 => None,
        31 => Some(32 + bits.take(6)?),
        object => Some(object),
    }
}

fn rate(bits: &mut Bits<'_>) -> Option<u32> {
    let index = bits.take(4)?;
    let rate = if index == 15 { bits.take(24)? } else { *RATES.get(usize::try_from(index).ok()?)? };
    (rate > 0).then_some(rate)
}
