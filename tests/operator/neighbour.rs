//! The operator as a neighbour: an API server that is busy, slow, broken or has forgotten what was watched is asked little, and
//! when it is well again every hook has come once and in order.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tallylight_crds::{Broadcast, BroadcastState};
use tests::{
    encoder::Encoder,
    proxy::{Ask, Fault, Proxy},
    service::Launch,
    wait,
};
use tokio::time::Instant;

use crate::stage::{SOON, Stage};

/// As the API server asks for when it has too much to do.
const PATIENCE: Duration = Duration::from_secs(3);
/// Watches of an operator: Broadcasts, pools, Leases, media pods, pods of its own.
const WATCHES: usize = 5;

/// A stage whose operator reaches the API server through a proxy; the node and the test do not.
struct Scene {
    stage: Stage,
    proxy: Proxy,
    sessions: usize,
}

impl Scene {
    async fn new(name: &str) -> Result<Self> {
        let mut stage = Stage::without_operator(name, json!({})).await?;
        let proxy = Proxy::start(stage.tenant.plane).await?;
        stage.kubeconfig = proxy.kubeconfig(&stage.kubeconfig)?;
        // One that elects ends when it cannot renew its Lease for 10 s, and begins anew.
        stage.operator = Some(stage.launch().args(["--leader-elect=false"]).start().await?);
        stage.broadcast("show").await?;
        let mut scene = Self { stage, proxy, sessions: 0 };
        scene.caught_up().await?;
        Ok(scene)
    }

    /// Has a session while the API server is as it is for the operator.
    async fn session(&mut self) -> Result<()> {
        self.sessions += 1;
        self.stage.node.session("show").await
    }

    /// Waits until the proxy has done so to this many requests for `what`, and returns all of them.
    async fn faulty(&self, what: impl Fn(&Ask) -> bool, count: usize) -> Result<Vec<Ask>> {
        wait::until(format!("{count} requests to go wrong"), SOON, async || {
            let asked = self.proxy.asked();
            let found: Vec<_> = asked.iter().filter(|ask| ask.fault != Fault::None && what(ask)).cloned().collect();
            if found.len() >= count { Ok(found) } else { Err(format!("{found:#?}")) }
        })
        .await
    }

    /// Has one more session, and waits until every hook has come, once and in order.
    async fn caught_up(&mut self) -> Result<()> {
        self.session().await?;
        let events = 2 * self.sessions;
        self.stage.receiver.wait_for(events, SOON).await?;
        self.stage.tenant.settled("show", i64::try_from(events)?, SOON).await?;
        let came = self.stage.receiver.requests().len();
        ensure!(came == events, "{came} requests for {events} events");
        self.stage.receiver.check_promises()
    }
}

fn is_watch_of_broadcasts(ask: &Ask) -> bool {
    ask.is_watch && ask.path.ends_with("/broadcasts")
}

#[tokio::test]
async fn an_api_server_that_is_busy_is_asked_again_when_it_says_so() -> Result<()> {
    let mut scene = Scene::new("busy").await?;

    let begin = Instant::now();
    scene.proxy.script(|_| Fault::RetryAfter(429, PATIENCE.as_secs()));
    scene.session().await?;
    let refused = scene.faulty(|ask| ask.path.ends_with("/broadcasts"), 3).await?;
    let lasted = begin.elapsed();
    let asked = scene.faulty(|_| true, 0).await?;
    scene.proxy.heal();

    for pair in refused.windows(2) {
        let pause = pair[1].at - pair[0].at;
        ensure!(pause >= PATIENCE, "asked again after {pause:?}: {pair:?}");
    }
    // Whoever has something to ask does so once each time.
    let rounds = usize::try_from(lasted.as_secs() / PATIENCE.as_secs())? + 1;
    ensure!(asked.len() <= rounds * 2 * WATCHES, "{} requests in {lasted:?}: {asked:#?}", asked.len());
    scene.caught_up().await
}

#[tokio::test]
async fn a_watch_that_is_told_410_in_its_stream_begins_anew() -> Result<()> {
    begins_anew("gone-event", Fault::GoneEvent).await
}

#[tokio::test]
async fn a_watch_that_is_answered_410_begins_anew() -> Result<()> {
    begins_anew("gone-status", Fault::Status(410)).await
}

async fn begins_anew(name: &str, fault: Fault) -> Result<()> {
    let mut scene = Scene::new(name).await?;

    let begin = Instant::now();
    scene.proxy.script(move |ask| if ask.is_watch { fault } else { Fault::None });
    scene.session().await?;
    scene.faulty(is_watch_of_broadcasts, 3).await?;
    let lasted = begin.elapsed();
    let asked = scene.proxy.asked().into_iter().filter(|ask| ask.at >= begin && ask.method == "GET" && !ask.is_lease());
    let asked: Vec<_> = asked.collect();
    // A list and a watch each time, and the pauses grow.
    let most = 4 * 2 * WATCHES + usize::try_from(lasted.as_secs())?;
    ensure!(asked.len() <= most, "{} requests in {lasted:?}: {asked:#?}", asked.len());
    let lists = asked.iter().filter(|ask| !ask.is_watch && ask.path.ends_with("/broadcasts")).count();
    ensure!(lists >= 2, "it must list again: {asked:#?}");
    scene.proxy.heal();

    scene.caught_up().await
}

#[tokio::test]
async fn an_api_server_that_fails_for_a_moment_or_forgets_who_asks_costs_no_event() -> Result<()> {
    let mut scene = Scene::new("moments").await?;
    for status in [500, 503, 401] {
        let before = scene.faulty(|_| true, 0).await?.len();
        scene.proxy.script(move |_| Fault::Status(status));
        scene.session().await?;
        scene.faulty(|_| true, before + WATCHES).await?;
        scene.proxy.heal();

        scene.caught_up().await.with_context(|| format!("after {status}"))?;
    }
    let operator = scene.stage.operator.as_mut().context("it runs")?;
    operator.process.must_run()
}

#[tokio::test]
async fn a_slow_api_server_makes_everything_late_and_nothing_lost() -> Result<()> {
    let mut scene = Scene::new("slow").await?;
    let (stage, folder) = (&scene.stage, scene.stage.folder.path());
    let credential = stage.tenant.media_pod("live", "media-live-2").await?;
    let kubeconfig = stage.tenant.plane.kubeconfig(folder, "media-live-2", &credential, &stage.tenant.namespace)?;
    let kubeconfig = scene.proxy.kubeconfig(&kubeconfig)?;
    let node = Launch::media_node(folder, &kubeconfig, &stage.tenant.namespace, "live", "media-live-2").start().await?;

    scene.proxy.script(|_| Fault::Delay(Duration::from_secs(2)));
    let encoder = Encoder::start(&node.rtmp("LiveApp", "show")?);
    scene.stage.receiver.wait_for(2 * scene.sessions + 1, SOON).await?;
    encoder.stop().await;
    scene.stage.receiver.wait_for(2 * scene.sessions + 2, SOON).await?;
    scene.proxy.heal();

    let ended = |broadcast: &Broadcast| broadcast.status_or_default().state == BroadcastState::Ended;
    let ended = scene.stage.tenant.until("show", "to end", SOON, ended).await?;
    // One that a busy machine made later than the node allows was refused and came again.
    scene.sessions = usize::try_from(ended.status_or_default().hooks.last_sequence / 2)?;
    scene.caught_up().await
}
