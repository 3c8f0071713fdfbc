//! From a broadcast's packets to RTP payloads: a frame's at once, made once for all viewers.
//!
//! Pictures are sent in the order in which they are shown, which is the order in which they are decoded unless the encoder makes
//! B-frames. Browsers do not reorder what comes over WebRTC, so a stream that has them is not sent: [`Video::BFrames`] says so, and its
//! video goes on with the first keyframe after a group without any.

mod audio;
mod av1;
mod nal;
mod vp8;
mod vp9;

use bytes::Bytes;
use media_core::{Kind, MediaTime, Packet, Timescale, Track};
use rtmp::tag::{Part, VideoCodec, VideoTag};

pub use self::audio::{Audio, AudioPacketizer};
use crate::{
    Codec, MaxPayload, Payload, clock,
    nal::{Record, Standard},
};

/// A frame's payloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub codec: Codec,
    /// On the codec's clock, with the broadcast's own start. A viewer's timestamps are these and an offset.
    pub timestamp: u32,
    /// Whether it decodes by itself.
    pub keyframe: bool,
    /// At least one; the last has the marker.
    pub payloads: Vec<Payload>,
}

/// What a packet is to viewers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Video {
    Frame(Frame),
    /// Nothing to send: a configuration, metadata, a further track, or a frame that cannot be decoded without one before it.
    Nothing,
    /// The pictures are not in the order in which they are shown: video stops. Said once.
    BFrames,
    /// WebRTC has no payload format for the codec, or none that browsers know.
    Unsupported(VideoCodec),
    /// A configuration or a frame that cannot be read.
    Unreadable,
}

/// Makes payloads of one video track of a broadcast.
#[derive(Debug)]
pub struct VideoPacketizer {
    max: MaxPayload,
    of: Track,
    track: Option<Configured>,
    order: Order,
    /// Of the next picture of VP8 and VP9.
    picture: PictureId,
}

/// A codec and what must be known of it.
#[derive(Debug)]
enum Configured {
    Nal(Standard, Record),
    /// The units of its configuration, for keyframes that come without.
    Av1(Bytes),
    Vp8,
    Vp9,
}

impl VideoPacketizer {
    /// Begins before the first packet of the first track.
    #[must_use]
    pub fn new(max: MaxPayload) -> Self {
        Self::of(max, Track::first(Kind::Video))
    }

    /// Begins before the first packet of a track.
    #[must_use]
    pub fn of(max: MaxPayload, track: Track) -> Self {
        Self { max, of: track, track: None, order: Order::default(), picture: PictureId::default() }
    }

    /// The codec, once it is known.
    #[must_use]
    pub fn codec(&self) -> Option<Codec> {
        self.track.as_ref().map(Configured::codec)
    }

    /// Takes the next packet.
    pub fn push(&mut self, packet: &Packet) -> Video {
        if packet.track != self.of {
            return Video::Nothing;
        }
        let Ok(tag) = VideoTag::parse(&packet.payload) else { return Video::Unreadable };
        let Some(codec) = tag.codec else { return Video::Nothing };
        let data = packet.payload.slice(tag.data_offset..);
        match tag.part {
            Part::SequenceHeader => self.configure(codec, data),
            Part::Coded => self.frame(tag, codec, packet.time, data),
            Part::SequenceEnd
            | Part::Metadata
            | Part::TransportStreamHeader
            | Part::ChannelConfiguration
            | Part::Command
            | Part::Unknown => Video::Nothing,
        }
    }

    fn configure(&mut self, codec: VideoCodec, record: Bytes) -> Video {
        // FFmpeg announces AV1 with an empty one
        if record.is_empty() {
            return Video::Nothing;
        }
        let configured = match codec {
            VideoCodec::Avc => {
                Record::read(Standard::H264, record).map(|record| Configured::Nal(Standard::H264, record))
            }
            VideoCodec::Hevc => {
                Record::read(Standard::H265, record).map(|record| Configured::Nal(Standard::H265, record))
            }
            VideoCodec::Av1 => av1::configuration(&record).map(Configured::Av1),
            VideoCodec::Vp8 => Some(Configured::Vp8),
            VideoCodec::Vp9 => Some(Configured::Vp9),
            VideoCodec::Vvc | VideoCodec::Legacy(_) | VideoCodec::Other(_) => {
                self.track = None;
                return Video::Unsupported(codec);
            }
        };
        self.track = configured;
        if self.track.is_some() { Video::Nothing } else { Video::Unreadable }
    }

