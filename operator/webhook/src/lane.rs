//! The ordered deliveries of one Broadcast to one endpoint: which event is due when, what an outcome does, and what of it
//! is to be written down. One request is in flight, and the first event that the receiver has not taken holds up the rest.
//! Knows nothing of HTTP, clocks or stores.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use ledger::Input;
use tallylight_crds::{Broadcast, Event, Lane as Written, LaneState};

use crate::{
    schedule,
    verdict::{Failure, Outcome, Stop, Verdict, judge},
};

/// Delivered events whose acknowledgement is not durable yet. They are sent again, under the same ids, when the process
/// dies now; when there are so many, the lane waits for the store.
pub const MAX_AHEAD: i64 = 16;

/// Deliveries of one Broadcast.
#[derive(Debug)]
pub struct Lane {
    uid: String,
    /// Events that the receiver does not have, in order.
    events: VecDeque<Event>,
    /// Highest sequence in the log, as far as is known.
    last: i64,
    /// The receiver has everything up to here.
    settled: i64,
    /// The ledger says so up to here.
    acked: i64,
    generation: Option<i64>,
    phase: Phase,
    /// Failed attempts of the first event since the lane was woken.
    failures: u32,
    /// What the status is to say between two attempts.
    between: Written,
    /// What of that was written down last, here or by the process before. What another operator writes is not answered: two
    /// would go on correcting each other.
    written: Option<Written>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Ready,
    InFlight {
        sequence: i64,
        /// The settings changed since it left: its failure says nothing about the next attempt.
        outdated: bool,
    },
    Backoff {
        due: Timestamp,
        /// How long that was when the wait began.
        wait: SignedDuration,
    },
    Gone,
}

/// An event that is to be sent now.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    pub event: Event,
    /// Which attempt it is, from 1.
    pub attempt: u32,
}

/// What a recorded outcome changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    pub next_attempt: Option<Timestamp>,
    pub turn: Turn,
}

/// Whether an outcome is news to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// As before.
    None,
    /// The first failure after a success.
    Failing,
    /// The first success after a failure.
    Recovered,
    /// The receiver wants no more.
    Stopped,
}

/// What a lane is doing, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activity {
    Delivering,
    Backoff,
    Gone,
}

impl Lane {
    /// Takes a lane up where its Broadcast's status left it, which may be after a restart. `settled` is what the receiver is
    /// known to have, though this reading of the status may not say so.
    #[must_use]
    pub fn load(broadcast: &Broadcast, settled: i64, now: Timestamp) -> Self {
        let status = broadcast.status_or_default();
        let acked = status.hooks.acked_sequence;
        let generation = broadcast.metadata.generation;
        let stored = status.hooks.lane;
        // What is written speaks of the first event after `acked`.
        let resumed = stored.clone().filter(|_| settled <= acked);
        let mut lane = Self {
            uid: broadcast.metadata.uid.clone().unwrap_or_default(),
            events: status.hooks.pending.into(),
            last: status.hooks.last_sequence,
            settled: settled.max(acked),
            acked,
            generation,
            phase: Phase::Ready,
            failures: 0,
            between: resumed.unwrap_or_else(idle),
            written: stored,
        };
        lane.events.retain(|event| event.sequence > lane.settled);
        if lane.between.observed_generation.is_none_or(|written| Some(written) == generation) {
            lane.resume(now);
        }
        lane
    }

    fn resume(&mut self, now: Timestamp) {
        self.failures = u32::try_from(self.between.attempts).unwrap_or(0);
        self.phase = match self.between.state {
            LaneState::Idle => Phase::Ready,
            LaneState::Gone => Phase::Gone,
            // Another machine's clock may have written it: no wait is longer than the schedule's longest.
            LaneState::Backoff => {
                let longest = now.saturating_add(schedule::LONGEST).unwrap_or(now);
                backoff(self.between.next_attempt_time.unwrap_or(now).min(longest), now)
            }
        };
    }

