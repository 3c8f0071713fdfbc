//! Wires the operator together, one function a component, and takes it apart in order.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures::{StreamExt as _, stream};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{
        Controller, PredicateConfig, WatchStreamExt as _, controller, reflector,
        reflector::{ObjectRef, Store, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use ledger::KubeStore;
use prometheus_client::registry::Registry;
use tallylight_crds::{Broadcast, MediaPool, SessionState};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    broadcast::{self, Guarded},
    cli::Run,
    events::{Events, Reports},
    health::{Health, Watch},
    node_watch::{self, SharedNodes},
    nodes::Change,
    resolve::{Pools, Resolve},
    rest_api,
    secrets::Secrets,
};

/// Reconciles at once: each is one or two requests, and more would only queue up at the API server.
const CONCURRENCY: u16 = 32;
/// Rest after a change before its reconcile: in it the dispatcher's acknowledgement brings the conditions along.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// Wake-ups on their way to a controller. When full, the one who wakes waits.
const WAKE_UPS: usize = 1024;
/// Longest silence of a request; a watch is silent for up to 290 s.
const READ_TIMEOUT: Duration = Duration::from_secs(295);
/// Objects a page of a list.
const PAGE: u32 = 500;

/// The namespaces that are watched; none means all.
#[derive(Clone)]
pub(crate) struct Scope(Arc<Vec<String>>);

impl Scope {
    /// One API a namespace, with its name; a single one without a name for all.
    pub(crate) fn apis<K>(&self, client: &Client) -> Vec<(Option<String>, Api<K>)>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        if self.0.is_empty() {
            return vec![(None, Api::all(client.clone()))];
        }
        self.0.iter().map(|ns| (Some(ns.clone()), Api::namespaced(client.clone(), ns))).collect()
    }
}

pub(crate) async fn run(args: Run) -> anyhow::Result<()> {
    let client = connect(args.kubeconfig.as_deref()).await?;
    let scope = Scope(Arc::new(args.watch_namespaces.clone()));
    let cancel = CancellationToken::new();
    let tasks = TaskTracker::new();
    let mut registry = Registry::with_prefix("tallylight");

    let secrets = Arc::new(Secrets::new(client.clone()));
    let (pool_caches, pool_watches) = pools(&client, &scope);
    let pools = Pools::new(pool_caches);
    let nodes = SharedNodes::new(Duration::from_secs(args.lease_seconds));
    let events = Events::new(client.clone(), instance());
    let store = KubeStore::new(client.clone(), "tallylight-operator");
    let context =
        Arc::new(broadcast::Context::new(store.clone(), pools.clone(), nodes.clone(), secrets.clone(), events.clone()));
    let (reports, reported) = Reports::new(&mut registry);
    let dispatcher = dispatcher(&args, &context, secrets, reports, &mut registry)?;
    let health = Health::new(registry);

    let metrics_listener = bind(args.metrics_address, "--metrics-address").await?;
    let rest_listener = rest_api::bind(&args).await?;
    let addresses =
        Addresses { rest_address: rest_listener.local_addr()?, metrics_address: metrics_listener.local_addr()? };

    tasks.spawn(events.run(reported, cancel.clone()));
    tasks.spawn(serve(metrics_listener, health.clone().router(), cancel.clone()));
    tasks.spawn(serve(rest_listener, axum::Router::new(), cancel.clone()));
    let (wake, woken) = mpsc::channel(WAKE_UPS);
    for watch in pool_watches {
        tasks.spawn(run_pool_watch(watch, wake.clone(), health.clone(), cancel.clone()));
    }
    let changes = forward_changes(wake, &tasks);
    let synced = {
        let health = health.clone();
        move || health.synced(Watch::Leases)
    };
    tasks.spawn(node_watch::run(client.clone(), scope.clone(), nodes, changes, synced, cancel.clone()));
    let controllers = Controllers { context: &context, dispatcher: &dispatcher, health: &health, cancel: &cancel };
    controllers.start(&client, &scope, woken, &tasks);
    let deliveries = {
        let (dispatcher, cancel) = (dispatcher.clone(), cancel.clone());
        async move { dispatcher.run(cancel).await }
    };
    tasks.spawn(deliveries);

    tasks.spawn(announce(addresses, args.ready_file.clone(), health, cancel.clone()));
    wait_for_signal().await?;
    tracing::info!("stopping");
    cancel.cancel();
    tasks.close();
    let drained = tokio::time::timeout(Duration::from_secs(args.drain_seconds), tasks.wait());
    if drained.await.is_err() {
        tracing::warn!(
            "requests were still under way at the end of the drain time; they are sent again by the next operator"
        );
    }
    Ok(())
}

