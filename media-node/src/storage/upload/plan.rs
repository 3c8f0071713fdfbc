//! Decides what of a file is sent next. Pure.

use serde::{Deserialize, Serialize};

use super::Growth;

/// Least size of a part that is not the last, by S3.
const MIN_PART: u64 = 5 << 20;
/// Most parts of an upload, by S3.
pub(super) const MAX_PARTS: usize = 10_000;
/// Parts grow with the file: the first 10 GiB in parts of 5 MiB, and by a 2,000th of what was sent from there. So 10,000 parts are
/// more than 500 GiB: 24 hours at 50 Mbit/s.
const GROWTH: u64 = 2_000;

/// What was sent, as it is noted beside the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    pub(super) key: String,
    pub(super) upload_id: Option<String>,
    pub(super) parts: Vec<Part>,
}

/// A part that the service has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) bytes: u64,
    pub(super) tag: String,
    /// Whether it was read when the file grew no more.
    pub(super) closed: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    Begin,
    Anew,
    Put(Piece),
    Complete { len: u64 },
}

/// A part to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) index: usize,
    pub(super) from: u64,
    pub(super) end: End,
    pub(super) closed: bool,
}

/// Where a part ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    At(u64),
    /// With the first fragment that makes it so long; the last one of the file ends at `len`.
    Fragment {
        least: u64,
        len: u64,
    },
}

impl State {
    /// Bytes of all parts.
    pub(super) fn sent(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    pub(super) fn set(&mut self, index: usize, part: Part) {
        match self.parts.get_mut(index) {
            Some(known) => *known = part,
            None => self.parts.push(part),
        }
    }
}

pub(super) fn next(state: &State, growth: &Growth) -> Step {
    let (from, index) = (state.sent(), state.parts.len());
    let least = MIN_PART.max(from / GROWTH);
    let step = match growth {
        Growth::Open { len } if len.saturating_sub(from) < least => return Step::Wait,
        Growth::Open { len } => {
            Step::Put(Piece { index, from, end: End::Fragment { least, len: *len }, closed: false })
        }
        Growth::Closed { len, .. } if from > *len => return Step::Anew,
        Growth::Closed { len, patched } => match overwritten(state, patched.start, patched.end) {
            Some(piece) => Step::Put(piece),
            None if from < *len || index == 0 => {
                Step::Put(Piece { index, from, end: End::At(len.saturating_sub(from).min(least) + from), closed: true })
            }
            None => Step::Complete { len: *len },
        },
    };
    if state.upload_id.is_none() { Step::Begin } else { step }
}

/// A part that was sent before some of its bytes were overwritten.
fn overwritten(state: &State, start: u64, end: u64) -> Option<Piece> {
    let mut from = 0;
    for (index, part) in state.parts.iter().enumerate() {
        let to = from + part.bytes;
        if !part.closed && from < end && start < to {
            return Some(Piece { index, from, end: End::At(to), closed: true });
        }
        from = to;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn state(parts: &[u64]) -> State {
        let part = |bytes: &u64| Part { bytes: *bytes, tag: "t".into(), closed: false };
        State { key: "k".into(), upload_id: Some("u".into()), parts: parts.iter().map(part).collect() }
    }

    fn open(len: u64) -> Growth {
        Growth::Open { len }
    }

    fn closed(len: u64) -> Growth {
        Growth::Closed { len, patched: 32..48 }
    }

    #[test]
    fn a_file_that_grows_is_sent_as_soon_as_there_is_a_part() {
        assert_eq!(next(&state(&[]), &open(5 * MIB - 1)), Step::Wait);
        assert_eq!(next(&State::default(), &open(5 * MIB)), Step::Begin);
        let end = End::Fragment { least: 5 * MIB, len: 13 * MIB };
        let second = Piece { index: 1, from: 6 * MIB, end, closed: false };
        assert_eq!(next(&state(&[6 * MIB]), &open(13 * MIB)), Step::Put(second));
        assert_eq!(next(&state(&[6 * MIB]), &open(10 * MIB)), Step::Wait);
    }

    #[test]
    fn at_the_end_the_part_that_was_overwritten_is_sent_again_then_the_rest() {
        let mut sent = state(&[6 * MIB, 5 * MIB]);
        let again = Piece { index: 0, from: 0, end: End::At(6 * MIB), closed: true };
        assert_eq!(next(&sent, &closed(12 * MIB)), Step::Put(again));

        sent.parts[0].closed = true;
        let last = Piece { index: 2, from: 11 * MIB, end: End::At(12 * MIB), closed: true };
        assert_eq!(next(&sent, &closed(12 * MIB)), Step::Put(last));
        assert_eq!(next(&sent, &closed(11 * MIB)), Step::Complete { len: 11 * MIB });
        assert_eq!(next(&sent, &closed(10 * MIB)), Step::Anew, "a file that was cut");
    }

    #[test]
    fn a_short_file_and_an_empty_one_are_one_part() {
        assert_eq!(next(&State::default(), &closed(100)), Step::Begin);
        let only = |end| Step::Put(Piece { index: 0, from: 0, end: End::At(end), closed: true });
        assert_eq!(next(&state(&[]), &closed(100)), only(100));
        assert_eq!(next(&state(&[]), &closed(0)), only(0));
    }

    #[test]
    fn parts_grow_so_that_a_day_at_50_megabits_has_room() {
        let (mut sent, mut parts) = (0, 0);
        while sent < 24 * 3_600 * 50_000_000 / 8 {
            sent += MIN_PART.max(sent / GROWTH);
            parts += 1;
        }
        assert!(parts < MAX_PARTS, "{parts}");
    }
}
