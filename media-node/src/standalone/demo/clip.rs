//! The built-in clip: an FLV file, read into messages.

use bytes::Bytes;
use rtmp::{Message, flv};

/// Made by `assets/clip.sh`.
static CLIP: &[u8] = include_bytes!("../../../assets/clip.flv");

/// Reads the clip.
pub(super) fn messages() -> Vec<Message> {
    flv::messages(Bytes::from_static(CLIP))
}

#[cfg(test)]
mod tests {
    use rtmp::{
        Kind,
        tag::{Part, VideoTag},
    };

    use super::*;

    #[test]
    fn the_clip_is_ten_seconds_of_video_and_audio_that_begin_with_their_headers() {
        let messages = messages();

        let last = messages.last().unwrap().timestamp_ms;
        assert!((9_800..10_100).contains(&last), "{last}");
        let first = messages.iter().find(|m| m.kind == Kind::Video).unwrap();
        assert_eq!(VideoTag::parse(&first.payload).unwrap().part, Part::SequenceHeader);
        let keyframes = messages
            .iter()
            .filter(|m| m.kind == Kind::Video && VideoTag::parse(&m.payload).is_ok_and(|t| t.is_random_access_point()));
        assert_eq!(keyframes.count(), 5);
        assert!(messages.iter().filter(|m| m.kind == Kind::Audio).count() > 400);
    }

    #[test]
    fn a_file_that_is_cut_off_ends_at_its_last_whole_tag() {
        assert_eq!(flv::messages(Bytes::from_static(&CLIP[..5])), []);
        let whole = messages().len();
        assert_eq!(flv::messages(Bytes::from_static(&CLIP[..CLIP.len() - 20])).len(), whole - 1);
    }
}