async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file = kube::config::Kubeconfig::read_from(path).context("failed to read --kubeconfig")?;
            kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await?
        }
        None => kube::Config::infer().await.context("failed to find a cluster: give --kubeconfig")?,
    };
    // One layer retries: reconciles and lanes, each with its own backoff.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(READ_TIMEOUT);
    Client::try_from(config).context("failed to make a client of the cluster")
}

/// Who this process is in Events: the pod's name.
fn instance() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| "tallylight-operator".into())
}

type Dispatcher = webhook::Dispatcher<KubeStore, Resolve>;

fn dispatcher(
    args: &Run,
    context: &Arc<broadcast::Context>,
    secrets: Arc<Secrets>,
    reports: Reports,
    registry: &mut Registry,
) -> anyhow::Result<Dispatcher> {
    let more = args.hook_ca_file.as_deref().map(std::fs::read).transpose().context("failed to read --hook-ca-file")?;
    let client = webhook::http::Client::new(&more.unwrap_or_default())?;
    let resolve = Resolve { pools: context.pools.clone(), secrets };
    let annotate = {
        let context = context.clone();
        move |b: &Broadcast, after: &_| context.annotate(b, after)
    };
    let report = move |b: &Broadcast, report: &webhook::Report| reports.send(b, report);
    let options =
        webhook::Options { annotate: Box::new(annotate), report: Box::new(report), ..webhook::Options::default() };
    Ok(webhook::Dispatcher::new(context.store.clone(), resolve, client, options, registry))
}

type PoolWatch = (Writer<MediaPool>, Api<MediaPool>);

fn pools(client: &Client, scope: &Scope) -> (Vec<Store<MediaPool>>, Vec<PoolWatch>) {
    let watches = scope.apis::<MediaPool>(client).into_iter().map(|(_, api)| {
        let (cache, writer) = reflector::store();
        (cache, (writer, api))
    });
    watches.unzip()
}

/// What wakes Broadcasts that did not change themselves.
enum Wake {
    Pool { namespace: String, name: String },
    Node { namespace: String, name: String },
}

async fn run_pool_watch(watch: PoolWatch, wake: mpsc::Sender<Wake>, health: Health, cancel: CancellationToken) {
    let (writer, api) = watch;
    let events = watcher(api, watcher::Config::default().page_size(PAGE)).default_backoff().modify(prune);
    let mut events = std::pin::pin!(events.reflect(writer));
    while let Some(Some(event)) = cancel.run_until_cancelled(events.next()).await {
        match event {
            Ok(Event::Apply(pool) | Event::Delete(pool) | Event::InitApply(pool)) => {
                let woken = Wake::Pool { namespace: pool.namespace().unwrap_or_default(), name: pool.name_any() };
                if wake.send(woken).await.is_err() {
                    return;
                }
            }
            Ok(Event::InitDone) => health.synced(Watch::Pools),
            Ok(Event::Init) => {}
            Err(error) => tracing::warn!(%error, "the watch of MediaPools broke"),
        }
    }
}

/// Turns changes of media nodes into wake-ups.
fn forward_changes(wake: mpsc::Sender<Wake>, tasks: &TaskTracker) -> mpsc::Sender<Change> {
    let (changes, mut inbox) = mpsc::channel(WAKE_UPS);
    tasks.spawn(async move {
        while let Some(change) = inbox.recv().await {
            let (node, pool, lost) = match change {
                Change::Found { node, pool } => (node, pool, false),
                Change::Lost { node, pool, .. } => (node, pool, true),
            };
            let namespace = node.namespace.clone();
            let of_pool = pool.map(|name| Wake::Pool { namespace: namespace.clone(), name });
            let of_node = lost.then_some(Wake::Node { namespace, name: node.name });
            for woken in of_node.into_iter().chain(of_pool) {
                if wake.send(woken).await.is_err() {
                    return;
                }
            }
        }
    });
    changes
}

fn prune<K: kube::Resource>(object: &mut K) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    meta.annotations = None;
}

