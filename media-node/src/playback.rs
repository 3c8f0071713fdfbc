//! Protocol sides that serve viewers.

use axum::Router;
use ledger::Store;
use tokio_util::task::TaskTracker;

use crate::{cli, server::Node};

pub(crate) mod hls;
mod page;
pub mod rtmp;

/// The routes for viewers: HLS, and a page that plays it. They must be served with the peer's address. Viewers are counted by a task
/// of `tasks`.
pub(crate) fn routes<S: Store>(node: &Node<S>, mode: cli::Hls, tasks: &TaskTracker) -> Router {
    hls::routes(node, mode, tasks).merge(page::routes(node.admission.apps().clone()))
}
