//! SRTP and SRTCP (RFC 3711, RFC 7714) of one session: what we send is sealed where it lies, what comes in is opened.
//!
//! What an unknown sender says costs no memory: senders are remembered after their packet has proved genuine.

mod window;

use std::fmt;

use rtc_crypto::{
    AeadAlgorithm, AeadCipher, BlockCipherAlgorithm, CryptoError, HmacAlgorithm, Mac, RTCCrypto, StreamCipher,
    StreamCipherAlgorithm,
};

use crate::bytes::be32;
use crate::rtp;
use window::{Index, Senders};

/// The part of an RTP packet that is sent in the clear; ours have neither sources nor extensions.
pub(crate) const RTP_HEADER: usize = 12;
const RTCP_HEADER: usize = 8;
const RTCP_INDEX: usize = 4;
const ENCRYPTED: u32 = 1 << 31;
const SHA1_TAG: usize = 10;
const GCM_TAG: usize = 16;

/// The protection profiles of RFC 5764 §4.1.2 and RFC 7714 §14.2 that we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Gcm128,
    Gcm256,
    CmSha1,
}

impl Profile {
    fn key_length(self) -> usize {
        match self {
            Self::Gcm128 | Self::CmSha1 => 16,
            Self::Gcm256 => 32,
        }
    }

    fn salt_length(self) -> usize {
        match self {
            Self::Gcm128 | Self::Gcm256 => 12,
            Self::CmSha1 => 14,
        }
    }

    /// The bytes to take from DTLS for both directions.
    pub(crate) fn material_length(self) -> usize {
        2 * (self.key_length() + self.salt_length())
    }

    /// The bytes that sealing adds to an RTP packet.
    pub(crate) fn rtp_overhead(self) -> usize {
        match self {
            Self::Gcm128 | Self::Gcm256 => GCM_TAG,
            Self::CmSha1 => SHA1_TAG,
        }
    }

    fn rtcp_overhead(self) -> usize {
        self.rtp_overhead() + RTCP_INDEX
    }
}

/// Why a packet could not be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("too short for its protection")]
    Short,
    #[error("not genuine")]
    Forged,
    #[error("seen before")]
    Replayed,
    #[error("from one sender too many")]
    Senders,
    #[error("the cryptography failed")]
    Crypto,
}

/// The keys of one session and what was sent and seen under them.
pub(crate) struct Session {
    profile: Profile,
    rtp_out: Cipher,
    rtcp_out: Cipher,
    rtp_in: Cipher,
    rtcp_in: Cipher,
    rtcp_index: u32,
    rtp_senders: Senders,
    rtcp_senders: Senders,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("profile", &self.profile).field("keys", &"***").finish_non_exhaustive()
    }
}

impl Session {
    /// Splits what DTLS exported (RFC 5764 §4.2): the client's key, the server's, then the salts in the same order.
    pub(crate) fn new(
        profile: Profile,
        material: &[u8],
        we_are_client: bool,
        crypto: &dyn RTCCrypto,
    ) -> Result<Self, Error> {
        let (key, salt) = (profile.key_length(), profile.salt_length());
        let part = |at: usize, length: usize| material.get(at..at + length).ok_or(Error::Crypto);
        let client = Master { profile, key: part(0, key)?, salt: part(2 * key, salt)?, crypto };
        let server = Master { profile, key: part(key, key)?, salt: part(2 * key + salt, salt)?, crypto };
        let (ours, theirs) = if we_are_client { (client, server) } else { (server, client) };
        Ok(Self {
            profile,
            rtp_out: ours.cipher(RTP_LABELS)?,
            rtcp_out: ours.cipher(RTCP_LABELS)?,
            rtp_in: theirs.cipher(RTP_LABELS)?,
            rtcp_in: theirs.cipher(RTCP_LABELS)?,
            rtcp_index: 0,
            rtp_senders: Senders::default(),
            rtcp_senders: Senders::default(),
        })
    }

    pub(crate) fn rtp_overhead(&self) -> usize {
        self.profile.rtp_overhead()
    }

