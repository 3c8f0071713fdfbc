//! How long to wait before the store is asked again.

use std::time::Duration;

/// In it a store whose answers take 2 s is read and written; a connection that hangs is given up soon.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(5);

/// Doubles from a first pause to a longest one.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// A claim has 5 s in all.
    pub(crate) fn for_claims() -> Self {
        Self { next: Duration::from_millis(50), longest: Duration::from_secs(1) }
    }

    /// An end waits for as long as it takes; every 5 s a request is little for a store that is ill, and soon enough for a
    /// receiver.
    pub(crate) fn for_ends() -> Self {
        Self { next: Duration::from_millis(200), longest: Duration::from_secs(5) }
    }

    /// Longest time of an attempt now: [`ATTEMPT`], and more as the pauses grow, up to 20 s for an end, for a store that is slower.
    pub(crate) fn attempt(&self) -> Duration {
        ATTEMPT + self.next * 3
    }

    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }
}
