//! The publish page: a browser's camera, microphone and screen over WebRTC, as others see them.

use anyhow::{Result, ensure};
use rustix::process::Signal;
use tests::{
    browser::{Browser, View},
    receiver::{Receiver, Request},
};

use crate::stage::{SOON, Stage, is_clean, plays_on, shows_on, statistic, until_message, until_state, until_true};

/// Opens the page, chooses a codec, and goes live.
async fn go_live(stage: &Stage, codec: &str) -> Result<Browser> {
    let mut browser = stage.view_at("publish?id=show", View::default()).await?;
    until_state(&mut browser, "ready").await?;
    browser.evaluate::<()>(&format!("void (document.getElementById('codec').value = '{codec}')")).await?;
    browser.press("Control+Enter").await?;
    until_state(&mut browser, "live").await?;
    browser.press("Alt+s").await?;
    until_true(&mut browser, "document.querySelector('#stats [data-name=mode]') !== null").await?;
    Ok(browser)
}

async fn sees(stage: &Stage, query: &str, codec: &str) -> Result<Browser> {
    let mut viewer = stage.view(query, View::default()).await?;
    until_state(&mut viewer, "playing").await?;
    shows_on(&mut viewer, 20).await?;
    viewer.press("s").await?;
    let shown = format!("document.querySelector('#stats [data-name=mode]')?.textContent.includes('{codec}')");
    until_true(&mut viewer, &shown).await?;
    Ok(viewer)
}

#[tokio::test]
async fn a_camera_is_seen_in_each_codec_and_its_hooks_arrive() -> Result<()> {
    let receiver = Receiver::start().await?;
    let stage = Stage::with_hooks("publish-codecs", &receiver, None).await?;
    for (sessions, codec) in ["H264", "VP8", "VP9", "AV1"].into_iter().enumerate() {
        let mut publisher = go_live(&stage, codec).await?;
        let mode = statistic(&mut publisher, "mode").await?;
        ensure!(mode.contains(codec), "{mode}");
        let started = receiver.wait_for(2 * sessions + 1, SOON).await?;
        ensure!(started.last().map(Request::action).as_deref() == Some("liveStreamStarted"));

        let mut viewer = sees(&stage, "id=show&protocol=webrtc", codec).await?;
        is_clean(&mut viewer).await?;

        publisher.press("Control+Enter").await?;
        until_state(&mut publisher, "ready").await?;
        let ended = receiver.wait_for(2 * sessions + 2, SOON).await?;
        ensure!(ended.last().map(Request::action).as_deref() == Some("liveStreamEnded"));
        let changes = publisher.seen().await?.changes;
        ensure!(
            changes.iter().any(|change| change.starts_with("DELETE /LiveApp/whip/show/")),
            "it is over, and was not said so: {changes:?}"
        );
        is_clean(&mut publisher).await?;
    }
    receiver.check_promises()
}

#[tokio::test]
async fn a_camera_is_seen_over_hls_too() -> Result<()> {
    let stage = Stage::new("publish-hls").await?;
    let _publisher = go_live(&stage, "").await?;
    let mut viewer = stage.view("id=show&protocol=hls", View::default()).await?;

    until_state(&mut viewer, "playing").await?;
    plays_on(&mut viewer, 1.0).await?;
    is_clean(&mut viewer).await
}

#[tokio::test]
async fn three_sizes_are_sent_at_once() -> Result<()> {
    let stage = Stage::new("publish-simulcast").await?;
    let mut publisher = stage.view_at("publish?id=show", View::default()).await?;
    until_state(&mut publisher, "ready").await?;
    publisher.evaluate::<()>("void (document.getElementById('simulcast').checked = true)").await?;
    publisher.press("Control+Enter").await?;
    until_state(&mut publisher, "live").await?;
    publisher.press("Alt+s").await?;
    // the browser begins with the smallest, and adds the others as the way allows
    for layer in ["l", "m", "h"] {
        let shown = format!("document.querySelector('#stats [data-name=layer-{layer}]')?.textContent.includes(' fps')");
        until_true(&mut publisher, &shown).await?;
    }
    let mut viewer = sees(&stage, "id=show&protocol=webrtc", "H264").await?;
    is_clean(&mut viewer).await?;
    is_clean(&mut publisher).await
}

#[tokio::test]
async fn a_key_is_asked_for_by_its_name_and_taken() -> Result<()> {
    let receiver = Receiver::start().await?;
    let stage = Stage::with_hooks("publish-keyed", &receiver, Some("s3cr3t")).await?;
    let mut browser = stage.view_at("publish?id=show", View::default()).await?;
    until_state(&mut browser, "ready").await?;
    browser.press("Control+Enter").await?;
    until_message(&mut browser, "asks for its key").await?;
    until_true(&mut browser, "document.activeElement.id === 'key'").await?;
    browser.write("wrong").await?;
    browser.press("Enter").await?;
    until_message(&mut browser, "The stream key is wrong").await?;
    browser.press("Control+a").await?;
    browser.write("s3cr3t").await?;
    browser.press("Enter").await?;

    until_state(&mut browser, "live").await?;
    receiver.wait_for(1, SOON).await?;
    let requests = browser.seen().await?.requests;
    ensure!(!requests.iter().any(|url| url.contains("s3cr3t")), "{requests:?}");
    ensure!(!stage.service.process.log().contains("s3cr3t"), "the log shows the key");
    is_clean(&mut browser).await
}

#[tokio::test]
async fn a_second_publisher_is_told_that_there_is_one() -> Result<()> {
    let stage = Stage::new("publish-second").await?;
    let _first = go_live(&stage, "VP8").await?;
    let mut second = stage.view_at("publish?id=show", View::default()).await?;
    until_state(&mut second, "ready").await?;
    second.press("Control+Enter").await?;

    until_message(&mut second, "Somebody else is publishing this stream").await?;
    until_state(&mut second, "refused").await?;
    is_clean(&mut second).await
}

#[tokio::test]
async fn a_publisher_that_leaves_the_page_is_off_air_at_once() -> Result<()> {
    let receiver = Receiver::start().await?;
    let stage = Stage::with_hooks("publish-leaves", &receiver, None).await?;
    let mut browser = go_live(&stage, "VP8").await?;
    receiver.wait_for(1, SOON).await?;
    browser.open("about:blank").await?;

    let hooks = receiver.wait_for(2, SOON).await?;
    ensure!(hooks.last().and_then(|hook| hook.field("reason")).as_deref() == Some("PublisherClosed"), "{hooks:?}");
    Ok(())
}

#[tokio::test]
async fn a_publisher_finds_a_server_again_that_fell_silent_or_started_anew() -> Result<()> {
    let mut stage = Stage::new("publish-again").await?;
    let port = stage.service.address("http")?.to_owned();
    let mut browser = go_live(&stage, "VP8").await?;

    stage.service.process.signal(Signal::STOP)?;
    until_state(&mut browser, "lost").await?;
    stage.service.process.signal(Signal::CONT)?;
    until_state(&mut browser, "live").await?;
    sees(&stage, "id=show&protocol=webrtc", "VP8").await?;

    stage.service.process.kill()?;
    until_state(&mut browser, "lost").await?;
    stage.restart_at(&port).await?;
    until_state(&mut browser, "live").await?;
    sees(&stage, "id=show&protocol=webrtc", "VP8").await?;
    is_clean(&mut browser).await
}
