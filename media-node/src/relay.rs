//! Everything lands anywhere: a viewer whose stream has its publisher on another node of the pool is served here, from one pull
//! of that node's packets into a ring of this one, however many viewers there are.
//!
//! A pull begins with its first viewer, follows the stream from session to session and node to node, and stops when the last
//! viewer has left. `follow` decides where the stream is; `client` pulls, `server` lets others pull, `token` says who may.
//! `recordings` passes on what is on another node's disk, `errands` what clients ask of another node's WebRTC, and `peers` knows where
//! that node is.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use ledger::Store;
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use crate::{
    admission::Apps,
    cli::RunArgs,
    hub::{self, Hub, Name, Stream, Viewer},
    listener,
    metrics::RefusalReason,
    packager::Packagers,
    server::Node,
    storage::Storages,
};

mod client;
mod errands;
mod files;
mod follow;
mod metrics;
mod peers;
mod recordings;
mod server;
pub mod token;

pub(crate) use errands::Asked;
pub use errands::Elsewhere;
pub(crate) use files::{Fetched, Owner, Whereabouts};
pub use metrics::{Failure, Metrics, Outcome, Passage, Refusal};
pub use recordings::Others;
pub(crate) use recordings::{Unavailable, Wanted};
use token::PoolKey;

/// Streams that are pulled, or looked for, at once. Each holds a ring of up to 32 MiB; beyond it viewers are refused.
const MAX_RELAYS: usize = 256;
/// Look-ups at once. More wait: players of streams that are not there cost the store no more than this.
const MAX_LOOK_UPS: usize = 32;

/// Longest time for a viewer from its play command to a stream that is pulled.
const START: Duration = Duration::from_secs(5);
/// How long a stream that nobody watches any more is pulled on: a page that is loaded anew finds it there.
const LINGER: Duration = Duration::from_secs(5);
/// How long it is believed that a stream is not live, so that players which try again at once cost the store little.
const ABSENCE: Duration = Duration::from_secs(1);

/// Most characters of `status.session.address`.
const MAX_ADDRESS: usize = 64;

/// The socket and the key of a node that relays.
#[derive(Debug)]
pub struct Socket {
    listener: TcpListener,
    key: PoolKey,
    address: SocketAddr,
    advertised: String,
}

impl Socket {
    /// Binds the relay's address. `None` without a key: the node then serves only streams that are published to it.
    ///
    /// # Errors
    /// When the key cannot be read, the address not be bound, or what others are to use is too long for a status.
    pub fn bind(args: &RunArgs) -> anyhow::Result<Option<Self>> {
        let (Some(file), Some(host)) = (&args.relay_key_file, &args.advertise_address) else {
            return Ok(None); // the command line allows no key without an address
        };
        let key = PoolKey::read(file)?;
        let wanted = args.relay_address;
        let listener = listener::bind(wanted)
            .with_context(|| format!("failed to listen on {wanted}; choose another address with --relay-address"))?;
        Self::new(listener, key, host).map(Some)
    }

    /// Takes a socket that others reach under `host`.
    ///
    /// # Errors
    /// When host and port are too long for a status.
    pub fn new(listener: TcpListener, key: PoolKey, host: &str) -> anyhow::Result<Self> {
        let address = listener.local_addr()?;
        let advertised = match host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, address.port()).to_string(),
            Err(_name) => format!("{host}:{}", address.port()),
        };
        let length = advertised.chars().count();
        ensure!(
            length <= MAX_ADDRESS,
            "{advertised} has {length} characters and may have {MAX_ADDRESS}; choose a shorter --advertise-address"
        );
        Ok(Self { listener, key, address, advertised })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where other nodes reach it: host:port.
    #[must_use]
    pub fn advertised(&self) -> &str {
        &self.advertised
    }

    /// Begins to relay: `node` serves its streams to others, and its viewers get theirs. Connections and pulls are tasks of
    /// `tasks`, and end when the node shuts down.
    pub fn serve<S: Store>(self, node: &mut Node<S>, place: Place<S>, metrics: Metrics, tasks: &TaskTracker) {
        let key = Arc::new(self.key);
        let me = &place.node;
        let lender = place.disks.as_ref().map(|disks| recordings::Lender::new(me.clone(), Arc::clone(&disks.storages)));
        if let Some(disks) = &place.disks {
            let peers = peers::Peers::new(disks.leases.clone());
            let others = Others::new(me.clone(), Arc::clone(&key), peers.clone(), metrics.clone(), tasks.clone());
            node.others = Some(others);
            if let Some(webrtc) = &node.webrtc {
                webrtc.pass_on(Elsewhere::new(me.clone(), Arc::clone(&key), peers, metrics.clone()));
            }
        }
        let server = server::Server {
            namespace: place.namespace.clone(),
            key: Arc::clone(&key),
            hub: node.hub.clone(),
            packagers: node.packagers.clone(),
            claims: node.claims.clone(),
            metrics: metrics.clone(),
            shutdown: node.shutdown.clone(),
            pullers: server::Pullers::default(),
            recordings: lender,
            sessions: node.webrtc.as_ref().map(errands::sessions),
        };
        tasks.spawn(server.run(self.listener, tasks.clone()));
        node.relays = Some(Relays::new(node, place, Some(key), metrics, tasks));
    }
}

