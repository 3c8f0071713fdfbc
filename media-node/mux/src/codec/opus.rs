//! Opus (RFC 7845 §5.1; Encapsulation of Opus in ISO Base Media File Format §4.3.2).

use bytes::Bytes;
use mp4_atom::{Dops, OpusChannelMapping};

use super::{Codec, Config, Format, Unsupported, invalid, sound};

const SAMPLE_RATE: u32 = 48_000;

pub(super) fn config(record: &Bytes) -> Result<Config, Unsupported> {
    let dops = dops(record).ok_or_else(|| invalid(Codec::Opus, &"it is no OpusHead"))?;
    let channels = u16::from(dops.output_channel_count);
    let format = Format::Audio { sample_rate: SAMPLE_RATE, channels, frame: 960 };
    let entry = mp4_atom::Opus { audio: sound(channels, SAMPLE_RATE), dops, btrt: None };
    Config::new(Codec::Opus, format, "opus".to_owned(), record.clone(), entry.into())
}

/// Of an OpusHead: the same fields, but for their byte order.
fn dops(record: &[u8]) -> Option<Dops> {
    let (head, table) = record.strip_prefix(b"OpusHead")?.split_first_chunk()?;
    let [_version, channels, skip0, skip1, rate0, rate1, rate2, rate3, gain0, gain1, family] = *head;
    let channel_mapping = match (family, table) {
        (0, _) => None,
        (family, &[stream_count, coupled_count, ref mapping @ ..]) => Some(OpusChannelMapping {
            family,
            stream_count,
            coupled_count,
            channel_mapping: mapping.get(..usize::from(channels))?.to_vec(),
        }),
        _ => return None,
    };
    (channels > 0).then_some(Dops {
        output_channel_count: channels,
        pre_skip: u16::from_le_bytes([skip0, skip1]),
        input_sample_rate: u32::from_le_bytes([rate0, rate1, rate2, rate3]),
        output_gain: i16::from_le_bytes([gain0, gain1]),
        channel_mapping,
    })
}
