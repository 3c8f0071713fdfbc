//! How soon a viewer in Chromium sees something over WebRTC, and how old that is. The pictures are a clock: stripes that say when they were
//! made, so what encoder, server, browser and their buffers take is all in it. Everything runs on one machine, by one clock.

use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use tests::{
    browser::{Browser, View},
    media::Publisher,
    repository,
    service::{Launch, Service},
    wait,
};

use crate::say;

const START: Duration = Duration::from_secs(60);
const WATCHED: Duration = Duration::from_secs(30);
/// Pages that are opened one after the other, at whatever place in a group of pictures.
const JOINS: usize = 40;
/// After this much a receiver has found how little it needs to buffer.
const SETTLES: Duration = Duration::from_secs(10);

/// 24 stripes for the bits of a time in milliseconds, the lowest first, and 8 for the lowest ones' opposites, by which a torn
/// picture is known. Keyframes are 4 s apart.
const CLOCK: &str = "-f lavfi -i color=c=black:s=32x18:r=30,format=gray,settb=1/1000,setpts=RTCTIME/1000-BASE,\
    geq=lum='if(lt(X\\,24)\\,255*mod(floor(floor(T*1000+0.5)/pow(2\\,X))\\,2)\\,255-255*mod(floor(floor(T*1000+0.5)/pow(2\\,X-24))\\,2))',\
    settb=1/30,setpts=N,scale=640:360:flags=neighbor";
const STREAM: [&str; 3] = [
    "-f lavfi -i sine=frequency=440:sample_rate=48000",
    "-pix_fmt yuv420p -c:v libx264 -preset ultrafast -tune zerolatency -g 120 -sc_threshold 0 -b:v 1000k",
    "-c:a aac -b:a 64k -flush_packets 1",
];
/// The same clock as a camera of the publish page.
const CAMERA: &str = "{
    const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wanted) => {
      if (!wanted.video) return real(wanted);
      const canvas = document.createElement('canvas');
      [canvas.width, canvas.height] = [640, 360];
      const pen = canvas.getContext('2d');
      setInterval(() => {
        const now = Date.now() - BASE;
        for (let stripe = 0; stripe < 32; stripe += 1) {
          const bit = Math.floor(now / 2 ** (stripe % 24)) % 2;
          pen.fillStyle = (stripe < 24) === (bit === 1) ? '#fff' : '#000';
          pen.fillRect(stripe * 20, 0, 20, 360);
        }
      }, 1000 / 30);
      return canvas.captureStream(30);
    };
  }";
/// Notes when the page asks, and when it shows the first picture.
const JOIN: &str = "{
    const real = fetch;
    globalThis.fetch = (url, options = {}) => {
      if (options.method === 'POST') globalThis.askedAt ??= performance.now();
      return real(url, options);
    };
    document.addEventListener('DOMContentLoaded', () => {
      document.getElementById('video').requestVideoFrameCallback(() => { globalThis.seenAt = performance.now(); });
    });
  }";
/// Reads the clock of each picture as it is shown.
const READ: &str = "void (() => {
    globalThis.ages = [];
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [32, 18];
    const pen = canvas.getContext('2d', { willReadFrequently: true });
    const look = () => {
      pen.drawImage(video, 0, 0, 32, 18);
      const { data } = pen.getImageData(0, 9, 32, 1);
      const bit = (stripe) => Number(data[stripe * 4] > 127);
      let time = 0;
      for (let stripe = 0; stripe < 24; stripe += 1) time += bit(stripe) * 2 ** stripe;
      const isWhole = [0, 1, 2, 3, 4, 5, 6, 7].every((stripe) => bit(stripe) !== bit(stripe + 24));
      if (isWhole) ages.push(Date.now() - BASE - time);
      video.requestVideoFrameCallback(look);
    };
    video.requestVideoFrameCallback(look);
  })()";

