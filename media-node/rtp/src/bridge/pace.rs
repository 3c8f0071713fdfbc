//! Keeps sound on its publisher's clock.

use super::FRAME_TICKS;

/// Times jitter by a millisecond or two. Sound that is this far from its time is moved by a sample a frame, which nobody hears.
const MAX_DRIFT: i64 = 48 * 8;
/// Sound that is this far from its time follows a pause.
const MIN_PAUSE: i64 = 48 * 40;

/// When what comes out is heard, in samples of 48 kHz.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Of the next packet; `None` before the first frame.
    begin: Option<i64>,
}

/// What is to be done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The count begins anew with it.
    Begin,
    Keep,
    /// One of its samples is repeated.
    Repeat,
    /// One of its samples is left out.
    LeaveOut,
}

impl Pace {
    /// Takes when a frame is said to begin, behind so many samples that wait.
    pub(super) fn step(&self, said: i64, waiting: i64) -> Step {
        let Some(begin) = self.begin else { return Step::Begin };
        let drift = said - begin - waiting;
        if drift.abs() >= MIN_PAUSE {
            Step::Begin
        } else if drift > MAX_DRIFT {
            Step::Repeat
        } else if drift < -MAX_DRIFT {
            Step::LeaveOut
        } else {
            Step::Keep
        }
    }

    /// Counts on from here.
    pub(super) fn begin(&mut self, said: i64) {
        self.begin = Some(said);
    }

    /// When the next packet begins.
    pub(super) fn next(&mut self) -> i64 {
        let begin = self.begin.unwrap_or_default();
        self.begin = Some(begin + FRAME_TICKS);
        begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_frames_stays_on_the_publishers_clock() {
        // the publisher's clock is fast, or slow, against its samples
        for parts_per_million in [-100, -50, 0, 50, 100_i64] {
            let (mut pace, mut waiting, mut worst) = (Pace::default(), 0, 0);
            for index in 0..3_600 * 48_000 / 1_024_i64 {
                let heard = index * 1_024 * (1_000_000 + parts_per_million) / 1_000_000;
                // in whole milliseconds, and late by up to two, as encoders' are
                let said = heard / 48 * 48 + index * 7 % 3 * 48;
                let step = pace.step(said, waiting);
                let samples = match step {
                    Step::Begin => {
                        assert_eq!(index, 0, "there is no pause");
                        pace.begin(said);
                        1_024
                    }
                    Step::Keep => 1_024,
                    Step::Repeat => 1_025,
                    Step::LeaveOut => 1_023,
                };
                let placed = pace.begin.unwrap() + waiting;
                worst = worst.max((placed - heard).abs());
                waiting += samples;
                while waiting >= FRAME_TICKS {
                    pace.next();
                    waiting -= FRAME_TICKS;
                }
            }
            assert!(worst <= 48 * 20, "{worst} samples off with {parts_per_million} ppm");
        }
    }
}
