//! Waits for a condition with a deadline, and says what was seen instead.

use std::{fmt::Display, time::Duration};

use anyhow::{Result, anyhow};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout_at};

/// How long between two looks: short beside what is waited for, long beside what a look costs (a request at most).
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks until `probe` gives a value, for at most `deadline`.
///
/// The probe returns `Err(seen)` while the condition does not hold.
///
/// # Errors
/// At the deadline, with `what` was waited for and what was last seen.
pub async fn until<T, S: Display>(
    what: impl Display,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, S>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut last = "nothing: the first look did not return".to_owned();
    let mut looks = looks();
    loop {
        looks.tick().await;
        match timeout_at(end, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = seen.to_string(),
            Err(_) => return Err(gave_up(&what, deadline, &last)),
        }
        if Instant::now() + INTERVAL > end {
            return Err(gave_up(&what, deadline, &last));
        }
    }
}

/// Asserts that `probe` holds at every look for the whole `duration`: what must not happen did not happen in that time.
///
/// # Errors
/// As soon as a look returns an error.
pub async fn throughout(
    what: impl Display,
    duration: Duration,
    mut probe: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let end = Instant::now() + duration;
    let mut looks = looks();
    while Instant::now() < end {
        probe().await.map_err(|error| error.context(format!("while {what}")))?;
        looks.tick().await;
    }
    Ok(())
}

fn gave_up(what: &impl Display, deadline: Duration, last: &str) -> anyhow::Error {
    anyhow!("waited {deadline:?} for {what}; last seen: {last}")
}

/// Ticks at once, and then so long after the look before.
fn looks() -> Interval {
    let mut looks = interval(INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}
