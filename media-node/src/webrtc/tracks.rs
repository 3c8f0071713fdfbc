//! What WebRTC carries of a stream: its packets as frames of RTP payloads, made once for all viewers. No sockets, no clock.

use std::{mem::discriminant, sync::Arc, time::Duration};

use bytes::BytesMut;
use media_core::{Kind, MediaTime, Packet, Timescale, Track};
use media_rtp::{
    MaxPayload,
    bridge::{self, AacToOpus},
    packetize::{Audio, AudioPacketizer, Frame as Packetized, Video, VideoPacketizer},
};
use media_webrtc::{
    history::{Frame, Payload},
    sdp::{Codec, H264Profile, MAX_LAYERS},
    source::Track as Carried,
};
use rtmp::tag::{AudioCodec, AudioTag, Part, VideoCodec, VideoTag};

/// Where the stream's first frame is on the clock that its tracks share, which knows no time before its begin: tracks may begin
/// that much before the first.
const BEGIN: Duration = Duration::from_secs(3_600);

/// Pictures after which it is known whether there are B-frames, if their first keyframe leaves room for them: more than any encoder
/// puts in a row.
const CERTAIN: u32 = 20;

/// Sound that is this much older than the newest packet, in milliseconds, is left out: it comes in one go when a stream gets its first
/// viewer, who is sent sound from the newest on.
const MAX_AGE: u64 = 200;

/// Why a stream, or its sound, is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Obstacle {
    #[error(
        "the stream has B-frames, which browsers cannot show over WebRTC; its publisher must encode without: in OBS set Advanced \
         output, x264 options: bframes=0 or tune zerolatency, or \"Max B-frames\" to 0"
    )]
    BFrames,
    #[error("WebRTC does not carry the stream's video codec, {}", name(.0))]
    Video(VideoCodec),
    #[error("the stream's sound cannot be sent over WebRTC: {0}")]
    Audio(bridge::Error),
}

fn name(codec: &VideoCodec) -> &'static str {
    match codec {
        VideoCodec::Avc => "H.264",
        VideoCodec::Hevc => "H.265",
        VideoCodec::Vvc => "H.266",
        VideoCodec::Av1 => "AV1",
        VideoCodec::Vp8 => "VP8",
        VideoCodec::Vp9 => "VP9",
        VideoCodec::Legacy(_) => "one of Flash's",
        VideoCodec::Other(_) => "which is unknown",
    }
}

/// What is known of one kind of media of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Nothing has come of it.
    Nothing,
    Is(Codec),
    Not(Obstacle),
}

impl Known {
    fn is(self, codec: Codec) -> bool {
        matches!(self, Self::Is(known) if discriminant(&known) == discriminant(&codec))
    }
}

/// What viewers can be sent of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sendable {
    /// Video, then audio.
    Tracks(Vec<Carried>),
    Nothing(Obstacle),
    Unknown,
}

/// A frame, and of which track and encoding it is.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) codec: Codec,
    pub(super) layer: usize,
    pub(super) frame: Arc<Frame>,
}

/// Whether sound is made and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sound {
    Wanted,
    /// Nobody would hear it.
    Spared,
}

/// The packets of one stream on their way to viewers.
#[derive(Debug)]
pub(super) struct Tracks {
    video: VideoPacketizer,
    /// Of the further encodings of the pictures, in their order.
    further: Vec<VideoPacketizer>,
    audio: AudioPacketizer,
    bridge: AacToOpus,
    profile: H264Profile,
    has_video: Known,
    has_audio: Known,
    pictures: u32,
    /// The first keyframe is shown later than it is decoded.
    is_delayed: bool,
    clock: Clock,
}

impl Tracks {
    pub(super) fn new() -> Self {
        Self {
            video: VideoPacketizer::new(MaxPayload::DEFAULT),
            further: Vec::new(),
            audio: AudioPacketizer::default(),
            bridge: AacToOpus::default(),
            profile: H264Profile { idc: 66, constraints: 0xe0 },
            has_video: Known::Nothing,
            has_audio: Known::Nothing,
            pictures: 0,
            is_delayed: false,
            clock: Clock::default(),
        }
    }

