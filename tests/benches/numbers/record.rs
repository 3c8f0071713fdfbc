//! What it costs to record streams and to list them for HLS, and how soon a long file is ready after its stream has ended.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{
    process::Process,
    receiver::{Receiver, Request},
    repository,
    service::Launch,
    wait,
};

use crate::{
    load::{self, BROADCAST_CLIP},
    machine, say,
    server::streaming,
    spread::Spread,
};

const ROUNDS: usize = 3;
const STREAMS: usize = 20;
/// Streams are muxed, and files are open.
const WARM_UP: Duration = Duration::from_secs(15);
const MEASURED: Duration = Duration::from_secs(30);
/// The file's length, and how much faster than it plays it is sent.
const HOUR: u32 = 3_600;
const SPEED: u32 = 20;
const SENT: Duration = Duration::from_secs(HOUR as u64 / SPEED as u64 + 60);

pub(crate) async fn measure() -> Result<()> {
    say(
        "\n### Recorder and segmenter\n\nH.264 6 Mbit/s at 30 frames/s and AAC, 1280×720; the server has a core of its own\n",
    );
    say("| what | value |\n| --- | --- |");
    let (mut alone, mut shares) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let ingest = cores(&["--hls=Off"]).await?;
        let with = cores(&["--hls=Always", "--recording=On"]).await?;
        alone.push(ingest / STREAMS as f64 * 100.0);
        shares.push((with - ingest) / STREAMS as f64 * 100.0);
    }
    say(&format!("| a stream that is taken in and no more, % of a core | {} |", Spread::of(alone)));
    say(&format!("| recording and segmenting it besides, % of a core | {} |", Spread::of(shares)));
    let (bytes, wait) = hour().await?;
    say(&format!("| bytes of a file of an hour | {bytes} |"));
    say(&format!("| from liveStreamEnded to vodReady, by the times in the hooks, ms | {wait} |"));
    Ok(())
}

/// The server's share of a core while it takes streams in.
async fn cores(arguments: &[&str]) -> Result<f64> {
    let folder = repository::folder("record")?;
    let (server, _publisher) = streaming(folder.path(), STREAMS, BROADCAST_CLIP, arguments).await?;
    machine::rest(WARM_UP).await;
    let before = machine::cpu_seconds(server.process.id())?;
    machine::rest(MEASURED).await;
    Ok((machine::cpu_seconds(server.process.id())? - before) / MEASURED.as_secs_f64())
}

/// The size of a file of an hour, and how many milliseconds after the end of its stream it was ready.
async fn hour() -> Result<(String, i64)> {
    let folder = repository::folder("record-hour")?;
    let receiver = Receiver::start().await?;
    let hook = format!("--listener-hook-url={}", receiver.url("/hooks"));
    let server = Launch::standalone(folder.path()).args(["--recording=On", "--hls=Off", hook.as_str()]).start().await?;
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-loglevel", "error", "-readrate", &SPEED.to_string(), "-stream_loop", "-1", "-i"]);
    command.arg(load::clip(BROADCAST_CLIP)?).args(["-t", &HOUR.to_string(), "-c", "copy", "-f", "flv"]);
    command.arg(server.rtmp("LiveApp", "hour")?);
    let mut publisher = Process::spawn("ffmpeg", folder.path(), command)?;
    let ended = publisher.wait(SENT).await?;
    ensure!(ended.success(), "ffmpeg failed: {}", publisher.log());
    let told = wait::until("the recording's hook", SENT, async || {
        let seen = receiver.accepted();
        let of = |action: &str| seen.iter().find(|request| request.action() == action).cloned();
        of("liveStreamEnded").zip(of("vodReady")).ok_or_else(|| format!("{} hooks", seen.len()))
    })
    .await?;
    let time = |request: &Request| -> Result<i64> { Ok(request.field("timestamp").context("no timestamp")?.parse()?) };
    let duration = told.1.field("duration").context("no duration")?;
    ensure!(duration.parse::<u32>()? / 1_000 >= HOUR - 1, "the file plays for {duration} ms only");
    let name = told.1.field("vodName").context("no vodName")?;
    let file = folder.path().join("data/recordings").join(name);
    Ok((file.metadata()?.len().to_string(), time(&told.1)? - time(&told.0)?))
}