/// Everything about Broadcasts that the controllers of all namespaces share.
struct Controllers<'a> {
    context: &'a Arc<broadcast::Context>,
    dispatcher: &'a Dispatcher,
    health: &'a Health,
    cancel: &'a CancellationToken,
}

impl Controllers<'_> {
    /// Starts one controller a watched namespace, and the task that wakes them.
    fn start(&self, client: &Client, scope: &Scope, woken: mpsc::Receiver<Wake>, tasks: &TaskTracker) {
        let mut places = Vec::new();
        for (_, api) in scope.apis::<Guarded>(client) {
            let (cache, writer) = reflector::store::<Guarded>();
            let (trigger, triggers) = mpsc::channel(WAKE_UPS);
            tasks.spawn(self.controller(api, cache.clone(), writer, triggers));
            places.push((cache, trigger));
        }
        tasks.spawn(wake_up(woken, places, self.cancel.clone()));
    }

    fn controller(
        &self,
        api: Api<Guarded>,
        cache: Store<Guarded>,
        writer: Writer<Guarded>,
        triggers: mpsc::Receiver<ObjectRef<Guarded>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (dispatcher, health) = (self.dispatcher.clone(), self.health.clone());
        let config = watcher::Config::default().page_size(PAGE);
        let changes = watcher(api, config).default_backoff().modify(prune).inspect(move |event| match event {
            Ok(event) => follow(&dispatcher, &health, event),
            Err(error) => tracing::warn!(%error, "the watch of Broadcasts broke"),
        });
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
fn follow(dispatcher: &Dispatcher, health: &Health, event: &Event<Guarded>) {
    match event {
        Event::Apply(object) | Event::InitApply(object) => {
            if let Ok(broadcast) = &object.0 {
                dispatcher.observe(&Arc::new(broadcast.clone()));
            }
        }
        Event::Delete(object) => dispatcher.forget(object.uid().as_deref().unwrap_or_default()),
        Event::InitDone => health.synced(Watch::Broadcasts),
        Event::Init => {}
    }
}

/// Finds the Broadcasts that a change of a pool or node concerns, and wakes them.
async fn wake_up(
    mut woken: mpsc::Receiver<Wake>,
    places: Vec<(Store<Guarded>, mpsc::Sender<ObjectRef<Guarded>>)>,
    cancel: CancellationToken,
) {
    while let Some(Some(wake)) = cancel.run_until_cancelled(woken.recv()).await {
        for (cache, trigger) in &places {
            for object in cache.state().into_iter().filter(|object| concerns(&wake, object)) {
                if trigger.send(ObjectRef::from_obj(&*object)).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn concerns(wake: &Wake, object: &Guarded) -> bool {
    let Ok(broadcast) = &object.0 else { return false };
    let namespace = broadcast.metadata.namespace.as_deref();
    match wake {
        Wake::Pool { namespace: ns, name } => namespace == Some(ns) && broadcast.spec.pool == *name,
        Wake::Node { namespace: ns, name } => {
            let session = broadcast.status.as_ref().map(|status| &status.session);
            namespace == Some(ns)
                && session.is_some_and(|s| s.state == SessionState::Open && s.node.as_deref() == Some(name))
        }
    }
}

/// The addresses that were bound, as the ready file has them.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Addresses {
    rest_address: std::net::SocketAddr,
    metrics_address: std::net::SocketAddr,
}

async fn bind(address: std::net::SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("failed to listen on {address}: choose another {flag}"))
}

async fn serve(listener: TcpListener, router: axum::Router, cancel: CancellationToken) {
    let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
    let serving = axum::serve(listener, service).with_graceful_shutdown(cancel.cancelled_owned());
    if let Err(error) = serving.await {
        tracing::error!(%error, "a listener ended");
    }
}

/// Says once that the operator is ready.
async fn announce(addresses: Addresses, file: Option<std::path::PathBuf>, health: Health, cancel: CancellationToken) {
    if cancel.run_until_cancelled(health.wait_until_ready()).await.is_none() {
        return;
    }
    tracing::info!(rest = %addresses.rest_address, metrics = %addresses.metrics_address, "ready");
    let Some(file) = file else { return };
    let text = serde_json::to_vec(&addresses).unwrap_or_default();
    let part = file.with_extension("part");
    let written = std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &file));
    if let Err(error) = written {
        tracing::error!(%error, file = %file.display(), "failed to write --ready-file");
    }
}

async fn wait_for_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
