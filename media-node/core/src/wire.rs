//! Packets between two nodes: the records of a relay's stream, as bytes.
//!
//! A stream is a row of records. Numbers are big-endian.
//!
//! ```text
//! record  = length:u32 type:u8 body            length counts type and body
//! packet  = header_length:u8 header payload    type 1
//! header  = kind:u8 index:u8 role:u8 ticks:i64 ticks_per_second:u32
//! ```
//!
//! Type 2 says that the stream is silent but there, type 3 that it ended; both have an empty body. A later version adds types,
//! which this one skips, and fields at the end of a header or body, which it passes over; a kind or role that it does not know
//! makes the packet one to skip. What cannot be added so takes another [`VERSION`], which the two sides agree upon before.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{Kind, MediaTime, Packet, Role, Timescale, Track, fanout::Item};

/// Version of the form: part of the address under which a stream is asked for.
pub const VERSION: u8 = 1;

/// Longest record: RTMP's longest message (16 MiB, RTMP 1.0 §5.3.1) and room for what describes it.
pub const MAX_RECORD: usize = (16 << 20) + 512;

const LENGTH: usize = size_of::<u32>();
/// Of the header as this version writes it.
const HEADER: usize = 15;

const PACKET: u8 = 1;
const SILENCE: u8 = 2;
const END: u8 = 3;

/// One record.
#[derive(Debug)]
pub enum Record {
    Packet(Packet),
    /// The publisher sends nothing, and the stream is there.
    Silence,
    /// The publisher is gone; nothing follows.
    End,
    /// Something of a later version.
    Unknown,
}

/// Why bytes are no stream of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a record of {length} bytes; the longest may have {MAX_RECORD}")]
    TooLong { length: usize },
    #[error("a record ends before its fields do")]
    Short,
    #[error("a packet with zero ticks a second")]
    NoTimescale,
}

/// Appends all of a packet's record but its payload, which must follow; with the time that it is to have at the reader.
/// A payload need not be copied then.
pub fn encode_header(item: &Item, output: &mut BytesMut) {
    let Packet { track, role, payload, .. } = &*item.packet;
    output.reserve(LENGTH + 2 + HEADER);
    put_length(2 + HEADER + payload.len(), output);
    output.put_u8(PACKET);
    output.put_u8(HEADER as u8);
    output.put_u8(kind_code(track.kind));
    output.put_u8(track.index);
    output.put_u8(role_code(*role));
    output.put_i64(item.time.ticks());
    output.put_u32(item.time.timescale().ticks_per_second());
}

/// Appends the record that says nothing but that the stream is there.
pub fn encode_silence(output: &mut BytesMut) {
    put_length(1, output);
    output.put_u8(SILENCE);
}

/// Appends the record of the end.
pub fn encode_end(output: &mut BytesMut) {
    put_length(1, output);
    output.put_u8(END);
}

/// Takes the next record from `input`; `None` when more bytes are needed. It never needs more than one record's at once.
///
/// # Errors
/// When the bytes are no stream of records; what follows them cannot be read.
pub fn decode(input: &mut BytesMut) -> Result<Option<Record>, Error> {
    let Some(length) = input.first_chunk::<LENGTH>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_RECORD {
        return Err(Error::TooLong { length });
    }
    if input.len() < LENGTH + length {
        return Ok(None);
    }
    input.advance(LENGTH);
    let mut body = input.split_to(length).freeze();
    match body.try_get_u8().map_err(short)? {
        PACKET => decode_packet(body),
        SILENCE => Ok(Record::Silence),
        END => Ok(Record::End),
        _ => Ok(Record::Unknown),
    }
    .map(Some)
}

fn decode_packet(mut body: Bytes) -> Result<Record, Error> {
    let header_length = usize::from(body.try_get_u8().map_err(short)?);
    if header_length < HEADER || header_length > body.len() {
        return Err(Error::Short);
    }
    let mut header = body.split_to(header_length);
    let kind = kind_of(header.get_u8());
    let index = header.get_u8();
    let role = role_of(header.get_u8());
    let ticks = header.get_i64();
    let timescale = Timescale::new(header.get_u32()).ok_or(Error::NoTimescale)?;
    let (Some(kind), Some(role)) = (kind, role) else { return Ok(Record::Unknown) };
    let payload = match role {
        // kept for as long as the stream: it must not keep the buffer that it came in
        Role::Header | Role::Annotation => Bytes::copy_from_slice(&body),
        Role::Key | Role::Dependent => body,
    };
    Ok(Record::Packet(Packet::new(Track { kind, index }, MediaTime::new(ticks, timescale), role, payload)))
}

