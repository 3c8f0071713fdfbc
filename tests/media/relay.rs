//! Everything lands anywhere: what people publish to one pod they play from another.

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method};
use rustix::process::Signal;
use serde_json::json;
use tallylight_crds::{Broadcast, BroadcastState};
use tallylight_media_node::relay::token::{Errand, PoolKey};
use tempfile::TempDir;
use tests::{
    hls::player::Player,
    http,
    install::{self, Tenant},
    media::{self, Publisher},
    relaying, repository,
    service::{Launch, Service},
    wait,
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

/// What a browser offers that wants to play.
const OFFER: &str = include_str!("../fuzz/corpus/webrtc_offer/chromium-viewer");

/// A status, the tag of the ICE session, and what is said.
async fn asked(method: Method, url: &str, body: Option<(&str, &str)>) -> Result<(u16, Option<String>, String)> {
    http::install_crypto();
    let client = Client::builder().no_proxy().timeout(SOON).build()?;
    let mut request = client.request(method, url);
    if let Some((kind, body)) = body {
        request = request.header("content-type", kind).body(body.to_owned());
    }
    let answer = request.send().await?;
    let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    Ok((answer.status().as_u16(), tag, answer.text().await?))
}

/// The path of a session that a node has answered.
async fn session_at(node: &Service) -> Result<String> {
    http::install_crypto();
    let client = Client::builder().no_proxy().timeout(SOON).build()?;
    let url = format!("http://{}/LiveApp/whep/show", node.address("publicHttp")?);
    let answer = client.post(url).header("content-type", "application/sdp").body(OFFER).send().await?;
    let (status, location) = (answer.status().as_u16(), answer.headers().get("location").cloned());
    ensure!(status == 201, "{status} {}", answer.text().await?);
    Ok(location.context("no Location")?.to_str()?.to_owned())
}

#[tokio::test]
async fn a_session_of_webrtc_is_changed_and_ended_at_any_pod() -> Result<()> {
    let Pair { tenant: _tenant, folder, _operator, mut one, two, publisher: _publisher, live: _ } =
        Pair::on_air("whep").await?;
    let at =
        |node: &Service, path: &str| Ok::<_, anyhow::Error>(format!("http://{}{path}", node.address("publicHttp")?));
    let fragment = Some(("application/trickle-ice-sdpfrag", "a=ice-ufrag:Ab3+\r\n"));

    let session = session_at(&one).await?;
    let direct = asked(Method::PATCH, &at(&one, &session)?, fragment).await?;
    let through = asked(Method::PATCH, &at(&two, &session)?, fragment).await?;
    assert!(session.starts_with("/LiveApp/whep/show/media-live-1/"), "{session}");
    assert_eq!((through.0, &through), (204, &direct), "the other pod says what its node says");
    let wrong = asked(Method::PATCH, &at(&two, &session)?, Some(("text/plain", "a=b"))).await?;
    assert_eq!(wrong.0, 415, "{}", wrong.2);
    assert_eq!(asked(Method::DELETE, &at(&two, &session)?, None).await?.0, 200);
    let over = |url: String| async move {
        wait::until("the session to be over", SOON, async || match asked(Method::DELETE, &url, None).await {
            Ok((404, ..)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
    };
    over(at(&one, &session)?).await?;
    over(at(&two, &session)?).await?;

    let nobody = asked(Method::DELETE, &at(&two, "/LiveApp/whep/show/media-live-9/abc")?, None).await?;
    assert_eq!(nobody.0, 404, "{}", nobody.2);
    assert!(nobody.2.contains("the node of the session is gone"), "{}", nobody.2);
    let named = asked(Method::DELETE, &at(&two, "/LiveApp/whep/show/..%2F..%2Fx/abc")?, None).await?;
    assert_eq!(named.0, 404, "{}", named.2);

    // the relay takes requests that the pool's key vouches for, and each for its own session
    let key = PoolKey::read(&folder.path().join("pool-key"))?;
    let (one_more, other) = (session_at(&one).await?, "/LiveApp/whep/show/media-live-1/other".to_owned());
    let expires = jiff::Timestamp::now().as_second() + 60;
    let relayed = format!("http://{}/sessions/v1{one_more}", one.address("relay")?);
    for (path, status) in [(None, 401), (Some(&other), 401), (Some(&one_more), 200)] {
        let client = Client::builder().no_proxy().timeout(SOON).build()?;
        let mut request = client.delete(&relayed);
        if let Some(path) = path {
            request =
                request.bearer_auth(key.sign(&Errand { path: path.clone(), node: "media-live-2".into(), expires }));
        }
        assert_eq!(request.send().await?.status().as_u16(), status, "{path:?}");
    }

    one.process.signal(Signal::STOP)?;
    let silent = asked(Method::DELETE, &at(&two, &session)?, None).await?;
    one.process.signal(Signal::CONT)?;
    assert_eq!(silent.0, 504, "{}", silent.2);
    drop(one);
    let away = asked(Method::DELETE, &at(&two, &session)?, None).await?;
    assert_eq!(away.0, 502, "{}", away.2);
    let scraped = http::get(two.address("http")?, "/metrics").await?.body;
    for outcome in ["NodeGone", "NodeAway", "NoAnswer"] {
        let line = format!("tallylight_relay_session_requests_total{{outcome=\"{outcome}\"}} ");
        assert!(scraped.lines().any(|counted| counted.starts_with(&line)), "{scraped}");
    }
    Ok(())
}
