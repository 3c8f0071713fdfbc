//! What it costs to make fragments of a stream, to index them for a file and to list them for HLS. The writing is not in
//! it.

use std::{hint::black_box, time::Duration};

use anyhow::{Result, ensure};
use bytes::Bytes;
use jiff::Timestamp;
use media_core::{Kind, MediaTime, Packet, Role, Timescale, Track};
use mux::{
    Event, Muxer, Policy,
    file::Writer,
    playlist::{Delta, Window},
};
use rustix::time::{ClockId, clock_gettime};

use crate::{machine, say, spread::Spread};

const RUNS: usize = 7;
const SECONDS: u32 = 300;
const FRAMES_PER_SECOND: u32 = 30;
/// 6 Mbit/s at 30 frames a second.
const FRAME_BYTES: usize = 25_000;
/// 128 kbit/s in frames of 1,024 samples at 48 kHz.
const SOUND_BYTES: usize = 341;
const AVC: &[u8] = b"\x17\x00\x00\x00\x00\x01\x64\x00\x1f\xff\xe1\x00\x1a\x67\x64\x00\x1f\xac\xd9\x40\x50\x05\xbb\x01\x10\x00\x00\x03\x00\x10\x00\x00\x03\x03\xc0\xf1\x83\x19\x60\x01\x00\x06\x68\xeb\xe3\xcb\x22\xc0\xfd\xf8\xf8\x00";
const AAC: &[u8] = &[0xAF, 0, 0x11, 0x90];

pub(crate) fn measure() -> Result<()> {
    machine::keep_to_core(0)?;
    let packets = packets();
    let runs: Vec<Muxed> = (0..RUNS).map(|_| mux(&packets)).collect();
    let cpu = Spread::of(runs.iter().map(|run| run.cpu.as_secs_f64() / f64::from(SECONDS) * 1e6));
    let last = runs.last().copied().unwrap_or_default();
    ensure!(last.payload_bytes == payload_bytes(&packets), "every payload is in a fragment");
    say("\n### Muxing, 6 Mbit/s H.264 and 128 kbit/s AAC\n");
    say("| what | value |\n| --- | --- |");
    say(&format!("| CPU time a second of stream, µs | {cpu} |"));
    say(&format!("| payload bytes copied | {} |", last.copied));
    say(&format!("| index of a file, bytes an hour | {} |", last.index_bytes * 3_600 / u64::from(SECONDS)));
    machine::use_all_cores()
}

#[derive(Clone, Copy, Debug, Default)]
struct Muxed {
    cpu: Duration,
    payload_bytes: u64,
    copied: u64,
    index_bytes: u64,
}

fn mux(packets: &[Packet]) -> Muxed {
    let begin = cpu();
    let (mut muxer, mut events) = (Muxer::new(Policy::default()), Vec::new());
    let mut window = Window::new(Policy::default(), Duration::from_secs(12));
    let mut files: Vec<Writer> = Vec::new();
    let mut parts = Vec::new();
    for packet in packets {
        muxer.push(packet, &mut events);
        window.extend(&events, Timestamp::UNIX_EPOCH);
        for event in events.drain(..) {
            match event {
                Event::Init(init) => files.push(Writer::new(&init).0),
                Event::Part(part) => {
                    files.iter_mut().for_each(|file| file.append(&part.fragment));
                    black_box(window.media(Delta::Full, &[]));
                    parts.push(part);
                }
                Event::SegmentEnd(_) | Event::Discontinuity(_) | Event::Unsupported(_) => {}
            }
        }
    }
    muxer.end(&mut events);
    parts.extend(events.into_iter().filter_map(|event| if let Event::Part(part) = event { Some(part) } else { None }));
    let cpu = cpu().saturating_sub(begin);
    let payloads = || parts.iter().flat_map(|part| part.fragment.chunks().skip(1));
    // a payload that was not copied lies in the packet's memory, which all packets of a kind share here
    let shared: Vec<_> = packets.iter().map(|packet| packet.payload.as_ptr_range()).take(8).collect();
    let is_shared = |chunk: &&Bytes| shared.iter().any(|range| range.contains(&chunk.as_ptr()));
    Muxed {
        cpu,
        payload_bytes: payloads().map(|chunk| chunk.len() as u64).sum(),
        copied: payloads().filter(|chunk| !is_shared(chunk)).map(|chunk| chunk.len() as u64).sum(),
        index_bytes: files.iter().map(|file| file.index_bytes() as u64).sum(),
    }
}

fn packets() -> Vec<Packet> {
    let frame = |first| Bytes::from([&[first, 1, 0, 0, 0][..], &vec![0x55; FRAME_BYTES]].concat());
    let (key, inter) = (frame(0x17), frame(0x27));
    let sound = Bytes::from([&[0xAF, 1][..], &vec![0x55; SOUND_BYTES]].concat());
    let packet = |kind, millis: u32, payload: &Bytes| {
        let time = MediaTime::new(millis.into(), Timescale::MILLIS);
        Packet::new(Track::first(kind), time, Role::Dependent, payload.clone())
    };
    let mut packets =
        vec![packet(Kind::Video, 0, &Bytes::from_static(AVC)), packet(Kind::Audio, 0, &Bytes::from_static(AAC))];
    packets.extend((0..SECONDS * FRAMES_PER_SECOND).map(|frame| {
        let is_key = frame.is_multiple_of(2 * FRAMES_PER_SECOND);
        packet(Kind::Video, frame * 1_000 / FRAMES_PER_SECOND, if is_key { &key } else { &inter })
    }));
    packets.extend((0..SECONDS * 375 / 8).map(|frame| packet(Kind::Audio, frame * 64 / 3, &sound)));
    packets.sort_by_key(|packet| packet.time.as_millis());
    packets
}

fn payload_bytes(packets: &[Packet]) -> u64 {
    let header = |packet: &Packet| if packet.track.kind == Kind::Video { 5 } else { 2 };
    packets.iter().skip(2).map(|packet| (packet.payload.len() - header(packet)) as u64).sum()
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