    /// Takes in a newer reading of the Broadcast; an older one than is known changes nothing, and is answered with `false`.
    /// A new spec wakes the lane.
    pub fn observe(&mut self, broadcast: &Broadcast) -> bool {
        let status = broadcast.status_or_default();
        let hooks = status.hooks;
        if hooks.acked_sequence < self.acked || hooks.last_sequence < self.last {
            return false;
        }
        let known = self.last;
        self.last = hooks.last_sequence;
        self.acked = hooks.acked_sequence;
        self.settle(self.acked);
        let settled = self.settled;
        self.events.extend(hooks.pending.into_iter().filter(|event| event.sequence > known.max(settled)));
        if broadcast.metadata.generation != self.generation {
            self.generation = broadcast.metadata.generation;
            self.wake();
        }
        true
    }

    /// Tries again at once: the endpoint, or what it is looked up by, has changed.
    pub fn wake(&mut self) {
        self.failures = 0;
        self.phase = match self.phase {
            Phase::InFlight { sequence, .. } => Phase::InFlight { sequence, outdated: true },
            Phase::Ready | Phase::Backoff { .. } | Phase::Gone => Phase::Ready,
        };
    }

    /// The event that is to be sent now, if any; [`record`](Self::record) its outcome.
    pub fn next_due(&mut self, now: Timestamp) -> Option<Delivery> {
        let due = match &mut self.phase {
            Phase::Ready => true,
            Phase::Backoff { due, wait } => {
                // The clock may have been set back: then the wait begins anew, and is no longer than it was.
                *due = now.saturating_add(*wait).map_or(*due, |latest| latest.min(*due));
                *due <= now
            }
            Phase::InFlight { .. } | Phase::Gone => false,
        };
        if !due || self.is_ahead() {
            return None;
        }
        let event = self.events.front()?.clone();
        self.phase = Phase::InFlight { sequence: event.sequence, outdated: false };
        Some(Delivery { event, attempt: self.failures.saturating_add(1) })
    }

    /// Settles the event in flight without a request: it is not to be sent.
    pub fn skip(&mut self) {
        if let Phase::InFlight { sequence, .. } = self.phase {
            self.succeed(sequence);
        }
    }

    /// Takes in the outcome of the event in flight.
    pub fn record(&mut self, outcome: &Outcome, now: Timestamp) -> Recorded {
        let Phase::InFlight { sequence, outdated } = self.phase else {
            return Recorded { next_attempt: None, turn: Turn::None };
        };
        let was_failing = self.between.state != LaneState::Idle;
        let event = self.events.front().filter(|event| event.sequence == sequence).cloned();
        let (Some(event), false) = (event, outdated && judge(outcome) != Verdict::Delivered) else {
            // Somebody else has settled it, or the settings are new: nothing is learnt.
            self.phase = Phase::Ready;
            return Recorded { next_attempt: None, turn: Turn::None };
        };
        match judge(outcome) {
            Verdict::Delivered => {
                self.succeed(sequence);
                let turn = if was_failing { Turn::Recovered } else { Turn::None };
                Recorded { next_attempt: None, turn }
            }
            Verdict::Stop(Stop::Gone) => {
                self.failures = self.failures.saturating_add(1);
                self.phase = Phase::Gone;
                self.between = self.failed(LaneState::Gone, None, outcome);
                Recorded { next_attempt: None, turn: Turn::Stopped }
            }
            Verdict::Retry(wish) => {
                self.failures = self.failures.saturating_add(1);
                let id = ledger::event_id(&self.uid, &event);
                let due = whole_millisecond(now, schedule::delay(id, self.failures, wish));
                self.phase = backoff(due, now);
                self.between = self.failed(LaneState::Backoff, Some(due), outcome);
                let turn = if was_failing { Turn::None } else { Turn::Failing };
                Recorded { next_attempt: Some(due), turn }
            }
        }
    }

