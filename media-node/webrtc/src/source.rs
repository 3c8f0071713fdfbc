//! What one worker holds of a stream, for all its viewers: the tracks' histories, and how their clocks relate.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::clock::Wallclock;
use crate::history::{Frame, History, Position};
use crate::sdp::{Codec, MediaKind};

/// Long enough for a keyframe to be one among many, and short enough for a viewer that joins to know what it can be sent.
const RATE_WINDOW: Duration = Duration::from_secs(1);

/// An encoding that has not come for so long has ended, or its publisher has too little bandwidth for it.
const STALE: Duration = Duration::from_secs(2);

/// A track of a stream, of which its publisher may send several encodings at once (simulcast). A viewer is sent one of them at a
/// time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Track {
    pub codec: Codec,
    /// How many encodings there are, in any order: which is better is seen by their rates. At least one.
    pub layers: usize,
}

impl From<Codec> for Track {
    fn from(codec: Codec) -> Self {
        Self { codec, layers: 1 }
    }
}

/// One encoding of one track.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Layer {
    pub track: usize,
    pub layer: usize,
}

impl Layer {
    /// The one encoding of a track that has no others.
    #[must_use]
    pub fn only(track: usize) -> Self {
        Self { track, layer: 0 }
    }
}

/// The tracks of a stream, in the order in which [`crate::sdp::Offer::choose`] was given their codecs.
#[derive(Debug)]
pub struct Source {
    pub(crate) clock: Wallclock,
    /// When media time was what; the frame that came earliest for its time says so for all tracks, so that all are reported alike.
    /// The first ones may be a group that is as old as it is long.
    anchor: Option<(Instant, Duration)>,
    tracks: Vec<Vec<Encoding>>,
}

#[derive(Debug)]
pub(crate) struct Encoding {
    pub(crate) codec: Codec,
    pub(crate) history: History,
    last: Option<(u32, Duration)>,
    rate: Rate,
}

/// How much comes of an encoding.
#[derive(Debug, Default)]
struct Rate {
    /// Since when bytes are counted.
    window: Option<(Instant, u64)>,
    newest: Option<Instant>,
    bits: u64,
}

impl Rate {
    fn count(&mut self, frame: &Frame, now: Instant) {
        let bytes: usize = frame.packets.iter().map(|packet| packet.bytes.len()).sum();
        let (began, counted) = self.window.get_or_insert((now, 0));
        let length = now.saturating_duration_since(*began);
        if length >= RATE_WINDOW {
            self.bits = bits_a_second(*counted, length);
            (*began, *counted) = (now, 0);
        }
        // no loss: a frame is far smaller
        *counted += bytes as u64;
        self.newest = Some(now);
    }

    /// Bits a second, `None` if nothing comes.
    fn at(&self, now: Instant) -> Option<u64> {
        let is_fresh = self.newest.is_some_and(|newest| now.saturating_duration_since(newest) < STALE);
        let (began, counted) = self.window.filter(|_| is_fresh)?;
        // at first, what is known so far
        let so_far = || bits_a_second(counted, now.saturating_duration_since(began).max(RATE_WINDOW / 4));
        Some(if self.bits > 0 { self.bits } else { so_far() })
    }
}

/// A frame's place in its encoding's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    pub(crate) layer: Layer,
    pub(crate) positions: Range<Position>,
    pub(crate) is_keyframe: bool,
}

impl Source {
    #[must_use]
    pub fn new(tracks: &[Track], clock: Wallclock) -> Self {
        let encoding = |codec| Encoding { codec, history: History::default(), last: None, rate: Rate::default() };
        let track = |track: &Track| (0..track.layers.max(1)).map(|_| encoding(track.codec)).collect();
        Self { clock, anchor: None, tracks: tracks.iter().map(track).collect() }
    }

