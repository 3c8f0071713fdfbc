//! The RTCP that is read and written (RFC 3550 §6, RFC 4585, RFC 5104).

use crate::bytes::{be16, be24, be32};

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
const REPORT_BLOCK: usize = 24;

/// What a peer says of a source of ours, or of one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feedback {
    Report(Report),
    /// The same instant in NTP's 64 bits and on the clock of a source that it sends.
    SenderReport {
        ssrc: u32,
        ntp: u64,
        rtp: u32,
    },
    /// The sequence number of a packet that it misses.
    Nack {
        ssrc: u32,
        sequence: u16,
    },
    /// It cannot decode before a keyframe (PLI or FIR).
    KeyframeWanted {
        ssrc: u32,
    },
    /// What it thinks that it can take in all (draft-alvestrand-rmcat-remb-03), in bits a second.
    Estimate {
        bits: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) ssrc: u32,
    /// Of 256, since its report before.
    pub(crate) fraction_lost: u8,
    pub(crate) total_lost: u32,
    /// The greatest number of its packets, counted on past 16 bits.
    pub(crate) highest: u32,
    /// In ticks of the source's clock.
    pub(crate) jitter: u32,
    /// The middle of the NTP time of the sender report that it saw last, 0 if none.
    pub(crate) last_sender_report: u32,
    /// The time since then, in 1/65536 s.
    pub(crate) delay: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed RTCP")]
pub(crate) struct Malformed;

/// Reads a compound packet; what it says before an error counts.
pub(crate) fn read(mut compound: &[u8], mut told: impl FnMut(Feedback)) -> Result<(), Malformed> {
    while !compound.is_empty() {
        let (Some(first), Some(kind), Some(words)) = (compound.first(), compound.get(1), be16(compound, 2)) else {
            return Err(Malformed);
        };
        let length = 4 * (usize::from(words) + 1);
        let (packet, count) = (compound.get(..length).ok_or(Malformed)?, first & 0x1f);
        if first >> 6 != 2 {
            return Err(Malformed);
        }
        match *kind {
            SENDER_REPORT => {
                sender_report(packet).into_iter().for_each(&mut told);
                reports(packet, 28, count, &mut told);
            }
            RECEIVER_REPORT => reports(packet, 8, count, &mut told),
            TRANSPORT_FEEDBACK if count == 1 => nacks(packet, &mut told),
            PAYLOAD_FEEDBACK if count == 1 => {
                be32(packet, 8).into_iter().for_each(|ssrc| told(Feedback::KeyframeWanted { ssrc }));
            }
            PAYLOAD_FEEDBACK if count == 4 => {
                let requests = packet.get(12..).unwrap_or_default().chunks_exact(8);
                requests
                    .filter_map(|request| be32(request, 0))
                    .for_each(|ssrc| told(Feedback::KeyframeWanted { ssrc }));
            }
            PAYLOAD_FEEDBACK if count == 15 => estimate(packet).into_iter().for_each(&mut told),
            // transport-wide feedback, source descriptions, extended reports; and BYE, which may end one of a
            // receiver's sources: a viewer that is gone stops its checks
            _ => {}
        }
        compound = compound.get(length..).unwrap_or_default();
    }
    Ok(())
}

fn sender_report(packet: &[u8]) -> Option<Feedback> {
    let ntp = (u64::from(be32(packet, 8)?) << 32) | u64::from(be32(packet, 12)?);
    Some(Feedback::SenderReport { ssrc: be32(packet, 4)?, ntp, rtp: be32(packet, 16)? })
}

fn reports(packet: &[u8], blocks_at: usize, count: u8, told: &mut impl FnMut(Feedback)) {
    let blocks = packet.get(blocks_at..).unwrap_or_default().chunks_exact(REPORT_BLOCK).take(usize::from(count));
    for block in blocks {
        let report = || {
            Some(Report {
                ssrc: be32(block, 0)?,
                fraction_lost: *block.get(4)?,
                // 24 bits with a sign: what came twice counts against what was lost
                total_lost: Some(be24(block, 5)?).filter(|lost| *lost < 1 << 23).unwrap_or(0),
                highest: be32(block, 8)?,
                jitter: be32(block, 12)?,
                last_sender_report: be32(block, 16)?,
                delay: be32(block, 20)?,
            })
        };
        report().into_iter().for_each(|report| told(Feedback::Report(report)));
    }
}

/// draft-alvestrand-rmcat-remb-03 §2.2: after the name six bits of exponent, and 18 of mantissa.
fn estimate(packet: &[u8]) -> Option<Feedback> {
    let value = be24(packet, 17).filter(|_| packet.get(12..16) == Some(b"REMB"))?;
    let (exponent, mantissa) = (value >> 18, u64::from(value & 0x3_ffff));
    // what is more than 2^64 is more than anything
    let bits = if exponent > 46 { u64::MAX } else { mantissa << exponent };
    Some(Feedback::Estimate { bits })
}

