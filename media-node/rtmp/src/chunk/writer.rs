//! Cuts messages into chunks.
//!
//! Every message begins with a full header (type 0), so the bytes of one depend on no other: the same media bytes can go
//! to any number of peers, between whatever control messages each of them gets.

use bytes::{BufMut, Bytes, BytesMut};

use super::message_type;
use crate::message::{Kind, Message};

/// The chunk size of everything that the sessions and [`write_message`] send, in bytes. Both sessions announce it first.
/// Nearly every message then is one chunk; it is the largest size that old Flash players take.
pub const OUTGOING_CHUNK_SIZE: usize = 65_536;

/// The message stream of every player of our server.
pub const PLAYER_STREAM: u32 = crate::connection::MESSAGE_STREAM;

/// From this value on a timestamp moves to the extended field (§5.3.1.3).
const EXTENDED_TIMESTAMP: u32 = 0x00FF_FFFF;

/// The longest message that the length field can say, in bytes.
const MAX_MESSAGE: usize = 0x00FF_FFFF;

/// The longest header: basic (1), message (11), extended timestamp (4).
const MAX_HEADER_BYTES: usize = 16;

/// Serialises one media message for every peer that was told [`OUTGOING_CHUNK_SIZE`]: for players of our server on
/// [`PLAYER_STREAM`], for a server on the message stream that it gave.
///
/// This copies the payload once; clone the result for each peer. No RTMP message is longer than 16 MiB - 1: of a longer
/// payload that much is written, a broken frame that leaves the connection whole.
pub fn write_message(message: &Message, message_stream: u32) -> Bytes {
    let (chunk_stream, message_type) = match message.kind {
        Kind::Audio => (4, message_type::AUDIO),
        Kind::Video => (6, message_type::VIDEO),
        Kind::Data => (5, message_type::DATA_AMF0),
    };
    let header = Header { chunk_stream, message_type, message_stream, timestamp: message.timestamp_ms };
    let mut output = BytesMut::new();
    write(&mut output, header, &message.payload, OUTGOING_CHUNK_SIZE);
    output.freeze()
}

/// Who sends what and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// 2 to 63: a basic header of one byte.
    pub(crate) chunk_stream: u8,
    pub(crate) message_type: u8,
    pub(crate) message_stream: u32,
    pub(crate) timestamp: u32,
}

/// A header of the protocol's own messages: chunk stream 2, message stream 0 (§5.4).
pub(crate) fn control(message_type: u8) -> Header {
    Header { chunk_stream: 2, message_type, message_stream: 0, timestamp: 0 }
}

/// Appends a message in chunks of `chunk_size` bytes to `output`.
pub(crate) fn write(output: &mut BytesMut, header: Header, payload: &[u8], chunk_size: usize) {
    let payload = payload.get(..MAX_MESSAGE).unwrap_or(payload);
    let extended = (header.timestamp >= EXTENDED_TIMESTAMP).then_some(header.timestamp);
    let chunks = payload.len().div_ceil(chunk_size.max(1));
    output.reserve(MAX_HEADER_BYTES.saturating_add(payload.len()).saturating_add(chunks.saturating_mul(5)));

    output.put_u8(header.chunk_stream);
    output.put_uint(u64::from(header.timestamp.min(EXTENDED_TIMESTAMP)), 3);
    output.put_uint(payload.len() as u64, 3);
    output.put_u8(header.message_type);
    output.put_u32_le(header.message_stream);
    if let Some(extended) = extended {
        output.put_u32(extended);
    }

    for (index, chunk) in payload.chunks(chunk_size.max(1)).enumerate() {
        if index > 0 {
            output.put_u8(0xC0 | header.chunk_stream);
            if let Some(extended) = extended {
                output.put_u32(extended);
            }
        }
        output.put_slice(chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_message_is_one_chunk_with_a_full_header() {
        let message =
            Message { kind: Kind::Video, timestamp_ms: 0x01_02_03, payload: Bytes::from_static(&[0x17, 1, 2]) };

        assert_eq!(write_message(&message, 1), &[6, 1, 2, 3, 0, 0, 3, 9, 1, 0, 0, 0, 0x17, 1, 2][..]);
    }

    #[test]
    fn a_timestamp_from_the_marker_on_is_repeated_in_each_chunk() {
        let mut output = BytesMut::new();
        let header = Header { chunk_stream: 4, message_type: 8, message_stream: 1, timestamp: 0x00FF_FFFF };
        write(&mut output, header, &[1, 2, 3], 2);

        assert_eq!(
            output,
            &[4, 0xFF, 0xFF, 0xFF, 0, 0, 3, 8, 1, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 1, 2, 0xC4, 0, 0xFF, 0xFF, 0xFF, 3][..]
        );
    }

    #[test]
    fn a_payload_beyond_the_length_field_is_cut_off_and_what_follows_stays_readable() {
        let mut output = BytesMut::new();
        write(&mut output, control(1), &vec![7; MAX_MESSAGE + 5], usize::MAX);

        assert_eq!(output.get(4..7), Some(&[0xFF, 0xFF, 0xFF][..]));
        assert_eq!(output.len(), 12 + MAX_MESSAGE);
    }
}