    /// What is to be written down now, one write at a time; tell [`wrote`](Self::wrote) when it is durable, and
    /// [`observe`](Self::observe) the store's answer.
    #[must_use]
    pub fn next_write(&self) -> Option<Input> {
        if self.settled > self.acked {
            return Some(Input::Ack { through: self.settled, lane: Some(self.between.clone()) });
        }
        let differs = self.written.as_ref().map_or(self.between.state != LaneState::Idle, |w| *w != self.between);
        // Without a pending event there is no first one to speak of; the next acknowledgement tidies up.
        (differs && !self.events.is_empty()).then(|| Input::SetLane(self.between.clone()))
    }

    /// Takes in that this is durable.
    pub fn wrote(&mut self, input: &Input) {
        match input {
            Input::Ack { lane: Some(lane), .. } | Input::SetLane(lane) => self.written = Some(lane.clone()),
            Input::Ack { lane: None, .. }
            | Input::Claim(_)
            | Input::End { .. }
            | Input::Close { .. }
            | Input::Park { .. }
            | Input::Note { .. }
            | Input::Announce(_) => {}
        }
    }

    /// When [`next_due`](Self::next_due) is to be asked again, and why; `None` when only news can change the answer.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Timestamp, &'static str)> {
        match self.phase {
            Phase::Backoff { due, .. } if !self.events.is_empty() && !self.is_ahead() => Some((due, "retry due")),
            Phase::Backoff { .. } | Phase::Ready | Phase::InFlight { .. } | Phase::Gone => None,
        }
    }

    /// Whether every known event is settled, durably.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.events.is_empty() && self.settled == self.acked && !matches!(self.phase, Phase::InFlight { .. })
    }

    /// The receiver has everything up to this sequence.
    #[must_use]
    pub fn settled(&self) -> i64 {
        self.settled
    }

    /// Events that the receiver does not have.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.events.len()
    }

    /// Whether the latest attempt failed for want of settings.
    #[must_use]
    pub fn is_unresolved(&self) -> bool {
        let unresolved = [Failure::InvalidUrl, Failure::SecretMissing, Failure::PoolMissing, Failure::Settings];
        self.between.last_error.as_deref().is_some_and(|class| unresolved.map(Failure::as_str).contains(&class))
    }

    #[must_use]
    pub fn activity(&self) -> Activity {
        match self.phase {
            Phase::Ready | Phase::InFlight { .. } => Activity::Delivering,
            Phase::Backoff { .. } => Activity::Backoff,
            Phase::Gone => Activity::Gone,
        }
    }

    fn is_ahead(&self) -> bool {
        self.settled - self.acked >= MAX_AHEAD
    }

    fn succeed(&mut self, sequence: i64) {
        self.phase = Phase::Ready;
        self.settle(sequence);
    }

    fn settle(&mut self, through: i64) {
        if through <= self.settled {
            return;
        }
        self.settled = through;
        let before = self.events.len();
        self.events.retain(|event| event.sequence > through);
        if self.events.len() < before {
            // What was known was about an event that is settled now.
            self.failures = 0;
            self.between = idle();
            if !matches!(self.phase, Phase::InFlight { .. }) {
                self.phase = Phase::Ready;
            }
        }
    }

    fn failed(&self, state: LaneState, next_attempt_time: Option<Timestamp>, outcome: &Outcome) -> Written {
        Written {
            state,
            attempts: i32::try_from(self.failures).unwrap_or(i32::MAX),
            next_attempt_time,
            last_status: outcome.status().map(i32::from),
            last_error: Some(outcome.class().to_owned()),
            observed_generation: self.generation,
        }
    }
}

fn backoff(due: Timestamp, now: Timestamp) -> Phase {
    Phase::Backoff { due, wait: due.duration_since(now) }
}

/// When the wait is over, in a time that reads well in a status: nothing here happens by the nanosecond.
fn whole_millisecond(now: Timestamp, wait: SignedDuration) -> Timestamp {
    let due = now.saturating_add(wait).unwrap_or(Timestamp::MAX);
    Timestamp::from_millisecond(due.as_millisecond().saturating_add(1)).unwrap_or(due)
}

fn idle() -> Written {
    Written {
        state: LaneState::Idle,
        attempts: 0,
        next_attempt_time: None,
        last_status: None,
        last_error: None,
        observed_generation: None,
    }
}

#[cfg(test)]
mod tests;
