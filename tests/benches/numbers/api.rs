//! What a broadcast costs the API server, counted in its audit log.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use serde_json::json;
use tempfile::TempDir;
use tests::{
    apiserver::Call,
    install::{self, Tenant},
    ports, repository,
    service::{Launch, Service},
};
use tokio::time::{Instant, timeout_at};

use crate::{load, say};

const SETTLED: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(60);
const BROADCASTS: usize = 20;

/// The operator and one media-node on a real API server, under their own accounts.
pub(crate) struct Cluster {
    // Dropped in this order: who writes goes first.
    node: Service,
    _operator: Service,
    pub(crate) tenant: Tenant,
    pub(crate) folder: TempDir,
}

impl Cluster {
    pub(crate) async fn start(name: &str) -> Result<Self> {
        const POOL: &str = "live";
        const NODE: &str = "media-live-1";
        let folder = repository::folder(name)?;
        let tenant = install::tenant(name).await?;
        tenant.pool(&json!({})).await?;
        let kubeconfig = tenant.operator_kubeconfig(folder.path()).await?;
        let operator = Launch::operator(folder.path(), &kubeconfig, &tenant.namespace).start().await?;
        let credential = tenant.media_pod(POOL, NODE).await?;
        let kubeconfig = tenant.plane.kubeconfig(folder.path(), NODE, &credential, &tenant.namespace)?;
        let node = Launch::media_node(folder.path(), &kubeconfig, &tenant.namespace, POOL, NODE).start().await?;
        Ok(Self { node, _operator: operator, tenant, folder })
    }

    pub(crate) fn url(&self) -> Result<String> {
        Ok(self.node.rtmp("LiveApp", "")?.trim_end_matches('/').to_owned())
    }
}

pub(crate) async fn measure() -> Result<()> {
    let cluster = Cluster::start("api").await?;
    let listen = format!("127.0.0.1:{}", ports::free()?);
    let spec = json!({"listenerHookURL": format!("http://{listen}/hook")});
    for index in 0..BROADCASTS {
        cluster.tenant.broadcast(&format!("load-{index}"), &spec).await?;
    }
    let count = BROADCASTS.to_string();
    let arguments = ["hooks", "--url", &cluster.url()?, "--listen", &listen, "--count", &count, "--streams", &count];
    load::run(cluster.folder.path(), &arguments).await?;
    for index in 0..BROADCASTS {
        cluster.tenant.settled(&format!("load-{index}"), 2, SETTLED).await?;
    }
    // conditions and Events that trail behind belong to the life too
    let life = settle(&cluster).await?;
    say(&format!(
        "\n### API calls\n\nWrites in the life of {BROADCASTS} Broadcasts, from their creation to both hooks delivered:\n"
    ));
    table(life.iter().filter(|call| call.writes() && call.resource != "leases"), BROADCASTS as f64);

    let until = Instant::now() + IDLE;
    let _elapsed = timeout_at(until, std::future::pending::<()>()).await;
    let calls = cluster.tenant.plane.calls(&cluster.tenant.namespace)?;
    say(&format!("\nCalls in {} s of idle, with {BROADCASTS} Broadcasts and one media-node:\n", IDLE.as_secs()));
    table(calls.iter().skip(life.len()), 1.0);
    Ok(())
}

/// All calls so far, once for ten seconds there was none but Lease renewals.
async fn settle(cluster: &Cluster) -> Result<Vec<Call>> {
    const QUIET: Duration = Duration::from_secs(10);
    let busy = |calls: &[Call]| calls.iter().filter(|call| call.resource != "leases").count();
    let mut calls = cluster.tenant.plane.calls(&cluster.tenant.namespace)?;
    loop {
        let _elapsed = timeout_at(Instant::now() + QUIET, std::future::pending::<()>()).await;
        let now = cluster.tenant.plane.calls(&cluster.tenant.namespace)?;
        if busy(&now) == busy(&calls) {
            return Ok(now);
        }
        calls = now;
    }
}

fn table<'a>(calls: impl Iterator<Item = &'a Call>, divisor: f64) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for call in calls {
        let outcome = if call.status < 300 { String::new() } else { format!(" → {}", call.status) };
        *counts.entry(format!("{} {} {}{outcome}", call.account, call.verb, call.resource)).or_default() += 1;
    }
    say("| account, verb, resource | calls | each |\n| --- | --- | --- |");
    for (name, count) in &counts {
        say(&format!("| {name} | {count} | {:.2} |", *count as f64 / divisor));
    }
    let sum: usize = counts.values().sum();
    say(&format!("| all | {sum} | {:.2} |", sum as f64 / divisor));
}
