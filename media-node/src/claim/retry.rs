//! How long to wait before the store is asked again.

use std::time::Duration;

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

    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }
}
