//! One track on its way to one viewer: its numbering, what is sent again, and what the viewer reports.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::batch::{Batch, Sink};
use crate::history::{Position, Stored};
use crate::path::Path;
use crate::rtcp::{Report, SenderReport};
use crate::sdp::{Codec, Leg as Chosen, MediaKind};
use crate::source::{Layer, Pushed, Source};
use crate::srtp::{self, RTP_HEADER};
use crate::viewer::Counters;
use crate::viewer::choice::{Choice, Said, lowest};
use crate::viewer::picture::Picture;

/// An Ethernet frame less the headers of IPv6 and UDP: a larger packet would be fragmented.
const MAX_DATAGRAM: usize = 1_452;

/// A group that is larger is no burst that a network takes; the viewer waits for the next keyframe.
const MAX_BURST: usize = 2 * 1024 * 1024;

/// Each packet earns half a packet sent again, and this many may be saved up: a viewer that asks for more than a third of
/// what it gets is not helped by it, and none can have us send to it without end.
const MAX_BUDGET: u32 = 512;
const PRICE: u32 = 2;

/// Packets that are sent at once: a system call. A frame that has more is spread, so that it fills no queue on the way, and a picture
/// of hundreds of packets does not hold up other viewers.
const PORTION: usize = 48;

/// A frame is sent within five steps, the first at once: 4 ms.
const STEPS: usize = 5;
const STEP: Duration = Duration::from_millis(1);

/// Jumps in a track's positions that are remembered; a viewer asks for packets of the last second or two.
const MAX_SPANS: usize = 8;

/// What a viewer says of a track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quality {
    /// Of 256, in its latest report.
    pub fraction_lost: u8,
    pub packets_lost: u32,
    pub jitter: Duration,
    pub round_trip: Option<Duration>,
}

/// What a leg sends with.
pub(super) struct Wire<'a, S> {
    pub(super) path: Path,
    pub(super) srtp: &'a mut srtp::Session,
    pub(super) batch: &'a mut Batch<S>,
    pub(super) counters: &'a mut Counters,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined {
    Flows,
    Waits,
}

#[derive(Debug)]
pub(super) struct Leg {
    track: usize,
    kind: MediaKind,
    clock: u32,
    origin: Origin,
    /// The encoding that it changes to at a keyframe of that.
    wanted: usize,
    choice: Choice,
    /// Packets that it was sent, and that it asked for again, since its report before.
    sent: u32,
    asked: u32,
    last: Option<Last>,
    ssrc: u32,
    payload_type: u8,
    /// The next packet's number; its lower 16 bits are sent.
    sequence: u64,
    resend: Option<Resend>,
    budget: u32,
    /// Where numbers and positions run in parallel, the newest last.
    spans: VecDeque<Span>,
    flow: Flow,
    /// What was pushed and is not sent yet, how many packets of it are sent in a step, and when the next step is.
    backlog: Range<Position>,
    portion: usize,
    due: Option<Instant>,
    packets: u32,
    octets: u32,
    is_reported: bool,
    quality: Option<Quality>,
}

#[derive(Debug, PartialEq, Eq)]
enum Flow {
    AwaitsKeyframe,
    Flows,
}

/// The stream of RFC 4588.
#[derive(Debug)]
struct Resend {
    ssrc: u32,
    payload_type: u8,
    sequence: u64,
}

#[derive(Debug)]
struct Span {
    sequence: u64,
    position: Position,
    origin: Origin,
}

/// Which encoding packets are of, and what is added to its numbers so that the viewer's decoder sees one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Origin {
    layer: usize,
    timestamp: u32,
    picture: u16,
}

/// What the viewer was sent last.
#[derive(Debug, Clone, Copy)]
struct Last {
    timestamp: u32,
    picture: Option<u16>,
}

/// The header of what is sent, and the number of its picture if its format has one.
struct Header {
    ssrc: u32,
    payload_type: u8,
    sequence: u64,
    timestamp: u32,
    picture: Option<Picture>,
}

impl Leg {
    pub(super) fn new(chosen: &Chosen, seed: u64) -> Self {
        let format = &chosen.format;
        let start = |bits: u64| bits & 0x7fff;
        Self {
            track: chosen.track,
            kind: format.codec.kind(),
            clock: format.codec.clock(),
            origin: Origin::default(),
            wanted: 0,
            choice: Choice::new(),
            sent: 0,
            asked: 0,
            last: None,
            ssrc: chosen.ssrc,
            payload_type: format.payload_type,
            // below the middle, so that a first packet that is lost does not look like a roll-over
            sequence: start(seed),
            resend: format.rtx.map(|payload_type| Resend {
                ssrc: chosen.rtx_ssrc,
                payload_type,
                sequence: start(seed >> 32),
            }),
            budget: MAX_BUDGET,
            spans: VecDeque::new(),
            flow: Flow::AwaitsKeyframe,
            backlog: 0..0,
            portion: PORTION,
            due: None,
            packets: 0,
            octets: 0,
            is_reported: false,
            quality: None,
        }
    }

