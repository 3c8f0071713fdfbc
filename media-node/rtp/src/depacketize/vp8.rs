//! VP8 (RFC 7741): takes the descriptor off.

use bytes::{Buf as _, BufMut as _, Bytes};

use super::{assemble::Malformed, tag::Frame};

/// A VPCodecConfigurationRecord: profile 0, 8 bits, 4:2:0, and colours that nobody says.
pub(super) const RECORD: Bytes = Bytes::from_static(&[0, 0, 0x82, 2, 2, 2, 0, 0]);

const START: u8 = 0x10;
const PARTITION: u8 = 0x07;

pub(super) fn begins_keyframe(payload: &[u8]) -> bool {
    let mut bytes = Bytes::copy_from_slice(payload.get(..payload.len().min(8)).unwrap_or_default());
    split_descriptor(&mut bytes).is_some_and(|first| is_start(first) && is_key(&bytes))
}

pub(super) fn append(mut payload: Bytes, frame: &mut Frame) -> Result<(), Malformed> {
    let first = split_descriptor(&mut payload).ok_or(Malformed)?;
    // the first payload of a frame is its start, and no other one is
    if is_start(first) != frame.is_empty() || payload.is_empty() {
        return Err(Malformed);
    }
    if frame.is_empty() {
        frame.keyframe = is_key(&payload);
    }
    frame.data().put_slice(&payload);
    Ok(())
}

fn is_start(first: u8) -> bool {
    first & START != 0 && first & PARTITION == 0
}

fn is_key(frame: &[u8]) -> bool {
    frame.first().is_some_and(|first| first & 1 == 0)
}

/// Takes the descriptor from the front; returns its first byte.
fn split_descriptor(bytes: &mut Bytes) -> Option<u8> {
    const EXTENDED: u8 = 0x80;
    const HAS_PICTURE: u8 = 0x80;
    const IS_LONG: u8 = 0x80;
    const HAS_BASE_INDEX: u8 = 0x40;
    const HAS_LAYER_OR_KEY_INDEX: u8 = 0x30;

    let first = bytes.try_get_u8().ok()?;
    if first & EXTENDED != 0 {
        let fields = bytes.try_get_u8().ok()?;
        if fields & HAS_PICTURE != 0 && bytes.try_get_u8().ok()? & IS_LONG != 0 {
            bytes.try_get_u8().ok()?;
        }
        if fields & HAS_BASE_INDEX != 0 {
            bytes.try_get_u8().ok()?;
        }
        if fields & HAS_LAYER_OR_KEY_INDEX != 0 {
            bytes.try_get_u8().ok()?;
        }
    }
    Some(first)
}
