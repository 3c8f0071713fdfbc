//! Watches pools and Broadcasts, hands every change to the dispatcher, and runs one controller of Broadcasts a watched
//! namespace. What wakes a Broadcast that did not change itself, a pool or a node, is here too.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{
        Controller, PredicateConfig, WatchStreamExt as _, controller, reflector,
        reflector::{ObjectRef, Store, store::Writer},
        watcher::{self, Event},
    },
};
use ledger::Key;
use tallylight_crds::{MediaPool, SessionState};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    broadcast::{self, Guarded},
    deliver::Dispatcher,
    health::{Health, Watch},
    metrics::Metrics,
    nodes::Change,
    paused::{is_paused, prune_annotations},
    pool::wakes::{SessionChanges, Wakes},
    pool_keys::PoolKeys,
    recording::watch::RecordingWake,
    scope::{Place, Scope},
};

/// Reconciles at once: each is one or two requests, and more would only queue up at the API server.
const CONCURRENCY: u16 = 32;
/// Rest after a change before its reconcile: in it the dispatcher's acknowledgement brings the conditions along.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// Wake-ups on their way to a controller. When full, the one who wakes waits.
pub(crate) const WAKE_UPS: usize = 1024;
/// Objects a page of a list.
pub(crate) const PAGE: u32 = 500;

/// A watch of MediaPools that fills a cache.
pub(crate) type PoolWatch = (Place, Writer<MediaPool>, Api<MediaPool>);

/// One cache, and the watch that fills it, a watched namespace.
pub(crate) fn pools(client: &Client, scope: &Scope) -> (Vec<Store<MediaPool>>, Vec<PoolWatch>) {
    let watches = scope.apis::<MediaPool>(client).into_iter().map(|(place, api)| {
        let (cache, writer) = reflector::store();
        (cache, (place, writer, api))
    });
    watches.unzip()
}

/// What wakes Broadcasts that did not change themselves.
pub(crate) enum Wake {
    Pool {
        namespace: String,
        name: String,
    },
    Node {
        namespace: String,
        name: String,
    },
    /// It has become known which pools of the watched namespace take publishers.
    Place(Place),
    /// Something about the recordings of that Broadcast that concerns it.
    Recorded(Key),
    /// This process has come to lead: what changed before was nobody's, or another's, to do.
    Everything,
}

/// Whom a change of a pool concerns.
#[derive(Clone)]
pub(crate) struct PoolFollowers {
    pub(crate) dispatcher: Dispatcher,
    pub(crate) broadcasts: mpsc::Sender<Wake>,
    pub(crate) pools: Wakes,
    pub(crate) keys: PoolKeys,
}

impl PoolFollowers {
    /// # Errors
    /// When the controllers have ended.
    async fn wake(&self, pool: Key) -> Result<(), mpsc::error::SendError<Wake>> {
        self.dispatcher.wake_pool(&pool.namespace, &pool.name);
        self.pools.wake(&pool.namespace, &pool.name);
        self.broadcasts.send(Wake::Pool { namespace: pool.namespace, name: pool.name }).await
    }
}

/// Starts the watches of pools.
pub(crate) fn watch_pools(
    watches: Vec<PoolWatch>,
    followers: &PoolFollowers,
    health: &Health,
    cancel: &CancellationToken,
    tasks: &TaskTracker,
) {
    for watch in watches {
        tasks.spawn(run_pool_watch(watch, followers.clone(), health.clone(), cancel.clone()));
    }
}

