//! Kubernetes Events, for people: only what `kubectl describe` should show and no condition keeps. Failing to write one
//! never fails anything else.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource as _, ResourceExt as _,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use tallylight_crds::{Broadcast, MediaPool};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use webhook::{Report, deliver::ReportKind};

use crate::pool::news::News;

/// News that wait to be written. Only lanes that turn make any; when it is full the newest is dropped, and counted.
const QUEUE: usize = 256;

/// Longest wait for the API server to take one: whoever tells of something must not be held up by it.
const WRITE: Duration = Duration::from_secs(2);

/// Writes Events about Broadcasts and MediaPools.
#[derive(Clone)]
pub(crate) struct Events {
    recorder: Recorder,
}

/// Takes a dispatcher's reports without making it wait.
#[derive(Clone)]
pub(crate) struct Reports {
    queue: mpsc::Sender<(Broadcast, Report)>,
    dropped: Counter,
}

impl Reports {
    /// Makes the queue, and its counter in `registry`.
    pub(crate) fn new(registry: &mut Registry) -> (Self, mpsc::Receiver<(Broadcast, Report)>) {
        let (queue, inbox) = mpsc::channel(QUEUE);
        let dropped = Counter::default();
        registry.register(
            "kubernetes_events_dropped",
            "Events that were not written because too many waited",
            dropped.clone(),
        );
        (Self { queue, dropped }, inbox)
    }

    pub(crate) fn send(&self, broadcast: &Broadcast, report: &Report) {
        if self.queue.try_send((broadcast.clone(), report.clone())).is_err() {
            self.dropped.inc();
        }
    }
}

impl Events {
    pub(crate) fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter { controller: "tallylight.dev/operator".into(), instance: Some(instance) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// A media node was lost, and this Broadcast's session with it, or it waits for its publisher until then.
    pub(crate) async fn node_lost(&self, broadcast: &Broadcast, node: &str, awaited: Option<Timestamp>) {
        let (action, then) = match awaited {
            None => ("EndSession", "the session was ended; the publisher may connect again".to_owned()),
            Some(until) => {
                ("ParkSession", format!("the session goes on if the publisher connects again before {until}"))
            }
        };
        let note = format!("media node {node} is gone: {then}");
        self.publish(broadcast, EventType::Warning, "NodeLost", action, note).await;
    }

    /// What happened to a pool.
    pub(crate) async fn pool(&self, pool: &MediaPool, news: Vec<News>) {
        for News { kind: type_, reason, action, note, pod } in news {
            let secondary = pod.map(|(name, uid)| ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(name),
                namespace: pool.namespace(),
                uid: Some(uid),
                ..ObjectReference::default()
            });
            let event = Event { type_, reason: reason.into(), note: Some(note), action: action.into(), secondary };
            self.write(&event, &pool.object_ref(&())).await;
        }
    }

    /// Writes what `Reports` has taken, until cancelled.
    pub(crate) async fn run(self, mut inbox: mpsc::Receiver<(Broadcast, Report)>, cancel: CancellationToken) {
        while let Some(Some((broadcast, report))) = cancel.run_until_cancelled(inbox.recv()).await {
            self.lane(&broadcast, &report).await;
        }
    }

    /// A lane turned.
    async fn lane(&self, broadcast: &Broadcast, report: &Report) {
        let class = report.status.map_or_else(|| report.class.to_owned(), |status| format!("HTTP {status}"));
        let (kind, reason, note) = match report.kind {
            ReportKind::Failing => {
                let note = format!("a hook was not delivered ({class}); it is tried again until it is");
                (EventType::Warning, "HookFailing", note)
            }
            ReportKind::Recovered => (EventType::Normal, "HookRecovered", "hooks are delivered again".to_owned()),
            ReportKind::Gone => {
                let note = "the endpoint answered 410: nothing is sent to it until the spec changes".to_owned();
                (EventType::Warning, "HookEndpointGone", note)
            }
        };
        self.publish(broadcast, kind, reason, "Deliver", note).await;
    }

    async fn publish(&self, broadcast: &Broadcast, type_: EventType, reason: &str, action: &str, note: String) {
        let event = Event { type_, reason: reason.into(), note: Some(note), action: action.into(), secondary: None };
        self.write(&event, &broadcast.object_ref(&())).await;
    }

    async fn write(&self, event: &Event, regarding: &ObjectReference) {
        let reason = &event.reason;
        match tokio::time::timeout(WRITE, self.recorder.publish(event, regarding)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, reason, "an Event was not written"),
            Err(_elapsed) => tracing::debug!(reason, "the API server did not take an Event in time"),
        }
    }
}