    /// Seals a packet in place: its header, its payload, and room for [`Self::rtp_overhead`].
    ///
    /// `index` is its sequence number, counted on past 16 bits. One index may be sealed again for the same bytes only.
    pub(crate) fn seal_rtp(&mut self, packet: &mut [u8], index: u64) -> Result<(), Error> {
        let tag_at =
            packet.len().checked_sub(self.profile.rtp_overhead()).filter(|at| *at >= RTP_HEADER).ok_or(Error::Short)?;
        let ssrc = be32(packet, 8).ok_or(Error::Short)?;
        let (packet, tag) = packet.split_at_mut(tag_at);
        match &mut self.rtp_out {
            Cipher::Gcm { cipher, salt } => {
                let nonce = gcm_nonce(salt, ssrc, index);
                let (header, payload) = packet.split_at_mut(RTP_HEADER);
                cipher.seal_in_place(&nonce, header, payload, tag).map_err(|_failed| Error::Crypto)
            }
            Cipher::CmSha1 { cipher, mac, salt } => {
                let (_, payload) = packet.split_at_mut(RTP_HEADER);
                cipher.apply_keystream(&cm_counter(salt, ssrc, index), payload).map_err(|_failed| Error::Crypto)?;
                sha1_tag(mac, &[packet, &roll_over(index)], tag)
            }
        }
    }

    /// Opens an RTP packet of the peer in place; what follows its payload is cut off. Gives its sequence number, counted on past
    /// 16 bits.
    pub(crate) fn open_rtp(&mut self, packet: &mut Vec<u8>, header: &rtp::Header) -> Result<u64, Error> {
        let index = self.rtp_senders.guess(header.ssrc, header.sequence)?;
        let tag_at = packet.len().checked_sub(self.profile.rtp_overhead()).ok_or(Error::Short)?;
        if tag_at < header.length {
            return Err(Error::Short);
        }
        let (sealed, tag) = packet.split_at_mut(tag_at);
        match &mut self.rtp_in {
            Cipher::Gcm { cipher, salt } => {
                let (head, payload) = sealed.split_at_mut(header.length);
                let nonce = gcm_nonce(salt, header.ssrc, index.0);
                cipher.open_in_place(&nonce, head, payload, tag).map_err(|_wrong| Error::Forged)?;
            }
            Cipher::CmSha1 { cipher, mac, salt } => {
                let mut expected = [0; SHA1_TAG];
                sha1_tag(mac, &[sealed, &roll_over(index.0)], &mut expected)?;
                if !rtc_crypto::constant_time_eq(&expected, tag) {
                    return Err(Error::Forged);
                }
                let (_, payload) = sealed.split_at_mut(header.length);
                let counter = cm_counter(salt, header.ssrc, index.0);
                cipher.apply_keystream(&counter, payload).map_err(|_failed| Error::Crypto)?;
            }
        }
        packet.truncate(tag_at);
        self.rtp_senders.accept(header.ssrc, index)?;
        Ok(index.0)
    }

    /// Seals a compound RTCP packet.
    pub(crate) fn seal_rtcp(&mut self, plain: &[u8]) -> Result<Vec<u8>, Error> {
        let ssrc = be32(plain, 4).ok_or(Error::Short)?;
        self.rtcp_index = (self.rtcp_index + 1) & !ENCRYPTED;
        let index = u64::from(self.rtcp_index);
        let word = (self.rtcp_index | ENCRYPTED).to_be_bytes();
        let mut out = Vec::with_capacity(plain.len() + self.profile.rtcp_overhead());
        out.extend_from_slice(plain);
        match &mut self.rtcp_out {
            Cipher::Gcm { cipher, salt } => {
                let (header, rest) = out.split_at_mut(RTCP_HEADER);
                let (aad, mut tag) = (aad_of(header, word), [0; GCM_TAG]);
                let sealed = cipher.seal_in_place(&gcm_nonce(salt, ssrc, index), &aad, rest, &mut tag);
                sealed.map_err(|_failed| Error::Crypto)?;
                out.extend_from_slice(&tag);
                out.extend_from_slice(&word);
            }
            Cipher::CmSha1 { cipher, mac, salt } => {
                let (_, rest) = out.split_at_mut(RTCP_HEADER);
                cipher.apply_keystream(&cm_counter(salt, ssrc, index), rest).map_err(|_failed| Error::Crypto)?;
                out.extend_from_slice(&word);
                let mut tag = [0; SHA1_TAG];
                sha1_tag(mac, &[&out], &mut tag)?;
                out.extend_from_slice(&tag);
            }
        }
        Ok(out)
    }

