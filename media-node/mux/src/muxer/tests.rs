use bytes::Bytes;
use media_core::{Kind, MediaTime, Role, Timescale, Track};
use proptest::prelude::*;

use super::*;
use crate::{codec::tests::AVCC, fragment};

const AAC: &[u8] = &[0xAF, 0, 0x11, 0x90];
const AAC_44100: &[u8] = &[0xAF, 0, 0x12, 0x10];

#[test]
fn a_stream_becomes_an_init_and_parts_in_segments() {
    let mut stream = Stream::new();
    stream.headers();
    for millis in (0..4_200).step_by(20) {
        stream.video_at(millis, millis % 2_000 == 0);
        stream.audio_at(millis);
    }
    let events = stream.end();

    assert_eq!(events.iter().filter(|event| matches!(event, Event::Init(_))).count(), 1);
    let segments = segments(&events);
    let lengths: Vec<_> = segments.iter().map(|segment| (segment.duration.as_millis(), segment.independent)).collect();
    assert_eq!(lengths[..2], [(2_000, true), (2_000, true)]);
    assert!(lengths.len() == 3 && lengths[2].0.abs_diff(200) < 60, "{lengths:?}");
    let parts = parts(&events);
    assert!(parts.iter().all(|part| part.duration <= Duration::from_millis(300)), "{parts:?}");
    let first: Vec<_> = parts.iter().filter(|part| part.segment == 0).map(|part| part.duration.as_millis()).collect();
    assert_eq!(first, [300, 300, 300, 300, 300, 300, 200]);
    assert!(parts.iter().all(|part| part.independent == (part.index == 0)), "{parts:?}");
}

#[test]
fn segments_without_a_keyframe_end_at_the_maximum_and_the_next_keyframe_puts_it_right() {
    let mut stream = Stream::new();
    stream.headers();
    for millis in (0..12_000).step_by(40) {
        stream.video_at(millis, millis == 0 || millis == 9_000);
        stream.audio_at(millis);
    }
    let events = stream.end();

    let lengths: Vec<_> =
        segments(&events).iter().map(|segment| (segment.duration.as_millis(), segment.independent)).collect();
    assert_eq!(lengths, [(4_000, true), (4_000, false), (1_000, false), (3_000, true)]);
}

#[test]
fn audio_alone_is_cut_by_its_length() {
    let mut stream = Stream::new();
    stream.push(Kind::Audio, 0, AAC);
    for millis in (0..5_000).step_by(20) {
        stream.audio_at(millis);
    }
    let events = stream.end();

    assert_eq!(init(&events).codecs(), "mp4a.40.2");
    let segments = segments(&events);
    assert!(segments.iter().all(|segment| segment.independent));
    assert!(segments.iter().take(2).all(|segment| segment.duration.as_millis().abs_diff(2_000) < 60), "{segments:?}");
    assert!(parts(&events).iter().all(|part| part.independent));
}

#[test]
fn a_last_segment_is_as_long_as_its_parts() {
    let mut stream = Stream::new();
    stream.headers();
    for millis in (0..=294).step_by(21) {
        stream.audio_at(millis);
        if millis % 2 == 0 && millis < 252 {
            stream.video_at(millis, millis == 0);
        }
    }
    let events = stream.end();

    let [segment] = segments(&events)[..] else { panic!("one segment") };
    // its last sound begins within the part and lasts longer
    assert_eq!(parts(&events).iter().map(|part| part.duration).sum::<Duration>(), segment.duration);
}

#[test]
fn a_track_that_comes_within_a_second_is_in_the_first_init() {
    let mut stream = Stream::new();
    stream.headers();
    for millis in (0..800).step_by(40) {
        stream.video_at(millis, millis == 0);
    }
    assert!(stream.events.is_empty(), "the other track is waited for: {:?}", stream.events);
    stream.audio_at(790);

    assert_eq!(init(&stream.end()).codecs(), "avc1.64001F,mp4a.40.2");
}

#[test]
fn a_track_that_comes_later_begins_a_new_output() {
    let mut stream = Stream::new();
    stream.headers();
    for millis in (0..5_000).step_by(40) {
        stream.video_at(millis, millis % 2_000 == 0);
        if millis >= 3_000 {
            stream.audio_at(millis);
        }
    }
    assert_eq!(stream.muxer.take_skipped().before_keyframe, 25, "no picture is lost for it");
    let events = stream.end();

    assert_eq!(outline(&events), ["init avc1.64001F", "Tracks", "init avc1.64001F,mp4a.40.2"]);
    let frames: u32 = segments(&events).iter().map(|segment| segment.frames).sum();
    assert_eq!(frames, 125);
}

