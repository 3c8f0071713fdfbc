//! A thousand media nodes, ten thousand Broadcasts and thirty sessions a second that start or end, all of it on two cores with the
//! control plane: what the operator holds, how it starts, how long a publisher waits, and that no hook is lost.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use kube::Api;
use serde_json::json;
use tallylight_crds::MediaPool;
use tempfile::TempDir;
use tests::{
    apiserver::Call,
    fleet::{self, Fleet},
    http,
    install::{self, Tenant},
    kubelet::Kubelet,
    receiver::Receiver,
    repository,
    service::{Launch, Service},
    wait,
};
use tokio::time::{Instant, MissedTickBehavior};

use crate::say;

const NODES: i64 = 1_000;
const BROADCASTS: usize = 10_000;
/// Starts a second, and then ends a second.
const RATE: u32 = 30;
/// A minute of starts, and a minute of ends.
const SESSIONS: usize = 1_800;
/// Between two renewals of a Lease. At the media node's own 5 s a thousand of them are all that two cores carry.
const RENEWAL: Duration = Duration::from_secs(20);
/// After so many seconds without one a node is lost.
const LEASE_SECONDS: &str = "60";
/// For what has no bound of its own.
const PATIENCE: Duration = Duration::from_secs(900);
/// The operator is at rest when it reconciled nothing for so long.
const QUIET: Duration = Duration::from_secs(5);

struct Stage {
    tenant: Tenant,
    folder: TempDir,
    receiver: Receiver,
    operator: Option<Service>,
    _kubelet: Kubelet,
}

pub(crate) async fn measure() -> Result<()> {
    say(&format!("\n### Scale\n\n{NODES} media pods, {BROADCASTS} Broadcasts, Leases renewed every {RENEWAL:?}:\n"));
    let mut stage = Stage::start().await?;
    stage.restart().await?;
    stage.sessions().await?;
    stage.relist().await
}

impl Stage {
    async fn start() -> Result<Self> {
        let (tenant, folder) = (install::tenant("scale").await?, repository::folder("scale")?);
        let receiver = Receiver::start().await?;
        let operator = launch(&tenant, &folder).await?.start().await?;
        let kubelet = Kubelet::renewing(tenant.admin.clone(), &tenant.namespace, RENEWAL);
        let begin = Instant::now();
        tenant.pool(&json!({"nodes": {"minNodes": NODES, "maxNodes": NODES}})).await?;
        nodes_serve(&tenant).await?;
        say(&format!("* pods made and serving after {:.0} s", begin.elapsed().as_secs_f64()));
        let stage = Self { tenant, folder, receiver, operator: Some(operator), _kubelet: kubelet };
        stage.rest(0).await?;
        let before = stage.memory("VmRSS:")?;
        let begin = Instant::now();
        let spec = json!({"listenerHookURL": stage.receiver.url("hook"), "name": "A show", "category": "bench"});
        fleet::broadcasts(&stage.tenant, BROADCASTS, &spec).await?;
        let created = begin.elapsed();
        stage.rest(BROADCASTS as u64).await?;
        let after = stage.memory("VmRSS:")?;
        say(&format!(
            "* resident memory: {before:.1} MB with no Broadcast, {after:.1} MB with {BROADCASTS} (created in {:.0} s): \
             **{:.1} MB more**",
            created.as_secs_f64(),
            after - before
        ));
        Ok(stage)
    }

    /// Stops the operator and starts it anew, with everything there.
    async fn restart(&mut self) -> Result<()> {
        let launch = launch(&self.tenant, &self.folder).await?.named("again");
        let written = self.writes()?;
        if let Some(old) = self.operator.take() {
            old.stop().await?;
        }
        let begin = Instant::now();
        self.operator = Some(launch.start().await?);
        let rested = self.rest(BROADCASTS as u64).await?;
        let writes = self.writes()?.split_off(written.len());
        let settled = rested.duration_since(begin).as_secs_f64();
        let on_broadcasts = writes.iter().filter(|call| call.resource.starts_with("broadcasts")).count();
        say(&format!(
            "* restart: **{settled:.1} s** to the last reconcile, {on_broadcasts} writes to Broadcasts, {} to others; {:.1} MB",
            writes.len() - on_broadcasts,
            self.memory("VmRSS:")?
        ));
        Ok(())
    }

