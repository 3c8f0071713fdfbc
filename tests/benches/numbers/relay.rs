//! What a pull by another node costs the owner, beside a player of its own, and how much later a relayed viewer is.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rtmp::client::Event;
use serde_json::json;
use tests::{
    install, relaying, repository, rtmp as client,
    rtmp::Client,
    service::{Launch, Service},
    wait,
};
use tokio::{
    runtime,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{machine, say, spread::Spread};

const ROUNDS: usize = 5;
const SECONDS: u64 = 20;
/// 4 Mbit/s in 30 frames a second.
const FRAME: usize = 4_000_000 / 8 / 30;
const FRAME_PAUSE: Duration = Duration::from_nanos(1_000_000_000 / 30);
/// Readers of the owner's ring in a round: one is lost in the noise of the clock ticks that CPU time is counted in.
const READERS: usize = 20;
const SOON: Duration = Duration::from_secs(60);

pub(crate) async fn measure() -> Result<()> {
    let (tenant, folder) = (install::tenant("relay").await?, repository::folder("relay")?);
    let folder = folder.path();
    tenant.pool(&json!({"admission": "Open"})).await?;
    let kubeconfig = tenant.operator_kubeconfig(folder).await?;
    let _operator = Launch::operator(folder, &kubeconfig, &tenant.namespace).start().await?;
    let key = relaying::key_file(&tenant, folder).await?;
    let owner = relaying::node(&tenant, folder, "media-live-0", &key).await?;
    let mut others = Vec::new();
    for number in 1..=READERS {
        others.push(relaying::node(&tenant, folder, &format!("media-live-{number}"), &key).await?);
    }
    let mut publishing = JoinSet::new();
    let url = owner.rtmp("LiveApp", "show")?;
    publishing.spawn(publish(url.clone()));
    playing(&url).await?;

    let (mut alone, mut played, mut pulled) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(cores(&owner, Vec::new()).await?);
        played.push(cores(&owner, vec![url.clone(); READERS]).await?);
        let urls = others.iter().map(|node| node.rtmp("LiveApp", "show")).collect::<Result<Vec<_>>>()?;
        pulled.push(cores(&owner, urls).await?);
    }
    let cost =
        |with: &[f64]| Spread::of(with.iter().zip(&alone).map(|(with, alone)| (with - alone) / READERS as f64 * 1e5));
    let ratio = Spread::of(
        pulled.iter().zip(&played).zip(&alone).map(|((pulled, played), alone)| (pulled - alone) / (played - alone)),
    );
    let added = added_latency(&url, &others.first().context("no other node")?.rtmp("LiveApp", "show")?).await?;
    publishing.shutdown().await;
    say(&format!(
        "\n### The relay\n\nOne stream of 4 Mbit/s and 30 frames a second, {READERS} readers, {ROUNDS} rounds in turn, {SECONDS} s \
         each; median (least–greatest)\n\n| | |\n| --- | --- |\n\
         | CPU at the owner for an RTMP player, 0.001 % of a core | {} |\n\
         | CPU at the owner for another node's pull, 0.001 % of a core | {} |\n\
         | ratio of each round | {ratio} |\n\
         | a relayed viewer is later than one at the owner, ms, p50 / p99 | {:.2} / {:.2} |",
        cost(&played),
        cost(&pulled),
        added.0,
        added.1
    ));
    Ok(())
}

/// Publishes frames at their pace until it is dropped.
async fn publish(url: String) -> Result<()> {
    let mut publisher = client::publish(&url).await?.started()?;
    let mut ticks = interval(FRAME_PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for frame in 0_u64.. {
        ticks.tick().await;
        let time = u32::try_from(frame * 1_000 / 30 % (1 << 32))?;
        publisher.send_video(time, FRAME).await?;
    }
    Ok(())
}

/// Plays a stream as soon as it is there.
async fn playing(url: &str) -> Result<Client> {
    wait::until("the stream to play", SOON, async || match client::play(url).await.and_then(client::Answer::started) {
        Ok(player) => Ok(player),
        Err(error) => Err(format!("{error:#}")),
    })
    .await
}

/// The owner's share of a core while the stream is played from those addresses. Each player waits on a thread of its own, as
/// each other node does in its process: on one machine a sender pays for waking whoever reads, and players that shared a thread
/// would be awake already.
async fn cores(owner: &Service, urls: Vec<String>) -> Result<f64> {
    let (mut players, over) = (JoinSet::new(), CancellationToken::new());
    for url in urls {
        let over = over.clone();
        players.spawn_blocking(move || -> Result<()> {
            let play = async {
                let mut player = playing(&url).await?;
                while player.next().await?.is_some() {}
                bail!("{url} ended")
            };
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(over.run_until_cancelled(play)).unwrap_or(Ok(()))
        });
    }
    // all of them play by then
    let mut starting = interval(Duration::from_secs(5));
    starting.tick().await;
    starting.tick().await;
    let mut end = interval(Duration::from_secs(SECONDS));
    end.tick().await;
    let (started, before) = (Instant::now(), machine::cpu_seconds(owner.process.id())?);
    end.tick().await;
    let cores = (machine::cpu_seconds(owner.process.id())? - before) / started.elapsed().as_secs_f64();
    over.cancel();
    while let Some(played) = players.join_next().await {
        played??;
    }
    // relays linger, and must not be counted in the next reading
    let mut lingering = interval(Duration::from_secs(7));
    lingering.tick().await;
    lingering.tick().await;
    Ok(cores)
}

/// How much later the same frames are at the second address than at the first: median and 99th percentile, in ms.
async fn added_latency(owner: &str, other: &str) -> Result<(f64, f64)> {
    const FRAMES: usize = 600;
    let (mut direct, mut relayed) = (playing(owner).await?, playing(other).await?);
    let (mut at_owner, mut at_other) = (Vec::new(), Vec::new());
    while at_owner.len() < FRAMES || at_other.len() < FRAMES {
        tokio::select! {
            event = direct.next() => at_owner.extend(arrival(event?)),
            event = relayed.next() => at_other.extend(arrival(event?)),
        }
    }
    let mut later: Vec<f64> = at_other
        .iter()
        .filter_map(|(frame, at)| {
            let (_, first) = at_owner.iter().find(|(found, _)| found == frame)?;
            Some((at.duration_since(*first)).as_secs_f64() * 1e3)
        })
        .skip(FRAMES / 10) // what the ring had at the start comes at once
        .collect();
    later.sort_by(f64::total_cmp);
    let at = |share: f64| later.get((later.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    Ok((at(0.5), at(0.99)))
}

fn arrival(event: Option<Event>) -> Option<(u32, Instant)> {
    match event {
        Some(Event::Media(message)) => Some((message.timestamp_ms, Instant::now())),
        _ => None,
    }
}