    pub(super) fn track(&self) -> usize {
        self.track
    }

    /// The encoding that it needs a keyframe of, to begin, to go on or to change to it; sound needs none.
    pub(super) fn wanted(&self) -> Option<Layer> {
        (self.kind == MediaKind::Video).then_some(Layer { track: self.track, layer: self.wanted })
    }

    fn current(&self) -> Layer {
        Layer { track: self.track, layer: self.origin.layer }
    }

    pub(super) fn ssrc(&self) -> u32 {
        self.ssrc
    }

    pub(super) fn quality(&self) -> Option<Quality> {
        self.quality
    }

    /// Reports whether packets were sent and their clock was not told.
    pub(super) fn is_unreported(&self) -> bool {
        self.packets > 0 && !self.is_reported
    }

    /// When the next step is, of a frame that is spread.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Sends the current group, a portion a step. Sound joins at its live edge, since what was said is not wanted.
    pub(super) fn join<S: Sink>(&mut self, source: &Source, wire: &mut Wire<'_, S>, now: Instant) -> Joined {
        if self.kind == MediaKind::Audio {
            return Joined::Flows;
        }
        // the lowest of those that it can begin with at once, if there is one
        let rates = source.rates(self.track, now);
        let has_group = |layer| source.encoding(Layer { track: self.track, layer })?.history.group();
        let at_once: Vec<_> =
            (0..).zip(&rates).map(|(layer, rate)| rate.filter(|_| has_group(layer).is_some())).collect();
        self.wanted = lowest(&at_once).or_else(|| lowest(&rates)).unwrap_or(0);
        self.origin = Origin { layer: self.wanted, ..Origin::default() };
        let Some(encoding) = source.encoding(self.current()) else { return Joined::Waits };
        let history = &encoding.history;
        let Some(group) = history.group().filter(|group| history.bytes_since(group.start) <= MAX_BURST) else {
            return Joined::Waits;
        };
        self.flow = Flow::Flows;
        self.backlog = group;
        self.step(source, wire, now);
        Joined::Flows
    }

    pub(super) fn send<S: Sink>(&mut self, pushed: &Pushed, source: &Source, wire: &mut Wire<'_, S>, now: Instant) {
        if pushed.is_keyframe && pushed.layer.layer == self.wanted && self.wanted != self.origin.layer {
            self.portion = usize::MAX;
            self.step(source, wire, now);
            self.change(pushed, source, now);
        }
        if pushed.layer != self.current() {
            return;
        }
        if pushed.is_keyframe {
            self.flow = Flow::Flows;
        }
        if self.flow == Flow::AwaitsKeyframe {
            wire.counters.frames_skipped += 1;
            return;
        }
        let Range { start, end } = pushed.positions;
        self.backlog.start = if self.backlog.is_empty() { start } else { self.backlog.start };
        self.backlog.end = end;
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        self.portion = self.portion.max(length.div_ceil(STEPS));
        if self.due.is_none() {
            self.step(source, wire, now);
        }
    }

    /// Sends the next portion of what waits.
    pub(super) fn step<S: Sink>(&mut self, source: &Source, wire: &mut Wire<'_, S>, now: Instant) {
        let Some(encoding) = source.encoding(self.current()) else { return };
        let portion = u64::try_from(self.portion).unwrap_or(u64::MAX);
        let end = self.backlog.end.min(self.backlog.start.saturating_add(portion));
        for position in std::mem::replace(&mut self.backlog.start, end)..end {
            if let Some(stored) = encoding.history.get(position) {
                self.put(position, stored, encoding.codec, wire);
            }
        }
        self.due = (!self.backlog.is_empty()).then_some(now + STEP);
        if self.due.is_none() {
            self.portion = PORTION;
        }
    }

