//! When each packet came, by the numbers that a sender counts over all it sends (draft-holmer-rmcat-transport-wide-cc-extensions-01):
//! from this it learns how much the path takes. Without it a browser stays at 300 kbit/s.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::missing::near;

/// libwebrtc reports every 50 to 250 ms; its estimator is made for 100.
const INTERVAL: Duration = Duration::from_millis(100);

/// Packets that one report tells of: 100 ms of 100 Mbit/s. When more wait, the report is due at once.
const MAX_STATUSES: i64 = 1_024;

/// Ticks of 250 µs, 256 of which are one of the reference time.
const TICK: Duration = Duration::from_micros(250);
const REFERENCE: i64 = 256;

const TRANSPORT_FEEDBACK: u8 = 205;
const FORMAT: u8 = 15;

/// What was not yet reported.
#[derive(Debug)]
pub(super) struct Congestion {
    start: Instant,
    /// The number to report from.
    next: Option<i64>,
    /// In ticks since the start.
    came: BTreeMap<i64, i64>,
    media_ssrc: u32,
    reports: u8,
    due: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Lost,
    /// A difference of one byte.
    Small(u8),
    Large(i16),
}

impl Status {
    fn symbol(self) -> u16 {
        match self {
            Self::Lost => 0,
            Self::Small(_) => 1,
            Self::Large(_) => 2,
        }
    }
}

impl Congestion {
    pub(super) fn new(start: Instant) -> Self {
        Self { start, next: None, came: BTreeMap::new(), media_ssrc: 0, reports: 0, due: None }
    }

    pub(super) fn arrived(&mut self, number: u16, media_ssrc: u32, now: Instant) {
        let next = *self.next.get_or_insert_with(|| number.into());
        let number = near(next, number);
        // what is before was said to be lost, and what is far ahead is of a sender that counts anew
        if number < next {
            return;
        }
        if number >= next + MAX_STATUSES {
            self.came.clear();
            self.next = Some(number);
        }
        let ticks = now.saturating_duration_since(self.start).as_micros() / TICK.as_micros();
        self.came.entry(number).or_insert_with(|| i64::try_from(ticks).unwrap_or(i64::MAX));
        self.media_ssrc = media_ssrc;
        self.due.get_or_insert(now + INTERVAL);
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.due.map(|due| (due, "feedback on congestion is due"))
    }

    /// Appends a report, if it is due.
    pub(super) fn write(&mut self, ssrc: u32, out: &mut Vec<u8>, now: Instant) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        self.due = None;
        while let Some((base, statuses, reference)) = self.take() {
            let head = Head { ssrc, media_ssrc: self.media_ssrc, base, reference, number: self.reports };
            write(&head, &statuses, out);
            self.reports = self.reports.wrapping_add(1);
        }
    }

    /// The packets of one report, in order: those whose times can be said by differences.
    fn take(&mut self) -> Option<(i64, Vec<Status>, i64)> {
        let (base, reference) = (self.next?, self.came.first_key_value()?.1.div_euclid(REFERENCE));
        let (mut statuses, mut before) = (Vec::new(), reference * REFERENCE);
        let mut next = base;
        while let Some((&number, &came)) = self.came.first_key_value() {
            let Ok(difference) = i16::try_from(came - before) else { break };
            statuses.extend((next..number).map(|_| Status::Lost));
            statuses.push(u8::try_from(difference).map_or(Status::Large(difference), Status::Small));
            self.came.pop_first();
            (before, next) = (came, number + 1);
        }
        self.next = Some(next);
        Some((base, statuses, reference))
    }
}

struct Head {
    ssrc: u32,
    media_ssrc: u32,
    base: i64,
    reference: i64,
    number: u8,
}

