//! From the publisher's clock to the output's: one that starts at zero and never runs back.
//!
//! A publisher's clock may jump, and its tracks do so one after the other. So each track has an offset, and a track that
//! jumps takes that of the other if it has jumped already: they stay together.

use std::time::Duration;

use crate::sample::Media;

/// A step back by more is a jump: encoders deliver frames late, or out of order, by less.
const MAX_BACK_MILLIS: i64 = 500;
/// A step forward by more is a jump, and not a pause that a recording should show.
const MAX_PAUSE_MILLIS: i64 = 30_000;
/// A track may begin, or go on after a jump, this far from the other and still be on its clock.
const MAX_APART_MILLIS: i64 = 10_000;

/// Where a sample lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In milliseconds since the begin of the output.
    At(i64),
    /// The same, with a break before it: the publisher's clock has jumped.
    AfterJump(i64),
}

/// The clocks of one run of the output.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    /// The publisher's time at zero, for tracks that begin or jump.
    offset: i64,
    video: Option<Clock>,
    audio: Option<Clock>,
    /// Greatest time of the output, in milliseconds.
    newest: i64,
}

#[derive(Clone, Copy, Debug)]
struct Clock {
    offset: i64,
    last: i64,
}

impl Timeline {
    /// Makes one whose zero is `origin` on the publisher's clock, in milliseconds.
    pub(crate) fn new(origin: i64) -> Self {
        Self { offset: origin, video: None, audio: None, newest: 0 }
    }

    /// Greatest time so far, in milliseconds.
    pub(crate) fn newest(&self) -> i64 {
        self.newest
    }

    /// Places a sample of the publisher's time `millis`.
    pub(crate) fn place(&mut self, media: Media, millis: i64) -> Place {
        let clock = match media {
            Media::Video => self.video,
            Media::Audio => self.audio,
        };
        let goes_on = clock
            .is_some_and(|clock| (-MAX_BACK_MILLIS..=MAX_PAUSE_MILLIS).contains(&millis.saturating_sub(clock.last)));
        let (offset, jumped) = match clock {
            Some(clock) if goes_on => (clock.offset, false),
            _ if self.is_near(millis) => (self.offset, false),
            Some(_) => {
                self.offset = millis.saturating_sub(self.newest);
                (self.offset, true)
            }
            // the other track's clock is not this one's: it begins now
            None => (millis.saturating_sub(self.newest), false),
        };
        let clock = Some(Clock { offset, last: millis });
        match media {
            Media::Video => self.video = clock,
            Media::Audio => self.audio = clock,
        }
        let at = millis.saturating_sub(offset).max(0);
        self.newest = self.newest.max(at);
        if jumped { Place::AfterJump(at) } else { Place::At(at) }
    }

    fn is_near(&self, millis: i64) -> bool {
        millis.saturating_sub(self.offset).abs_diff(self.newest) <= MAX_APART_MILLIS.unsigned_abs()
    }
}

/// How long so many ticks are.
pub(crate) fn duration(ticks: u64, ticks_per_second: u32) -> Duration {
    let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(ticks_per_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(samples: &[(Media, i64)]) -> Vec<Place> {
        let mut timeline = Timeline::new(samples.first().map_or(0, |(_, millis)| *millis));
        samples.iter().map(|(media, millis)| timeline.place(*media, *millis)).collect()
    }

    #[test]
    fn pauses_and_late_frames_stay_as_they_are() {
        let placed =
            places(&[(Media::Video, 1_000), (Media::Audio, 1_010), (Media::Video, 9_000), (Media::Video, 8_900)]);

        assert_eq!(placed, [Place::At(0), Place::At(10), Place::At(8_000), Place::At(7_900)]);
    }

    #[test]
    fn tracks_that_jump_one_after_the_other_stay_together() {
        let placed = places(&[
            (Media::Video, 500_000),
            (Media::Audio, 500_010),
            (Media::Video, 0),
            (Media::Audio, 500_030),
            (Media::Audio, 5),
            (Media::Video, 40),
        ]);

        assert_eq!(
            placed,
            [Place::At(0), Place::At(10), Place::AfterJump(10), Place::At(30), Place::At(15), Place::At(50)]
        );
    }

    #[test]
    fn a_track_on_a_clock_of_its_own_begins_when_it_comes() {
        let placed =
            places(&[(Media::Video, 0), (Media::Video, 40), (Media::Audio, 9_000_000), (Media::Audio, 9_000_020)]);

        assert_eq!(placed, [Place::At(0), Place::At(40), Place::At(40), Place::At(60)]);
    }
}