    /// Opens sessions on all nodes, ends them, and follows their hooks.
    async fn sessions(&self) -> Result<()> {
        let fleet = Fleet::start(&self.tenant).await?;
        let written = self.writes()?.len();
        let begin = Instant::now();
        let live = fleet.open((0..SESSIONS).map(fleet::name), RATE).await?;
        let mut accepted: Vec<_> = live.iter().map(|live| live.accepted_after.as_secs_f64() * 1e3).collect();
        accepted.sort_by(f64::total_cmp);
        let at = |percent: usize| accepted.get(accepted.len() * percent / 100).copied().unwrap_or(f64::NAN);
        say(&format!(
            "* {SESSIONS} starts at {RATE}/s in {:.1} s: accepted after p50 {:.0} ms, **p99 {:.0} ms**",
            begin.elapsed().as_secs_f64(),
            at(50),
            at(99)
        ));
        fleet.end(live, RATE).await?;
        let ended = Instant::now();
        wait::until("every hook", PATIENCE, async || {
            let received = self.receiver.received();
            if received >= 2 * SESSIONS { Ok(()) } else { Err(format!("{received} came")) }
        })
        .await?;
        let late = ended.elapsed();
        for index in 0..SESSIONS {
            self.tenant.settled(&fleet::name(index), 2, PATIENCE).await?;
        }
        self.receiver.check_promises()?;
        let (events, requests) = (self.receiver.accepted().len(), self.receiver.received());
        self.rest(0).await?;
        let mut kinds = std::collections::BTreeMap::<_, usize>::new();
        for call in self.writes()?.split_off(written) {
            *kinds.entry(format!("{} {}", call.verb, call.resource)).or_default() += 1;
        }
        say(&format!(
            "* hooks: **{events} of {}** events in order, {requests} requests, the last {:.1} s after the last end; \
             the operator's writes: {kinds:?}",
            2 * SESSIONS,
            late.as_secs_f64()
        ));
        Ok(())
    }

    /// Kills the API server and starts it again: its watches begin anew, most of them with a list.
    async fn relist(&self) -> Result<()> {
        let process = self.running()?.process.id();
        let lists = self.lists()?;
        let before = self.memory("VmRSS:")?;
        // 5: the peak begins anew (proc_pid_clear_refs(5))
        fs::write(format!("/proc/{process}/clear_refs"), "5")?;
        self.tenant.plane.kill_api()?;
        self.tenant.plane.start_api().await?;
        wait::until("the operator to list Broadcasts again", PATIENCE, async || {
            let lists = self.lists().map_err(|error| format!("{error:#}"))? - lists;
            if lists >= BROADCASTS / 500 { Ok(()) } else { Err(format!("{lists} pages")) }
        })
        .await?;
        self.rest(0).await?;
        let peak = self.memory("VmHWM:")?;
        say(&format!("* list anew: {before:.1} MB before, {peak:.1} MB at the most: **{:.2}×**", peak / before));
        Ok(())
    }

    fn running(&self) -> Result<&Service> {
        self.operator.as_ref().context("the operator is stopped")
    }

    fn lists(&self) -> Result<usize> {
        let calls = self.tenant.plane.calls(&self.tenant.namespace)?;
        let ours = |call: &&Call| call.account == "tallylight-operator" && call.resource == "broadcasts";
        Ok(calls.iter().filter(ours).filter(|call| call.verb == "list" && call.status == 200).count())
    }

    /// What the operator wrote so far, but for its own Lease.
    fn writes(&self) -> Result<Vec<Call>> {
        let calls = self.tenant.plane.calls(&self.tenant.namespace)?.into_iter();
        Ok(calls
            .filter(|call| call.account == "tallylight-operator" && call.writes() && call.resource != "leases")
            .collect())
    }

    /// Waits until the operator has done at least so many reconciles and does no more, and returns when it did the last.
    async fn rest(&self, least: u64) -> Result<Instant> {
        let mut looks = tokio::time::interval(Duration::from_millis(200));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut since) = (0, Instant::now());
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            looks.tick().await;
            let reconciles = reconciles(self.running()?).await?;
            if reconciles != last {
                (last, since) = (reconciles, Instant::now());
            } else if reconciles >= least && since.elapsed() >= QUIET {
                return Ok(since);
            }
        }
        anyhow::bail!("the operator does not come to rest: {last} reconciles")
    }

    /// A field of the operator's `/proc/<pid>/status`, in MB.
    fn memory(&self, field: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running()?.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
        let kib: f64 = line.split_whitespace().next().context("an empty field")?.parse()?;
        Ok(kib * 1024.0 / 1e6)
    }
}

/// The operator, with a token that outlives what follows.
async fn launch(tenant: &Tenant, folder: &TempDir) -> Result<Launch> {
    let kubeconfig = tenant.operator_kubeconfig(folder.path()).await?;
    let arguments = [
        "--media-node-image=localhost/tallylight/media-node:test",
        "--lease-seconds",
        LEASE_SECONDS,
        // One that elects ends when its API server is away for 10 s, as it may be between its end and its next start.
        "--leader-elect=false",
    ];
    Ok(Launch::operator(folder.path(), &kubeconfig, &tenant.namespace).args(arguments))
}

async fn nodes_serve(tenant: &Tenant) -> Result<()> {
    let pools = Api::<MediaPool>::namespaced(tenant.admin.clone(), &tenant.namespace);
    wait::until("all nodes to serve", PATIENCE, async || {
        let pool = pools.get("live").await.map_err(|error| error.to_string())?;
        let ready = pool.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
        if i64::from(ready) == NODES { Ok(()) } else { Err(format!("{:?}", pool.status)) }
    })
    .await
}

/// Of Broadcasts, by the operator's own count.
async fn reconciles(operator: &Service) -> Result<u64> {
    let metrics = http::get(operator.address("metrics")?, "/metrics").await?.body;
    let counts = metrics.lines().filter(|line| line.starts_with("tallylight_reconciles_total{"));
    Ok(counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}
