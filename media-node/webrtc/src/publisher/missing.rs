//! Which packets of a source are missing, and when each is asked for again (RFC 4585 §6.2.1).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What is older than this is waited for by nobody.
pub const GIVE_UP: Duration = Duration::from_millis(250);

/// A packet is asked for this often; within [`GIVE_UP`] a path of 50 ms has had the time for each.
const MOST_TRIES: u8 = 4;

/// A gap that is larger, or that many in sum, is an outage, which only a keyframe mends.
const MAX_MISSING: usize = 256;

/// Before a packet was asked for and came, this is taken for a round trip; it is then measured, within these bounds.
const FIRST_ROUND_TRIP: Duration = Duration::from_millis(50);
const ROUND_TRIPS: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_millis(120);

#[derive(Debug)]
pub(super) struct Missing {
    /// The greatest number there was, counted on past 16 bits.
    highest: Option<i64>,
    entries: VecDeque<Entry>,
    round_trip: Duration,
}

#[derive(Debug)]
struct Entry {
    number: i64,
    noticed: Instant,
    tries: u8,
    /// When it is asked for, or given up.
    due: Instant,
}

/// What is due of a source.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) ask: Vec<u16>,
    /// How many were given up.
    pub(super) lost: u64,
}

impl Default for Missing {
    fn default() -> Self {
        Self { highest: None, entries: VecDeque::new(), round_trip: FIRST_ROUND_TRIP }
    }
}

impl Missing {
    /// Takes note of a packet; whether it had been asked for.
    pub(super) fn arrived(&mut self, sequence: u16, now: Instant) -> bool {
        let Some(highest) = self.highest else {
            self.highest = Some(sequence.into());
            return false;
        };
        let number = near(highest, sequence);
        if number <= highest {
            return self.found(number, now).is_some_and(|tries| tries > 0);
        }
        self.highest = Some(number);
        let gap = highest + 1..number;
        let count = usize::try_from(gap.end - gap.start).unwrap_or(usize::MAX);
        if self.entries.len().saturating_add(count) > MAX_MISSING {
            self.entries.clear();
            return false;
        }
        self.entries.extend(gap.map(|number| Entry { number, noticed: now, tries: 0, due: now }));
        false
    }

    /// Takes note of a packet that was sent again; whether it was missing.
    pub(super) fn arrived_again(&mut self, sequence: u16, now: Instant) -> bool {
        let Some(highest) = self.highest else { return false };
        self.found(near(highest, sequence), now).is_some()
    }

    /// Forgets a packet that was missing; how often it was asked for.
    fn found(&mut self, number: i64, now: Instant) -> Option<u8> {
        let at = self.entries.iter().position(|entry| entry.number == number)?;
        let Entry { noticed, tries, .. } = self.entries.remove(at)?;
        if tries == 1 {
            let measured = now.saturating_duration_since(noticed).clamp(*ROUND_TRIPS.start(), *ROUND_TRIPS.end());
            self.round_trip = (self.round_trip * 7 + measured) / 8;
        }
        Some(tries)
    }

    /// What is to be asked for now.
    pub(super) fn take_due(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        let again = now + self.round_trip * 3 / 2;
        self.entries.retain_mut(|entry| {
            if entry.due > now {
                return true;
            }
            let last = entry.noticed + GIVE_UP;
            if last <= now {
                due.lost += 1;
                return false;
            }
            if entry.tries < MOST_TRIES {
                entry.tries += 1;
                // truncation: numbers are sent as 16 bits
                due.ask.push(entry.number as u16);
            }
            entry.due = if entry.tries == MOST_TRIES { last } else { again.min(last) };
            true
        });
        due
    }

    /// When [`Self::take_due`] has something.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.entries.iter().map(|entry| entry.due).min()
    }
}

/// Of the numbers with these 16 bits the one nearest to another.
pub(super) fn near(number: i64, sequence: u16) -> i64 {
    // truncation: that is the point
    number + i64::from(sequence.wrapping_sub(number as u16).cast_signed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(sequences: &[u16]) -> Due {
        Due { ask: sequences.to_vec(), lost: 0 }
    }

    #[test]
    fn a_gap_is_asked_for_at_once_and_again_until_it_comes() {
        let (mut missing, start) = (Missing::default(), crate::clock::for_tests());
        missing.arrived(65_534, start);
        missing.arrived(1, start);
        assert_eq!(missing.take_due(start), ask(&[65_535, 0]));
        assert_eq!(missing.take_due(start), ask(&[]), "once");

        assert!(missing.arrived_again(65_535, start + Duration::from_millis(20)));
        assert!(!missing.arrived_again(65_535, start + Duration::from_millis(21)), "once");
        let again = missing.deadline().unwrap();
        assert!(again > start + Duration::from_millis(20) && again <= start + FIRST_ROUND_TRIP * 3 / 2);
        assert_eq!(missing.take_due(again), ask(&[0]));
    }

    #[test]
    fn what_does_not_come_is_asked_for_a_few_times_and_given_up() {
        let (mut missing, start) = (Missing::default(), crate::clock::for_tests());
        missing.arrived(10, start);
        missing.arrived(12, start);
        let mut asked = 0;
        while let Some(due) = missing.deadline() {
            let taken = missing.take_due(due);
            asked += taken.ask.len();
            if taken.lost > 0 {
                assert_eq!(due, start + GIVE_UP);
            }
        }
        assert!((2..=usize::from(MOST_TRIES)).contains(&asked), "{asked}");
    }

    #[test]
    fn a_packet_that_was_only_late_is_not_asked_for() {
        let (mut missing, start) = (Missing::default(), crate::clock::for_tests());
        missing.arrived(10, start);
        missing.arrived(12, start);
        assert!(!missing.arrived(11, start));
        assert_eq!(missing.take_due(start), Due::default());
    }

    #[test]
    fn an_outage_is_not_asked_for() {
        let (mut missing, start) = (Missing::default(), crate::clock::for_tests());
        missing.arrived(0, start);
        missing.arrived(1_000, start);
        assert_eq!((missing.take_due(start), missing.deadline()), (Due::default(), None));
    }

    proptest! {
        #[test]
        fn what_is_missing_is_bounded(sequences in proptest::collection::vec(any::<u16>(), 0..500)) {
            let (mut missing, mut now) = (Missing::default(), crate::clock::for_tests());
            for sequence in sequences {
                missing.arrived(sequence, now);
                prop_assert!(missing.entries.len() <= MAX_MISSING);
                now += Duration::from_millis(1);
            }
            let mut rounds = 0;
            while let Some(due) = missing.deadline() {
                missing.take_due(due);
                rounds += 1;
                prop_assert!(rounds < 2_000);
            }
        }
    }
}