#[test]
fn a_codec_that_mp4_cannot_hold_is_named_once_and_the_rest_goes_on() {
    let mut stream = Stream::new();
    stream.video_header();
    for millis in (0..1_000).step_by(40) {
        stream.push(Kind::Audio, millis, b"\x2F\xFFmp3");
        stream.video_at(millis, millis == 0);
    }
    let events = stream.end();

    assert_eq!(outline(&events), ["MP3 cannot be recorded or played over HLS", "init avc1.64001F"]);
}

#[test]
fn another_configuration_begins_a_new_output_and_a_repeated_one_does_not() {
    let mut stream = Stream::new();
    stream.headers();
    for millis in (0..3_000).step_by(20) {
        match millis {
            1_000 => stream.headers(),
            1_500 => stream.push(Kind::Audio, millis, AAC_44100),
            _ => {}
        }
        stream.video_at(millis, millis % 1_000 == 0);
        stream.audio_at(millis);
    }
    let events = stream.end();

    let codecs = "init avc1.64001F,mp4a.40.2";
    assert_eq!(outline(&events), [codecs, "Configuration", codecs]);
    let segments: Vec<_> = segments(&events).iter().map(|segment| segment.number).collect();
    assert_eq!(segments, (0..segments.len() as u64).collect::<Vec<_>>(), "segments count on");
}

#[test]
fn silence_is_a_gap_and_a_clock_that_jumps_leaves_none() {
    let mut stream = Stream::new();
    stream.headers();
    let play = |stream: &mut Stream, from: i64, to: i64| {
        for millis in (from..to).step_by(20) {
            stream.video_at(millis, millis == from);
            stream.audio_at(millis);
        }
    };
    play(&mut stream, 0, 1_000);
    play(&mut stream, 6_000, 7_000);
    play(&mut stream, 9_000_000, 9_001_000);
    play(&mut stream, 0, 1_000);
    let events = stream.end();

    assert_eq!(outline(&events), ["init avc1.64001F,mp4a.40.2", "Gap", "Clock", "Clock"]);
    let segments = segments(&events);
    let times: Vec<_> = segments.iter().map(|segment| segment.start.as_millis()).collect();
    assert_eq!(times[..2], [0, 6_000]);
    assert!((6_980..7_060).contains(&times[2]) && (7_960..8_120).contains(&times[3]), "{times:?}");
    // what was in step stays in step
    let apart = |run: &[(u64, u64)]| run.iter().map(|(video, audio)| (video / 90).abs_diff(audio / 48)).max();
    let firsts: Vec<_> = parts(&events)
        .iter()
        .filter(|part| part.index == 0)
        .filter_map(|part| match part.fragment.runs() {
            [video, audio] => Some((video.decode_time, audio.decode_time)),
            _ => None,
        })
        .collect();
    assert!(apart(&firsts).is_some_and(|apart| apart <= 50), "{firsts:?}");
}

#[test]
fn audio_is_counted_in_samples_until_it_drifts() {
    let mut stream = Stream::new();
    stream.push(Kind::Audio, 0, AAC);
    // 1,024 samples are 21.3 ms: the publisher's clock is rounded, and later 100 ms ahead
    for frame in 0..200 {
        stream.audio_at(frame * 64 / 3 + if frame >= 100 { 100 } else { 0 });
    }
    let durations: Vec<_> =
        parts(&stream.end()).iter().flat_map(|part| part.fragment.runs()[0].samples.clone()).collect();

    let others: Vec<_> = durations.iter().enumerate().filter(|(_, sample)| sample.duration != 1_024).collect();
    assert!(matches!(others[..], [(99, sample)] if sample.duration.abs_diff(1_024 + 4_800) < 96), "{others:?}");
}

#[test]
fn frames_that_are_shown_before_they_are_decoded_keep_their_time() {
    let mut stream = Stream::new();
    stream.video_header();
    stream.push(Kind::Video, 0, b"\x17\x01\x00\x00\x00key");
    // a composition time of -40 ms; and a time that runs back, which decoding cannot
    stream.push(Kind::Video, 40, b"\x27\x01\xff\xff\xd8a");
    stream.push(Kind::Video, 30, b"\x27\x01\x00\x00\x0ab");
    let events = stream.end();

    let parts = parts(&events);
    let samples = &parts[0].fragment.runs()[0].samples;
    let shown: Vec<_> = samples.iter().map(|sample| (sample.duration, sample.composition)).collect();
    assert_eq!(shown[..2], [(3_600, 0), (1, -3_600)]);
    assert_eq!(shown[2].1, 900 - 901);
}

