use rtc_crypto::RTCCryptoProvider;
use rtc_crypto::providers::RingProvider;

use super::*;
use crate::batch::{Sent, Transmit};
use crate::clock::Wallclock;
use crate::history::{Frame, Payload};
use crate::path::Transport;
use crate::sdp::{Codec, Format, H264Profile};
use crate::srtp::Profile;

const VIDEO: Codec = Codec::H264(H264Profile { idc: 100, constraints: 0 });

#[derive(Default)]
struct Sealed(Vec<Vec<u8>>);

impl Sink for Sealed {
    fn send(&mut self, transmit: Transmit<'_>) -> Sent {
        self.0.extend(transmit.datagrams().map(<[u8]>::to_vec));
        Sent::Taken
    }
}

/// A leg and what it sends with.
struct Sender {
    leg: Leg,
    source: Source,
    srtp: srtp::Session,
    batch: Batch<Sealed>,
    counters: Counters,
    now: Instant,
}

impl Sender {
    fn new(rtx: Option<u8>) -> Self {
        let format = Format { codec: VIDEO, payload_type: 96, rtx, parameters: String::new(), feedback: Vec::new() };
        let now = crate::clock::for_tests();
        Self {
            leg: Leg::new(&Chosen { section: 0, track: 0, format, ssrc: 1, rtx_ssrc: 2 }, 0x7fff),
            source: Source::new(&[VIDEO.into()], Wallclock { at: now, since_epoch: Duration::ZERO }),
            srtp: srtp::Session::new(Profile::CmSha1, &[7; 60], false, RingProvider::new().crypto()).unwrap(),
            batch: Batch::new(Sealed::default()),
            counters: Counters::default(),
            now,
        }
    }

    fn push(&mut self, is_keyframe: bool, sizes: &[usize]) {
        let packets = sizes.iter().map(|size| Payload { bytes: vec![3; *size].into(), marker: false }).collect();
        let frame = Frame { timestamp: 9, time: Duration::ZERO, is_keyframe, packets };
        let pushed = self.source.push(Layer::only(0), &frame, self.now).unwrap();
        let Self { leg, source, srtp, batch, counters, now } = self;
        leg.send(&pushed, source, &mut Wire { path: path(), srtp, batch, counters }, *now);
    }

    fn resend(&mut self, number: u16) {
        let Self { leg, source, srtp, batch, counters, .. } = self;
        leg.resend(number, source, &mut Wire { path: path(), srtp, batch, counters });
    }

    fn sealed(&mut self) -> Vec<Vec<u8>> {
        self.batch.flush();
        std::mem::take(&mut self.batch.sink_mut().0)
    }
}

fn path() -> Path {
    Path { peer: ([192, 0, 2, 1], 1).into(), local: None, transport: Transport::Udp }
}

#[test]
fn without_a_stream_for_it_the_same_bytes_are_sent_again() {
    let mut sender = Sender::new(None);
    sender.push(true, &[100, 200, 300]);
    let first = sender.sealed();
    sender.resend(0x8000);
    assert_eq!(sender.sealed(), [first[1].clone()]);
}

#[test]
fn with_one_they_begin_with_their_first_number() {
    let mut sender = Sender::new(Some(97));
    sender.push(true, &[100, 200, 300]);
    let first = sender.sealed();
    sender.resend(0x8000);
    let again = sender.sealed();
    assert_eq!(again[0].len(), first[1].len() + 2);
    assert_eq!((again[0][1], &again[0][8..12]), (97, &[0, 0, 0, 2][..]));
}

#[test]
fn what_was_not_sent_is_not_sent_again() {
    let mut sender = Sender::new(Some(97));
    sender.push(true, &[100]);
    sender.sealed();
    for number in [0, 0x7ffe, 0x8000, 0x8001, 0xffff] {
        sender.resend(number);
    }
    assert_eq!((sender.sealed(), sender.counters.resend_too_old), (vec![], 5));
}

