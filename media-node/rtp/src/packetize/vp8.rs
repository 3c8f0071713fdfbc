//! VP8 (RFC 7741): each payload has a descriptor with the picture's number.

use bytes::Bytes;

use crate::{Payload, payload::Head};

pub(super) fn payloads(picture: [u8; 2], frame: &Bytes, max: usize) -> Vec<Payload> {
    const EXTENDED: u8 = 0x80;
    const START: u8 = 0x10;
    const HAS_PICTURE: u8 = 0x80;
    const DESCRIPTOR: usize = 4;

    super::fragments(frame, max - DESCRIPTOR)
        .enumerate()
        .map(|(index, fragment)| {
            let first = if index == 0 { EXTENDED | START } else { EXTENDED };
            Payload::new(Head::of(&[first, HAS_PICTURE, picture[0], picture[1]]), fragment)
        })
        .collect()
}