#[test]
fn video_that_pauses_does_not_hold_up_audio() {
    let mut stream = Stream::new();
    stream.headers();
    for millis in (0..9_000).step_by(20) {
        if !(1_000..6_000).contains(&millis) {
            stream.video_at(millis, millis == 0 || millis == 6_000);
        }
        stream.audio_at(millis);
    }
    let events = stream.end();

    assert_eq!(outline(&events), ["init avc1.64001F,mp4a.40.2"]);
    let parts = parts(&events);
    assert!(parts.iter().all(|part| part.duration <= Duration::from_millis(301)), "{parts:?}");
    let lengths: Vec<_> = segments(&events).iter().map(|segment| segment.duration).collect();
    assert!(lengths.iter().all(|length| *length <= Duration::from_secs(4)), "{lengths:?}");
}

#[test]
fn further_tracks_are_counted() {
    let mut stream = Stream::new();
    let track = Track { kind: Kind::Video, index: 1 };
    let packet = Packet::new(track, at(0), Role::Dependent, Bytes::from_static(b"\x96\x01hvc1\x01x"));
    stream.muxer.push(&packet, &mut stream.events);

    assert_eq!(stream.muxer.take_skipped(), Skipped { further_tracks: 1, ..Skipped::default() });
    assert_eq!(stream.muxer.take_skipped(), Skipped::default());
}

proptest! {
    #[test]
    fn whatever_comes_decoding_times_go_up_and_every_payload_is_there_once(
        packets in prop::collection::vec(packet(), 0..400),
        far in prop::collection::vec((any::<i64>(), packet()), 0..4),
    ) {
        let mut stream = Stream::new();
        stream.headers();
        let far = far.into_iter().map(|(millis, (kind, _, payload))| (kind, millis, payload));
        let (mut expected, mut empty) = (Vec::new(), 0);
        for (number, (kind, millis, payload)) in packets.into_iter().chain(far).enumerate() {
            let payload = payload.map(|key| frame(kind, key, number)).unwrap_or_default();
            stream.push_bytes(kind, millis, payload.clone().into());
            empty += u64::from(payload.is_empty());
            expected.push(payload);
        }
        let skipped = stream.muxer.take_skipped();
        let events = stream.end();

        let mut last: Vec<Option<u64>> = vec![None; 3];
        let mut sent = Vec::new();
        for event in &events {
            match event {
                Event::Init(_) => last.fill(None),
                Event::Part(part) => {
                    let mut payloads = part.fragment.chunks().skip(1);
                    for run in part.fragment.runs() {
                        let mut time = run.decode_time;
                        prop_assert!(last[run.track as usize].is_none_or(|last| last < time), "{last:?} {run:?}");
                        for sample in &run.samples {
                            let payload = payloads.next().unwrap();
                            prop_assert_eq!(payload.len(), sample.size as usize);
                            sent.push(payload.to_vec());
                            last[run.track as usize] = Some(time);
                            prop_assert!(sample.duration > 0);
                            time += u64::from(sample.duration);
                        }
                    }
                    prop_assert!(payloads.next().is_none());
                    let bytes: usize = part.fragment.chunks().map(Bytes::len).sum();
                    prop_assert_eq!(bytes as u64, part.fragment.len());
                }
                Event::SegmentEnd(_) | Event::Discontinuity(_) | Event::Unsupported(_) => {}
            }
        }
        let count = sent.len() as u64;
        let expected: Vec<_> = expected.into_iter().filter(|payload| payload.len() > 5).map(|payload| payload[5..].to_vec()).collect();
        prop_assert_eq!(count + skipped.unusable + skipped.before_keyframe, expected.len() as u64 + empty);
        sent.sort();
        sent.dedup();
        prop_assert_eq!(sent.len() as u64, count, "each once");
        prop_assert!(sent.iter().all(|payload| expected.contains(payload)));
        let by_segment = segments(&events).iter().map(|segment| segment.parts as usize).sum::<usize>();
        prop_assert_eq!(by_segment, parts(&events).len(), "each part is in a segment that ends");
        for segment in segments(&events) {
            let sum: Duration = parts(&events).iter().filter(|part| part.segment == segment.number).map(|part| part.duration).sum();
            prop_assert!(sum <= segment.duration + Duration::from_micros(100), "{:?} of {:?}", sum, segment);
        }
    }

    #[test]
    fn any_bytes_are_taken(packets in prop::collection::vec((any::<bool>(), 0..10_000_i64, prop::collection::vec(any::<u8>(), 0..40)), 0..60)) {
        let mut stream = Stream::new();
        for (video, millis, payload) in packets {
            let kind = if video { Kind::Video } else { Kind::Audio };
            stream.push_bytes(kind, millis, payload.into());
        }
        stream.end();
    }

    #[test]
    fn a_fragment_is_read_as_it_was_written(
        samples in prop::collection::vec((1_u32..100_000, 1_u32..20, -9_000_i32..9_000, any::<bool>()), 1..40),
        decode_time in 0_u64..1 << 40,
    ) {
        let samples: Vec<_> = samples
            .into_iter()
            .map(|(duration, size, composition, key)| fragment::Entry { duration, size, composition, key })
            .collect();
        let payloads = samples.iter().map(|sample| Bytes::from(vec![0; sample.size as usize])).collect();
        let run = fragment::Run { track: 1, decode_time, offset: 0, samples };
        let fragment = Fragment::new(1, vec![run], payloads);
        let bytes: Vec<u8> = fragment.chunks().flatten().copied().collect();

        let moof = <mp4_atom::Moof as mp4_atom::Decode>::decode(&mut &bytes[..]).unwrap();
        prop_assert_eq!(fragment::runs(&moof), Some(fragment.runs().to_vec()));
    }
}

