//! How the page is used: by keyboard, on a phone, and with an address that somebody else made.

use anyhow::{Result, ensure};
use tests::{browser::View, http, repository};

use crate::stage::{Stage, is_clean, until_state, until_true};

/// What does not fit into the window.
pub(crate) const TOO_WIDE: &str = "[...document.querySelectorAll('body, body *')].filter((one) => one.getBoundingClientRect().right > innerWidth || one.getBoundingClientRect().left < 0).map((one) => one.id || one.tagName)";

#[tokio::test]
async fn the_page_is_used_by_keyboard() -> Result<()> {
    let stage = Stage::new("page-keys").await?;
    let _publisher = stage.publish("show")?;
    let mut browser = stage.view("id=show", View { reduced_motion: true, ..View::default() }).await?;
    until_state(&mut browser, "playing").await?;

    until_true(
        &mut browser,
        "video.muted && document.getElementById('sound').getAttribute('aria-pressed') === 'false'",
    )
    .await?;
    browser.press("m").await?;
    until_true(
        &mut browser,
        "!video.muted && document.getElementById('sound').getAttribute('aria-pressed') === 'true'",
    )
    .await?;
    browser.press("s").await?;
    until_true(&mut browser, "!document.getElementById('stats').hidden").await?;
    browser.press("s").await?;
    until_true(&mut browser, "document.getElementById('stats').hidden").await?;
    browser.press("k").await?;
    until_true(&mut browser, "video.paused && document.getElementById('play').ariaLabel === 'Play'").await?;
    // at the first button, a blank presses it once
    for expected in ["play", "sound", "numbers", "full"] {
        browser.press("Tab").await?;
        until_true(&mut browser, &format!("document.activeElement.id === '{expected}'")).await?;
        if expected == "play" {
            browser.press(" ").await?;
            until_true(&mut browser, "!video.paused && document.activeElement.ariaLabel === 'Pause'").await?;
        }
    }
    browser.press("f").await?;
    until_true(&mut browser, "document.fullscreenElement?.id === 'player'").await?;
    let moving: String = browser.evaluate("getComputedStyle(document.getElementById('spinner')).animationName").await?;
    ensure!(moving == "none", "{moving}");
    is_clean(&mut browser).await
}

#[tokio::test]
async fn nothing_is_wider_than_a_phone() -> Result<()> {
    let stage = Stage::new("page-phone").await?;
    let _publisher = stage.publish("show")?;
    let view = View { width: 320, height: 640, ..View::default() };
    let mut browser = stage.view("id=show", view).await?;
    until_state(&mut browser, "playing").await?;
    browser.press("s").await?;
    until_true(&mut browser, "document.querySelectorAll('#stats dd').length > 4").await?;

    let wide: Vec<String> = browser.evaluate(TOO_WIDE).await?;
    ensure!(wide.is_empty(), "{wide:?}");
    until_true(&mut browser, "document.documentElement.scrollWidth <= innerWidth").await?;
    let picture = stage.folder.path().join("phone.png");
    browser.screenshot(&picture).await?;
    ensure!(std::fs::metadata(picture)?.len() > 1_000);
    Ok(())
}

#[tokio::test]
async fn the_publish_page_fits_a_phone_and_is_used_by_keyboard() -> Result<()> {
    let stage = Stage::new("publish-phone").await?;
    let view = View { width: 320, height: 640, ..View::default() };
    let mut browser = stage.view_at("publish.html?id=show", view).await?;
    until_state(&mut browser, "ready").await?;
    until_true(&mut browser, "video.videoWidth > 0").await?;

    let wide: Vec<String> = browser.evaluate(TOO_WIDE).await?;
    ensure!(wide.is_empty(), "{wide:?}");
    until_true(&mut browser, "document.documentElement.scrollWidth <= innerWidth").await?;
    // the button stays where it is seen
    until_true(&mut browser, "document.getElementById('go').getBoundingClientRect().bottom <= innerHeight").await?;
    for expected in ["INPUT", "camera", "microphone", "key", "SUMMARY", "go", "numbers"] {
        browser.press("Tab").await?;
        until_true(
            &mut browser,
            &format!("[document.activeElement.id, document.activeElement.tagName].includes('{expected}')"),
        )
        .await?;
    }
    browser.press("Enter").await?;
    until_true(&mut browser, "!document.getElementById('stats').hidden").await?;
    is_clean(&mut browser).await
}

#[tokio::test]
async fn a_hostile_address_is_shown_as_text() -> Result<()> {
    const HOSTILE: &str = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>";
    let stage = Stage::new("page-hostile").await?;
    let escaped: String = form_urlencoded::byte_serialize(HOSTILE.as_bytes()).collect();
    for page in [
        format!("play?id={escaped}"),
        format!("play?id=show&vod={escaped}"),
        format!("play?id=streams/{escaped}.mp4"),
        format!("publish?id={escaped}"),
    ] {
        let mut browser = stage.view_at(&page, View::default()).await?;

        until_state(&mut browser, "invalid").await?;
        let shown: String = browser.evaluate("document.getElementById('message').textContent").await?;
        ensure!(shown.contains(HOSTILE), "{shown}");
        let made: u64 = browser.evaluate("document.querySelectorAll('main img, main script').length").await?;
        ensure!(made == 0, "{made} elements were made of it");
        let title: String = browser.evaluate("document.title").await?;
        ensure!(title != "taken", "it ran");
        is_clean(&mut browser).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_page_is_there_under_both_names_for_its_applications_only() -> Result<()> {
    let stage = Stage::new("page-names").await?;
    let address = stage.service.address("http")?;
    let page = async |path: &str| http::get(address, path).await;

    let (ours, theirs) = (page("/LiveApp/play?id=show").await?, page("/LiveApp/play.html?id=show").await?);
    ensure!(ours.status == 200 && ours.body == theirs.body, "{} {}", ours.status, theirs.status);
    let (ours, theirs) = (page("/LiveApp/publish?id=show").await?, page("/LiveApp/publish.html?id=show").await?);
    ensure!(ours.status == 200 && ours.body == theirs.body, "{} {}", ours.status, theirs.status);
    ensure!(page("/OtherApp/play?id=show").await?.status == 404);
    ensure!(page("/OtherApp/publish?id=show").await?.status == 404);
    ensure!(page("/LiveApp/play/other.js").await?.status == 404);
    Ok(())
}

#[test]
fn the_player_that_is_embedded_is_the_one_that_was_released() -> Result<()> {
    let folder = repository::root().join("media-node/assets/vendor/hls.js");
    for (ours, released) in [("hls.light.min.js", "hls.light.min.js"), ("LICENSE", "hls.js-LICENSE")] {
        let is_same = std::fs::read(folder.join(ours))? == std::fs::read(repository::cached(released)?)?;
        ensure!(is_same, "{ours} is not that of the package in tests/tools/browser; run: make player");
    }
    Ok(())
}
