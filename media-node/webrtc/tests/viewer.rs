//! A viewer against an independent WebRTC stack: from its offer to the payloads that it receives.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends here, with the reason")]

#[path = "viewer/layers.rs"]
mod layers;
#[path = "viewer/world.rs"]
mod world;

use std::time::{Duration, UNIX_EPOCH};

use media_webrtc::dtls;
use media_webrtc::source::Layer;
use media_webrtc::transport::{Cause, Event};
use str0m::media::KeyframeRequestKind;
use world::{AUDIO, DELAY, Setup, VIDEO, World, bits_of, picture, sound};

const TICK: Duration = Duration::from_millis(40);

#[test]
fn an_independent_stack_receives_the_payloads_bit_for_bit() {
    let mut world = World::connected();
    let pictures: Vec<_> = (0..100).map(|number| picture(number, number % 50 == 0)).collect();
    let sounds: Vec<_> = (0..200).map(sound).collect();
    for (at, picture) in pictures.iter().enumerate() {
        world.push(VIDEO, picture);
        world.push(AUDIO, &sounds[2 * at]);
        world.push(AUDIO, &sounds[2 * at + 1]);
        world.run(TICK);
    }
    world.run(TICK);

    // 400 packets from number 0x7ffe on: the upper half of the numbers is reached
    assert_eq!(world.payloads(VIDEO), bits_of(&pictures));
    assert_eq!(world.payloads(AUDIO), bits_of(&sounds));
    let last = world.received.iter().rfind(|packet| packet.header.marker).unwrap();
    assert_eq!(last.header.timestamp, 99 * 3_600);
    assert!(world.directory.half_open() == 0 && world.directory.len() == 1);
    assert_eq!(world.viewer.counters().packets, 600);
}

#[test]
fn a_frame_is_one_batch() {
    let mut world = World::connected();
    world.push(VIDEO, &picture(0, true));
    let before = world.batch.sink_mut().batches;
    world.push(VIDEO, &picture(1, false));
    assert_eq!(world.batch.sink_mut().batches, before + 1);
}

#[test]
fn a_large_frame_is_spread_over_4_ms_and_the_next_one_follows_it() {
    let mut world = World::connected();
    let large = world::picture_of(0, true, 200);
    world.push(VIDEO, &large);
    let sent = |world: &World| world.viewer.counters().packets;
    let at_once = sent(&world);
    world.run(Duration::from_millis(2));
    let after_2_ms = sent(&world);
    world.push(VIDEO, &picture(1, false));
    world.run(Duration::from_millis(2));
    assert_eq!((at_once, after_2_ms, sent(&world)), (48, 144, 204));
    assert!(!world.viewer.is_spreading());

    // one that would take longer than that goes in larger parts
    let huge = world::picture_of(2, true, 1_000);
    world.push(VIDEO, &huge);
    assert_eq!(sent(&world), 404);
    world.run(Duration::from_millis(4));
    assert_eq!(sent(&world), 1_204);
    world.run(TICK);
    assert_eq!(world.payloads(VIDEO), bits_of(&[large, picture(1, false), huge]));
}

#[test]
fn what_is_left_of_a_frame_is_dropped_where_there_is_no_room() {
    let mut world = World::connected();
    world.push(VIDEO, &world::picture_of(0, true, 200));
    world.batch.sink_mut().is_full = true;
    world.run(Duration::from_millis(1));
    world.batch.sink_mut().is_full = false;
    world.push(VIDEO, &picture(1, false));
    world.run(TICK);
    assert_eq!((world.viewer.counters().packets_refused, world.viewer.counters().frames_skipped), (48, 1));
    world.push(VIDEO, &picture(2, true));
    world.run(TICK);
    assert_eq!(world.payloads(VIDEO)[48..], bits_of(&[picture(2, true)]));
}

