//! Protocol sides that serve viewers.

use std::sync::Arc;

use axum::Router;
use ledger::{Recordings, Store};
use tokio_util::task::TaskTracker;

use crate::{cli, server::Node, storage::Storages};

pub(crate) mod hls;
mod page;
pub mod rtmp;
pub mod vod;

/// The routes for viewers: HLS, recordings, and a page that plays both. They must be served with the peer's address. Viewers are
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
    vod::behind(hls::routes(node, mode, tasks), vods).merge(page::routes(apps.clone()))
}
