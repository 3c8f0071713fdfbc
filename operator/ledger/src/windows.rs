//! How long a publisher that is away is awaited, by a clock that nobody sets: the one of the process that waits.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tallylight_crds::Broadcast;

/// The ends of the windows that a process has seen: one for each Broadcast whose publisher is away.
#[derive(Debug, Default)]
pub struct Windows(BTreeMap<String, Window>);

#[derive(Debug)]
struct Window {
    /// Of the session when its publisher left: another time away has another one.
    epoch: i64,
    end: Instant,
}

impl Windows {
    /// Returns when the window of a Broadcast's session ends; `None` when its publisher is not away.
    ///
    /// What is left by the wall clock, `now`, is read once, when the window is first seen, and is at most the window's own length.
    /// So a wall clock that is set back makes a window at most twice as long, and one that is set forward ends it early.
    pub fn end(&mut self, broadcast: &Broadcast, now: Timestamp, at: Instant) -> Option<Instant> {
        let uid = broadcast.metadata.uid.clone().unwrap_or_default();
        let session = broadcast.status.as_ref().map(|status| &status.session);
        let Some((session, away)) = session.and_then(|session| Some((session, session.away.as_ref()?))) else {
            self.forget(&uid);
            return None;
        };
        if let Some(known) = self.0.get(&uid).filter(|known| known.epoch == session.epoch) {
            return Some(known.end);
        }
        let left = away.until.duration_since(now).min(away.until.duration_since(away.since));
        let end = at + Duration::try_from(left).unwrap_or_default();
        self.0.insert(uid, Window { epoch: session.epoch, end });
        Some(end)
    }

    /// The Broadcast is gone.
    pub fn forget(&mut self, uid: &str) {
        self.0.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use tallylight_crds::{Away, BroadcastSpec, Reason};

    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A Broadcast whose publisher left at 1000 and is awaited for 30 s.
    fn away(epoch: i64) -> Broadcast {
        let mut broadcast = Broadcast::new("studio", BroadcastSpec::default());
        broadcast.metadata.uid = Some("u-1".into());
        let session = &mut broadcast.status.get_or_insert_default().session;
        session.epoch = epoch;
        session.away = Some(Away { since: second(1000), until: second(1030), reason: Reason::PublisherLost });
        broadcast
    }

    #[expect(clippy::disallowed_methods, reason = "which one it is does not matter")]
    fn some_instant() -> Instant {
        Instant::now()
    }

    /// How many seconds are left of a window that is first seen at this time of the wall clock.
    fn left(now: i64) -> u64 {
        let at = some_instant();
        (Windows::default().end(&away(2), second(now), at).unwrap() - at).as_secs()
    }

    #[test]
    fn a_window_ends_at_its_time_whenever_it_is_first_seen() {
        assert_eq!([1000, 1010, 1029, 1030, 9000].map(left), [30, 20, 1, 0, 0]);
    }

    #[test]
    fn a_wall_clock_that_was_set_back_leaves_no_more_than_the_window() {
        assert_eq!([999, 0, -1_000_000].map(left), [30, 30, 30]);
    }

    #[test]
    fn a_wall_clock_that_is_set_while_somebody_waits_changes_nothing() {
        let (mut windows, at) = (Windows::default(), some_instant());
        let end = windows.end(&away(2), second(1010), at);
        assert_eq!(end, Some(at + Duration::from_secs(20)));

        let later = at + Duration::from_secs(5);
        assert_eq!(windows.end(&away(2), second(0), later), end, "set back");
        assert_eq!(windows.end(&away(2), second(9000), later), end, "set forward");
    }

    #[test]
    fn a_publisher_that_comes_back_and_leaves_again_has_its_whole_window() {
        let (mut windows, at) = (Windows::default(), some_instant());
        assert!(windows.end(&away(2), second(1030), at).is_some_and(|end| end == at));
        assert_eq!(windows.end(&away(4), second(1000), at), Some(at + Duration::from_secs(30)));

        let mut back = away(5);
        back.status.as_mut().unwrap().session.away = None;
        assert_eq!(windows.end(&back, second(1000), at), None);
        assert!(windows.0.is_empty(), "nothing is kept of one that is back");
    }
}
