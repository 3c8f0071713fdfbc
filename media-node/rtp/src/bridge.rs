//! AAC → Opus: what browsers hear of a publisher that sends AAC. Once a stream, on one thread, and only while somebody
//! needs it: it is the only part here that takes time (about 0.5 % of a core).
//!
//! Frames are decoded, brought to 48 kHz, and encoded 20 ms at a time. Sound stays on the publisher's clock: FLV's milliseconds make the
//! times of frames jitter, so samples are counted, and a sample is repeated or left out where the count drifts away; after a pause the
//! count begins anew.

mod pace;
mod resample;

use std::fmt;

use bytes::Bytes;
use media_core::{Kind, MediaTime, Packet, Role, Timescale, Track};
use opus::{Application, Bitrate, Channels, Encoder};
use rtmp::tag::{AudioCodec, AudioTag, Part};
use symphonia_codec_aac::AacDecoder;
use symphonia_core::{
    codecs::audio::{AudioCodecParameters, AudioDecoder as _, AudioDecoderOptions, well_known::CODEC_ID_AAC},
    packet::PacketRef,
    units::{Duration, Timestamp},
};

use self::{
    pace::{Pace, Step},
    resample::Resampler,
};
use crate::clock::rescaled;

/// What is said to a listener at once: 20 ms, as browsers send it.
const FRAME: usize = 960;
const FRAME_TICKS: i64 = 960;
/// Samples of an AAC frame.
const AAC_FRAME: usize = 1_024;
/// Longer than any packet of a frame at our bit rates.
const MAX_PACKET: usize = 1_275;
/// libopus at 10 takes twice the time for what few hear.
const COMPLEXITY: i32 = 5;
/// Bits a second of a channel: what is hard to tell from the AAC that it is made of.
const BITRATE: i32 = 64_000;

/// Why sound cannot be bridged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another codec.
    #[error("only AAC becomes Opus")]
    Codec(AudioCodec),
    /// HE-AAC, or more than two channels: no decoder that is free knows them.
    #[error("only AAC-LC of one or two channels becomes Opus")]
    Configuration,
    /// A frame that cannot be decoded; silence is in its place.
    #[error("the AAC frame cannot be decoded")]
    Frame,
    /// libopus refuses what was asked of it.
    #[error("libopus failed")]
    Opus,
}

/// Makes Opus of the first audio track of a broadcast.
#[derive(Debug, Default)]
pub struct AacToOpus {
    stream: Option<Stream>,
    /// The configuration that it is of.
    configuration: Bytes,
}

impl AacToOpus {
    /// Takes the next packet; what becomes of it is added to `packets`.
    ///
    /// # Errors
    /// When nothing, or silence, comes of it. The next packet may be better.
    pub fn push(&mut self, packet: &Packet, packets: &mut Vec<Packet>) -> Result<(), Error> {
        if packet.track != Track::first(Kind::Audio) {
            return Ok(());
        }
        let tag = AudioTag::parse(&packet.payload).map_err(|_no_tag| Error::Frame)?;
        if tag.codec != AudioCodec::Aac {
            return Err(Error::Codec(tag.codec));
        }
        let data = packet.payload.slice(tag.data_offset..);
        match tag.part {
            Part::SequenceHeader => self.configure(data, packet.time, packets),
            Part::Coded => match &mut self.stream {
                Some(stream) => stream.push(packet.time, &data, packets),
                None => Ok(()),
            },
            Part::SequenceEnd
            | Part::Metadata
            | Part::TransportStreamHeader
            | Part::ChannelConfiguration
            | Part::Command
            | Part::Unknown => Ok(()),
        }
    }

    fn configure(&mut self, data: Bytes, time: MediaTime, packets: &mut Vec<Packet>) -> Result<(), Error> {
        if data.is_empty() || (data == self.configuration && self.stream.is_some()) {
            return Ok(());
        }
        self.stream = None;
        let stream = Stream::new(&data)?;
        let head = [&b"\x90OpusOpusHead\x01"[..], &[stream.channels_u8()], b"\0\0\x80\xBB\0\0\0\0\0"].concat();
        packets.push(Packet::new(Track::first(Kind::Audio), time, Role::Header, head.into()));
        self.stream = Some(stream);
        self.configuration = data;
        Ok(())
    }
}

/// Sound of one configuration.
struct Stream {
    decoder: AacDecoder,
    resampler: Resampler,
    encoder: Encoder,
    channels: usize,
    /// What was decoded, a channel each.
    planes: Vec<Vec<f32>>,
    /// At 48 kHz, interleaved, not encoded yet.
    sound: Vec<f32>,
    /// When `sound` is heard.
    pace: Pace,
    /// By how much what comes out is later than what went in, in samples.
    delay: i64,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("channels", &self.channels).field("pace", &self.pace).finish_non_exhaustive()
    }
}

