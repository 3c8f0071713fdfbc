use media_core::Role;
use proptest::prelude::*;

use super::*;

const AVC_HEADER: &[u8] = &[0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1F, 0xFF, 0xE1, 0, 3, 0x67, 0x64, 0, 1, 0, 2, 0x68, 0xEE];

#[test]
fn a_keyframe_of_h264_is_its_parameter_sets_then_its_fragments() {
    let mut packetizer = h264();
    let slice: Vec<u8> = std::iter::once(0x65).chain((0..2_500_u32).map(|byte| byte as u8)).collect();

    let frame = sent(packetizer.push(&avc(40, 80, true, &[&[9, 0xF0], &[6, 5], &slice])));

    assert_eq!((frame.timestamp, frame.keyframe, frame.codec), (120 * 90, true, Codec::H264));
    let payloads: Vec<_> = frame.payloads.iter().map(written).collect();
    assert_eq!(payloads[0], [0x78, 0, 3, 0x67, 0x64, 0, 0, 2, 0x68, 0xEE], "SPS and PPS in one STAP-A");
    assert_eq!(payloads[1], [6, 5], "no delimiter, but supplemental information");
    let heads: Vec<_> = payloads[2..].iter().map(|payload| (payload[0], payload[1], payload.len())).collect();
    assert_eq!(heads, [(0x7C, 0x85, 1_180), (0x7C, 0x05, 1_180), (0x7C, 0x45, 2_500 - 2 * 1_178 + 2)]);
    let markers: Vec<_> = frame.payloads.iter().map(|payload| payload.marker).collect();
    assert_eq!(markers, [false, false, false, false, true]);
}

#[test]
fn what_times_a_model_decoder_is_not_sent() {
    let frame = sent(h264().push(&avc(
        0,
        0,
        true,
        &[&[0x67, 9], &[0x68, 9], &[6, 0, 1, 7, 0x80], &[6, 1, 1, 7, 0x80], &[0x65, 1]],
    )));

    assert_eq!(written(frame.payloads.last().unwrap()), [0x65, 1]);
    assert_eq!(frame.payloads.len(), 2, "the parameter sets and the picture");
}

#[test]
fn payloads_share_the_memory_of_the_frame() {
    let packet = avc(0, 0, true, &[&vec![0x65; 5_000]]);
    let memory = packet.payload.as_ptr_range();

    let frame = sent(h264().push(&packet));

    for payload in &frame.payloads[1..] {
        let [_, body] = payload.parts();
        assert!(memory.contains(&body.as_ptr()), "{payload:?}");
    }
}

#[test]
fn sets_in_the_frame_are_not_sent_twice() {
    let frame = sent(h264().push(&avc(0, 0, true, &[&[0x67, 9], &[0x68, 9], &[0x65, 1]])));

    assert_eq!(
        frame.payloads.iter().map(written).collect::<Vec<_>>(),
        [vec![0x78, 0, 2, 0x67, 9, 0, 2, 0x68, 9], vec![0x65, 1],]
    );
}

#[test]
fn a_stream_with_b_frames_stops_until_a_group_has_none() {
    let mut packetizer = h264();
    let mut push = |time, composition, key| {
        let unit: &[u8] = if key { &[0x65, 1] } else { &[0x41, 1] };
        packetizer.push(&avc(time, composition, key, &[unit]))
    };

    assert!(matches!(push(0, 80, true), Video::Frame(_)));
    assert!(matches!(push(40, 160, false), Video::Frame(_)));
    assert_eq!(push(80, 40, false), Video::BFrames);
    assert_eq!(push(120, 80, false), Video::Nothing);
    assert_eq!(push(160, 0, true), Video::Nothing, "the group before had them");
    assert_eq!(push(200, 80, false), Video::Nothing);
    assert_eq!(push(240, 80, false), Video::Nothing);
    assert!(matches!(push(280, 0, true), Video::Frame(_)), "the group before had none");
    assert!(matches!(push(320, 0, false), Video::Frame(_)));
}

#[test]
fn nothing_is_sent_before_a_keyframe() {
    let mut packetizer = h264();
    assert_eq!(packetizer.push(&avc(0, 0, false, &[&[0x41, 1]])), Video::Nothing);
    assert!(matches!(packetizer.push(&avc(40, 0, true, &[&[0x65, 1]])), Video::Frame(_)));
}

