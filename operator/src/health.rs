//! `/healthz`, `/readyz` and `/metrics`.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::sync::watch;

use crate::scope::Place;

/// What the pages show.
#[derive(Clone)]
pub(crate) struct Health {
    registry: Arc<Mutex<Registry>>,
    /// What has not listed yet.
    missing: watch::Sender<BTreeSet<(Watch, Place)>>,
}

/// The watches that must have listed once, in each namespace, before the operator is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Watch {
    Broadcasts,
    Pools,
    Leases,
    Pods,
    Services,
}

impl Health {
    pub(crate) fn new(registry: Registry, places: &[Place]) -> Self {
        let watches = [Watch::Broadcasts, Watch::Pools, Watch::Leases, Watch::Pods, Watch::Services];
        let missing = watches.iter().flat_map(|watch| places.iter().map(|place| (*watch, place.clone()))).collect();
        Self { registry: Arc::new(Mutex::new(registry)), missing: watch::Sender::new(missing) }
    }

    /// A watch has listed everything once.
    pub(crate) fn synced(&self, watch: Watch, place: &Place) {
        self.missing.send_if_modified(|missing| missing.remove(&(watch, place.clone())));
    }

    fn is_ready(&self) -> bool {
        self.missing.borrow().is_empty()
    }

    /// Returns when every watch has listed.
    pub(crate) async fn wait_until_ready(&self) {
        let ready = self.missing.subscribe().wait_for(BTreeSet::is_empty).await.is_ok();
        debug_assert!(ready, "the sender is in self");
    }

    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(async || "ok"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self)
    }
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    if health.is_ready() {
        (StatusCode::OK, "ok")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the caches are not filled yet: are the custom resource definitions installed?",
        )
    }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let mut text = String::new();
    let registry = health.registry.lock().unwrap_or_else(PoisonError::into_inner);
    match encode(&mut text, &registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [("content-type", kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
