//! What one worker holds of a stream, for all its viewers: the tracks' histories, and how their clocks relate.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::clock::Wallclock;
use crate::history::{Frame, History, Position};
use crate::sdp::{Codec, MediaKind};

/// The tracks of a stream, in the order in which [`crate::sdp::Offer::choose`] was given them.
#[derive(Debug)]
pub struct Source {
    pub(crate) clock: Wallclock,
    /// When media time was what; the first frame says so for all tracks, so that all are reported alike.
    anchor: Option<(Instant, Duration)>,
    tracks: Vec<Track>,
}

#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) codec: Codec,
    pub(crate) history: History,
    last: Option<(u32, Duration)>,
}

/// A frame's place in its track's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    pub(crate) track: usize,
    pub(crate) positions: Range<Position>,
    pub(crate) is_keyframe: bool,
}

impl Source {
    #[must_use]
    pub fn new(codecs: &[Codec], clock: Wallclock) -> Self {
        let track = |codec: &Codec| Track { codec: *codec, history: History::default(), last: None };
        Self { clock, anchor: None, tracks: codecs.iter().map(track).collect() }
    }

    /// Takes a frame; the caller then has each [`crate::viewer::Viewer`] send it. `None` if there is no such track.
    pub fn push(&mut self, track: usize, frame: &Frame, now: Instant) -> Option<Pushed> {
        let entry = self.tracks.get_mut(track)?;
        self.anchor.get_or_insert((now, frame.time));
        entry.last = Some((frame.timestamp, frame.time));
        let positions = entry.history.push(frame, now);
        Some(Pushed { track, positions, is_keyframe: frame.is_keyframe || entry.codec.kind() == MediaKind::Audio })
    }

    /// Frames are missing here: what is kept of the current group is of no use to a viewer that joins.
    pub fn interrupt(&mut self) {
        self.tracks.iter_mut().for_each(|track| track.history.interrupt());
    }

    pub(crate) fn track(&self, track: usize) -> Option<&Track> {
        self.tracks.get(track)
    }

    /// The RTP time of a track at an instant, as its media will have it then.
    pub(crate) fn rtp_time(&self, track: usize, now: Instant) -> Option<u32> {
        let entry = self.tracks.get(track)?;
        let ((began, time), (timestamp, last)) = (self.anchor?, entry.last?);
        let media_now = time + now.saturating_duration_since(began);
        let clock = entry.codec.clock();
        let ahead = ticks(media_now.saturating_sub(last), clock);
        let behind = ticks(last.saturating_sub(media_now), clock);
        Some(timestamp.wrapping_add(ahead).wrapping_sub(behind))
    }
}

/// Ticks of a duration, modulo 2^32 as RTP times are.
fn ticks(duration: Duration, clock: u32) -> u32 {
    let ticks = duration.as_micros() * u128::from(clock) / 1_000_000;
    let [.., a, b, c, d] = ticks.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}
