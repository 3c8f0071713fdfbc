//! Players over HLS while the session of their stream goes from one pod to another.

use anyhow::{Context as _, Result};
use serde_json::json;
use tallylight_crds::{Broadcast, BroadcastState};
use tests::{
    hls::player::Player,
    install,
    media::{HlsPlayer, Publisher},
    relaying, repository,
    service::Launch,
};
use tokio::time::timeout;

use crate::standalone::SOON;

const VIDEO: &str = "-f lavfi -i testsrc2=size=320x180:rate=25 -f lavfi -i sine=frequency=440:sample_rate=48000 \
                     -pix_fmt yuv420p -c:v libx264 -preset ultrafast -g 25 -c:a aac";

fn is_live_at(node: &str) -> impl Fn(&Broadcast) -> bool {
    move |broadcast| {
        let status = broadcast.status_or_default();
        status.state == BroadcastState::Live && status.session.node.as_deref() == Some(node)
    }
}

#[tokio::test]
async fn players_go_on_after_a_discontinuity_when_the_session_moves_wherever_they_are() -> Result<()> {
    let (tenant, folder) = (install::tenant("hls-moves").await?, repository::folder("hls-moves")?);
    let folder = folder.path();
    tenant.pool(&json!({"reconnectWindowSeconds": 60})).await?;
    tenant.broadcast("show", &json!({})).await?;
    let kubeconfig = tenant.operator_kubeconfig(folder).await?;
    let _operator = Launch::operator(folder, &kubeconfig, &tenant.namespace).start().await?;
    let key_file = relaying::key_file(&tenant, folder).await?;
    let flags = ["--reconnect-window-seconds=60"];
    let mut nodes = Vec::new();
    for name in ["media-live-1", "media-live-2", "media-live-3"] {
        nodes.push(relaying::node_with(&tenant, folder, name, &key_file, &flags).await?);
    }
    let publish = |at: usize| -> Result<Publisher> {
        let url = nodes.get(at).context("a node")?.rtmp("LiveApp", "show")?;
        Publisher::encoding(folder, &format!("publisher-at-{at}"), &url, &[VIDEO])
    };
    let mut publisher = publish(0)?;
    tenant.until("show", "to be live", SOON, is_live_at("media-live-1")).await?;
    let mut players = Vec::new();
    let mut urls = Vec::new();
    for node in &nodes {
        urls.push(format!("http://{}/LiveApp/streams/show.m3u8", node.address("publicHttp")?));
    }
    for url in &urls {
        players.push(Player::tune_in(url).await?);
    }
    let mut ffmpeg = HlsPlayer::ffmpeg(folder, "ffmpeg", &urls[2])?;
    ffmpeg.plays_on().await?;

    // to another pod, on to a third, and back to the first
    for to in [1, 2, 0] {
        let before: Vec<_> = players.iter().map(|player| player.playlist.newest_discontinuity()).collect();
        let moves = async {
            publisher.process.kill()?;
            let is_away = |b: &Broadcast| b.status_or_default().state == BroadcastState::Reconnecting;
            tenant.until("show", "to be awaited", SOON, is_away).await?;
            publisher = publish(to)?;
            let there = format!("media-live-{}", to + 1);
            tenant.until("show", "to go on", SOON, is_live_at(&there)).await
        };
        let watched = futures::future::try_join_all(players.iter_mut().map(|player| player.watch(4)));
        tokio::try_join!(moves, watched)?;
        for (player, before) in players.iter_mut().zip(before) {
            let told = async {
                while player.playlist.newest_discontinuity() <= before {
                    player.reload().await?;
                }
                anyhow::Ok(())
            };
            timeout(SOON, told).await.context("nothing tells that another encoder sends")??;
        }
        ffmpeg.plays_on().await?;
    }
    // one player may change pods at any time
    for (player, url) in players.iter_mut().zip(urls.iter().rev()) {
        player.change_to(url.split('/').nth(2).context("an address")?)?;
        player.watch(2).await?;
    }
    publisher.stop().await?;
    for player in &mut players {
        while !player.playlist.ended {
            player.reload().await?;
        }
    }
    Ok(())
}
