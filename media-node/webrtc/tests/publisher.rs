//! A publisher on an independent WebRTC stack: from its offer to the payloads that we receive.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends here, with the reason")]

#[path = "publisher/world.rs"]
mod world;

use std::time::Duration;

use media_webrtc::keyframe::INTERVAL;
use media_webrtc::publisher::{Counters, Layer};
use media_webrtc::transport::{Cause, Event};
use proptest::prelude::*;
use str0m::bwe::Bitrate;
use world::{DELAY, Setup, World};

const TICK: Duration = Duration::from_millis(40);
const VIDEO: Layer = Layer { track: 0, layer: 0 };
const AUDIO: Layer = Layer { track: 1, layer: 0 };

/// What no other packet holds.
fn payload(track: u8, number: u64) -> Vec<u8> {
    [&[track][..], &number.to_be_bytes(), &vec![track; if track == 1 { 80 } else { 1_000 }]].concat()
}

fn payloads(track: u8, numbers: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    numbers.map(|number| payload(track, number)).collect()
}

impl World {
    /// Has the peer send pictures with sound, one packet each.
    fn publish(&mut self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let (video, audio) = (self.video, self.audio);
            self.send(video, None, number, &payload(0, number));
            self.send(audio, None, number, &payload(1, number));
            self.run(TICK);
        }
    }
}

#[test]
fn what_an_independent_stack_publishes_arrives_bit_for_bit() {
    let mut world = World::connected(&Setup::default());
    // past the roll-over of the number's 16 bits
    world.publish(65_500..65_600);
    world.run(Duration::from_millis(100));

    assert!(world.payloads(VIDEO) == payloads(0, 65_500..65_600));
    assert!(world.payloads(AUDIO) == payloads(1, 65_500..65_600));
    let last = world.packets.iter().rfind(|packet| packet.layer == VIDEO).unwrap();
    assert_eq!((last.timestamp, last.sequence, last.marker), (65_599 * 3_600, 63, true));
    // besides those of media there are some that measure the path
    let Counters { packets, bytes, .. } = world.publisher.counters();
    assert!(packets >= 200, "{packets}");
    assert_eq!(world.publisher.counters(), Counters { packets, bytes, ..Counters::default() });
}

#[test]
fn the_offers_role_decides_who_begins_the_handshake() {
    let setup = Setup { offer: |text| text.replace("a=setup:actpass", "a=setup:passive"), ..Setup::default() };
    let mut world = World::connected(&setup);
    assert!(world.answer.contains("a=setup:active"));
    world.publish(0..5);
    assert!(world.payloads(VIDEO) == payloads(0, 0..5));
}

#[test]
fn a_publisher_without_extensions_is_known_by_its_payload_types() {
    let bare = |text: String| {
        let lines = text.lines().filter(|line| !line.starts_with("a=extmap:") && !line.starts_with("a=ssrc"));
        lines.map(|line| format!("{line}\r\n")).collect()
    };
    let mut world = World::connected(&Setup { offer: bare, ..Setup::default() });
    world.publish(0..5);
    assert!(world.payloads(VIDEO) == payloads(0, 0..5) && world.payloads(AUDIO) == payloads(1, 0..5));
}

#[test]
fn a_lost_packet_is_asked_for_and_comes_again_as_it_was() {
    let mut world = World::connected(&Setup::default());
    let mut seen = 0;
    world.fate = Box::new(move |datagram| {
        let is_media = datagram.len() > 1_000;
        seen += u32::from(is_media);
        (!is_media || seen % 10 != 5).then_some(Duration::ZERO)
    });
    world.publish(0..100);
    world.run(Duration::from_millis(500));

    assert!(world.payloads(VIDEO) == payloads(0, 0..100));
    let mut times = world.packets.iter().filter(|packet| packet.layer == VIDEO).map(|packet| packet.timestamp);
    assert!(!times.by_ref().is_sorted(), "some came later");
    let counters = world.publisher.counters();
    assert!(counters.recovered >= 10 && counters.lost == 0, "{counters:?}");
    assert!(counters.asked < 2 * counters.recovered, "{counters:?}");
}

#[test]
fn what_never_comes_is_asked_for_a_few_times() {
    let mut world = World::connected(&Setup::default());
    world.fate = Box::new(|datagram| (datagram.len() < 1_000 || datagram.len() > 1_100).then_some(Duration::ZERO));
    let video = world.video;
    world.send(video, None, 0, &[0; 500]);
    world.send(video, None, 1, &payload(0, 1));
    world.send(video, None, 2, &[0; 500]);
    world.run(Duration::from_secs(1));
    let counters = world.publisher.counters();
    assert_eq!((counters.lost, counters.recovered), (1, 0), "{counters:?}");
    assert!((2..=4).contains(&counters.asked), "{counters:?}");
}

