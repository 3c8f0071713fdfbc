//! Drives the reconcile of MediaPools: dereference → validate → build → plan → apply → update status. A pool without
//! `spec.nodes` is only watched: others make its nodes.
//!
//! A change of the world wakes a pool (`wakes`); the plan is first made from the caches, where it costs nothing, and when
//! there is something to do once more from a fresh list, so that a cache that lags makes no pod twice.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Pod, Service},
};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{
        Controller, WatchStreamExt as _, controller,
        controller::Action,
        reflector,
        reflector::{Store, store::Writer},
        watcher::{self, Event},
    },
};
use ledger::Key;
use rest::Upstream;
use serde::de::DeserializeOwned;
use tallylight_crds::{ADDRESS_ANNOTATION, MediaPool, ORDER_ANNOTATION, POOL_LABEL};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    attempts::Attempts,
    broadcast::Guarded,
    events::Events,
    health::{Health, Watch},
    leader::Leadership,
    metrics::Metrics,
    node_watch::SharedNodes,
    paused::is_paused,
    scope::{Place, Scope},
};

mod addresses;
mod apply;
mod build;
mod dereference;
pub(crate) mod loads;
mod machines;
pub(crate) mod news;
mod plan;
mod update_status;
mod validate;
pub(crate) mod wakes;

use addresses::Front;
use loads::Loads;
use update_status::Found;
use validate::ValidatedPool;
use wakes::Wakes;

/// Rest after a change before its reconcile: sessions come and go in bursts.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// What others change in Service and budget is not looked for: when a pool is looked at and they were applied longer ago than this,
/// they are again.
const REAPPLY_AFTER: Duration = Duration::from_secs(600);
/// Longest wait after a failed reconcile: a pool that cannot grow refuses publishers.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Pods a page of a list.
const PAGE: u32 = 500;

/// What a reconcile needs.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) broadcasts: Vec<Store<Guarded>>,
    pub(crate) world: World,
    pub(crate) nodes: SharedNodes,
    pub(crate) loads: Loads,
    pub(crate) events: Events,
    pub(crate) given: Given,
    pub(crate) kept: Kept,
    pub(crate) leadership: Leadership,
}

/// What the operator's flags say of all pools. No part of a pod's revision, but for an image that the pool does not name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    /// Image of media nodes whose pool names none.
    pub(crate) image: Option<String>,
    /// Where media nodes pass REST on to; without it they serve none.
    pub(crate) rest_upstream: Option<Upstream>,
}

/// What lasts from one reconcile to the next.
pub(crate) struct Kept {
    attempts: Attempts,
    memories: Memories,
}

impl Kept {
    pub(crate) fn new(leadership: Leadership, metrics: Metrics) -> Self {
        Self { attempts: Attempts::new(leadership, metrics, LONGEST_WAIT), memories: Memories::default() }
    }
}

/// What is remembered of each pool, by namespace and name: ports rest also when a pool is deleted and made again.
#[derive(Default)]
struct Memories(Mutex<BTreeMap<Key, PoolMemory>>);

#[derive(Default)]
struct PoolMemory {
    plan: plan::Memory,
    machines: addresses::Machines,
    applied: Option<(build::Resources, Instant)>,
    status_written: Option<Instant>,
}

impl Memories {
    /// Taken for the time of a reconcile: there is one at a time for a pool.
    fn take(&self, pool: &Key) -> PoolMemory {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(pool).unwrap_or_default()
    }

    fn put(&self, pool: Key, memory: PoolMemory) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pool, memory);
    }
}

/// What a reconcile was trying when it failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("failed to list media pods")]
    ListPods { source: kube::Error },
    #[error("failed to create a media pod")]
    CreatePod { source: kube::Error },
    #[error("failed to delete a media pod")]
    DeletePod { source: kube::Error },
    #[error("failed to label a media pod")]
    LabelPod { source: kube::Error },
    #[error("failed to write the address of a media pod")]
    AnnotatePod { source: kube::Error },
    #[error("failed to read the machine of a media pod")]
    ReadMachine { source: kube::Error },
    #[error("failed to apply the Service of the media nodes")]
    ApplyService { source: kube::Error },
    #[error("failed to apply the disruption budget of the media nodes")]
    ApplyBudget { source: kube::Error },
    #[error("failed to write the status of a pool")]
    WriteStatus { source: kube::Error },
}

