//! One `m=` section of an offer.

use super::{Codec, Error, Sending};

/// Payload types are seven bits, so a section with more formats repeats one.
const MAX_FORMATS: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaKind {
    Audio,
    Video,
}

/// What a section offers. Of one that carries no media only its first line is kept, which the answer needs to refuse it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// `None` for data channels and what else there is.
    pub kind: Option<MediaKind>,
    pub mid: String,
    pub(super) media: String,
    pub(super) protocol: String,
    pub(super) rtcp_mux: bool,
    pub(super) reduced_rtcp: bool,
    is_rejected: bool,
    can_send: bool,
    can_receive: bool,
    formats: Vec<Draft>,
    pub(crate) sending: Sending,
}

/// A format, gathered from the lines that tell of it, which come in any order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Draft {
    payload_type: u8,
    encoding: String,
    parameters: String,
    feedback: Vec<String>,
}

/// A codec as a section offers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    pub codec: Codec,
    pub payload_type: u8,
    /// The payload type for what is sent again (RFC 4588), if it is offered.
    pub rtx: Option<u8>,
    pub(crate) parameters: String,
    pub(crate) feedback: Vec<String>,
}

impl Format {
    /// Reports whether the peer takes pictures that are larger than a packet: H264 of mode 0 has no fragments (RFC 6184 §5.4).
    pub(super) fn takes_fragments(&self) -> bool {
        match self.codec {
            Codec::H264(_) => self.parameters.split(';').any(|part| part.trim() == "packetization-mode=1"),
            Codec::H265 | Codec::Vp8 | Codec::Vp9 | Codec::Av1 | Codec::Opus => true,
        }
    }
}

impl Section {
    pub(super) fn begin(line: &str) -> Result<Self, Error> {
        let invalid = Error::Malformed("an m= line is invalid");
        let mut words = line.split_ascii_whitespace();
        let (Some(media), Some(port), Some(protocol)) = (words.next(), words.next(), words.next()) else {
            return Err(invalid);
        };
        if port.split('/').next().is_none_or(|port| port.parse::<u16>().is_err()) {
            return Err(invalid);
        }
        let kind = match (media, protocol) {
            ("audio", "UDP/TLS/RTP/SAVPF" | "UDP/TLS/RTP/SAVP" | "TCP/DTLS/RTP/SAVPF") => Some(MediaKind::Audio),
            ("video", "UDP/TLS/RTP/SAVPF" | "UDP/TLS/RTP/SAVP" | "TCP/DTLS/RTP/SAVPF") => Some(MediaKind::Video),
            _ => None,
        };
        let mut formats = Vec::new();
        for word in words.filter(|_| kind.is_some()) {
            let payload_type = word.parse().ok().filter(|number| *number < 128).ok_or_else(|| invalid.clone())?;
            if formats.len() == MAX_FORMATS {
                return Err(Error::Malformed("a section has more than 128 formats"));
            }
            formats.push(Draft { payload_type, ..Draft::default() });
        }
        Ok(Self {
            kind,
            mid: String::new(),
            media: media.to_owned(),
            protocol: protocol.to_owned(),
            rtcp_mux: false,
            reduced_rtcp: false,
            is_rejected: port == "0",
            can_send: true,
            can_receive: true,
            formats,
            sending: Sending::default(),
        })
    }

    pub(super) fn attribute(&mut self, name: &str, value: &str) -> Result<(), Error> {
        match name {
            "mid" if self.mid.is_empty() => {
                // RFC 5888 §4 makes it a token; it is written into the answer
                if value.len() > 64 || value.bytes().any(|byte| !byte.is_ascii_graphic()) {
                    return Err(Error::Malformed("an a=mid is invalid"));
                }
                value.clone_into(&mut self.mid);
            }
            "rtcp-mux" => self.rtcp_mux = true,
            "rtcp-rsize" => self.reduced_rtcp = true,
            // such a section has no port of its own, and is none that was refused
            "bundle-only" => self.is_rejected = false,
            "sendonly" => self.can_receive = false,
            "recvonly" => self.can_send = false,
            "inactive" => (self.can_send, self.can_receive) = (false, false),
            "rtpmap" => self.format(value, |format, rest| rest.clone_into(&mut format.encoding)),
            "fmtp" => self.format(value, |format, rest| rest.clone_into(&mut format.parameters)),
            "rtcp-fb" => self.format(value, |format, rest| {
                // an offer holds about five; more say nothing that we would answer
                if format.feedback.len() < 16 {
                    format.feedback.push(rest.to_owned());
                }
            }),
            _ => self.sending.attribute(name, value),
        }
        Ok(())
    }

    fn format(&mut self, value: &str, change: impl Fn(&mut Draft, &str)) {
        let Some((number, rest)) = value.split_once(' ') else { return };
        let number = number.parse::<u8>().ok();
        let is_all = number.is_none();
        for format in self.formats.iter_mut().filter(|format| is_all || number == Some(format.payload_type)) {
            change(format, rest.trim());
        }
    }

    pub(super) fn carries_media(&self) -> bool {
        self.kind.is_some() && !self.is_rejected
    }

    /// Reports whether the peer wants to receive here.
    #[must_use]
    pub fn receives(&self) -> bool {
        self.carries_media() && self.can_receive
    }

    /// Reports whether the peer wants to send here.
    #[must_use]
    pub fn sends(&self) -> bool {
        self.carries_media() && self.can_send
    }

    /// How many encodings of its track the peer sends at once (simulcast), at most [`super::MAX_LAYERS`].
    #[must_use]
    pub fn layers(&self) -> usize {
        self.sending.layer_count()
    }

    /// The formats of codecs that we know, in the peer's order.
    pub fn formats(&self) -> impl Iterator<Item = Format> + '_ {
        self.formats.iter().filter_map(|draft| {
            let codec = Codec::parse(&draft.encoding, &draft.parameters)?;
            (Some(codec.kind()) == self.kind).then(|| Format {
                codec,
                payload_type: draft.payload_type,
                rtx: self.rtx_of(draft.payload_type),
                parameters: draft.parameters.clone(),
                feedback: draft.feedback.clone(),
            })
        })
    }

    fn rtx_of(&self, payload_type: u8) -> Option<u8> {
        let apt = format!("apt={payload_type}");
        let is_rtx = |draft: &&Draft| {
            draft.encoding.get(..4).is_some_and(|name| name.eq_ignore_ascii_case("rtx/"))
                && draft.parameters.split(';').any(|part| part.trim() == apt)
        };
        self.formats.iter().find(is_rtx).map(|draft| draft.payload_type)
    }
}
