//! The built-in clip: an FLV file (Adobe FLV 10.1, annex E), read into messages.

use bytes::{Buf, Bytes};
use rtmp::{Kind, Message};

/// Made by `assets/clip.sh`.
static CLIP: &[u8] = include_bytes!("../../../assets/clip.flv");

/// Reads the clip.
pub(super) fn messages() -> Vec<Message> {
    read(Bytes::from_static(CLIP))
}

/// Reads an FLV file up to its end or its first broken tag.
fn read(mut file: Bytes) -> Vec<Message> {
    const HEADER: usize = 9;
    const TAG_HEADER: usize = 11;
    const BACK_POINTER: usize = 4;

    let mut messages = Vec::new();
    file.advance(file.len().min(HEADER + BACK_POINTER));
    while file.len() >= TAG_HEADER {
        let kind = file.get_u8();
        let length = usize::try_from(file.get_uint(3)).unwrap_or(usize::MAX);
        let low = file.get_uint(3);
        let timestamp = u64::from(file.get_u8()) << 24 | low;
        file.advance(3); // stream id, always 0
        if file.len() < length {
            break;
        }
        let payload = file.split_to(length);
        file.advance(file.len().min(BACK_POINTER));
        let kind = match kind {
            8 => Kind::Audio,
            9 => Kind::Video,
            18 => Kind::Data,
            _ => continue,
        };
        messages.push(Message { kind, timestamp_ms: u32::try_from(timestamp).unwrap_or(0), payload });
    }
    messages
}

#[cfg(test)]
mod tests {
    use rtmp::tag::{Part, VideoTag};

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
        assert_eq!(read(Bytes::from_static(&CLIP[..5])), []);
        let whole = messages().len();
        assert_eq!(read(Bytes::from_static(&CLIP[..CLIP.len() - 20])).len(), whole - 1);
    }
}