/// A kind, a time, and whether it is a keyframe; `None` for a message without a payload.
fn packet() -> impl Strategy<Value = (Kind, i64, Option<bool>)> {
    let time = prop_oneof![8 => 0_i64..8_000, 1 => 0_i64..100_000, 1 => -9_000_000_i64..9_000_000];
    (prop_oneof![Just(Kind::Video), Just(Kind::Audio)], time, prop::option::weighted(0.95, any::<bool>()))
}

/// A frame with five bytes of header and a payload like no other.
fn frame(kind: Kind, key: bool, number: usize) -> Vec<u8> {
    let head = match (kind, key) {
        (Kind::Audio | Kind::Data, _) => &b"\x91mp4a"[..],
        (Kind::Video, true) => b"\x17\x01\x00\x00\x00",
        (Kind::Video, false) => b"\x27\x01\x00\x00\x50",
    };
    [head, &number.to_be_bytes()].concat()
}

fn at(millis: i64) -> MediaTime {
    MediaTime::new(millis, Timescale::MILLIS)
}

/// A publisher and what came of it.
struct Stream {
    muxer: Muxer,
    events: Vec<Event>,
}

impl Stream {
    fn new() -> Self {
        Self { muxer: Muxer::new(Policy::default()), events: Vec::new() }
    }

    fn headers(&mut self) {
        self.video_header();
        self.push(Kind::Audio, 0, AAC);
    }

    fn video_header(&mut self) {
        self.push_bytes(Kind::Video, 0, [b"\x17\x00\x00\x00\x00", AVCC].concat().into());
    }

    fn push(&mut self, kind: Kind, millis: i64, payload: &'static [u8]) {
        self.push_bytes(kind, millis, Bytes::from_static(payload));
    }

    fn push_bytes(&mut self, kind: Kind, millis: i64, payload: Bytes) {
        let packet = Packet::new(Track::first(kind), at(millis), Role::Dependent, payload);
        self.muxer.push(&packet, &mut self.events);
    }

    fn video_at(&mut self, millis: i64, key: bool) {
        self.push(Kind::Video, millis, if key { b"\x17\x01\x00\x00\x00key" } else { b"\x27\x01\x00\x00\x00frame" });
    }

    fn audio_at(&mut self, millis: i64) {
        self.push(Kind::Audio, millis, b"\xaf\x01sound");
    }

    fn end(mut self) -> Vec<Event> {
        self.muxer.end(&mut self.events);
        self.events
    }
}

fn init(events: &[Event]) -> &Init {
    let mut inits = events.iter().filter_map(|event| if let Event::Init(init) = event { Some(init) } else { None });
    inits.next().unwrap()
}

fn parts(events: &[Event]) -> Vec<Part> {
    events.iter().filter_map(|event| if let Event::Part(part) = event { Some(part.clone()) } else { None }).collect()
}

fn segments(events: &[Event]) -> Vec<Segment> {
    events
        .iter()
        .filter_map(|event| if let Event::SegmentEnd(segment) = event { Some(*segment) } else { None })
        .collect()
}

/// What is no part and no segment.
fn outline(events: &[Event]) -> Vec<String> {
    let name = |event: &Event| match event {
        Event::Init(init) => Some(format!("init {}", init.codecs())),
        Event::Discontinuity(reason) => Some(format!("{reason:?}")),
        Event::Unsupported(unsupported) => Some(unsupported.to_string()),
        Event::Part(_) | Event::SegmentEnd(_) => None,
    };
    events.iter().filter_map(name).collect()
}
