//! Chooses formats for a session's tracks and writes the answer.

use std::fmt::Write;
use std::net::SocketAddr;

use super::{Codec, Error, Fingerprint, Format, MediaKind, Offer};
use crate::ice::Credentials;
use crate::path::Transport;

/// Which way media flows, as seen by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To a viewer.
    Send,
    /// From a publisher.
    Receive,
}

/// A section that was accepted, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// Its index among the offer's sections.
    pub section: usize,
    /// Of what it carries, the index among the stream's tracks; of no meaning to a publisher's.
    pub track: usize,
    pub format: Format,
    /// The sources that the answer announces; of no meaning to a publisher's.
    pub ssrc: u32,
    pub rtx_ssrc: u32,
}

/// An address under which the worker can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub address: SocketAddr,
    pub transport: Transport,
}

impl Offer {
    /// Chooses a section and format for each of a stream's tracks, for a viewer to receive. A viewer that has no section for
    /// sound, or none for pictures, is not sent it.
    ///
    /// `ssrcs` gives the sources; they must be unlike each other.
    ///
    /// # Errors
    /// [`Error::CodecMissing`] names the first track that sections are there for, but not its codec; [`Error::NoMedia`] if
    /// there is a section for none.
    pub fn choose(&self, tracks: &[Codec], mut ssrcs: impl FnMut() -> u32) -> Result<Vec<Leg>, Error> {
        let mut legs: Vec<Leg> = Vec::new();
        for (track, codec) in tracks.iter().enumerate() {
            if !self.sections.iter().any(|section| section.kind == Some(codec.kind()) && section.receives()) {
                continue;
            }
            let free = |at: &usize| legs.iter().all(|leg| leg.section != *at);
            let sections = self.sections.iter().enumerate().filter(|(at, section)| free(at) && section.receives());
            let fitting = sections.flat_map(|(at, section)| {
                let formats = section.formats().filter(Format::takes_fragments);
                formats.filter_map(move |format| Some((format.codec.fitness(*codec)?, at, format)))
            });
            // the first of the best, since the peer's order says what it likes
            let best = fitting.reduce(|best, next| if next.0 > best.0 { next } else { best });
            let (_, section, format) = best.ok_or(Error::CodecMissing(*codec))?;
            legs.push(Leg { section, track, format, ssrc: ssrcs(), rtx_ssrc: ssrcs() });
        }
        if legs.is_empty() { Err(Error::NoMedia) } else { Ok(legs) }
    }

    /// Chooses what to take of a publisher: of each kind the first section that sends, in the first format that we know, since
    /// the peer's order says what it likes to send.
    ///
    /// # Errors
    /// [`Error::CodecMissing`] names H264 or Opus if a section offers nothing that we know.
    pub fn accept(&self) -> Result<Vec<Leg>, Error> {
        let mut legs = Vec::new();
        for (kind, usual) in [(MediaKind::Video, "H264"), (MediaKind::Audio, "Opus")] {
            let mut sections =
                self.sections.iter().enumerate().filter(|(_, section)| section.kind == Some(kind) && section.sends());
            let Some((at, section)) = sections.next() else { continue };
            let missing = if usual == "Opus" {
                Codec::Opus
            } else {
                Codec::H264(super::H264Profile { idc: 66, constraints: 0xe0 })
            };
            let format = section.formats().next().ok_or(Error::CodecMissing(missing))?;
            legs.push(Leg { section: at, track: 0, format, ssrc: 0, rtx_ssrc: 0 });
        }
        if legs.is_empty() { Err(Error::NoMedia) } else { Ok(legs) }
    }
}

/// All that an answer says; `Display` writes it.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub offer: &'a Offer,
    pub legs: &'a [Leg],
    pub direction: Direction,
    /// Names the session in its `o=` line.
    pub session_id: u64,
    pub credentials: &'a Credentials,
    /// Of our certificate.
    pub fingerprint: &'a Fingerprint,
    /// The best first.
    pub candidates: &'a [Candidate],
    /// The name of the stream's source, the same for its tracks, so that the peer keeps them in step.
    pub cname: &'a str,
}

impl std::fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "v=0\r\no=- {} 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-lite\r\n", self.session_id)?;
        f.write_str("a=group:BUNDLE")?;
        for (at, section) in self.offer.sections.iter().enumerate() {
            if self.leg(at).is_some() {
                write!(f, " {}", section.mid)?;
            }
        }
        write!(f, "\r\na=msid-semantic: WMS *\r\n")?;
        for at in 0..self.offer.sections.len() {
            self.section(at, f)?;
        }
        Ok(())
    }
}

