//! Media time: ticks in a timescale, kept as they came until the edge.

use std::num::NonZeroU32;

/// Ticks per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timescale(NonZeroU32);

impl Timescale {
    /// One tick a millisecond: RTMP and FLV.
    pub const MILLIS: Self = Self::literal(1_000);
    /// 90,000 ticks a second: MPEG and video over RTP.
    pub const MPEG: Self = Self::literal(90_000);
    /// 48,000 ticks a second: Opus, whatever the sound was sampled with.
    pub const OPUS: Self = Self::literal(48_000);

    /// Makes a timescale; `None` for zero ticks a second.
    #[must_use]
    pub const fn new(ticks_per_second: u32) -> Option<Self> {
        match NonZeroU32::new(ticks_per_second) {
            Some(ticks) => Some(Self(ticks)),
            None => None,
        }
    }

    const fn literal(ticks_per_second: u32) -> Self {
        Self::new(ticks_per_second).expect("a literal above zero")
    }

    /// Ticks per second.
    #[must_use]
    pub const fn ticks_per_second(self) -> u32 {
        self.0.get()
    }
}

/// A point on a stream's timeline, in ticks of its timescale since a start that the publisher chose. It never wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MediaTime {
    ticks: i64,
    timescale: Timescale,
}

impl MediaTime {
    /// A point `ticks` after the start.
    #[must_use]
    pub const fn new(ticks: i64, timescale: Timescale) -> Self {
        Self { ticks, timescale }
    }

    /// Ticks since the start.
    #[must_use]
    pub const fn ticks(self) -> i64 {
        self.ticks
    }

    /// The timescale of the ticks.
    #[must_use]
    pub const fn timescale(self) -> Timescale {
        self.timescale
    }

    /// Milliseconds since the start, rounded down.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        let millis = i128::from(self.ticks) * 1_000;
        let millis = millis.div_euclid(i128::from(self.timescale.ticks_per_second()));
        // only a timescale below 1,000 with ticks near the end of i64 does not fit
        i64::try_from(millis).unwrap_or(if self.ticks < 0 { i64::MIN } else { i64::MAX })
    }

    /// RTMP's timestamp of this point: milliseconds modulo 2^32 (RTMP 1.0 §5.3.1).
    #[must_use]
    pub fn as_rtmp(self) -> u32 {
        u32::try_from(self.as_millis().rem_euclid(1 << 32)).expect("a remainder of 2^32 fits")
    }

    /// How far two points are apart, in milliseconds, whichever is first.
    #[must_use]
    pub fn distance_millis(self, other: Self) -> u64 {
        self.as_millis().abs_diff(other.as_millis())
    }
}

/// Makes a timeline that never wraps from RTMP's timestamps, which do at 2^32 ms (49.7 days): of the two readings of a
/// timestamp it takes the one nearer to the last (RTMP 1.0 §5.3.1 asks for serial number arithmetic, RFC 1982).
#[derive(Clone, Copy, Debug, Default)]
pub struct RtmpClock {
    last: Option<i64>,
}

impl RtmpClock {
    /// The point that a timestamp means. Times of audio and video interleave, so it may be before the last one.
    pub fn place(&mut self, timestamp_ms: u32) -> MediaTime {
        let millis = match self.last {
            None => i64::from(timestamp_ms),
            Some(last) => {
                let low = u32::try_from(last.rem_euclid(1 << 32)).expect("a remainder of 2^32 fits");
                let step = timestamp_ms.wrapping_sub(low).cast_signed();
                last.saturating_add(i64::from(step))
            }
        };
        self.last = Some(millis);
        MediaTime::new(millis, Timescale::MILLIS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn time_goes_on_when_rtmp_wraps() {
        let mut clock = RtmpClock::default();

        let times: Vec<i64> =
            [u32::MAX - 20, u32::MAX, 19, 5, 39].iter().map(|ms| clock.place(*ms).as_millis()).collect();

        let wrap = 1_i64 << 32;
        assert_eq!(times, [wrap - 21, wrap - 1, wrap + 19, wrap + 5, wrap + 39]);
    }

    #[test]
    fn a_small_step_back_is_no_wrap() {
        let mut clock = RtmpClock::default();
        clock.place(5);

        assert_eq!(clock.place(0).as_millis(), 0);
        assert_eq!(clock.place(u32::MAX).as_millis(), -1);
    }

    #[test]
    fn millis_round_down_in_any_timescale() {
        assert_eq!(MediaTime::new(89, Timescale::MPEG).as_millis(), 0);
        assert_eq!(MediaTime::new(-1, Timescale::MPEG).as_millis(), -1);
        assert_eq!(MediaTime::new(180_000, Timescale::MPEG).as_millis(), 2_000);
    }

    proptest! {
        #[test]
        fn the_timestamp_of_a_placed_time_is_the_timestamp_that_came(stamps in prop::collection::vec(any::<u32>(), 1..50)) {
            let mut clock = RtmpClock::default();
            for stamp in stamps {
                prop_assert_eq!(clock.place(stamp).as_rtmp(), stamp);
            }
        }

        #[test]
        fn steps_below_the_half_range_are_kept(start in any::<u32>(), steps in prop::collection::vec(-1_000_000_i64..1_000_000, 1..50)) {
            let mut clock = RtmpClock::default();
            let mut expected = clock.place(start).as_millis();
            for step in steps {
                expected += step;
                let stamp = u32::try_from(expected.rem_euclid(1 << 32)).unwrap();
                prop_assert_eq!(clock.place(stamp).as_millis(), expected);
            }
        }
    }
}
