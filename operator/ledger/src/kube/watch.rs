//! Watches that last: one schedule of pauses for all of them, and a new list where kube's own watcher would ask in vain.

use std::{fmt::Debug, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt as _,
        utils::Backoff,
        watcher::{self, DefaultBackoff, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

/// Longest pause of a watch. What waits for it is an event that is not delivered yet, so kube's own 30 s, which holds for two
/// minutes after the API server is back, is too long; and a few watches a process every 5 s are no load.
const LONGEST: Duration = Duration::from_secs(5);

/// Watches until it is dropped: lists, follows, and after an error pauses and goes on. The pauses grow from about 1 s to 5 s.
pub fn watch<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let begin = move || watcher(api.clone(), config.clone()).boxed();
    let events = stream::unfold(begin(), move |mut events| {
        let begin = begin.clone();
        async move {
            let event = events.next().await?;
            if event.as_ref().is_err_and(has_no_way_on) {
                events = begin();
            }
            Some((event, events))
        }
    });
    events.backoff(Pauses::default())
}

/// Whether what the watch would go on from is no more. As an event of the stream a 410 makes kube's watcher list anew; as the
/// answer to its request it is asked again for ever. And a kind that is not served has lost its objects when it is back.
fn has_no_way_on(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if matches!(status.code, 404 | 410))
}

/// kube's own schedule and jitter, but never more than [`LONGEST`].
#[derive(Default)]
struct Pauses(DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0.next()?;
        if pause <= LONGEST {
            return Some(pause);
        }
        // The jitter is in the fraction of a second: spread by it over the upper half.
        let spread = LONGEST / 2;
        Some(spread + spread.mul_f64(f64::from(pause.subsec_millis()) / 1_000.0))
    }
}

impl Backoff for Pauses {
    /// Asked for at every event, also at the one that says that a list begins: a list that always fails would be tried each second.
    /// The schedule begins anew by itself, two minutes after the last error.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_never_pauses_for_longer_than_its_bound_and_keeps_its_jitter() {
        let pauses: Vec<_> = Pauses::default().take(50).collect();
        assert!(pauses.iter().all(|pause| *pause <= LONGEST), "{pauses:?}");
        let late: std::collections::HashSet<_> = pauses[40..].iter().collect();
        assert!(late.len() > 1, "{pauses:?}");
    }

    #[test]
    fn a_list_that_begins_does_not_begin_the_pauses_anew() {
        let mut pauses = Pauses::default();
        for _ in 0..4 {
            assert!(pauses.next().is_some());
            pauses.reset();
        }
        assert!(pauses.next() >= Some(LONGEST / 2));
    }
}
