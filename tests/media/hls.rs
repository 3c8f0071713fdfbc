//! LL-HLS of a live stream, with the players that people use and one that knows all the rules.

use anyhow::{Context as _, Result};
use reqwest::{Client, Method, Response};
use tests::{
    hls::player::Player,
    http,
    media::{self, Publisher},
    wait,
};

use crate::standalone::{SOON, Standalone};

/// B-frames, and a keyframe each second.
const VIDEO: &str = "-f lavfi -i testsrc2=size=320x180:rate=25";
const TONE: &str = "-f lavfi -i sine=frequency=440:sample_rate=48000";
const H264: &str = "-pix_fmt yuv420p -c:v libx264 -preset ultrafast -bf 2 -b_strategy 0 -g 25 -sc_threshold 0";
const AAC: &str = "-c:a aac -b:a 64k";

fn encode(server: &Standalone, stream: &str, arguments: &[&str]) -> Result<Publisher> {
    Publisher::encoding(server.folder.path(), &format!("publisher-{stream}"), &server.rtmp(stream), arguments)
}

fn url(server: &Standalone, path: &str) -> Result<String> {
    Ok(format!("http://{}{path}", server.service.address("http")?))
}

/// Waits until the stream can be played.
async fn playable(server: &Standalone, stream: &str) -> Result<String> {
    let path = format!("/LiveApp/streams/{stream}.m3u8");
    let address = server.service.address("http")?;
    wait::until(format!("{stream} to be playable"), SOON, async || match http::get(address, &path).await {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    url(server, &path)
}

async fn ask(method: Method, url: &str, headers: &[(&str, &str)]) -> Result<Response> {
    http::install_crypto();
    let mut request = Client::builder().no_proxy().build()?.request(method, url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.send().await?)
}

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

#[tokio::test]
async fn every_playlist_of_a_live_stream_keeps_the_rules_to_its_end() -> Result<()> {
    let server = Standalone::with("hls-rules", &["--hls-segment-seconds=1", "--hls-window-seconds=30"]).await?;
    let publisher = encode(&server, "show", &[VIDEO, TONE, H264, AAC])?;

    let mut player = Player::tune_in(&playable(&server, "show").await?).await?;
    player.watch(18).await?;
    publisher.stop().await?;
    while !player.playlist.ended {
        player.reload().await?;
    }

    assert!(player.deltas > 0, "it asked for delta updates and got none");
    assert!(player.playlist.segments.len() >= 18, "{:?}", player.playlist);
    assert!(player.playlist.independent_segments);
    let last = player.playlist.segments.last().context("a segment")?;
    assert_eq!(player.ask(&last.uri).await?.status(), 200, "players finish what there is");
    Ok(())
}

#[tokio::test]
async fn ffmpeg_and_gstreamer_play_both_addresses() -> Result<()> {
    let server = Standalone::new("hls-players").await?;
    let _publisher = encode(&server, "show", &[VIDEO, TONE, H264, AAC])?;
    let (folder, first) = (server.folder.path(), playable(&server, "show").await?);
    let second = url(&server, "/LiveApp/hls/show/index.m3u8")?;

    let (one, two, (), ()) = tokio::try_join!(
        media::play_hls_with_ffmpeg(folder, "ffmpeg-1", &first),
        media::play_hls_with_ffmpeg(folder, "ffmpeg-2", &second),
        media::play_hls_with_gstreamer(folder, "gstreamer-1", &first),
        media::play_hls_with_gstreamer(folder, "gstreamer-2", &second),
    )?;

    assert!(one >= 45 && two >= 45, "{one} and {two} frames in two seconds");
    let metrics = http::get(server.service.address("http")?, "/metrics").await?.body;
    let viewers = metrics.lines().find(|line| line.starts_with("tallylight_node_viewers{protocol=\"Hls\"}"));
    assert!(viewers.is_some_and(|line| !line.ends_with(" 0")), "{viewers:?}");
    Ok(())
}
