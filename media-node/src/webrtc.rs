//! WebRTC of this node: the workers with their port, the sessions that they serve, and the streams that they are given. What is
//! said over HTTP to begin and end a session is `signalling`'s, and its answers to players and publishers are `playback/whep.rs`' and
//! `ingest/whip.rs`'.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    num::NonZeroUsize,
    sync::{Arc, OnceLock},
};

use anyhow::Context;
use media_webrtc::{
    demux::Limits,
    dtls::Identity,
    pool::{Options, Pool},
    sdp::Candidate,
};
use prometheus_client::registry::Registry;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{cli::NodeArgs, metrics::Metrics, relay::Elsewhere, server};

pub mod addresses;
pub(crate) mod feed;
pub mod ice_server;
pub(crate) mod metrics;
pub(crate) mod resource;
pub(crate) mod sessions;
pub(crate) mod signalling;
pub(crate) mod tracks;

use addresses::Addresses;
use feed::Feeds;
use ice_server::IceServer;
use sessions::Sessions;

/// The WebRTC of a node. Clones share it.
#[derive(Clone)]
pub struct WebRtc(Arc<Inner>);

struct Inner {
    node: String,
    pool: Arc<Pool>,
    identity: Arc<Identity>,
    addresses: Addresses,
    ice_servers: Vec<IceServer>,
    sessions: Arc<Sessions>,
    feeds: Feeds,
    /// Sessions of other nodes; empty without a relay.
    elsewhere: OnceLock<Elsewhere>,
    metrics: metrics::Metrics,
}

impl std::fmt::Debug for WebRtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebRtc").field("address", &self.address()).finish_non_exhaustive()
    }
}

/// Who a node is to its peers.
#[derive(Debug)]
pub struct Place<'a> {
    /// Stands in the addresses of its sessions.
    pub node: &'a str,
    pub metrics: &'a Metrics,
    pub shutdown: &'a CancellationToken,
    /// Streams that have viewers are tasks of it.
    pub tasks: &'a TaskTracker,
}

impl WebRtc {
    /// Binds the port, which is noted among what is `served`, and starts the workers; `None` when it is turned off.
    ///
    /// # Errors
    /// When the port is taken, with its flag; when the system has no threads left.
    pub fn start(
        args: &NodeArgs,
        place: &Place<'_>,
        registry: &mut Registry,
        served: &mut server::Addresses,
    ) -> anyhow::Result<Option<Self>> {
        let metrics = metrics::Metrics::new(registry, place.metrics);
        let available = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers = args.webrtc_workers.map_or_else(available, usize::from);
        if workers == 0 {
            return Ok(None);
        }
        let address = args.webrtc_address;
        check_free(address).with_context(|| refused(address))?;
        let identity = Arc::new(Identity::generate()?);
        let sessions = Arc::new(Sessions::new(metrics.clone()));
        let told = Arc::clone(&sessions);
        let options = Options { address, workers, limits: Limits::default() };
        let pool =
            Pool::start(&options, Arc::clone(&identity), Box::new(move |session, event| told.take(session, event)))
                .with_context(|| refused(address))?;
        let pool = Arc::new(pool);
        served.webrtc = Some(pool.address());
        metrics::register_pool(registry, &pool);
        let feeds = Feeds::new(Arc::clone(&pool), metrics.clone(), place.shutdown.clone(), place.tasks.clone());
        Ok(Some(Self(Arc::new(Inner {
            node: place.node.to_owned(),
            addresses: Addresses::new(&args.webrtc_advertise, args.webrtc_advertise_file.as_deref(), pool.address()),
            pool,
            identity,
            ice_servers: args.webrtc_ice_server.clone(),
            sessions,
            feeds,
            elsewhere: OnceLock::new(),
            metrics,
        }))))
    }

    /// Where the workers listen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.pool.address()
    }

    /// The name of this node in the addresses of its sessions.
    pub(crate) fn node(&self) -> &str {
        &self.0.node
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.0.pool
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Where peers reach this node, the best first.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        self.0.addresses.candidates()
    }

    pub(crate) fn ice_servers(&self) -> &[IceServer] {
        &self.0.ice_servers
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    /// Passes what is asked of other nodes' sessions on from now on.
    pub(crate) fn pass_on(&self, elsewhere: Elsewhere) {
        let _first = self.0.elsewhere.set(elsewhere); // there is one relay
    }

    pub(crate) fn elsewhere(&self) -> Option<&Elsewhere> {
        self.0.elsewhere.get()
    }

    pub(crate) fn feeds(&self) -> &Feeds {
        &self.0.feeds
    }

    pub(crate) fn metrics(&self) -> &metrics::Metrics {
        &self.0.metrics
    }
}

/// Ends all sessions and awaits the workers.
pub(crate) async fn stop(webrtc: Option<WebRtc>) {
    if let Some(WebRtc(inner)) = webrtc {
        // a worker ends within its turn; a panic of one has been printed
        let _joined = tokio::task::spawn_blocking(move || inner.pool.stop()).await;
    }
}

fn refused(address: SocketAddr) -> String {
    format!(
        "failed to listen on {address} over UDP and TCP; choose another address with --webrtc-address, or turn WebRTC off with \
         --webrtc-workers=0"
    )
}

/// The workers share their port, so another process that does the same would share it too, and get every other peer: it is asked for
/// alone first.
fn check_free(address: SocketAddr) -> io::Result<()> {
    UdpSocket::bind(address).map(drop)?;
    if address.port() == 0 { Ok(()) } else { TcpListener::bind(address).map(drop) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_other_workers_share_is_not_free() {
        let identity = Arc::new(Identity::generate().unwrap());
        let options = Options { address: ([127, 0, 0, 1], 0).into(), workers: 1, limits: Limits::default() };
        let pool = Pool::start(&options, identity, Box::new(|_, _| {})).unwrap();

        let taken = check_free(pool.address()).unwrap_err();

        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        pool.stop();
        assert!(check_free(options.address).is_ok());
    }
}