/// Runs one controller of pools a watched namespace, once this process leads and everything that it decides upon is known.
/// What wakes a pool before that waits on the list.
pub(crate) fn start(
    context: &Arc<Context>,
    caches: Vec<(Place, Store<MediaPool>)>,
    wakes: &Wakes,
    health: &Health,
    cancel: &CancellationToken,
    tasks: &TaskTracker,
) {
    for (place, cache) in caches {
        let triggers = wakes.of(&place);
        let (context, health, ended) = (context.clone(), health.clone(), cancel.clone());
        tasks.spawn(async move {
            // Without the Broadcasts every node would look idle.
            let may_begin = async {
                health.wait_until_ready().await;
                context.leadership.gained().await;
            };
            if ended.run_until_cancelled(may_begin).await.is_none() {
                return;
            }
            // Every pool is looked at once: its watch has woken it before.
            let runs = Controller::for_stream(stream::pending(), cache)
                .with_config(controller::Config::default().concurrency(4).debounce(DEBOUNCE))
                .reconcile_on(triggers)
                .graceful_shutdown_on(ended.cancelled_owned())
                .run(reconcile, error_policy, context);
            // Failures are logged where they are decided upon, in the error policy.
            runs.for_each(|_| std::future::ready(())).await;
        });
    }
}

/// What the operator has made for pools, as it is now, and the machines that it is on.
pub(crate) struct World {
    pods: Vec<Store<Pod>>,
    services: Vec<Store<Service>>,
    machines: machines::Reader,
}

impl World {
    /// Watches it.
    pub(crate) fn watch(
        client: &Client,
        scope: &Scope,
        wakes: &Wakes,
        health: &Health,
        cancel: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let followers = Followers { wakes: wakes.clone(), health: health.clone(), cancel: cancel.clone() };
        Self {
            pods: followers.watch(client, scope, tasks),
            services: followers.watch(client, scope, tasks),
            machines: machines::Reader::new(client, scope),
        }
    }
}

/// What the operator makes for pools.
trait Made: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()> {
    const WATCH: Watch;
    /// Whether pools can do without it, under a role of a release that did not ask for it.
    const IS_DISPENSABLE: bool;

    /// Keeps what is read again.
    fn prune(&mut self);
}

/// Whom a change of what was made concerns.
#[derive(Clone)]
struct Followers {
    wakes: Wakes,
    health: Health,
    cancel: CancellationToken,
}

impl Followers {
    /// One cache a watched namespace.
    fn watch<K>(&self, client: &Client, scope: &Scope, tasks: &TaskTracker) -> Vec<Store<K>>
    where
        K: Made + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let watch = |(place, api)| {
            let (cache, writer) = reflector::store();
            tasks.spawn(self.clone().follow::<K>(place, api, writer));
            cache
        };
        scope.apis::<K>(client).into_iter().map(watch).collect()
    }

    async fn follow<K>(self, place: Place, api: Api<K>, writer: Writer<K>)
    where
        K: Made + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let config = watcher::Config::default().labels(&build::managed_selector()).page_size(PAGE);
        let events = ledger::watch(api, config).modify(K::prune);
        let mut events = std::pin::pin!(events.reflect(writer));
        while let Some(Some(event)) = self.cancel.run_until_cancelled(events.next()).await {
            match event {
                Ok(Event::Apply(object) | Event::Delete(object) | Event::InitApply(object)) => {
                    if let Some(pool) = object.labels().get(POOL_LABEL) {
                        self.wakes.wake(&object.namespace().unwrap_or_default(), pool);
                    }
                }
                Ok(Event::InitDone) => self.health.synced(K::WATCH, &place),
                Ok(Event::Init) => {}
                Err(error) => {
                    tracing::warn!(%error, watch = ?K::WATCH, "a watch of what pools have broke");
                    if K::IS_DISPENSABLE && is_forbidden(&error) {
                        self.health.synced(K::WATCH, &place);
                    } else {
                        self.health.failed(K::WATCH, &place, &error);
                    }
                }
            }
        }
    }
}

pub(crate) fn is_forbidden(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(answer)) if answer.code == 403)
}

impl Made for Pod {
    const WATCH: Watch = Watch::Pods;
    const IS_DISPENSABLE: bool = false;