/// Lets viewers of a node that relays nothing wait for publishers that are away and come back to it.
pub(crate) fn serve_alone<S: Store>(node: &mut Node<S>, place: Place<S>, metrics: Metrics, tasks: &TaskTracker) {
    node.relays = Some(Relays::new(node, place, None, metrics, tasks));
}

/// Where a node looks Broadcasts up, and who it is there.
#[derive(Debug)]
pub struct Place<S> {
    pub store: S,
    pub namespace: String,
    pub node: String,
    /// For recordings on the disks of nodes; none where there is one node.
    pub disks: Option<Disks>,
}

/// What it takes to have recordings from each other's disks.
#[derive(Debug)]
pub struct Disks {
    /// This node's.
    pub storages: Arc<Storages>,
    /// Those of the nodes, which say where they are.
    pub leases: Api<Lease>,
}

/// The streams that this node has through other nodes. Clones share them.
#[derive(Debug)]
pub struct Relays<S>(Arc<Inner<S>>);

impl<S> Clone for Relays<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Inner<S> {
    place: Place<S>,
    /// None on a node that has no others.
    key: Option<Arc<PoolKey>>,
    hub: Hub,
    packagers: Packagers,
    apps: Apps,
    metrics: Metrics,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    relayed: Mutex<HashMap<Name, Arc<Relayed>>>,
    look_ups: Semaphore,
}

/// A stream that is pulled, or looked for.
#[derive(Debug)]
struct Relayed {
    name: Name,
    stream: Arc<Stream>,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing came yet.
    Looking,
    Flowing,
    Over(RefusalReason),
}

impl<S: Store> Relays<S> {
    fn new(node: &Node<S>, place: Place<S>, key: Option<Arc<PoolKey>>, metrics: Metrics, tasks: &TaskTracker) -> Self {
        let inner = Inner {
            place,
            key,
            hub: node.hub.clone(),
            packagers: node.packagers.clone(),
            apps: node.admission.apps().clone(),
            metrics,
            shutdown: node.shutdown.clone(),
            tasks: tasks.clone(),
            relayed: Mutex::default(),
            look_ups: Semaphore::new(MAX_LOOK_UPS),
        };
        let relays = Self(Arc::new(inner));
        tasks.spawn(relays.clone().watch_parked());
        relays
    }

    /// Takes over the viewers of a publisher that left and is awaited: they get the stream from wherever it goes on. Without
    /// viewers there is nothing to do.
    pub(crate) fn adopt(&self, place: hub::Place) {
        let stream = Arc::clone(place.stream());
        let mut all = self.relayed();
        let full = all.len() >= MAX_RELAYS;
        match all.entry(place.name().clone()) {
            // who watched the stream when it came here goes on to watch it there
            Entry::Occupied(_) => {}
            Entry::Vacant(entry) if stream.viewers() > 0 && !full => {
                let name = place.name().clone();
                let relayed = Arc::new(Relayed { name, stream, state: watch::Sender::new(State::Flowing) });
                entry.insert(Arc::clone(&relayed));
                self.0.tasks.spawn(self.clone().run(relayed));
                place.hand_over();
            }
            Entry::Vacant(_) => {}
        }
    }

    /// Joins a stream that flows here through another node, or did until its publisher came to this one: those who watch it so
    /// stay together, whatever its publisher does next.
    pub(crate) fn flowing(&self, name: &Name) -> Option<Viewer> {
        let all = self.relayed();
        let relayed = all.get(name).filter(|relayed| *relayed.state.borrow() == State::Flowing)?;
        Some(self.0.hub.viewer_of(Arc::clone(&relayed.stream)))
    }

