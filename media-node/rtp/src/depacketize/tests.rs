use std::{sync::LazyLock, time::Duration};

use media_core::{Kind, Timescale};
use proptest::prelude::*;
use rtmp::tag::{Multitrack, VideoTag};

use super::*;
use crate::{
    MaxPayload,
    packetize::{Video, VideoPacketizer},
};

#[allow(clippy::disallowed_methods, reason = "any instant will do to count from")]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

const SPS: &[u8] = &[0x67, 0x42, 0xC0, 0x1F, 0x8C, 0x8D];
const PPS: &[u8] = &[0x68, 0xCE, 0x3C, 0x80];
const IDR: &[u8] = &[0x65, 0x88, 0x80];
const SLICE: &[u8] = &[0x41, 0x9A, 0x01];

#[test]
fn a_keyframe_of_h264_comes_with_its_configuration_once() {
    let mut stage = Stage::new(Codec::H264);
    stage.frame(&[&stap(&[SPS, PPS]), IDR]);
    stage.frame(&[SLICE]);
    stage.frame(&[&stap(&[SPS, PPS]), IDR]);

    let record = [&[0x17, 0, 0, 0, 0, 1, 0x42, 0xC0, 0x1F, 0xFF, 0xE1, 0, 6][..], SPS, &[1, 0, 4], PPS].concat();
    assert_eq!(
        stage.payloads(),
        [
            (Role::Header, record),
            (Role::Key, tagged(&[0x17, 1, 0, 0, 0], &[IDR])),
            (Role::Dependent, tagged(&[0x27, 1, 0, 0, 0], &[SLICE])),
            (Role::Key, tagged(&[0x17, 1, 0, 0, 0], &[IDR])),
        ]
    );
}

#[test]
fn new_parameter_sets_are_a_new_configuration() {
    let mut stage = Stage::new(Codec::H264);
    let larger: &[u8] = &[0x67, 0x42, 0xC0, 0x28, 0x8C, 0x8D];
    stage.frame(&[SPS, PPS, IDR]);
    stage.frame(&[larger, PPS, IDR]);

    let roles: Vec<_> = stage.payloads().into_iter().map(|(role, payload)| (role, payload[8])).collect();
    assert_eq!(
        roles.iter().filter(|(role, _)| *role == Role::Header).map(|(_, level)| *level).collect::<Vec<_>>(),
        [0x1F, 0x28]
    );
}

#[test]
fn fragments_are_put_together() {
    let mut stage = Stage::new(Codec::H264);
    stage.frame(&[&stap(&[SPS, PPS]), &[0x7C, 0x85, 0x88], &[0x7C, 0x05, 1, 2], &[0x7C, 0x45, 3]]);

    assert_eq!(stage.payloads()[1], (Role::Key, tagged(&[0x17, 1, 0, 0, 0], &[&[0x65, 0x88, 1, 2, 3]])));
}

#[test]
fn after_a_loss_nothing_comes_until_a_keyframe() {
    let mut stage = Stage::new(Codec::H264);
    stage.frame(&[&stap(&[SPS, PPS]), IDR]);
    stage.sequence += 1;
    stage.frame(&[SLICE]);
    assert_eq!(stage.events.len(), 3, "{:?}", stage.events);
    assert!(matches!(stage.events[2], Event::Missing { first: 65_534, count: 1, .. }), "{:?}", stage.events);

    let (deadline, _) = stage.receiver.poll_timeout().unwrap();
    stage.receiver.handle_timeout(deadline, &mut stage.events);
    assert_eq!(stage.keyframes_needed(), 2, "at the loss, and for the frame that is left out");
    stage.now = deadline;
    stage.frame(&[SLICE]);
    stage.frame(&[&stap(&[SPS, PPS]), IDR]);
    stage.frame(&[SLICE]);

    let roles: Vec<_> = stage.payloads().into_iter().map(|(role, _)| role).collect();
    assert_eq!(roles, [Role::Header, Role::Key, Role::Key, Role::Dependent]);
}

#[test]
fn a_frame_that_does_not_follow_its_format_costs_its_group() {
    let mut stage = Stage::new(Codec::H264);
    stage.frame(&[&stap(&[SPS, PPS]), IDR]);
    // a fragment that begins in the middle
    stage.frame(&[&[0x7C, 0x01, 1]]);
    stage.frame(&[SLICE]);
    stage.frame(&[IDR]);

    let roles: Vec<_> = stage.payloads().into_iter().map(|(role, _)| role).collect();
    assert_eq!(roles, [Role::Header, Role::Key, Role::Key]);
    assert_eq!(stage.keyframes_needed(), 2);
}