    /// Takes the next packet, which came with others of which the last is of `newest`; what becomes of it is added to `frames`.
    pub(super) fn push(&mut self, packet: &Packet, newest: MediaTime, sound: Sound, frames: &mut Vec<Sent>) {
        if packet.track == Track::first(Kind::Video) {
            self.push_video(packet, frames);
        } else if packet.track.kind == Kind::Video {
            self.push_further(packet, frames);
        } else if packet.track == Track::first(Kind::Audio) {
            let is_old = newest.distance_millis(packet.time) > MAX_AGE;
            self.push_audio(packet, if is_old { Sound::Spared } else { sound }, frames);
        }
    }

    /// Whether what has come is all that there is, as far as can be said: both kinds, and no B-frames.
    pub(super) fn is_certain(&self) -> bool {
        let least = if self.is_delayed { CERTAIN } else { 1 };
        let is_ordered = self.pictures >= least || matches!(self.has_video, Known::Not(_));
        self.has_video != Known::Nothing && self.has_audio != Known::Nothing && is_ordered
    }

    pub(super) fn sendable(&self) -> Sendable {
        match (self.has_video, self.has_audio) {
            (Known::Not(obstacle), _) | (Known::Nothing, Known::Not(obstacle)) => Sendable::Nothing(obstacle),
            (Known::Nothing, Known::Nothing) => Sendable::Unknown,
            (Known::Is(video), Known::Is(audio)) => Sendable::Tracks(vec![self.carried(video), audio.into()]),
            (Known::Is(codec), Known::Nothing | Known::Not(_)) => Sendable::Tracks(vec![self.carried(codec)]),
            (Known::Nothing, Known::Is(codec)) => Sendable::Tracks(vec![codec.into()]),
        }
    }

    /// The pictures with all of their encodings that are known.
    fn carried(&self, codec: Codec) -> Carried {
        let is_alike = |layer: &VideoPacketizer| {
            layer.codec().is_some_and(|other| are_alike(&[codec.into()], &[self.codec(other).into()]))
        };
        Carried { codec, layers: 1 + self.further.iter().take_while(|layer| is_alike(layer)).count() }
    }

    /// Why there is no sound, where there is some that cannot be sent.
    pub(super) fn silence(&self) -> Option<Obstacle> {
        match self.has_audio {
            Known::Not(obstacle) => Some(obstacle),
            Known::Nothing | Known::Is(_) => None,
        }
    }

    fn push_video(&mut self, packet: &Packet, frames: &mut Vec<Sent>) {
        let Ok(tag) = VideoTag::parse(&packet.payload) else { return };
        let data = packet.payload.get(tag.data_offset..).unwrap_or_default();
        match (tag.part, tag.codec, data) {
            // RFC 6184's profile-level-id is there as well (ISO/IEC 14496-15 §5.3.3.1)
            (Part::SequenceHeader, Some(VideoCodec::Avc), &[_version, idc, constraints, ..]) => {
                self.profile = H264Profile { idc, constraints };
            }
            (Part::Coded, _, _) => {
                self.is_delayed |= self.pictures == 0 && tag.composition_time_ms != 0;
                self.pictures = self.pictures.saturating_add(1);
            }
            _ => {}
        }
        match self.video.push(packet) {
            Video::Frame(frame) => {
                let codec = self.codec(frame.codec);
                self.has_video = Known::Is(codec);
                frames.push(Sent { codec, layer: 0, frame: self.clock.frame(&frame, packet.time) });
            }
            Video::BFrames => self.has_video = Known::Not(Obstacle::BFrames),
            Video::Unsupported(codec) => self.has_video = Known::Not(Obstacle::Video(codec)),
            Video::Nothing | Video::Unreadable => {
                let codec = self.video.codec().map(|codec| self.codec(codec));
                // B-frames are over when there is a frame again
                let goes_on = self.has_video == Known::Not(Obstacle::BFrames);
                if let Some(codec) = codec.filter(|codec| !goes_on && !self.has_video.is(*codec)) {
                    self.has_video = Known::Is(codec);
                }
            }
        }
    }

