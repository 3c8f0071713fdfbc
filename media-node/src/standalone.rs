//! `standalone`: a whole server in one process, over SQLite. Wires the parts together and takes them apart in order.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use axum::Router;
use ledger::SqliteStore;
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    admission::Apps,
    claim::{Claims, Identity, Leftovers, Windows},
    cli::StandaloneArgs,
    data_dir::DataDir,
    http::{self, Readiness},
    listener,
    metrics::Metrics,
    recording::{self, Recorder, RecordingMetrics},
    relay,
    run::{media_routes, stop_media, stop_signal},
    server::{self, Node, Sockets, UserSockets},
    storage::Storages,
    webrtc::{self, WebRtc},
};

pub(crate) mod announce;
mod catalog;
pub(crate) mod demo;
mod follow;
mod manifests;
mod rest_api;

use catalog::Catalog;

/// The one namespace of a standalone server.
pub(crate) const NAMESPACE: &str = "default";
/// The one node.
const NODE: &str = "standalone";

/// Longest wait at the end for receivers to take the sessions' ends.
const LAST_DELIVERIES: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When the server cannot start.
pub async fn run(mut args: StandaloneArgs) -> anyhow::Result<()> {
    let started = std::time::Instant::now();
    let stop = stop_signal()?;
    let (receiver, _scratch) = if args.demo { demo::prepare(&mut args).await? } else { (None, None) };
    listener::raise_file_limit();
    let data_dir = DataDir::open(&args.node.data_dir)?;
    let sockets = Sockets::bind(&args.node)?;
    let mut addresses = sockets.addresses()?;
    let mut registry = Registry::with_prefix("tallylight");
    let metrics = Metrics::new(&mut registry);
    let relay_metrics = relay::Metrics::new(&mut registry);
    let store = SqliteStore::open(&data_dir.path().join("ledger.sqlite")).context("failed to open the ledger")?;
    let windows = Windows::new(args.node.reconnect_window());
    let identity =
        Identity { namespace: NAMESPACE.to_owned(), node: NODE.to_owned(), address: None, windows: windows.clone() };
    let (claims, recovery) = Claims::open(store.clone(), identity, data_dir.path(), metrics.clone())
        .context("failed to open the ends log")?;
    if stop.run_until_cancelled(recovery.run(Leftovers::Close)).await.is_none() {
        return Ok(());
    }

    let storages = Arc::new(Storages::new(args.node.storage_url.as_ref(), &args.node.storages, data_dir.path())?);
    let apps = Apps::default();
    let flags = catalog::Flags::new(&args, storages.default_name())?;
    let catalog = Catalog::new(store.clone(), apps.clone(), windows, flags);
    let dispatcher = dispatcher(&args, &store, &catalog, &mut registry)?;

    let (shutdown, end) = (CancellationToken::new(), CancellationToken::new());
    let (connections, background) = (TaskTracker::new(), TaskTracker::new());
    let at = webrtc::Place { node: NODE, metrics: &metrics, shutdown: &shutdown, tasks: &connections };
    let webrtc = WebRtc::start(&args.node, &at, &mut registry, &mut addresses)?;
    let mut node = Node::new(apps, claims.clone(), metrics, &args.node, shutdown.clone(), &connections);
    node.webrtc.clone_from(&webrtc);
    let identity = recording::Identity { namespace: NAMESPACE.to_owned(), node: NODE.to_owned() };
    let recorder =
        Recorder::serve(&mut node, store.clone(), identity, &storages, RecordingMetrics::new(&mut registry)).await;
    let follower = follow::Follower::new(store.clone(), claims.clone(), dispatcher.clone(), Some(recorder.clone()));
    background.spawn(follower.run(end.clone()));
    let deliveries = CancellationToken::new();
    let (delivering, until) = (dispatcher.clone(), deliveries.clone());
    background.spawn(async move { delivering.run(until).await });
    if let Some(folder) = &args.manifests {
        let manifests = manifests::Manifests::new(folder.clone(), catalog.clone(), store.clone(), dispatcher.clone());
        background.spawn(manifests.start().await?.run(end.clone()));
    }
    let readiness = Readiness::default();
    let Sockets { http, users, media } = sockets;
    let rest = rest_api::routes(&args, store.clone(), catalog, &addresses)?;
    let place =
        relay::Place { store: store.clone(), namespace: NAMESPACE.to_owned(), node: NODE.to_owned(), disks: None };
    relay::serve_alone(&mut node, place, relay_metrics, &connections);
    let node = Arc::new(node);
    let for_users = rest.merge(media_routes(&node, args.node.hls, storages, &connections));
    media.serve(&node, &connections);
    serve_http(http::routes(registry, readiness.clone()), http, &for_users, users, &end, &background);
    readiness.set(true);
    info!(rtmp = %addresses.rtmp, http = %addresses.http, "serving");
    let rest_has_token = args.rest_token_file.is_some();
    announce::print(&announce::addresses(&addresses, &args.node.app, args.demo, rest_has_token));
    if let Some(receiver) = receiver {
        background.spawn(receiver.run(started, end.clone()));
    }
    if args.demo {
        background.spawn(demo::show(addresses.rtmp, args.node.app.clone(), shutdown.clone()));
    }
    server::write_ready_file(args.node.ready_file.as_deref(), &addresses)?;

    stop.cancelled().await;
    let deadline = Instant::now() + args.node.drain();
    info!("shutting down");
    readiness.set(false);
    stop_media(&shutdown, &connections, &claims, webrtc, deadline).await;
    recorder.drain(deadline).await;
    // what a receiver does not take now is delivered at the next start
    let _delivered = tokio::time::timeout(LAST_DELIVERIES, follow::delivered(&store)).await;
    deliveries.cancel();
    end.cancel();
    background.close();
    if tokio::time::timeout_at(deadline + Duration::from_secs(1), background.wait()).await.is_err() {
        warn!("deliveries or HTTP connections are still open");
    }
    store.close().await;
    Ok(())
}

/// What delivers events.
fn dispatcher(
    args: &StandaloneArgs,
    store: &SqliteStore,
    catalog: &Catalog,
    registry: &mut Registry,
) -> anyhow::Result<webhook::Dispatcher<SqliteStore, Catalog>> {
    let authorities =
        args.hook_ca_file.as_deref().map(std::fs::read).transpose().context("failed to read --hook-ca-file")?;
    let client =
        webhook::http::Client::new(&authorities.unwrap_or_default()).context("--hook-ca-file cannot be used")?;
    Ok(webhook::Dispatcher::new(store.clone(), catalog.clone(), client, webhook::Options::default(), registry))
}

/// What is served where: users' HTTP at an address of its own or, without one, beside health and metrics.
fn serve_http(
    own: Router,
    listener: TcpListener,
    for_users: &Router,
    users: UserSockets,
    until: &CancellationToken,
    tasks: &TaskTracker,
) {
    if users.plain.is_some() {
        tasks.spawn(http::serve(listener, own, until.clone()));
    } else {
        tasks.spawn(http::serve_users(listener, None, own.merge(for_users.clone()), until.clone()));
    }
    users.serve(for_users, until, tasks);
}
