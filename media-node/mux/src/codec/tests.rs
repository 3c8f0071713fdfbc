use proptest::prelude::*;

use super::*;

/// H.264 of 1280x720, High, as x264 says it.
pub(crate) const AVCC: &[u8] = b"\x01\x64\x00\x1f\xff\xe1\x00\x1a\x67\x64\x00\x1f\xac\xd9\x40\x50\x05\xbb\x01\x10\x00\x00\x03\x00\x10\x00\x00\x03\x03\xc0\xf1\x83\x19\x60\x01\x00\x06\x68\xeb\xe3\xcb\x22\xc0\xfd\xf8\xf8\x00";
/// H.265 of 64x36, Main, as x265 says it: 64x40 are coded.
const HVCC: &[u8] = b"\x01\x01\x60\x00\x00\x00\x90\x00\x00\x00\x00\x00\x1e\xf0\x00\xfc\xfd\xf8\xf8\x00\x00\x0f\x03\xa0\x00\x01\x00\x18\x40\x01\x0c\x01\xff\xff\x01\x60\x00\x00\x03\x00\x90\x00\x00\x03\x00\x00\x03\x00\x1e\x95\x90\x09\xa1\x00\x01\x00\x2a\x42\x01\x01\x01\x60\x00\x00\x03\x00\x90\x00\x00\x03\x00\x00\x03\x00\x1e\xa0\x20\x83\x1f\x3e\x59\x59\x12\x93\x0b\xc0\x5a\x02\x00\x00\x03\x00\x02\x00\x00\x03\x00\x0a\x10\xa2\x00\x01\x00\x06\x44\x01\xc0\x73\xc0\x89";
/// AV1 of 64x36, as libaom says it.
const AV1C: &[u8] = b"\x81\x00\x0c\x00\x0a\x0a\x00\x00\x00\x02\xaf\xf1\x9b\x5f\x20\x08";
/// AAC-LC, 48 kHz, stereo.
pub(crate) const ASC: &[u8] = &[0x11, 0x90];

#[test]
fn an_avc_header_tells_the_size_and_the_profile() {
    let config = video(VideoCodec::Avc, &Bytes::from_static(AVCC), None).unwrap().unwrap();

    assert_eq!(config.format(), Format::Video { width: 1280, height: 720 });
    assert_eq!((config.codec(), config.rfc6381(), config.timescale()), (Codec::H264, "avc1.64001F", 90_000));
}

#[test]
fn an_hevc_header_tells_the_size_without_what_is_cropped() {
    let config = video(VideoCodec::Hevc, &Bytes::from_static(HVCC), None).unwrap().unwrap();

    assert_eq!(config.format(), Format::Video { width: 64, height: 36 });
    assert_eq!((config.codec(), config.rfc6381()), (Codec::H265, "hvc1.1.6.L30.90"));
}

#[test]
fn an_av1_header_tells_the_size_and_a_keyframe_puts_it_right() {
    let record = Bytes::from_static(AV1C);
    let config = video(VideoCodec::Av1, &record, None).unwrap().unwrap();

    assert_eq!(config.format(), Format::Video { width: 64, height: 36 });
    assert_eq!((config.codec(), config.rfc6381()), (Codec::Av1, "av01.0.00M.08"));
    let without = record.slice(..4);
    assert_eq!(video(VideoCodec::Av1, &without, None), Ok(None));
    let in_keyframe = video(VideoCodec::Av1, &without, Some(&record[4..])).unwrap().unwrap();
    assert_eq!(in_keyframe.format(), config.format());
}

#[test]
fn an_aac_header_tells_rate_channels_and_frame_length() {
    let format = |record: &'static [u8]| {
        let config = audio(AudioCodec::Aac, &Bytes::from_static(record)).unwrap().unwrap();
        (config.format(), config.rfc6381().to_owned())
    };
    let sound = |sample_rate, channels, frame| Format::Audio { sample_rate, channels, frame };

    assert_eq!(format(ASC), (sound(48_000, 2, 1024), "mp4a.40.2".to_owned()));
    assert_eq!(format(&[0x12, 0x0C]), (sound(44_100, 1, 960), "mp4a.40.2".to_owned()));
    // HE-AAC says the core's rate first
    assert_eq!(format(&[0x2B, 0x11, 0x88, 0x00]), (sound(24_000, 2, 1024), "mp4a.40.5".to_owned()));
}

#[test]
fn vp9_waits_for_a_keyframe_and_takes_its_size_from_it() {
    let record = Bytes::from_static(&[1, 0, 0, 0, 0, 31, 0x82, 1, 1, 1, 0, 0]);
    let keyframe = [0x82, 0x49, 0x83, 0x42, 0x00, 0x13, 0xF0, 0x0B, 0x30];

    assert_eq!(video(VideoCodec::Vp9, &record, None), Ok(None));
    for record in [record.clone(), record.slice(4..)] {
        let config = video(VideoCodec::Vp9, &record, Some(&keyframe)).unwrap().unwrap();
        assert_eq!(config.format(), Format::Video { width: 320, height: 180 });
        assert_eq!(config.rfc6381(), "vp09.00.31.08");
    }
}

#[test]
fn the_empty_header_that_ffmpeg_sends_is_no_error() {
    assert_eq!(video(VideoCodec::Av1, &Bytes::new(), None), Ok(None));
    assert_eq!(audio(AudioCodec::Aac, &Bytes::new()), Ok(None));
}

#[test]
fn what_mp4_cannot_hold_is_named() {
    let text = |unsupported: Option<Unsupported>| unsupported.map(|unsupported| unsupported.to_string());

    for (codec, name) in [
        (VideoCodec::Vp8, "VP8"),
        (VideoCodec::Legacy(2), "Sorenson H.263 (FLV1)"),
        (VideoCodec::Vvc, "H.266"),
        (VideoCodec::Other(rtmp::tag::FourCc(*b"new1")), "new1"),
    ] {
        assert_eq!(text(unsupported_video(codec)), Some(format!("{name} cannot be recorded or played over HLS")));
    }
    for (codec, name) in [(AudioCodec::Mp3, "MP3"), (AudioCodec::Legacy(11), "Speex"), (AudioCodec::Legacy(7), "G.711")]
    {
        assert_eq!(text(unsupported_audio(codec)), Some(format!("{name} cannot be recorded or played over HLS")));
    }
}

proptest! {
    #[test]
    fn any_header_is_read_or_refused(
        mut record in prop::collection::vec(any::<u8>(), 0..64),
        keyframe in prop::collection::vec(any::<u8>(), 0..32),
        cut in 0_usize..64,
    ) {
        // whatever they say, they return
        for codec in [VideoCodec::Avc, VideoCodec::Hevc, VideoCodec::Av1, VideoCodec::Vp9] {
            drop(video(codec, &record.clone().into(), Some(&keyframe)));
        }
        for codec in [AudioCodec::Aac, AudioCodec::Opus] {
            drop(audio(codec, &record.clone().into()));
        }
        // one that begins as a real one does
        record.splice(..0, AVCC[..cut.min(AVCC.len())].iter().copied());
        drop(video(VideoCodec::Avc, &record.into(), None));
    }
}