#[test]
fn a_change_of_parameter_sets_within_a_group_stays_in_its_frame() {
    let mut stage = Stage::new(Codec::H264);
    let other: &[u8] = &[0x68, 0xCE, 0x3C, 0x81];
    stage.frame(&[SPS, PPS, IDR]);
    stage.frame(&[PPS, SLICE]);
    stage.frame(&[other, SLICE]);

    let payloads = stage.payloads();
    assert_eq!(payloads[2].1, tagged(&[0x27, 1, 0, 0, 0], &[SLICE]), "it is known");
    assert_eq!(payloads[3].1, tagged(&[0x27, 1, 0, 0, 0], &[other, SLICE]));
}

#[test]
fn a_frame_ends_where_the_next_begins_when_nobody_marks_it() {
    let mut stage = Stage::new(Codec::Vp8);
    stage.packet(&[0x10, 0x00, 1], false);
    stage.packet(&[0x00, 2], false);
    stage.timestamp += 3_000;
    stage.packet(&[0x10, 0x01, 3], false);
    stage.timestamp += 3_000;
    stage.packet(&[0x10, 0x01, 4], false);

    let payloads = stage.payloads();
    assert_eq!(
        payloads[1..],
        [(Role::Key, b"\x91vp08\x00\x01\x02".to_vec()), (Role::Dependent, b"\xA1vp08\x01\x03".to_vec())]
    );
}

#[test]
fn only_the_first_spatial_layer_of_vp9_is_taken() {
    let mut stage = Stage::new(Codec::Vp9);
    let keyframe = [0x82, 0x49, 0x83, 0x42, 0x00, 0x13, 0xF0, 0x0B, 0x30];
    let base = [&[0xA8, 0x80, 1, 0, 0][..], &keyframe].concat();
    stage.frame(&[&base, &[0xA8, 0x80, 1, 0x02, 0, 9, 9]]);

    assert_eq!(
        stage.payloads(),
        [
            (Role::Header, b"\x90vp09\x00\x00\x82\x02\x02\x02\0\0".to_vec()),
            (Role::Key, [&b"\x91vp09"[..], &keyframe].concat()),
        ]
    );
}

#[test]
fn opus_goes_on_after_a_loss() {
    let mut stage = Stage::new(Codec::Opus);
    stage.frame(&[&[0xF8, 1]]);
    stage.sequence += 1;
    stage.frame(&[&[0xF8, 2]]);
    let (deadline, _) = stage.receiver.poll_timeout().unwrap();
    stage.receiver.handle_timeout(deadline, &mut stage.events);

    assert_eq!(stage.keyframes_needed(), 0);
    let roles: Vec<_> = stage.payloads().into_iter().map(|(role, payload)| (role, payload.last().copied())).collect();
    assert_eq!(roles, [(Role::Header, Some(0)), (Role::Key, Some(1)), (Role::Key, Some(2))]);
}

#[test]
fn a_stream_that_begins_with_nothing_is_described_all_the_same() {
    let mut stage = Stage::new(Codec::Opus);
    stage.frame(&[&[]]);
    stage.frame(&[&[0xF8, 1]]);

    let roles: Vec<_> = stage.payloads().into_iter().map(|(role, _)| role).collect();
    assert_eq!(roles, [Role::Header, Role::Key]);
}

#[test]
fn times_go_on_where_timestamps_wrap() {
    let mut stage = Stage::new(Codec::Vp8);
    stage.timestamp = u32::MAX - 4_000;
    for _ in 0..4 {
        stage.frame(&[&[0x10, 0x00, 1]]);
    }

    let ticks: Vec<_> =
        stage.packets().filter(|packet| packet.role == Role::Key).map(|packet| packet.time.ticks()).collect();
    assert_eq!(ticks, [0, 3_000, 6_000, 9_000]);
}

#[test]
fn a_sender_that_counts_anew_goes_on_by_the_wall_clock() {
    let mut stage = Stage::new(Codec::Vp8);
    stage.frame(&[&[0x10, 0x00, 1]]);
    stage.timestamp = stage.timestamp.wrapping_add(900_000_000);
    stage.frame(&[&[0x10, 0x00, 1]]);
    stage.frame(&[&[0x10, 0x00, 1]]);

    let ticks: Vec<_> =
        stage.packets().filter(|packet| packet.role == Role::Key).map(|packet| packet.time.ticks()).collect();
    assert_eq!(ticks, [0, 2_970, 5_970], "the second is where it came, 33 ms after the first");
}