async fn run_pool_watch(watch: PoolWatch, followers: PoolFollowers, health: Health, cancel: CancellationToken) {
    let (place, writer, api) = watch;
    let mut generations = BTreeMap::new();
    let events = ledger::watch(api, watcher::Config::default().page_size(PAGE)).modify(prune);
    let keys = followers.keys.clone();
    let events = events.inspect(move |event| keys.follow(event));
    let mut events = std::pin::pin!(events.reflect(writer));
    while let Some(Some(event)) = cancel.run_until_cancelled(events.next()).await {
        match event {
            Ok(Event::Apply(pool) | Event::InitApply(pool)) => {
                let is_deleted = pool.metadata.deletion_timestamp.is_some();
                let seen = (pool.uid(), pool.metadata.generation, is_deleted, is_paused(&pool));
                let key = Key { namespace: pool.namespace().unwrap_or_default(), name: pool.name_any() };
                // A status is the operator's own: it concerns nobody.
                if generations.insert(key.clone(), seen.clone()) != Some(seen) && followers.wake(key).await.is_err() {
                    return;
                }
            }
            Ok(Event::Delete(pool)) => {
                let key = Key { namespace: pool.namespace().unwrap_or_default(), name: pool.name_any() };
                generations.remove(&key);
                if followers.wake(key).await.is_err() {
                    return;
                }
            }
            Ok(Event::InitDone) => health.synced(Watch::Pools, &place),
            Ok(Event::Init) => {}
            Err(error) => {
                health.failed(Watch::Pools, &place, &error);
                tracing::warn!(%error, "the watch of MediaPools broke");
            }
        }
    }
}

/// Turns changes of media nodes into wake-ups. A node that is lost concerns the Broadcasts that are on air there; all others are
/// woken when their pool turns.
pub(crate) fn forward_changes(
    wake: mpsc::Sender<Wake>,
    recordings: mpsc::Sender<RecordingWake>,
    pools: Wakes,
    metrics: Metrics,
    tasks: &TaskTracker,
) -> mpsc::Sender<Change> {
    let (changes, mut inbox) = mpsc::channel(WAKE_UPS);
    tasks.spawn(async move {
        while let Some(change) = inbox.recv().await {
            let concerned = match &change {
                Change::Found { node, pool } => {
                    pool.as_ref().map(|pool| RecordingWake::Pool(Key { name: pool.clone(), ..node.clone() }))
                }
                Change::Lost { node, .. } | Change::Gone { node } => Some(RecordingWake::Node(node.clone())),
                Change::Turned { pool, .. } => Some(RecordingWake::Pool(pool.clone())),
                Change::Listed { .. } => Some(RecordingWake::Everything),
            };
            if let Some(concerned) = concerned
                && recordings.send(concerned).await.is_err()
            {
                return;
            }
            let (pool, woken) = match change {
                Change::Found { node, pool } => (pool.map(|name| Key { name, ..node }), None),
                Change::Gone { .. } => (None, None),
                Change::Lost { node, pool, cause } => {
                    metrics.node_lost(cause);
                    let Key { namespace, name } = node.clone();
                    (pool.map(|name| Key { name, ..node }), Some(Wake::Node { namespace, name }))
                }
                Change::Turned { pool, .. } => {
                    let Key { namespace, name } = pool.clone();
                    (Some(pool), Some(Wake::Pool { namespace, name }))
                }
                Change::Listed { place } => (None, Some(Wake::Place(place))),
            };
            if let Some(pool) = pool {
                pools.wake(&pool.namespace, &pool.name);
            }
            if let Some(woken) = woken
                && wake.send(woken).await.is_err()
            {
                return;
            }
        }
    });
    changes
}

pub(crate) fn prune<K: kube::Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    prune_annotations(object);
}

/// Everything about Broadcasts that the controllers of all namespaces share.
pub(crate) struct Controllers<'a> {
    pub(crate) context: &'a Arc<broadcast::Context>,
    pub(crate) dispatcher: &'a Dispatcher,
    pub(crate) health: &'a Health,
    pub(crate) pools: &'a Wakes,
    pub(crate) cancel: &'a CancellationToken,
}