impl Stream {
    fn new(configuration: &[u8]) -> Result<Self, Error> {
        let mut parameters = AudioCodecParameters::new();
        parameters.for_codec(CODEC_ID_AAC).with_extra_data(configuration.into());
        let decoder = AacDecoder::try_new(&parameters, &AudioDecoderOptions::default())
            .map_err(|_too_complex| Error::Configuration)?;
        let described = decoder.codec_params();
        let channels = described.channels.as_ref().map_or(0, |channels| channels.count());
        let rate = described.sample_rate.ok_or(Error::Configuration)?;
        let (layout, bitrate) = match channels {
            1 => (Channels::Mono, BITRATE),
            2 => (Channels::Stereo, 2 * BITRATE),
            _ => return Err(Error::Configuration),
        };
        let resampler = Resampler::new(rate, channels).ok_or(Error::Configuration)?;
        let mut encoder = Encoder::new(48_000, layout, Application::Audio).map_err(|_failed| Error::Opus)?;
        encoder.set_bitrate(Bitrate::Bits(bitrate)).map_err(|_refused| Error::Opus)?;
        encoder.set_complexity(COMPLEXITY).map_err(|_refused| Error::Opus)?;
        let lookahead = encoder.get_lookahead().map_err(|_refused| Error::Opus)?;
        let delay = i64::from(lookahead) + resampler.delay();
        let (planes, sound) = (Vec::new(), Vec::new());
        Ok(Self { decoder, resampler, encoder, channels, planes, sound, pace: Pace::default(), delay })
    }

    fn channels_u8(&self) -> u8 {
        u8::try_from(self.channels).expect("one or two")
    }

    fn push(&mut self, time: MediaTime, frame: &[u8], packets: &mut Vec<Packet>) -> Result<(), Error> {
        let decoded = self.decode(frame);
        let said = rescaled(time.ticks(), time.timescale(), Timescale::OPUS) - self.delay;
        let step = self.pace.step(said, self.waiting());
        if step == Step::Begin {
            self.finish(packets)?;
            self.pace.begin(said);
        }
        self.resampler.push(&self.planes, &mut self.sound);
        self.correct(step);
        self.encode(packets)?;
        decoded
    }

    /// Decodes into `planes`; silence in place of what cannot be decoded.
    fn decode(&mut self, frame: &[u8]) -> Result<(), Error> {
        let packet = PacketRef::new(0, Timestamp::new(0), Duration::new(0), frame);
        let decoded = self.decoder.decode_ref(&packet).map(|buffer| buffer.copy_to_vecs_planar(&mut self.planes));
        if decoded.is_ok()
            && self.planes.len() == self.channels
            && self.planes.iter().all(|plane| plane.len() == AAC_FRAME)
        {
            return Ok(());
        }
        self.planes = vec![vec![0.0; AAC_FRAME]; self.channels];
        Err(Error::Frame)
    }

    /// Samples of a channel that went in and did not come out.
    fn waiting(&self) -> i64 {
        let samples = self.sound.len() / self.channels;
        i64::try_from(samples).expect("less than a frame") + self.resampler.waiting()
    }

    /// Moves sound by a sample towards its time.
    fn correct(&mut self, step: Step) {
        let last = self.sound.len().saturating_sub(self.channels);
        match step {
            Step::Begin | Step::Keep => {}
            Step::Repeat => self.sound.extend_from_within(last..),
            Step::LeaveOut => self.sound.truncate(last),
        }
    }

    fn encode(&mut self, packets: &mut Vec<Packet>) -> Result<(), Error> {
        let whole = FRAME * self.channels;
        while self.sound.len() >= whole {
            let mut body = [0; MAX_PACKET];
            let frame = self.sound.get(..whole).unwrap_or_default();
            let length = self.encoder.encode_float(frame, &mut body).map_err(|_failed| Error::Opus)?;
            let payload = [HEAD, body.get(..length).unwrap_or_default()].concat();
            self.sound.drain(..whole);
            let time = MediaTime::new(self.pace.next(), Timescale::OPUS);
            packets.push(Packet::new(Track::first(Kind::Audio), time, Role::Key, payload.into()));
        }
        Ok(())
    }

    /// Ends what has come before a pause with silence.
    fn finish(&mut self, packets: &mut Vec<Packet>) -> Result<(), Error> {
        self.resampler.reset();
        if !self.sound.is_empty() {
            self.sound.resize(FRAME * self.channels, 0.0);
            self.encode(packets)?;
        }
        Ok(())
    }
}

const HEAD: &[u8] = b"\x91Opus";

#[cfg(test)]
mod tests;
