//! The RTCP that a sender reads and writes (RFC 3550 §6, RFC 4585, RFC 5104).

use crate::bytes::{be16, be24, be32};

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
const REPORT_BLOCK: usize = 24;

/// What a receiver says of a source of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feedback {
    Report(Report),
    /// The sequence number of a packet that it misses.
    Nack {
        ssrc: u32,
        sequence: u16,
    },
    /// It cannot decode before a keyframe (PLI or FIR).
    KeyframeWanted {
        ssrc: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) ssrc: u32,
    /// Of 256, since its report before.
    pub(crate) fraction_lost: u8,
    pub(crate) total_lost: u32,
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
            SENDER_REPORT => reports(packet, 28, count, &mut told),
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
            // transport-wide feedback, REMB, source descriptions, extended reports; and BYE, which may end one of a
            // receiver's sources: a viewer that is gone stops its checks
            _ => {}
        }
        compound = compound.get(length..).unwrap_or_default();
    }
    Ok(())
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
                jitter: be32(block, 12)?,
                last_sender_report: be32(block, 16)?,
                delay: be32(block, 20)?,
            })
        };
        report().into_iter().for_each(|report| told(Feedback::Report(report)));
    }
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
