//! What supplemental information (SEI) of H.264 and H.265 is about.

use super::{ENOUGH, unescaped};

/// Whether all messages of an SEI unit time the buffer of the standards' model decoder, or fill: buffering period, picture timing and
/// filler payload (Annex D of ITU-T H.264 and H.265 gives them the same numbers). Who shows pictures as they come has no use for
/// them. `body` is the unit without its header.
#[must_use]
pub fn times_a_model(body: &[u8]) -> bool {
    if body.len() > ENOUGH {
        return false;
    }
    let bytes = unescaped(body);
    let mut rest = &bytes[..];
    let mut messages = 0;
    // the trailing bits
    while !matches!(rest, [] | [0x80]) {
        let (Some(kind), Some(size)) = (number(&mut rest), number(&mut rest)) else { return false };
        let Some(after) = rest.get(size..) else { return false };
        if !matches!(kind, 0 | 1 | 3) {
            return false;
        }
        rest = after;
        messages += 1;
    }
    messages > 0
}

/// A number in bytes that are added up, to the first that is not 255.
fn number(bytes: &mut &[u8]) -> Option<usize> {
    let mut sum = 0;
    loop {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        sum += usize::from(*first);
        if *first != 0xFF {
            return Some(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_units_that_hold_nothing_else_time_a_model() {
        for (body, times) in [
            (&[0, 2, 7, 7, 0x80][..], true),
            (&[1, 1, 7, 0x80], true),
            (&[1, 1, 7, 3, 2, 0xFF, 0xFF, 0x80], true),
            (&[1, 4, 0, 0, 3, 1, 9, 0x80], true), // with a byte that keeps a start code out
            (&[5, 2, 7, 7, 0x80], false),
            (&[1, 1, 7, 6, 1, 7, 0x80], false), // and a recovery point
            (&[1, 9, 7, 0x80], false),
            (&[0x80], false),
            (&[], false),
        ] {
            assert_eq!(times_a_model(body), times, "{body:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(body in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(!times_a_model(&body) || (1..=ENOUGH).contains(&body.len()));
        }
    }
}
