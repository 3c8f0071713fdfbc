//! Live streams over WebRTC: what an encoder sends by RTMP, seen at once, and found again whatever happens in between.

use anyhow::{Result, ensure};
use rustix::process::Signal;
use tests::{
    browser::{Browser, View},
    http, wait,
};

use crate::stage::{
    SOON, Stage, is_clean, message, plays_on, shows_on, statistic, until_message, until_state, until_true,
};

/// Whether sound comes out: a viewer has turned it on, and it is the tone that is sent.
const SOUNDS: &str = "(() => {
    globalThis.ear ??= (() => {
      const context = new AudioContext();
      const analyser = context.createAnalyser();
      context.createMediaStreamSource(video.srcObject).connect(analyser);
      return analyser;
    })();
    const heard = new Float32Array(ear.fftSize);
    ear.getFloatTimeDomainData(heard);
    return !video.muted && Math.max(...heard) > 0.01;
  })()";

/// Waits until the page plays, shows its statistics, and returns how it plays.
async fn mode(browser: &mut Browser) -> Result<String> {
    until_state(browser, "playing").await?;
    if !browser.evaluate::<bool>("!document.getElementById('stats').hidden").await? {
        browser.press("s").await?;
    }
    until_true(browser, "document.querySelector('#stats [data-name=mode]') !== null").await?;
    statistic(browser, "mode").await
}

#[tokio::test]
async fn a_stream_of_an_encoder_is_seen_and_heard_over_webrtc() -> Result<()> {
    let stage = Stage::new("webrtc-live").await?;
    let _publisher = stage.publish_in_order("show")?;
    let mut browser = stage.view("id=show", View::default()).await?;

    let mode = mode(&mut browser).await?;
    ensure!(mode.starts_with("WebRTC over UDP, ") && mode.contains("H264") && mode.contains("opus"), "{mode}");
    shows_on(&mut browser, 50).await?;
    ensure!(statistic(&mut browser, "resolution").await? == "320 × 180");
    for (name, unit) in [("bitrate", "bit/s"), ("rate", " fps"), ("jitter", " ms"), ("rtt", " ms"), ("loss", " in all")]
    {
        until_true(
            &mut browser,
            &format!("document.querySelector('#stats [data-name={name}]').textContent.endsWith('{unit}')"),
        )
        .await?;
    }
    let latency = statistic(&mut browser, "latency").await?;
    let seconds: f64 = latency.trim_end_matches(" s").parse()?;
    ensure!((-1.0..60.0).contains(&seconds), "{latency}");

    until_true(&mut browser, "video.muted && !document.getElementById('unmute').hidden").await?;
    browser.press("m").await?;
    until_true(&mut browser, SOUNDS).await?;
    until_true(&mut browser, "document.getElementById('unmute').hidden").await?;

    let seen = browser.seen().await?;
    ensure!(seen.changes == ["POST /LiveApp/whep/show"], "{:?}", seen.changes);
    ensure!(!seen.requests.iter().any(|url| url.contains(".m3u8")), "{:?}", seen.requests);
    is_clean(&mut browser).await?;
    until_viewers(&stage, 1.0).await?;
    browser.open("about:blank").await?;
    until_viewers(&stage, 0.0).await
}

