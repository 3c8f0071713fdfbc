//! Packetized, lost and resent, overtaken, sent twice, counted around: what comes out is what went in.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use media_core::{Kind, Packet, Role, Track};
use media_rtp::{
    Codec, MaxPayload,
    depacketize::{Event, Receiver, Rtp},
    packetize::{Video, VideoPacketizer},
};
use mux::{Muxer, Policy};
use tests::repository;

use crate::streams::{self, Stream};

#[test]
fn h264_comes_back() -> Result<()> {
    comes_back("h264", streams::h264)
}

#[test]
fn h265_comes_back() -> Result<()> {
    comes_back("h265", streams::h265)
}

#[test]
fn vp8_comes_back() -> Result<()> {
    comes_back("vp8", streams::vp8)
}

#[test]
fn vp9_comes_back() -> Result<()> {
    comes_back("vp9", streams::vp9)
}

#[test]
fn av1_comes_back() -> Result<()> {
    comes_back("av1", streams::av1)
}

#[test]
fn a_stream_with_b_frames_is_not_sent() -> Result<()> {
    let folder = repository::folder("rtp-b-frames")?;
    let file = folder.path().join("source.flv");
    let source = "-f lavfi -i testsrc2=size=320x180:rate=25 -t 3 -pix_fmt yuv420p -c:v libx264 -bf 3 -g 25";
    tests::media::write_enhanced(&[source], &file)?;

    let mut packetizer = VideoPacketizer::new(MaxPayload::DEFAULT);
    let came: Vec<_> = tests::flv::packets(&file)?.iter().map(|packet| packetizer.push(packet)).collect();

    let stopped = came.iter().position(|video| *video == Video::BFrames).expect("it is said");
    assert!(came[..stopped].iter().filter(|video| matches!(video, Video::Frame(_))).count() <= 2);
    assert!(came[stopped + 1..].iter().all(|video| *video == Video::Nothing), "and said once");
    Ok(())
}

fn comes_back(name: &str, stream: impl FnOnce(&Path) -> Result<Stream>) -> Result<()> {
    let folder = repository::folder(&format!("rtp-{name}"))?;
    let Stream { codec, packets, .. } = stream(folder.path())?;

    // both wrap within the stream
    let sent = sent(&packets, 65_500, u32::MAX - 90_000);
    assert!(sent.len() > 300, "{} packets are few", sent.len());
    let came = received(codec, &disturbed(&sent));

    let (mut ours, theirs) = (streams::frames(&came), streams::frames(&packets));
    assert_eq!(theirs.len(), 75);
    // a broadcast's times begin when its first frame is there
    let begin = theirs[0].millis - ours[0].millis;
    ours.iter_mut().for_each(|frame| frame.millis += begin);
    for (index, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!((ours.millis, ours.keyframe), (theirs.millis, theirs.keyframe), "frame {index}");
        assert!(ours.data == theirs.data, "frame {index}: {} bytes for {}", ours.data.len(), theirs.data.len());
    }
    assert_eq!(ours.len(), theirs.len());
    assert_eq!(came.iter().filter(|packet| packet.role == Role::Header).count(), 1, "one configuration");
    if codec != Codec::Vp8 {
        assert_eq!(described(&came), described(&packets));
    }
    Ok(())
}

/// How players are told of a stream. Nobody needs to say VP9's level, and RTP does not.
fn described(packets: &[Packet]) -> Vec<(String, Option<(u16, u16)>)> {
    let (mut muxer, mut events) = (Muxer::new(Policy::default()), Vec::new());
    packets.iter().for_each(|packet| muxer.push(packet, &mut events));
    muxer.end(&mut events);
    let inits = events.iter().filter_map(|event| match event {
        mux::Event::Init(init) => Some((init.codecs().replace("vp09.00.21", "vp09.00.00"), init.resolution())),
        mux::Event::Part(_) | mux::Event::SegmentEnd(_) | mux::Event::Discontinuity(_) | mux::Event::Unsupported(_) => {
            None
        }
    });
    inits.collect()
}

/// A packet, and the milliseconds at which it is sent.
type Sent = (u64, Rtp);

fn sent(packets: &[Packet], first: u16, offset: u32) -> Vec<Sent> {
    let mut packetizer = VideoPacketizer::new(MaxPayload::DEFAULT);
    let mut sent: Vec<Sent> = Vec::new();
    for packet in packets {
        let frame = match packetizer.push(packet) {
            Video::Frame(frame) => frame,
            Video::Nothing => continue,
            bad @ (Video::BFrames | Video::Unsupported(_) | Video::Unreadable) => panic!("{bad:?}"),
        };
        let millis = u64::try_from(packet.time.as_millis()).unwrap();
        for payload in &frame.payloads {
            assert!(payload.len() <= MaxPayload::DEFAULT.bytes());
            let mut bytes = Vec::new();
            payload.write_to(&mut bytes);
            let sequence = first.wrapping_add(u16::try_from(sent.len()).unwrap());
            let (timestamp, marker) = (frame.timestamp.wrapping_add(offset), payload.marker);
            sent.push((millis, Rtp { sequence, timestamp, marker, payload: bytes.into() }));
        }
    }
    sent
}

/// Every seventh packet comes 100 ms late, as one that was resent does; every fifth comes twice.
fn disturbed(sent: &[Sent]) -> Vec<Sent> {
    let mut disturbed = Vec::new();
    for (index, (millis, rtp)) in sent.iter().enumerate() {
        let late = if index > 0 && index % 7 == 0 { 100 } else { 0 };
        disturbed.push((millis + late, rtp.clone()));
        if index % 5 == 0 {
            disturbed.push((millis + late + 10, rtp.clone()));
        }
    }
    disturbed.sort_by_key(|(millis, _)| *millis);
    disturbed
}

fn received(codec: Codec, sent: &[Sent]) -> Vec<Packet> {
    let (track, start) = (Track::first(Kind::Video), Instant::now());
    let (mut receiver, mut events) = (Receiver::new(&[(track, codec)], start), Vec::new());
    for (millis, rtp) in sent {
        receiver.push(track, rtp.clone(), start + Duration::from_millis(*millis), &mut events);
    }
    events
        .into_iter()
        .filter_map(|event| match event {
            Event::Packet(packet) => Some(packet),
            Event::Missing { .. } => None,
            Event::KeyframeNeeded(_) => panic!("nothing was lost for good"),
        })
        .collect()
}
