//! What HLS lists of a broadcast: the last segments and parts, and the playlists that say so (RFC 8216bis).
//!
//! A [`Window`] takes a muxer's events and keeps their parts for as long as a playlist may name them. It answers what a
//! blocking request waits for; the waiting is the server's.

mod media;
mod multivariant;
pub mod uri;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use jiff::Timestamp;

pub use media::{Delta, Report};
pub use multivariant::{Variant, multivariant};

use crate::{Event, Fragment, Init, Part, Policy, Segment};

/// A playlist lists at least this many of its longest segments, or players could not hold their distance from the end
/// (RFC 8216bis §6.2.2: no less than three).
const LEAST_SEGMENTS: u32 = 4;

/// A window holds no more than this, beyond the segments that it must list: 10 minutes at 7 Mbit/s. Of a longer window, or a
/// publisher that sends more than anybody plays, the oldest go.
const MAX_BYTES: u64 = 512 << 20;

/// The media of one playlist.
#[derive(Debug)]
pub struct Window {
    policy: Policy,
    length: Duration,
    segments: VecDeque<Listed>,
    /// Parts of the segment that is not complete.
    open: Option<Listed>,
    next: u64,
    /// Of all segments.
    bytes: u64,
    init: Option<Arc<Init>>,
    break_before_next: bool,
    /// Discontinuities that have left the window.
    discontinuities: u64,
    /// The wall clock at zero of the current output.
    clock: Option<Timestamp>,
    longest_part: Duration,
    ended: bool,
    bandwidth: Bandwidth,
}

#[derive(Debug)]
struct Listed {
    init: Arc<Init>,
    number: u64,
    parts: Vec<Part>,
    /// Set when it is complete.
    segment: Option<Segment>,
    breaks: bool,
    date: Timestamp,
}

/// Bits a second, over whole segments.
#[derive(Clone, Copy, Debug, Default)]
struct Bandwidth {
    peak: u64,
    bytes: u64,
    duration: Duration,
    frames: u64,
}

/// A part that a playlist names, or will name next: what `_HLS_msn` and `_HLS_part` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The segment's number.
    pub segment: u64,
    /// The part's within it.
    pub part: u32,
}

/// How far a playlist is from what a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The playlist has it.
    Ready,
    /// It comes within a few parts.
    Soon,
    /// It is too far ahead to wait for (RFC 8216bis §6.2.5.2: answer with 400).
    TooFar,
}

impl Window {
    /// Makes an empty window. `length` is how far back viewers may seek; less than four of the longest segments counts as
    /// four.
    #[must_use]
    pub fn new(policy: Policy, length: Duration) -> Self {
        Self::numbered(policy, length, 0, 0)
    }

    /// Makes an empty window of a muxer whose numbers count from `first`. Its playlist takes the place of one with so many
    /// discontinuities: when there were any, it begins with one. Let them be few: hls.js 1.7 keeps an array with a place for each number
    /// below and copies it at each discontinuity, which takes minutes when they are as many as seconds since 1970.
    #[must_use]
    pub fn numbered(policy: Policy, length: Duration, first: u32, discontinuities: u64) -> Self {
        Self {
            policy,
            length: length.max(policy.max_segment() * LEAST_SEGMENTS),
            segments: VecDeque::new(),
            open: None,
            next: first.into(),
            bytes: 0,
            init: None,
            break_before_next: discontinuities > 0,
            discontinuities,
            clock: None,
            longest_part: Duration::ZERO,
            ended: false,
            bandwidth: Bandwidth::default(),
        }
    }

    /// Takes what came of a packet, all at once: a segment ends together with its last part. `now` is the wall clock, of
    /// which dates in the playlist are made.
    pub fn extend(&mut self, events: &[Event], now: Timestamp) {
        let newest =
            events.iter().rev().find_map(|event| if let Event::Part(part) = event { Some(part) } else { None });
        // the newest part was complete just now
        let end = newest.map_or(Duration::ZERO, |part| part.start.saturating_add(part.duration));
        let zero = now.checked_sub(end).unwrap_or(now);
        for event in events {
            match event {
                Event::Init(init) => {
                    self.init = Some(Arc::clone(init));
                    self.break_off();
                }
                Event::Part(part) => self.add(part, zero),
                Event::SegmentEnd(segment) => self.close(*segment),
                Event::Discontinuity(_) => self.break_off(),
                Event::Unsupported(_) => {}
            }
        }
    }