impl Controllers<'_> {
    /// Starts one controller a watched namespace, and the task that wakes them; gives the caches that they fill.
    pub(crate) fn start(
        &self,
        client: &Client,
        scope: &Scope,
        woken: mpsc::Receiver<Wake>,
        tasks: &TaskTracker,
    ) -> Vec<Store<Guarded>> {
        let mut places = Vec::new();
        for (place, api) in scope.apis::<Guarded>(client) {
            let (cache, writer) = reflector::store::<Guarded>();
            let (trigger, triggers) = mpsc::channel(WAKE_UPS);
            tasks.spawn(self.controller(place, api, cache.clone(), writer, triggers));
            places.push((cache, trigger));
        }
        let caches = places.iter().map(|(cache, _)| cache.clone()).collect();
        tasks.spawn(wake_up(woken, places, self.dispatcher.clone(), self.cancel.clone()));
        caches
    }

    fn controller(
        &self,
        place: Place,
        api: Api<Guarded>,
        cache: Store<Guarded>,
        writer: Writer<Guarded>,
        triggers: mpsc::Receiver<ObjectRef<Guarded>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let follower = Follower {
            place,
            dispatcher: self.dispatcher.clone(),
            health: self.health.clone(),
            context: self.context.clone(),
            sessions: SessionChanges::new(self.pools.clone()),
        };
        let config = watcher::Config::default().page_size(PAGE);
        let changes = ledger::watch(api, config).modify(prune).inspect(move |event| follower.follow(event));
        let changes =
            changes.reflect(writer).touched_objects().predicate_filter(broadcast::inputs, PredicateConfig::default());
        let triggers = stream::unfold(triggers, async |mut inbox| Some((inbox.recv().await?, inbox)));
        let ended = self.cancel.clone().cancelled_owned();
        let config = controller::Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE);
        let context = self.context.clone();
        async move {
            let runs = Controller::for_stream(changes, cache)
                .with_config(config)
                .reconcile_on(triggers)
                .graceful_shutdown_on(ended)
                .run(broadcast::reconcile, broadcast::error_policy, context);
            // Failures are logged where they are decided upon, in the error policy.
            runs.for_each(|_| std::future::ready(())).await;
        }
    }
}

/// Hands each change of a Broadcast to the dispatcher, before any reconcile.
struct Follower {
    place: Place,
    dispatcher: Dispatcher,
    health: Health,
    context: Arc<broadcast::Context>,
    sessions: SessionChanges,
}

impl Follower {
    fn follow(&self, event: &watcher::Result<Event<Guarded>>) {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                self.sessions.see(object);
                if is_paused(object) {
                    // A request that is cut off is sent again, under the same id.
                    self.dispatcher.forget(&object.uid().unwrap_or_default());
                } else if let Ok(broadcast) = &object.0
                    && self.context.leadership.holds()
                {
                    self.dispatcher.observe(&Arc::new(broadcast.clone()));
                }
            }
            Ok(Event::Delete(object)) => {
                self.sessions.forget(object);
                let uid = object.uid().unwrap_or_default();
                self.dispatcher.forget(&uid);
                self.context.forget(&uid);
            }
            Ok(Event::InitDone) => self.health.synced(Watch::Broadcasts, &self.place),
            Ok(Event::Init) => self.sessions.relist(),
            Err(error) => {
                self.health.failed(Watch::Broadcasts, &self.place, error);
                tracing::warn!(%error, "the watch of Broadcasts broke");
            }
        }
    }
}

/// Finds the Broadcasts that a change of a pool or node concerns, and wakes them.
async fn wake_up(
    mut woken: mpsc::Receiver<Wake>,
    places: Vec<(Store<Guarded>, mpsc::Sender<ObjectRef<Guarded>>)>,
    dispatcher: Dispatcher,
    cancel: CancellationToken,
) {
    while let Some(Some(wake)) = cancel.run_until_cancelled(woken.recv()).await {
        for (cache, trigger) in &places {
            for object in cache.state().into_iter().filter(|object| concerns(&wake, object)) {
                if let (Wake::Everything, Ok(broadcast)) = (&wake, &object.0)
                    && !is_paused(broadcast)
                {
                    dispatcher.observe(&Arc::new(broadcast.clone()));
                }
                if trigger.send(ObjectRef::from_obj(&*object)).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn concerns(wake: &Wake, object: &Guarded) -> bool {
    let Ok(broadcast) = &object.0 else { return matches!(wake, Wake::Everything) };
    let namespace = broadcast.metadata.namespace.as_deref();
    match wake {
        Wake::Everything => true,
        Wake::Recorded(key) => namespace == Some(&key.namespace) && broadcast.metadata.name.as_ref() == Some(&key.name),
        Wake::Place(place) => place.is_none() || namespace == place.as_deref(),
        Wake::Pool { namespace: ns, name } => namespace == Some(ns) && broadcast.spec.pool == *name,
        Wake::Node { namespace: ns, name } => {
            let session = broadcast.status.as_ref().map(|status| &status.session);
            namespace == Some(ns)
                && session.is_some_and(|s| s.state == SessionState::Open && s.node.as_deref() == Some(name))
        }
    }
}