fn put_length(length: usize, output: &mut BytesMut) {
    // what this node got as one message fits: no protocol takes longer ones
    output.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

fn short(_end: bytes::TryGetError) -> Error {
    Error::Short
}

fn kind_code(kind: Kind) -> u8 {
    match kind {
        Kind::Data => 0,
        Kind::Video => 1,
        Kind::Audio => 2,
    }
}

fn kind_of(code: u8) -> Option<Kind> {
    [Kind::Data, Kind::Video, Kind::Audio].into_iter().find(|kind| kind_code(*kind) == code)
}

fn role_code(role: Role) -> u8 {
    match role {
        Role::Header => 0,
        Role::Annotation => 1,
        Role::Key => 2,
        Role::Dependent => 3,
    }
}

fn role_of(code: u8) -> Option<Role> {
    [Role::Header, Role::Annotation, Role::Key, Role::Dependent].into_iter().find(|role| role_code(*role) == code)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn item(track: Track, time: MediaTime, role: Role, payload: &[u8]) -> Item {
        let packet = Packet::new(track, MediaTime::new(0, Timescale::MILLIS), role, Bytes::copy_from_slice(payload));
        Item { packet: Arc::new(packet), time }
    }

    fn encode(item: &Item, output: &mut BytesMut) {
        encode_header(item, output);
        output.put_slice(&item.packet.payload);
    }

    fn keyframe() -> Item {
        item(Track::first(Kind::Video), MediaTime::new(-7, Timescale::MPEG), Role::Key, b"frame")
    }

    fn record(kind: u8, body: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::new();
        put_length(1 + body.len(), &mut bytes);
        bytes.put_u8(kind);
        bytes.put_slice(body);
        bytes
    }

    fn all(mut input: BytesMut) -> Vec<String> {
        let mut records = Vec::new();
        while let Some(record) = decode(&mut input).unwrap() {
            records.push(match record {
                Record::Packet(p) => format!("{:?} {:?} {:?} {:?}", p.track, p.time, p.role, p.payload),
                Record::Silence | Record::End | Record::Unknown => format!("{record:?}"),
            });
        }
        assert!(input.is_empty());
        records
    }

    #[test]
    fn the_bytes_of_a_keyframe_are_these() {
        let mut bytes = BytesMut::new();
        encode(&keyframe(), &mut bytes);

        let expected = b"\0\0\0\x16\x01\x0f\x01\0\x02\xff\xff\xff\xff\xff\xff\xff\xf9\0\x01\x5f\x90frame";
        assert_eq!(&bytes[..], &expected[..]);
    }

    #[test]
    fn the_records_of_release_0_1_0_are_read_and_written_to_the_byte() {
        let video = Track::first(Kind::Video);
        let sound = Track::first(Kind::Audio);
        let mut bytes = BytesMut::new();
        encode(&item(video, MediaTime::new(0, Timescale::MILLIS), Role::Header, b"avcC"), &mut bytes);
        encode(&keyframe(), &mut bytes);
        encode(&item(sound, MediaTime::new(23, Timescale::MILLIS), Role::Dependent, b"aac"), &mut bytes);
        encode_silence(&mut bytes);
        encode_end(&mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();

        let released = include_str!("../../../tests/fixtures/0.1.0/relay-frames.txt");

        assert_eq!(hex, released.split_whitespace().collect::<String>());
    }

    #[test]
    fn what_a_later_version_adds_is_skipped() {
        let mut bytes = record(200, b"something else");
        let mut header = vec![20, 1, 0, 2];
        header.extend_from_slice(&1_i64.to_be_bytes());
        header.extend_from_slice(&1_000_u32.to_be_bytes());
        header.extend_from_slice(b"added");
        bytes.extend_from_slice(&record(PACKET, &[&header[..], b"frame"].concat()));
        let mut other_kind = header.clone();
        other_kind[1] = 9;
        bytes.extend_from_slice(&record(PACKET, &other_kind));
        bytes.extend_from_slice(&record(END, b"because"));

        let records = all(bytes);

        assert_eq!(records.len(), 4);
        assert_eq!((records[0].as_str(), records[2].as_str(), records[3].as_str()), ("Unknown", "Unknown", "End"));
        assert!(records[1].ends_with("Key b\"frame\""), "{records:?}");
    }

    #[test]
    fn records_that_break_the_form_are_refused() {
        let mut long = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert_eq!(decode(&mut long).unwrap_err(), Error::TooLong { length: 4_294_967_295 });
        assert_eq!(decode(&mut BytesMut::from(&[0; 4][..])).unwrap_err(), Error::Short);
        assert_eq!(decode(&mut record(PACKET, &[14; 20])).unwrap_err(), Error::Short);
        assert_eq!(decode(&mut record(PACKET, &[15; 5])).unwrap_err(), Error::Short);
        assert_eq!(decode(&mut record(PACKET, &[&[15][..], &[0; 15]].concat())).unwrap_err(), Error::NoTimescale);
    }

    fn any_item() -> impl Strategy<Value = Item> {
        let track = (prop_oneof![Just(Kind::Data), Just(Kind::Video), Just(Kind::Audio)], any::<u8>());
        let role = prop_oneof![Just(Role::Header), Just(Role::Annotation), Just(Role::Key), Just(Role::Dependent)];
        (track, role, any::<i64>(), 1..u32::MAX, prop::collection::vec(any::<u8>(), 0..40)).prop_map(
            |((kind, index), role, ticks, scale, payload)| {
                let timescale = Timescale::new(scale).unwrap();
                item(Track { kind, index }, MediaTime::new(ticks, timescale), role, &payload)
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_however_it_is_cut(items in prop::collection::vec(any_item(), 1..8), piece in 1..50_usize) {
            let mut bytes = BytesMut::new();
            for item in &items {
                encode(item, &mut bytes);
                encode_silence(&mut bytes);
            }
            let (mut input, mut packets) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(piece) {
                input.extend_from_slice(piece);
                while let Some(record) = decode(&mut input).unwrap() {
                    if let Record::Packet(packet) = record {
                        packets.push(packet);
                    }
                }
            }
            prop_assert_eq!(packets.len(), items.len());
            for (packet, item) in packets.iter().zip(&items) {
                prop_assert_eq!((packet.track, packet.role, packet.time), (item.packet.track, item.packet.role, item.time));
                prop_assert_eq!(&packet.payload, &item.packet.payload);
            }
        }
    }
}