/// RFC 4585 §6.2.1: a number, and a bit for each of the sixteen that follow it.
fn nacks(packet: &[u8], told: &mut impl FnMut(Feedback)) {
    let Some(ssrc) = be32(packet, 8) else { return };
    for entry in packet.get(12..).unwrap_or_default().chunks_exact(4) {
        let (Some(first), Some(following)) = (be16(entry, 0), be16(entry, 2)) else { return };
        told(Feedback::Nack { ssrc, sequence: first });
        for bit in (0..16_u16).filter(|bit| following & (1 << bit) != 0) {
            told(Feedback::Nack { ssrc, sequence: first.wrapping_add(bit + 1) });
        }
    }
}

/// What a sender says of one source.
pub(crate) struct SenderReport {
    pub(crate) ssrc: u32,
    /// 64 bits of NTP time, and the RTP time of the same instant.
    pub(crate) ntp: u64,
    pub(crate) rtp: u32,
    pub(crate) packets: u32,
    pub(crate) octets: u32,
}

impl SenderReport {
    /// Appends the report and the source's name.
    pub(crate) fn write(&self, cname: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0x80, SENDER_REPORT, 0, 6]);
        out.extend_from_slice(&self.ssrc.to_be_bytes());
        out.extend_from_slice(&self.ntp.to_be_bytes());
        for word in [self.rtp, self.packets, self.octets] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        describe(self.ssrc, cname, out);
    }
}

/// Appends a receiver report, of at most 31 sources.
pub(crate) fn write_receiver_report(ssrc: u32, blocks: &[Report], out: &mut Vec<u8>) {
    let (count, length) = (0_u8..31, blocks.len().min(31));
    let words = u16::try_from(1 + length * REPORT_BLOCK / 4).expect("31 blocks are 187 words");
    let count = count.zip(blocks).fold(0x80, |first, _| first + 1);
    out.extend_from_slice(&[count, RECEIVER_REPORT]);
    out.extend_from_slice(&words.to_be_bytes());
    out.extend_from_slice(&ssrc.to_be_bytes());
    for block in blocks.iter().take(length) {
        let Report { ssrc, fraction_lost, total_lost, highest, jitter, last_sender_report, delay } = block;
        out.extend_from_slice(&ssrc.to_be_bytes());
        out.extend_from_slice(&((u32::from(*fraction_lost) << 24) | total_lost).to_be_bytes());
        for word in [highest, jitter, last_sender_report, delay] {
            out.extend_from_slice(&word.to_be_bytes());
        }
    }
}

/// Appends a request for packets of a source, whose numbers ascend; nothing if there are none.
pub(crate) fn write_nacks(ssrc: u32, of: u32, sequences: &[u16], out: &mut Vec<u8>) {
    let mut entries: Vec<(u16, u16)> = Vec::new();
    for sequence in sequences {
        match entries.last_mut() {
            Some((first, following)) if (1..=16).contains(&sequence.wrapping_sub(*first)) => {
                *following |= 1 << (sequence.wrapping_sub(*first) - 1);
            }
            Some(_) | None => entries.push((*sequence, 0)),
        }
    }
    if entries.is_empty() {
        return;
    }
    let words = u16::try_from(2 + entries.len()).expect("as many as a gap has at most");
    feedback(&[0x81, TRANSPORT_FEEDBACK], words, ssrc, of, out);
    for (first, following) in entries {
        out.extend_from_slice(&first.to_be_bytes());
        out.extend_from_slice(&following.to_be_bytes());
    }
}

/// Appends a request for a keyframe of a source (PLI).
pub(crate) fn write_picture_loss(ssrc: u32, of: u32, out: &mut Vec<u8>) {
    feedback(&[0x81, PAYLOAD_FEEDBACK], 2, ssrc, of, out);
}

fn feedback(kind: &[u8; 2], words: u16, ssrc: u32, of: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(kind);
    out.extend_from_slice(&words.to_be_bytes());
    out.extend_from_slice(&ssrc.to_be_bytes());
    out.extend_from_slice(&of.to_be_bytes());
}

/// A source description with its canonical name, filled with zeros to whole words (RFC 3550 §6.5).
fn describe(ssrc: u32, cname: &str, out: &mut Vec<u8>) {
    let name = cname.as_bytes().get(..255).unwrap_or(cname.as_bytes());
    let items = (2 + name.len() + 1).next_multiple_of(4);
    let words = u16::try_from(1 + items / 4).expect("a name has at most 255 bytes");
    out.extend_from_slice(&[0x81, SOURCE_DESCRIPTION]);
    out.extend_from_slice(&words.to_be_bytes());
    out.extend_from_slice(&ssrc.to_be_bytes());
    out.extend_from_slice(&[1, u8::try_from(name.len()).expect("as above")]);
    out.extend_from_slice(name);
    out.resize(out.len() + items - 2 - name.len(), 0);
}

#[cfg(test)]
mod tests;
