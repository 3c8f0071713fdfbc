//! What is reported of a source that is received (RFC 3550 §6.4.1, appendices A.3 and A.8).

use std::time::Instant;

use super::missing::near;
use crate::rtcp::Report;

/// What was received of one source.
#[derive(Debug)]
pub(super) struct Reception {
    /// Ticks a second.
    clock: u32,
    first: i64,
    highest: i64,
    received: u64,
    /// Expected and received as of the report before.
    before: (u64, u64),
    last: Option<(Instant, u32)>,
    /// In sixteenths of a tick.
    jitter: u64,
    /// The middle of its NTP time, and when it came.
    sender_report: Option<(u32, Instant)>,
}

impl Reception {
    pub(super) fn new(clock: u32) -> Self {
        Self { clock, first: 0, highest: 0, received: 0, before: (0, 0), last: None, jitter: 0, sender_report: None }
    }

    pub(super) fn arrived(&mut self, sequence: u16, timestamp: u32, now: Instant) {
        if self.received == 0 {
            (self.first, self.highest) = (sequence.into(), sequence.into());
        }
        self.highest = self.highest.max(near(self.highest, sequence));
        self.received += 1;
        let Some((came, before)) = self.last.replace((now, timestamp)) else { return };
        let micros = now.saturating_duration_since(came).as_micros();
        let ticks = i64::try_from(micros * u128::from(self.clock) / 1_000_000).unwrap_or(i64::MAX);
        let sent = i64::from(timestamp.wrapping_sub(before).cast_signed());
        // a sender whose clock has jumped says nothing of the path
        let difference = ticks.abs_diff(sent).min(u64::from(self.clock));
        self.jitter = self.jitter - self.jitter.div_ceil(16) + difference;
    }

    /// Its sender has said what time it is.
    pub(super) fn reported(&mut self, ntp: u64, now: Instant) {
        let [_, _, a, b, c, d, _, _] = ntp.to_be_bytes();
        self.sender_report = Some((u32::from_be_bytes([a, b, c, d]), now));
    }

    /// What there is to report since the last call; nothing of a source that has sent nothing.
    pub(super) fn block(&mut self, ssrc: u32, now: Instant) -> Option<Report> {
        if self.received == 0 {
            return None;
        }
        let expected = u64::try_from(self.highest - self.first).unwrap_or(0) + 1;
        let (expected_before, received_before) = std::mem::replace(&mut self.before, (expected, self.received));
        let (expected_now, received_now) = (expected - expected_before, self.received - received_before);
        let lost = expected_now.saturating_sub(received_now);
        let fraction = (lost * 256).checked_div(expected_now).unwrap_or(0);
        let (last_sender_report, delay) = match self.sender_report {
            Some((middle, came)) => (middle, since(came, now)),
            None => (0, 0),
        };
        // truncations: fields wrap, or are at their most
        Some(Report {
            ssrc,
            fraction_lost: u8::try_from(fraction).unwrap_or(u8::MAX),
            total_lost: u32::try_from(expected.saturating_sub(self.received)).unwrap_or(u32::MAX).min((1 << 23) - 1),
            highest: self.highest as u32,
            jitter: (self.jitter / 16) as u32,
            last_sender_report,
            delay,
        })
    }
}

/// In 1/65536 s.
fn since(came: Instant, now: Instant) -> u32 {
    let micros = now.saturating_duration_since(came).as_micros();
    u32::try_from((micros << 16) / 1_000_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn loss_and_jitter_are_reported_since_the_report_before() {
        let (mut reception, start) = (Reception::new(90_000), crate::clock::for_tests());
        assert_eq!(reception.block(9, start), None);

        // every fourth of 65,530 to 65,549 is lost
        for number in (0..20_u16).filter(|number| number % 4 != 1) {
            let now = start + Duration::from_millis(40) * u32::from(number);
            reception.arrived(65_530_u16.wrapping_add(number), 3_600 * u32::from(number), now);
        }
        reception.reported(0x0001_0203_0405_0607, start + Duration::from_secs(1));
        let block = reception.block(9, start + Duration::from_millis(1_500)).unwrap();
        let expected = Report {
            ssrc: 9,
            fraction_lost: 64,
            total_lost: 5,
            highest: 65_549,
            jitter: 0,
            last_sender_report: 0x0203_0405,
            delay: 0x8000,
        };
        assert_eq!(block, expected);

        let again = reception.block(9, start + Duration::from_millis(1_500)).unwrap();
        assert_eq!((again.fraction_lost, again.total_lost), (0, 5), "none since");
    }

    #[test]
    fn jitter_nears_what_packets_are_late_by() {
        let (mut reception, start) = (Reception::new(90_000), crate::clock::for_tests());
        for number in 0..400_u16 {
            // each second packet is 10 ms late
            let late = Duration::from_millis(if number % 2 == 0 { 0 } else { 10 });
            let now = start + Duration::from_millis(40) * u32::from(number) + late;
            reception.arrived(number, 3_600 * u32::from(number), now);
        }
        let jitter = reception.block(9, start).unwrap().jitter;
        assert!((880..=900).contains(&jitter), "{jitter}");
    }
}
