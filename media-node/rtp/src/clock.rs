//! RTP's clocks: 32 bits of a codec's ticks, which wrap.

use media_core::{MediaTime, Timescale};

/// Ticks of another timescale, rounded down; those of hours fit by far.
pub(crate) fn rescaled(ticks: i64, from: Timescale, to: Timescale) -> i64 {
    let scaled = i128::from(ticks) * i128::from(to.ticks_per_second());
    let scaled = scaled.div_euclid(i128::from(from.ticks_per_second()));
    i64::try_from(scaled).unwrap_or(if ticks < 0 { i64::MIN } else { i64::MAX })
}

/// An RTP timestamp.
pub(crate) fn wrapped(ticks: i64) -> u32 {
    u32::try_from(ticks.rem_euclid(1 << 32)).expect("a remainder of 2^32 fits")
}

/// Places sound by its length: the clocks of RTMP count milliseconds, so the times of its frames jitter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Anchored {
    rate: Timescale,
    next: Option<i64>,
}

impl Anchored {
    /// A frame this far from where the one before it ended follows a pause, or a drift that must not grow.
    const MOST_DRIFT_MILLIS: i64 = 15;

    pub(crate) fn new(rate: Timescale) -> Self {
        Self { rate, next: None }
    }

    /// The tick at which a frame of `length` ticks begins.
    pub(crate) fn place(&mut self, time: MediaTime, length: i64) -> i64 {
        let said = rescaled(time.ticks(), time.timescale(), self.rate);
        let most = i64::from(self.rate.ticks_per_second()) * Self::MOST_DRIFT_MILLIS / 1_000;
        let begin = self.next.filter(|next| next.abs_diff(said) <= most.unsigned_abs()).unwrap_or(said);
        self.next = Some(begin.saturating_add(length));
        begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_wrap_at_two_to_the_thirty_second() {
        let at = |ticks, scale| wrapped(rescaled(ticks, scale, Timescale::MPEG));

        assert_eq!(at(1_000, Timescale::MILLIS), 90_000);
        assert_eq!(at(1 << 32, Timescale::MPEG), 0);
        assert_eq!(at(-1, Timescale::MPEG), u32::MAX);
        // 47,721,858.84 ms are 2^32 ticks
        assert_eq!(at(47_721_859, Timescale::MILLIS), 14);
    }

    #[test]
    fn sound_is_placed_by_its_length_until_it_pauses() {
        let mut clock = Anchored::new(Timescale::OPUS);
        let mut at = |millis| clock.place(MediaTime::new(millis, Timescale::MILLIS), 960);

        // 21, 19 and 20 ms apart by the clock of RTMP
        assert_eq!([at(1_000), at(1_021), at(1_040), at(1_060)], [48_000, 48_960, 49_920, 50_880]);
        assert_eq!(at(2_000), 96_000, "a pause is kept");
    }
}
