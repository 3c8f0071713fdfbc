//! An FLV file as the RTP packets of an endless stream, cut as our own node cuts them.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use media_core::{Kind, Packet, Role, RtmpClock, Track};
use media_rtp::{
    MaxPayload,
    packetize::{Video, VideoPacketizer},
};

pub(crate) struct Clip {
    pub(crate) frames: Vec<Frame>,
    length: Duration,
}

pub(crate) struct Frame {
    at: Duration,
    keyframe: bool,
    pub(crate) payloads: Vec<Bytes>,
}

/// A frame at its place in the stream.
pub(crate) struct Due<'a> {
    pub(crate) at: Duration,
    pub(crate) timestamp: u32,
    pub(crate) keyframe: bool,
    pub(crate) payloads: &'a [Bytes],
}

impl Clip {
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let bytes = fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
        ensure!(bytes.starts_with(b"FLV"), "{} is no FLV file", file.display());
        let (mut clock, mut packetizer) = (RtmpClock::default(), VideoPacketizer::new(MaxPayload::DEFAULT));
        let mut frames = Vec::new();
        for message in rtmp::flv::messages(bytes.into()) {
            if message.kind != rtmp::Kind::Video {
                continue;
            }
            let at = Duration::from_millis(message.timestamp_ms.into());
            let time = clock.place(message.timestamp_ms);
            let packet = Packet::new(Track::first(Kind::Video), time, Role::Dependent, message.payload);
            if let Video::Frame(frame) = packetizer.push(&packet) {
                let bytes = |payload: &media_rtp::Payload| {
                    let mut bytes = BytesMut::with_capacity(payload.len());
                    payload.write_to(&mut bytes);
                    bytes.freeze()
                };
                let keyframe = frame.keyframe;
                frames.push(Frame { at, keyframe, payloads: frame.payloads.iter().map(bytes).collect() });
            }
        }
        let first = frames.first().context("the clip has no pictures")?.at;
        frames.iter_mut().for_each(|frame| frame.at = frame.at.saturating_sub(first));
        let last = frames.last().map_or(Duration::ZERO, |frame| frame.at);
        // the last frame lasts as long as one of 25 in a second
        Ok(Self { frames, length: last + Duration::from_millis(40) })
    }

    /// A frame of the endless stream, by its number.
    pub(crate) fn due(&self, number: usize) -> Result<Due<'_>> {
        let frame = self.frames.get(number % self.frames.len()).context("the clip has no pictures")?;
        let at = self.length * u32::try_from(number / self.frames.len())? + frame.at;
        let timestamp = u32::try_from(at.as_micros() * 90 / 1_000 % (1 << 32))?;
        Ok(Due { at, timestamp, keyframe: frame.keyframe, payloads: &frame.payloads })
    }
}