#[test]
fn a_frame_of_h265_keeps_the_layer_and_the_number_in_its_fragments() {
    let mut packetizer = VideoPacketizer::new(MaxPayload::new(64).unwrap());
    let sets = [vec![0x40, 1, 7], vec![0x42, 1, 8], vec![0x44, 1, 9]];
    let mut record = vec![1; 21];
    record.extend([3, 3]);
    for set in &sets {
        record.extend([set[0] >> 1, 0, 1, 0, 3]);
        record.extend(set);
    }
    assert_eq!(packetizer.push(&video(0, &[b"\x90hvc1", &record])), Video::Nothing);

    let slice = [&[0x26, 1][..], &[5; 100]].concat();
    let frame = sent(packetizer.push(&video(0, &[b"\x93hvc1", &[0, 0, 0, 102], &slice])));

    let payloads: Vec<_> = frame.payloads.iter().map(written).collect();
    assert_eq!(payloads[0], [0x60, 1, 0, 3, 0x40, 1, 7, 0, 3, 0x42, 1, 8, 0, 3, 0x44, 1, 9]);
    assert_eq!(payloads[1][..3], [0x62, 1, 0x80 | 19]);
    assert_eq!(payloads[2][..3], [0x62, 1, 0x40 | 19]);
    assert_eq!([&payloads[1][3..], &payloads[2][3..]].concat(), [5; 100]);
}

#[test]
fn a_keyframe_of_av1_begins_a_sequence_and_has_a_sequence_header() {
    let mut packetizer = VideoPacketizer::new(MaxPayload::new(64).unwrap());
    let header = [0x0A, 3, 1, 2, 3];
    assert_eq!(packetizer.push(&video(0, &[b"\x90av01", &[0x81, 0, 0, 0], &header])), Video::Nothing);

    let frame = [&[0x12, 0, 0x32, 100][..], &[7; 100]].concat();
    let frame = sent(packetizer.push(&video(0, &[b"\x91av01", &frame])));

    let payloads: Vec<_> = frame.payloads.iter().map(written).collect();
    assert_eq!(payloads.len(), 2);
    assert_eq!(payloads[0][..7], [0x68, 4, 0x08, 1, 2, 3, 0x30], "the configuration's header, without its size");
    assert_eq!((payloads[0].len(), payloads[1][0], payloads[1].len()), (62, 0x90, 46));
}

/// Chromium takes a payload that begins with a unit for the begin of a frame, and shows nothing of one that it thus cuts.
#[test]
fn a_payload_of_av1_that_is_not_its_frames_first_goes_on_in_a_unit() {
    const GOES_ON: u8 = 0x80;
    const GOES_ON_NEXT: u8 = 0x40;
    for length in 1..=120 {
        let mut packetizer = VideoPacketizer::new(MaxPayload::new(64).unwrap());
        let unit = |length: u8| [&[0x32, length][..], &vec![7; length.into()]].concat();
        let frame = [&[0x0A, 1, 9][..], &unit(length), &unit(5), &unit(6), &unit(7), &unit(120)].concat();
        let frame = sent(packetizer.push(&video(0, &[b"\x91av01", &frame])));

        let heads: Vec<_> = frame.payloads.iter().map(|payload| written(payload)[0]).collect();
        let (last, rest) = heads.split_last().unwrap();
        assert!(rest.iter().all(|head| head & GOES_ON_NEXT != 0) && last & GOES_ON_NEXT == 0, "{length}: {heads:x?}");
        assert!(heads[1..].iter().all(|head| head & GOES_ON != 0) && heads[0] & GOES_ON == 0, "{length}: {heads:x?}");
        assert!(frame.payloads.iter().all(|payload| written(payload).len() <= 64), "{length}");
    }
}

#[test]
fn small_units_of_av1_share_a_payload() {
    let mut packetizer = VideoPacketizer::new(MaxPayload::DEFAULT);
    let frame = sent(packetizer.push(&video(0, &[b"\x91av01", &[0x12, 0, 0x0A, 1, 9, 0x2A, 1, 8, 0x32, 2, 7, 7]])));

    assert_eq!(frame.payloads.iter().map(written).collect::<Vec<_>>(), [[0x38, 2, 8, 9, 2, 0x28, 8, 0x30, 7, 7]]);
}

#[test]
fn pictures_of_vp8_and_vp9_are_numbered() {
    let mut packetizer = VideoPacketizer::new(MaxPayload::new(64).unwrap());
    let body = [7; 100];
    let mut heads = |four_cc: &[u8; 5], length| {
        let frame = sent(packetizer.push(&video(0, &[four_cc, &body])));
        frame.payloads.iter().map(|payload| written(payload)[..length].to_vec()).collect::<Vec<_>>()
    };

    assert_eq!(heads(b"\x91vp08", 4), [[0x90, 0x80, 0x80, 0], [0x80, 0x80, 0x80, 0]]);
    assert_eq!(heads(b"\xA1vp08", 4), [[0x90, 0x80, 0x80, 1], [0x80, 0x80, 0x80, 1]]);
    assert_eq!(heads(b"\x91vp09", 3), [[0x88, 0x80, 2], [0x84, 0x80, 2]]);
    assert_eq!(heads(b"\xA1vp09", 3), [[0xC8, 0x80, 3], [0xC4, 0x80, 3]]);
}

