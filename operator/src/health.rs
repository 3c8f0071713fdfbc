//! `/healthz`, `/readyz` and `/metrics`.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use kube::{CustomResourceExt as _, runtime::watcher};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tallylight_crds::{Broadcast, MediaPool, Recording};
use tokio::sync::watch;

use crate::scope::Place;

/// What the pages show.
#[derive(Clone)]
pub(crate) struct Health {
    registry: Arc<Mutex<Registry>>,
    /// What has not listed yet, and why.
    missing: watch::Sender<BTreeMap<(Watch, Place), Obstacle>>,
}

/// The watches that must have listed once, in each namespace, before the operator is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Watch {
    Broadcasts,
    Pools,
    Recordings,
    Leases,
    Pods,
    Services,
}

/// Why a watch has not listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// It has not been answered yet, or the API server is in trouble.
    Unanswered,
    NotServed,
    Forbidden,
}

impl Health {
    pub(crate) fn new(registry: Registry, places: &[Place]) -> Self {
        let watches = [Watch::Broadcasts, Watch::Pools, Watch::Recordings, Watch::Leases, Watch::Pods, Watch::Services];
        let all = watches.iter().flat_map(|watch| places.iter().map(|place| (*watch, place.clone())));
        let missing = all.map(|each| (each, Obstacle::Unanswered)).collect();
        Self { registry: Arc::new(Mutex::new(registry)), missing: watch::Sender::new(missing) }
    }

    /// A watch has listed everything once.
    pub(crate) fn synced(&self, watch: Watch, place: &Place) {
        self.missing.send_if_modified(|missing| missing.remove(&(watch, place.clone())).is_some());
    }

    /// A watch has failed. One that had listed keeps what it has, and is ready, unless its kind is gone.
    pub(crate) fn failed(&self, watch: Watch, place: &Place, error: &watcher::Error) {
        let obstacle = Obstacle::of(error);
        self.missing.send_if_modified(|missing| {
            let each = (watch, place.clone());
            if !missing.contains_key(&each) && obstacle != Obstacle::NotServed {
                return false;
            }
            missing.insert(each, obstacle) != Some(obstacle)
        });
    }

    /// What the operator waits for, one a line; `None` when it is ready.
    fn waits_for(&self) -> Option<String> {
        let missing = self.missing.borrow();
        let lines: Vec<_> = missing.iter().map(|((watch, place), obstacle)| line(*watch, place, *obstacle)).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// Returns when every watch has listed.
    pub(crate) async fn wait_until_ready(&self) {
        let ready = self.missing.subscribe().wait_for(BTreeMap::is_empty).await.is_ok();
        debug_assert!(ready, "the sender is in self");
    }

    /// Returns when this kind has been listed once, in every place. A `Store` has a wait of its own, which wakes only the last of
    /// those who wait (kube-runtime 5.0, `DelayedInit`).
    pub(crate) async fn listed(&self, kind: Watch) {
        let is_listed = |missing: &BTreeMap<(Watch, Place), Obstacle>| missing.keys().all(|(watch, _)| *watch != kind);
        let listed = self.missing.subscribe().wait_for(is_listed).await.is_ok();
        debug_assert!(listed, "the sender is in self");
    }

    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(async || "ok"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self)
    }
}

impl Obstacle {
    fn of(error: &watcher::Error) -> Self {
        let (watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))) = error
        else {
            return Self::Unanswered;
        };
        match status.code {
            404 => Self::NotServed,
            403 => Self::Forbidden,
            _ => Self::Unanswered,
        }
    }
}

/// Why this watch has not listed, and the remedy.
fn line(watch: Watch, place: &Place, obstacle: Obstacle) -> String {
    let of = place.as_ref().map_or_else(String::new, |namespace| format!(" of namespace {namespace}"));
    match obstacle {
        Obstacle::Unanswered => format!("the {watch}{of} are not listed yet: does the API server answer?"),
        Obstacle::Forbidden => {
            format!("the {watch}{of} may not be listed: grant the operator list and watch, as the chart's roles do")
        }
        Obstacle::NotServed => {
            let kind = watch.definition().unwrap_or_default();
            format!(
                "the {watch}{of} are not served: apply the custom resource definition {kind} (the chart's \
                 crds.enabled=true, or kubectl apply -f crds/); the operator goes on by itself then"
            )
        }
    }
}

impl Watch {
    /// The name of the custom resource definition, for kinds that have one.
    fn definition(self) -> Option<&'static str> {
        match self {
            Self::Broadcasts => Some(Broadcast::crd_name()),
            Self::Pools => Some(MediaPool::crd_name()),
            Self::Recordings => Some(Recording::crd_name()),
            Self::Leases | Self::Pods | Self::Services => None,
        }
    }
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broadcasts => "Broadcasts",
            Self::Pools => "MediaPools",
            Self::Recordings => "Recordings",
            Self::Leases => "Leases",
            Self::Pods => "Pods",
            Self::Services => "Services",
        })
    }
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    match health.waits_for() {
        None => (StatusCode::OK, "ok".to_owned()),
        Some(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
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

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answered(code: u16) -> watcher::Error {
        watcher::Error::InitialListFailed(kube::Error::Api(Status::failure("no", "No").with_code(code).boxed()))
    }

    /// With all but the Broadcasts of `studio` listed.
    fn health() -> (Health, Place) {
        let place = Some("studio".to_owned());
        let health = Health::new(Registry::default(), std::slice::from_ref(&place));
        for watch in [Watch::Pools, Watch::Recordings, Watch::Leases, Watch::Pods, Watch::Services] {
            health.synced(watch, &place);
        }
        (health, place)
    }

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let (health, place) = health();
        let says = || health.waits_for().unwrap();
        assert!(says().contains("the Broadcasts of namespace studio are not listed yet"), "{}", says());
        health.failed(Watch::Broadcasts, &place, &answered(404));
        assert!(says().contains("apply the custom resource definition broadcasts.tallylight.dev"), "{}", says());
        health.failed(Watch::Broadcasts, &place, &answered(403));
        assert!(says().contains("grant the operator list and watch"), "{}", says());
        health.synced(Watch::Broadcasts, &place);
        assert_eq!(health.waits_for(), None);
    }

    #[tokio::test]
    async fn whoever_waits_for_a_kind_is_woken() {
        let (health, place) = health();
        let waits: [_; 3] = std::array::from_fn(|_| health.listed(Watch::Broadcasts));
        let mut waits = std::pin::pin!(futures::future::join_all(waits));
        assert!(futures::poll!(&mut waits).is_pending());
        health.listed(Watch::Pools).await;
        health.synced(Watch::Broadcasts, &place);
        waits.await;
    }

    #[test]
    fn an_operator_that_was_ready_is_so_until_a_kind_is_gone() {
        let (health, place) = health();
        health.synced(Watch::Broadcasts, &place);
        for code in [403, 410, 429, 500, 503] {
            health.failed(Watch::Broadcasts, &place, &answered(code));
            assert_eq!(health.waits_for(), None, "{code}");
        }
        health.failed(Watch::Broadcasts, &place, &answered(404));
        assert!(health.waits_for().is_some());
        health.synced(Watch::Broadcasts, &place);
        assert_eq!(health.waits_for(), None);
    }
}