#[test]
fn the_offers_role_decides_who_begins_the_handshake() {
    // a peer that waits, so that we are the client
    let setup = Setup { offer: |text| text.replace("a=setup:actpass", "a=setup:passive"), ..Setup::default() };
    let mut world = World::new(&setup);
    assert!(world.answer.contains("a=setup:active"));
    world.run(Duration::from_secs(2));
    assert!(world.viewer.is_connected(), "{:?}", world.events);

    world.push(VIDEO, &picture(0, true));
    world.run(TICK);
    assert_eq!(world.payloads(VIDEO), bits_of(&[picture(0, true)]));
}

#[test]
fn a_handshake_survives_lost_datagrams() {
    let mut world = World::new(&Setup::default());
    let mut seen = 0;
    world.loss = Box::new(move |datagram| {
        let is_dtls = (20..64).contains(&datagram[0]);
        seen += u32::from(is_dtls);
        is_dtls && (seen == 2 || seen == 3)
    });
    world.run(Duration::from_secs(5));
    assert!(world.viewer.is_connected() && world.peer.is_connected(), "{:?}", world.events);
}

#[test]
fn a_lost_packet_is_asked_for_and_sent_again() {
    let mut world = World::connected();
    let pictures: Vec<_> = (0..50).map(|number| picture(number, number == 0)).collect();
    let mut count = 0;
    world.loss = Box::new(move |datagram| {
        let is_media = datagram.len() > 1_000;
        count += u32::from(is_media);
        is_media && count % 20 == 10
    });
    for picture in &pictures {
        world.push(VIDEO, picture);
        world.run(TICK);
    }
    world.run(Duration::from_millis(500));

    assert_eq!(world.payloads(VIDEO), bits_of(&pictures));
    let counters = world.viewer.counters();
    assert!(counters.resent >= 7, "{counters:?}");
    assert_eq!((counters.resend_too_old, counters.resend_over_budget), (0, 0));
}

#[test]
fn a_viewer_cannot_have_more_sent_again_than_it_may() {
    let mut world = World::connected();
    // nothing of the media arrives, so all of it is asked for, again and again
    let mut first = true;
    world.loss = Box::new(move |datagram| datagram.len() > 1_000 && !std::mem::take(&mut first));
    for number in 0..250 {
        world.push(VIDEO, &picture(number, number == 0));
        world.run(TICK);
    }
    let counters = world.viewer.counters();
    assert!(counters.resend_over_budget > 0, "{counters:?}");
    assert!(counters.resent <= 256 + counters.packets / 2, "{counters:?}");
}

#[test]
fn both_sides_report() {
    let mut world = World::connected();
    for number in 0..250 {
        world.push(VIDEO, &picture(number, number % 50 == 0));
        world.push(AUDIO, &sound(2 * number));
        world.push(AUDIO, &sound(2 * number + 1));
        world.run(TICK);
    }
    let quality = world.viewer.quality(VIDEO).expect("the viewer reports");
    assert_eq!((quality.fraction_lost, quality.packets_lost), (0, 0));
    let round_trip = quality.round_trip.expect("it has seen a sender report");
    assert!(round_trip.abs_diff(2 * DELAY) < Duration::from_millis(5), "{round_trip:?}");

    // of either track the peer knows which wall clock time a media time is; they must agree
    let began = |ssrc: u32| {
        let packet = world.received.iter().rfind(|packet| *packet.header.ssrc == ssrc).unwrap();
        let told = packet.last_sender_info.expect("we report");
        told.ntp_time.duration_since(UNIX_EPOCH).unwrap().as_secs_f64() - told.rtp_time.as_seconds()
    };
    let apart = (began(1_001) - began(1_003)).abs();
    assert!(apart < 0.002, "lip-sync is off by {apart} s");
}