impl Answer<'_> {
    fn leg(&self, section: usize) -> Option<&Leg> {
        self.legs.iter().find(|leg| leg.section == section)
    }

    fn section(&self, at: usize, f: &mut impl Write) -> std::fmt::Result {
        let Some(section) = self.offer.sections.get(at) else { return Ok(()) };
        let Some(leg) = self.leg(at) else {
            // RFC 3264 §6: a section is refused by its port
            write!(f, "m={} 0 {} 0\r\nc=IN IP4 0.0.0.0\r\na=inactive\r\n", section.media, section.protocol)?;
            return if section.mid.is_empty() { Ok(()) } else { write!(f, "a=mid:{}\r\n", section.mid) };
        };
        let Leg { format, .. } = leg;
        write!(f, "m={} 9 {} {}", section.media, section.protocol, format.payload_type)?;
        if let Some(rtx) = format.rtx {
            write!(f, " {rtx}")?;
        }
        write!(f, "\r\nc=IN IP4 0.0.0.0\r\na=mid:{}\r\n", section.mid)?;
        write!(f, "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\n", self.credentials.ufrag, self.credentials.password())?;
        write!(f, "a=fingerprint:sha-256 {}\r\na=setup:{}\r\n", self.fingerprint, self.offer.role.setup())?;
        let direction = match self.direction {
            Direction::Send => "sendonly",
            Direction::Receive => "recvonly",
        };
        write!(f, "a={direction}\r\na=rtcp-mux\r\n{}", if section.reduced_rtcp { "a=rtcp-rsize\r\n" } else { "" })?;
        self.formats(format, f)?;
        match self.direction {
            Direction::Send => self.sources(leg, f)?,
            Direction::Receive => section.sending.accept(f)?,
        }
        for (rank, candidate) in self.candidates.iter().enumerate() {
            write_candidate(rank, candidate, f)?;
        }
        f.write_str("a=end-of-candidates\r\n")
    }

    fn formats(&self, format: &Format, f: &mut impl Write) -> std::fmt::Result {
        let Format { codec, payload_type, rtx, parameters, feedback } = format;
        write!(f, "a=rtpmap:{payload_type} {}\r\n", codec.encoding())?;
        if !parameters.is_empty() {
            write!(f, "a=fmtp:{payload_type} {parameters}\r\n")?;
        }
        let wanted: &[&str] = match (self.direction, codec.kind()) {
            (Direction::Send, MediaKind::Video) => &["nack", "nack pli", "ccm fir", "goog-remb"],
            (Direction::Send, MediaKind::Audio) => &["nack"],
            (Direction::Receive, MediaKind::Video) => &["transport-cc", "nack", "nack pli"],
            (Direction::Receive, MediaKind::Audio) => &["transport-cc", "nack"],
        };
        for name in wanted.iter().filter(|name| feedback.iter().any(|offered| offered == *name)) {
            write!(f, "a=rtcp-fb:{payload_type} {name}\r\n")?;
        }
        if let Some(rtx) = rtx {
            write!(f, "a=rtpmap:{rtx} rtx/{}\r\na=fmtp:{rtx} apt={payload_type}\r\n", codec.clock())?;
        }
        Ok(())
    }

    fn sources(&self, leg: &Leg, f: &mut impl Write) -> std::fmt::Result {
        let (cname, kind) = (self.cname, if leg.format.codec.kind() == MediaKind::Video { "video" } else { "audio" });
        write!(f, "a=msid:{cname} {kind}\r\n")?;
        if leg.format.rtx.is_some() {
            write!(f, "a=ssrc-group:FID {} {}\r\n", leg.ssrc, leg.rtx_ssrc)?;
        }
        write!(f, "a=ssrc:{} cname:{cname}\r\n", leg.ssrc)?;
        if leg.format.rtx.is_some() {
            write!(f, "a=ssrc:{} cname:{cname}\r\n", leg.rtx_ssrc)?;
        }
        Ok(())
    }
}

/// RFC 8839 §5.1 and, for TCP, RFC 6544 §4.5. Ours are all host candidates; the earlier is preferred, and UDP to TCP.
pub(super) fn write_candidate(rank: usize, candidate: &Candidate, f: &mut impl Write) -> std::fmt::Result {
    let Candidate { address, transport } = candidate;
    let local = 65_535 - u32::try_from(rank).unwrap_or(u32::MAX).min(8_000);
    let (name, local, suffix) = match transport {
        Transport::Udp => ("udp", local, ""),
        // RFC 6544 §4.2: 2 for passive in the upper three bits, below every UDP one
        Transport::Tcp => ("tcp", (2 << 13) | (local & 0x1fff), " tcptype passive"),
    };
    let priority = (126 << 24) | (local << 8) | 255;
    let (ip, port) = (address.ip(), address.port());
    write!(f, "a=candidate:{} 1 {name} {priority} {ip} {port} typ host{suffix}\r\n", rank + 1)
}
