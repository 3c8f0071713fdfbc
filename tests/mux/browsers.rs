//! What the muxer makes plays in Chromium, from the first picture to the last.

use std::{fs, path::Path, time::Duration};

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::{
    browser::{Browser, View},
    repository,
    site::Site,
    wait,
};

use crate::{
    clips::{self, AAC, Clip, H264, TONE, VIDEO},
    tools,
};

/// Five seconds of media, on a busy machine.
const PLAYED: Duration = Duration::from_secs(60);

const PAGE: &str = "<!doctype html><title>File</title><video id=video muted autoplay src=recording.mp4></video>";
const SEEN: &str = "(({ended, currentTime, duration, error}) => ({ended, currentTime, duration, \
    error: error && error.message, frames: video.getVideoPlaybackQuality().totalVideoFrames}))(video)";

#[tokio::test]
async fn h264_with_b_frames_and_aac_plays_to_its_end() -> Result<()> {
    plays("h264", |folder| clips::flv(folder, &[VIDEO, TONE, H264, AAC])).await
}

#[tokio::test]
async fn vp9_and_opus_play_to_their_end() -> Result<()> {
    let vp9 = "-pix_fmt yuv420p -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 50";
    plays("vp9", |folder| clips::enhanced(folder, &[VIDEO, TONE, vp9, "-c:a libopus"])).await
}

#[tokio::test]
async fn av1_and_opus_play_to_their_end() -> Result<()> {
    let av1 = "-pix_fmt yuv420p -c:v libaom-av1 -usage realtime -cpu-used 8 -g 50";
    plays("av1", |folder| clips::enhanced(folder, &[VIDEO, TONE, av1, "-c:a libopus"])).await
}

/// Plays a recording as it is while it is written, and when it is finished.
async fn plays(name: &str, clip: impl FnOnce(&Path) -> Result<Clip>) -> Result<()> {
    let folder = repository::folder(&format!("browser-{name}"))?;
    let clip = clip(folder.path())?;
    let live = tools::record(&tools::events(&clip.packets)).remove(0);
    fs::write(folder.path().join("index.html"), PAGE)?;
    let site = Site::of(folder.path()).await?;
    let mut browser = Browser::start(View::default()).await?;
    let file = live.write(folder.path(), "recording.mp4")?;
    plays_to_the_end(&mut browser, &site).await?;
    fs::write(file, live.finish()?)?;
    plays_to_the_end(&mut browser, &site).await
}

async fn plays_to_the_end(browser: &mut Browser, site: &Site) -> Result<()> {
    browser.open(&site.url("/index.html")).await?;
    let seen = wait::until("the recording to end in Chromium", PLAYED, async || {
        let seen: Value = browser.evaluate(SEEN).await.map_err(|error| format!("{error:#}"))?;
        if seen["ended"] == true { Ok(seen) } else { Err(seen.to_string()) }
    })
    .await?;
    let number = |name: &str| seen[name].as_f64().unwrap_or_default();
    ensure!((4.9..5.2).contains(&number("duration")), "{seen}");
    ensure!(number("frames") >= 100.0 && seen["error"].is_null(), "{seen}");
    Ok(())
}
