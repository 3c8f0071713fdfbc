//! What the operator holds for Broadcasts that nothing happens to.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{
    fleet, install, repository,
    service::{Launch, Service},
    wait,
};

use crate::{machine, say};

const BROADCASTS: usize = 10_000;
const LISTED: Duration = Duration::from_secs(300);

pub(crate) async fn measure() -> Result<()> {
    let folder = repository::folder("operator")?;
    let tenant = install::tenant("operator").await?;
    tenant.pool(&json!({})).await?;
    let kubeconfig = tenant.operator_kubeconfig(folder.path()).await?;
    let launch = Launch::operator(folder.path(), &kubeconfig, &tenant.namespace);
    let operator = launch.start().await?;
    let before = steady(&operator).await?;
    let started = tokio::time::Instant::now();
    let spec = json!({"listenerHookURL": "http://127.0.0.1:9/hook", "name": "An idle one", "category": "bench"});
    fleet::broadcasts(&tenant, BROADCASTS, &spec).await?;
    let created = started.elapsed();
    let watched = steady(&operator).await?;
    operator.stop().await?;
    // a start with all of them there: one list
    let operator = launch.named("again").start().await?;
    let listed = steady(&operator).await?;
    ensure!(listed > before, "the operator did not list: {listed} KiB");
    let mb = |kib: u64| kib as f64 * 1024.0 / 1e6;
    say(&format!(
        "\n### Operator memory\n\nResident memory, MB: {:.1} with none, {:.1} after {BROADCASTS} idle Broadcasts were created one by one \
         ({:.0} s), {:.1} after a restart with them: **{:.1} MB per {BROADCASTS}** ({:.1} grown, {:.1} listed)",
        mb(before),
        mb(watched),
        created.as_secs_f64(),
        mb(listed),
        mb(watched.max(listed) - before),
        mb(watched - before),
        mb(listed - before)
    ));
    Ok(())
}

/// Resident memory in KiB, once the operator's CPU time has stood still for some seconds.
async fn steady(operator: &Service) -> Result<u64> {
    // three seconds
    const QUIET_LOOKS: usize = 150;
    let process = operator.process.id();
    let (mut last, mut quiet) = (0, 0);
    wait::until("the operator to come to rest", LISTED, async || {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).map_err(|error| error.to_string())?;
        let ticks: u64 = stat
            .rsplit_once(')')
            .map(|(_, fields)| {
                fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
            })
            .unwrap_or_default();
        quiet = if ticks <= last + 1 { quiet + 1 } else { 0 };
        last = ticks;
        if quiet >= QUIET_LOOKS { Ok(()) } else { Err(format!("{ticks} ticks")) }
    })
    .await?;
    machine::resident_kib(process)
}