#[test]
fn numbers_of_before_a_jump_are_still_found() {
    let mut sender = Sender::new(None);
    sender.push(true, &[100]);
    sender.leg.pause();
    sender.push(false, &[101, 102]);
    sender.push(true, &[103, 104]);
    let sent = sender.sealed();
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [122, 125, 126], "the skipped ones are not sent");
    sender.resend(0x7fff);
    sender.resend(0x8001);
    assert_eq!(sender.sealed(), [sent[0].clone(), sent[2].clone()]);
}

#[test]
fn a_packet_that_no_datagram_holds_is_left_out() {
    let mut sender = Sender::new(None);
    sender.push(true, &[100, 1_431, 1_430]);
    assert_eq!(sender.sealed().iter().map(Vec::len).collect::<Vec<_>>(), [122, 1_452]);
    assert_eq!((sender.counters.packets_oversize, sender.counters.packets), (1, 2));
}

#[test]
fn a_report_of_a_receiver_that_has_seen_ours_gives_the_round_trip() {
    let mut sender = Sender::new(None);
    let sent = sender.source.clock.ntp_middle(sender.now);
    let mut report = Report {
        ssrc: 1,
        fraction_lost: 64,
        total_lost: 5,
        highest: 9,
        jitter: 900,
        last_sender_report: sent,
        delay: 0x8000,
    };
    let later = sender.now + Duration::from_millis(540);
    sender.leg.reported(&report, &sender.source, later);
    let quality = sender.leg.quality().unwrap();
    assert_eq!((quality.fraction_lost, quality.packets_lost, quality.jitter), (64, 5, Duration::from_millis(10)));
    assert!(quality.round_trip.unwrap().abs_diff(Duration::from_millis(40)) < Duration::from_millis(1));

    for invented in [0, sent.wrapping_add(0x10_0000)] {
        report.last_sender_report = invented;
        sender.leg.reported(&report, &sender.source, later);
        assert_eq!(sender.leg.quality().unwrap().round_trip, None);
    }
}

#[test]
fn numbers_times_and_pictures_go_on_where_the_encoding_changes() {
    let mut sender = Sender::new(None);
    let codec = Codec::Vp8;
    sender.source = Source::new(&[crate::source::Track { codec, layers: 2 }], sender.source.clock);
    let push = |sender: &mut Sender, layer: usize, is_keyframe, timestamp: u32, millis: u64, picture: u16| {
        let [high, low] = picture.to_be_bytes();
        let bytes = [&[0x90, 0x80, 0x80 | high, low][..], &[7; 100]].concat().into();
        let packets = vec![Payload { bytes, marker: true }];
        let frame = Frame { timestamp, time: Duration::from_millis(millis), is_keyframe, packets };
        let pushed = sender.source.push(Layer { track: 0, layer }, &frame, sender.now).unwrap();
        let Sender { leg, source, srtp, batch, counters, now } = sender;
        leg.send(&pushed, source, &mut Wire { path: path(), srtp, batch, counters }, *now);
    };
    push(&mut sender, 0, true, 1_000, 0, 0x7fff);
    push(&mut sender, 1, true, 50, 0, 9);
    sender.leg.wanted = 1;
    push(&mut sender, 0, false, 4_600, 40, 0);
    push(&mut sender, 1, false, 3_650, 40, 10);
    // the publisher's clock of this one is a frame behind
    push(&mut sender, 1, true, 3_651, 40, 11);
    push(&mut sender, 1, false, 7_251, 80, 12);
    push(&mut sender, 0, true, 8_200, 80, 1);
    let header = |sealed: &Vec<u8>| (sealed[2..4].to_vec(), u32::from_be_bytes(sealed[4..8].try_into().unwrap()));
    let sent = sender.sealed();
    let expected = [(0x7fff_u16, 1_000), (0x8000, 4_600), (0x8001, 4_690), (0x8002, 8_290)];
    assert_eq!(
        sent.iter().map(header).collect::<Vec<_>>(),
        expected.map(|(number, timestamp)| (number.to_be_bytes().to_vec(), timestamp))
    );
    assert_eq!(sender.leg.last.and_then(|last| last.picture), Some(2), "after 0x7fff, 0 and 1");

    // what is asked for again is what was sent, of either
    for (at, number) in [(1, 0x8000), (3, 0x8002)] {
        sender.resend(number);
        assert_eq!(sender.sealed(), [sent[at].clone()]);
    }
}
