//! Watches Recordings and runs one controller of them a watched namespace.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{
        Controller, WatchStreamExt as _, controller, reflector,
        reflector::{ObjectRef, Store, store::Writer},
        watcher::{self, Event},
    },
};
use ledger::Key;
use tallylight_crds::Recording;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Context, Guarded, error_policy, reconcile};
use crate::{
    controllers::{PAGE, WAKE_UPS, Wake, prune},
    health::{Health, Watch},
    pool::is_forbidden,
    scope::{Place, Scope},
};

/// Reconciles at once: each is a few requests, and a lost node leaves hundreds of recordings.
const CONCURRENCY: u16 = 8;

/// What wakes Recordings that did not change themselves.
#[derive(Debug, Clone)]
pub(crate) enum RecordingWake {
    /// The node is lost, or its pod is gone.
    Node(Key),
    /// Nodes of the pool may have come.
    Pool(Key),
    Everything,
}

/// Starts the watches and the controllers.
pub(crate) fn start(
    client: &Client,
    scope: &Scope,
    context: &Arc<Context>,
    health: &Health,
    woken: mpsc::Receiver<RecordingWake>,
    cancel: &CancellationToken,
    tasks: &TaskTracker,
) {
    let mut places = Vec::new();
    for (place, api) in scope.apis::<Guarded>(client) {
        let (cache, writer) = reflector::store::<Guarded>();
        let (trigger, triggers) = mpsc::channel(WAKE_UPS);
        let follower = Follower { place, context: context.clone(), health: health.clone() };
        tasks.spawn(run(api, cache.clone(), writer, follower, triggers, cancel.clone()));
        places.push((cache, trigger));
    }
    tasks.spawn(wake_up(woken, places, context.clone(), cancel.clone()));
}

async fn run(
    api: Api<Guarded>,
    cache: Store<Guarded>,
    writer: Writer<Guarded>,
    follower: Follower,
    triggers: mpsc::Receiver<ObjectRef<Guarded>>,
    cancel: CancellationToken,
) {
    let context = follower.context.clone();
    let config = watcher::Config::default().page_size(PAGE);
    let changes = ledger::watch(api, config).modify(prune).then(move |event| {
        let follower = follower.clone();
        async move {
            follower.follow(&event).await;
            event
        }
    });
    let changes = changes.reflect(writer).touched_objects();
    let triggers = stream::unfold(triggers, async |mut inbox| Some((inbox.recv().await?, inbox)));
    let runs = Controller::for_stream(changes, cache)
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .reconcile_on(triggers)
        .graceful_shutdown_on(cancel.cancelled_owned())
        .run(reconcile, error_policy, context);
    // Failures are logged where they are decided upon, in the error policy.
    runs.for_each(|_| std::future::ready(())).await;
}

/// Tells Broadcasts of what concerns them.
#[derive(Clone)]
struct Follower {
    place: Place,
    context: Arc<Context>,
    health: Health,
}

impl Follower {
    async fn follow(&self, event: &watcher::Result<Event<Guarded>>) {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                if let Ok(recording) = &object.0
                    && self.context.index.see(recording)
                {
                    self.wake_broadcast(recording).await;
                }
            }
            Ok(Event::Delete(object)) => {
                self.context.attempts.forget(&object.uid().unwrap_or_default());
                if let Ok(recording) = &object.0 {
                    self.context.index.forget(recording);
                    self.wake_broadcast(recording).await;
                }
            }
            Ok(Event::InitDone) => self.health.synced(Watch::Recordings, &self.place),
            Ok(Event::Init) => {}
            Err(error) => {
                if is_forbidden(error) {
                    // The roles of a release before recordings: media nodes may make none then, and all else goes on.
                    self.health.synced(Watch::Recordings, &self.place);
                } else {
                    self.health.failed(Watch::Recordings, &self.place, error);
                }
                tracing::warn!(%error, "the watch of Recordings broke");
            }
        }
    }

    async fn wake_broadcast(&self, recording: &Recording) {
        // The receiver ends with the process.
        let _woken = self.context.wake.send(Wake::Recorded(Key::of_recorded(recording))).await;
    }
}

/// Finds the Recordings that a change of a node concerns, and wakes them.
async fn wake_up(
    mut woken: mpsc::Receiver<RecordingWake>,
    places: Vec<(Store<Guarded>, mpsc::Sender<ObjectRef<Guarded>>)>,
    context: Arc<Context>,
    cancel: CancellationToken,
) {
    while let Some(Some(wake)) = cancel.run_until_cancelled(woken.recv()).await {
        for (cache, trigger) in &places {
            for object in cache.state().into_iter().filter(|object| concerns(&wake, object, &context)) {
                if trigger.send(ObjectRef::from_obj(&*object)).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn concerns(wake: &RecordingWake, object: &Guarded, context: &Context) -> bool {
    let Ok(recording) = &object.0 else { return false };
    let needs_its_node = recording.is_leaving() || !recording.state().is_final();
    let namespace = recording.metadata.namespace.as_deref();
    match wake {
        RecordingWake::Everything => true,
        RecordingWake::Node(node) => {
            needs_its_node && namespace == Some(&node.namespace) && recording.spec.node == node.name
        }
        RecordingWake::Pool(pool) => {
            let node = Key { namespace: pool.namespace.clone(), name: recording.spec.node.clone() };
            needs_its_node
                && namespace == Some(&pool.namespace)
                && recording.spec.pool == pool.name
                && context.nodes.lock().is_lost(&node)
        }
    }
}
