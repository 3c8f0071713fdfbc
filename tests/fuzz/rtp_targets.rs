//! What must hold of the way from RTP, and of the one from AAC to Opus, for any bytes; as `rtmp_targets.rs` is run.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use media_core::{Kind, MediaTime, Packet, Role, Timescale, Track};
use media_rtp::bridge::AacToOpus;
use media_rtp::depacketize::{Event, MAX_WAIT, Receiver, Rtp};
use media_rtp::packetize::{AudioPacketizer, Video, VideoPacketizer};
use media_rtp::{Codec, MaxPayload};
use rtmp::tag::{AudioTag, Part, VideoTag};

#[allow(clippy::disallowed_methods, reason = "any instant will do to count from")]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A publisher's packets: a byte for the codec, then of each packet how far its number and its timestamp are from those of the
/// one before, the marker in the highest bit of the timestamp's step, and the length of its payload in two bytes.
pub(crate) fn rtp_packets(input: &[u8]) {
    let Some((&first, mut input)) = input.split_first() else { return };
    let codec = match first % 6 {
        0 => Codec::H264,
        1 => Codec::H265,
        2 => Codec::Vp8,
        3 => Codec::Vp9,
        4 => Codec::Av1,
        _ => Codec::Opus,
    };
    let track = Track::first(if codec.is_video() { Kind::Video } else { Kind::Audio });
    let (mut receiver, mut events) = (Receiver::new(&[(track, codec)], *START), Vec::new());
    let (mut sequence, mut timestamp, mut now) = (0_u16, 0_u32, *START);
    while let Some((&[step, ticks, len1, len0], rest)) = input.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([len1, len0])).min(rest.len());
        let (payload, rest) = rest.split_at(len);
        input = rest;
        sequence = sequence.wrapping_add_signed(i16::from(step.cast_signed()));
        timestamp = timestamp.wrapping_add(u32::from(ticks & 0x7F) * 100);
        now += Duration::from_millis(1);
        let payload = Bytes::copy_from_slice(payload);
        let rtp = Rtp { sequence, timestamp, marker: ticks & 0x80 != 0, payload };
        receiver.push(track, rtp, now, &mut events);
    }
    receiver.handle_timeout(now + MAX_WAIT, &mut events);
    holds(codec, &events);
}

/// The first frame is a keyframe with its configuration, times go forward, and all can be sent on.
fn holds(codec: Codec, events: &[Event]) {
    let (mut video, mut audio) = (VideoPacketizer::new(MaxPayload::DEFAULT), AudioPacketizer::default());
    let (mut last, mut is_described, mut has_key) = (None, false, false);
    for event in events {
        let Event::Packet(packet) = event else { continue };
        let part = if codec.is_video() {
            VideoTag::parse(&packet.payload).expect("it is a tag").part
        } else {
            AudioTag::parse(&packet.payload).expect("it is a tag").part
        };
        match packet.role {
            Role::Header => {
                assert_eq!(part, Part::SequenceHeader);
                is_described = true;
            }
            Role::Key | Role::Dependent => {
                assert_eq!(part, Part::Coded);
                has_key |= packet.role == Role::Key;
                assert!(is_described && has_key, "a reader can begin");
                assert!(last < Some(packet.time.ticks()), "time goes forward");
                last = Some(packet.time.ticks());
            }
            Role::Annotation => unreachable!("RTP has none"),
        }
        if let Video::Frame(frame) = video.push(packet) {
            assert!(frame.payloads.iter().all(|payload| payload.len() <= MaxPayload::DEFAULT.bytes()));
        }
        drop(audio.push(packet));
    }
}

/// An AAC stream: the length of its configuration and the configuration, then of each frame the same.
pub(crate) fn aac_frames(mut input: &[u8]) {
    /// Each of them is decoded and encoded.
    const MOST: i64 = 32;

    let (mut bridge, mut packets) = (AacToOpus::default(), Vec::new());
    let mut head: &[u8] = &[0xAF, 0];
    for index in 0..MOST {
        let Some((&len, rest)) = input.split_first() else { return };
        let (data, rest) = rest.split_at(usize::from(len).min(rest.len()));
        input = rest;
        let time = MediaTime::new(index * 21, Timescale::MILLIS);
        let payload = [head, data].concat().into();
        head = &[0xAF, 1];
        if bridge.push(&Packet::new(Track::first(Kind::Audio), time, Role::Key, payload), &mut packets).is_err() {
            continue;
        }
        // a frame of the lowest rate lasts 140 ms
        assert!(
            packets.len() <= 1 + 9 * usize::try_from(index).expect("it counts up"),
            "no more comes out than goes in"
        );
    }
}
