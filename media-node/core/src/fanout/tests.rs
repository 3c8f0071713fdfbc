use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::Timescale;

const ALL: Batch = Batch { packets: usize::MAX, bytes: usize::MAX };

fn packet(kind: Kind, role: Role, ms: i64) -> Packet {
    let payload = Bytes::from(format!("{kind:?} {role:?} {ms}"));
    Packet::new(Track::first(kind), MediaTime::new(ms, Timescale::MILLIS), role, payload)
}

fn ring(packets: &[(Kind, Role, i64)]) -> Fanout {
    let fanout = Fanout::new(Limits::default());
    feed(&fanout, packets);
    fanout
}

fn feed(fanout: &Fanout, packets: &[(Kind, Role, i64)]) {
    for (kind, role, ms) in packets {
        fanout.push(packet(*kind, *role, *ms));
    }
}

fn texts(subscriber: &mut Subscriber) -> (Read, Vec<String>) {
    let mut items = Vec::new();
    let read = subscriber.read(ALL, &mut items);
    let text = |item: &Item| {
        let text = String::from_utf8(item.packet.payload.to_vec()).unwrap();
        if item.time == item.packet.time { text } else { format!("{text} at {}", item.time.as_millis()) }
    };
    (read, items.iter().map(text).collect())
}

use Kind::{Audio, Data, Video};
use Role::{Dependent, Header, Key};

#[test]
fn a_reader_starts_at_the_latest_keyframe_after_the_headers() {
    let fanout = ring(&[
        (Audio, Header, 0),
        (Data, Header, 7),
        (Video, Header, 0),
        (Video, Key, 0),
        (Audio, Key, 10),
        (Video, Key, 2_000),
        (Audio, Key, 2_010),
        (Video, Dependent, 2_040),
    ]);
    let mut reader = fanout.subscribe();

    assert_eq!(
        texts(&mut reader).1,
        [
            "Data Header 7 at 0",
            "Video Header 0 at 2000",
            "Audio Header 0 at 2000",
            "Video Key 2000",
            "Audio Key 2010",
            "Video Dependent 2040"
        ]
    );
    assert_eq!(texts(&mut reader), (Read::UpToDate, vec![]));
}

#[test]
fn a_reader_of_video_waits_for_a_keyframe() {
    let fanout = ring(&[(Video, Header, 0), (Video, Dependent, 0)]);
    let mut reader = fanout.subscribe();
    assert_eq!(texts(&mut reader), (Read::UpToDate, vec![]));

    feed(&fanout, &[(Video, Key, 40)]);

    assert_eq!(texts(&mut reader).1, ["Video Header 0 at 40", "Video Key 40"]);
}

#[test]
fn audio_alone_starts_anywhere() {
    let fanout = ring(&[(Audio, Header, 0), (Audio, Key, 0), (Audio, Key, 21)]);
    let mut reader = fanout.subscribe();

    assert_eq!(texts(&mut reader).1, ["Audio Header 0 at 21", "Audio Key 21"]);
}

#[test]
fn the_headers_of_a_start_are_those_that_held_at_its_keyframe() {
    let fanout = ring(&[(Video, Header, 0), (Video, Key, 0), (Video, Header, 5)]);
    let mut reader = fanout.subscribe();

    assert_eq!(texts(&mut reader).1, ["Video Header 0", "Video Key 0", "Video Header 5"]);
}

#[test]
fn a_reader_a_little_behind_loses_nothing_to_a_keyframe() {
    let fanout = ring(&[(Video, Key, 0)]);
    let mut reader = fanout.subscribe();
    texts(&mut reader);

    feed(&fanout, &[(Video, Dependent, 40), (Video, Key, 80), (Video, Dependent, 120)]);

    assert_eq!(texts(&mut reader).1, ["Video Dependent 40", "Video Key 80", "Video Dependent 120"]);
    assert_eq!(reader.take_skipped(), 0);
}

#[test]
fn a_reader_far_behind_skips_to_the_newest_keyframe_and_it_is_counted() {
    let fanout = ring(&[(Video, Header, 0), (Video, Key, 0)]);
    let mut reader = fanout.subscribe();
    texts(&mut reader);

    feed(&fanout, &[(Video, Dependent, 40), (Video, Header, 80), (Video, Key, 80), (Video, Key, 9_000)]);

    assert_eq!(texts(&mut reader).1, ["Video Header 80 at 9000", "Video Key 9000"]);
    assert_eq!(reader.take_skipped(), 3);
    assert_eq!(reader.take_skipped(), 0);
}

