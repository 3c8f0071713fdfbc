//! Holds uploads to a bandwidth: a part is sent as fast as the network takes it, and the next one waits until the average is
//! right. Pure.

use std::time::{Duration, Instant};

/// What all uploads to one bucket share.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u64,
    /// When what was let through so far is paid for.
    free: Option<Instant>,
}

impl Pace {
    pub(super) fn new(megabits_per_second: u32) -> Self {
        Self { bytes_per_second: u64::from(megabits_per_second) * 125_000, free: None }
    }

    /// How long to wait before so many bytes may be sent.
    pub(super) fn wait(&mut self, bytes: u64, now: Instant) -> Duration {
        let start = self.free.map_or(now, |free| free.max(now));
        let millis = bytes.saturating_mul(1_000) / self.bytes_per_second.max(1);
        self.free = Some(start + Duration::from_millis(millis));
        start - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_leave_no_faster_than_the_bandwidth_on_average() {
        let (mut pace, begin) = (Pace::new(8), Instant::now());
        let second = Duration::from_secs(1);

        assert_eq!(pace.wait(2_000_000, begin), Duration::ZERO);
        assert_eq!(pace.wait(1_000_000, begin), 2 * second);
        assert_eq!(pace.wait(1_000_000, begin + second), 2 * second);
        assert_eq!(pace.wait(1_000_000, begin + 9 * second), Duration::ZERO, "what was not used is not saved up");
        assert_eq!(pace.wait(1_000_000, begin + 9 * second), second);
    }
}