    /// Joins a stream that has its publisher on another node.
    ///
    /// # Errors
    /// When it is live nowhere, or could not be pulled within 5 s.
    pub async fn view(&self, name: &Name) -> Result<Viewer, RefusalReason> {
        if self.0.key.is_none() {
            return Err(RefusalReason::NotLive); // not here, and there are no others
        }
        let (viewer, mut state) = self.join(name)?;
        let known = timeout(START, state.wait_for(|state| *state != State::Looking)).await;
        match known {
            Ok(Ok(state)) => match *state {
                State::Flowing => Ok(viewer),
                State::Over(reason) => Err(reason),
                State::Looking => Err(RefusalReason::NotRelayed),
            },
            Ok(Err(_)) | Err(_) => Err(RefusalReason::NotRelayed),
        }
    }

    /// Streams that are pulled, or looked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.relayed().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn join(&self, name: &Name) -> Result<(Viewer, watch::Receiver<State>), RefusalReason> {
        let mut all = self.relayed();
        let full = all.len() >= MAX_RELAYS;
        let relayed = match all.entry(name.clone()) {
            Entry::Occupied(entry) => Arc::clone(entry.get()),
            Entry::Vacant(_) if full => return Err(RefusalReason::NotRelayed),
            Entry::Vacant(entry) => {
                let relayed = Arc::new(Relayed {
                    name: name.clone(),
                    stream: Arc::new(Stream::new()),
                    state: watch::Sender::new(State::Looking),
                });
                entry.insert(Arc::clone(&relayed));
                self.0.tasks.spawn(self.clone().run(Arc::clone(&relayed)));
                relayed
            }
        };
        // under the lock: a stream is given up only without viewers
        let viewer = self.0.hub.viewer_of(Arc::clone(&relayed.stream));
        drop(all);
        let state = relayed.state.subscribe();
        Ok((viewer, state))
    }

    async fn run(self, relayed: Arc<Relayed>) {
        let (reason, why) = tokio::select! {
            biased;
            () = self.0.shutdown.cancelled() => (RefusalReason::ShuttingDown, "this node shuts down"),
            () = self.deserted(&relayed) => (RefusalReason::NotLive, "the last viewer has left"),
            reason = Box::pin(self.follow(&relayed)) => (reason, "the stream has ended or could not be had"),
        };
        let was_flowing = *relayed.state.borrow() == State::Flowing;
        if was_flowing {
            self.remove(&relayed);
            info!(app = relayed.name.app, stream = %relayed.name.id, why, "relay.ended");
        }
        relayed.state.send_replace(State::Over(reason));
        relayed.stream.end();
        if !was_flowing {
            let _shutting_down = self.0.shutdown.run_until_cancelled(sleep(ABSENCE)).await;
            self.remove(&relayed);
        }
    }

    /// Returns when nobody has watched for a while; then nobody joins any more.
    async fn deserted(&self, relayed: &Arc<Relayed>) {
        loop {
            if relayed.stream.viewers() > 0 {
                relayed.stream.left().notified().await;
                continue;
            }
            sleep(LINGER).await;
            let mut all = self.relayed();
            if relayed.stream.viewers() == 0 {
                all.remove(&relayed.name);
                return;
            }
        }
    }

    /// Forgets a stream, unless its name has another one by now.
    fn remove(&self, relayed: &Arc<Relayed>) {
        if let Entry::Occupied(entry) = self.relayed().entry(relayed.name.clone())
            && Arc::ptr_eq(entry.get(), relayed)
        {
            entry.remove();
        }
    }

    fn relayed(&self) -> MutexGuard<'_, HashMap<Name, Arc<Relayed>>> {
        self.0.relayed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the metrics, in `registry`; says when there is no relay.
pub(crate) fn metrics(registry: &mut Registry, socket: Option<&Socket>) -> Metrics {
    if socket.is_none() {
        info!("the relay is off: viewers get streams that are published to this node; --relay-key-file turns it on");
    }
    Metrics::new(registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PoolKey {
        PoolKey::new(&[7; 32]).unwrap()
    }

    async fn advertised(host: &str) -> anyhow::Result<String> {
        let socket = Socket::new(TcpListener::bind("127.0.0.1:0").await?, key(), host)?;
        Ok(socket.advertised().replace(&socket.address().port().to_string(), "PORT"))
    }

    #[tokio::test]
    async fn others_are_told_host_and_port() {
        assert_eq!(advertised("10.1.2.3").await.unwrap(), "10.1.2.3:PORT");
        assert_eq!(advertised("fd00::1").await.unwrap(), "[fd00::1]:PORT");
        assert_eq!(advertised("media-1.media").await.unwrap(), "media-1.media:PORT");
        assert!(advertised(&"n".repeat(64)).await.unwrap_err().to_string().contains("--advertise-address"));
    }
}