#[test]
fn a_keyframe_of_vp9_says_its_size() {
    let keyframe = [0x82, 0x49, 0x83, 0x42, 0x00, 0x13, 0xF0, 0x0B, 0x30];
    let frame = sent(VideoPacketizer::new(MaxPayload::DEFAULT).push(&video(0, &[b"\x91vp09", &keyframe])));

    assert_eq!(written(&frame.payloads[0])[..8], [0x8E, 0x80, 0, 0x10, 1, 64, 0, 180]);
}

#[test]
fn opus_is_a_payload_and_other_sound_is_named() {
    let mut packetizer = AudioPacketizer::default();
    let packet = |time, payload: &[u8]| {
        let payload = Bytes::copy_from_slice(payload);
        Packet::new(Track::first(Kind::Audio), MediaTime::new(time, Timescale::MILLIS), Role::Key, payload)
    };

    assert_eq!(packetizer.push(&packet(0, b"\x90OpusOpusHead")), Audio::Nothing);
    let Audio::Frame(frame) = packetizer.push(&packet(1_000, b"\x91Opus\xF8\x01\x02")) else { panic!("a frame") };
    assert_eq!((frame.timestamp, frame.payloads.len()), (48_000, 1));
    assert_eq!(written(&frame.payloads[0]), [0xF8, 1, 2]);
    let Audio::Frame(frame) = packetizer.push(&packet(1_021, b"\x91Opus\xF8\x01\x02")) else { panic!("a frame") };
    assert_eq!(frame.timestamp, 48_960);
    assert_eq!(packetizer.push(&packet(0, &[0xAF, 1, 2])), Audio::Unsupported(rtmp::tag::AudioCodec::Aac));
}

proptest! {
    #[test]
    fn no_payload_is_empty_or_too_long(
        max in 64_usize..1_500,
        head in prop::sample::select(vec![
            &b"\x17\x01\0\0\0"[..], b"\x93hvc1", b"\x91av01", b"\x91vp08", b"\x91vp09",
        ]),
        units in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3_000), 0..6),
    ) {
        let mut packetizer = VideoPacketizer::new(MaxPayload::new(max).unwrap());
        packetizer.push(&video(0, &[AVC_HEADER]));
        if head.ends_with(b"hvc1") {
            packetizer.push(&video(0, &[b"\x90hvc1", &[3; 22], &[0]]));
        }
        let units: Vec<u8> = units.iter().flat_map(|unit| lengthed(unit)).collect();
        if let Video::Frame(frame) = packetizer.push(&video(0, &[head, &units])) {
            prop_assert!(frame.payloads.iter().all(|payload| !payload.is_empty() && payload.len() <= max));
            prop_assert!(frame.payloads.iter().rev().skip(1).all(|payload| !payload.marker));
            prop_assert!(frame.payloads.last().is_some_and(|payload| payload.marker));
        }
    }
}

fn h264() -> VideoPacketizer {
    let mut packetizer = VideoPacketizer::new(MaxPayload::DEFAULT);
    assert_eq!(packetizer.push(&video(0, &[AVC_HEADER])), Video::Nothing);
    packetizer
}

fn avc(millis: i64, composition: u8, keyframe: bool, units: &[&[u8]]) -> Packet {
    let first = if keyframe { 0x17 } else { 0x27 };
    let units: Vec<u8> = units.iter().flat_map(|unit| lengthed(unit)).collect();
    video(millis, &[&[first, 1, 0, 0, composition], &units])
}

fn lengthed(unit: &[u8]) -> Vec<u8> {
    [&u32::try_from(unit.len()).unwrap().to_be_bytes(), unit].concat()
}

fn video(millis: i64, parts: &[&[u8]]) -> Packet {
    let time = MediaTime::new(millis, Timescale::MILLIS);
    Packet::new(Track::first(Kind::Video), time, Role::Dependent, parts.concat().into())
}

fn sent(video: Video) -> Frame {
    let Video::Frame(frame) = video else { panic!("no frame: {video:?}") };
    frame
}

fn written(payload: &Payload) -> Vec<u8> {
    let mut bytes = Vec::new();
    payload.write_to(&mut bytes);
    bytes
}
