//! Decides what becomes of a publisher: when it is claimed, when it is refused, how it ends.
//!
//! An event is made only for a publisher that sends media, exactly one start and one end each time; a publisher that
//! leaves while its claim is under way is ended as soon as the claim is known. It knows no store, no socket and no clock.

use std::time::{Duration, Instant};

/// How long each wait may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Without media for this long a publisher is gone.
    pub silence: Duration,
    /// Without an answer to a claim for this long a publisher is refused.
    pub claim: Duration,
}

/// How a publisher left a session that was on air.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It said so.
    Closed,
    /// Its connection broke.
    Lost,
    /// It fell silent.
    Timeout,
    /// This node shuts down.
    Shutdown,
}

/// Why a claim brought no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Another publisher is on air.
    OnAir,
    /// The broadcast is gone.
    Gone,
    /// Too many events wait for their receiver.
    LedgerFull,
    /// The store refuses or fails.
    Unavailable,
}

/// Something that happened to a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A frame of audio or video came.
    Media,
    /// The claim is durable.
    Claimed,
    /// The claim was refused.
    ClaimDenied(Denied),
    /// The publisher left, or must.
    Left(Cause),
    /// Somebody else closed our session; the publisher still feeds.
    Fenced,
    /// The broadcast was stopped and its session ended by somebody else.
    Stopped,
    /// Time has passed.
    Tick,
}

/// What the driver has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Claim the broadcast. The answer is an input.
    Claim,
    /// End the claimed session, durably, and let the publisher go.
    End(Cause),
    /// Let the publisher go; there is no session.
    Leave(Leave),
    /// Give the claim up and let the publisher go; if the claim was made after all, its session must be ended.
    Abandon,
}

/// Why a publisher is let go without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// It left, or the node shuts down, before any media.
    BeforeMedia(Cause),
    /// The claim was refused.
    Denied(Denied),
    /// The broadcast was stopped; its session has its end.
    Stopped,
}

/// One publisher's way.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    timeouts: Timeouts,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Accepted, no media yet.
    Waiting { since: Instant },
    /// A claim is under way.
    Claiming { since: Instant, left: Option<Cause> },
    /// On air.
    Live { last_media: Instant },
    /// Let go.
    Over,
}

impl Lifecycle {
    /// Starts with a publisher that was just accepted.
    #[must_use]
    pub fn new(timeouts: Timeouts, now: Instant) -> Self {
        Self { timeouts, state: State::Waiting { since: now } }
    }