#[test]
fn all_encodings_of_a_track_are_kept_apart() {
    let mut world = World::connected(&Setup { layers: &["f", "h", "q"], ..Setup::default() });
    assert!(world.answer.contains("a=simulcast:recv f;h;q\r\n"), "{}", world.answer);
    let video = world.video;
    for number in 0..50 {
        for (layer, rid) in [(0_u8, "f"), (1, "h"), (2, "q")] {
            world.send(video, Some(rid), number, &payload(10 + layer, number));
        }
        world.run(TICK);
    }
    for layer in 0..3 {
        let expected = payloads(10 + u8::try_from(layer).unwrap(), 0..50);
        assert!(world.payloads(Layer { track: 0, layer }) == expected, "{layer}");
    }
    assert_eq!(world.publisher.counters().unrouted, 0);
}

#[test]
fn a_keyframe_is_asked_for_at_most_every_500_ms() {
    let mut world = World::connected(&Setup::default());
    world.publish(0..5);
    let start = world.now;
    for _ in 0..50 {
        world.publisher.want_keyframe(0);
        world.run(TICK);
    }
    let times: Vec<_> = world.requests.iter().map(|(at, _)| *at - start).collect();
    assert_eq!(times.first(), Some(&DELAY), "at once");
    assert_eq!(times.len(), 4, "{times:?}");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= INTERVAL), "{times:?}");
    assert!(world.requests.iter().all(|(_, request)| request.mid == world.video));
}

#[test]
fn a_senders_clock_is_passed_on() {
    let mut world = World::connected(&Setup::default());
    world.publish(0..200);
    let of = |layer| world.reports.iter().filter(|report| report.layer == layer).collect::<Vec<_>>();
    let (video, audio) = (of(VIDEO), of(AUDIO));
    assert!(!video.is_empty() && !audio.is_empty());
    // where each track began by the sender's clock, in 1/2^32 s
    let began = |report: &media_webrtc::publisher::Report, clock: u64| {
        report.ntp.wrapping_sub((u64::from(report.timestamp) << 32) / clock)
    };
    // a packet of sound counts for 20 ms, and there is one in 40: the clock of video alone keeps pace
    let apart = began(video[0], 90_000).abs_diff(began(video[video.len() - 1], 90_000));
    assert!(apart < (1 << 32) / 20, "{apart}");
}

#[test]
fn a_sender_learns_what_the_path_takes() {
    let mut world = World::connected(&Setup::default());
    world.peer.bwe().set_bitrate(Bitrate::kbps(900), Bitrate::mbps(5));
    for number in 0..1_000 {
        let video = world.video;
        world.send(video, None, number, &payload(0, number));
        world.run(Duration::from_millis(8));
    }
    let estimate = world.estimate.expect("feedback comes");
    assert!(estimate > 1_100_000.0, "{estimate}: more than it began with");
}

#[test]
fn a_publisher_that_says_goodbye_is_gone_at_once() {
    let mut world = World::connected(&Setup::default());
    world.publish(0..5);
    world.publisher.close(&mut batch(), world.now);
    world.run(TICK);
    assert_eq!(world.events.last(), Some(&Event::Closed(Cause::Closed)));
    assert_eq!(world.publisher.poll_timeout(world.now), None, "nothing else is scheduled");
}

#[test]
fn a_publisher_that_falls_silent_is_gone_after_30_s() {
    let mut world = World::connected(&Setup::default());
    world.publish(0..5);
    world.fate = Box::new(|_| None);
    world.run(Duration::from_secs(26));
    assert!(world.publisher.is_connected(), "{:?}", world.events);
    world.run(Duration::from_secs(5));
    assert_eq!(world.events.last(), Some(&Event::Closed(Cause::ConsentExpired)));
}

struct Nowhere;

impl media_webrtc::batch::Sink for Nowhere {
    fn send(&mut self, _: media_webrtc::batch::Transmit<'_>) -> media_webrtc::batch::Sent {
        media_webrtc::batch::Sent::Taken
    }
}

fn batch() -> media_webrtc::batch::Batch<Nowhere> {
    media_webrtc::batch::Batch::new(Nowhere)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Of a hundred packets some are lost, and some come late: all come in the end, each once, unless it was lost too often.
    #[test]
    fn whatever_the_path_does_packets_come_once(start in 65_400_u64..65_536, fates in proptest::collection::vec(0_u8..100, 50..400)) {
        let mut world = World::connected(&Setup::default());
        let mut fates = fates.into_iter().cycle();
        world.fate = Box::new(move |datagram| {
            if datagram.len() < 1_000 {
                return Some(Duration::ZERO);
            }
            match fates.next() {
                Some(0..=7) => None,
                Some(late @ 8..=20) => Some(Duration::from_millis(u64::from(late) * 5)),
                Some(_) | None => Some(Duration::ZERO),
            }
        });
        world.publish(start..start + 100);
        world.run(Duration::from_secs(1));

        let counters = world.publisher.counters();
        let came = world.payloads(VIDEO);
        let mut once = came.clone();
        once.sort();
        once.dedup();
        let all = payloads(0, start..start + 100);
        prop_assert!(once.iter().all(|payload| all.contains(payload)), "{counters:?}");
        // the first and the last ones may be missing unnoticed
        prop_assert!(once.len() as u64 + counters.lost + 5 >= 100, "{} came, {counters:?}", once.len());
        prop_assert!(came.len() <= once.len() + 20, "{} came, {counters:?}", came.len());
    }
}
