//! Live streams over HLS: low latency, and a page that is open while its stream comes and goes.

use anyhow::{Result, ensure};
use tests::browser::View;

use crate::stage::{Stage, is_clean, message, plays_on, statistic, until_state, until_true};

#[tokio::test]
async fn a_live_stream_is_played_part_by_part() -> Result<()> {
    let stage = Stage::new("page-live").await?;
    let _publisher = stage.publish("show")?;
    let mut browser = stage.view("id=show", View::default()).await?;

    until_state(&mut browser, "playing").await?;
    plays_on(&mut browser, 4.0).await?;
    browser.press("s").await?;

    let mode = statistic(&mut browser, "mode").await?;
    ensure!(mode.starts_with("LL-HLS, parts of 0.3 s, 0.9"), "{mode}");
    let latency = statistic(&mut browser, "latency").await?;
    let seconds: f64 = latency.trim_end_matches(" s").parse()?;
    ensure!((0.0..60.0).contains(&seconds), "{latency}");
    ensure!(statistic(&mut browser, "resolution").await? == "320 × 180");
    ensure!(statistic(&mut browser, "bitrate").await?.ends_with(" kbit/s"));
    let requests = browser.seen().await?.requests;
    let awaited = requests.iter().filter(|url| url.contains("_HLS_part=")).count();
    ensure!(awaited > 3, "playlists were not awaited part by part: {requests:#?}");
    is_clean(&mut browser).await?;
    ensure!(browser.close().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_page_waits_for_its_stream_says_when_it_has_ended_and_goes_on_with_the_next() -> Result<()> {
    let stage = Stage::new("page-waits").await?;
    let mut browser = stage.view("id=show", View::default()).await?;

    until_state(&mut browser, "off").await?;
    ensure!(message(&mut browser).await?.contains("The stream is off"));
    for _session in 0..2 {
        let publisher = stage.publish("show")?;
        until_state(&mut browser, "playing").await?;
        plays_on(&mut browser, 2.0).await?;
        ensure!(message(&mut browser).await?.is_empty());
        publisher.stop().await?;
        until_state(&mut browser, "ended").await?;
        ensure!(message(&mut browser).await?.contains("The stream has ended"));
    }
    is_clean(&mut browser).await
}

#[tokio::test]
async fn a_server_that_was_away_is_found_again() -> Result<()> {
    let mut stage = Stage::new("page-away").await?;
    let port = stage.service.address("http")?.to_owned();
    let mut browser = stage.view("id=show", View::default()).await?;
    until_state(&mut browser, "off").await?;

    stage.service.process.kill()?;
    until_state(&mut browser, "lost").await?;
    ensure!(message(&mut browser).await?.contains("cannot be reached"));
    stage.restart_at(&port).await?;
    until_state(&mut browser, "off").await
}

#[tokio::test]
async fn a_browser_without_media_source_plays_with_what_it_has() -> Result<()> {
    let stage = Stage::new("page-native").await?;
    let _publisher = stage.publish("show")?;
    let script = "delete globalThis.MediaSource; delete globalThis.ManagedMediaSource";
    let mut browser = stage.view("id=show", View { script, ..View::default() }).await?;

    until_state(&mut browser, "playing").await?;
    plays_on(&mut browser, 2.0).await?;
    browser.press("s").await?;

    ensure!(statistic(&mut browser, "mode").await? == "HLS of the browser");
    until_true(&mut browser, "video.currentSrc.endsWith('/LiveApp/streams/show.m3u8')").await?;
    is_clean(&mut browser).await
}
