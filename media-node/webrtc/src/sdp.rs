//! Reads the offers of WHIP publishers and WHEP viewers, and writes the answers.
//!
//! Only what decides a session is read: of an offer the transport's secrets and roles, and of each section its kind, direction and
//! formats. Unknown lines are passed over, as RFC 8866 §5 asks. No candidate of the peer is needed: it checks us (ICE-lite).

mod answer;
mod codec;
mod fragment;
mod section;
mod sending;

use std::fmt;
use std::str::FromStr;

pub use answer::{Answer, Candidate, Direction, Leg};
pub use codec::{Codec, H264Profile};
pub use fragment::{Fragment, Restarted};
pub use section::{Format, MediaKind, Section};
pub use sending::MAX_LAYERS;
pub(crate) use sending::Sending;

/// Offers of browsers with every codec have about 10 KiB; a longer one is refused unread.
pub const MAX_OFFER: usize = 64 * 1024;

/// A browser's offer has two or three sections, one with simulcast by SSRC a few more; further ones are refused.
pub const MAX_SECTIONS: usize = 16;

/// RFC 8839 §5.4: at most 256 characters each.
const ICE_LENGTHS: std::ops::RangeInclusive<usize> = 4..=256;
const ICE_PASSWORD_LENGTHS: std::ops::RangeInclusive<usize> = 22..=256;

/// Why an offer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the offer is malformed: {0}")]
    Malformed(&'static str),
    #[error("the offer has neither audio nor video")]
    NoMedia,
    /// Names what the offer would have to hold.
    #[error("the offer has no section with the codec {0}")]
    CodecMissing(Codec),
}

/// An offer that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The peer's name in connectivity checks.
    pub ice_ufrag: String,
    pub fingerprint: Fingerprint,
    /// Who begins the DTLS handshake, as seen by us.
    pub role: Role,
    pub sections: Vec<Section>,
}

impl Offer {
    /// Parses an offer; the sections keep its order.
    ///
    /// # Errors
    /// [`Error::Malformed`] says what is missing or wrong; [`Error::NoMedia`] if no section could carry audio or video.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_OFFER {
            return Err(Error::Malformed("it is longer than 64 KiB"));
        }
        if !text.starts_with("v=0") {
            return Err(Error::Malformed("it does not begin with v=0"));
        }
        let mut transport = Transport::default();
        let mut bundle: Option<Vec<&str>> = None;
        let mut sections: Vec<Section> = Vec::new();
        for line in text.lines() {
            // parts of it are written into the answer
            if line.chars().any(|letter| letter.is_control() && letter != '\t') {
                return Err(Error::Malformed("it has a control character"));
            }
            match line.split_once('=') {
                Some(("m", _)) if sections.len() == MAX_SECTIONS => {
                    return Err(Error::Malformed("it has more than 16 sections"));
                }
                Some(("m", value)) => sections.push(Section::begin(value)?),
                Some(("a", value)) => {
                    let (name, value) = value.split_once(':').unwrap_or((value, ""));
                    transport.attribute(name, value)?;
                    match sections.last_mut() {
                        Some(section) => section.attribute(name, value)?,
                        None if name == "group" => bundle = bundle.or_else(|| bundle_of(value)),
                        None => {}
                    }
                }
                Some(_) | None => {}
            }
        }
        check_bundle(&sections, bundle.as_deref())?;
        let (ice_ufrag, fingerprint, role) = transport.finish()?;
        Ok(Self { ice_ufrag, fingerprint, role, sections })
    }
}

fn bundle_of(group: &str) -> Option<Vec<&str>> {
    let mut words = group.split_ascii_whitespace();
    (words.next() == Some("BUNDLE")).then(|| words.collect())
}