    /// Takes a frame; the caller then has each [`crate::viewer::Viewer`] send it. `None` if there is no such encoding.
    pub fn push(&mut self, layer: Layer, frame: &Frame, now: Instant) -> Option<Pushed> {
        let entry = self.tracks.get_mut(layer.track)?.get_mut(layer.layer)?;
        let (began, time) = *self.anchor.get_or_insert((now, frame.time));
        if frame.time > time + now.saturating_duration_since(began) {
            self.anchor = Some((now, frame.time));
        }
        entry.last = Some((frame.timestamp, frame.time));
        entry.rate.count(frame, now);
        let positions = entry.history.push(frame, now);
        Some(Pushed { layer, positions, is_keyframe: frame.is_keyframe || entry.codec.kind() == MediaKind::Audio })
    }

    /// Frames are missing here: what is kept of the current group is of no use to a viewer that joins.
    pub fn interrupt(&mut self) {
        self.tracks.iter_mut().flatten().for_each(|encoding| encoding.history.interrupt());
    }

    /// Bits a second of a track's encodings, `None` of those that do not come.
    pub(crate) fn rates(&self, track: usize, now: Instant) -> Vec<Option<u64>> {
        self.tracks.get(track).into_iter().flatten().map(|encoding| encoding.rate.at(now)).collect()
    }

    /// How many encodings a track has.
    pub(crate) fn layers(&self, track: usize) -> usize {
        self.tracks.get(track).map_or(0, Vec::len)
    }

    pub(crate) fn encoding(&self, layer: Layer) -> Option<&Encoding> {
        self.tracks.get(layer.track)?.get(layer.layer)
    }

    /// The RTP time of an encoding at an instant, as its media will have it then.
    pub(crate) fn rtp_time(&self, layer: Layer, now: Instant) -> Option<u32> {
        let entry = self.encoding(layer)?;
        let ((began, time), (timestamp, last)) = (self.anchor?, entry.last?);
        let media_now = time + now.saturating_duration_since(began);
        let clock = entry.codec.clock();
        let ahead = ticks(media_now.saturating_sub(last), clock);
        let behind = ticks(last.saturating_sub(media_now), clock);
        Some(timestamp.wrapping_add(ahead).wrapping_sub(behind))
    }
}

impl Source {
    /// What is to be added to the times of one encoding so that they are those of another of the same track, of the same instants.
    pub(crate) fn apart(&self, other: Layer, one: Layer) -> Option<u32> {
        let (of_other, of_one) = (self.encoding(other)?.last?, self.encoding(one)?.last?);
        let clock = self.encoding(one)?.codec.clock();
        let later = ticks(of_one.1.saturating_sub(of_other.1), clock);
        let earlier = ticks(of_other.1.saturating_sub(of_one.1), clock);
        Some(of_other.0.wrapping_add(later).wrapping_sub(earlier).wrapping_sub(of_one.0))
    }
}

fn bits_a_second(bytes: u64, length: Duration) -> u64 {
    8_000 * bytes / u64::try_from(length.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Ticks of a duration, modulo 2^32 as RTP times are.
fn ticks(duration: Duration, clock: u32) -> u32 {
    let ticks = duration.as_micros() * u128::from(clock) / 1_000_000;
    let [.., a, b, c, d] = ticks.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const LAYER: Layer = Layer { track: 0, layer: 0 };

    #[test]
    fn the_clock_of_a_stream_is_that_of_its_newest_frame_though_it_begins_with_a_whole_group() {
        let now = clock::for_tests();
        let mut source = Source::new(
            &[Track { codec: Codec::Vp8, layers: 1 }],
            Wallclock { at: now, since_epoch: Duration::from_secs(1_000) },
        );
        let frame = |seconds: u32| Frame {
            timestamp: seconds * 90_000,
            time: Duration::from_secs(seconds.into()),
            is_keyframe: seconds == 0,
            packets: Vec::new(),
        };
        for seconds in 0..=4 {
            source.push(LAYER, &frame(seconds), now);
        }
        let second = Duration::from_secs(1);
        assert_eq!(source.rtp_time(LAYER, now + second), Some(5 * 90_000));

        // one that was held up does not set it back
        source.push(LAYER, &frame(5), now + 3 * second);
        assert_eq!(source.rtp_time(LAYER, now + 3 * second), Some(7 * 90_000));
    }
}
