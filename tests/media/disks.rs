//! What a disk that stalls, is full, or has lost what was written costs a recording, and what it does not cost anybody else.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use tempfile::TempDir;
use tests::{disk::Stall, http, media, probe, receiver::Receiver, repository, service::Launch, wait};

use crate::{
    recording::{encode, files, grown, name, ready, vod_id},
    standalone::{SOON, Standalone},
};

/// What waits in memory for a file.
const QUEUE: f64 = (8 << 20) as f64;

/// A server whose recordings are on a disk that can stall, and where they are as it sees them.
async fn on_stalling_disk(test: &str) -> Result<(Standalone, PathBuf)> {
    let folder = repository::folder(test)?;
    let receiver = Receiver::start().await?;
    let storage = folder.path().join("data/recordings");
    fs::create_dir_all(&storage)?;
    let hook = format!("--listener-hook-url={}", receiver.url("hook"));
    let flags = ["--recording=On", "--recording-name={streamID}-{part}", &hook];
    let launch = Launch::standalone(folder.path()).args(flags).on_stalling_disk(&storage);
    let service = launch.start().await?;
    let seen = service.process.sees(&storage);
    Ok((Standalone { service, receiver, launch, folder }, seen))
}

/// What fills memory within seconds: noise of 20 Mbit/s and a tone, to be sent again and again.
fn heavy(folder: &TempDir) -> Result<String> {
    let path = folder.path().join("heavy.flv");
    let noise = "-f lavfi -i color=gray:size=640x360:rate=25,noise=alls=100:allf=t";
    let h264 =
        "-pix_fmt yuv420p -c:v libx264 -preset ultrafast -tune zerolatency -g 25 -b:v 20M -maxrate 20M -bufsize 2M";
    let tone = "-f lavfi -i sine=frequency=440:sample_rate=48000";
    media::write(&[noise, tone, "-t 4", h264, "-c:a aac -b:a 64k"], &path)?;
    Ok(format!("-stream_loop -1 -i {} -c copy", path.display()))
}

async fn metric(server: &Standalone, name: &str) -> Result<f64> {
    let text = http::get(server.service.address("http")?, "/metrics").await?.body;
    http::metric(&text, name).with_context(|| format!("no {name} in {text}"))
}

/// Waits until a metric has grown by so much.
async fn until_more(server: &Standalone, name: &str, more: f64) -> Result<()> {
    let before = metric(server, name).await?;
    wait::until(format!("{name} to grow by {more}"), SOON, async || {
        let now = metric(server, name).await.map_err(|error| error.to_string())?;
        if now >= before + more { Ok(()) } else { Err(format!("{before}, then {now}")) }
    })
    .await
}

/// Memory of the server that is not a file's, in bytes.
fn memory(server: &Standalone) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", server.service.process.id()))?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    Ok(kilobytes.context("Linux says it")?.parse::<f64>()? * 1024.0)
}

async fn until_said(server: &Standalone, what: &str) -> Result<()> {
    wait::until(format!("the log to say: {what}"), SOON, async || {
        let log = server.service.process.log();
        if log.contains(what) { Ok(()) } else { Err(log) }
    })
    .await
}

#[tokio::test]
async fn a_disk_that_stalls_costs_what_does_not_fit_in_memory_and_viewers_nothing() -> Result<()> {
    let (server, disk) = on_stalling_disk("record-stall").await?;
    let clip = heavy(&server.folder)?;
    let publisher = encode(&server, "show", &[&clip])?;
    grown(&disk, 4 << 20).await?;

    let stall = Stall::begin(&server.service.process, &server.folder.path().join("data/recordings")).await?;
    until_said(&server, "the storage does not keep up").await?;
    // now the window of LL-HLS is full, and so is what waits
    until_more(&server, "tallylight_node_media_bytes_total", 6.0 * QUEUE).await?;
    let before = memory(&server)?;
    until_more(&server, "tallylight_node_media_bytes_total", 4.0 * QUEUE).await?;
    let grown_by = memory(&server)? - before;
    assert!(grown_by < 2.0 * QUEUE, "memory grows by {grown_by} bytes while the disk stalls");
    let (folder, http) = (server.folder.path(), server.service.address("http")?);
    media::play_with_ffmpeg(folder, "player", &server.rtmp("show")).await?;
    media::play_with_ffmpeg(folder, "player-hls", &format!("http://{http}/LiveApp/streams/show.m3u8")).await?;
    stall.end().await?;

    let parts = async || match server.service.process.log().matches("recording.started").count() {
        2.. => Ok(()),
        one => Err(format!("{one}; {}", server.service.process.log())),
    };
    wait::until("the next part", SOON, parts).await?;
    until_more(&server, "tallylight_node_recorded_bytes_total", QUEUE / 4.0).await?;
    publisher.stop().await?;
    let hooks = ready(&server, 2).await?;
    let names: Vec<_> = hooks.iter().map(name).collect();
    assert_eq!(files(&disk).iter().filter(|file| file.ends_with(".mp4")).count(), 2, "{names:?}");
    for name in &names {
        probe::decodes(&disk.join(name))?;
    }
    let (lost, kept) = (
        metric(&server, "tallylight_node_recording_lost_bytes_total").await?,
        metric(&server, "tallylight_node_recorded_bytes_total").await?,
    );
    assert!(lost >= 6.0 * QUEUE, "{lost} bytes are lost");
    until_said(&server, "segments are not recorded").await?;
    let sent = received(&server).await?;
    // headers of tags and fragments, and less than a part at begin and end
    assert!(((lost + kept) / sent - 1.0).abs() < 0.05, "{lost} lost and {kept} kept of {sent} bytes");
    server.receiver.check_promises()
}