    /// Opens a compound RTCP packet of the peer.
    pub(crate) fn open_rtcp(&mut self, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let (ssrc, Some(end)) =
            (be32(sealed, 4).ok_or(Error::Short)?, sealed.len().checked_sub(self.profile.rtcp_overhead()))
        else {
            return Err(Error::Short);
        };
        if end < RTCP_HEADER {
            return Err(Error::Short);
        }
        let (plain, index) = match &mut self.rtcp_in {
            Cipher::Gcm { cipher, salt } => open_gcm(cipher.as_mut(), salt, ssrc, sealed, end)?,
            Cipher::CmSha1 { cipher, mac, salt } => open_cm(cipher.as_mut(), mac, salt, ssrc, sealed, end)?,
        };
        self.rtcp_senders.accept(ssrc, Index(index.into()))?;
        Ok(plain)
    }
}

fn open_gcm(
    cipher: &mut dyn AeadCipher,
    salt: &[u8; 12],
    ssrc: u32,
    sealed: &[u8],
    end: usize,
) -> Result<(Vec<u8>, u32), Error> {
    let word = be32(sealed, end + GCM_TAG).ok_or(Error::Short)?;
    let mut plain = sealed.get(..end).ok_or(Error::Short)?.to_vec();
    let tag = sealed.get(end..end + GCM_TAG).ok_or(Error::Short)?;
    let index = word & !ENCRYPTED;
    if word & ENCRYPTED == 0 {
        return Err(Error::Forged);
    }
    let (header, rest) = plain.split_at_mut(RTCP_HEADER);
    let aad = aad_of(header, word.to_be_bytes());
    let nonce = gcm_nonce(salt, ssrc, u64::from(index));
    cipher.open_in_place(&nonce, &aad, rest, tag).map_err(|_wrong| Error::Forged)?;
    Ok((plain, index))
}

fn open_cm(
    cipher: &mut dyn StreamCipher,
    mac: &mut Box<dyn Mac>,
    salt: &[u8; 14],
    ssrc: u32,
    sealed: &[u8],
    end: usize,
) -> Result<(Vec<u8>, u32), Error> {
    let word = be32(sealed, end).ok_or(Error::Short)?;
    let covered = sealed.get(..end + RTCP_INDEX).ok_or(Error::Short)?;
    let tag = sealed.get(end + RTCP_INDEX..).ok_or(Error::Short)?;
    let mut expected = [0; SHA1_TAG];
    sha1_tag(mac, &[covered], &mut expected)?;
    if !rtc_crypto::constant_time_eq(&expected, tag) || word & ENCRYPTED == 0 {
        return Err(Error::Forged);
    }
    let index = word & !ENCRYPTED;
    let mut plain = sealed.get(..end).ok_or(Error::Short)?.to_vec();
    let (_, rest) = plain.split_at_mut(RTCP_HEADER);
    cipher.apply_keystream(&cm_counter(salt, ssrc, u64::from(index)), rest).map_err(|_failed| Error::Crypto)?;
    Ok((plain, index))
}

enum Cipher {
    Gcm { cipher: Box<dyn AeadCipher>, salt: [u8; 12] },
    CmSha1 { cipher: Box<dyn StreamCipher>, mac: Box<dyn Mac>, salt: [u8; 14] },
}

/// RFC 3711 §4.3.2.
#[derive(Clone, Copy)]
struct Labels {
    key: u8,
    authentication: u8,
    salt: u8,
}

const RTP_LABELS: Labels = Labels { key: 0, authentication: 1, salt: 2 };
const RTCP_LABELS: Labels = Labels { key: 3, authentication: 4, salt: 5 };

struct Master<'a> {
    profile: Profile,
    key: &'a [u8],
    salt: &'a [u8],
    crypto: &'a dyn RTCCrypto,
}