    fn frame(&mut self, tag: VideoTag, codec: VideoCodec, time: MediaTime, data: Bytes) -> Video {
        let known = match codec {
            VideoCodec::Avc => matches!(self.track, Some(Configured::Nal(Standard::H264, _))),
            VideoCodec::Hevc => matches!(self.track, Some(Configured::Nal(Standard::H265, _))),
            VideoCodec::Av1 => {
                self.begin(Configured::Av1(Bytes::new()), |track| matches!(track, Configured::Av1(_)));
                true
            }
            VideoCodec::Vp8 => {
                self.begin(Configured::Vp8, |track| matches!(track, Configured::Vp8));
                true
            }
            VideoCodec::Vp9 => {
                self.begin(Configured::Vp9, |track| matches!(track, Configured::Vp9));
                true
            }
            VideoCodec::Vvc | VideoCodec::Legacy(_) | VideoCodec::Other(_) => return Video::Unsupported(codec),
        };
        if !known || data.is_empty() {
            return Video::Nothing;
        }
        let shown = shown(tag, time);
        match self.order.place(shown, tag.keyframe) {
            Placed::Send => self.payloads(tag.keyframe, clock::wrapped(shown), data),
            Placed::Withhold => Video::Nothing,
            Placed::Stop => Video::BFrames,
        }
    }

    /// A codec whose frames say all that a decoder must know needs no configuration before them.
    fn begin(&mut self, track: Configured, is_it: impl FnOnce(&Configured) -> bool) {
        if !self.track.as_ref().is_some_and(is_it) {
            self.track = Some(track);
        }
    }

    fn payloads(&mut self, keyframe: bool, timestamp: u32, data: Bytes) -> Video {
        let Some(track) = &self.track else { return Video::Nothing };
        let max = self.max.bytes();
        let mut payloads = match track {
            Configured::Nal(standard, record) => nal::payloads(*standard, record, data, keyframe, max),
            Configured::Av1(configuration) => av1::payloads(configuration, data, keyframe, max),
            Configured::Vp8 => vp8::payloads(self.picture.next(), &data, max),
            Configured::Vp9 => vp9::payloads(self.picture.next(), &data, keyframe, max),
        };
        let codec = track.codec();
        let Some(last) = payloads.last_mut() else { return Video::Unreadable };
        last.marker = true;
        Video::Frame(Frame { codec, timestamp, keyframe, payloads })
    }
}

impl Configured {
    fn codec(&self) -> Codec {
        match self {
            Self::Nal(Standard::H264, _) => Codec::H264,
            Self::Nal(Standard::H265, _) => Codec::H265,
            Self::Av1(_) => Codec::Av1,
            Self::Vp8 => Codec::Vp8,
            Self::Vp9 => Codec::Vp9,
        }
    }
}

/// Parts of a frame, each as long as it may be but the last.
fn fragments(frame: &Bytes, most: usize) -> impl Iterator<Item = Bytes> {
    let mut rest = frame.clone();
    std::iter::from_fn(move || (!rest.is_empty()).then(|| rest.split_to(rest.len().min(most))))
}

/// When a picture is shown, in ticks of its RTP clock.
fn shown(tag: VideoTag, time: MediaTime) -> i64 {
    let rate = Timescale::MPEG;
    clock::rescaled(time.ticks(), time.timescale(), rate)
        + clock::rescaled(tag.composition_time_ms.into(), Timescale::MILLIS, rate)
}

/// Looks out for B-frames in the first video track of a broadcast, without making payloads of it.
#[derive(Debug, Default)]
pub struct BFrames(Order);

impl BFrames {
    /// Takes the next packet. Reports whether it shows that the stream has B-frames, which it does once, and again after a group
    /// without any.
    pub fn show_in(&mut self, packet: &Packet) -> bool {
        if packet.track != Track::first(Kind::Video) {
            return false;
        }
        VideoTag::parse(&packet.payload).is_ok_and(|tag| {
            tag.part == Part::Coded && self.0.place(shown(tag, packet.time), tag.keyframe) == Placed::Stop
        })
    }
}

/// Whether pictures come in the order in which they are shown.
#[derive(Debug, Default)]
struct Order {
    state: State,
    /// When the last picture of the group is shown, in ticks.
    last: i64,
    /// A picture of the group went back.
    went_back: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// No keyframe yet.
    #[default]
    Waiting,
    Flowing,
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placed {
    Send,
    Withhold,
    Stop,
}

impl Order {
    fn place(&mut self, shown: i64, keyframe: bool) -> Placed {
        if keyframe {
            if self.state == State::Waiting || !self.went_back {
                self.state = State::Flowing;
            }
            self.went_back = false;
        } else if shown < self.last {
            self.went_back = true;
            if self.state == State::Flowing {
                self.state = State::Stopped;
                return Placed::Stop;
            }
            return Placed::Withhold;
        }
        self.last = shown;
        match self.state {
            State::Flowing => Placed::Send,
            State::Waiting | State::Stopped => Placed::Withhold,
        }
    }
}

/// Numbers pictures in 15 bits.
#[derive(Clone, Copy, Debug, Default)]
struct PictureId(u16);

impl PictureId {
    fn next(&mut self) -> [u8; 2] {
        const IS_LONG: u16 = 0x8000;

        let id = self.0;
        self.0 = (id + 1) & !IS_LONG;
        (id | IS_LONG).to_be_bytes()
    }
}

#[cfg(test)]
mod tests;