#[test]
fn the_second_track_of_a_kind_is_named_in_its_tags() {
    let second = Track { kind: Kind::Video, index: 1 };
    for (codec, payload) in [(Codec::H264, stap(&[SPS, PPS, IDR])), (Codec::Vp8, vec![0x10, 0x00, 1])] {
        let (mut first, mut other) = (Stage::new(codec), Stage::new(codec));
        other.receiver = Receiver::new(&[(second, codec)], *START);
        first.frame(&[&payload]);
        let rtp = Rtp { sequence: 9, timestamp: 7, marker: true, payload: payload.clone().into() };
        other.receiver.push(second, rtp, *START, &mut other.events);

        let data = |packet: &Packet| {
            let tag = VideoTag::parse(&packet.payload).unwrap();
            (tag.part, tag.keyframe, packet.payload[tag.data_offset..].to_vec(), tag.multitrack)
        };
        let (first, other): (Vec<_>, Vec<_>) =
            (first.packets().map(data).collect(), other.packets().map(data).collect());
        assert_eq!(other.len(), 2, "{codec}");
        for (first, other) in first.into_iter().zip(other) {
            assert_eq!((first.0, first.1, first.2), (other.0, other.1, other.2), "{codec}");
            assert_eq!((first.3, other.3), (None, Some(Multitrack::One { track: 1 })), "{codec}");
        }
    }
}

#[test]
fn packets_of_padding_fill_no_frame() {
    let mut stage = Stage::new(Codec::Vp8);
    stage.frame(&[&[0x10, 0x00, 1]]);
    stage.packet(&[], false);
    stage.frame(&[&[0x10, 0x00, 1]]);
    assert_eq!((stage.packets().count(), stage.keyframes_needed()), (3, 0));
}

#[test]
fn sender_reports_put_sound_and_picture_on_one_clock() {
    let (video, audio) = (Track::first(Kind::Video), Track::first(Kind::Audio));
    let mut receiver = Receiver::new(&[(video, Codec::Vp8), (audio, Codec::Opus)], *START);
    let mut events = Vec::new();
    let at = |millis| *START + Duration::from_millis(millis);
    let mut push = |receiver: &mut Receiver, track: Track, sequence, timestamp, payload: &'static [u8], now| {
        let payload = Bytes::from_static(payload);
        receiver.push(track, Rtp { sequence, timestamp, marker: true, payload }, now, &mut events);
    };
    // both were taken at the same instant; sound is 200 ms late on its way
    push(&mut receiver, video, 1, 1_000, &[0x10, 0x00, 1], at(0));
    push(&mut receiver, audio, 1, 5_000, &[0xF8, 1], at(200));
    let ntp = |millis: u64| (3_900_000_000_u64 << 32) + (millis << 32) / 1_000;
    receiver.sender_report(video, SenderReport { ntp: ntp(0), timestamp: 1_000 });
    receiver.sender_report(audio, SenderReport { ntp: ntp(1_000), timestamp: 5_000 + 48_000 });

    push(&mut receiver, video, 2, 1_000 + 90_000, &[0x10, 0x00, 1], at(1_000));
    push(&mut receiver, audio, 2, 5_000 + 48_000, &[0xF8, 1], at(1_200));

    let times = |track| {
        let of_track = |event: &Event| match event {
            Event::Packet(packet) if packet.track == track && packet.role == Role::Key => Some(packet.time.as_millis()),
            Event::Packet(_) | Event::Missing { .. } | Event::KeyframeNeeded(_) => None,
        };
        events.iter().filter_map(of_track).collect::<Vec<_>>()
    };
    assert_eq!(times(video), [0, 1_000]);
    assert_eq!(times(audio), [200, 1_000]);
}

#[test]
fn pictures_that_are_shown_before_the_one_they_need_keep_their_order() {
    let mut stage = Stage::new(Codec::H264);
    stage.frame(&[SPS, PPS, IDR]);
    stage.timestamp += 9_000;
    stage.frame(&[SLICE]);
    stage.timestamp -= 9_000;
    stage.frame(&[SLICE]);

    let times: Vec<_> = stage
        .packets()
        .filter(|packet| packet.role != Role::Header)
        .map(|packet| (packet.time.ticks(), packet.payload.slice(2..5)))
        .collect();
    assert_eq!(times[1].0, 12_000);
    assert_eq!(times[2].0, 12_001, "decoded after the one it needs");
    assert_eq!(times[2].1, [0xFF, 0xFF, 0xBD][..], "shown 67 ms before");
}

