//! `run`: a node of a MediaPool in a cluster. Wires the parts together and takes them apart in order.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use axum::Router;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use ledger::{KubeStore, Recordings, Store};
use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    admission::Apps,
    claim::{Claims, Identity, Leftovers, Windows},
    cli::{Hls, RunArgs},
    data_dir::DataDir,
    drain::drain,
    http::{self, Readiness},
    ingest, lease, listener,
    metrics::Metrics,
    own_recordings, own_sessions, playback,
    recording::{self, Recorder, RecordingMetrics},
    relay, rest_forward,
    server::{self, Node, Sockets},
    storage::Storages,
    webrtc::{self, WebRtc},
};

/// Field manager of this node's writes.
const MANAGER: &str = "tallylight-media-node";

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When the node cannot start.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    listener::raise_file_limit();
    let data_dir = DataDir::open(&args.node.data_dir)?;
    let (client, namespace) = connect(&args).await?;
    let sockets = Sockets::bind(&args.node)?;
    let relay = relay::Socket::bind(&args)?;
    let mut addresses = sockets.addresses()?;
    addresses.relay = relay.as_ref().map(relay::Socket::address);
    let mut registry = Registry::with_prefix("tallylight");
    let metrics = Metrics::new(&mut registry);
    let relay_metrics = relay::metrics(&mut registry, relay.as_ref());
    let recording_metrics = RecordingMetrics::new(&mut registry);
    let store = KubeStore::new(client.clone(), MANAGER);
    let identity = Identity {
        namespace: namespace.clone(),
        node: args.node_name.clone(),
        address: relay.as_ref().map(|relay| relay.advertised().to_owned()),
        windows: Windows::new(args.node.reconnect_window()),
    };
    let (claims, recovery) = Claims::open(store.clone(), identity, data_dir.path(), metrics.clone())
        .context("failed to open the ends log")?;

    let (shutdown, end) = (CancellationToken::new(), CancellationToken::new());
    let (connections, background) = (TaskTracker::new(), TaskTracker::new());
    let at = webrtc::Place { node: &args.node_name, metrics: &metrics, shutdown: &shutdown, tasks: &connections };
    let webrtc = WebRtc::start(&args.node, &at, &mut registry, &mut addresses)?;
    let (readiness, apps) = (Readiness::default(), Apps::default());
    let Sockets { http, users, media } = sockets;
    apps.set(BTreeMap::from([(args.node.app.clone(), args.pool.clone())]));
    let for_users = rest_forward::routes(args.rest_upstream.clone(), apps.clone(), &mut registry);
    background.spawn(http::serve(http, http::routes(registry, readiness.clone()), end.clone()));
    let (held, mut lease_held) = watch::channel(false);
    let relay_address = relay.as_ref().map(relay::Socket::advertised);
    let keeper = lease::Keeper::new(client.clone(), &namespace, &args, relay_address, stop.clone(), metrics.clone());
    background.spawn(keeper.run(held, end.clone()));

    let started = async {
        recovery.run(Leftovers::End).await;
        // without a Lease an operator would take this node for lost
        lease_held.wait_for(|held| *held).await.is_ok()
    };
    tokio::select! {
        _held = started => {}
        () = stop.cancelled() => {
            end.cancel();
            webrtc::stop(webrtc).await;
            return Ok(());
        }
    }
    let storages = Arc::new(Storages::new(args.node.storage_url.as_ref(), &args.node.storages, data_dir.path())?);
    let identity = recording::Identity { namespace, node: args.node_name.clone() };
    let place = place(&client, &store, &identity, &storages);
    let mut node = Node::new(apps, claims.clone(), metrics, &args.node, shutdown.clone(), &connections);
    node.webrtc.clone_from(&webrtc);
    match relay {
        Some(relay) => relay.serve(&mut node, place, relay_metrics, &connections),
        None => relay::serve_alone(&mut node, place, relay_metrics, &connections),
    }
    let recorder = Recorder::serve(&mut node, store.clone(), identity.clone(), &storages, recording_metrics).await;
    watch_own(client, store, identity, (claims.clone(), recorder.clone()), &end, &background);
    let draining = node.draining.clone();
    let node = Arc::new(node);
    let for_users = for_users.merge(media_routes(&node, args.node.hls, storages, &connections));
    media.serve(&node, &connections);
    // until the drain is over: others send users elsewhere as soon as this node is not ready
    users.serve(&for_users, &shutdown, &connections);
    info!(rtmp = %addresses.rtmp, http = %addresses.http, node = args.node_name, pool = args.pool, "serving");
    server::write_ready_file(args.node.ready_file.as_deref(), &addresses)?;
    readiness.set(true);

    stop.cancelled().await;
    let deadline = Instant::now() + args.node.drain();
    info!("shutting down");
    readiness.set(false);
    drain(&claims, &draining, args.node.reconnect_window(), deadline).await;
    stop_media(&shutdown, &connections, &claims, webrtc, deadline).await;
    recorder.drain(deadline).await;
    end.cancel();
    background.close();
    if tokio::time::timeout(Duration::from_secs(2), background.wait()).await.is_err() {
        warn!("HTTP connections are still open");
    }
    Ok(())
}

