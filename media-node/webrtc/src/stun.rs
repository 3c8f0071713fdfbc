//! The part of STUN (RFC 8489) that an ICE-lite agent needs: it reads binding requests and writes success responses.

use std::net::{IpAddr, SocketAddr};

use ring::hmac;

use crate::bytes::{be16, be32};

const HEADER: usize = 20;
const COOKIE: u32 = 0x2112_A442;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// Why a datagram is no check that we answer; it is dropped, since an answer would help whoever probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("malformed STUN")]
    Malformed,
    /// Indications and responses, of which we need none.
    #[error("no binding request")]
    NotARequest,
    #[error("wrong STUN fingerprint")]
    Fingerprint,
    #[error("wrong user name")]
    Username,
    #[error("wrong message integrity")]
    Integrity,
}

/// A connectivity check whose fingerprint is right and whose integrity is not yet known.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    datagram: &'a [u8],
    transaction: [u8; 12],
    username: &'a str,
    integrity_at: usize,
    pub(crate) nominates: bool,
}

impl<'a> Request<'a> {
    /// Parses a datagram.
    ///
    /// # Errors
    /// As [`Error`] says; integrity is for `Self::verify`.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Error> {
        let (kind, length) = (be16(datagram, 0), be16(datagram, 2));
        let (Some(kind), Some(length), Some(COOKIE)) = (kind, length, be32(datagram, 4)) else {
            return Err(Error::Malformed);
        };
        if usize::from(length) + HEADER != datagram.len() || length % 4 != 0 {
            return Err(Error::Malformed);
        }
        if kind != BINDING_REQUEST {
            return Err(Error::NotARequest);
        }
        let transaction = datagram.get(8..HEADER).and_then(|id| id.try_into().ok()).ok_or(Error::Malformed)?;
        let mut request = Request { datagram, transaction, username: "", integrity_at: 0, nominates: false };
        request.attributes()?;
        if request.username.is_empty() || request.integrity_at == 0 {
            return Err(Error::Malformed);
        }
        Ok(request)
    }

    fn attributes(&mut self) -> Result<(), Error> {
        let mut at = HEADER;
        while at < self.datagram.len() {
            let (Some(kind), Some(length)) = (be16(self.datagram, at), be16(self.datagram, at + 2)) else {
                return Err(Error::Malformed);
            };
            let length = usize::from(length);
            let value = self.datagram.get(at + 4..at + 4 + length).ok_or(Error::Malformed)?;
            match kind {
                FINGERPRINT => return self.fingerprint(at, value),
                // RFC 8489 §14.5: what comes after the integrity, but for the fingerprint, is ignored
                _ if self.integrity_at != 0 => {}
                MESSAGE_INTEGRITY if length == 20 => self.integrity_at = at,
                MESSAGE_INTEGRITY => return Err(Error::Malformed),
                USERNAME => self.username = std::str::from_utf8(value).map_err(|_not_text| Error::Malformed)?,
                USE_CANDIDATE => self.nominates = true,
                _ => {}
            }
            at += 4 + length.next_multiple_of(4);
        }
        // RFC 8445 §7.1.2 asks for it in every check
        Err(Error::Fingerprint)
    }

    fn fingerprint(&self, at: usize, value: &[u8]) -> Result<(), Error> {
        let before = self.datagram.get(..at).ok_or(Error::Malformed)?;
        if at + 8 != self.datagram.len() || be32(value, 0) != Some(fingerprint_of(before)) {
            return Err(Error::Fingerprint);
        }
        Ok(())
    }

    /// Whom the check is for: the part of the user name that we made.
    #[must_use]
    pub fn local_ufrag(&self) -> &'a str {
        self.username.split_once(':').map_or(self.username, |(local, _)| local)
    }

    /// Checks that the sender knows both names and our password.
    pub(crate) fn verify(&self, local_ufrag: &str, remote_ufrag: &str, key: &hmac::Key) -> Result<(), Error> {
        if self.username.split_once(':') != Some((local_ufrag, remote_ufrag)) {
            return Err(Error::Username);
        }
        let tag = self.datagram.get(self.integrity_at + 4..self.integrity_at + 24).ok_or(Error::Malformed)?;
        let mut covered = self.datagram.get(..self.integrity_at).ok_or(Error::Malformed)?.to_vec();
        set_length(&mut covered, 24);
        hmac::verify(key, &covered, tag).map_err(|_wrong| Error::Integrity)
    }

    /// The answer: where we saw the check come from.
    pub(crate) fn success(&self, from: SocketAddr, key: &hmac::Key) -> Vec<u8> {
        let mut out = Vec::with_capacity(80);
        out.extend_from_slice(&BINDING_SUCCESS.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&COOKIE.to_be_bytes());
        out.extend_from_slice(&self.transaction);
        self.mapped_address(from, &mut out);
        set_length(&mut out, 24);
        let tag = hmac::sign(key, &out);
        attribute(MESSAGE_INTEGRITY, tag.as_ref(), &mut out);
        set_length(&mut out, 8);
        let fingerprint = fingerprint_of(&out);
        attribute(FINGERPRINT, &fingerprint.to_be_bytes(), &mut out);
        out
    }

    fn mapped_address(&self, from: SocketAddr, out: &mut Vec<u8>) {
        let mask = COOKIE.to_be_bytes().into_iter().chain(self.transaction);
        let xor = |bytes: &[u8]| bytes.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect::<Vec<_>>();
        let (family, address) = match from.ip() {
            IpAddr::V4(ip) => (1, xor(&ip.octets())),
            IpAddr::V6(ip) => (2, xor(&ip.octets())),
        };
        let mut value = vec![0, family];
        value.extend_from_slice(&(from.port() ^ 0x2112).to_be_bytes());
        value.extend(address);
        attribute(XOR_MAPPED_ADDRESS, &value, out);
    }
}

fn attribute(kind: u16, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&u16::try_from(value.len()).expect("ours are short").to_be_bytes());
    out.extend_from_slice(value);
}

/// Integrity and fingerprint cover a header that already counts them.
fn set_length(message: &mut [u8], more: usize) {
    let length = u16::try_from(message.len().saturating_sub(HEADER) + more).unwrap_or(u16::MAX);
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// The CRC of all before it, whose header counts it already.
fn fingerprint_of(before: &[u8]) -> u32 {
    // truncation: the algorithm has 32 bits
    (crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, before) as u32) ^ FINGERPRINT_XOR
}

#[cfg(test)]
pub(crate) mod tests;