pub(crate) async fn measure() -> Result<()> {
    let folder = repository::folder("webrtc-latency")?;
    let server = Launch::standalone(folder.path()).start().await?;
    let base = (Timestamp::now().as_second() * 1_000).to_string();
    let clock = CLOCK.replace("BASE", &base);
    let arguments = [&[clock.as_str()][..], &STREAM].concat();
    // Debian's FFmpeg keeps pictures back for a quarter of a second when there is sound
    let publisher = Publisher::enhanced(folder.path(), "publisher", &server.rtmp("LiveApp", "show")?, &arguments)?;

    let joins = joins(&server).await?;
    let rtmp = ages(&server, "show", &base).await?;
    publisher.stop().await?;
    let camera = CAMERA.replace("BASE", &base);
    let mut page = Browser::start(View { script: &camera, ..View::default() }).await?;
    page.open(&format!("http://{}/LiveApp/publish?id=camera", server.address("http")?)).await?;
    until(&mut page, "document.documentElement.dataset.state === 'ready'").await?;
    page.press("Control+Enter").await?;
    until(&mut page, "document.documentElement.dataset.state === 'live'").await?;
    let whip = ages(&server, "camera", &base).await?;

    say("\n### WebRTC in Chromium: how soon, and how old, on loopback\n");
    say("| what | measured | must |\n| --- | --- | --- |");
    say(&format!(
        "| from POST to the first picture, ms, p50 / p90 of {JOINS} (RTMP source, a keyframe each 4 s) | {:.0} / {:.0} | p50 ≤ 350 |",
        at(&joins, 50),
        at(&joins, 90)
    ));
    for (name, ages, must) in [("RTMP", &rtmp, 200), ("WHIP", &whip, 120)] {
        say(&format!(
            "| glass to glass, {name} → WHEP, ms, p50 / p99 of {} pictures | {:.0} / {:.0} | p50 ≤ {must} |",
            ages.len(),
            at(ages, 50),
            at(ages, 99)
        ));
    }
    Ok(())
}

/// How long viewers wait for their first picture, from their offer on, in milliseconds, in order.
async fn joins(server: &Service) -> Result<Vec<f64>> {
    let mut browser = Browser::start(View { script: JOIN, ..View::default() }).await?;
    let mut waits = Vec::new();
    // the first one finds caches and code cold
    for join in 0..=JOINS {
        browser.open(&page(server, "show")?).await?;
        until(&mut browser, "globalThis.seenAt !== undefined").await?;
        if join > 0 {
            waits.push(browser.evaluate("seenAt - askedAt").await?);
        }
    }
    waits.sort_by(f64::total_cmp);
    Ok(waits)
}

/// How old pictures are when they are shown, in milliseconds, in order.
async fn ages(server: &Service, stream: &str, base: &str) -> Result<Vec<f64>> {
    let mut browser = Browser::start(View::default()).await?;
    browser.open(&page(server, stream)?).await?;
    until(&mut browser, "document.documentElement.dataset.state === 'playing'").await?;
    wait::throughout("the receiver settles", SETTLES, async || Ok(())).await?;
    browser.evaluate::<()>(&READ.replace("BASE", base)).await?;
    wait::throughout("pictures are read", WATCHED, async || Ok(())).await?;
    let mut ages: Vec<f64> = browser.evaluate("ages").await?;
    anyhow::ensure!(!ages.is_empty(), "no picture could be read");
    ages.sort_by(f64::total_cmp);
    Ok(ages)
}

fn page(server: &Service, stream: &str) -> Result<String> {
    Ok(format!("http://{}/LiveApp/play?id={stream}&protocol=webrtc", server.address("http").context("no address")?))
}

async fn until(browser: &mut Browser, code: &str) -> Result<()> {
    wait::until(code, START, async || match browser.evaluate::<bool>(code).await {
        Ok(true) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
}

fn at(sorted: &[f64], part: usize) -> f64 {
    sorted.get(sorted.len() * part / 100).copied().unwrap_or(f64::NAN)
}
