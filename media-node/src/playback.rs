//! Protocol sides that serve viewers.

use std::sync::Arc;

use axum::Router;
use ledger::{Recordings, Store};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Apps,
    cli,
    hub::{Hub, Name, Viewer},
    metrics::RefusalReason,
    relay::Relays,
    server::Node,
    storage::Storages,
};

pub(crate) mod hls;
mod page;
pub mod rtmp;
pub mod vod;
mod whep;

/// The routes for viewers: HLS, WHEP, recordings, and a page that plays them. They must be served with the peer's address. Viewers are
/// counted by a task of `tasks`.
pub(crate) fn routes<S: Store + Recordings>(
    node: &Node<S>,
    mode: cli::Hls,
    storages: Arc<Storages>,
    tasks: &TaskTracker,
) -> Router {
    let (claims, apps) = (&node.claims, node.admission.apps());
    let (store, namespace) = (claims.store().clone(), claims.identity().namespace.clone());
    let vods = vod::Vods::new(store, namespace, apps.clone(), storages, node.others.clone());
    vod::behind(hls::routes(node, mode, tasks), vods).merge(whep::routes(node)).merge(page::routes(apps.clone()))
}

/// Where viewers find streams, whichever node they are published to.
pub(crate) struct Streams<S> {
    apps: Apps,
    hub: Hub,
    relays: Option<Relays<S>>,
    shutdown: CancellationToken,
}

impl<S: Store> Streams<S> {
    /// Those of a node.
    pub(crate) fn of(node: &Node<S>) -> Self {
        let (apps, hub) = (node.admission.apps().clone(), node.hub.clone());
        Self { apps, hub, relays: node.relays.clone(), shutdown: node.shutdown.clone() }
    }

    /// Joins a stream.
    ///
    /// # Errors
    /// When it is live nowhere, or could not be had from where it is.
    pub(crate) async fn view(&self, name: &Name) -> Result<Viewer, RefusalReason> {
        let flowing = self.relays.as_ref().and_then(|relays| relays.flowing(name));
        if let Some(viewer) = flowing.or_else(|| self.hub.view(name)) {
            return Ok(viewer);
        }
        let relays = self.relays.as_ref().ok_or(RefusalReason::NotLive)?;
        tokio::select! {
            viewer = relays.view(name) => viewer,
            () = self.shutdown.cancelled() => Err(RefusalReason::ShuttingDown),
        }
    }
}
