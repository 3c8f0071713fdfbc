//! From the RTP of a WebRTC publisher to a broadcast's packets: in order, without gaps in a group of pictures, on one clock.
//!
//! What is lost for good costs all frames up to the next keyframe, which [`Event::KeyframeNeeded`] asks for: a picture is whole
//! or not there. Sound goes on.

mod assemble;
mod av1;
mod jitter;
mod nal;
mod tag;
mod timeline;
mod vp8;
mod vp9;

use std::time::Instant;

use bytes::Bytes;
use media_core::{MediaTime, Packet, Role, Track};

use self::{
    assemble::{Assembled, Assembler},
    jitter::{JitterBuffer, Pushed, Released},
    timeline::{Clock, Timeline},
};
pub use self::{jitter::MAX_WAIT, timeline::SenderReport};
use crate::Codec;

/// An RTP packet without what only its transport needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rtp {
    pub sequence: u16,
    pub timestamp: u32,
    pub marker: bool,
    /// Without extensions and padding.
    pub payload: Bytes,
}

/// What comes of a publisher's packets.
#[derive(Debug)]
pub enum Event {
    /// A configuration or a frame, for the broadcast.
    Packet(Packet),
    /// Packets that others have overtaken, to be asked for again.
    Missing { track: Track, first: u16, count: u16 },
    /// Frames are left out until a keyframe comes. Said for each of them.
    KeyframeNeeded(Track),
}

/// One publisher's tracks.
#[derive(Debug)]
pub struct Receiver {
    lanes: Vec<Lane>,
    timeline: Timeline,
}

/// A track's way.
#[derive(Debug)]
struct Lane {
    track: Track,
    jitter: JitterBuffer,
    clock: Clock,
    assembler: Assembler,
    /// When the last packet was, in ticks; the next is later.
    last: Option<i64>,
}

impl Receiver {
    /// Begins with the tracks that were agreed upon. Times of the broadcast begin now.
    #[must_use]
    pub fn new(tracks: &[(Track, Codec)], now: Instant) -> Self {
        let lane = |&(track, codec): &(Track, Codec)| Lane {
            track,
            jitter: JitterBuffer::default(),
            clock: Clock::new(codec.clock_rate()),
            assembler: Assembler::new(tag::Kind { codec, index: track.index }),
            last: None,
        };
        Self { lanes: tracks.iter().map(lane).collect(), timeline: Timeline::new(now) }
    }

    /// Takes a packet of a track; one of another is passed over.
    pub fn push(&mut self, track: Track, rtp: Rtp, now: Instant, events: &mut Vec<Event>) {
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.track == track) else { return };
        match lane.jitter.push(rtp, now) {
            Pushed::Held | Pushed::Dropped => {}
            Pushed::Gap { first, count } => events.push(Event::Missing { track, first, count }),
            Pushed::Restarted => lane.lose(events),
        }
        lane.release(&self.timeline, now, events);
    }

    /// Takes what a track's sender says of its clock.
    pub fn sender_report(&mut self, track: Track, report: SenderReport) {
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.track == track) {
            self.timeline.align(&mut lane.clock, report);
        }
    }

    /// Gives up what has been waited for long enough.
    pub fn handle_timeout(&mut self, now: Instant, events: &mut Vec<Event>) {
        self.lanes.iter_mut().for_each(|lane| lane.release(&self.timeline, now, events));
    }

    /// When [`Receiver::handle_timeout`] is due, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let deadline = self.lanes.iter().filter_map(|lane| lane.jitter.deadline()).min()?;
        Some((deadline, "missing packets are given up"))
    }
}

impl Lane {
    fn release(&mut self, timeline: &Timeline, now: Instant, events: &mut Vec<Event>) {
        while let Some(released) = self.jitter.pop(now) {
            match released {
                Released::Lost => self.lose(events),
                Released::Packet(rtp) => self.take(rtp, timeline, now, events),
            }
        }
    }

    fn lose(&mut self, events: &mut Vec<Event>) {
        if self.assembler.lose() {
            events.push(Event::KeyframeNeeded(self.track));
        }
    }

    fn take(&mut self, rtp: Rtp, timeline: &Timeline, now: Instant, events: &mut Vec<Event>) {
        // a sender fills a path with padding to measure it
        if rtp.payload.is_empty() {
            return;
        }
        // a sender may leave the marker out: a new time begins a new frame
        let before = self.assembler.finish_before(rtp.timestamp);
        self.emit(before, timeline, now, events);
        let marker = rtp.marker;
        self.assembler.append(rtp);
        if marker {
            let whole = self.assembler.finish();
            self.emit(whole, timeline, now, events);
        }
    }

    fn emit(&mut self, assembled: Assembled, timeline: &Timeline, now: Instant, events: &mut Vec<Event>) {
        let (configuration, frame) = match assembled {
            Assembled::Nothing => return,
            Assembled::LeftOut => return events.push(Event::KeyframeNeeded(self.track)),
            Assembled::Frame { configuration, frame } => (configuration, frame),
        };
        let shown = timeline.place(&mut self.clock, frame.timestamp, now);
        // frames are decoded in the order in which they come, whatever is shown first
        let ticks = self.last.map_or(shown, |last| shown.max(last + 1));
        self.last = Some(ticks);
        let rate = self.clock.rate();
        let time = MediaTime::new(ticks, rate);
        if let Some(configuration) = configuration {
            events.push(Event::Packet(Packet::new(self.track, time, Role::Header, configuration)));
        }
        let composition = MediaTime::new(shown, rate).as_millis() - time.as_millis();
        let role = if frame.keyframe { Role::Key } else { Role::Dependent };
        let payload = frame.into_payload(composition);
        events.push(Event::Packet(Packet::new(self.track, time, role, payload)));
    }
}

#[cfg(test)]
mod tests;
