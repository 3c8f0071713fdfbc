//! What an audio or video message holds, read from the few bytes at its start (FLV 10.1 §E.4, Enhanced RTMP v2).
//!
//! Not scuffle-flv, which is the oracle of the tests only: it also parses decoder configurations and fails on those it
//! cannot read, such as the empty AV1 sequence start that FFmpeg sends first. Here the payload is only described.

mod audio;
mod video;

pub use audio::{AudioCodec, AudioTag};
pub use video::{VideoCodec, VideoTag};

/// What the bytes after the tag's header are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The decoder configuration. It may be empty: FFmpeg announces AV1 so before it knows it.
    SequenceHeader,
    /// Frames.
    Coded,
    /// The sequence is over; no bytes.
    SequenceEnd,
    /// AMF 0 metadata of the video, as HDR information.
    Metadata,
    /// An MPEG-2 TS descriptor in place of a decoder configuration.
    TransportStreamHeader,
    /// The order of the audio channels.
    ChannelConfiguration,
    /// A seek or other command to the player; no frames.
    Command,
    /// A kind that this parser does not know; pass it on.
    Unknown,
}

/// How the tracks of a multitrack message (Enhanced RTMP v2) are laid out. The rest of the tag describes its first track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Multitrack {
    /// One track that is not the default one.
    One {
        /// Its number.
        track: u8,
    },
    /// Several tracks of one codec.
    Many,
    /// Several tracks, each with its codec.
    ManyCodecs,
}

/// A codec's four characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FourCc(pub [u8; 4]);

impl std::fmt::Display for FourCc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{}", byte.escape_ascii()))
    }
}

/// Why a message is no tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The message ends inside the tag's header.
    #[error("the tag header is cut off")]
    CutOff,
    /// A multitrack message inside another, or a layout that nobody has defined.
    #[error("the multitrack header is not valid")]
    Multitrack,
}

