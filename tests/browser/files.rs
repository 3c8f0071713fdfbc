//! Recordings: played to the end, with seeking.

use anyhow::{Result, ensure};
use tests::browser::{Browser, View};

use crate::stage::{SOON, Stage, is_clean, until_state, until_true};

/// As a hand on the slider does.
const TO_THE_END: &str = "void (document.getElementById('position').value = 11.5, document.getElementById('position').dispatchEvent(new Event('input')))";

const RECORDING: [&str; 2] = ["--recording=On", "--recording-name={streamID}"];

#[tokio::test]
async fn a_recording_is_played_by_each_of_its_addresses_and_seeks() -> Result<()> {
    let stage = Stage::with("page-file", &RECORDING).await?;
    let mut publisher = stage.publish_for("show", "-t 12")?;
    stage.until_growing("show.mp4").await?;
    // a page that is opened before the stream ends plays the recording as soon as it is there
    let mut early = stage.view("id=show.mp4", View::default()).await?;
    until_state(&mut early, "off").await?;
    until_true(&mut early, "document.getElementById('message').textContent.includes('not ready yet')").await?;
    publisher.process.wait(SOON).await?;
    until_state(&mut early, "playing").await?;
    is_clean(&mut early).await?;
    ensure!(early.close().await?.success());

    for query in ["play?id=show.mp4", "play.html?id=streams/show.mp4&playOrder=vod", "play?id=show&vod=show.mp4"] {
        let mut browser = Browser::at(&stage.url(&format!("/LiveApp/{query}"))?).await?;
        until_state(&mut browser, "playing").await?;
        until_true(&mut browser, "video.currentTime > 0.5 && video.getVideoPlaybackQuality().totalVideoFrames > 10")
            .await?;
        // a browser knows by the answer to its first range whether it may jump
        until_true(&mut browser, "video.duration > 11.5 && video.seekable.end(0) > 11.5").await?;

        browser.press("ArrowRight").await?;
        until_true(&mut browser, "video.currentTime >= 5 && !video.seeking").await?;
        browser.press("ArrowLeft").await?;
        until_true(&mut browser, "video.currentTime < 5 && !video.seeking").await?;
        browser.evaluate::<()>(TO_THE_END).await?;
        until_state(&mut browser, "ended").await?;
        until_true(&mut browser, "document.getElementById('time').textContent === '00:12 / 00:12'").await?;
        is_clean(&mut browser).await?;
        let asked = browser.seen().await?.requests;
        ensure!(asked.contains(&stage.url("/LiveApp/streams/show.mp4")?), "{asked:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_recording_that_is_not_there_is_told_of() -> Result<()> {
    let stage = Stage::new("page-no-file").await?;
    let mut browser = Browser::at(&stage.page("id=nothing.mp4")?).await?;

    until_state(&mut browser, "off").await?;
    until_true(&mut browser, "document.getElementById('message').textContent === 'There is no such recording.'").await
}
