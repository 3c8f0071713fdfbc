//! What the pages say, and do next, when WebRTC is refused or not to be had. The answers are made up in the page, since a server gives
//! most of them only when something is wrong with it; all else is real.

use anyhow::{Result, ensure};
use tests::browser::{Browser, View};

use crate::stage::{Stage, is_clean, message, plays_on, statistic, until_message, until_state, until_true};

/// Answers what is POSTed to WHIP and WHEP, as `refusal` says.
const REFUSING: &str = "globalThis.refusal = {status: 404, retryAfter: ''}; globalThis.asked = [];
    const real = fetch;
    globalThis.fetch = (url, options = {}) => {
      if (options.method !== 'POST') return real(url, options);
      asked.push({url: String(url), key: options.headers.Authorization ?? ''});
      return Promise.resolve(new Response('', {status: refusal.status, headers: refusal.retryAfter ? {'Retry-After': refusal.retryAfter} : {}}));
    };";

async fn refuse(browser: &mut Browser, status: u16, retry_after: &str) -> Result<()> {
    browser.evaluate(&format!("void (globalThis.refusal = {{status: {status}, retryAfter: '{retry_after}'}})")).await
}

#[tokio::test]
async fn a_viewer_whom_webrtc_refuses_gets_the_stream_over_hls() -> Result<()> {
    let stage = Stage::new("page-refused").await?;
    let _publisher = stage.publish("show")?;
    // not its codec; no room; turned off; no such address, as a server without WebRTC answers
    for (status, retry_after) in [(406, ""), (503, "5"), (501, ""), (404, ""), (405, "")] {
        let script = format!("{REFUSING} refusal = {{status: {status}, retryAfter: '{retry_after}'}};");
        let mut browser = stage.view("id=show", View { script: &script, ..View::default() }).await?;

        until_state(&mut browser, "playing").await?;
        browser.press("s").await?;
        until_true(&mut browser, "document.querySelector('#stats [data-name=mode]') !== null").await?;
        let mode = statistic(&mut browser, "mode").await?;
        ensure!(mode.starts_with("LL-HLS"), "{status}: {mode}");
        is_clean(&mut browser).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_viewer_who_may_have_one_protocol_only_is_told_why_it_plays_nothing() -> Result<()> {
    let stage = Stage::new("page-forced").await?;
    let _publisher = stage.publish("show")?;
    let view = View { script: REFUSING, ..View::default() };
    let mut browser = stage.view("id=show&protocol=webrtc", view).await?;
    for (status, retry_after, state, said) in [
        (406, "", "unfit", "cannot play"),
        (503, "1", "full", "no room"),
        (500, "", "lost", "cannot be reached"),
        (404, "1", "off", "The stream is off"),
    ] {
        refuse(&mut browser, status, retry_after).await?;
        until_state(&mut browser, state).await?;
        let shown = message(&mut browser).await?;
        ensure!(shown.contains(said), "{status}: {shown}");
    }
    // a stream that is off is waited for at the server, and not asked for again and again
    until_true(&mut browser, "asked.at(-1).url.endsWith('/whep/show?wait=25')").await?;
    let mut browser = stage.view("id=show&protocol=hls", view).await?;
    until_state(&mut browser, "playing").await?;
    plays_on(&mut browser, 1.0).await?;
    until_true(&mut browser, "asked.length === 0").await?;
    is_clean(&mut browser).await
}

#[tokio::test]
async fn a_publisher_is_told_why_it_is_refused_and_what_to_do() -> Result<()> {
    let stage = Stage::new("publish-refused").await?;
    let view = View { script: REFUSING, ..View::default() };
    let mut browser = stage.view_at("publish?id=show", view).await?;
    until_state(&mut browser, "ready").await?;
    for (status, said) in [
        (400, "does not understand"),
        (401, "asks for its key"),
        (404, "no such stream"),
        (406, "none of the codecs"),
        (409, "Somebody else is publishing"),
        (415, "Load the page again"),
        (501, "turned off"),
    ] {
        refuse(&mut browser, status, "").await?;
        browser.press("Control+Enter").await?;
        until_message(&mut browser, said).await?;
        until_state(&mut browser, "refused").await?;
        until_true(&mut browser, "document.getElementById('go').textContent === 'Go live'").await?;
    }
    // one who comes later may get in; one who gives up is let go
    refuse(&mut browser, 503, "30").await?;
    browser.press("Control+Enter").await?;
    until_message(&mut browser, "no room now. Trying again in 30 s").await?;
    until_true(&mut browser, "document.getElementById('go').textContent === 'Stop'").await?;
    browser.press("Control+Enter").await?;
    until_state(&mut browser, "ready").await?;
    is_clean(&mut browser).await
}

#[tokio::test]
async fn a_key_is_sent_as_a_bearer_token_and_kept_nowhere() -> Result<()> {
    let stage = Stage::new("publish-key").await?;
    let view = View { script: REFUSING, ..View::default() };
    let mut browser = stage.view_at("publish?id=show", view).await?;
    until_state(&mut browser, "ready").await?;
    refuse(&mut browser, 403, "").await?;
    browser.evaluate::<()>("document.getElementById('key').focus()").await?;
    browser.write("s3cr3t").await?;
    browser.press("Enter").await?;

    until_message(&mut browser, "The stream key is wrong").await?;
    until_true(
        &mut browser,
        "asked.length === 1 && asked[0].key === 'Bearer s3cr3t' && !asked[0].url.includes('s3cr3t')",
    )
    .await?;
    // who mistyped it stands in the field, and hears what is wrong with it
    until_true(&mut browser, "document.activeElement.id === 'key' && document.activeElement.ariaInvalid === 'true'")
        .await?;
    until_true(
        &mut browser,
        "![location.href, document.cookie, JSON.stringify(history.state), JSON.stringify({...localStorage, ...sessionStorage})].some((text) => text.includes('s3cr3t'))",
    )
    .await?;
    ensure!(!browser.seen().await?.requests.iter().any(|url| url.contains("s3cr3t")));
    is_clean(&mut browser).await
}

#[tokio::test]
async fn a_publisher_without_a_camera_is_told_what_is_in_the_way() -> Result<()> {
    let stage = Stage::new("publish-devices").await?;
    let failing = |name: &str| {
        format!("navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', '{name}'));")
    };
    for (script, state, said) in [
        (failing("NotAllowedError"), "trouble", "was not allowed to use the camera"),
        (failing("NotFoundError"), "trouble", "No camera was found"),
        (failing("NotReadableError"), "trouble", "another program has it"),
        (
            "delete Navigator.prototype.mediaDevices; Object.defineProperty(globalThis, 'isSecureContext', {value: false});".to_owned(),
            "invalid",
            "over HTTPS only",
        ),
    ] {
        let mut browser = stage.view_at("publish?id=show", View { script: &script, ..View::default() }).await?;

        until_state(&mut browser, state).await?;
        until_message(&mut browser, said).await?;
        is_clean(&mut browser).await?;
    }
    let mut browser = stage.view_at("publish", View::default()).await?;
    until_state(&mut browser, "invalid").await?;
    until_message(&mut browser, "Nothing to publish").await
}

#[tokio::test]
async fn a_browser_that_asks_first_is_asked_by_a_button() -> Result<()> {
    let stage = Stage::new("publish-asks").await?;
    let script = "Permissions.prototype.query = () => Promise.resolve({state: 'prompt'});";
    let mut browser = stage.view_at("publish?id=show", View { script, ..View::default() }).await?;
    until_state(&mut browser, "idle").await?;
    until_true(&mut browser, "!document.getElementById('allow').hidden && video.srcObject === null").await?;

    browser.press("Tab").await?;
    until_true(&mut browser, "document.activeElement.id === 'allow'").await?;
    browser.press("Enter").await?;

    until_state(&mut browser, "ready").await?;
    until_true(&mut browser, "video.srcObject.getVideoTracks().length === 1 && video.videoWidth > 0").await?;
    until_true(&mut browser, "document.getElementById('camera').selectedOptions[0].text.includes('fake')").await?;
    is_clean(&mut browser).await
}
