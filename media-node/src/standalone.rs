//! `standalone`: a whole server in one process, over SQLite. Wires the parts together and takes them apart in order.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use ledger::SqliteStore;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    admission::Apps,
    claim::{Claims, Identity, Leftovers},
    cli::StandaloneArgs,
    data_dir::DataDir,
    http::{self, Readiness},
    listener,
    metrics::Metrics,
    run::{stop_media, stop_signal},
    server::{self, Addresses, Node, Sockets},
};

mod catalog;
mod follow;
mod manifests;

use catalog::Catalog;

/// The one namespace of a standalone server.
pub(crate) const NAMESPACE: &str = "default";
/// The one node.
const NODE: &str = "standalone";

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When the server cannot start.
pub async fn run(args: StandaloneArgs) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    listener::raise_file_limit();
    let data_dir = DataDir::open(&args.node.data_dir)?;
    let sockets = Sockets::bind(&args.node)?;
    let addresses = sockets.addresses()?;
    let mut registry = Registry::with_prefix("tallylight");
    let metrics = Metrics::new(&mut registry);
    let store = SqliteStore::open(&data_dir.path().join("ledger.sqlite")).context("failed to open the ledger")?;
    let identity = Identity { namespace: NAMESPACE.to_owned(), node: NODE.to_owned(), address: None };
    let (claims, recovery) = Claims::open(store.clone(), identity, data_dir.path(), metrics.clone())
        .context("failed to open the ends log")?;
    recovery.run(Leftovers::Close).await;

    let apps = Apps::default();
    let catalog = Catalog::new(store.clone(), apps.clone(), catalog::default_pool(&args)?);
    let client = webhook::http::Client::new(&[]).context("failed to make the client of hooks")?;
    let dispatcher =
        webhook::Dispatcher::new(store.clone(), catalog.clone(), client, webhook::Options::default(), &mut registry);

    let (shutdown, end) = (CancellationToken::new(), CancellationToken::new());
    let (connections, background) = (TaskTracker::new(), TaskTracker::new());
    let follower = follow::Follower::new(store.clone(), claims.clone(), dispatcher.clone());
    background.spawn(follower.run(end.clone()));
    let deliveries = CancellationToken::new();
    background.spawn({
        let (dispatcher, cancel) = (dispatcher.clone(), deliveries.clone());
        async move { dispatcher.run(cancel).await }
    });
    if let Some(folder) = &args.manifests {
        let manifests = manifests::Manifests::new(folder.clone(), catalog.clone(), store.clone(), dispatcher.clone());
        background.spawn(manifests.start().await?.run(end.clone()));
    }
    let readiness = Readiness::default();
    let (http_listener, media) = sockets.split();
    background.spawn(http::serve(http_listener, http::routes(registry, readiness.clone()), end.clone()));
    let node =
        Node::new(store.clone(), NAMESPACE.to_owned(), apps, claims.clone(), metrics, &args.node, shutdown.clone());
    media.serve(&Arc::new(node), &connections);
    readiness.set(true);
    announce(&args, &addresses)?;

    stop.cancelled().await;
    let deadline = Instant::now() + args.node.drain();
    info!("shutting down");
    readiness.set(false);
    stop_media(&shutdown, &connections, &claims, deadline).await;
    // the ends that were just written get one try at their receiver; the rest is delivered at the next start
    deliveries.cancel();
    end.cancel();
    background.close();
    if tokio::time::timeout_at(deadline + Duration::from_secs(1), background.wait()).await.is_err() {
        warn!("deliveries or HTTP connections are still open");
    }
    store.close().await;
    Ok(())
}

/// Says where the server is, to people and to programs.
fn announce(args: &StandaloneArgs, addresses: &Addresses) -> anyhow::Result<()> {
    info!(rtmp = %addresses.rtmp, http = %addresses.http, "serving");
    let app = &args.node.app;
    let rtmp = reachable(addresses.rtmp);
    let http = reachable(addresses.http);
    let mut lines = format!(
        "publish  rtmp://{rtmp}/{app}/STREAM      (OBS: server rtmp://{rtmp}/{app}, stream key STREAM)\n\
         play     rtmp://{rtmp}/{app}/STREAM\n\
         http     http://{http}/metrics\n"
    );
    if let Some(rtmps) = addresses.rtmps {
        lines += &format!("publish  rtmps://{}/{app}/STREAM\n", reachable(rtmps));
    }
    // a standard output that is closed is no reason not to serve
    let _printed = io::stdout().lock().write_all(lines.as_bytes());
    if let Some(file) = &args.node.ready_file {
        server::write_ready_file(file, addresses)?;
    }
    Ok(())
}

/// An address that can be typed: all interfaces are reached at this machine's loopback.
fn reachable(address: std::net::SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("localhost:{}", address.port()) } else { address.to_string() }
}