/// Reads a tag's header from the front of a payload.
struct Cursor<'a> {
    payload: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    fn new(payload: &'a [u8]) -> Self {
        Self { payload, offset: 0 }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let bytes = self.payload.get(self.offset..).and_then(|rest| rest.first_chunk::<N>()).ok_or(Error::CutOff)?;
        self.offset = self.offset.saturating_add(N);
        Ok(*bytes)
    }

    fn byte(&mut self) -> Result<u8, Error> {
        self.take().map(|[byte]| byte)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), Error> {
        let offset = self.offset.saturating_add(bytes);
        if offset > self.payload.len() {
            return Err(Error::CutOff);
        }
        self.offset = offset;
        Ok(())
    }

    /// Passes over the ModEx parts of a header and returns the packet type that follows them. Both kinds of tag have
    /// them alike: a length less one, in one byte or after 255 in two; the bytes; the part's type and the next packet
    /// type in one byte.
    fn skip_mod_ex(&mut self, mut packet_type: u8) -> Result<u8, Error> {
        const MOD_EX: u8 = 7;

        while packet_type == MOD_EX {
            let mut length = usize::from(self.byte()?).saturating_add(1);
            if length == 256 {
                length = usize::from(u16::from_be_bytes(self.take()?)).saturating_add(1);
            }
            self.skip(length)?;
            packet_type = self.byte()? & 0x0F;
        }
        Ok(packet_type)
    }

    /// Reads a multitrack header up to its first track's body: layout, packet type, codec.
    fn multitrack(&mut self) -> Result<(Multitrack, u8, FourCc), Error> {
        let byte = self.byte()?;
        let (layout, packet_type) = (byte >> 4, byte & 0x0F);
        let four_cc = FourCc(self.take()?);
        let track = self.byte()?;
        match layout {
            0 => Ok((Multitrack::One { track }, packet_type, four_cc)),
            1 => self.skip(3).map(|()| (Multitrack::Many, packet_type, four_cc)),
            2 => self.skip(3).map(|()| (Multitrack::ManyCodecs, packet_type, four_cc)),
            _ => Err(Error::Multitrack),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use scuffle_flv::audio::AudioData;
    use scuffle_flv::audio::body::AudioTagBody;
    use scuffle_flv::audio::body::enhanced::{AudioPacket, ExAudioTagBody};
    use scuffle_flv::audio::body::legacy::LegacyAudioTagBody;
    use scuffle_flv::audio::body::legacy::aac::AacAudioData;
    use scuffle_flv::video::VideoData;
    use scuffle_flv::video::body::VideoTagBody;
    use scuffle_flv::video::body::enhanced::{ExVideoTagBody, VideoPacket, VideoPacketCodedFrames};
    use scuffle_flv::video::body::legacy::LegacyVideoTagBody;
    use scuffle_flv::video::header::legacy::{LegacyVideoTagHeader, LegacyVideoTagHeaderAvcPacket};
    use scuffle_flv::video::header::{VideoFrameType, VideoTagHeaderData};

    use super::*;

    #[test]
    fn avc_tags_tell_headers_keyframes_and_composition_times() {
        let header = VideoTag::parse(&[0x17, 0, 0, 0, 0, 1, 0x64]).unwrap();
        assert_eq!((header.codec, header.part, header.data_offset), (Some(VideoCodec::Avc), Part::SequenceHeader, 5));
        assert!(!header.is_random_access_point(), "a sequence header is no frame");

        let key = VideoTag::parse(&[0x17, 1, 0, 0, 80, 0, 0, 0, 1]).unwrap();
        assert!(key.is_random_access_point());
        assert_eq!((key.part, key.composition_time_ms, key.data_offset), (Part::Coded, 80, 5));

        let inter = VideoTag::parse(&[0x27, 1, 0xFF, 0xFF, 0xD8]).unwrap();
        assert_eq!((inter.keyframe, inter.composition_time_ms, inter.data_offset), (false, -40, 5));

        assert_eq!(VideoTag::parse(&[0x17, 2, 0, 0, 0]).unwrap().part, Part::SequenceEnd);
        assert_eq!(VideoTag::parse(&[0x57, 0]).unwrap().part, Part::Command);
    }

    #[test]
    fn enhanced_tags_name_their_codec() {
        let coded = |four_cc: &[u8; 4]| VideoTag::parse(&[&[0x91][..], four_cc, &[0, 0, 40, 9]].concat()).unwrap();
        for (four_cc, codec, time, offset) in [
            (b"avc1", VideoCodec::Avc, 40, 8),
            (b"hvc1", VideoCodec::Hevc, 40, 8),
            (b"vvc1", VideoCodec::Vvc, 40, 8),
            (b"av01", VideoCodec::Av1, 0, 5),
            (b"vp08", VideoCodec::Vp8, 0, 5),
            (b"vp09", VideoCodec::Vp9, 0, 5),
            (b"new1", VideoCodec::Other(FourCc(*b"new1")), 0, 5),
        ] {
            let tag = coded(four_cc);
            assert_eq!((tag.codec, tag.composition_time_ms, tag.data_offset), (Some(codec), time, offset));
            assert!(tag.is_random_access_point());
        }
        let without_time = VideoTag::parse(b"\xa3hvc1\x00").unwrap();
        assert_eq!((without_time.part, without_time.keyframe, without_time.data_offset), (Part::Coded, false, 5));
    }

    #[test]
    fn the_empty_av1_sequence_start_of_ffmpeg_is_a_sequence_header() {
        let tag = VideoTag::parse(b"\x90av01").unwrap();
        assert_eq!((tag.codec, tag.part, tag.data_offset), (Some(VideoCodec::Av1), Part::SequenceHeader, 5));
    }

    #[test]
    fn multitrack_tags_describe_their_first_track() {
        let one = VideoTag::parse(b"\x96\x00hvc1\x03data").unwrap();
        assert_eq!((one.multitrack, one.part), (Some(Multitrack::One { track: 3 }), Part::SequenceHeader));
        assert_eq!(one.data_offset, 7);

        let many = VideoTag::parse(b"\x96\x13av01\x00\x00\x00\x02xx\x01\x00\x00\x01y").unwrap();
        assert_eq!((many.multitrack, many.part, many.data_offset), (Some(Multitrack::Many), Part::Coded, 10));

        let codecs = AudioTag::parse(b"\x95\x21Opus\x00\x00\x00\x01x").unwrap();
        assert_eq!((codecs.multitrack, codecs.codec), (Some(Multitrack::ManyCodecs), AudioCodec::Opus));

        assert_eq!(VideoTag::parse(b"\x96\x06av01\x00"), Err(Error::Multitrack));
        assert_eq!(VideoTag::parse(b"\x96\x30av01\x00"), Err(Error::Multitrack));
    }

    #[test]
    fn modifications_are_passed_over() {
        let short = VideoTag::parse(b"\x97\x02abc\x01hvc1\x00\x00\x05").unwrap();
        assert_eq!((short.part, short.codec, short.composition_time_ms), (Part::Coded, Some(VideoCodec::Hevc), 5));
        assert_eq!(short.data_offset, 13);

        let long = [&b"\x97\xff\x00\xff"[..], &[0; 256], b"\x00av01"].concat();
        assert_eq!(VideoTag::parse(&long).unwrap().part, Part::SequenceHeader);

        assert_eq!(AudioTag::parse(b"\x97\x00x\x01fLaC").unwrap().codec, AudioCodec::Flac);
        assert_eq!(VideoTag::parse(b"\x97\x09abc"), Err(Error::CutOff));
    }

    #[test]
    fn audio_tags_tell_their_codec_and_part() {
        let part = |payload: &[u8]| AudioTag::parse(payload).map(|tag| (tag.codec, tag.part, tag.data_offset));

        assert_eq!(part(&[0xAF, 0, 0x12, 0x10]), Ok((AudioCodec::Aac, Part::SequenceHeader, 2)));
        assert_eq!(part(&[0xAF, 1, 0x21]), Ok((AudioCodec::Aac, Part::Coded, 2)));
        assert_eq!(part(&[0x2F, 0xFF]), Ok((AudioCodec::Mp3, Part::Coded, 1)));
        assert_eq!(part(&[0x72]), Ok((AudioCodec::Legacy(7), Part::Coded, 1)));
        assert_eq!(part(b"\x90Opus"), Ok((AudioCodec::Opus, Part::SequenceHeader, 5)));
        assert_eq!(part(b"\x91mp4a\x21"), Ok((AudioCodec::Aac, Part::Coded, 5)));
        assert_eq!(part(b"\x91ac-3"), Ok((AudioCodec::Ac3, Part::Coded, 5)));
        assert_eq!(part(b"\x94ec-3"), Ok((AudioCodec::Eac3, Part::ChannelConfiguration, 5)));
    }

    #[test]
    fn a_header_that_is_cut_off_is_an_error() {
        for payload in [&[][..], &[0x17], &[0x17, 1, 0, 0], b"\x91hvc1\x00\x00", b"\x90av0", b"\x96\x10av01\x00\x00"] {
            assert_eq!(VideoTag::parse(payload), Err(Error::CutOff), "{payload:?}");
        }
        for payload in [&[][..], &[0xAF], b"\x90Opu"] {
            assert_eq!(AudioTag::parse(payload), Err(Error::CutOff), "{payload:?}");
        }
    }

    proptest! {
        #[test]
        fn the_data_lies_within_the_payload(payload in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(tag) = VideoTag::parse(&payload) {
                prop_assert!(tag.data_offset <= payload.len());
            }
            if let Ok(tag) = AudioTag::parse(&payload) {
                prop_assert!(tag.data_offset <= payload.len());
            }
        }

        #[test]
        fn where_another_parser_finds_coded_frames_they_are_found_too(payload in payload()) {
            let bytes = Bytes::from(payload.clone());
            if let Ok(theirs) = VideoData::demux(&mut std::io::Cursor::new(bytes.clone()))
                && let Some((keyframe, data)) = coded_video(&theirs)
            {
                let ours = VideoTag::parse(&payload).unwrap();
                prop_assert_eq!((ours.part, ours.keyframe), (Part::Coded, keyframe));
                prop_assert_eq!(&payload[ours.data_offset..], &data[..]);
            }
            if let Ok(theirs) = AudioData::demux(&mut std::io::Cursor::new(bytes))
                && let Some(data) = coded_audio(&theirs)
            {
                let ours = AudioTag::parse(&payload).unwrap();
                prop_assert_eq!(ours.part, Part::Coded);
                prop_assert_eq!(&payload[ours.data_offset..], &data[..]);
            }
        }
    }

    /// Tags of the kinds that carry frames, with anything behind them.
    fn payload() -> impl Strategy<Value = Vec<u8>> {
        let legacy =
            prop_oneof![Just(0x17_u8), Just(0x27), Just(0x12), Just(0xAF), Just(0x2F)].prop_map(|byte| vec![byte]);
        let four_cc = prop_oneof![
            Just(b"avc1"),
            Just(b"hvc1"),
            Just(b"av01"),
            Just(b"vp09"),
            Just(b"mp4a"),
            Just(b"Opus"),
            Just(b"new1")
        ];
        let enhanced = (0x90_u8..0xA4, four_cc.clone()).prop_map(|(first, four_cc)| [&[first][..], four_cc].concat());
        let one_track = (prop_oneof![Just(0x96_u8), Just(0xA6), Just(0x95)], 0_u8..4, four_cc)
            .prop_map(|(first, inner, four_cc)| [&[first, inner][..], four_cc, &[1]].concat());
        let head = prop_oneof![legacy, enhanced, one_track];
        (head, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(head, tail)| [head, tail].concat())
    }

    /// What scuffle-flv calls coded frames: whether a key frame, and the data of the first track.
    fn coded_video(tag: &VideoData<'_>) -> Option<(bool, Bytes)> {
        let data = match (&tag.header.data, &tag.body) {
            (VideoTagHeaderData::Legacy(LegacyVideoTagHeader::AvcPacket(packet)), VideoTagBody::Legacy(body)) => {
                match (packet, body) {
                    (LegacyVideoTagHeaderAvcPacket::Nalu { .. }, LegacyVideoTagBody::Other { data }) => data.clone(),
                    _ => return None,
                }
            }
            (_, VideoTagBody::Legacy(LegacyVideoTagBody::Other { data })) => data.clone(),
            (_, VideoTagBody::Enhanced(body)) => {
                let packet = match body {
                    ExVideoTagBody::NoMultitrack { packet, .. } => packet,
                    ExVideoTagBody::ManyTracks(tracks) => &tracks.first()?.packet,
                    ExVideoTagBody::Command => return None,
                };
                match packet {
                    VideoPacket::CodedFrames(
                        VideoPacketCodedFrames::Avc { data, .. }
                        | VideoPacketCodedFrames::Hevc { data, .. }
                        | VideoPacketCodedFrames::Other(data),
                    )
                    | VideoPacket::CodedFramesX { data } => data.clone(),
                    _ => return None,
                }
            }
            _ => return None,
        };
        Some((tag.header.frame_type == VideoFrameType::KeyFrame, data))
    }

    fn coded_audio(tag: &AudioData) -> Option<Bytes> {
        match &tag.body {
            AudioTagBody::Legacy(LegacyAudioTagBody::Aac(AacAudioData::Raw(data))) => Some(data.clone()),
            AudioTagBody::Legacy(LegacyAudioTagBody::Other { sound_data }) => Some(sound_data.clone()),
            AudioTagBody::Legacy(LegacyAudioTagBody::Aac(_)) => None,
            AudioTagBody::Enhanced(body) => {
                let packet = match body {
                    ExAudioTagBody::NoMultitrack { packet, .. } => packet,
                    ExAudioTagBody::ManyTracks(tracks) => &tracks.first()?.packet,
                };
                if let AudioPacket::CodedFrames { data } = packet { Some(data.clone()) } else { None }
            }
        }
    }
}
