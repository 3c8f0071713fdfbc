//! When a failed delivery is tried again. An event never dies here: the last step repeats.

use jiff::{SignedDuration, Timestamp, fmt::rfc2822};
use uuid::Uuid;

/// Waits after the 1st, 2nd, … failure; the last one repeats.
const STEPS: [SignedDuration; 9] = [
    SignedDuration::from_secs(1),
    SignedDuration::from_secs(2),
    SignedDuration::from_secs(5),
    SignedDuration::from_secs(15),
    SignedDuration::from_mins(1),
    SignedDuration::from_mins(5),
    SignedDuration::from_mins(15),
    SignedDuration::from_mins(30),
    SignedDuration::from_hours(1),
];
/// Jitter, in thousandths of a step, either way: lanes that failed together do not come back together.
const JITTER: i64 = 200;
/// Longest wait that a receiver may ask for with `Retry-After`.
const LONGEST_ASKED: SignedDuration = SignedDuration::from_hours(1);
/// Longest wait that [`delay`] gives: an hour, and its jitter.
pub const LONGEST: SignedDuration = SignedDuration::from_mins(72);

/// What a failed attempt says about the next one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// The receiver's `Retry-After`.
    pub retry_after: Option<SignedDuration>,
    /// What we hold to be soonest for that kind of failure.
    pub at_least: Option<SignedDuration>,
}

/// How long to wait after `failures` failed attempts of an event, ±20 % that depend on the event and the attempt alone.
#[must_use]
pub fn delay(event: Uuid, failures: u32, wish: Wish) -> SignedDuration {
    let Some(last) = failures.checked_sub(1) else {
        return SignedDuration::ZERO;
    };
    let index = usize::try_from(last).unwrap_or(usize::MAX).min(STEPS.len() - 1);
    let step = STEPS.get(index).copied().unwrap_or(LONGEST_ASKED).max(wish.at_least.unwrap_or_default());
    let asked = wish.retry_after.unwrap_or_default().min(LONGEST_ASKED);
    jittered(step, seed(event, failures)).max(wish.at_least.unwrap_or_default()).max(asked)
}

/// Reads a `Retry-After` header (RFC 9110, section 10.2.3): seconds, or an HTTP date. `None` when it is neither.
#[must_use]
pub fn retry_after(value: &str, now: Timestamp) -> Option<SignedDuration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(value.parse().map_or(LONGEST_ASKED, SignedDuration::from_secs).min(LONGEST_ASKED));
    }
    let date = rfc2822::DateTimeParser::new().relaxed_weekday(true).parse_timestamp(value).ok()?;
    Some(date.duration_since(now).clamp(SignedDuration::ZERO, LONGEST_ASKED))
}

fn jittered(step: SignedDuration, seed: u64) -> SignedDuration {
    let spread = u64::try_from(2 * JITTER + 1).unwrap_or(1);
    let thousandths = 1000 - JITTER + i64::try_from(seed % spread).unwrap_or(JITTER);
    let millis = i64::try_from(step.as_millis()).unwrap_or(i64::MAX);
    SignedDuration::from_millis(millis.saturating_mul(thousandths) / 1000)
}

/// Mixes event and attempt into bits that look random (the finalizer of SplitMix64).
fn seed(event: Uuid, failures: u32) -> u64 {
    let (high, low) = event.as_u64_pair();
    let mut x = high ^ low.rotate_left(32) ^ u64::from(failures).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wish(retry_after: i64, at_least: i64) -> Wish {
        Wish {
            retry_after: Some(SignedDuration::from_secs(retry_after)),
            at_least: Some(SignedDuration::from_secs(at_least)),
        }
    }

    #[test]
    fn the_first_attempt_is_at_once() {
        assert_eq!(delay(Uuid::nil(), 0, wish(100, 100)), SignedDuration::ZERO);
    }

    #[test]
    fn delays_grow_from_a_second_to_an_hour() {
        for (failures, seconds) in
            [(1, 1), (2, 2), (3, 5), (4, 15), (5, 60), (6, 300), (7, 900), (8, 1800), (9, 3600), (900, 3600)]
        {
            let got = delay(Uuid::from_u128(7), failures, Wish::default()).as_millis();
            let step = seconds * 1000;
            assert!((step * 8 / 10..=step * 12 / 10).contains(&got), "{failures}: {got} ms");
        }
    }

    #[test]
    fn a_delay_is_the_same_whenever_it_is_asked_for() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(delay(a, 4, Wish::default()), delay(a, 4, Wish::default()));
        assert_ne!(delay(a, 4, Wish::default()), delay(b, 4, Wish::default()), "two lanes do not march in step");
    }

    #[test]
    fn a_receiver_may_ask_for_later_but_not_for_sooner_nor_for_ever() {
        let event = Uuid::from_u128(3);
        assert_eq!(delay(event, 1, wish(30, 0)), SignedDuration::from_secs(30));
        assert_eq!(delay(event, 7, wish(30, 0)), delay(event, 7, Wish::default()));
        assert_eq!(delay(event, 1, wish(999_999, 0)), SignedDuration::from_hours(1));
    }

    #[test]
    fn a_retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2015-10-21T07:28:00Z".parse().unwrap();
        let seconds = |value| retry_after(value, now).map(|d| d.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds(" 0 "), Some(0));
        assert_eq!(seconds("99999999999999999999999"), Some(3600));
        assert_eq!(seconds("Wed, 21 Oct 2015 07:28:42 GMT"), Some(42));
        assert_eq!(seconds("Wed, 21 Oct 2015 07:00:00 GMT"), Some(0), "the past is now");
        assert_eq!(seconds("Thu, 21 Oct 2115 07:00:00 GMT"), Some(3600));
        for garbage in ["", "-1", "1.5", "soon", "Wed, 21 Oct", "\u{661}"] {
            assert_eq!(seconds(garbage), None, "{garbage}");
        }
    }

    proptest! {
        #[test]
        fn no_delay_leaves_its_bounds(event: u128, failures in 1_u32.., asked in 0_i64..1_000_000, least in 0_i64..3600) {
            let got = delay(Uuid::from_u128(event), failures, wish(asked, least));
            prop_assert!(got >= SignedDuration::from_millis(800));
            prop_assert!(got <= LONGEST);
        }
    }
}
