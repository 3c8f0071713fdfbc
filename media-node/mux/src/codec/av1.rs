//! AV1 (AV1 Codec ISO Media File Format Binding §2.3, §5; AV1 Bitstream §5.3, §5.5). The picture size is read here, because
//! `scuffle-av1` counts zeros without a bound.

use bytes::Bytes;
use media_core::codec::av1::Sequence;
use mp4_atom::{Atom as _, Av01, Av1c};

use super::{Codec, Config, Unsupported, invalid, video_format, visual};

/// `None` when the record has no sequence header and there is no keyframe yet that has one.
pub(super) fn config(record: &Bytes, keyframe: Option<&[u8]>) -> Result<Option<Config>, Unsupported> {
    let av1c = Av1c::decode_body(&mut &record[..]).map_err(|error| invalid(Codec::Av1, &error))?;
    // what a keyframe says is newer
    let Some((width, height)) = keyframe.and_then(size).or_else(|| size(&av1c.config_obus)) else { return Ok(None) };
    let format = video_format(Codec::Av1, width, height)?;
    let rfc6381 = rfc6381(&av1c);
    let entry = Av01 { visual: visual(format), av1c, ..Av01::default() };
    Config::new(Codec::Av1, format, rfc6381, record.clone(), entry.into()).map(Some)
}

/// The greatest picture by the sequence header among these OBUs; it is one of the first.
fn size(mut obus: &[u8]) -> Option<(u64, u64)> {
    const MOST: usize = 8;
    const SEQUENCE_HEADER: u8 = 1;
    const HAS_EXTENSION: u8 = 0x04;
    const HAS_SIZE: u8 = 0x02;

    for _ in 0..MOST {
        let (header, rest) = obus.split_first()?;
        let rest = rest.get(usize::from(header & HAS_EXTENSION != 0)..)?;
        let (body, next) = if header & HAS_SIZE == 0 { (rest, &rest[..0]) } else { sized(rest)? };
        if header >> 3 & 0x0F == SEQUENCE_HEADER {
            return Sequence::read(body).map(|sequence| (sequence.width, sequence.height));
        }
        obus = next;
    }
    None
}

/// An OBU's body, and what follows it.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut size = 0;
    for (index, byte) in bytes.iter().enumerate().take(4) {
        size |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return bytes.get(index + 1..)?.split_at_checked(size);
        }
    }
    None
}

fn rfc6381(av1c: &Av1c) -> String {
    let tier = if av1c.seq_tier_0 { 'H' } else { 'M' };
    let depth = match (av1c.high_bitdepth, av1c.twelve_bit) {
        (true, true) => 12,
        (true, false) => 10,
        (false, _) => 8,
    };
    format!("av01.{}.{:02}{tier}.{depth:02}", av1c.seq_profile, av1c.seq_level_idx_0)
}