/// What publishers and viewers ask for over HTTP.
pub(crate) fn media_routes<S: Store + Recordings>(
    node: &Arc<Node<S>>,
    hls: Hls,
    storages: Arc<Storages>,
    tasks: &TaskTracker,
) -> Router {
    playback::routes(node, hls, storages, tasks).merge(ingest::whip::routes(node, tasks))
}

/// Where the relay finds other nodes, and what it lends them.
fn place(
    client: &Client,
    store: &KubeStore,
    recording::Identity { namespace, node }: &recording::Identity,
    storages: &Arc<Storages>,
) -> relay::Place<KubeStore> {
    let disks = relay::Disks { storages: Arc::clone(storages), leases: Api::namespaced(client.clone(), namespace) };
    relay::Place { store: store.clone(), namespace: namespace.clone(), node: node.clone(), disks: Some(disks) }
}

/// Follows what others do to what is this node's.
fn watch_own(
    client: Client,
    store: KubeStore,
    recording::Identity { namespace, node }: recording::Identity,
    (claims, recorder): (Claims<KubeStore>, Recorder),
    end: &CancellationToken,
    tasks: &TaskTracker,
) {
    tasks.spawn(own_recordings::watch(client.clone(), namespace.clone(), node.clone(), recorder.clone(), end.clone()));
    tasks.spawn(own_sessions::watch(client, store, namespace, node, (claims, recorder), end.clone()));
}

/// Ends every session, durably, and then lets the rest of the connections go.
pub(crate) async fn stop_media<S: Store>(
    shutdown: &CancellationToken,
    connections: &TaskTracker,
    claims: &Claims<S>,
    webrtc: Option<WebRtc>,
    deadline: Instant,
) {
    shutdown.cancel();
    connections.close();
    // publishers hand their sessions over at once; what lasts is the farewell to slow peers
    if tokio::time::timeout_at(deadline, connections.wait()).await.is_err() {
        warn!("connections are still open at the end of the drain time");
    }
    if !claims.drain(deadline).await {
        warn!("not all ends are durable at the end of the drain time; they are in the ends log");
    }
    webrtc::stop(webrtc).await;
}

/// A token that SIGTERM or SIGINT cancels; a second signal ends the process.
pub(crate) fn stop_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    #[expect(clippy::disallowed_methods, reason = "it lives as long as the process: nothing awaits it")]
    tokio::spawn(async move {
        tokio::select! {
            _got = terminate.recv() => {}
            _got = interrupt.recv() => {}
        }
        cancelled.cancel();
        tokio::select! {
            _got = terminate.recv() => {}
            _got = interrupt.recv() => {}
        }
        warn!("second signal: exiting at once");
        std::process::exit(1);
    });
    Ok(token)
}

async fn connect(args: &RunArgs) -> anyhow::Result<(Client, String)> {
    let mut config = match &args.kubeconfig {
        Some(file) => {
            let kubeconfig = Kubeconfig::read_from(file)
                .with_context(|| format!("failed to read --kubeconfig {}", file.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
        None => Config::incluster().context("not in a pod; name a cluster with --kubeconfig")?,
    };
    // one layer retries: the claims, each with its own deadline
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    // longer than any watch, which the server ends after 5 minutes
    config.read_timeout = Some(Duration::from_secs(330));
    config.write_timeout = Some(Duration::from_secs(10));
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    Ok((ledger::patient_client(config)?, namespace))
}
