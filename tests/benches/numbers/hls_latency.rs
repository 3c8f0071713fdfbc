//! How far the play page in Chromium is behind: the wall clock less the EXT-X-PROGRAM-DATE-TIME of the picture that is shown. The server
//! makes those dates of its clock when a frame arrives, so what the encoder takes is not in it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tests::{
    browser::{Browser, View},
    media::Publisher,
    repository,
    service::Launch,
    wait,
};

use crate::{say, spread::Spread};

const WATCHED: Duration = Duration::from_secs(60);
const START: Duration = Duration::from_secs(60);
const STREAM: [&str; 4] = [
    "-f lavfi -i testsrc2=size=640x360:rate=25",
    "-f lavfi -i sine=frequency=440:sample_rate=48000",
    "-pix_fmt yuv420p -c:v libx264 -preset ultrafast -tune zerolatency -g 50 -b:v 1000k",
    "-c:a aac -b:a 64k",
];
const STATE: &str = "document.documentElement.dataset.state";
/// What the page shows is half a second old; from here on all counts.
const SETTLED: f64 = 4.0;
const LATENCY: &str = "document.querySelector('#stats [data-name=latency]')?.textContent ?? ''";
const STALLS: &str = "void (globalThis.stalls = 0, video.addEventListener('waiting', () => stalls += 1))";

pub(crate) async fn measure() -> Result<()> {
    let folder = repository::folder("hls-latency")?;
    let server = Launch::standalone(folder.path()).args(["--hls-part-milliseconds=300"]).start().await?;
    let _publisher = Publisher::encoding(folder.path(), "publisher", &server.rtmp("LiveApp", "show")?, &STREAM)?;
    let mut browser = Browser::start(View::default()).await?;
    browser.open(&format!("http://{}/LiveApp/play?id=show", server.address("http")?)).await?;
    browser.press("s").await?;
    wait::until("the page to play", START, async || {
        let state: String = browser.evaluate(STATE).await.map_err(|error| format!("{error:#}"))?;
        let shown: String = browser.evaluate(LATENCY).await.map_err(|error| format!("{error:#}"))?;
        // before it plays it is where the playlist begins
        if state == "playing" && seconds(&shown).is_ok_and(|shown| shown < SETTLED) { Ok(()) } else { Err(shown) }
    })
    .await?;
    browser.evaluate::<()>(STALLS).await?;
    let mut latencies = Vec::new();
    wait::throughout("the page plays", WATCHED, async || {
        latencies.push(seconds(&browser.evaluate::<String>(LATENCY).await?)?);
        Ok(())
    })
    .await?;
    let stalls: u64 = browser.evaluate("stalls").await?;
    latencies.sort_by(f64::total_cmp);
    let at = |part: usize| latencies.get(latencies.len() * part / 100).copied().unwrap_or(f64::NAN);
    say("\n### Latency of the play page: hls.js in Chromium, parts of 300 ms, loopback, a minute\n");
    say("| what | measured | must |\n| --- | --- | --- |");
    say(&format!(
        "| behind the frame's arrival at the server, s, p50 / p99 | {:.2} / {:.2} | p50 ≤ 1.2 |",
        at(50),
        at(99)
    ));
    say(&format!("| the same, median (least–greatest) | {} | |", Spread::of(latencies)));
    say(&format!("| stalls | {stalls} | |"));
    Ok(())
}

fn seconds(shown: &str) -> Result<f64> {
    shown.trim_end_matches(" s").parse().with_context(|| format!("the page shows no latency: {shown:?}"))
}
