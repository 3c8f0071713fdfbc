//! One attempt: look the settings up, and POST if the event is to be sent.

use std::{sync::Arc, time::Duration};

use tallylight_crds::Broadcast;

use super::{Resolver, Shared};
use crate::{
    body::Body,
    crash,
    endpoint::Endpoint,
    http,
    lane::Delivery,
    settings::ResolveError,
    verdict::{Failure, Outcome},
};

/// Longest wait for the settings: they are in memory, or one read away.
const RESOLVE: Duration = Duration::from_secs(10);

/// What came of an attempt.
pub(super) struct Attempted {
    pub(super) delivery: Delivery,
    pub(super) result: Result<Outcome, Unsent>,
    /// Where it went, if anywhere.
    pub(super) endpoint: Option<Endpoint>,
    /// What the request took, without the wait for its turn.
    pub(super) took: Duration,
}

/// Why an event is settled without a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsent {
    NoEndpoint,
    Filtered,
}

pub(super) async fn attempt<S, R: Resolver>(
    shared: Arc<Shared<S, R>>,
    broadcast: Arc<Broadcast>,
    delivery: Delivery,
) -> Attempted {
    crash::point(crash::Point::BeforePost);
    let unsent = |result, delivery| Attempted { delivery, result, endpoint: None, took: Duration::ZERO };
    let resolved = tokio::time::timeout(RESOLVE, shared.resolver.settings(&broadcast)).await;
    let settings = match resolved.unwrap_or(Err(ResolveError::Unavailable)) {
        Ok(settings) => settings,
        Err(error) => return unsent(Ok(Outcome::Failed(error.failure())), delivery),
    };
    if !settings.sends(delivery.event.action) {
        return unsent(Err(Unsent::Filtered), delivery);
    }
    let Some(endpoint) = settings.endpoint else {
        return unsent(Err(Unsent::NoEndpoint), delivery);
    };
    let uid = broadcast.metadata.uid.as_deref().unwrap_or_default();
    let body = Body::of(&broadcast, &settings.app, &delivery.event, settings.content_type);
    let Ok(_turn) = shared.posts.acquire().await else {
        return unsent(Ok(Outcome::Failed(Failure::Settings)), delivery);
    };
    let started = tokio::time::Instant::now();
    let request = http::Request {
        endpoint: &endpoint,
        body,
        id: ledger::event_id(uid, &delivery.event),
        timestamp: shared.options.clock.now(),
        timeout: settings.timeout,
    };
    let outcome = shared.client.post(request).await;
    if outcome.is_delivered() {
        crash::point(crash::Point::AfterPost);
    }
    Attempted { delivery, result: Ok(outcome), endpoint: Some(endpoint), took: started.elapsed() }
}
