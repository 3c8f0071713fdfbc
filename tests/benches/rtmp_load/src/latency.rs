//! Percentiles of what was measured.

use std::time::Duration;

use serde_json::{Value, json};

/// Durations, in the order of their arrival.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Milliseconds: the count, the median, the 99th percentile and the maximum, each a value that was measured.
    pub(crate) fn report(&self) -> Value {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |part: f64| {
            let rank = (sorted.len() as f64 * part).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).map(|value| (value.as_secs_f64() * 1e6).round() / 1e3)
        };
        json!({"count": sorted.len(), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0)})
    }
}
