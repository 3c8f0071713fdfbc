//! Named points where a test lets the process die: `TALLYLIGHT_CRASH_AT=after-post:2` aborts at the second passing of
//! `after-post`. Without the feature `crash-points`, and outside this crate's tests, a point is nothing.

/// Where a process may die between an event and its acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(any(test, feature = "crash-points")),
    allow(dead_code, reason = "points are named but nothing reads the names")
)]
pub(crate) enum Point {
    /// An event is due, nothing is sent.
    BeforePost,
    /// The receiver has answered with success.
    AfterPost,
    /// The acknowledgement is not written.
    BeforeAck,
    /// The acknowledgement is durable.
    AfterAck,
    /// A failed attempt is not written down.
    BeforeLane,
    /// A failed attempt is written down.
    AfterLane,
    /// A recording is done, and its event is not appended.
    BeforeTell,
    /// The event of a recording is appended, and the Recording does not say so.
    AfterTell,
    /// The Recording says so.
    AfterNote,
}

#[cfg(not(any(test, feature = "crash-points")))]
#[inline]
pub(crate) fn point(_: Point) {}

#[cfg(any(test, feature = "crash-points"))]
pub(crate) fn point(point: Point) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };

    static PLAN: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);

    let plan = PLAN.get_or_init(|| {
        let plan = std::env::var("TALLYLIGHT_CRASH_AT").ok()?;
        let (name, nth) = plan.split_once(':').unwrap_or((&plan, "1"));
        Some((name.to_owned(), nth.parse().unwrap_or(1)))
    });
    let name = match point {
        Point::BeforePost => "before-post",
        Point::AfterPost => "after-post",
        Point::BeforeAck => "before-ack",
        Point::AfterAck => "after-ack",
        Point::BeforeLane => "before-lane",
        Point::AfterLane => "after-lane",
        Point::BeforeTell => "before-tell",
        Point::AfterTell => "after-tell",
        Point::AfterNote => "after-note",
    };
    if let Some((at, nth)) = plan
        && at == name
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *nth
    {
        std::process::abort();
    }
}