proptest! {
    /// Frames of any units come out as they went in, through loss that is resent, reordering and duplication.
    #[test]
    fn what_was_packetized_comes_back(
        codec in prop::sample::select(vec![Codec::H264, Codec::H265, Codec::Vp8, Codec::Av1]),
        frames in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 3..3_000), 1..4), 1..12),
        swaps in prop::collection::vec((any::<prop::sample::Index>(), 1_usize..20), 0..30),
        first in any::<u16>(),
    ) {
        let packets = stream(codec, &frames);
        let mut packetizer = VideoPacketizer::new(MaxPayload::new(200).unwrap());
        let mut sent = Vec::new();
        for packet in &packets {
            if let Video::Frame(frame) = packetizer.push(packet) {
                for payload in &frame.payloads {
                    let mut bytes = Vec::new();
                    payload.write_to(&mut bytes);
                    let sequence = first.wrapping_add(u16::try_from(sent.len()).unwrap());
                    let (timestamp, marker) = (frame.timestamp, payload.marker);
                    sent.push(Rtp { sequence, timestamp, marker, payload: bytes.into() });
                }
            }
        }
        let mut order: Vec<_> = (0..sent.len()).collect();
        for (at, by) in &swaps {
            let at = at.index(order.len());
            // the first packet says where the numbers begin
            if at > 0 && at + by < order.len() {
                order.swap(at, at + by);
            }
        }
        order.extend(order.clone().iter().rev().take(5));

        let track = Track::first(Kind::Video);
        let (mut receiver, mut events) = (Receiver::new(&[(track, codec)], *START), Vec::new());
        for index in order {
            receiver.push(track, sent[index].clone(), *START, &mut events);
        }

        let (mut came, mut records) = (Vec::new(), 0);
        for event in events {
            match event {
                Event::Packet(packet) if packet.role == Role::Header => records += 1,
                Event::Packet(packet) => came.push(packet.payload),
                Event::Missing { .. } => {}
                Event::KeyframeNeeded(_) => prop_assert!(false, "nothing was lost"),
            }
        }
        prop_assert_eq!(records, 1);
        let frames: Vec<_> = packets.iter().filter(|packet| packet.role != Role::Header).map(|packet| packet.payload.clone()).collect();
        prop_assert_eq!(came, frames);
    }

    #[test]
    fn no_bytes_make_it_panic(
        codec in prop::sample::select(vec![Codec::H264, Codec::H265, Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::Opus]),
        packets in prop::collection::vec((0_u16..8, 0_u32..4, any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 0..60),
    ) {
        let track = Track::first(Kind::Video);
        let (mut receiver, mut events) = (Receiver::new(&[(track, codec)], *START), Vec::new());
        for (index, (step, timestamp, marker, payload)) in (0_u16..).zip(packets) {
            let sequence = index.wrapping_add(step);
            receiver.push(track, Rtp { sequence, timestamp, marker, payload: payload.into() }, *START, &mut events);
        }
        receiver.handle_timeout(*START + MAX_WAIT, &mut events);
    }
}

/// A stream whose first frame is a keyframe; its frames are made of these units.
fn stream(codec: Codec, frames: &[Vec<Vec<u8>>]) -> Vec<Packet> {
    let header: Vec<u8> = match codec {
        Codec::H264 => [&[0x17, 0, 0, 0, 0, 1, 0x42, 0xC0, 0x1F, 0xFF, 0xE1, 0, 6][..], SPS, &[1, 0, 4], PPS].concat(),
        Codec::H265 => {
            let sets = [HEVC_VPS, HEVC_SPS, HEVC_PPS].map(Bytes::from_static);
            [b"\x90hvc1", &crate::nal::write_record(crate::nal::Standard::H265, &sets).unwrap()[..]].concat()
        }
        Codec::Av1 => [b"\x90av01", &[0x81, 0, 0x0C, 0][..], AV1_SEQUENCE].concat(),
        Codec::Vp8 => b"\x90vp08\0\0\x82\x02\x02\x02\0\0".to_vec(),
        Codec::Vp9 | Codec::Opus => Vec::new(),
    };
    let packet = |millis, role, payload: Vec<u8>| {
        Packet::new(Track::first(Kind::Video), MediaTime::new(millis, Timescale::MILLIS), role, payload.into())
    };
    let mut packets = vec![packet(0, Role::Header, header)];
    for (index, units) in (0_i64..).zip(frames) {
        let key = index == 0;
        let role = if key { Role::Key } else { Role::Dependent };
        let payload = match codec {
            Codec::H264 => {
                let head: &[u8] = if key { &[0x17, 1, 0, 0, 0] } else { &[0x27, 1, 0, 0, 0] };
                let units = units.iter().map(|unit| [&[if key { 0x65 } else { 0x41 }, 0x80][..], unit].concat());
                let units: Vec<_> = units.collect();
                tagged(head, &units.iter().map(Vec::as_slice).collect::<Vec<_>>())
            }
            Codec::H265 => {
                let head: &[u8] = if key { b"\x91hvc1\0\0\0" } else { b"\xA1hvc1\0\0\0" };
                let units = units.iter().map(|unit| [&[if key { 0x26 } else { 0x02 }, 1, 0x80][..], unit].concat());
                let units: Vec<_> = units.collect();
                tagged(head, &units.iter().map(Vec::as_slice).collect::<Vec<_>>())
            }
            Codec::Av1 => {
                let mut frame = if key { [b"\x91av01", AV1_SEQUENCE].concat() } else { b"\xA1av01".to_vec() };
                for unit in units {
                    frame.push(0x32);
                    crate::obu::write_leb128(unit.len() + 1, &mut frame);
                    frame.push(if key { 0x10 } else { 0x30 });
                    frame.extend(unit);
                }
                frame
            }
            Codec::Vp8 | Codec::Vp9 | Codec::Opus => {
                let head: &[u8] = if key { b"\x91vp08\0" } else { b"\xA1vp08\x01" };
                [head, &units.concat()].concat()
            }
        };
        packets.push(packet(index * 40, role, payload));
    }
    packets
}