/// All that is offered must go over one transport.
fn check_bundle(sections: &[Section], bundle: Option<&[&str]>) -> Result<(), Error> {
    let media: Vec<_> = sections.iter().filter(|section| section.carries_media()).collect();
    if media.is_empty() {
        return Err(Error::NoMedia);
    }
    if media.iter().any(|section| section.mid.is_empty()) {
        return Err(Error::Malformed("a section has no a=mid"));
    }
    if media.iter().any(|section| !section.rtcp_mux) {
        return Err(Error::Malformed("a section has no a=rtcp-mux"));
    }
    let in_bundle = |section: &&&Section| bundle.is_some_and(|bundle| bundle.contains(&section.mid.as_str()));
    if media.len() > 1 && !media.iter().all(|section| in_bundle(&section)) {
        return Err(Error::Malformed("its sections are not one BUNDLE"));
    }
    Ok(())
}

/// What the bundle's transport says of itself; the first value counts, be it the session's or the first section's.
#[derive(Default)]
struct Transport {
    ufrag: Option<String>,
    password: bool,
    fingerprint: Option<Fingerprint>,
    other_hash: bool,
    role: Option<Role>,
}

impl Transport {
    fn attribute(&mut self, name: &str, value: &str) -> Result<(), Error> {
        match name {
            "ice-ufrag" if self.ufrag.is_none() => {
                if !ICE_LENGTHS.contains(&value.len()) || !value.bytes().all(is_ice_char) {
                    return Err(Error::Malformed("its a=ice-ufrag is invalid"));
                }
                self.ufrag = Some(value.to_owned());
            }
            "ice-pwd" if !ICE_PASSWORD_LENGTHS.contains(&value.len()) => {
                return Err(Error::Malformed("its a=ice-pwd is invalid"));
            }
            "ice-pwd" => self.password = true,
            "fingerprint" if self.fingerprint.is_none() => match value.split_once(' ') {
                Some((hash, hex)) if hash.eq_ignore_ascii_case("sha-256") => {
                    self.fingerprint =
                        Some(hex.parse().map_err(|_invalid| Error::Malformed("its fingerprint is invalid"))?);
                }
                Some(_) => self.other_hash = true,
                None => return Err(Error::Malformed("its fingerprint is invalid")),
            },
            "setup" if self.role.is_none() => self.role = Some(Role::to_answer(value)?),
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<(String, Fingerprint, Role), Error> {
        let ufrag = self.ufrag.ok_or(Error::Malformed("it has no a=ice-ufrag"))?;
        if !self.password {
            return Err(Error::Malformed("it has no a=ice-pwd"));
        }
        let missing = if self.other_hash { "its fingerprint is not of sha-256" } else { "it has no a=fingerprint" };
        let fingerprint = self.fingerprint.ok_or(Error::Malformed(missing))?;
        // RFC 4145 §4: the offerer that says nothing is active
        Ok((ufrag, fingerprint, self.role.unwrap_or(Role::Server)))
    }
}

fn is_ice_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/'
}

/// Our side of the DTLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We begin: `a=setup:active`.
    Client,
    /// We wait: `a=setup:passive`.
    Server,
}

impl Role {
    /// The answer to an offer's `a=setup`. One that leaves it to us waits less when it begins itself: it knows first that the
    /// path works.
    fn to_answer(setup: &str) -> Result<Self, Error> {
        match setup {
            "actpass" | "active" => Ok(Self::Server),
            "passive" => Ok(Self::Client),
            _ => Err(Error::Malformed("its a=setup is unknown")),
        }
    }

    fn setup(self) -> &'static str {
        match self {
            Self::Client => "active",
            Self::Server => "passive",
        }
    }
}

/// The SHA-256 of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = Error::Malformed("a fingerprint is 32 hexadecimal bytes");
        let mut bytes = [0; 32];
        let mut parts = text.trim_end().split(':');
        for byte in &mut bytes {
            let part =
                parts.next().filter(|part| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit()));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(|| invalid.clone())?;
        }
        if parts.next().is_some() { Err(invalid) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
