use bytes::Bytes;
use media_core::{Kind, MediaTime, Packet, Role, Timescale, Track};
use proptest::prelude::*;

use super::{uri::Resource, *};
use crate::Muxer;

/// AAC-LC, 48 kHz, stereo.
const AAC: &[u8] = &[0xAF, 0, 0x11, 0x90];

#[test]
fn a_playlist_lists_the_window_and_hints_at_what_comes() {
    let window = window(9_000, Duration::ZERO);

    let expected = "\
#EXTM3U
#EXT-X-VERSION:9
#EXT-X-TARGETDURATION:4
#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=24.0,HOLD-BACK=12.0,PART-HOLD-BACK=0.90000
#EXT-X-PART-INF:PART-TARGET=0.30000
#EXT-X-MEDIA-SEQUENCE:0
#EXT-X-INDEPENDENT-SEGMENTS
#EXT-X-MAP:URI=\"init-0.mp4\"
#EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:00:00.000Z
#EXT-X-PART:DURATION=0.29867,URI=\"part-0.0.m4s\",INDEPENDENT=YES";
    let text = window.media(Delta::Full, &[]);
    assert!(text.starts_with(expected), "{text}");
    let newest = window.newest().unwrap();
    let hint = Resource::Part(Position { part: newest.part + 1, ..newest });
    assert!(text.ends_with(&format!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{hint}\"\n")), "{text}");
}

#[test]
fn a_window_keeps_no_more_than_it_must() {
    let window = window(120_000, Duration::ZERO);

    let length: Duration = window.segments.iter().filter_map(Listed::duration).sum();
    assert!((Duration::from_secs(16)..Duration::from_secs(19)).contains(&length), "{length:?}");
    let first = window.segments.front().unwrap().number;
    assert!(window.media(Delta::Full, &[]).contains(&format!("#EXT-X-MEDIA-SEQUENCE:{first}\n")));
    assert!(window.segment(first).is_some() && window.segment(first - 1).is_none());
}

#[test]
fn a_delta_update_leaves_the_old_segments_out() {
    let window = window(90_000, Duration::from_secs(60));

    let (full, delta) = (window.media(Delta::Full, &[]), window.media(Delta::Skip, &[]));
    let count = |text: &str| text.lines().filter(|line| line.starts_with("#EXTINF")).count();
    let skipped = count(&full) - count(&delta);
    assert!(skipped > 10, "{skipped} of {}", count(&full));
    assert!(delta.contains(&format!("#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}\n")), "{delta}");
    assert!(!delta.contains("#EXT-X-MAP"), "it has been said in what is left out");
}

#[test]
fn a_publisher_that_comes_back_goes_on_after_a_discontinuity() {
    let mut window = Window::new(Policy::default(), Duration::ZERO);
    let mut muxer = Muxer::new(Policy::default());
    for _ in 0..2 {
        let mut events = Vec::new();
        play(&mut muxer, 3_000, &mut events);
        muxer.end(&mut events);
        window.extend(&events, Timestamp::UNIX_EPOCH + end_of(&events));
    }

    let text = window.media(Delta::Full, &[]);
    let breaks =
        "#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"init-1.mp4\"\n#EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:00:00.000Z\n";
    assert_eq!(text.matches("#EXT-X-DISCONTINUITY").count(), 1, "{text}");
    assert!(text.contains(breaks), "{text}");
}

#[test]
fn a_window_that_follows_another_begins_with_a_discontinuity() {
    for (before, expected) in [(0, 0), (32, 33)] {
        let mut window = Window::numbered(Policy::default(), Duration::ZERO, 100, before);
        let mut muxer = Muxer::numbered(Policy::default(), 100);
        let mut events = Vec::new();
        play(&mut muxer, 6_000, &mut events);
        window.extend(&events, Timestamp::UNIX_EPOCH + end_of(&events));
        let text = window.media(Delta::Full, &[]);
        assert_eq!(text.contains("#EXT-X-DISCONTINUITY\n"), before > 0, "{text}");
        assert_eq!((window.oldest(), window.discontinuities()), (100, expected));

        events.clear();
        play(&mut muxer, 120_000, &mut events);
        window.extend(&events, Timestamp::UNIX_EPOCH + end_of(&events));
        assert!(window.oldest() > 100);
        assert_eq!(window.discontinuities(), expected, "what has left the playlist counts");
    }
}