    /// Goes on with another encoding, of which a keyframe has come: its times and numbers follow on those that were sent.
    fn change(&mut self, pushed: &Pushed, source: &Source, now: Instant) {
        let Some(encoding) = source.encoding(pushed.layer) else { return };
        let Some(first) = encoding.history.get(pushed.positions.start) else { return };
        let mut origin = Origin { layer: pushed.layer.layer, timestamp: 0, picture: 0 };
        if let Some(last) = self.last {
            let of_time =
                source.apart(self.current(), pushed.layer).map(|apart| self.origin.timestamp.wrapping_add(apart));
            let is_later = |offset: &u32| {
                let ahead = first.timestamp.wrapping_add(*offset).wrapping_sub(last.timestamp);
                // more than half of all times ahead is behind
                ahead > 0 && ahead < 1 << 31
            };
            // encoders' clocks may differ by a frame; a decoder's times must not go back
            let next = last.timestamp.wrapping_add(self.clock / 1_000).wrapping_sub(first.timestamp);
            origin.timestamp = of_time.filter(is_later).unwrap_or(next);
            if let (Some(sent), Some(picture)) = (last.picture, Picture::find(encoding.codec, &first.payload)) {
                origin.picture = sent.wrapping_add(1).wrapping_sub(picture.number);
            }
        }
        self.choice.changed(&source.rates(self.track, now), self.origin.layer, origin.layer, now);
        self.origin = origin;
    }

    /// The viewer thinks that it can take so many bits a second.
    pub(super) fn estimated(&mut self, bits: u64, now: Instant) {
        self.choice.estimated(bits, now);
    }

    /// Chooses among the encodings that there are. Returns the one that a keyframe is needed of, if it is another than the viewer has.
    fn choose(&mut self, said: Said, source: &Source, now: Instant) -> Option<Layer> {
        if source.layers(self.track) < 2 {
            return None;
        }
        self.wanted = self.choice.reported(said, &source.rates(self.track, now), self.origin.layer, now);
        self.wanted().filter(|wanted| *wanted != self.current())
    }

    /// Leaves out what comes before the next keyframe.
    pub(super) fn pause(&mut self) {
        self.flow = Flow::AwaitsKeyframe;
        (self.backlog, self.portion, self.due) = (0..0, PORTION, None);
    }

    fn put<S: Sink>(&mut self, position: Position, stored: &Stored, codec: Codec, wire: &mut Wire<'_, S>) {
        let header = Header {
            ssrc: self.ssrc,
            payload_type: self.payload_type,
            sequence: self.sequence,
            timestamp: stored.timestamp.wrapping_add(self.origin.timestamp),
            picture: Picture::find(codec, &stored.payload).map(|picture| picture.plus(self.origin.picture)),
        };
        if !write(&header, stored, None, wire) {
            return;
        }
        self.last =
            Some(Last { timestamp: header.timestamp, picture: header.picture.as_ref().map(|picture| picture.number) });
        let runs_on = |span: &Span| {
            self.sequence.wrapping_sub(span.sequence) == position.wrapping_sub(span.position)
                && span.origin == self.origin
        };
        if !self.spans.back().is_some_and(runs_on) {
            if self.spans.len() == MAX_SPANS {
                self.spans.pop_front();
            }
            self.spans.push_back(Span { sequence: self.sequence, position, origin: self.origin });
        }
        self.sequence += 1;
        self.sent = self.sent.saturating_add(1);
        self.packets = self.packets.wrapping_add(1);
        // truncation: a payload fits a datagram, and the count wraps (RFC 3550 §6.4.1)
        self.octets = self.octets.wrapping_add(stored.payload.len() as u32);
        self.budget = (self.budget + 1).min(MAX_BUDGET);
        wire.counters.packets += 1;
    }

    /// Sends a packet again that the viewer misses.
    pub(super) fn resend<S: Sink>(&mut self, number: u16, source: &Source, wire: &mut Wire<'_, S>) {
        self.asked = self.asked.saturating_add(1);
        let found = self.find(number).and_then(|(sequence, position, origin)| {
            let encoding = source.encoding(Layer { track: self.track, layer: origin.layer })?;
            Some((sequence, origin, encoding.codec, encoding.history.get(position)?))
        });
        let Some((sequence, origin, codec, stored)) = found else {
            wire.counters.resend_too_old += 1;
            return;
        };
        let Some(budget) = self.budget.checked_sub(PRICE) else {
            wire.counters.resend_over_budget += 1;
            return;
        };
        // without a stream for it, the same bytes under the same index once more, which is what SRTP allows
        let mut header = Header {
            ssrc: self.ssrc,
            payload_type: self.payload_type,
            sequence,
            timestamp: stored.timestamp.wrapping_add(origin.timestamp),
            picture: Picture::find(codec, &stored.payload).map(|picture| picture.plus(origin.picture)),
        };
        let again = self.resend.as_mut().map(|Resend { ssrc, payload_type, sequence: next }| {
            (header.ssrc, header.payload_type, header.sequence) = (*ssrc, *payload_type, *next);
            *next += 1;
            number
        });
        let written = write(&header, stored, again, wire);
        if written {
            self.budget = budget;
            wire.counters.resent += 1;
        }
    }

