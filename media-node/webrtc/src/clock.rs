//! The wall clock that sender reports speak of, as told by the driver once.

use std::time::{Duration, Instant};

/// An instant in both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Wallclock {
    pub at: Instant,
    /// Since 1970.
    pub since_epoch: Duration,
}

/// RFC 3550 §4 counts from 1900.
const EPOCHS_APART: u64 = 2_208_988_800;

impl Wallclock {
    /// NTP time: seconds in the upper half, their fraction in the lower.
    pub(crate) fn ntp(&self, now: Instant) -> u64 {
        let since_epoch = self.since_epoch + now.saturating_duration_since(self.at);
        let fraction = (u64::from(since_epoch.subsec_nanos()) << 32) / 1_000_000_000;
        ((since_epoch.as_secs() + EPOCHS_APART) << 32) | fraction
    }

    /// The middle 32 bits, which reports quote.
    pub(crate) fn ntp_middle(&self, now: Instant) -> u32 {
        let [_, _, a, b, c, d, _, _] = self.ntp(now).to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
}

/// Where virtual time begins.
#[cfg(test)]
pub(crate) fn for_tests() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    Instant::now()
}
