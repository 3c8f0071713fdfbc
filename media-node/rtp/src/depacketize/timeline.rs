//! One clock for a publisher's tracks: each counts its own ticks from a number of its own, and only its sender reports say what time
//! that is (RFC 3550 §6.4.1). Until they have come, a track begins when its first frame does.

use std::time::Instant;

use media_core::Timescale;

use crate::clock::rescaled;

/// Microseconds: what times of different tracks are compared in.
const MICROS: Timescale = match Timescale::new(1_000_000) {
    Some(micros) => micros,
    None => Timescale::MILLIS,
};
/// Sound and picture this far apart are noticed by nobody; what is below is not corrected, so that times do not jitter.
const MAX_SKEW_MICROS: u64 = 15_000;
/// Times this far from when a frame came are of a sender that began to count anew.
const MAX_AWAY_MICROS: u64 = 10_000_000;

/// What a sender report says: the same instant on two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderReport {
    /// NTP's 64 bits: seconds and their fraction.
    pub ntp: u64,
    /// The track's own clock.
    pub timestamp: u32,
}

/// The broadcast's time.
#[derive(Debug)]
pub(super) struct Timeline {
    start: Instant,
    /// A publisher's NTP time, and what time of the broadcast it is.
    reference: Option<(u64, i64)>,
}

/// A track's clock.
#[derive(Debug)]
pub(super) struct Clock {
    rate: Timescale,
    /// The last timestamp, counted on where 32 bits wrap.
    last: Option<i64>,
    /// What added to a timestamp gives the broadcast's time, in ticks.
    offset: i64,
}

impl Timeline {
    pub(super) fn new(start: Instant) -> Self {
        Self { start, reference: None }
    }

    /// The time of a frame that came now, in its clock's ticks.
    pub(super) fn place(&self, clock: &mut Clock, timestamp: u32, now: Instant) -> i64 {
        let micros = now.saturating_duration_since(self.start).as_micros();
        let micros = i64::try_from(micros).unwrap_or(i64::MAX);
        let is_first = clock.last.is_none();
        let ticks = clock.unwrapped(timestamp);
        clock.last = Some(ticks);
        let time = ticks.saturating_add(clock.offset);
        if is_first || clock.micros(time).abs_diff(micros) > MAX_AWAY_MICROS {
            let now = rescaled(micros, MICROS, clock.rate);
            clock.offset = now - ticks;
            return now;
        }
        time
    }

    /// Moves a track to where its sender says it is.
    pub(super) fn align(&mut self, clock: &mut Clock, report: SenderReport) {
        if clock.last.is_none() {
            return;
        }
        let ticks = clock.unwrapped(report.timestamp);
        let time = clock.micros(ticks.saturating_add(clock.offset));
        let Some((ntp, reference)) = self.reference else {
            self.reference = Some((report.ntp, time));
            return;
        };
        // NTP's seconds wrap in 2036
        let since = i128::from(report.ntp.wrapping_sub(ntp).cast_signed());
        let since = i64::try_from((since * 1_000_000) >> 32).unwrap_or(0);
        let said = reference.saturating_add(since);
        let skew = said.abs_diff(time);
        if (MAX_SKEW_MICROS..MAX_AWAY_MICROS).contains(&skew) {
            clock.offset = rescaled(said, MICROS, clock.rate) - ticks;
        }
    }
}

impl Clock {
    pub(super) fn new(rate: Timescale) -> Self {
        Self { rate, last: None, offset: 0 }
    }

    pub(super) fn rate(&self) -> Timescale {
        self.rate
    }

    /// Of the readings of a timestamp the one nearest to the last.
    fn unwrapped(&self, timestamp: u32) -> i64 {
        let Some(last) = self.last else { return i64::from(timestamp) };
        let low = crate::clock::wrapped(last);
        last.saturating_add(i64::from(timestamp.wrapping_sub(low).cast_signed()))
    }

    fn micros(&self, ticks: i64) -> i64 {
        rescaled(ticks, self.rate, MICROS)
    }
}
