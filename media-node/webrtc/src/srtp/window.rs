//! Which packets of which senders were seen (RFC 3711 §3.3).

use super::Error;

/// A browser has one sender of RTCP a section and connection, and of RTP two for each encoding of a track; more are not listened to.
const MAX_SENDERS: usize = 32;

/// Half of the 16 bits that are sent of a number.
const HALF: u64 = 1 << 15;

/// A packet's number, counted on past the bits that are sent of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Index(pub(super) u64);

/// The senders that have proved genuine.
#[derive(Default)]
pub(super) struct Senders(Vec<Window>);

impl Senders {
    /// The number of which the 16 bits are most likely a part (RFC 3711 §3.3.1); refuses what was seen before.
    pub(super) fn guess(&self, ssrc: u32, sequence: u16) -> Result<Index, Error> {
        let Some(window) = self.0.iter().find(|window| window.ssrc == ssrc) else {
            return if self.0.len() < MAX_SENDERS { Ok(Index(sequence.into())) } else { Err(Error::Senders) };
        };
        let highest = window.highest;
        let same = (highest & !0xffff) | u64::from(sequence);
        let index = if same + HALF < highest {
            same + 2 * HALF
        } else if same > highest + HALF {
            // before its first roll-over it can only have jumped ahead
            same.checked_sub(2 * HALF).unwrap_or(same)
        } else {
            same
        };
        if window.has(index) { Err(Error::Replayed) } else { Ok(Index(index)) }
    }

    /// Refuses what was seen before, of a sender that has proved genuine.
    pub(super) fn accept(&mut self, ssrc: u32, index: Index) -> Result<(), Error> {
        if let Some(window) = self.0.iter_mut().find(|window| window.ssrc == ssrc) {
            return if window.accept(index.0) { Ok(()) } else { Err(Error::Replayed) };
        }
        if self.0.len() == MAX_SENDERS {
            return Err(Error::Senders);
        }
        self.0.push(Window { ssrc, highest: index.0, seen: 1 });
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The last 128 packets of a sender: at 4 Mbit/s a third of a second, and what is sent again is of a sender of its own.
struct Window {
    ssrc: u32,
    highest: u64,
    /// Bit n: `highest - n` was seen.
    seen: u128,
}

impl Window {
    /// Reports whether it was seen, or is too old to know.
    fn has(&self, index: u64) -> bool {
        let Some(back) = self.highest.checked_sub(index) else { return false };
        bit(back).is_none_or(|bit| self.seen & bit != 0)
    }

    fn accept(&mut self, index: u64) -> bool {
        if self.has(index) {
            return false;
        }
        if let Some(ahead) = index.checked_sub(self.highest) {
            self.seen = u32::try_from(ahead).ok().and_then(|ahead| self.seen.checked_shl(ahead)).unwrap_or(0) | 1;
            self.highest = index;
        } else {
            self.seen |= bit(self.highest - index).unwrap_or(0);
        }
        true
    }
}

fn bit(back: u64) -> Option<u128> {
    1_u128.checked_shl(u32::try_from(back).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_window_forgets_what_is_older_than_128_packets() {
        let mut window = Window { ssrc: 1, highest: 200, seen: 1 };
        assert!(window.accept(73));
        assert!(!window.accept(73));
        assert!(!window.accept(72), "too old to know");
        assert!(window.accept(1_000));
        assert!(!window.accept(1_000));
        assert!(window.accept(999));
        assert!(!window.accept(200));
    }

    #[test]
    fn a_first_packet_that_others_have_overtaken_is_no_roll_over() {
        let mut senders = Senders::default();
        senders.accept(1, Index(3)).unwrap();
        assert_eq!(senders.guess(1, 65_535), Ok(Index(65_535)), "there is nothing before the first 65,536");
        senders.accept(1, Index(65_530)).unwrap();
        assert_eq!(senders.guess(1, 2), Ok(Index(65_538)));
    }

    proptest! {
        #[test]
        fn numbers_are_counted_on_whatever_order_they_come_in(start in 0_u64..200_000, steps in proptest::collection::vec(-100_i64..300, 1..200)) {
            let mut senders = Senders::default();
            senders.accept(1, Index(start)).unwrap();
            let mut at = start;
            for step in steps {
                let next = at.saturating_add_signed(step).max(start);
                let [.., high, low] = next.to_be_bytes();
                match senders.guess(1, u16::from_be_bytes([high, low])) {
                    Ok(index) => {
                        prop_assert_eq!(index, Index(next));
                        prop_assert!(senders.accept(1, index).is_ok());
                    }
                    Err(error) => prop_assert_eq!(error, Error::Replayed),
                }
                at = at.max(next);
            }
        }
    }
}