impl Master<'_> {
    fn cipher(&self, labels: Labels) -> Result<Cipher, Error> {
        self.try_cipher(labels).map_err(|_failed| Error::Crypto)
    }

    fn try_cipher(&self, labels: Labels) -> Result<Cipher, CryptoError> {
        let (key, salt) = (self.derive::<32>(labels.key)?, self.derive::<32>(labels.salt)?);
        let gcm = |algorithm, length| {
            let cipher = self.crypto.new_aead(algorithm, key.get(..length).unwrap_or(&key))?;
            Ok(Cipher::Gcm { cipher, salt: first(&salt) })
        };
        match self.profile {
            Profile::Gcm128 => gcm(AeadAlgorithm::Aes128Gcm, 16),
            Profile::Gcm256 => gcm(AeadAlgorithm::Aes256Gcm, 32),
            Profile::CmSha1 => Ok(Cipher::CmSha1 {
                cipher: self.crypto.new_stream_cipher(StreamCipherAlgorithm::Aes128Ctr, &first::<16>(&key))?,
                mac: self
                    .crypto
                    .new_hmac(HmacAlgorithm::Sha1, &first::<20>(&self.derive::<32>(labels.authentication)?))?,
                salt: first(&salt),
            }),
        }
    }

    /// The key stream of AES-CM over the salt and a label (RFC 3711 §4.3.3, RFC 6188 for 256 bits).
    fn derive<const N: usize>(&self, label: u8) -> Result<[u8; N], CryptoError> {
        let algorithm = match self.profile {
            Profile::Gcm128 | Profile::CmSha1 => BlockCipherAlgorithm::Aes128,
            Profile::Gcm256 => BlockCipherAlgorithm::Aes256,
        };
        let mut counter = [0; 16];
        counter.iter_mut().zip(self.salt).for_each(|(byte, salt)| *byte = *salt);
        counter[7] ^= label;
        let mut out = [0; N];
        for (number, part) in (0_u8..).zip(out.chunks_mut(16)) {
            let mut block = counter;
            block[15] = number;
            self.crypto.block_encrypt(algorithm, self.key, &mut block)?;
            part.iter_mut().zip(block).for_each(|(byte, key)| *byte = key);
        }
        Ok(out)
    }
}

fn first<const N: usize>(bytes: &[u8; 32]) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut().zip(bytes).for_each(|(byte, from)| *byte = *from);
    out
}

/// RFC 7714 §8.1 and §9.1: the source, then the index of 48 bits.
fn gcm_nonce(salt: &[u8; 12], ssrc: u32, index: u64) -> [u8; 12] {
    let mut nonce = *salt;
    nonce.iter_mut().skip(2).zip(place(ssrc, index)).for_each(|(byte, place)| *byte ^= place);
    nonce
}

/// RFC 3711 §4.1.1: the same, and two bytes that count blocks.
fn cm_counter(salt: &[u8; 14], ssrc: u32, index: u64) -> [u8; 16] {
    let mut counter = [0; 16];
    counter.iter_mut().zip(salt).for_each(|(byte, salt)| *byte = *salt);
    counter.iter_mut().skip(4).zip(place(ssrc, index)).for_each(|(byte, place)| *byte ^= place);
    counter
}

fn place(ssrc: u32, index: u64) -> [u8; 10] {
    let ([a, b, c, d], [_, _, e, f, g, h, i, j]) = (ssrc.to_be_bytes(), index.to_be_bytes());
    [a, b, c, d, e, f, g, h, i, j]
}

fn roll_over(index: u64) -> [u8; 4] {
    let [_, _, a, b, c, d, _, _] = index.to_be_bytes();
    [a, b, c, d]
}

fn aad_of(header: &[u8], word: [u8; 4]) -> [u8; RTCP_HEADER + RTCP_INDEX] {
    let mut aad = [0; RTCP_HEADER + RTCP_INDEX];
    aad.iter_mut().zip(header.iter().chain(&word)).for_each(|(byte, from)| *byte = *from);
    aad
}

fn sha1_tag(mac: &mut Box<dyn Mac>, input: &[&[u8]], tag: &mut [u8]) -> Result<(), Error> {
    let mut full = [0; 20];
    mac.sign(input, &mut full).map_err(|_failed| Error::Crypto)?;
    tag.iter_mut().zip(full).for_each(|(byte, from)| *byte = from);
    Ok(())
}

#[cfg(test)]
mod tests;
