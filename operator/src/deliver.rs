//! The dispatcher of a cluster: where events go is resolved from pools and Secrets, its writes carry conditions, and what
//! it reports becomes Events.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use ledger::KubeStore;
use prometheus_client::registry::Registry;
use tallylight_crds::Broadcast;

use crate::{broadcast, events::Reports, resolve::Resolve};

/// The dispatcher of a cluster.
pub(crate) type Dispatcher = webhook::Dispatcher<KubeStore, Resolve>;

/// Makes the dispatcher. `authorities`: a PEM file with certificate authorities that receivers may also be signed by.
pub(crate) fn dispatcher(
    authorities: Option<&Path>,
    context: &Arc<broadcast::Context>,
    reports: Reports,
    registry: &mut Registry,
) -> anyhow::Result<Dispatcher> {
    let more = authorities.map(std::fs::read).transpose().context("failed to read --hook-ca-file")?;
    let client = webhook::http::Client::new(&more.unwrap_or_default())?;
    let resolve = Resolve { pools: context.pools.clone(), secrets: context.secrets.clone() };
    let annotate = {
        let context = context.clone();
        move |b: &Broadcast, after: &_| context.annotate(b, after)
    };
    let report = move |b: &Broadcast, report: &webhook::Report| reports.send(b, report);
    let options =
        webhook::Options { annotate: Box::new(annotate), report: Box::new(report), ..webhook::Options::default() };
    Ok(webhook::Dispatcher::new(context.store.clone(), resolve, client, options, registry))
}