#[test]
fn a_viewer_that_joins_gets_the_current_group_from_its_keyframe() {
    let mut world = World::new(&Setup::default());
    let pictures: Vec<_> = (0..70).map(|number| picture(number, number % 50 == 0)).collect();
    pictures.iter().for_each(|picture| world.push(VIDEO, picture));
    world.run(Duration::from_secs(2));

    assert_eq!(world.payloads(VIDEO), bits_of(&pictures[50..]));
    assert!(!world.events.contains(&Event::KeyframeWanted(Layer::only(VIDEO))), "{:?}", world.events);
}

#[test]
fn a_viewer_that_finds_no_keyframe_asks_for_one_and_waits() {
    let mut world = World::connected();
    assert!(world.events.contains(&Event::KeyframeWanted(Layer::only(VIDEO))), "{:?}", world.events);
    world.push(VIDEO, &picture(0, false));
    world.push(VIDEO, &picture(1, true));
    world.push(VIDEO, &picture(2, false));
    world.run(TICK);
    assert_eq!(world.payloads(VIDEO), bits_of(&[picture(1, true), picture(2, false)]));
    assert_eq!(world.viewer.counters().frames_skipped, 1);
}

#[test]
fn a_slow_viewer_goes_on_at_the_next_keyframe_without_a_gap_in_its_numbers() {
    let mut world = World::connected();
    world.push(VIDEO, &picture(0, true));
    world.run(TICK);
    world.batch.sink_mut().is_full = true;
    world.push(VIDEO, &picture(1, false));
    world.batch.sink_mut().is_full = false;
    world.push(VIDEO, &picture(2, false));
    world.push(VIDEO, &picture(3, true));
    world.run(TICK);

    assert_eq!(world.payloads(VIDEO), bits_of(&[picture(0, true), picture(3, true)]));
    let counters = world.viewer.counters();
    assert_eq!((counters.packets_refused, counters.frames_skipped), (4, 1));
    let numbers: Vec<_> = world.received.iter().map(|packet| *packet.seq_no).collect();
    assert_eq!(numbers.last().unwrap() - numbers[0], 11, "four that were refused, and none for what was skipped");
}

#[test]
fn a_viewers_request_for_a_keyframe_is_passed_on() {
    let mut world = World::connected();
    world.push(VIDEO, &picture(0, true));
    world.run(TICK);
    world.events.clear();
    let video = world.video;
    let mut api = world.peer.direct_api();
    api.stream_rx_by_mid(video, None).unwrap().request_keyframe(KeyframeRequestKind::Pli);
    world.run(Duration::from_millis(500));
    assert!(world.events.contains(&Event::KeyframeWanted(Layer::only(VIDEO))), "{:?}", world.events);
    assert_eq!(world.viewer.counters().keyframe_requests, 1);
}

#[test]
fn a_viewer_without_checks_is_gone_after_30_s() {
    let mut world = World::connected();
    world.is_cut = true;
    world.run(Duration::from_secs(26));
    assert!(world.viewer.is_connected(), "{:?}", world.events);
    world.run(Duration::from_secs(5));
    assert_eq!(world.events.last(), Some(&Event::Closed(Cause::ConsentExpired)));
    assert_eq!(world.viewer.poll_timeout(), None, "nothing else is scheduled");
    assert!(world.directory.is_empty());
}

#[test]
fn a_viewer_whose_outage_was_shorter_goes_on() {
    let mut world = World::connected();
    world.push(VIDEO, &picture(0, true));
    world.is_cut = true;
    world.run(Duration::from_secs(10));
    world.is_cut = false;
    world.run(Duration::from_secs(60));
    assert!(world.viewer.is_connected(), "{:?}", world.events);
    world.push(VIDEO, &picture(1, true));
    world.run(TICK);
    assert_eq!(world.payloads(VIDEO).len(), 8);
}

#[test]
fn a_peer_that_never_comes_is_gone_after_15_s() {
    let mut world = World::new(&Setup::default());
    world.is_cut = true;
    world.run(Duration::from_secs(16));
    assert_eq!(world.events, [Event::Closed(Cause::NeverConnected)]);
    assert_eq!((world.directory.len(), world.directory.half_open()), (0, 0));
}