    /// The full number of a packet that was sent, its position, and where.
    fn find(&self, number: u16) -> Option<(u64, Position, Origin)> {
        // truncation: numbers are sent as 16 bits
        let back = (self.sequence as u16).wrapping_sub(number);
        let sequence = self.sequence.checked_sub(u64::from(back)).filter(|_| back > 0)?;
        let span = self.spans.iter().rev().find(|span| span.sequence <= sequence)?;
        Some((sequence, span.position + (sequence - span.sequence), span.origin))
    }

    /// Takes a receiver report to heart (RFC 3550 §6.4.1). Returns an encoding that a keyframe is needed of.
    pub(super) fn reported(&mut self, report: &Report, source: &Source, now: Instant) -> Option<Layer> {
        let round_trip = (report.last_sender_report != 0).then(|| {
            let since = source.clock.ntp_middle(now).wrapping_sub(report.last_sender_report);
            Duration::from_secs(1).mul_f64(f64::from(since.saturating_sub(report.delay)) / 65_536.0)
        });
        // longer than any path: the peer quotes what we did not send
        let round_trip = round_trip.filter(|time| *time < Duration::from_secs(30));
        self.quality = Some(Quality {
            fraction_lost: report.fraction_lost,
            packets_lost: report.total_lost,
            jitter: Duration::from_secs(1).mul_f64(f64::from(report.jitter) / f64::from(self.clock)),
            round_trip,
        });
        // receivers may report what was lost and sent again as received
        let (sent, asked) = (std::mem::take(&mut self.sent), std::mem::take(&mut self.asked));
        let fraction_asked = u8::try_from(256 * u64::from(asked) / u64::from(sent.max(1))).unwrap_or(u8::MAX);
        let fraction_lost = report.fraction_lost.max(fraction_asked);
        self.choose(Said { fraction_lost, round_trip }, source, now)
    }

    /// Appends a sender report, if anything was sent.
    pub(super) fn report(&mut self, source: &Source, now: Instant, cname: &str, out: &mut Vec<u8>) {
        let Some(rtp) = source.rtp_time(self.current(), now).filter(|_| self.packets > 0) else { return };
        let rtp = rtp.wrapping_add(self.origin.timestamp);
        self.is_reported = true;
        let ntp = source.clock.ntp(now);
        SenderReport { ssrc: self.ssrc, ntp, rtp, packets: self.packets, octets: self.octets }.write(cname, out);
    }
}

/// Writes and seals a packet where it will be sent from; a packet sent again begins with its first number.
fn write<S: Sink>(header: &Header, stored: &Stored, again: Option<u16>, wire: &mut Wire<'_, S>) -> bool {
    let prefix = again.map(u16::to_be_bytes);
    let prefix = prefix.as_ref().map_or(&[][..], |prefix| &prefix[..]);
    let length = RTP_HEADER + prefix.len() + stored.payload.len() + wire.srtp.rtp_overhead();
    if length > MAX_DATAGRAM {
        wire.counters.packets_oversize += 1;
        return false;
    }
    let srtp = &mut *wire.srtp;
    let sealed = wire.batch.push(wire.path, length, |room| {
        let (head, rest) = room.split_at_mut_checked(RTP_HEADER).ok_or(srtp::Error::Short)?;
        head.copy_from_slice(&header.bytes(stored.marker));
        let (number, rest) = rest.split_at_mut_checked(prefix.len()).ok_or(srtp::Error::Short)?;
        number.copy_from_slice(prefix);
        let payload = rest.get_mut(..stored.payload.len()).ok_or(srtp::Error::Short)?;
        payload.copy_from_slice(&stored.payload);
        if let Some(picture) = &header.picture {
            picture.write(payload);
        }
        srtp.seal_rtp(room, header.sequence)
    });
    // no loss: at most a datagram
    wire.counters.bytes += if sealed.is_ok() { length as u64 } else { 0 };
    sealed.is_ok()
}

impl Header {
    fn bytes(&self, marker: bool) -> [u8; RTP_HEADER] {
        let [a, b, c, d] = self.timestamp.to_be_bytes();
        let [e, f, g, h] = self.ssrc.to_be_bytes();
        let [.., i, j] = self.sequence.to_be_bytes();
        [0x80, self.payload_type | (u8::from(marker) << 7), i, j, a, b, c, d, e, f, g, h]
    }
}

#[cfg(test)]
mod tests;
