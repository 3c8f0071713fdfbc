//! What a node tells of its load in its Lease: by that the operator grows the pool before publishers are refused.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tallylight_crds::{CPU_ANNOTATION, MEGABITS_OUT_ANNOTATION, SESSIONS_ANNOTATION};

use crate::metrics::Metrics;

/// Measures between two looks.
pub(crate) struct Load {
    metrics: Metrics,
    last: Option<Sample>,
}

/// What has been used so far.
#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    bytes_out: u64,
    cpu: Duration,
}

impl Load {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { metrics, last: None }
    }

    /// The annotations of the Lease, for the time since the last look.
    pub(crate) fn annotations(&mut self) -> BTreeMap<String, String> {
        let now = Sample { at: Instant::now(), bytes_out: self.metrics.bytes_out(), cpu: cpu_time() };
        let last = self.last.replace(now).unwrap_or(now);
        let (megabits, percent) = rates(last, now);
        [
            (SESSIONS_ANNOTATION, self.metrics.sessions().to_string()),
            (MEGABITS_OUT_ANNOTATION, megabits.to_string()),
            (CPU_ANNOTATION, percent.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }
}

/// Mbit/s, rounded up so that a single viewer shows, and percent of one core.
fn rates(last: Sample, now: Sample) -> (u64, u128) {
    let micros = now.at.saturating_duration_since(last.at).as_micros();
    if micros == 0 {
        return (0, 0);
    }
    let bits = u128::from(now.bytes_out.saturating_sub(last.bytes_out)) * 8;
    let cpu = now.cpu.saturating_sub(last.cpu).as_micros();
    // bits in a microsecond are Mbit/s
    (u64::try_from(bits.div_ceil(micros)).unwrap_or(u64::MAX), cpu * 100 / micros)
}

/// CPU time of this process since it began.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let at = Instant::now();
        let first = Sample { at, bytes_out: 1_000, cpu: Duration::from_secs(1) };
        let later =
            |bytes_out, cpu| Sample { at: at + Duration::from_secs(5), bytes_out, cpu: Duration::from_millis(cpu) };

        assert_eq!(rates(first, first), (0, 0));
        assert_eq!(rates(first, later(1_000, 1_000)), (0, 0));
        assert_eq!(rates(first, later(1_001, 1_500)), (1, 10), "a trickle shows");
        assert_eq!(rates(first, later(6_251_000, 11_000)), (10, 200));
    }
}
