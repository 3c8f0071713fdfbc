//! What must hold of the muxer and of recordings that are read again, for any bytes; as `rtmp_targets.rs` is run.

use std::io::Cursor;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use media_core::{Kind, MediaTime, Packet, Role, Timescale, Track};
use mux::file::{Recovered, Writer, recover};
use mux::playlist::uri::Resource;
use mux::playlist::{Delta, Position, Window};
use mux::{Event, Muxer, Policy};

/// A stream of packets: of each a kind, the milliseconds since the one before in two bytes, the length of its payload in
/// two bytes, and the payload.
pub(crate) fn mux_packets(mut input: &[u8]) {
    let (mut muxer, mut events, mut time) = (Muxer::new(Policy::default()), Vec::new(), 0);
    while let Some((&[kind, step1, step0, len1, len0], rest)) = input.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([len1, len0])).min(rest.len());
        let (payload, rest) = rest.split_at(len);
        input = rest;
        time += i64::from(i16::from_be_bytes([step1, step0]));
        let track = Track { kind: if kind & 1 == 0 { Kind::Video } else { Kind::Audio }, index: kind >> 7 };
        let time = MediaTime::new(time, Timescale::MILLIS);
        muxer.push(&Packet::new(track, time, Role::Dependent, Bytes::copy_from_slice(payload)), &mut events);
    }
    muxer.end(&mut events);
    holds(&events);
}

/// A recording that was cut off, or changed.
pub(crate) fn mux_recover(file: &[u8]) {
    let Ok(Recovered::Unfinished { writer }) = recover(&mut Cursor::new(file)) else { return };
    let kept = usize::try_from(writer.len()).expect("no more than the file");
    let mut bytes = file.get(..kept).expect("no more than the file").to_vec();
    let duration = writer.duration();
    let Ok(finish) = writer.finish() else { return };
    bytes.extend_from_slice(&finish.append);
    let at = usize::try_from(finish.patch_at).expect("no more than the file");
    bytes[at..at + finish.patch.len()].copy_from_slice(&finish.patch);
    match recover(&mut Cursor::new(&bytes)) {
        Ok(Recovered::Finished { duration: again }) => assert_eq!(again, duration, "it can be read"),
        // a file whose index is larger than what is read at once is finished again, with the same bytes
        Ok(Recovered::Unfinished { writer }) => assert_eq!(writer.len(), kept as u64),
        Err(error) => assert_eq!(error.to_string(), "", "what was finished can be read"),
    }
}

/// The name of a file, as players ask for it.
pub(crate) fn hls_name(name: &[u8]) {
    let Ok(name) = std::str::from_utf8(name) else { return };
    let Some(resource) = Resource::parse(name) else { return };
    assert_eq!(resource.to_string(), name, "a file has one name");
    match resource {
        Resource::Init(_) => assert!(name.starts_with("init-")),
        Resource::Segment(_) => assert!(name.starts_with("segment-")),
        Resource::Part(Position { .. }) => assert!(name.starts_with("part-")),
    }
}

/// Decoding goes forward, and the whole can be written to files and listed.
fn holds(events: &[Event]) {
    let mut file: Option<(Writer, Vec<u8>)> = None;
    let mut window = Window::new(Policy::default(), Duration::ZERO);
    for event in events {
        window.extend(std::slice::from_ref(event), Timestamp::UNIX_EPOCH);
        match event {
            Event::Init(init) => {
                close(file.take());
                let (writer, head) = Writer::new(init);
                file = Some((writer, head.to_vec()));
            }
            Event::Part(part) => {
                let (writer, bytes) = file.as_mut().expect("an init comes first");
                writer.append(&part.fragment);
                part.fragment.chunks().for_each(|chunk| bytes.extend_from_slice(chunk));
                assert_eq!(writer.len(), bytes.len() as u64);
            }
            Event::SegmentEnd(_) => drop(window.media(Delta::Skip, &[])),
            Event::Discontinuity(_) | Event::Unsupported(_) => {}
        }
    }
    close(file);
}

/// A file is read again as it was written.
fn close(file: Option<(Writer, Vec<u8>)>) {
    let Some((writer, bytes)) = file else { return };
    let again = match recover(&mut Cursor::new(&bytes)).expect("it was written by us") {
        Recovered::Unfinished { writer } => writer,
        Recovered::Finished { .. } => unreachable!("it was not finished"),
    };
    assert_eq!(again.len(), bytes.len() as u64, "all of it is whole");
    let finished = writer.finish().expect("a muxer's tables can be written");
    assert_eq!(again.finish().expect("as before"), finished);
}
