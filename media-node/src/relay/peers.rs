//! Where the other nodes of the pool are: each says in its Lease where its relay is reached. A Lease goes with its pod.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, ResourceExt as _};
use moka::future::Cache;
use tallylight_crds::RELAY_ADDRESS_ANNOTATION;
use tokio::time::timeout;
use tracing::debug;

/// Longest wait for the API server.
const LOOK_UP: Duration = Duration::from_secs(3);
/// How long it is believed where a node is: a player asks for many ranges of a file.
const BELIEVED: Duration = Duration::from_secs(10);
/// Nodes that are known; of more, those that were asked for least are looked up again.
const MAX_KNOWN: u64 = 1_024;

/// See the module. Clones share what is known.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    leases: Api<Lease>,
    known: Cache<String, Peer>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Its relay is at host:port.
    At(String),
    /// It has no Lease, so its pod is no more.
    Gone,
    /// It does not say where it is, or the API server does not.
    Unknown,
}

impl Peers {
    pub(super) fn new(leases: Api<Lease>) -> Self {
        let known = Cache::builder().max_capacity(MAX_KNOWN).time_to_live(BELIEVED).build();
        Self { leases, known }
    }

    /// Finds the node of that name.
    pub(super) async fn find(&self, node: &str) -> Peer {
        // that nothing is known is not kept
        self.known.try_get_with(node.to_owned(), self.look_up(node)).await.unwrap_or(Peer::Unknown)
    }

    /// Forgets where a node is: it did not answer there.
    pub(super) async fn forget(&self, node: &str) {
        self.known.invalidate(node).await;
    }

    async fn look_up(&self, node: &str) -> Result<Peer, Silent> {
        let lease = match timeout(LOOK_UP, self.leases.get_opt(node)).await {
            Ok(Ok(Some(lease))) => lease,
            Ok(Ok(None)) => return Ok(Peer::Gone),
            Ok(Err(error)) => {
                debug!(node, error = &error as &dyn std::error::Error, "failed to look a node up");
                return Err(Silent);
            }
            Err(_elapsed) => return Err(Silent),
        };
        let address = lease.annotations().get(RELAY_ADDRESS_ANNOTATION).filter(|address| !address.is_empty());
        address.cloned().map(Peer::At).ok_or(Silent)
    }
}

/// Nobody says where the node is.
#[derive(Clone, Copy, Debug)]
struct Silent;
