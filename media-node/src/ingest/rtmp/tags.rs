//! From RTMP's media messages to packets.

use bytes::Bytes;
use media_core::{Kind, MediaTime, Packet, Role, RtmpClock, Track};
use rtmp::{
    Message,
    tag::{AudioTag, Multitrack, Part, VideoTag},
};

/// AMF 0's string `onMetaData`, with which a stream's metadata begins.
const METADATA: &[u8] = b"\x02\x00\x0aonMetaData";

/// What a message is to the publisher's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Audio or video that can be shown.
    Frame,
    /// All else.
    Other,
}

/// Makes packets of one publisher's messages.
#[derive(Debug, Default)]
pub(super) struct Tags {
    clock: RtmpClock,
}

impl Tags {
    /// The packet of a message; `None` when it is no tag, as the empty ones are that some encoders send.
    pub(super) fn packet(&mut self, message: Message) -> Option<(Packet, Content)> {
        let (track, role, content) = match message.kind {
            rtmp::Kind::Audio => {
                let tag = AudioTag::parse(&message.payload).ok()?;
                described(Kind::Audio, tag.part, tag.multitrack, Role::Key)
            }
            rtmp::Kind::Video => {
                let tag = VideoTag::parse(&message.payload).ok()?;
                let frame = if tag.keyframe { Role::Key } else { Role::Dependent };
                described(Kind::Video, tag.part, tag.multitrack, frame)
            }
            rtmp::Kind::Data => {
                let metadata = message.payload.starts_with(METADATA);
                (Track::first(Kind::Data), if metadata { Role::Header } else { Role::Dependent }, Content::Other)
            }
        };
        let payload = match role {
            // kept for as long as the stream: it must not keep the buffer that it came in
            Role::Header | Role::Annotation => Bytes::copy_from_slice(&message.payload),
            Role::Key | Role::Dependent => message.payload,
        };
        Some((Packet::new(track, self.clock.place(message.timestamp_ms), role, payload), content))
    }
}

fn described(kind: Kind, part: Part, multitrack: Option<Multitrack>, frame: Role) -> (Track, Role, Content) {
    let index = match multitrack {
        None => 0,
        Some(Multitrack::One { track }) => track,
        Some(Multitrack::Many | Multitrack::ManyCodecs) => Track::SEVERAL,
    };
    let (role, content) = match part {
        Part::SequenceHeader | Part::TransportStreamHeader => (Role::Header, Content::Other),
        Part::Metadata | Part::ChannelConfiguration => (Role::Annotation, Content::Other),
        Part::Coded => (frame, Content::Frame),
        Part::SequenceEnd | Part::Command | Part::Unknown => (Role::Dependent, Content::Other),
    };
    // a further track's keyframe is no place to start: the first track's may be elsewhere
    let role = if role == Role::Key && index != 0 && index != Track::SEVERAL { Role::Dependent } else { role };
    (Track { kind, index }, role, content)
}

/// The message of a packet, as it goes to players.
pub(crate) fn message(packet: &Packet, time: MediaTime) -> Message {
    let kind = match packet.track.kind {
        Kind::Data => rtmp::Kind::Data,
        Kind::Video => rtmp::Kind::Video,
        Kind::Audio => rtmp::Kind::Audio,
    };
    Message { kind, timestamp_ms: time.as_rtmp(), payload: packet.payload.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(kind: rtmp::Kind, payload: &'static [u8]) -> Option<(Track, Role, Content)> {
        let message = Message { kind, timestamp_ms: 7, payload: Bytes::from_static(payload) };
        let (packet, content) = Tags::default().packet(message)?;
        Some((packet.track, packet.role, content))
    }

    #[test]
    fn tags_tell_headers_keyframes_and_frames() {
        let (video, audio, data) = (Track::first(Kind::Video), Track::first(Kind::Audio), Track::first(Kind::Data));

        assert_eq!(packet(rtmp::Kind::Video, &[0x17, 0, 0, 0, 0, 1]), Some((video, Role::Header, Content::Other)));
        assert_eq!(packet(rtmp::Kind::Video, &[0x17, 1, 0, 0, 0, 1]), Some((video, Role::Key, Content::Frame)));
        assert_eq!(packet(rtmp::Kind::Video, &[0x27, 1, 0, 0, 0, 1]), Some((video, Role::Dependent, Content::Frame)));
        assert_eq!(packet(rtmp::Kind::Video, &[0x17, 2, 0, 0, 0]), Some((video, Role::Dependent, Content::Other)));
        assert_eq!(packet(rtmp::Kind::Audio, &[0xAF, 0, 0x12, 0x10]), Some((audio, Role::Header, Content::Other)));
        assert_eq!(packet(rtmp::Kind::Audio, &[0xAF, 1, 0x21]), Some((audio, Role::Key, Content::Frame)));
        assert_eq!(packet(rtmp::Kind::Data, METADATA), Some((data, Role::Header, Content::Other)));
        assert_eq!(packet(rtmp::Kind::Data, b"\x02\x00\x02on"), Some((data, Role::Dependent, Content::Other)));
        assert_eq!(packet(rtmp::Kind::Video, &[]), None);
    }
}