#[test]
fn without_readers_only_the_latest_group_is_kept() {
    let fanout = ring(&[(Video, Key, 0), (Video, Dependent, 40)]);
    let one_group = fanout.bytes();

    feed(&fanout, &[(Video, Key, 80), (Video, Dependent, 90)]);

    assert_eq!(fanout.bytes(), one_group + 1, "the text of the time is one longer");
}

#[test]
fn a_group_beyond_the_bounds_is_given_up_until_the_next_keyframe() {
    let fanout = Fanout::new(Limits { packets: 2, ..Limits::default() });
    feed(&fanout, &[(Video, Key, 0), (Video, Dependent, 1), (Video, Dependent, 2)]);
    let mut reader = fanout.subscribe();
    assert_eq!(texts(&mut reader), (Read::UpToDate, vec![]));

    feed(&fanout, &[(Video, Key, 3)]);

    assert_eq!(texts(&mut reader).1, ["Video Key 3"]);
}

#[test]
fn when_video_has_stopped_readers_start_with_audio() {
    let fanout = Fanout::new(Limits { packets: 2, ..Limits::default() });
    feed(&fanout, &[(Video, Key, 0), (Audio, Key, 1), (Audio, Key, 2), (Audio, Key, 3)]);
    let mut reader = fanout.subscribe();

    assert_eq!(texts(&mut reader).1, ["Audio Key 3"]);
}

#[test]
fn a_reader_takes_what_is_left_before_it_hears_of_the_end() {
    let fanout = ring(&[(Video, Key, 0)]);
    let mut reader = fanout.subscribe();
    fanout.end();

    assert_eq!(texts(&mut reader), (Read::Some, vec!["Video Key 0".to_owned()]));
    assert_eq!(texts(&mut reader), (Read::Ended, vec![]));
}

#[test]
fn a_batch_is_bounded_by_packets_and_by_bytes() {
    let fanout = ring(&[(Video, Key, 0), (Video, Dependent, 1), (Video, Dependent, 2)]);
    let mut reader = fanout.subscribe();
    let mut items = Vec::new();

    assert_eq!(reader.read(Batch { packets: 1, bytes: usize::MAX }, &mut items), Read::Some);
    assert_eq!(items.len(), 1);
    assert_eq!(reader.read(Batch { packets: usize::MAX, bytes: 1 }, &mut items), Read::Some);
    assert_eq!(items.len(), 2);
}

#[test]
fn the_wire_form_is_made_once() {
    let packet = packet(Video, Key, 0);
    packet.wire(|_| Bytes::from_static(b"first"));

    assert_eq!(packet.wire(|_| Bytes::from_static(b"second")), &Bytes::from_static(b"first"));
}

fn any_packet() -> impl Strategy<Value = (Kind, Role)> {
    prop_oneof![
        Just((Video, Key)),
        Just((Video, Dependent)),
        Just((Video, Dependent)),
        Just((Audio, Key)),
        Just((Video, Header)),
        Just((Audio, Header)),
        Just((Data, Header)),
    ]
}

proptest! {
    /// For any stream and any rhythm of reading: the bounds hold, a reader enters at a key packet, and from there on every
    /// packet is either read, in order, or counted as skipped.
    #[test]
    fn each_packet_is_read_in_order_or_counted_as_skipped(
        stream in prop::collection::vec((any_packet(), 0..400_i64, any::<bool>()), 1..200),
        packets in 1..40_usize,
    ) {
        let limits = Limits { packets, bytes: 4_000, behind_millis: 1_000 };
        let fanout = Fanout::new(limits);
        let mut reader = fanout.subscribe();
        let (mut now, mut fed) = (0, Vec::new());
        // index in `fed` of the next packet that the reader has neither read nor lost
        let mut next: Option<usize> = None;
        for ((kind, role), step, reads) in stream {
            now += step + 1;
            fanout.push(packet(kind, role, now));
            fed.push(now);
            prop_assert!(fanout.bytes() <= limits.bytes);
            if !reads {
                continue;
            }
            let mut items = Vec::new();
            reader.read(ALL, &mut items);
            let skipped = usize::try_from(reader.take_skipped()).unwrap();
            let sent_again = |item: &Item| item.time != item.packet.time;
            let enters = next.is_none() || skipped > 0;
            for item in items.iter().skip_while(|item| sent_again(item)) {
                let ms = item.packet.time.as_millis();
                let at = match next {
                    Some(at) => at + if item.time == items.iter().find(|i| !sent_again(i)).unwrap().time { skipped } else { 0 },
                    None => fed.iter().position(|t| *t == ms).unwrap(),
                };
                prop_assert_eq!(fed.get(at), Some(&ms));
                next = Some(at + 1);
            }
            if let Some(first) = items.iter().find(|item| !sent_again(item)).filter(|_| enters) {
                prop_assert_eq!(first.packet.role, Key);
            }
        }
    }
}
