//! Wires the operator together, one function a component, and takes it apart in order.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use kube::Client;
use ledger::KubeStore;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    attempts::Attempts,
    broadcast,
    cli::Run,
    controllers::{self, Controllers, PoolFollowers, WAKE_UPS, Wake},
    default_pool, deliver,
    events::{Events, Reports},
    health::Health,
    leader::{self, Candidate, Leadership},
    metrics::Metrics,
    node_watch::{self, SharedNodes},
    pool::{self, World, loads::Loads, wakes::Wakes},
    pool_keys::PoolKeys,
    recording::{self, watch::RecordingWake},
    resolve::Pools,
    rest_api,
    scope::Scope,
    secrets::Secrets,
};

/// How long a leader that stops lets requests under way end before it lets go of the Lease: most take milliseconds.
const HAND_OVER: Duration = Duration::from_millis(500);
/// Longest silence of a request; a watch is silent for up to 290 s.
const READ_TIMEOUT: Duration = Duration::from_secs(295);

pub(crate) async fn run(args: Run) -> anyhow::Result<()> {
    let client = connect(args.kubeconfig.as_deref()).await?;
    let scope = Scope::new(args.watch_namespaces.clone());
    let cancel = CancellationToken::new();
    let tasks = TaskTracker::new();
    let mut registry = Registry::with_prefix("tallylight");

    let (candidate, leadership) = candidate(&args, &client);
    let secrets = Arc::new(Secrets::new(client.clone()));
    let (pool_caches, pool_watches) = controllers::pools(&client, &scope);
    let pools = Pools::new(pool_caches.clone());
    let wakes = Wakes::new(scope.places());
    let loads = Loads::new(wakes.clone());
    let nodes = SharedNodes::new(Duration::from_secs(args.lease_seconds));
    let metrics = Metrics::register(&mut registry);
    let events = Events::new(client.clone(), args.identity.clone());
    let store = KubeStore::new(client.clone(), "tallylight-operator");
    let context = Arc::new(broadcast::Context {
        store: store.clone(),
        pools: pools.clone(),
        nodes: nodes.clone(),
        secrets,
        events: events.clone(),
        metrics: metrics.clone(),
        attempts: Attempts::new(leadership.clone(), metrics.clone(), broadcast::LONGEST_WAIT),
        verified: broadcast::key::Verified::default(),
        windows: Mutex::default(),
        recordings: recording::Index::default(),
        leadership: leadership.clone(),
    });
    let (reports, reported) = Reports::new(&mut registry);
    let dispatcher = deliver::dispatcher(args.hook_ca_file.as_deref(), &context, reports, &mut registry)?;
    let health = Health::new(registry, &scope.places());

    let metrics_listener = bind(args.metrics_address, "--metrics-address").await?;
    let rest_listener = rest_api::bind(&args).await?;
    let addresses = Addresses { rest: rest_listener.local_addr()?, metrics: metrics_listener.local_addr()? };

    tasks.spawn(events.clone().run(reported, cancel.clone()));
    tasks.spawn(serve(metrics_listener, health.clone().router(), cancel.clone()));
    tasks.spawn(serve(rest_listener, rest_api::router(&args, store, pools)?, cancel.clone()));
    let (wake, woken) = mpsc::channel(WAKE_UPS);
    let keys = PoolKeys::start(&client, &leadership, &cancel, &tasks);
    default_pool::start(args.default_pool.clone(), &client, &leadership, &cancel, &tasks);
    let followers =
        PoolFollowers { dispatcher: dispatcher.clone(), broadcasts: wake.clone(), pools: wakes.clone(), keys };
    controllers::watch_pools(pool_watches, &followers, &health, &cancel, &tasks);
    let (wake_recording, recording_woken) = mpsc::channel(WAKE_UPS);
    let everyone = (wake.clone(), wake_recording.clone());
    tasks.spawn(begin_to_lead(leadership.clone(), metrics.leading.clone(), everyone, cancel.clone()));
    let changes = controllers::forward_changes(wake.clone(), wake_recording, wakes.clone(), metrics.clone(), &tasks);
    let (seen, noted, told) = (nodes.clone(), loads.clone(), health.clone());
    tasks.spawn(node_watch::run(client.clone(), scope.clone(), seen, noted, changes, told, cancel.clone()));
    let controllers =
        Controllers { context: &context, dispatcher: &dispatcher, health: &health, pools: &wakes, cancel: &cancel };
    let broadcasts = controllers.start(&client, &scope, woken, &tasks);
    let recorded = Arc::new(recording::Context::new(&context, broadcasts.clone(), health.clone(), wake));
    recording::watch::start(&client, &scope, &recorded, &health, recording_woken, &cancel, &tasks);
    let world = World::watch(&client, &scope, &wakes, &health, &cancel, &tasks);
    let given = pool::Given { image: args.media_node_image.clone(), rest_upstream: args.media_rest_upstream.clone() };
    let kept = pool::Kept::new(leadership.clone(), metrics);
    let context = pool::Context { client, broadcasts, world, nodes, loads, events, given, kept, leadership };
    let places = scope.places().into_iter().zip(pool_caches).collect();
    pool::start(&Arc::new(context), places, &wakes, &health, &cancel, &tasks);
    let mut deliveries = {
        let (dispatcher, cancel) = (dispatcher.clone(), cancel.clone());
        tasks.spawn(async move { dispatcher.run(cancel).await })
    };

    tasks.spawn(announce(addresses, args.ready_file.clone(), health, cancel.clone()));
    let contending = CancellationToken::new();
    let contest = candidate.map(|candidate| tasks.spawn(candidate.run(contending.clone())));
    tokio::select! {
        signal = wait_for_signal() => signal?,
        // Whatever is under way must stop: another operator may lead by now.
        () = ended(contest) => anyhow::bail!("lost the Lease by which operators elect the one that writes"),
    }
    tracing::info!("stopping");
    cancel.cancel();
    // What is quick ends while we still lead; then the next operator may begin.
    let _settled = tokio::time::timeout(HAND_OVER, &mut deliveries).await;
    contending.cancel();
    drain(&tasks, Duration::from_secs(args.drain_seconds)).await;
    Ok(())
}