/// Waits until the node counts so many viewers over WebRTC.
async fn until_viewers(stage: &Stage, expected: f64) -> Result<()> {
    const VIEWERS: &str = "tallylight_node_viewers{protocol=\"WebRtc\"}";
    let address = stage.service.address("http")?;
    wait::until(format!("{expected} viewers"), SOON, async || {
        let text = http::get(address, "/metrics").await.map_err(|error| format!("{error:#}"))?.body;
        match http::metric(&text, VIEWERS) {
            Some(count) if (count - expected).abs() < 0.5 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

#[tokio::test]
async fn a_page_waits_at_the_server_and_goes_on_with_each_next_publisher() -> Result<()> {
    let stage = Stage::new("webrtc-waits").await?;
    let mut browser = stage.view("id=show", View::default()).await?;
    until_state(&mut browser, "off").await?;
    ensure!(message(&mut browser).await?.contains("The stream is off"));

    for _session in 0..2 {
        let publisher = stage.publish_in_order("show")?;
        let mode = mode(&mut browser).await?;
        ensure!(mode.starts_with("WebRTC"), "{mode}");
        shows_on(&mut browser, 20).await?;
        ensure!(message(&mut browser).await?.is_empty());
        publisher.stop().await?;
        until_state(&mut browser, "ended").await?;
        until_message(&mut browser, "The stream has ended").await?;
    }
    let requests = browser.seen().await?.requests;
    ensure!(requests.iter().any(|url| url.ends_with("/whep/show?wait=25")), "{requests:?}");
    ensure!(!requests.iter().any(|url| url.contains(".m3u8")), "{requests:?}");
    is_clean(&mut browser).await
}

#[tokio::test]
async fn a_viewer_whom_no_datagram_reaches_gets_the_stream_over_hls() -> Result<()> {
    // nobody listens there
    let stage = Stage::with("webrtc-blocked", &["--webrtc-advertise=127.0.0.1:9"]).await?;
    let _publisher = stage.publish_in_order("show")?;
    let mut browser = stage.view("id=show", View::default()).await?;

    let mode = mode(&mut browser).await?;
    ensure!(mode.starts_with("LL-HLS"), "{mode}");
    plays_on(&mut browser, 1.0).await?;
    is_clean(&mut browser).await?;

    let mut browser = stage.view("id=show&protocol=webrtc", View::default()).await?;
    until_message(&mut browser, "lets no WebRTC through").await
}

#[tokio::test]
async fn a_stream_with_b_frames_is_played_over_hls() -> Result<()> {
    let stage = Stage::new("webrtc-b-frames").await?;
    let _publisher = stage.publish("show")?;
    let mut browser = stage.view("id=show", View::default()).await?;

    let mode = mode(&mut browser).await?;
    ensure!(mode.starts_with("LL-HLS"), "{mode}");
    plays_on(&mut browser, 1.0).await?;
    is_clean(&mut browser).await
}

#[tokio::test]
async fn a_server_that_fell_silent_is_found_again() -> Result<()> {
    let mut stage = Stage::new("webrtc-silent").await?;
    let _publisher = stage.publish_in_order("show")?;
    let mut browser = stage.view("id=show&protocol=webrtc", View::default()).await?;
    until_state(&mut browser, "playing").await?;

    stage.service.process.signal(Signal::STOP)?;
    until_state(&mut browser, "lost").await?;
    ensure!(message(&mut browser).await?.contains("connection was lost"));
    stage.service.process.signal(Signal::CONT)?;

    until_state(&mut browser, "playing").await?;
    shows_on(&mut browser, 20).await?;
    ensure!(message(&mut browser).await?.is_empty());
    is_clean(&mut browser).await
}

#[tokio::test]
async fn a_server_that_starts_again_is_found_with_its_next_publisher() -> Result<()> {
    let mut stage = Stage::new("webrtc-restart").await?;
    let port = stage.service.address("http")?.to_owned();
    let publisher = stage.publish_in_order("show")?;
    let mut browser = stage.view("id=show&protocol=webrtc", View::default()).await?;
    until_state(&mut browser, "playing").await?;

    stage.service.process.kill()?;
    drop(publisher);
    until_state(&mut browser, "lost").await?;
    stage.restart_at(&port).await?;
    let _publisher = stage.publish_in_order("show")?;

    until_state(&mut browser, "playing").await?;
    shows_on(&mut browser, 20).await
}

#[tokio::test]
async fn all_that_is_told_of_webrtc_fits_a_phone() -> Result<()> {
    let stage = Stage::new("webrtc-phone").await?;
    let _publisher = stage.publish_in_order("show")?;
    let view = View { width: 320, height: 640, ..View::default() };
    let mut browser = stage.view("id=show", view).await?;
    let mode = mode(&mut browser).await?;
    ensure!(mode.starts_with("WebRTC"), "{mode}");

    let wide: Vec<String> = browser.evaluate(crate::controls::TOO_WIDE).await?;
    ensure!(wide.is_empty(), "{wide:?}");
    // where a thumb hits it
    until_true(
        &mut browser,
        "[...document.querySelectorAll('button:not([hidden])')].every((one) => one.offsetWidth >= 44 && one.offsetHeight >= 44)",
    )
    .await
}
