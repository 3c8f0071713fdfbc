//! Puts packets in order (RFC 3550 §6.4.1, appendix A.1): waits for those that others have overtaken, for a while.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::Rtp;

/// How long a missing packet is waited for: a round trip for a resent one, with some to spare. Then it is lost.
pub const MAX_WAIT: Duration = Duration::from_millis(250);
/// Over a second of a stream of 4 Mbit/s; with more behind a gap it is given up.
const MAX_PACKETS: usize = 512;
/// As [`MAX_PACKETS`], for payloads that are longer than a path of the Internet takes.
const MAX_BYTES: usize = 2 << 20;
/// A sequence number further away is of a sender that began anew, if a second packet confirms it.
const MAX_JUMP: i64 = 3_000;

/// Packets of one sender that wait for those before them.
#[derive(Debug, Default)]
pub(super) struct JitterBuffer {
    /// The next number, counted on where 16 bits wrap.
    next: Option<i64>,
    /// The greatest number there was, and one more.
    end: i64,
    held: BTreeMap<i64, (Instant, Rtp)>,
    bytes: usize,
    /// Since when the first of what is held has waited.
    blocked: Option<Instant>,
    /// What would confirm that the sender began anew.
    suspect: Option<u16>,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Held,
    /// It has overtaken some.
    Gap {
        first: u16,
        count: u16,
    },
    /// It came twice, or too late.
    Dropped,
    /// The sender began anew; what was held is gone.
    Restarted,
}

/// What is next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Released {
    Packet(Rtp),
    /// At least one is missing for good.
    Lost,
}

impl JitterBuffer {
    pub(super) fn push(&mut self, rtp: Rtp, now: Instant) -> Pushed {
        let Some(next) = self.next else { return self.begin(rtp, now, Pushed::Held) };
        let step = rtp.sequence.wrapping_sub(low(next)).cast_signed();
        let number = next + i64::from(step);
        if i64::from(step).abs() > MAX_JUMP {
            if self.suspect == Some(rtp.sequence) {
                return self.begin(rtp, now, Pushed::Restarted);
            }
            self.suspect = Some(rtp.sequence.wrapping_add(1));
            return Pushed::Dropped;
        }
        self.suspect = None;
        if number < next || self.held.contains_key(&number) {
            return Pushed::Dropped;
        }
        let overtaken = self.end..number;
        self.end = self.end.max(number + 1);
        self.hold(number, rtp, now);
        if overtaken.is_empty() {
            return Pushed::Held;
        }
        let count = u16::try_from(overtaken.end - overtaken.start).expect("less than a jump");
        Pushed::Gap { first: low(overtaken.start), count }
    }

    /// Takes the first packet of a sender.
    fn begin(&mut self, rtp: Rtp, now: Instant, pushed: Pushed) -> Pushed {
        let number = i64::from(rtp.sequence);
        *self = Self { next: Some(number), end: number + 1, ..Self::default() };
        self.hold(number, rtp, now);
        pushed
    }

    fn hold(&mut self, number: i64, rtp: Rtp, now: Instant) {
        self.bytes += rtp.payload.len();
        self.held.insert(number, (now, rtp));
        self.blocked.get_or_insert(now);
    }

    pub(super) fn pop(&mut self, now: Instant) -> Option<Released> {
        let first = *self.held.first_key_value()?.0;
        if self.next != Some(first) {
            let is_full = self.held.len() > MAX_PACKETS || self.bytes > MAX_BYTES;
            if !is_full && self.deadline().is_some_and(|deadline| now < deadline) {
                return None;
            }
            self.next = Some(first);
            return Some(Released::Lost);
        }
        let (_, (_, rtp)) = self.held.pop_first()?;
        self.bytes -= rtp.payload.len();
        self.next = Some(first + 1);
        let is_in_order = self.held.first_key_value().is_none_or(|(number, _)| *number == first + 1);
        // behind a further gap the wait began with the first packet that came after it
        self.blocked = if is_in_order { None } else { self.held.values().map(|(came, _)| *came).min() };
        Some(Released::Packet(rtp))
    }

    /// When what is missing is given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        Some(self.blocked? + MAX_WAIT)
    }
}

