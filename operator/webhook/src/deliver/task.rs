//! The task of one lane, for as long as its Broadcast has events that wait.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use ledger::{Committed, Input, Store, commit_with};
use tallylight_crds::Broadcast;
use tokio::{sync::watch, time::Instant};

use super::{
    News, Report, ReportKind, Resolver, Shared,
    attempt::{Attempted, attempt, settings},
    metrics::LaneGauge,
};
use crate::{
    crash,
    lane::{Activity, Lane, Turn},
    settings::{ResolveError, Settings},
    verdict::Outcome,
};

/// Longest wait for one write; the store's own clients give up sooner.
const WRITE: Duration = Duration::from_secs(10);
/// First and longest pause after a write that the store did not take.
const WRITE_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How long a request in flight, and the write of what came of it, may go on after cancellation. What is cut off is sent
/// again by the next process, under the same id.
const DRAIN: Duration = Duration::from_secs(5);
/// Longest sleep: a wall clock that was set, or a laptop that slept, is noticed within this.
const NAP: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

type Running<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

pub(super) struct Task<S, R> {
    pub(super) shared: Arc<Shared<S, R>>,
    pub(super) news: watch::Receiver<News>,
    pub(super) lane: Lane,
    /// The newest reading.
    pub(super) known: Arc<Broadcast>,
    pub(super) gauge: LaneGauge,
    pub(super) wakes: u64,
    /// The settings of the latest attempt, or as they were found since.
    pub(super) settings: Option<Settings>,
    /// Whether to look if the settings have changed.
    pub(super) look: bool,
    pub(super) writes_failed: u32,
    pub(super) write_not_before: Option<Instant>,
}

/// What a write came to.
enum Wrote {
    Done(Box<Broadcast>, Input),
    /// The Broadcast is no more, or not the one that was known.
    Gone,
    Failed,
}

/// Whether a lane has more to do.
#[derive(PartialEq)]
enum Flow {
    Continue,
    End,
}

impl<S: Store, R: Resolver> Task<S, R> {
    pub(super) async fn run(mut self) {
        let mut post: Running<Attempted> = None;
        let mut write: Running<Wrote> = None;
        let mut look: Running<Result<Settings, ResolveError>> = None;
        let cancel = self.shared.cancel.clone();
        let mut drained = None;
        loop {
            if drained.is_none() {
                self.start_post(&mut post);
                self.start_look(&mut look);
            }
            self.start_write(&mut write);
            self.gauge.show(&self.lane);
            let idle = post.is_none() && write.is_none();
            if idle && (drained.is_some() || (self.lane.is_done() && self.retire())) {
                return;
            }
            let due = self.due(post.is_some());
            tokio::select! {
                attempted = finished(&mut post) => self.attempted(&attempted),
                found = finished(&mut look) => self.found(found),
                wrote = finished(&mut write) => if self.wrote(wrote) == Flow::End { return },
                changed = self.news.changed() => match changed {
                    Ok(()) => self.hear(),
                    Err(_forgotten) => return,
                },
                () = due, if drained.is_none() => {}
                () = pause(self.write_not_before), if write.is_none() => self.write_not_before = None,
                () = cancel.cancelled(), if drained.is_none() => drained = Some(Instant::now() + DRAIN),
                () = pause(drained) => return,
            }
        }
    }

    fn start_post(&mut self, post: &mut Running<Attempted>) {
        if post.is_none()
            && let Some(delivery) = self.lane.next_due(self.shared.options.clock.now())
        {
            *post = Some(Box::pin(attempt(self.shared.clone(), self.known.clone(), delivery)));
        }
    }

    /// A lane that waits, or was stopped, looks up the settings that an attempt would use: a change of them wakes it. One that
    /// is sending looks when that has failed.
    fn start_look(&mut self, look: &mut Running<Result<Settings, ResolveError>>) {
        if self.look && look.is_none() && self.lane.activity() != Activity::Delivering {
            self.look = false;
            *look = Some(Box::pin(settings(self.shared.clone(), self.known.clone())));
        }
    }

    fn found(&mut self, found: Result<Settings, ResolveError>) {
        let Ok(found) = found else { return };
        let changed = self.settings.as_ref().map_or_else(|| self.lane.is_unresolved(), |known| *known != found);
        self.settings = Some(found);
        if changed {
            self.lane.wake();
        }
    }

    fn start_write(&mut self, write: &mut Running<Wrote>) {
        if write.is_none()
            && self.write_not_before.is_none()
            && let Some(input) = self.lane.next_write()
        {
            *write = Some(Box::pin(commit(self.shared.clone(), self.known.clone(), input)));
        }
    }

    /// Waits until the lane is to be asked again; for ever when only news can change it, or a request is in flight.
    fn due(&self, in_flight: bool) -> impl Future<Output = ()> + Send + use<S, R> {
        let clock = &self.shared.options.clock;
        let timeout = self.lane.poll_timeout().filter(|_| !in_flight);
        let sleep = timeout.map(|(due, _why)| {
            let nap = clock.now().saturating_add(NAP).unwrap_or(due);
            clock.sleep_until(due.min(nap))
        });
        async {
            match sleep {
                Some(sleep) => sleep.await,
                None => std::future::pending().await,
            }
        }
    }