fn write(head: &Head, statuses: &[Status], out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0x80 | FORMAT, TRANSPORT_FEEDBACK, 0, 0]);
    out.extend_from_slice(&head.ssrc.to_be_bytes());
    out.extend_from_slice(&head.media_ssrc.to_be_bytes());
    // truncations: numbers are sent as 16 bits, times as 24
    out.extend_from_slice(&(head.base as u16).to_be_bytes());
    out.extend_from_slice(&(statuses.len() as u16).to_be_bytes());
    let [.., a, b, c] = head.reference.to_be_bytes();
    out.extend_from_slice(&[a, b, c, head.number]);
    chunks(statuses, out);
    for status in statuses {
        match status {
            Status::Lost => {}
            Status::Small(difference) => out.push(*difference),
            Status::Large(difference) => out.extend_from_slice(&difference.to_be_bytes()),
        }
    }
    let length = (out.len() - at).next_multiple_of(4);
    out.resize(at + length, 0);
    let words = u16::try_from(length / 4 - 1).expect("1,024 packets take at most 3 KiB").to_be_bytes();
    if let Some(field) = out.get_mut(at + 2..at + 4) {
        field.copy_from_slice(&words);
    }
}

/// A run of one symbol, or seven of any (§3.1.3 and §3.1.4).
fn chunks(mut statuses: &[Status], out: &mut Vec<u8>) {
    while let Some(first) = statuses.first() {
        let symbol = first.symbol();
        let run = statuses.iter().take_while(|status| status.symbol() == symbol).count();
        let (chunk, taken) = if run >= 7 || run == statuses.len() {
            // no loss: a report has 1,024 at most
            ((symbol << 13) | run as u16, run)
        } else {
            let seven = statuses.iter().take(7).zip((0..14).step_by(2).rev());
            (seven.fold(0xc000, |chunk, (status, shift)| chunk | (status.symbol() << shift)), statuses.len().min(7))
        };
        out.extend_from_slice(&chunk.to_be_bytes());
        statuses = statuses.get(taken..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(arrivals: &[(u16, u64)]) -> Vec<u8> {
        let start = crate::clock::for_tests();
        let mut congestion = Congestion::new(start);
        let mut now = start;
        for (number, millis) in arrivals {
            now = start + Duration::from_millis(*millis);
            congestion.arrived(*number, 9, now);
        }
        let mut out = Vec::new();
        congestion.write(5, &mut out, now + INTERVAL);
        assert_eq!(congestion.poll_timeout(), None, "nothing else is scheduled");
        out
    }

    #[test]
    fn a_report_tells_when_each_packet_came() {
        // 65,535 and 1 came, 0 did not; 130 ms are two of the reference time and 8 ticks
        let head = [0x8f, 205, 0, 5, 0, 0, 0, 5, 0, 0, 0, 9, 0xff, 0xff, 0, 3, 0, 0, 2, 0];
        let body = [0b1101_0001, 0, 8, 4];
        assert_eq!(written(&[(65_535, 130), (1, 131)]), [&head[..], &body[..]].concat());
    }

    #[test]
    fn a_run_is_one_chunk_and_a_late_packet_a_large_difference() {
        let mut arrivals: Vec<_> = (0..8).map(|number| (number, 0)).collect();
        arrivals.extend([(8, 100)]);
        let head = [0x8f, 205, 0, 8, 0, 0, 0, 5, 0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0, 0];
        // eight in one byte each, then one in two: 400 ticks
        let body = [0x20, 8, 0x40, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x90, 0, 0];
        assert_eq!(written(&arrivals), [&head[..], &body[..]].concat());
    }

    proptest! {
        #[test]
        fn reports_are_whole_words_and_say_their_length(arrivals in proptest::collection::vec((any::<u16>(), 0_u64..20_000), 1..300)) {
            let mut arrivals = arrivals;
            arrivals.sort_by_key(|(_, millis)| *millis);
            let out = written(&arrivals);
            let mut rest = &out[..];
            while let Some(head) = rest.first_chunk::<4>() {
                let length = 4 * (usize::from(u16::from_be_bytes([head[2], head[3]])) + 1);
                prop_assert!(head[..2] == [0x8f, 205] && length <= rest.len());
                rest = &rest[length..];
            }
            prop_assert!(rest.is_empty());
        }
    }
}