fn low(number: i64) -> u16 {
    u16::try_from(number.rem_euclid(1 << 16)).expect("a remainder of 2^16 fits")
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    #[allow(clippy::disallowed_methods, reason = "any instant will do to count from")]
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);

    #[test]
    fn a_gap_is_said_once_and_closed_by_what_was_resent() {
        let (mut buffer, now) = (JitterBuffer::default(), *START);

        assert_eq!(buffer.push(rtp(65_534), now), Pushed::Held);
        assert_eq!(buffer.push(rtp(1), now), Pushed::Gap { first: 65_535, count: 2 });
        assert_eq!(buffer.push(rtp(2), now), Pushed::Held);
        assert_eq!(popped(&mut buffer, now), [Some(65_534)]);
        assert_eq!(buffer.push(rtp(0), now), Pushed::Held);
        assert_eq!(popped(&mut buffer, now), []);
        assert_eq!(buffer.push(rtp(65_535), now), Pushed::Held);

        assert_eq!(popped(&mut buffer, now), [Some(65_535), Some(0), Some(1), Some(2)]);
        assert_eq!(buffer.deadline(), None);
    }

    #[test]
    fn what_does_not_come_is_given_up_after_the_wait_of_the_first_that_overtook_it() {
        let (mut buffer, start) = (JitterBuffer::default(), *START);
        let at = |millis| start + Duration::from_millis(millis);

        buffer.push(rtp(0), at(0));
        popped(&mut buffer, at(0));
        buffer.push(rtp(2), at(100));
        buffer.push(rtp(4), at(300));
        assert_eq!(buffer.deadline(), Some(at(350)));
        assert_eq!(popped(&mut buffer, at(349)), []);
        assert_eq!(popped(&mut buffer, at(350)), [None, Some(2)]);
        assert_eq!(buffer.deadline(), Some(at(550)), "the second gap has its own wait");
        assert_eq!(buffer.push(rtp(1), at(360)), Pushed::Dropped, "too late");
        assert_eq!(popped(&mut buffer, at(550)), [None, Some(4)]);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let (mut buffer, now) = (JitterBuffer::default(), *START);
        buffer.push(rtp(0), now);
        popped(&mut buffer, now);

        let most = u16::try_from(MAX_PACKETS).unwrap();
        for sequence in 2..2 + most {
            buffer.push(rtp(sequence), now);
        }
        assert_eq!(popped(&mut buffer, now), []);
        buffer.push(rtp(2 + most), now);

        assert_eq!(popped(&mut buffer, now).len(), 1 + MAX_PACKETS + 1, "the gap is given up");
    }

    #[test]
    fn a_sender_that_begins_anew_is_believed_at_its_second_packet() {
        let (mut buffer, now) = (JitterBuffer::default(), *START);
        buffer.push(rtp(10), now);
        popped(&mut buffer, now);

        assert_eq!(buffer.push(rtp(40_000), now), Pushed::Dropped);
        assert_eq!(buffer.push(rtp(11), now), Pushed::Held, "a stray packet changes nothing");
        assert_eq!(buffer.push(rtp(50_000), now), Pushed::Dropped);
        assert_eq!(buffer.push(rtp(50_001), now), Pushed::Restarted);
        assert_eq!(popped(&mut buffer, now), [Some(50_001)]);
    }

    proptest! {
        /// Whatever order packets come in, each comes out once and in order, or is said to be lost.
        #[test]
        fn packets_come_out_in_order_or_are_lost(
            first in any::<u16>(),
            delays in prop::collection::vec((0_u64..300, 0_u8..10, any::<bool>()), 1..400),
        ) {
            let mut sent: Vec<(u64, u16)> = Vec::new();
            for (index, (delay, loss, twice)) in (0_u16..).zip(&delays) {
                let came = u64::from(index) * 5 + delay;
                if *loss > 0 || index == 0 {
                    let came = if index == 0 { 0 } else { came };
                    sent.push((came, index));
                    sent.extend(twice.then_some((came + 3, index)));
                }
            }
            sent.sort_by_key(|(came, _)| *came);
            let (mut buffer, mut out) = (JitterBuffer::default(), Vec::new());
            for (came, index) in &sent {
                let now = *START + Duration::from_millis(*came);
                buffer.push(rtp(first.wrapping_add(*index)), now);
                out.extend(popped(&mut buffer, now));
            }
            while let Some(deadline) = buffer.deadline() {
                out.extend(popped(&mut buffer, deadline));
            }
            let mut expected = 0_u16;
            let mut lost = false;
            for released in out {
                match released {
                    None => lost = true,
                    Some(sequence) => {
                        let index = sequence.wrapping_sub(first);
                        prop_assert!(index == expected || (lost && index > expected), "{index} after {expected}");
                        // those in between did not come, or later than they are waited for
                        (expected, lost) = (index + 1, false);
                    }
                }
            }
            prop_assert!(buffer.held.is_empty());
        }
    }

    fn rtp(sequence: u16) -> Rtp {
        Rtp { sequence, timestamp: 0, marker: false, payload: Bytes::from_static(b"x") }
    }

    /// The numbers of what comes out; `None` is a loss.
    fn popped(buffer: &mut JitterBuffer, now: Instant) -> Vec<Option<u16>> {
        std::iter::from_fn(|| buffer.pop(now))
            .map(|released| match released {
                Released::Packet(rtp) => Some(rtp.sequence),
                Released::Lost => None,
            })
            .collect()
    }
}