    /// Takes a packet of another encoding of the pictures; one that is in another codec, or has B-frames, is left out.
    fn push_further(&mut self, packet: &Packet, frames: &mut Vec<Sent>) {
        let layer = usize::from(packet.track.index);
        if layer >= MAX_LAYERS {
            return;
        }
        while self.further.len() < layer {
            let index = u8::try_from(self.further.len() + 1).unwrap_or(u8::MAX);
            self.further.push(VideoPacketizer::of(MaxPayload::DEFAULT, Track { kind: Kind::Video, index }));
        }
        let made = self.further.get_mut(layer - 1).map(|packetizer| packetizer.push(packet));
        if let Some(Video::Frame(frame)) = made
            && let codec = self.codec(frame.codec)
            && self.has_video.is(codec)
        {
            frames.push(Sent { codec, layer, frame: self.clock.frame(&frame, packet.time) });
        }
    }

    fn push_audio(&mut self, packet: &Packet, sound: Sound, frames: &mut Vec<Sent>) {
        let Ok(tag) = AudioTag::parse(&packet.payload) else { return };
        match tag.codec {
            AudioCodec::Opus => {
                self.has_audio = Known::Is(Codec::Opus);
                if sound == Sound::Wanted {
                    self.push_opus(packet, frames);
                }
            }
            AudioCodec::Aac if sound == Sound::Spared && tag.part == Part::Coded => {}
            codec => {
                let mut opus = Vec::new();
                match self.bridge.push(packet, &mut opus) {
                    Ok(()) | Err(bridge::Error::Frame | bridge::Error::Opus) => {}
                    Err(error) => self.has_audio = Known::Not(Obstacle::Audio(error)),
                }
                if codec == AudioCodec::Aac && !opus.is_empty() {
                    self.has_audio = Known::Is(Codec::Opus);
                }
                opus.iter().for_each(|packet| self.push_opus(packet, frames));
            }
        }
    }

    fn push_opus(&mut self, packet: &Packet, frames: &mut Vec<Sent>) {
        match self.audio.push(packet) {
            Audio::Frame(frame) => {
                frames.push(Sent { codec: Codec::Opus, layer: 0, frame: self.clock.frame(&frame, packet.time) });
            }
            Audio::Nothing | Audio::Unsupported(_) | Audio::Unreadable => {}
        }
    }

    fn codec(&self, codec: media_rtp::Codec) -> Codec {
        match codec {
            media_rtp::Codec::H264 => Codec::H264(self.profile),
            media_rtp::Codec::H265 => Codec::H265,
            media_rtp::Codec::Vp8 => Codec::Vp8,
            media_rtp::Codec::Vp9 => Codec::Vp9,
            media_rtp::Codec::Av1 => Codec::Av1,
            media_rtp::Codec::Opus => Codec::Opus,
        }
    }
}

/// Whether two codecs are one to a viewer, who has a decoder for all profiles of what it was answered.
pub(super) fn are_alike(one: &[Carried], other: &[Carried]) -> bool {
    let kinds = |tracks: &[Carried]| tracks.iter().map(|track| discriminant(&track.codec)).collect::<Vec<_>>();
    kinds(one) == kinds(other)
}

/// The clock that the tracks of a stream share.
#[derive(Debug, Default)]
struct Clock {
    /// What the first frame said, in nanoseconds.
    first: Option<i128>,
}

impl Clock {
    /// Copies a frame's payloads into one buffer, out of those that they came in: they are kept for seconds.
    fn frame(&mut self, frame: &Packetized, said: MediaTime) -> Arc<Frame> {
        let mut buffer = BytesMut::with_capacity(frame.payloads.iter().map(media_rtp::Payload::len).sum());
        let mut packet = |payload: &media_rtp::Payload| {
            payload.write_to(&mut buffer);
            Payload { bytes: buffer.split().freeze(), marker: payload.marker }
        };
        let packets = frame.payloads.iter().map(&mut packet).collect();
        let time = self.time(frame.timestamp, frame.codec.clock_rate(), said);
        Arc::new(Frame { timestamp: frame.timestamp, time, is_keyframe: frame.keyframe, packets })
    }