/// Lets what is under way end.
async fn drain(tasks: &TaskTracker, longest: Duration) {
    tasks.close();
    let drained = tokio::time::timeout(longest, tasks.wait());
    if drained.await.is_err() {
        tracing::warn!(
            "requests were still under way at the end of the drain time; the next operator sends them again"
        );
    }
}

fn candidate(args: &Run, client: &Client) -> (Option<Candidate>, Leadership) {
    if !args.leader_elect {
        return (None, Leadership::unopposed());
    }
    let namespace = args.leader_namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let (candidate, leadership) = Candidate::new(client.clone(), &namespace, args.identity.clone());
    (Some(candidate), leadership)
}

/// Returns when the contest ends, which before our own end is a defeat; never without one.
async fn ended(contest: Option<tokio::task::JoinHandle<leader::End>>) {
    match contest {
        Some(contest) => drop(contest.await),
        None => std::future::pending().await,
    }
}

/// Wakes everything when this process comes to lead. It does so until its end.
async fn begin_to_lead(
    leadership: Leadership,
    leading: Gauge,
    (broadcasts, recordings): (mpsc::Sender<Wake>, mpsc::Sender<RecordingWake>),
    cancel: CancellationToken,
) {
    if cancel.run_until_cancelled(leadership.gained()).await.is_some() {
        leading.set(1);
        // The receivers end with the process.
        let _woken = broadcasts.send(Wake::Everything).await;
        let _woken = recordings.send(RecordingWake::Everything).await;
    }
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
    ledger::patient_client(config).context("failed to make a client of the cluster")
}

/// The addresses that were bound, as the ready file has them.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Addresses {
    rest: std::net::SocketAddr,
    metrics: std::net::SocketAddr,
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
    tracing::info!(rest = %addresses.rest, metrics = %addresses.metrics, "ready");
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
