//! What must hold of the relay's wire form for any bytes; as `rtmp_targets.rs` is run.

use std::sync::Arc;

use bytes::BytesMut;
use media_core::{
    fanout::Item,
    wire::{self, Error, Record},
};

/// A stream of records. The first byte says in which pieces they come.
pub(crate) fn relay_wire(input: &[u8]) {
    let Some((&piece, bytes)) = input.split_first() else { return };
    let whole = read([bytes].into_iter());
    assert_eq!(whole, read(bytes.chunks(usize::from(piece).max(1))), "how the bytes are cut must not matter");
}

/// What came of a stream: its records as they are written again, and how it broke.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<BytesMut>, Option<Error>) {
    let (mut input, mut records) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match wire::decode(&mut input) {
                Ok(Some(record)) => records.push(again(record)),
                Ok(None) => break,
                Err(error) => return (records, Some(error)),
            }
        }
        assert!(input.len() <= wire::MAX_RECORD + 4, "no more is kept than one record");
    }
    (records, None)
}

/// The record as this version writes it, which must be read as the same.
fn again(record: Record) -> BytesMut {
    let mut output = BytesMut::new();
    match record {
        Record::Packet(packet) => {
            let (track, time, role, payload) = (packet.track, packet.time, packet.role, packet.payload.clone());
            wire::encode_header(&Item { packet: Arc::new(packet), time }, &mut output);
            output.extend_from_slice(&payload);
            let same = match wire::decode(&mut output.clone()) {
                Ok(Some(Record::Packet(same))) => Some(same),
                Ok(_) | Err(_) => None,
            };
            let same = same.expect("what was encoded can be decoded");
            assert_eq!((same.track, same.time, same.role, same.payload), (track, time, role, payload));
        }
        Record::Silence => wire::encode_silence(&mut output),
        Record::End => wire::encode_end(&mut output),
        Record::Unknown => {}
    }
    output
}
