//! The packets of one track that were sent lately, kept once for all viewers: what a viewer asks for again, and the current
//! group for one that joins.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// A receiver asks again within some round trips; what is older than this would come too late to be shown.
const KEEP: Duration = Duration::from_secs(2);

/// 8 MiB hold 2 s at 32 Mbit/s, or a group of 10 s at 6 Mbit/s; with more the oldest go, and a viewer that joins waits for
/// the next keyframe.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// The same for packets that are small: 100 bytes of bookkeeping each would come to as much as these.
const MAX_PACKETS: usize = 16_384;

/// One coded picture, or one packet of sound.
#[derive(Debug, Clone)]
pub struct Frame {
    /// On the track's RTP clock.
    pub timestamp: u32,
    /// The same on the clock that the stream's tracks share, which keeps them in step at the viewer.
    pub time: Duration,
    /// Whether decoding can begin here. Of sound it always can.
    pub is_keyframe: bool,
    /// In the order to send; each fits a datagram.
    pub packets: Vec<Payload>,
}

/// What follows the header of an RTP packet.
#[derive(Debug, Clone)]
pub struct Payload {
    pub bytes: Bytes,
    /// The marker bit: of a picture its last packet has it.
    pub marker: bool,
}

/// A packet by its number on the track; numbers have no gap and never begin again.
pub(crate) type Position = u64;

#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) payload: Bytes,
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
}

#[derive(Debug)]
struct Begin {
    at: Position,
    pushed: Instant,
}

/// The history of one track.
#[derive(Debug, Default)]
pub(crate) struct History {
    first: Position,
    packets: VecDeque<Stored>,
    frames: VecDeque<Begin>,
    /// Where the newest keyframe begins, while it is still here.
    group: Option<Position>,
    bytes: usize,
}

impl History {
    /// Appends a frame and returns its positions.
    pub(crate) fn push(&mut self, frame: &Frame, now: Instant) -> Range<Position> {
        let start = self.end();
        if frame.is_keyframe {
            self.group = Some(start);
        }
        self.frames.push_back(Begin { at: start, pushed: now });
        for Payload { bytes, marker } in &frame.packets {
            self.bytes += bytes.len();
            self.packets.push_back(Stored { payload: bytes.clone(), timestamp: frame.timestamp, marker: *marker });
        }
        self.forget(now);
        start..self.end()
    }

    pub(crate) fn get(&self, position: Position) -> Option<&Stored> {
        let at = position.checked_sub(self.first)?;
        self.packets.get(usize::try_from(at).ok()?)
    }

    /// The packets since the newest keyframe, if all of them are here.
    pub(crate) fn group(&self) -> Option<Range<Position>> {
        self.group.map(|start| start..self.end())
    }

    /// The current group is not whole.
    pub(crate) fn interrupt(&mut self) {
        self.group = None;
    }

    /// How many bytes of payload there are from a position on.
    pub(crate) fn bytes_since(&self, position: Position) -> usize {
        let skipped = usize::try_from(position.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.packets.iter().skip(skipped).map(|stored| stored.payload.len()).sum()
    }

    fn end(&self) -> Position {
        // no loss: a deque has fewer than 2^64 entries
        self.first + self.packets.len() as Position
    }

    fn forget(&mut self, now: Instant) {
        // the second frame's begin is the first one's end
        while let [Some(first), Some(second)] = [self.frames.front(), self.frames.get(1)] {
            let is_over = self.bytes > MAX_BYTES || self.packets.len() > MAX_PACKETS;
            let is_old = now.saturating_duration_since(first.pushed) > KEEP;
            let is_needed = self.group.is_some_and(|group| first.at >= group);
            if !is_over && (is_needed || !is_old) {
                return;
            }
            let end = second.at;
            if self.group.is_some_and(|group| group < end) {
                self.group = None;
            }
            self.frames.pop_front();
            while self.first < end
                && let Some(stored) = self.packets.pop_front()
            {
                self.bytes -= stored.payload.len();
                self.first += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
