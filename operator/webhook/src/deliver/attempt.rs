//! One attempt: look the settings up, and POST if the event is to be sent.

use std::{sync::Arc, time::Duration};

use tallylight_crds::Broadcast;

use super::{Resolver, Shared};
use crate::{
    body::Body,
    crash, http,
    lane::Delivery,
    settings::{ResolveError, Settings},
    verdict::Outcome,
};

/// Longest wait for the settings: they are in memory, or one read away.
const RESOLVE: Duration = Duration::from_secs(10);

/// What came of an attempt.
pub(super) struct Attempted {
    pub(super) delivery: Delivery,
    pub(super) result: Result<Outcome, Unsent>,
    /// What it was made with, when that could be had.
    pub(super) settings: Option<Settings>,
    /// What the request took, without the wait for its turn.
    pub(super) took: Duration,
}

/// Why an event is settled without a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsent {
    NoEndpoint,
    Filtered,
}

/// Settles the settings within the deadline.
pub(super) async fn settings<S, R: Resolver>(
    shared: Arc<Shared<S, R>>,
    broadcast: Arc<Broadcast>,
) -> Result<Settings, ResolveError> {
    let resolved = tokio::time::timeout(RESOLVE, shared.resolver.settings(&broadcast)).await;
    resolved.unwrap_or(Err(ResolveError::Unavailable))
}

pub(super) async fn attempt<S, R: Resolver>(
    shared: Arc<Shared<S, R>>,
    broadcast: Arc<Broadcast>,
    delivery: Delivery,
) -> Attempted {
    crash::point(crash::Point::BeforePost);
    let settings = match settings(shared.clone(), broadcast.clone()).await {
        Ok(settings) => settings,
        Err(error) => {
            let result = Ok(Outcome::Failed(error.failure()));
            return Attempted { delivery, result, settings: None, took: Duration::ZERO };
        }
    };
    let (result, took) = send(&shared, &broadcast, &delivery, &settings).await;
    Attempted { delivery, result, settings: Some(settings), took }
}

async fn send<S, R>(
    shared: &Shared<S, R>,
    broadcast: &Broadcast,
    delivery: &Delivery,
    settings: &Settings,
) -> (Result<Outcome, Unsent>, Duration) {
    if !settings.sends(delivery.event.action) {
        return (Err(Unsent::Filtered), Duration::ZERO);
    }
    let Some(endpoint) = &settings.endpoint else {
        return (Err(Unsent::NoEndpoint), Duration::ZERO);
    };
    let uid = broadcast.metadata.uid.as_deref().unwrap_or_default();
    let body = Body::of(broadcast, &settings.app, &delivery.event, settings.content_type);
    let _turn = shared.posts.acquire().await.expect("the semaphore is never closed");
    let started = tokio::time::Instant::now();
    let request = http::Request {
        endpoint,
        body,
        id: ledger::event_id(uid, &delivery.event),
        timestamp: shared.options.clock.now(),
        timeout: settings.timeout,
    };
    let outcome = shared.client.post(request).await;
    if outcome.is_delivered() {
        crash::point(crash::Point::AfterPost);
    }
    (Ok(outcome), started.elapsed())
}
