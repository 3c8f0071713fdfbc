//! Files: played to the end, with seeking.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tests::{browser::Browser, site::Site};

use crate::stage::{Stage, is_clean, until_state, until_true};

/// Thirty seconds of pictures and sound, as a recording is when it is finished.
const RECORDING: &str = "-f lavfi -i testsrc2=size=320x180:rate=25 -f lavfi -i sine=frequency=440:sample_rate=48000 -t 30 \
    -pix_fmt yuv420p -c:v libx264 -preset ultrafast -g 50 -c:a aac -movflags +faststart";

/// As a hand on the slider does.
const TO_THE_END: &str = "void (document.getElementById('position').value = 29, document.getElementById('position').dispatchEvent(new Event('input')))";

/// The page of a server, and files beside it.
async fn site(stage: &Stage) -> Result<Site> {
    let folder = stage.folder.path().join("site/LiveApp/streams");
    std::fs::create_dir_all(&folder)?;
    let status = Command::new("ffmpeg")
        .args("-hide_banner -nostats -nostdin -y -loglevel error".split(' '))
        .args(RECORDING.split_whitespace())
        .arg(folder.join("show.mp4"))
        .status()
        .context("failed to run ffmpeg; run: tests/setup.sh")?;
    ensure!(status.success(), "ffmpeg could not make the recording: {status}");
    Site::before(&stage.folder.path().join("site"), stage.service.address("http")?).await
}

#[tokio::test]
async fn a_file_is_played_by_each_of_its_addresses_and_seeks() -> Result<()> {
    let stage = Stage::new("page-file").await?;
    let site = site(&stage).await?;
    for path in ["play?id=show.mp4", "play.html?id=streams/show.mp4&playOrder=vod", "play?id=show&vod=show.mp4"] {
        let mut browser = Browser::at(&site.url(&format!("/LiveApp/{path}"))).await?;
        until_state(&mut browser, "playing").await?;
        until_true(&mut browser, "video.currentTime > 0.5 && video.getVideoPlaybackQuality().totalVideoFrames > 10")
            .await?;

        browser.press("ArrowRight").await?;
        until_true(&mut browser, "video.currentTime >= 5 && !video.seeking").await?;
        browser.press("ArrowLeft").await?;
        until_true(&mut browser, "video.currentTime < 5 && !video.seeking").await?;
        browser.evaluate::<()>(TO_THE_END).await?;
        until_state(&mut browser, "ended").await?;
        until_true(&mut browser, "document.getElementById('time').textContent === '00:30 / 00:30'").await?;
        is_clean(&mut browser).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_not_there_is_told_of() -> Result<()> {
    let stage = Stage::new("page-no-file").await?;
    let mut browser = Browser::at(&stage.page("id=nothing.mp4")?).await?;

    until_state(&mut browser, "off").await?;
    until_true(&mut browser, "document.getElementById('message').textContent === 'There is no such recording.'").await
}
