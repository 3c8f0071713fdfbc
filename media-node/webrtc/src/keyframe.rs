//! Passes the viewers' requests for a keyframe on to a publisher, who must not be made to send nothing else.

use std::time::{Duration, Instant};

/// A publisher is asked at most this often. At 2 keyframes a second a picture is still mostly motion.
pub const INTERVAL: Duration = Duration::from_millis(500);

/// The requests for one publisher.
#[derive(Debug, Default)]
pub struct Requests {
    asked: Option<Instant>,
    is_wanted: bool,
}

impl Requests {
    /// A viewer cannot decode.
    pub fn want(&mut self) {
        self.is_wanted = true;
    }

    /// A keyframe has come: whoever waited has it.
    pub fn satisfy(&mut self) {
        self.is_wanted = false;
    }

    /// Reports whether the publisher is to be asked now; the caller then asks.
    pub fn poll(&mut self, now: Instant) -> bool {
        let is_due = self.poll_timeout(now).is_some_and(|(due, _)| due <= now);
        if is_due {
            self.asked = Some(now);
            self.is_wanted = false;
        }
        is_due
    }

    /// When to poll next.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<(Instant, &'static str)> {
        self.is_wanted.then(|| (self.asked.map_or(now, |asked| asked + INTERVAL), "keyframe wanted"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publisher_is_asked_at_once_and_then_at_most_every_500_ms() {
        let start = crate::clock::for_tests();
        let mut requests = Requests::default();
        assert!(!requests.poll(start), "nobody wants one");

        requests.want();
        assert!(requests.poll(start));
        requests.want();
        requests.want();
        assert!(!requests.poll(start + Duration::from_millis(499)));
        assert_eq!(requests.poll_timeout(start), Some((start + INTERVAL, "keyframe wanted")));
        assert!(requests.poll(start + INTERVAL));
        assert_eq!(requests.poll_timeout(start), None, "nothing else is scheduled");
    }

    #[test]
    fn a_keyframe_that_came_answers_those_who_waited() {
        let start = crate::clock::for_tests();
        let mut requests = Requests::default();
        requests.want();
        assert!(requests.poll(start));
        requests.want();
        requests.satisfy();
        assert!(!requests.poll(start + INTERVAL));
    }
}
