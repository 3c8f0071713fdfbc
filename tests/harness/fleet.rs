//! The media nodes of a whole pool, without media: sessions open and end on them at a steady rate, whatever the answers take,
//! as publishers come and go.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use ledger::Owner;
use serde_json::{Value, json};
use tallylight_crds::Reason;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    install::{self, Tenant},
    node::Node,
};

/// Requests of the preparation under way at once.
const WRITERS: usize = 16;

/// The nodes of a pool whose pods run.
pub struct Fleet {
    nodes: Arc<Vec<Node>>,
}

/// A session on one of the nodes.
#[derive(Clone, Debug)]
pub struct Live {
    pub broadcast: String,
    node: usize,
    owner: Owner,
    /// From the publisher's media to the accepted claim.
    pub accepted_after: Duration,
}

impl Fleet {
    /// Speaks for every pod of the pool `live`.
    ///
    /// # Errors
    /// When a token is refused.
    pub async fn start(tenant: &Tenant) -> Result<Self> {
        let pods = Api::<Pod>::namespaced(tenant.admin.clone(), &tenant.namespace);
        let pods = pods.list(&ListParams::default().labels("tallylight.dev/pool=live")).await?.items;
        let nodes = stream::iter(&pods).map(|pod| Node::of_pod(tenant, pod));
        let nodes: Vec<_> = nodes.buffer_unordered(WRITERS).try_collect().await?;
        Ok(Self { nodes: Arc::new(nodes) })
    }

    /// Opens a session of each Broadcast, `rate` a second, on one node after the other.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn open(&self, broadcasts: impl Iterator<Item = String>, rate: u32) -> Result<Vec<Live>> {
        let publishers = broadcasts.enumerate().map(|(index, broadcast)| {
            let (nodes, node) = (Arc::clone(&self.nodes), index % self.nodes.len());
            Box::pin(async move {
                let begin = Instant::now();
                let owner = nodes.get(node).context("the pool has no node")?.open(&broadcast).await?;
                Ok(Live { broadcast, node, owner, accepted_after: begin.elapsed() })
            })
        });
        at_rate(rate, publishers).await
    }

    /// Ends the sessions, `rate` a second.
    ///
    /// # Errors
    /// When one is a node's no more.
    pub async fn end(&self, live: Vec<Live>, rate: u32) -> Result<()> {
        let ends = live.into_iter().map(|Live { broadcast, node, owner, .. }| {
            let nodes = Arc::clone(&self.nodes);
            Box::pin(async move {
                let node = nodes.get(node).context("the pool has no node")?;
                node.end(&broadcast, owner, Reason::PublisherClosed).await
            })
        });
        at_rate(rate, ends).await.map(|_| ())
    }
}

/// Starts so many a second, each whether or not those before it are done, and waits for all.
async fn at_rate<T: Send + 'static>(
    rate: u32,
    all: impl Iterator<Item = impl Future<Output = Result<T>> + Send + 'static>,
) -> Result<Vec<T>> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut under_way = JoinSet::new();
    for one in all {
        ticks.tick().await;
        under_way.spawn(one);
    }
    let mut done = Vec::new();
    while let Some(one) = under_way.join_next().await {
        done.push(one??);
    }
    Ok(done)
}

/// Returns the name of one of many Broadcasts.
#[must_use]
pub fn name(index: usize) -> String {
    format!("show-{index}")
}

/// Makes as many Broadcasts of the pool `live`, with these fields in their specs.
///
/// # Errors
/// When the API server refuses one.
pub async fn broadcasts(tenant: &Tenant, count: usize, spec: &Value) -> Result<()> {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (admin, namespace) = (tenant.plane.admin().await?, tenant.namespace.clone());
        let mut document = json!({
            "apiVersion": "tallylight.dev/v1alpha1", "kind": "Broadcast", "metadata": {}, "spec": {"pool": "live"},
        });
        json_patch::merge(&mut document["spec"], spec);
        writers.spawn(async move {
            for index in (writer..count).step_by(WRITERS) {
                document["metadata"]["name"] = json!(name(index));
                install::apply(&admin, &namespace, &document).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    Ok(())
}