#[test]
fn another_certificate_than_the_announced_is_refused() {
    for role in ["actpass", "passive"] {
        // a byte of the fingerprint, which is upper-case hexadecimal
        let other: fn(String) -> String = match role {
            "passive" => |text| wrong_fingerprint(&text).replace("a=setup:actpass", "a=setup:passive"),
            _ => |text| wrong_fingerprint(&text),
        };
        let mut world = World::new(&Setup { offer: other, ..Setup::default() });
        world.push(VIDEO, &picture(0, true));
        world.run(Duration::from_secs(2));
        assert_eq!(world.events.last(), Some(&Event::Closed(Cause::Dtls(dtls::Error::Fingerprint))), "{role}");
        assert!(world.received.is_empty());
    }
}

fn wrong_fingerprint(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix("a=fingerprint:sha-256 ") {
        Some(value) => format!("a=fingerprint:sha-256 00:11:22{}\r\n", value.get(8..).unwrap()),
        None => format!("{line}\r\n"),
    });
    lines.collect()
}

#[test]
fn a_peer_with_another_password_is_not_answered() {
    let other = |text: String| {
        let lines = text.lines().map(|line| match line.strip_prefix("a=ice-pwd:") {
            Some(_) => "a=ice-pwd:thisisnotthepasswordatall\r\n".to_owned(),
            None => format!("{line}\r\n"),
        });
        lines.collect()
    };
    let mut world = World::new(&Setup { answer: other, ..Setup::default() });
    world.run(Duration::from_secs(16));
    assert_eq!(world.events, [Event::Closed(Cause::NeverConnected)]);
    assert!(world.viewer.counters().checks_refused > 0);
}

#[test]
fn a_peer_whose_address_changes_is_followed_when_it_has_proved_itself() {
    let mut world = World::connected();
    world.push(VIDEO, &picture(0, true));
    world.run(TICK);
    world.seen_as = ([198, 51, 100, 7], 6_000).into();
    world.run(Duration::from_secs(10));
    world.push(VIDEO, &picture(1, true));
    world.run(TICK);
    assert_eq!(world.payloads(VIDEO), bits_of(&[picture(0, true), picture(1, true)]));
    assert!(world.viewer.is_connected());
}

#[test]
fn a_session_that_is_closed_tells_its_peer() {
    let mut world = World::connected();
    world.viewer.close(&mut world.batch, world.now);
    world.run(Duration::from_secs(1));
    assert_eq!(world.events.last(), Some(&Event::Closed(Cause::Closed)));
    assert!(!world.peer.is_alive() || !world.peer.is_connected(), "the peer heard of it");
}

#[test]
fn garbage_and_replays_end_nothing() {
    let mut world = World::connected();
    let path = world.events.iter().find_map(|event| match event {
        Event::Path(path) => Some(*path),
        Event::Restarted
        | Event::Connected
        | Event::KeyframeWanted(_)
        | Event::Reported(_)
        | Event::Counted(_)
        | Event::Received(_)
        | Event::Closed(_) => None,
    });
    let path = path.unwrap();
    for first in 0..=255_u8 {
        for length in [1, 2, 12, 13, 20, 64, 1_200] {
            let mut datagram = vec![0x5a; length];
            datagram[0] = first;
            world.viewer.receive(path, &datagram, &world.source, &mut world.batch, world.now);
            datagram.iter_mut().skip(1).for_each(|byte| *byte = 0);
            world.viewer.receive(path, &datagram, &world.source, &mut world.batch, world.now);
        }
    }
    world.push(VIDEO, &picture(0, true));
    world.run(TICK);
    assert_eq!(world.payloads(VIDEO), bits_of(&[picture(0, true)]));
    assert!(world.viewer.counters().datagrams_ignored > 0);
}
