//! Everything lands anywhere: what people publish to one pod they play from another.

use anyhow::{Context, Result};
use serde_json::json;
use tallylight_crds::{Broadcast, BroadcastState};
use tempfile::TempDir;
use tests::{
    hls::player::Player,
    http,
    install::{self, Tenant},
    media::{self, Publisher},
    relaying, repository,
    service::{Launch, Service},
};

use crate::standalone::SOON;

async fn metric(node: &Service, name: &str) -> Result<u64> {
    let scraped = http::get(node.address("http")?, "/metrics").await?;
    let line = scraped.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no metric {name}"))?.parse()?)
}

/// Two media nodes of a pool, with a Broadcast that is on air at the first.
struct Pair {
    publisher: Publisher,
    two: Service,
    one: Service,
    _operator: Service,
    live: Broadcast,
    tenant: Tenant,
    folder: TempDir,
}

impl Pair {
    async fn on_air(name: &str) -> Result<Self> {
        let (tenant, folder) = (install::tenant(name).await?, repository::folder(name)?);
        let path = folder.path();
        tenant.pool(&json!({})).await?;
        tenant.broadcast("show", &json!({})).await?;
        let kubeconfig = tenant.operator_kubeconfig(path).await?;
        let operator = Launch::operator(path, &kubeconfig, &tenant.namespace).start().await?;
        let key_file = relaying::key_file(&tenant, path).await?;
        let one = relaying::node(&tenant, path, "media-live-1", &key_file).await?;
        let two = relaying::node(&tenant, path, "media-live-2", &key_file).await?;
        let publisher = Publisher::ffmpeg(path, "publisher", &one.rtmp("LiveApp", "show")?).await?;
        let is_live = |b: &Broadcast| b.status_or_default().state == BroadcastState::Live;
        let live = tenant.until("show", "to be live", SOON, is_live).await?;
        Ok(Self { publisher, two, one, _operator: operator, live, tenant, folder })
    }
}

#[tokio::test]
async fn what_is_published_to_one_pod_is_played_from_another() -> Result<()> {
    let Pair { tenant, folder, _operator, one, two, publisher, live } = Pair::on_air("relay").await?;
    let folder = folder.path();

    let url = two.rtmp("LiveApp", "show")?;
    let (ffmpeg, gstreamer) = tokio::try_join!(
        media::play_with_ffmpeg(folder, "ffmpeg", &url),
        media::play_with_gstreamer(folder, "gstreamer", &url)
    )?;
    let (pulls, pullers) =
        (metric(&two, "tallylight_relay_pulls_started_total").await?, metric(&one, "tallylight_relay_pullers").await?);
    publisher.stop().await?;

    let session = live.status_or_default().session;
    assert_eq!(session.node.as_deref(), Some("media-live-1"));
    assert_eq!(session.address.as_deref(), Some(one.address("relay")?), "others find its relay there");
    for played in [ffmpeg, gstreamer] {
        assert_eq!(played.codecs, ["aac", "h264"]);
        assert!(played.frames >= 40, "{played:?}");
    }
    assert_eq!((pulls, pullers), (1, 1));
    let refused: Vec<_> =
        tenant.plane.calls(&tenant.namespace)?.into_iter().filter(|call| call.status == 403).collect();
    assert!(refused.is_empty(), "the chart's roles miss rights: {refused:#?}");
    Ok(())
}

#[tokio::test]
async fn a_player_over_hls_may_change_pods_in_mid_stream_and_the_stream_is_muxed_once() -> Result<()> {
    let Pair { tenant: _tenant, folder, _operator, one, two, publisher, live: _ } = Pair::on_air("hls").await?;
    let folder = folder.path();

    let (at_one, at_two) = (one.address("publicHttp")?, two.address("publicHttp")?);
    let url = format!("http://{at_two}/LiveApp/streams/show.m3u8");
    let mut player = Player::tune_in(&url).await?;
    player.watch(2).await?;
    player.change_to(at_one)?;
    player.watch(2).await?;
    player.change_to(at_two)?;
    player.watch(2).await?;
    let mut others = Vec::new();
    for _ in 0..8 {
        others.push(Player::tune_in(&url).await?);
    }
    let before = metric(&two, "tallylight_relay_files_fetched_total").await?;
    let reload = others.iter_mut().map(Player::reload_at_once);
    let reloaded = futures::future::try_join_all(reload).await?;
    let fetched = metric(&two, "tallylight_relay_files_fetched_total").await? - before;
    let frames = media::play_hls_with_ffmpeg(folder, "ffmpeg", &url).await?;
    publisher.stop().await?;
    while !player.playlist.ended {
        player.reload().await?;
    }

    assert_eq!(reloaded.len(), 8);
    assert!(fetched <= 4, "{fetched} requests to the owner for one part and one playlist of 8 players");
    assert!(frames >= 45, "{frames}");
    let muxings = |log: String| log.matches("packaging.started").count();
    assert_eq!((muxings(one.process.log()), muxings(two.process.log())), (1, 0), "one muxing in the cluster");
    Ok(())
}
