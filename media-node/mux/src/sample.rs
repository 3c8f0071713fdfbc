//! From packets to samples: what a decoder is given at once, and the configurations between them.

use bytes::Bytes;
use media_core::{Kind, Packet, Track};
use rtmp::tag::{AudioCodec, AudioTag, Part, VideoCodec, VideoTag};

use crate::codec::{self, Config, Format, Unsupported};

/// The two kinds of track there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Video,
    Audio,
}

/// A frame of one track, on the publisher's clock.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) media: Media,
    /// Decoding time, in milliseconds.
    pub(crate) millis: i64,
    /// Presentation time less decoding time, in milliseconds.
    pub(crate) composition_millis: i32,
    pub(crate) key: bool,
    /// Length of an audio frame, in ticks of its track; 0 for video, whose frames last until the next.
    pub(crate) ticks: u32,
    /// A slice of the packet's payload.
    pub(crate) payload: Bytes,
}

/// What a packet is to a muxer.
#[derive(Debug)]
pub(crate) enum Unit {
    Sample(Sample),
    /// The track's configuration, new or again.
    Config(Media, Config),
    /// The track's configuration changes with this keyframe.
    Changed(Config, Sample),
    Unsupported(Media, Unsupported),
    /// Nothing that is kept: no frame, or of a further track.
    Nothing,
    /// One of several tracks of a kind.
    FurtherTrack,
    /// A frame that came before its configuration, or one that says what is not so.
    Unusable,
}

/// Reads packets. Keeps the configuration of each kind's first track.
#[derive(Debug, Default)]
pub(crate) struct Demuxer {
    video: Option<Described>,
    audio: Option<Config>,
}

/// A video sequence header, and what was made of it.
#[derive(Debug)]
struct Described {
    codec: VideoCodec,
    record: Bytes,
    config: Option<Config>,
}

impl Demuxer {
    pub(crate) fn read(&mut self, packet: &Packet) -> Unit {
        let millis = packet.time.as_millis();
        match packet.track {
            Track { kind: Kind::Data, .. } => Unit::Nothing,
            Track { index: 1.., .. } => Unit::FurtherTrack,
            Track { kind: Kind::Video, .. } => match VideoTag::parse(&packet.payload) {
                Ok(tag) => self.video(tag, millis, packet.payload.slice(tag.data_offset..)),
                Err(_not_a_tag) => Unit::Unusable,
            },
            Track { kind: Kind::Audio, .. } => match AudioTag::parse(&packet.payload) {
                Ok(tag) => self.audio(tag, millis, packet.payload.slice(tag.data_offset..)),
                Err(_not_a_tag) => Unit::Unusable,
            },
        }
    }

    fn video(&mut self, tag: VideoTag, millis: i64, data: Bytes) -> Unit {
        let Some(codec) = tag.codec else { return Unit::Nothing };
        if let Some(unsupported) = codec::unsupported_video(codec) {
            self.video = None;
            return Unit::Unsupported(Media::Video, unsupported);
        }
        if tag.part == Part::SequenceHeader {
            self.video_header(codec, data)
        } else if tag.part == Part::Coded {
            self.video_frame(tag, codec, millis, data)
        } else {
            Unit::Nothing
        }
    }

    fn video_header(&mut self, codec: VideoCodec, record: Bytes) -> Unit {
        if record.is_empty() {
            return Unit::Nothing;
        }
        let known = self.video.as_ref().filter(|known| known.codec == codec && known.record == record);
        if let Some(known) = known {
            return known.config.clone().map_or(Unit::Nothing, |config| Unit::Config(Media::Video, config));
        }
        match codec::video(codec, &record, None) {
            Ok(config) => {
                let unit = config.clone().map_or(Unit::Nothing, |config| Unit::Config(Media::Video, config));
                self.video = Some(Described { codec, record, config });
                unit
            }
            Err(unsupported) => {
                self.video = None;
                Unit::Unsupported(Media::Video, unsupported)
            }
        }
    }

    fn video_frame(&mut self, tag: VideoTag, codec: VideoCodec, millis: i64, data: Bytes) -> Unit {
        let Some(described) = self.video.as_mut().filter(|known| known.codec == codec) else { return Unit::Unusable };
        // AV1's temporal delimiters have no place in MP4
        let payload = if codec == VideoCodec::Av1 && data.starts_with(&[0x12, 0]) { data.slice(2..) } else { data };
        if payload.is_empty() {
            return Unit::Nothing;
        }
        let sample = Sample {
            media: Media::Video,
            millis,
            composition_millis: tag.composition_time_ms,
            key: tag.keyframe,
            ticks: 0,
            payload,
        };
        if tag.keyframe && codec::size_is_in_keyframes(codec) {
            match codec::video(codec, &described.record, Some(&sample.payload)) {
                Ok(Some(config)) if described.config.as_ref() != Some(&config) => {
                    described.config = Some(config.clone());
                    return Unit::Changed(config, sample);
                }
                // a keyframe that cannot be read is the decoder's affair once there is a configuration
                Ok(_) | Err(_) => {}
            }
        }
        if described.config.is_some() { Unit::Sample(sample) } else { Unit::Unusable }
    }

    fn audio(&mut self, tag: AudioTag, millis: i64, data: Bytes) -> Unit {
        if let Some(unsupported) = codec::unsupported_audio(tag.codec) {
            self.audio = None;
            return Unit::Unsupported(Media::Audio, unsupported);
        }
        if tag.part == Part::SequenceHeader {
            self.audio_header(tag.codec, &data)
        } else if tag.part == Part::Coded {
            self.audio_frame(tag.codec, millis, data)
        } else {
            Unit::Nothing
        }
    }

    fn audio_header(&mut self, codec: AudioCodec, record: &Bytes) -> Unit {
        match codec::audio(codec, record) {
            Ok(None) => Unit::Nothing,
            Ok(Some(config)) => {
                self.audio = Some(config.clone());
                Unit::Config(Media::Audio, config)
            }
            Err(unsupported) => {
                self.audio = None;
                Unit::Unsupported(Media::Audio, unsupported)
            }
        }
    }

    fn audio_frame(&self, codec: AudioCodec, millis: i64, payload: Bytes) -> Unit {
        if payload.is_empty() {
            return Unit::Nothing;
        }
        let ticks = match (codec, self.audio.as_ref().map(Config::format)) {
            (AudioCodec::Opus, Some(Format::Audio { .. })) => media_core::codec::opus::samples(&payload),
            (_, Some(Format::Audio { frame, .. })) => Some(frame),
            (_, Some(Format::Video { .. }) | None) => None,
        };
        let Some(ticks) = ticks else { return Unit::Unusable };
        Unit::Sample(Sample { media: Media::Audio, millis, composition_millis: 0, key: true, ticks, payload })
    }
}
