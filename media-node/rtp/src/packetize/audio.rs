//! Opus (RFC 7587): a packet is a payload.

use media_core::{Kind, Packet, Timescale, Track, codec::opus};
use rtmp::tag::{AudioCodec, AudioTag, Part};

use super::Frame;
use crate::{
    Codec, Payload,
    clock::{self, Anchored},
    payload::Head,
};

/// What a packet is to viewers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audio {
    Frame(Frame),
    /// Nothing to send: a configuration, a further track, silence that is not sent.
    Nothing,
    /// To be bridged first.
    Unsupported(AudioCodec),
    /// A packet that cannot be read.
    Unreadable,
}

/// Makes payloads of the first audio track of a broadcast.
#[derive(Debug)]
pub struct AudioPacketizer {
    clock: Anchored,
}

impl Default for AudioPacketizer {
    fn default() -> Self {
        Self { clock: Anchored::new(Timescale::OPUS) }
    }
}

impl AudioPacketizer {
    /// Takes the next packet.
    pub fn push(&mut self, packet: &Packet) -> Audio {
        if packet.track != Track::first(Kind::Audio) {
            return Audio::Nothing;
        }
        let Ok(tag) = AudioTag::parse(&packet.payload) else { return Audio::Unreadable };
        if tag.codec != AudioCodec::Opus {
            return Audio::Unsupported(tag.codec);
        }
        if tag.part != Part::Coded {
            return Audio::Nothing;
        }
        let body = packet.payload.slice(tag.data_offset..);
        let Some(samples) = opus::samples(&body) else { return Audio::Unreadable };
        let ticks = self.clock.place(packet.time, samples.into());
        let mut payload = Payload::new(Head::default(), body);
        payload.marker = true;
        let timestamp = clock::wrapped(ticks);
        Audio::Frame(Frame { codec: Codec::Opus, timestamp, keyframe: true, payloads: vec![payload] })
    }
}