#[test]
fn the_end_is_told_and_answers_all_who_wait() {
    let mut window = window(5_000, Duration::ZERO);
    assert_eq!(window.wait(9, None), Wait::TooFar);
    window.end();

    let text = window.media(Delta::Full, &[]);
    assert!(text.ends_with("#EXT-X-ENDLIST\n") && !text.contains("PRELOAD-HINT"), "{text}");
    assert_eq!(window.wait(9, None), Wait::Ready);
}

#[test]
fn nothing_is_named_before_there_is_media() {
    let window = Window::new(Policy::default(), Duration::ZERO);

    let text = window.media(Delta::Full, &[]);
    assert!(!text.contains("URI="), "{text}");
    assert_eq!((window.newest(), window.variant(String::new())), (None, None));
    assert_eq!(
        (window.wait(0, Some(0)), window.wait(1, None), window.wait(2, None)),
        (Wait::Soon, Wait::Soon, Wait::TooFar)
    );
}

#[test]
fn a_file_has_one_name() {
    let foreign = ["", "init-.mp4", "init-1.m4s", "segment--1.m4s", "part-1.m4s", "part-1.2.3.m4s", "../init-0.mp4"];
    let further = ["segment-07.m4s", "segment-+7.m4s", "init-00.mp4", "part-1.02.m4s"];
    for name in foreign.into_iter().chain(further) {
        assert_eq!(Resource::parse(name), None, "{name}");
    }
}

#[test]
fn a_multivariant_playlist_says_what_players_choose_by() {
    let variant = Variant {
        uri: "index.m3u8".to_owned(),
        bandwidth: 2_000_000,
        average_bandwidth: 1_500_000,
        codecs: "avc1.64001F,mp4a.40.2".to_owned(),
        resolution: Some((1280, 720)),
        frame_rate: Some(29.97),
    };

    let expected = "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-STREAM-INF:BANDWIDTH=2000000,AVERAGE-BANDWIDTH=1500000,\
                    CODECS=\"avc1.64001F,mp4a.40.2\",RESOLUTION=1280x720,FRAME-RATE=29.970\nindex.m3u8\n";
    assert_eq!(multivariant(&[variant]), expected);
}

/// When the last part ends.
fn end_of(events: &[Event]) -> Duration {
    let mut ends = events.iter().filter_map(|event| if let Event::Part(part) = event { Some(part) } else { None });
    ends.next_back().map_or(Duration::ZERO, |part| part.start + part.duration)
}

proptest! {
    #[test]
    fn no_name_is_too_odd(name in "(init|segment|part)?[-.+0-9a-z/]{0,24}(\\.m4s|\\.mp4)?|.*") {
        if let Some(resource) = Resource::parse(&name) {
            prop_assert_eq!(resource.to_string(), name);
        }
    }

    #[test]
    fn the_name_of_a_file_is_read_as_that_file(resource in resource()) {
        prop_assert_eq!(Resource::parse(&resource.to_string()), Some(resource));
    }
}

fn resource() -> impl Strategy<Value = Resource> {
    let part = |(segment, part)| Resource::Part(Position { segment, part });
    prop_oneof![
        any::<u32>().prop_map(Resource::Init),
        any::<u64>().prop_map(Resource::Segment),
        any::<(u64, u32)>().prop_map(part),
    ]
}

/// A broadcast of sound that has been on air for so long.
fn window(millis: i64, length: Duration) -> Window {
    let (mut muxer, mut events) = (Muxer::new(Policy::default()), Vec::new());
    play(&mut muxer, millis, &mut events);
    let mut window = Window::new(Policy::default(), length);
    window.extend(&events, Timestamp::UNIX_EPOCH + end_of(&events));
    window
}

fn play(muxer: &mut Muxer, millis: i64, events: &mut Vec<Event>) {
    let mut push = |millis, payload| {
        let time = MediaTime::new(millis, Timescale::MILLIS);
        let payload = Bytes::from_static(payload);
        muxer.push(&Packet::new(Track::first(Kind::Audio), time, Role::Key, payload), events);
    };
    push(0, AAC);
    (0..millis * 3 / 64).for_each(|frame| push(frame * 64 / 3, b"\xaf\x01sound"));
}