    /// When the frame with an RTP timestamp is: the moment with these 32 bits that is nearest to what its packet says.
    fn time(&mut self, timestamp: u32, rate: Timescale, said: MediaTime) -> Duration {
        let rate = i128::from(rate.ticks_per_second());
        let near = i128::from(said.ticks()) * rate / i128::from(said.timescale().ticks_per_second());
        let low = u32::try_from(near.rem_euclid(1 << 32)).unwrap_or_default();
        let ticks = near + i128::from(timestamp.wrapping_sub(low).cast_signed());
        let nanos = ticks * 1_000_000_000 / rate;
        let since = nanos - *self.first.get_or_insert(nanos);
        let past = i128::try_from(BEGIN.as_nanos()).unwrap_or_default() + since;
        Duration::from_nanos(u64::try_from(past.max(0)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use media_core::Role;

    use super::*;

    const HIGH: Codec = Codec::H264(H264Profile { idc: 100, constraints: 0 });

    /// A broadcast that is made up.
    struct Stream {
        tracks: Tracks,
        frames: Vec<Sent>,
    }

    impl Stream {
        fn new() -> Self {
            Self { tracks: Tracks::new(), frames: Vec::new() }
        }

        fn push(&mut self, kind: Kind, millis: i64, role: Role, payload: &[u8]) {
            let time = MediaTime::new(millis, Timescale::MILLIS);
            let packet = Packet::new(Track::first(kind), time, role, payload.to_vec().into());
            self.tracks.push(&packet, time, Sound::Wanted, &mut self.frames);
        }

        fn avc(mut self) -> Self {
            let header = b"\x17\0\0\0\0\x01\x64\0\x1f\xff\xe1\0\x04\x67\x64\0\x1f\x01\0\x02\x68\xee";
            self.push(Kind::Video, 0, Role::Header, header);
            self
        }

        /// A picture that is shown `later` than it is decoded.
        fn picture(mut self, millis: i64, later: u8, is_key: bool) -> Self {
            let (tag, unit, role) = if is_key { (0x17, 0x65, Role::Key) } else { (0x27, 0x41, Role::Dependent) };
            self.push(Kind::Video, millis, role, &[tag, 1, 0, 0, later, 0, 0, 0, 3, unit, 0x88, 0x84]);
            self
        }

        fn opus(mut self, millis: i64) -> Self {
            self.push(Kind::Audio, millis, Role::Key, b"\x91Opus\xfc\xff\xfe");
            self
        }

        fn is_certain(&self) -> bool {
            self.tracks.is_certain()
        }

        fn sendable(&self) -> Sendable {
            self.tracks.sendable()
        }
    }

    #[test]
    fn a_stream_is_known_by_its_first_picture_and_sound() {
        let stream = Stream::new();
        assert_eq!(stream.sendable(), Sendable::Unknown);

        let stream = stream.avc().picture(0, 0, true);
        assert_eq!((stream.sendable(), stream.is_certain()), (Sendable::Tracks(vec![HIGH.into()]), false));

        let stream = stream.opus(5);
        assert_eq!(
            (stream.sendable(), stream.is_certain()),
            (Sendable::Tracks(vec![HIGH.into(), Codec::Opus.into()]), true)
        );
        assert_eq!(stream.frames.iter().map(|sent| sent.codec).collect::<Vec<_>>(), [HIGH, Codec::Opus]);
    }

    #[test]
    fn pictures_and_sound_are_on_one_clock_that_goes_on_where_rtp_begins_anew() {
        // 2^32 ticks of 90 kHz are at 47,721,858.8 ms
        let stream = Stream::new().avc().picture(47_721_840, 0, true).opus(47_721_860).picture(47_721_880, 0, false);

        let times: Vec<_> = stream.frames.iter().map(|sent| sent.frame.time.as_millis()).collect();
        assert_eq!(times, [3_600_000, 3_600_020, 3_600_040]);
        assert!(stream.frames[2].frame.timestamp < stream.frames[0].frame.timestamp);
    }

    #[test]
    fn b_frames_are_an_obstacle_until_a_group_has_none() {
        let stream = Stream::new().avc().opus(0).picture(0, 80, true);
        assert!(!stream.is_certain(), "its first picture leaves room for some");

        let stream = stream.picture(40, 160, false).picture(80, 0, false);
        assert_eq!(stream.sendable(), Sendable::Nothing(Obstacle::BFrames));

        let stream = stream.picture(120, 80, true).picture(160, 80, false);
        assert_eq!(stream.sendable(), Sendable::Nothing(Obstacle::BFrames), "the group before had some");
        let stream = stream.picture(200, 80, true);
        assert_eq!(stream.sendable(), Sendable::Tracks(vec![HIGH.into(), Codec::Opus.into()]));
    }

    #[test]
    fn codecs_that_browsers_do_not_have_are_an_obstacle() {
        let mut stream = Stream::new();
        stream.push(Kind::Video, 0, Role::Key, &[0x12, 0, 0]);
        let Sendable::Nothing(Obstacle::Video(codec)) = stream.sendable() else {
            panic!("{:?}", stream.sendable());
        };
        assert_eq!(name(&codec), "one of Flash's");

        let mut stream = Stream::new().avc().picture(0, 0, true);
        // MP3
        stream.push(Kind::Audio, 0, Role::Key, &[0x2f, 0xff, 0xfb]);
        assert_eq!(stream.sendable(), Sendable::Tracks(vec![HIGH.into()]), "the picture goes without its sound");
        assert_eq!(stream.tracks.silence(), Some(Obstacle::Audio(bridge::Error::Codec(AudioCodec::Mp3))));
    }

    #[test]
    fn further_encodings_of_the_pictures_are_layers_and_others_are_left_out() {
        let mut stream = Stream::new().avc().picture(0, 0, true).opus(0);
        let mut further = |index: u8, payload: &[u8]| {
            let (track, time) = (Track { kind: Kind::Video, index }, MediaTime::new(0, Timescale::MILLIS));
            let packet = Packet::new(track, time, Role::Dependent, payload.to_vec().into());
            stream.tracks.push(&packet, time, Sound::Wanted, &mut stream.frames);
        };
        // Enhanced RTMP's track 1 in H264, and track 2 in VP8
        let avc = b"\x01\x64\0\x1f\xff\xe1\0\x04\x67\x64\0\x1f\x01\0\x02\x68\xee";
        further(1, &[&b"\x96\x00avc1\x01"[..], avc].concat());
        further(1, b"\x96\x01avc1\x01\0\0\0\0\0\0\x03\x65\x88\x84");
        further(2, b"\x96\x01vp08\x02\x10\0\0");
        further(200, b"\x96\x01vp08\xc8\x10\0\0");

        let layers: Vec<_> = stream.frames.iter().map(|sent| (sent.codec, sent.layer)).collect();
        assert_eq!(layers, [(HIGH, 0), (Codec::Opus, 0), (HIGH, 1)]);
        let video = Carried { codec: HIGH, layers: 2 };
        assert_eq!(stream.sendable(), Sendable::Tracks(vec![video, Codec::Opus.into()]));
    }

    #[test]
    fn a_change_of_profile_is_none_of_codec() {
        let baseline = Codec::H264(H264Profile { idc: 66, constraints: 0xe0 });
        let alike = |one: &[Codec], other: &[Codec]| {
            let tracks = |codecs: &[Codec]| codecs.iter().map(|codec| Carried::from(*codec)).collect::<Vec<_>>();
            are_alike(&tracks(one), &tracks(other))
        };
        assert!(alike(&[HIGH, Codec::Opus], &[baseline, Codec::Opus]));
        assert!(!alike(&[HIGH], &[HIGH, Codec::Opus]));
        assert!(!alike(&[HIGH], &[Codec::Vp8]));
    }
}