/// A sequence header of SVT-AV1, with its size: 320x180, 8 bits, 4:2:0.
const AV1_SEQUENCE: &[u8] = &[0x0A, 0x0B, 2, 0, 0, 5, 0x21, 0xE7, 0xF6, 0x62, 0x57, 0xC8, 2];
const HEVC_VPS: &[u8] = &[0x40, 1, 0x0C];
/// Main profile, level 2: 320x180, 8 bits, 4:2:0.
const HEVC_SPS: &[u8] = &[
    0x42, 0x01, 0x01, 0x01, 0x60, 0x00, 0x00, 0x03, 0x00, 0x90, 0x00, 0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x3C, 0xA0,
    0x0A, 0x08, 0x0B, 0x9F, 0x79, 0x65,
];
const HEVC_PPS: &[u8] = &[0x44, 1, 0xC1];

struct Stage {
    receiver: Receiver,
    events: Vec<Event>,
    now: Instant,
    sequence: u16,
    timestamp: u32,
}

impl Stage {
    const TRACK: Track = Track::first(Kind::Video);

    fn new(codec: Codec) -> Self {
        let receiver = Receiver::new(&[(Self::TRACK, codec)], *START);
        Self { receiver, events: Vec::new(), now: *START, sequence: 65_532, timestamp: 7 }
    }

    /// Sends a frame, 33 ms after the one before.
    fn frame(&mut self, payloads: &[&[u8]]) {
        for (index, payload) in payloads.iter().enumerate() {
            self.packet(payload, index + 1 == payloads.len());
        }
        self.timestamp = self.timestamp.wrapping_add(3_000);
        self.now += Duration::from_millis(33);
    }

    fn packet(&mut self, payload: &[u8], marker: bool) {
        let rtp = Rtp {
            sequence: self.sequence,
            timestamp: self.timestamp,
            marker,
            payload: Bytes::copy_from_slice(payload),
        };
        self.sequence = self.sequence.wrapping_add(1);
        self.receiver.push(Self::TRACK, rtp, self.now, &mut self.events);
    }

    fn packets(&self) -> impl Iterator<Item = &Packet> {
        self.events.iter().filter_map(|event| match event {
            Event::Packet(packet) => Some(packet),
            Event::Missing { .. } | Event::KeyframeNeeded(_) => None,
        })
    }

    fn payloads(&self) -> Vec<(Role, Vec<u8>)> {
        self.packets().map(|packet| (packet.role, packet.payload.to_vec())).collect()
    }

    fn keyframes_needed(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::KeyframeNeeded(_))).count()
    }
}

fn stap(units: &[&[u8]]) -> Vec<u8> {
    let mut payload = vec![0x78];
    for unit in units {
        payload.extend(u16::try_from(unit.len()).unwrap().to_be_bytes());
        payload.extend(*unit);
    }
    payload
}

fn tagged(head: &[u8], units: &[&[u8]]) -> Vec<u8> {
    let mut tag = head.to_vec();
    for unit in units {
        tag.extend(u32::try_from(unit.len()).unwrap().to_be_bytes());
        tag.extend(*unit);
    }
    tag
}
