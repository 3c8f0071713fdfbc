//! Drives the reconcile of MediaPools: dereference → validate → build → plan → apply → update status. A pool without
//! `spec.nodes` is only watched: others make its nodes.
//!
//! A change of the world wakes a pool (`wakes`); the plan is first made from the caches, where it costs nothing, and when
//! there is something to do once more from a fresh list, so that a cache that lags makes no pod twice.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{
        Controller, WatchStreamExt as _, controller,
        controller::Action,
        reflector,
        reflector::{Store, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use ledger::Key;
use rest::Upstream;
use tallylight_crds::{MediaPool, ORDER_ANNOTATION, POOL_LABEL};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    broadcast::{Failures, Guarded},
    events::Events,
    health::{Health, Watch},
    leader::Leadership,
    metrics::{Metrics, ReconcileResult},
    node_watch::SharedNodes,
    paused::is_paused,
    scope::{Place, Scope},
};

mod apply;
mod build;
mod dereference;
pub(crate) mod loads;
pub(crate) mod news;
mod plan;
mod update_status;
mod validate;
pub(crate) mod wakes;

use loads::Loads;
use update_status::Found;
use validate::ValidatedPool;
use wakes::Wakes;

/// Rest after a change before its reconcile: sessions come and go in bursts.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Service and budget are not watched: when a pool is looked at and they were applied longer ago than this, they are again.
const REAPPLY_AFTER: Duration = Duration::from_secs(600);
/// First and longest wait after a failed reconcile; doubled in between.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Pods a page of a list.
const PAGE: u32 = 500;

/// What a reconcile needs.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) broadcasts: Vec<Store<Guarded>>,
    pub(crate) pods: Vec<Store<Pod>>,
    pub(crate) nodes: SharedNodes,
    pub(crate) loads: Loads,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
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
#[derive(Default)]
pub(crate) struct Kept {
    failures: Failures,
    memories: Memories,
}

/// What is remembered of each pool, by namespace and name: ports rest also when a pool is deleted and made again.
#[derive(Default)]
struct Memories(Mutex<BTreeMap<Key, PoolMemory>>);

#[derive(Default)]
struct PoolMemory {
    plan: plan::Memory,
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

/// A watch of the pods that the operator makes, which fills a cache.
pub(crate) type PodWatch = (Place, Writer<Pod>, Api<Pod>);

/// One cache, and the watch that fills it, a watched namespace.
pub(crate) fn pods(client: &Client, scope: &Scope) -> (Vec<Store<Pod>>, Vec<PodWatch>) {
    let watches = scope.apis::<Pod>(client).into_iter().map(|(place, api)| {
        let (cache, writer) = reflector::store();
        (cache, (place, writer, api))
    });
    watches.unzip()
}

pub(crate) async fn run_pod_watch(watch: PodWatch, wakes: Wakes, health: Health, cancel: CancellationToken) {
    let (place, writer, api) = watch;
    let config = watcher::Config::default().labels(&build::managed_selector()).page_size(PAGE);
    let events = watcher(api, config).backoff(ledger::watch_backoff()).modify(prune);
    let mut events = std::pin::pin!(events.reflect(writer));
    while let Some(Some(event)) = cancel.run_until_cancelled(events.next()).await {
        match event {
            Ok(Event::Apply(pod) | Event::Delete(pod) | Event::InitApply(pod)) => {
                if let Some(pool) = pod.labels().get(POOL_LABEL) {
                    wakes.wake(&pod.namespace().unwrap_or_default(), pool);
                }
            }
            Ok(Event::InitDone) => health.synced(Watch::Pods, &place),
            Ok(Event::Init) => {}
            Err(error) => tracing::warn!(%error, "the watch of media pods broke"),
        }
    }
}

/// Keeps of a pod what plans are made of.
fn prune(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.retain(|name, _| name == ORDER_ANNOTATION);
    }
    if let Some(spec) = &mut pod.spec {
        spec.volumes = None;
        for container in &mut spec.containers {
            (container.env, container.args, container.volume_mounts) = (None, None, None);
        }
    }
}

async fn reconcile(pool: Arc<MediaPool>, context: Arc<Context>) -> Result<Action, Error> {
    let uid = pool.uid().unwrap_or_default();
    let key = Key { namespace: pool.namespace().unwrap_or_default(), name: pool.name_any() };
    if pool.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change()); // its pods go by their owner reference
    }
    let mut memory = context.kept.memories.take(&key);
    let again = reconcile_live(&pool, &mut memory, &context).await;
    context.kept.memories.put(key, memory);
    let again = again?;
    context.kept.failures.forget(&uid);
    context.metrics.reconciled(ReconcileResult::Done);
    Ok(again.map_or_else(Action::await_change, Action::requeue))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of an error policy")]
fn error_policy(pool: Arc<MediaPool>, error: &Error, context: Arc<Context>) -> Action {
    let attempt = context.kept.failures.count(pool.uid().unwrap_or_default());
    let wait = RETRY.1.min(RETRY.0 * 2_u32.saturating_pow(attempt.min(10) - 1));
    context.metrics.reconciled(ReconcileResult::Failed);
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::warn!(pool = %pool.name_any(), %error, source, attempt, ?wait, "reconcile failed");
    Action::requeue(wait)
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
    let mut pods = dereference::cached(&valid, context);
    let mut plan = plan::plan(&valid.bounds, &pods, &mut memory.plan, Instant::now());
    if is_paused {
        plan = plan::Plan::default();
    }
    if !plan.actions.is_empty() {
        pods = dereference::listed(&valid, context).await?;
        plan = plan::plan(&valid.bounds, &pods, &mut memory.plan, Instant::now());
        apply::actions(&valid, &plan.actions, &mut memory.plan, context).await?;
        context.events.pool(pool, news::of_actions(&plan.actions)).await;
    }
    let lost = memory.plan.take_lost().into_iter().map(|(name, uid)| news::of_lost(&name, &uid)).collect();
    context.events.pool(pool, lost).await;
    let found = Found::Managed { pool: &valid, pods: &pods, plan: &plan };
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