    /// Whether the publisher is on air.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Live { .. })
    }

    /// Whether the publisher has been let go.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Takes what happened, and says what to do.
    pub fn handle(&mut self, input: Input, now: Instant) -> Option<Action> {
        let (state, action) = match self.state {
            State::Waiting { since } => self.waiting(since, input, now),
            State::Claiming { since, left } => self.claiming(since, left, input, now),
            State::Live { last_media } => self.live(last_media, input, now),
            State::Over => (State::Over, None),
        };
        self.state = state;
        action
    }

    /// When [`Input::Tick`] is due, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.state {
            State::Waiting { since } => Some((since + self.timeouts.silence, "no media yet")),
            State::Claiming { since, .. } => Some((since + self.timeouts.claim, "no answer to the claim")),
            State::Live { last_media } => Some((last_media + self.timeouts.silence, "no more media")),
            State::Over => None,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.poll_timeout().is_some_and(|(deadline, _)| now >= deadline)
    }

    fn waiting(&self, since: Instant, input: Input, now: Instant) -> (State, Option<Action>) {
        let leave = |leave| (State::Over, Some(Action::Leave(leave)));
        match input {
            Input::Media => (State::Claiming { since: now, left: None }, Some(Action::Claim)),
            Input::Left(cause) => leave(Leave::BeforeMedia(cause)),
            Input::Stopped => leave(Leave::Stopped),
            Input::Tick if self.is_due(now) => leave(Leave::BeforeMedia(Cause::Timeout)),
            Input::Tick | Input::Claimed | Input::ClaimDenied(_) | Input::Fenced => (State::Waiting { since }, None),
        }
    }

    fn claiming(&self, since: Instant, left: Option<Cause>, input: Input, now: Instant) -> (State, Option<Action>) {
        match (input, left) {
            (Input::Claimed, None) => (State::Live { last_media: now }, None),
            (Input::Claimed, Some(cause)) => (State::Over, Some(Action::End(cause))),
            (Input::ClaimDenied(denied), _) => (State::Over, Some(Action::Leave(Leave::Denied(denied)))),
            (Input::Left(cause), None) => (State::Claiming { since, left: Some(cause) }, None),
            (Input::Tick, _) if self.is_due(now) => (State::Over, Some(Action::Abandon)),
            // a stop shows in the claim's own answer
            (Input::Left(_) | Input::Tick | Input::Media | Input::Fenced | Input::Stopped, _) => {
                (State::Claiming { since, left }, None)
            }
        }
    }

    fn live(&self, last_media: Instant, input: Input, now: Instant) -> (State, Option<Action>) {
        match input {
            Input::Media => (State::Live { last_media: now }, None),
            Input::Left(cause) => (State::Over, Some(Action::End(cause))),
            Input::Stopped => (State::Over, Some(Action::Leave(Leave::Stopped))),
            Input::Fenced => (State::Claiming { since: now, left: None }, Some(Action::Claim)),
            Input::Tick if self.is_due(now) => (State::Over, Some(Action::End(Cause::Timeout))),
            Input::Tick | Input::Claimed | Input::ClaimDenied(_) => (State::Live { last_media }, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUTS: Timeouts = Timeouts { silence: Duration::from_secs(20), claim: Duration::from_secs(5) };

    /// A publisher, and how its clock is read: seconds after its start.
    struct Run {
        start: Instant,
        lifecycle: Lifecycle,
    }

    impl Run {
        #[allow(clippy::disallowed_methods, reason = "virtual time needs some start")]
        fn new() -> Self {
            let start = Instant::now();
            Self { start, lifecycle: Lifecycle::new(TIMEOUTS, start) }
        }

        fn at(&mut self, seconds: u64, input: Input) -> Option<Action> {
            self.lifecycle.handle(input, self.start + Duration::from_secs(seconds))
        }
    }

    #[test]
    fn a_publisher_is_claimed_at_its_first_media_and_ended_when_it_leaves() {
        let mut run = Run::new();

        assert_eq!(run.at(1, Input::Media), Some(Action::Claim));
        assert_eq!(run.at(1, Input::Media), None);
        assert_eq!(run.at(2, Input::Claimed), None);
        assert!(run.lifecycle.is_live());
        assert_eq!(run.at(3, Input::Left(Cause::Closed)), Some(Action::End(Cause::Closed)));
        assert_eq!(run.at(3, Input::Left(Cause::Lost)), None);
        assert!(run.lifecycle.is_over());
    }

    #[test]
    fn a_publisher_without_media_leaves_no_trace() {
        let mut run = Run::new();
        assert_eq!(run.at(19, Input::Tick), None);
        assert_eq!(run.at(20, Input::Tick), Some(Action::Leave(Leave::BeforeMedia(Cause::Timeout))));

        let mut run = Run::new();
        assert_eq!(run.at(1, Input::Left(Cause::Lost)), Some(Action::Leave(Leave::BeforeMedia(Cause::Lost))));
    }

    #[test]
    fn a_publisher_that_leaves_during_its_claim_is_ended_after_it() {
        let mut run = Run::new();
        run.at(0, Input::Media);

        assert_eq!(run.at(1, Input::Left(Cause::Closed)), None);
        assert_eq!(run.at(1, Input::Left(Cause::Lost)), None);
        assert_eq!(run.at(2, Input::Claimed), Some(Action::End(Cause::Closed)));
    }

    #[test]
    fn a_claim_without_an_answer_is_abandoned() {
        let mut run = Run::new();
        run.at(1, Input::Media);

        assert_eq!(run.at(5, Input::Tick), None);
        assert_eq!(run.at(6, Input::Tick), Some(Action::Abandon));
    }

    #[test]
    fn silence_ends_a_live_session() {
        let mut run = Run::new();
        run.at(0, Input::Media);
        run.at(0, Input::Claimed);
        run.at(10, Input::Media);

        assert_eq!(run.lifecycle.poll_timeout(), Some((run.start + Duration::from_secs(30), "no more media")));
        assert_eq!(run.at(29, Input::Tick), None);
        assert_eq!(run.at(30, Input::Tick), Some(Action::End(Cause::Timeout)));
    }

    #[test]
    fn a_fenced_publisher_that_still_feeds_is_claimed_anew() {
        let mut run = Run::new();
        run.at(0, Input::Media);
        run.at(0, Input::Claimed);

        assert_eq!(run.at(1, Input::Fenced), Some(Action::Claim));
        assert_eq!(run.at(2, Input::ClaimDenied(Denied::OnAir)), Some(Action::Leave(Leave::Denied(Denied::OnAir))));
    }

    #[test]
    fn a_stopped_session_has_its_end_already() {
        let mut run = Run::new();
        run.at(0, Input::Media);
        run.at(0, Input::Claimed);

        assert_eq!(run.at(1, Input::Stopped), Some(Action::Leave(Leave::Stopped)));
    }

    fn any_input() -> impl Strategy<Value = Input> {
        let cause = prop_oneof![Just(Cause::Closed), Just(Cause::Lost), Just(Cause::Timeout), Just(Cause::Shutdown)];
        let denied =
            prop_oneof![Just(Denied::OnAir), Just(Denied::Gone), Just(Denied::LedgerFull), Just(Denied::Unavailable)];
        prop_oneof![
            4 => Just(Input::Media),
            2 => Just(Input::Claimed),
            1 => denied.prop_map(Input::ClaimDenied),
            1 => cause.prop_map(Input::Left),
            1 => Just(Input::Fenced),
            1 => Just(Input::Stopped),
            2 => Just(Input::Tick),
        ]
    }

    proptest! {
        /// In any order of inputs: a claim only after media, an end only of a claimed session, one last word, and a
        /// deadline as long as it has not been said.
        #[test]
        fn any_order_of_inputs_ends_a_session_only_when_it_was_claimed(inputs in prop::collection::vec((any_input(), 0..7_u64), 0..60)) {
            let mut run = Run::new();
            let (mut now, mut asked, mut claimed, mut over) = (0, false, false, false);
            for (input, step) in inputs {
                now += step;
                if input == Input::Claimed {
                    claimed |= asked;
                }
                let action = run.at(now, input);
                prop_assert!(!over || action.is_none());
                match action {
                    None => {}
                    Some(Action::Claim) => {
                        prop_assert!(input == Input::Media || input == Input::Fenced);
                        asked = true;
                        claimed = false;
                    }
                    Some(Action::End(_)) => {
                        prop_assert!(claimed);
                        over = true;
                    }
                    Some(Action::Abandon) => {
                        prop_assert!(asked && !claimed);
                        over = true;
                    }
                    Some(Action::Leave(leave)) => {
                        prop_assert!(matches!(leave, Leave::Stopped) || !claimed);
                        over = true;
                    }
                }
                prop_assert_eq!(over, run.lifecycle.is_over());
                prop_assert_eq!(run.lifecycle.poll_timeout().is_none(), over);
            }
        }
    }
}
