//! What the outcome of an attempt means for its event.

use jiff::SignedDuration;

use crate::schedule::Wish;

/// Soonest repetition of a request that the receiver calls wrong (4xx): only a person can mend that.
const CLIENT_ERROR_WAIT: SignedDuration = SignedDuration::from_mins(1);

/// How an attempt came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver answered with a status of 100 to 999.
    Answered { status: u16, retry_after: Option<SignedDuration> },
    /// There was no answer, or no request.
    Failed(Failure),
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No complete answer within the deadline.
    Timeout,
    /// No connection: refused, unreachable.
    Connect,
    /// The host's name has no address.
    Dns,
    /// No trusted TLS connection: certificate, name, version.
    Tls,
    /// The connection ended before a usable answer.
    Reset,
    /// What the spec, or the Secret, holds is no hook URL.
    InvalidUrl,
    /// The Secret of the URL, or its key, does not exist.
    SecretMissing,
    /// The MediaPool does not exist.
    PoolMissing,
    /// The settings could not be read.
    Settings,
}

impl Failure {
    /// The name in `lane.lastError` and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "Timeout",
            Self::Connect => "Connect",
            Self::Dns => "DNS",
            Self::Tls => "TLS",
            Self::Reset => "Reset",
            Self::InvalidUrl => "InvalidURL",
            Self::SecretMissing => "SecretMissing",
            Self::PoolMissing => "PoolMissing",
            Self::Settings => "Settings",
        }
    }
}

impl Outcome {
    /// The class in metrics and logs: `Delivered`, a [`Failure`], or what kind of status it was.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Answered { status: 200..=299, .. } => "Delivered",
            Self::Answered { status: 300..=399, .. } => "Redirect",
            Self::Answered { .. } => "Status",
            Self::Failed(failure) => failure.as_str(),
        }
    }

    /// Whether the receiver has the event.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        judge(self) == Verdict::Delivered
    }

    /// The HTTP status, when there was an answer.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answered { status, .. } => Some(*status),
            Self::Failed(_) => None,
        }
    }
}

/// What to do with the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver has it.
    Delivered,
    /// Try again later.
    Retry(Wish),
    /// Send nothing there until the spec changes.
    Stop(Stop),
}

/// Why a lane stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The receiver answered 410.
    Gone,
}

/// Judges an outcome. Only 2xx is success; a redirect is not followed and so is a failure.
#[must_use]
pub fn judge(outcome: &Outcome) -> Verdict {
    match *outcome {
        Outcome::Answered { status: 200..=299, .. } => Verdict::Delivered,
        Outcome::Answered { status: 410, .. } => Verdict::Stop(Stop::Gone),
        Outcome::Answered { status, retry_after } => Verdict::Retry(Wish { retry_after, at_least: at_least(status) }),
        Outcome::Failed(_) => Verdict::Retry(Wish::default()),
    }
}

fn at_least(status: u16) -> Option<SignedDuration> {
    match status {
        // "Try again": too early, too many, timed out.
        408 | 425 | 429 => None,
        400..=499 => Some(CLIENT_ERROR_WAIT),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16) -> Verdict {
        judge(&Outcome::Answered { status, retry_after: None })
    }

    #[test]
    fn only_2xx_is_success() {
        for status in 100..=999 {
            assert_eq!(answered(status) == Verdict::Delivered, (200..300).contains(&status), "{status}");
        }
    }

    #[test]
    fn gone_stops_the_lane() {
        assert_eq!(answered(410), Verdict::Stop(Stop::Gone));
    }

    #[test]
    fn a_wrong_request_waits_for_a_minute_and_a_busy_receiver_does_not() {
        let minute = Wish { at_least: Some(SignedDuration::from_mins(1)), retry_after: None };
        for status in [400, 401, 403, 404, 422] {
            assert_eq!(answered(status), Verdict::Retry(minute), "{status}");
        }
        for status in [301, 308, 408, 425, 429, 500, 503] {
            assert_eq!(answered(status), Verdict::Retry(Wish::default()), "{status}");
        }
        assert_eq!(judge(&Outcome::Failed(Failure::Timeout)), Verdict::Retry(Wish::default()));
    }

    #[test]
    fn a_class_fits_the_status_field() {
        assert_eq!(Outcome::Failed(Failure::Dns).class(), "DNS");
        assert_eq!(Outcome::Answered { status: 302, retry_after: None }.class(), "Redirect");
        assert_eq!(Outcome::Answered { status: 503, retry_after: None }.class(), "Status");
    }
}