    /// The number of the segment that is open, or comes next.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The number of the oldest segment that it lists, or will list.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.listed().next().map_or(self.next, |listed| listed.number)
    }

    /// Discontinuities so far, from the playlist before this one on.
    #[must_use]
    pub fn discontinuities(&self) -> u64 {
        let listed = self.listed().filter(|listed| listed.breaks).count();
        self.discontinuities.saturating_add(u64::try_from(listed).unwrap_or(u64::MAX))
    }

    /// How much of the stream it lists when it has been on air for long.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.length
    }

    /// Whether nothing follows.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Says that nothing follows.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// The newest part; `None` before there is one.
    #[must_use]
    pub fn newest(&self) -> Option<Position> {
        let listed = self.listed().next_back()?;
        let part = listed.parts.last()?;
        Some(Position { segment: part.segment, part: part.index })
    }

    /// Whether a request with `_HLS_msn` and `_HLS_part` can be answered. Without a part it waits for the whole segment.
    #[must_use]
    pub fn wait(&self, segment: u64, part: Option<u32>) -> Wait {
        let listed =
            |open: &Listed| part.is_some_and(|part| usize::try_from(part).is_ok_and(|part| part < open.parts.len()));
        let is_there = segment < self.next
            // a part behind the last one of a complete segment is the first of the next (§6.2.5.2)
            && !self.is_behind(segment, part)
            || segment == self.next && self.open.as_ref().is_some_and(listed)
            || self.ended;
        let parts = self.open.as_ref().map_or(0, |open| open.parts.len());
        // §6.2.5.2: three parts, or as many as there are in three seconds
        let ahead = Duration::from_secs(3).as_millis().div_ceil(self.policy.part().as_millis()).max(3);
        let ahead = usize::try_from(ahead).unwrap_or(usize::MAX);
        let is_far = |part| usize::try_from(part).is_ok_and(|part: usize| part > parts.saturating_add(ahead));
        let is_far = segment == self.next && part.is_some_and(is_far);
        if is_there {
            Wait::Ready
        } else if segment > self.next.saturating_add(1) || is_far {
            Wait::TooFar
        } else {
            Wait::Soon
        }
    }

    /// An initialization segment that the playlist names.
    #[must_use]
    pub fn init(&self, number: u32) -> Option<&Arc<Init>> {
        let listed = self.listed().map(|listed| &listed.init);
        listed.chain(&self.init).find(|init| init.number() == number)
    }

    /// The fragments of a complete segment, in order.
    #[must_use]
    pub fn segment(&self, number: u64) -> Option<impl Iterator<Item = &Arc<Fragment>>> {
        let listed = self.find(number).filter(|listed| listed.segment.is_some())?;
        Some(listed.parts.iter().map(|part| &part.fragment))
    }

    /// A part's fragment.
    #[must_use]
    pub fn part(&self, position: Position) -> Option<&Arc<Fragment>> {
        let part = self.find(position.segment)?.parts.get(usize::try_from(position.part).ok()?)?;
        Some(&part.fragment)
    }

    /// What the window's fragments hold, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.listed().flat_map(|listed| &listed.parts).map(|part| part.fragment.len()).sum()
    }

    /// The broadcast as a multivariant playlist lists it; `None` before its first segment is complete.
    #[must_use]
    pub fn variant(&self, uri: String) -> Option<Variant> {
        let Bandwidth { peak, bytes, duration, frames } = self.bandwidth;
        let init = self.segments.back().map(|listed| &listed.init)?;
        let seconds = duration.as_secs_f64();
        let resolution = init.resolution();
        #[expect(clippy::cast_precision_loss, reason = "three digits are told")]
        let frame_rate = resolution.map(|_| frames as f64 / seconds).filter(|rate| rate.is_finite() && *rate > 0.0);
        Some(Variant {
            uri,
            bandwidth: peak,
            average_bandwidth: bits_per_second(bytes, duration),
            codecs: init.codecs(),
            resolution,
            frame_rate,
        })
    }

    /// What comes next does not go on with what there is.
    fn break_off(&mut self) {
        self.break_before_next |= !(self.segments.is_empty() && self.open.is_none());
        self.clock = None;
    }

    fn add(&mut self, part: &Part, zero: Timestamp) {
        let Some(init) = &self.init else { return };
        let clock = *self.clock.get_or_insert(zero);
        self.longest_part = self.longest_part.max(part.duration);
        let open = self.open.get_or_insert_with(|| Listed {
            init: Arc::clone(init),
            number: part.segment,
            parts: Vec::new(),
            segment: None,
            breaks: std::mem::take(&mut self.break_before_next),
            date: clock.checked_add(part.start).unwrap_or(clock),
        });
        open.parts.push(part.clone());
        self.next = part.segment;
    }

    fn close(&mut self, segment: Segment) {
        let Some(mut open) = self.open.take() else { return };
        open.segment = Some(segment);
        self.bytes = self.bytes.saturating_add(segment.bytes);
        self.segments.push_back(open);
        self.next = segment.number.saturating_add(1);
        let Bandwidth { peak, bytes, duration, frames } = &mut self.bandwidth;
        *peak = (*peak).max(bits_per_second(segment.bytes, segment.duration));
        *bytes = bytes.saturating_add(segment.bytes);
        *duration = duration.saturating_add(segment.duration);
        *frames = frames.saturating_add(segment.frames.into());
        self.trim();
    }

    /// Drops segments for as long as what remains is long enough.
    fn trim(&mut self) {
        let mut length: Duration = self.segments.iter().filter_map(Listed::duration).sum();
        while let Some(oldest) = self.segments.front().and_then(Listed::duration) {
            length = length.saturating_sub(oldest);
            let least = self.policy.max_segment() * LEAST_SEGMENTS;
            if length < least || length < self.length && self.bytes <= MAX_BYTES {
                return;
            }
            let Some(gone) = self.segments.pop_front() else { return };
            self.bytes -= gone.segment.map_or(0, |segment| segment.bytes);
            self.discontinuities += u64::from(gone.breaks);
        }
    }

    fn listed(&self) -> impl DoubleEndedIterator<Item = &Listed> {
        self.segments.iter().chain(&self.open)
    }

    fn find(&self, number: u64) -> Option<&Listed> {
        self.listed().find(|listed| listed.number == number)
    }

    /// Whether a part is asked for that is behind the last one of the newest complete segment, before there is another.
    fn is_behind(&self, segment: u64, part: Option<u32>) -> bool {
        let Some(last) = self.segments.back().filter(|last| last.number == segment) else { return false };
        let is_behind = part.is_some_and(|part| usize::try_from(part).is_ok_and(|part| part >= last.parts.len()));
        is_behind && self.open.is_none()
    }
}

impl Listed {
    fn duration(&self) -> Option<Duration> {
        self.segment.map(|segment| segment.duration)
    }
}

fn bits_per_second(bytes: u64, duration: Duration) -> u64 {
    let nanos = duration.as_nanos().max(1);
    u64::try_from(u128::from(bytes) * 8 * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
