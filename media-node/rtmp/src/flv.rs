//! FLV files (Adobe FLV 10.1, annex E): the messages of a stream, one after the other.

use bytes::{Buf, Bytes};

use crate::{Kind, Message};

/// Reads a file up to its end or its first broken tag.
#[must_use]
pub fn messages(mut file: Bytes) -> Vec<Message> {
    const HEADER: usize = 9;
    const TAG_HEADER: usize = 11;
    const BACK_POINTER: usize = 4;

    let mut messages = Vec::new();
    file.advance(file.len().min(HEADER + BACK_POINTER));
    while file.len() >= TAG_HEADER {
        let kind = file.get_u8();
        let length = usize::try_from(file.get_uint(3)).unwrap_or(usize::MAX);
        let low = file.get_uint(3);
        let timestamp = u64::from(file.get_u8()) << 24 | low;
        file.advance(3); // stream id, always 0
        if file.len() < length {
            break;
        }
        let payload = file.split_to(length);
        file.advance(file.len().min(BACK_POINTER));
        let kind = match kind {
            8 => Kind::Audio,
            9 => Kind::Video,
            18 => Kind::Data,
            _ => continue,
        };
        messages.push(Message { kind, timestamp_ms: u32::try_from(timestamp).unwrap_or(0), payload });
    }
    messages
}
