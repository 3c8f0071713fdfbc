//! VP9 (RFC 9628): takes the descriptor off. Of several spatial layers the first is taken: the tags that readers get have one
//! picture of one size.

use bytes::{Buf as _, BufMut as _, Bytes};
use media_core::codec::vp9::Keyframe;

use super::{assemble::Malformed, tag::Frame};

pub(super) fn begins_keyframe(payload: &[u8]) -> bool {
    let mut bytes = Bytes::copy_from_slice(payload);
    Descriptor::split_from(&mut bytes)
        .is_some_and(|descriptor| descriptor.begins && descriptor.layer == 0 && Keyframe::read(&bytes).is_some())
}

pub(super) fn append(mut payload: Bytes, frame: &mut Frame) -> Result<(), Malformed> {
    let descriptor = Descriptor::split_from(&mut payload).ok_or(Malformed)?;
    if descriptor.layer > 0 {
        return Ok(());
    }
    if descriptor.begins != frame.is_empty() || payload.is_empty() {
        return Err(Malformed);
    }
    if frame.is_empty() {
        // some senders say of no picture that it is predicted, so the picture is asked
        frame.keyframe = Keyframe::read(&payload).is_some();
    }
    frame.data().put_slice(&payload);
    Ok(())
}

/// The VPCodecConfigurationRecord of a keyframe.
pub(super) fn record(frame: &Frame) -> Option<Bytes> {
    const LEVEL_UNKNOWN: u8 = 0;
    const UNSPECIFIED: u8 = 2;

    if !frame.keyframe {
        return None;
    }
    let keyframe = Keyframe::read(frame.body())?;
    let chroma = match keyframe.subsampling {
        (true, true) => 1,
        (true, false) => 2,
        (false, _) => 3,
    };
    // VP9's number, and those of ISO/IEC 23091-2: primaries, transfer, matrix
    let [primaries, transfer, matrix] = match keyframe.color_space {
        1 => [5, 6, 6],
        2 => [1, 1, 1],
        3 => [6, 6, 6],
        4 => [7, 7, 7],
        5 => [9, 14, 9],
        7 => [1, 13, 0],
        _ => [UNSPECIFIED; 3],
    };
    let format = keyframe.bit_depth << 4 | chroma << 1 | u8::from(keyframe.full_range);
    Some(Bytes::copy_from_slice(&[keyframe.profile, LEVEL_UNKNOWN, format, primaries, transfer, matrix, 0, 0]))
}

/// What is read of a descriptor.
struct Descriptor {
    begins: bool,
    layer: u8,
}

impl Descriptor {
    /// Takes it from the front.
    fn split_from(bytes: &mut Bytes) -> Option<Self> {
        const HAS_PICTURE: u8 = 0x80;
        const PREDICTED: u8 = 0x40;
        const HAS_LAYERS: u8 = 0x20;
        const FLEXIBLE: u8 = 0x10;
        const BEGIN: u8 = 0x08;
        const HAS_STRUCTURE: u8 = 0x02;
        const IS_LONG: u8 = 0x80;

        let first = bytes.try_get_u8().ok()?;
        let has = |flag| first & flag != 0;
        if has(HAS_PICTURE) && bytes.try_get_u8().ok()? & IS_LONG != 0 {
            bytes.try_get_u8().ok()?;
        }
        let mut layer = 0;
        if has(HAS_LAYERS) {
            layer = bytes.try_get_u8().ok()? >> 1 & 0x07;
            if !has(FLEXIBLE) {
                bytes.try_get_u8().ok()?;
            }
        }
        if has(FLEXIBLE) && has(PREDICTED) {
            skip_references(bytes)?;
        }
        if has(HAS_STRUCTURE) {
            skip_structure(bytes)?;
        }
        Some(Self { begins: has(BEGIN), layer })
    }
}

fn skip_references(bytes: &mut Bytes) -> Option<()> {
    const MOST: usize = 3;
    const ANOTHER: u8 = 0x01;

    for _ in 0..MOST {
        if bytes.try_get_u8().ok()? & ANOTHER == 0 {
            return Some(());
        }
    }
    None
}

fn skip_structure(bytes: &mut Bytes) -> Option<()> {
    const HAS_SIZES: u8 = 0x10;
    const HAS_GROUP: u8 = 0x08;

    let first = bytes.try_get_u8().ok()?;
    if first & HAS_SIZES != 0 {
        skip(bytes, 4 * (usize::from(first >> 5) + 1))?;
    }
    if first & HAS_GROUP != 0 {
        for _ in 0..bytes.try_get_u8().ok()? {
            let references = bytes.try_get_u8().ok()? >> 2 & 0x03;
            skip(bytes, references.into())?;
        }
    }
    Some(())
}

fn skip(bytes: &mut Bytes, count: usize) -> Option<()> {
    (count <= bytes.len()).then(|| bytes.advance(count))
}