    fn hear(&mut self) {
        let news = self.news.borrow_and_update().clone();
        if self.lane.observe(&news.broadcast) {
            self.known = news.broadcast;
        }
        if news.wakes != self.wakes {
            self.wakes = news.wakes;
            self.look = true;
        }
    }

    fn attempted(&mut self, attempted: &Attempted) {
        let Attempted { delivery, result, settings, .. } = attempted;
        self.settings.clone_from(settings);
        let now = self.shared.options.clock.now();
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(unsent) => {
                self.lane.skip();
                self.shared.metrics.unsent(delivery.event.action, *unsent);
                let broadcast = ledger::Key::of(&self.known);
                tracing::debug!(%broadcast, sequence = delivery.event.sequence, ?unsent, "delivery.skipped");
                return;
            }
        };
        let recorded = self.lane.record(outcome, now);
        self.shared.metrics.attempted(outcome.class());
        if outcome.is_delivered() {
            let latency = now.duration_since(delivery.event.time).as_secs_f64();
            self.shared.metrics.delivered(delivery.event.action, latency);
        }
        self.log(attempted, outcome, recorded.next_attempt);
        let kind = match recorded.turn {
            Turn::None => return,
            Turn::Failing => ReportKind::Failing,
            Turn::Recovered => ReportKind::Recovered,
            Turn::Stopped => ReportKind::Gone,
        };
        let report = Report {
            kind,
            class: outcome.class(),
            status: outcome.status(),
            attempt: delivery.attempt,
            next_attempt: recorded.next_attempt,
        };
        (self.shared.options.report)(&self.known, &report);
    }

    fn log(&self, attempted: &Attempted, outcome: &Outcome, next: Option<jiff::Timestamp>) {
        let Attempted { delivery, settings, took, .. } = attempted;
        let endpoint = settings.as_ref().and_then(|settings| settings.endpoint.as_ref());
        let uid = self.known.metadata.uid.as_deref().unwrap_or_default();
        tracing::info!(
            broadcast = %ledger::Key::of(&self.known),
            event_id = %ledger::event_id(uid, &delivery.event),
            action = delivery.event.action.as_str(),
            session = delivery.event.session,
            sequence = delivery.event.sequence,
            attempt = delivery.attempt,
            class = outcome.class(),
            status = outcome.status(),
            origin = endpoint.map(tracing::field::display),
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            next_attempt = next.as_ref().map(tracing::field::display),
            "delivery.attempted"
        );
    }

    fn wrote(&mut self, wrote: Wrote) -> Flow {
        match wrote {
            Wrote::Done(broadcast, input) => {
                self.writes_failed = 0;
                self.lane.wrote(&input);
                self.lane.observe(&broadcast);
                self.known = Arc::from(broadcast);
                Flow::Continue
            }
            Wrote::Gone => {
                self.shared.forget(&self.known);
                Flow::End
            }
            Wrote::Failed => {
                self.shared.metrics.unwritten();
                let (first, longest) = WRITE_PAUSE;
                let pause = first.saturating_mul(1 << self.writes_failed.min(16)).min(longest);
                self.writes_failed = self.writes_failed.saturating_add(1);
                self.write_not_before = Some(Instant::now() + pause);
                Flow::Continue
            }
        }
    }

    /// Ends the lane unless there is news.
    fn retire(&self) -> bool {
        self.shared.retire(&self.known, &self.news, self.lane.settled())
    }
}

async fn commit<S: Store, R: Resolver>(shared: Arc<Shared<S, R>>, known: Arc<Broadcast>, input: Input) -> Wrote {
    let is_ack = matches!(input, Input::Ack { .. });
    crash::point(if is_ack { crash::Point::BeforeAck } else { crash::Point::BeforeLane });
    let annotate = &shared.options.annotate;
    let write = commit_with(&shared.store, &known, &input, |broadcast, status| annotate(broadcast, status));
    let broadcast = ledger::Key::of(&known);
    match tokio::time::timeout(WRITE, write).await {
        Ok(Ok(Committed::Done(broadcast))) => {
            crash::point(if is_ack { crash::Point::AfterAck } else { crash::Point::AfterLane });
            Wrote::Done(broadcast, input)
        }
        Ok(Ok(Committed::Gone)) => Wrote::Gone,
        Ok(Ok(Committed::Rejected(rejection))) => {
            tracing::warn!(%broadcast, %rejection, "the ledger is not the one that was delivered from");
            Wrote::Gone
        }
        Ok(Err(error)) => {
            tracing::warn!(%broadcast, error = &error as &dyn std::error::Error, "an acknowledgement was not written");
            Wrote::Failed
        }
        Err(_elapsed) => {
            tracing::warn!(%broadcast, "the store did not answer an acknowledgement in time");
            Wrote::Failed
        }
    }
}

/// Waits for the future in the slot and empties it; for ever when there is none. Dropping the wait keeps the future.
async fn finished<T>(slot: &mut Running<T>) -> T {
    match slot {
        Some(running) => {
            let output = running.await;
            *slot = None;
            output
        }
        None => std::future::pending().await,
    }
}

async fn pause(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
