//! Which of a publisher's encodings (simulcast) a viewer is sent, by what it says: what it has lost or asks for again, and how much
//! longer than at best its reports take, which is how long queues on the way are.
//!
//! This is the receiver-driven layered multicast of McCanne, Jacobson and Vetterli (1996), decided by the sender: a viewer that has
//! been well for a while is tried with the next better encoding. If that does it no good, the one before is back with the first
//! report that says so, and the next trial waits twice as long. An estimate of bandwidth would have to send what it wants to know
//! of as well, as padding; here it is a better picture. A viewer's own estimate (REMB) is believed where it is lower.

use std::time::{Duration, Instant};

/// Of 256: more than a tenth is no accident, and a fiftieth is none of our doing (as GCC has it, draft-ietf-rmcat-gcc-02 §6).
const MUCH_LOST: u8 = 26;
const LITTLE_LOST: u8 = 5;

/// What queues on the way may hold: half of what makes a conversation hard.
const MUCH_LATER: Duration = Duration::from_millis(150);

/// A viewer is well for so long before its first trial, which is two reports.
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// After trials that failed. The longest is what a viewer waits when it has got a better connection.
const MIN_WAIT: Duration = Duration::from_secs(5);
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Reports of what was sent before a change come within this time after it.
const SETTLE: Duration = Duration::from_millis(1_500);

/// A trial that goes well for so long is none any more.
const TRIAL: Duration = Duration::from_secs(8);

/// An estimate that is older says nothing: viewers tell theirs about once a second.
const ESTIMATE: Duration = Duration::from_secs(5);

/// What a viewer says of what it is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    /// Of 256.
    pub(super) fraction_lost: u8,
    pub(super) round_trip: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Choice {
    /// Since when all that the viewer says is good.
    well: Option<Instant>,
    wait: Duration,
    changed: Option<(Instant, Way)>,
    shortest: Option<Duration>,
    /// Bits a second that the viewer thinks that it can take.
    estimate: Option<(Instant, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

impl Choice {
    pub(super) fn new() -> Self {
        Self { well: None, wait: FIRST_WAIT, changed: None, shortest: None, estimate: None }
    }

    pub(super) fn estimated(&mut self, bits: u64, now: Instant) {
        self.estimate = Some((now, bits));
    }

    /// Takes a report, and says which encoding the viewer is to have. `rates` are bits a second of each, `None` of one that does not
    /// come; it has `current`.
    pub(super) fn reported(&mut self, said: Said, rates: &[Option<u64>], current: usize, now: Instant) -> usize {
        let Some(rate) = rates.get(current).copied().flatten() else { return lowest(rates).unwrap_or(current) };
        let later = self.later(said.round_trip);
        if self.changed.is_some_and(|(at, _)| now.saturating_duration_since(at) < SETTLE) {
            return current;
        }
        let estimate = self.estimate.filter(|(at, _)| now.saturating_duration_since(*at) < ESTIMATE);
        let is_over = estimate.is_some_and(|(_, bits)| bits < rate);
        if said.fraction_lost > MUCH_LOST || later > MUCH_LATER || is_over {
            return self.worse(rates, rate, now).unwrap_or(current);
        }
        if said.fraction_lost > LITTLE_LOST || later > MUCH_LATER / 2 {
            self.well = None;
            return current;
        }
        let well = *self.well.get_or_insert(now);
        if let Some((at, Way::Up)) = self.changed
            && now.saturating_duration_since(at) >= TRIAL
        {
            self.changed = None;
            self.wait = MIN_WAIT;
        }
        if now.saturating_duration_since(well) < self.wait {
            return current;
        }
        let better = nearest(rates, |other| other > rate, |one, other| one < other);
        better.unwrap_or(current)
    }

    /// It is sent another encoding from now on.
    pub(super) fn changed(&mut self, rates: &[Option<u64>], before: usize, current: usize, now: Instant) {
        let rate = |at: usize| rates.get(at).copied().flatten();
        self.changed = Some((now, if rate(current) > rate(before) { Way::Up } else { Way::Down }));
        self.well = None;
    }

    fn worse(&mut self, rates: &[Option<u64>], rate: u64, now: Instant) -> Option<usize> {
        self.well = None;
        self.wait = match self.changed {
            Some((at, Way::Up)) if now.saturating_duration_since(at) < TRIAL => {
                (self.wait * 2).clamp(MIN_WAIT, MAX_WAIT)
            }
            Some(_) | None => self.wait.max(MIN_WAIT),
        };
        nearest(rates, |other| other < rate, |one, other| one > other)
    }

    /// How much longer than at best a report took. Paths change: what was best is forgotten, slowly.
    fn later(&mut self, round_trip: Option<Duration>) -> Duration {
        let Some(round_trip) = round_trip else { return Duration::ZERO };
        let shortest = self.shortest.map_or(round_trip, |shortest| round_trip.min(shortest + shortest / 64));
        self.shortest = Some(shortest);
        round_trip.saturating_sub(shortest)
    }
}

/// The encoding to begin with: one that any viewer can take.
pub(super) fn lowest(rates: &[Option<u64>]) -> Option<usize> {
    nearest(rates, |_| true, |one, other| one < other)
}

/// Of the encodings that come and are wanted the one that is before all others.
fn nearest(
    rates: &[Option<u64>],
    is_wanted: impl Fn(u64) -> bool,
    is_before: impl Fn(u64, u64) -> bool,
) -> Option<usize> {
    let rates = rates.iter().enumerate().filter_map(|(at, rate)| rate.map(|rate| (at, rate)));
    let wanted = rates.filter(|(_, rate)| is_wanted(*rate));
    wanted.reduce(|best, next| if is_before(next.1, best.1) { next } else { best }).map(|(at, _)| at)
}

#[cfg(test)]
mod tests;