/// What publishers have sent, in bytes.
async fn received(server: &Standalone) -> Result<f64> {
    let text = http::get(server.service.address("http")?, "/metrics").await?.body;
    let lines = text.lines().filter(|line| line.starts_with("tallylight_node_media_bytes_total{"));
    let of_publishers = lines.filter(|line| line.to_lowercase().contains("direction=\"in\""));
    Ok(of_publishers.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

#[tokio::test]
async fn a_recording_that_is_deleted_while_its_disk_stalls_is_gone_when_it_goes_on() -> Result<()> {
    let (server, disk) = on_stalling_disk("record-stall-delete").await?;
    let publisher = server.ffmpeg("show").await?;
    grown(&disk, 60_000).await?;
    let id = vod_id(&disk, "show-1.mp4")?;

    let stall = Stall::begin(&server.service.process, &server.folder.path().join("data/recordings")).await?;
    publisher.stop().await?;
    server.receiver.wait_for(2, SOON).await?;
    delete(&server, &id).await?;
    stall.end().await?;

    until_gone(&server, &id).await?;
    until_clean(&disk).await?;
    assert!(server.receiver.accepted().iter().all(|request| request.action() != "vodReady"), "nobody is told");
    server.receiver.check_promises()
}

#[tokio::test]
async fn a_recording_that_is_deleted_while_it_cannot_be_finished_makes_room() -> Result<()> {
    let folder = repository::folder("record-full-delete")?;
    let receiver = Receiver::start().await?;
    let storage = folder.path().join("data/recordings");
    fs::create_dir_all(&storage)?;
    let hook = format!("--listener-hook-url={}", receiver.url("hook"));
    let flags = ["--recording=On", "--recording-name={streamID}-{part}", &hook];
    let launch = Launch::standalone(folder.path()).args(flags).on_small_disk(&storage, "3m");
    let service = launch.start().await?;
    let server = Standalone { service, receiver, launch, folder };
    let disk = server.service.process.sees(&storage);
    let publisher = server.ffmpeg("show").await?;
    grown(&disk, 60_000).await?;
    let id = vod_id(&disk, "show-1.mp4")?;
    let _full = fs::write(disk.join("ballast"), vec![0; 4 << 20]); // as much as fits
    until_said(&server, "make room in the storage").await?;

    delete(&server, &id).await?;

    until_gone(&server, &id).await?;
    assert!(!disk.join(".recording/show-1.mp4").exists());
    fs::remove_file(disk.join("ballast"))?;
    grown(&disk, 60_000).await?;
    publisher.stop().await?;
    let hooks = ready(&server, 1).await?;
    assert_eq!(hooks.iter().map(name).collect::<Vec<_>>(), ["show-2.mp4"]);
    assert_eq!(files(&disk), ["show-2.mp4"]);
    probe::decodes(&disk.join("show-2.mp4"))?;
    server.receiver.check_promises()
}

#[tokio::test]
async fn a_file_of_which_nothing_is_left_is_put_aside_until_its_recording_is_deleted() -> Result<()> {
    let mut server =
        Standalone::with("record-damaged", &["--recording=On", "--recording-name={streamID}-{part}"]).await?;
    let storage = server.folder.path().join("data/recordings");
    let publisher = server.ffmpeg("show").await?;
    grown(&storage, 60_000).await?;
    let id = vod_id(&storage, "show-1.mp4")?;
    server.service.process.kill()?;
    drop(publisher);
    fs::write(storage.join(".recording/show-1.mp4/media.mp4"), "nothing that we have written")?;
    server.service = server.launch.start().await?;
    until_said(&server, "recording.failed").await?;
    let aside = storage.join(".damaged/show-1.mp4");
    wait::until("it to be put aside", SOON, async || if aside.exists() { Ok(()) } else { Err("it is not there") })
        .await?;

    delete(&server, &id).await?;

    until_gone(&server, &id).await?;
    assert!(!aside.exists());
    until_clean(&storage).await?;
    server.receiver.check_promises()
}

/// Deletes a VoD as a client of REST does.
async fn delete(server: &Standalone, id: &str) -> Result<()> {
    let path = format!("/LiveApp/rest/v2/vods/{id}");
    let answer = http::request(Method::DELETE, server.service.address("http")?, &path, None).await?;
    ensure!(answer.status == 200 && answer.json()?["success"] == true, "{answer:?}");
    Ok(())
}

/// Waits until there is no such VoD.
async fn until_gone(server: &Standalone, id: &str) -> Result<()> {
    let (address, path) = (server.service.address("http")?, format!("/LiveApp/rest/v2/vods/{id}"));
    wait::until("the VoD to go", SOON, async || match http::get(address, &path).await {
        Ok(answer) if answer.status == 404 => Ok(()),
        other => Err(format!("{other:?}; {}", server.service.process.log())),
    })
    .await
}

/// Waits until nothing of a recording is in a storage.
async fn until_clean(storage: &Path) -> Result<()> {
    wait::until("nothing to be left", SOON, async || {
        let left: Vec<_> = files(storage).into_iter().filter(|name| name != "lost+found").collect();
        let growing = files(&storage.join(".recording"));
        if left.is_empty() && growing.is_empty() { Ok(()) } else { Err(format!("{left:?}, {growing:?}")) }
    })
    .await
}
