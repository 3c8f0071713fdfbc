//! VP9 (RFC 9628) in its non-flexible mode without layers: a picture needs the one before it, unless it is a keyframe, which says its
//! size.

use bytes::Bytes;
use media_core::codec::vp9::Keyframe;

use crate::{Payload, payload::Head};

pub(super) fn payloads(picture: [u8; 2], frame: &Bytes, keyframe: bool, max: usize) -> Vec<Payload> {
    const HAS_PICTURE: u8 = 0x80;
    const PREDICTED: u8 = 0x40;
    const BEGIN: u8 = 0x08;
    const END: u8 = 0x04;
    const HAS_STRUCTURE: u8 = 0x02;

    let common = if keyframe { HAS_PICTURE } else { HAS_PICTURE | PREDICTED };
    let mut structure = if keyframe { structure(frame) } else { None };
    let (mut rest, mut payloads, mut begin) = (frame.clone(), Vec::with_capacity(frame.len() / max + 1), BEGIN);
    while !rest.is_empty() {
        let structure = structure.take();
        let length = 3 + structure.map_or(0, |structure| structure.len());
        let fragment = rest.split_to(rest.len().min(max - length));
        let end = if rest.is_empty() { END } else { 0 };
        let has_structure = if structure.is_some() { HAS_STRUCTURE } else { 0 };
        let mut head = Head::of(&[common | begin | end | has_structure, picture[0], picture[1]]);
        structure.into_iter().flatten().for_each(|byte| head.push(byte));
        payloads.push(Payload::new(head, fragment));
        begin = 0;
    }
    payloads
}

/// One spatial layer, and its size.
fn structure(frame: &[u8]) -> Option<[u8; 5]> {
    const HAS_SIZES: u8 = 0x10;

    let keyframe = Keyframe::read(frame)?;
    let [w1, w0] = u16::try_from(keyframe.width).ok()?.to_be_bytes();
    let [h1, h0] = u16::try_from(keyframe.height).ok()?.to_be_bytes();
    Some([HAS_SIZES, w1, w0, h1, h0])
}