    /// Keeps what plans and addresses are made of.
    fn prune(&mut self) {
        self.metadata.managed_fields = None;
        if let Some(annotations) = &mut self.metadata.annotations {
            let kept = [ORDER_ANNOTATION, ADDRESS_ANNOTATION, build::MEDIA_ADDRESS_ANNOTATION];
            annotations.retain(|name, _| kept.contains(&name.as_str()));
        }
        if let Some(spec) = &mut self.spec {
            spec.volumes = None;
            for container in &mut spec.containers {
                (container.env, container.args, container.volume_mounts) = (None, None, None);
            }
        }
    }
}

impl Made for Service {
    const WATCH: Watch = Watch::Services;
    const IS_DISPENSABLE: bool = true;

    /// Keeps the addresses of its load balancer.
    fn prune(&mut self) {
        (self.metadata.managed_fields, self.metadata.annotations, self.spec) = (None, None, None);
    }
}

async fn reconcile(pool: Arc<MediaPool>, context: Arc<Context>) -> Result<Action, Error> {
    if pool.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change()); // its pods go by their owner reference
    }
    let reconciled = Box::pin(async {
        let key = Key { namespace: pool.namespace().unwrap_or_default(), name: pool.name_any() };
        let mut memory = context.kept.memories.take(&key);
        let again = reconcile_live(&pool, &mut memory, &context).await;
        context.kept.memories.put(key, memory);
        Ok(again?.map_or_else(Action::await_change, Action::requeue))
    });
    context.kept.attempts.run(&*pool, reconciled).await
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of an error policy")]
fn error_policy(pool: Arc<MediaPool>, error: &Error, context: Arc<Context>) -> Action {
    context.kept.attempts.failed(&*pool, error)
}

async fn reconcile_live(
    pool: &MediaPool,
    memory: &mut PoolMemory,
    context: &Context,
) -> Result<Option<Duration>, Error> {
    let written = &mut memory.status_written;
    let Some(nodes) = &pool.spec.nodes else {
        return update_status::update(pool, &Found::Watched, written, context).await;
    };
    let valid = match validate::validate(pool, nodes, &context.given) {
        Ok(valid) => valid,
        Err(invalid) => return update_status::update(pool, &Found::Invalid(&invalid), written, context).await,
    };
    let is_paused = is_paused(pool);
    if !is_paused {
        apply_resources(&valid, &mut memory.applied, context).await?;
    }
    let service = dereference::service(&valid, context);
    let front = Front::new(&valid, service.as_deref());
    let mut pods = dereference::cached(&valid, context);
    let mut plan = plan::plan(&valid.bounds, &pods, &mut memory.plan, Instant::now());
    if is_paused {
        plan = plan::Plan::default();
    }
    if !plan.actions.is_empty() {
        pods = dereference::listed(&valid, context).await?;
        plan = plan::plan(&valid.bounds, &pods, &mut memory.plan, Instant::now());
        apply::actions(&valid, &plan.actions, &front, &mut memory.plan, context).await?;
        context.events.pool(pool, news::of_actions(&plan.actions)).await;
    }
    let lost = memory.plan.take_lost().into_iter().map(|(name, uid)| news::of_lost(&name, &uid)).collect();
    context.events.pool(pool, lost).await;
    if front.asks_machines() || front.asks_machines_for_media() {
        context.world.machines.learn(&mut memory.machines, &pods).await?;
    }
    if !is_paused {
        apply::addresses(&valid, &pods, &front, &memory.machines, context).await?;
    }
    let addresses = front.of_all(&pods, &memory.machines);
    let found = Found::Managed { pool: &valid, pods: &pods, plan: &plan, addresses: &addresses };
    let capacity_due = update_status::update(pool, &found, &mut memory.status_written, context).await?;
    Ok(plan.again.into_iter().chain(capacity_due).min())
}

async fn apply_resources(
    pool: &ValidatedPool,
    applied: &mut Option<(build::Resources, Instant)>,
    context: &Context,
) -> Result<(), Error> {
    let wanted = build::resources(pool);
    if applied.as_ref().is_some_and(|(found, at)| *found == wanted && at.elapsed() < REAPPLY_AFTER) {
        return Ok(());
    }
    apply::resources(pool, &wanted, context).await?;
    *applied = Some((wanted, Instant::now()));
    Ok(())
}
