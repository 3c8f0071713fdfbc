//! Recordings: what ffprobe finds in the files, what the hook and REST say of them, and what a crash, a full disk or a folder
//! that cannot be written costs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use kube::{Api, api::ListParams};
use reqwest::Method;
use rtmp::Message;
use serde_json::{Value, json};
use tallylight_crds::{Recording, RecordingState};
use tests::{
    http,
    media::{self, Publisher},
    probe,
    receiver::{Receiver, Request},
    repository,
    service::Launch,
    wait,
};

use crate::{
    cluster::{Cluster, LEASE_EXPIRED, node},
    standalone::{SOON, Standalone, come_back},
};

pub(crate) const VIDEO: &str = "-f lavfi -i testsrc2=size=320x180:rate=25";
pub(crate) const TONE: &str = "-f lavfi -i sine=frequency=440:sample_rate=48000";
pub(crate) const H264: &str =
    "-pix_fmt yuv420p -c:v libx264 -preset ultrafast -bf 2 -b_strategy 0 -g 25 -sc_threshold 0";
pub(crate) const AAC: &str = "-c:a aac -b:a 64k";

/// What people do not notice, in seconds.
const OFFSET: f64 = 0.020;
/// Kills in the quick form of the suite; `KILLS` says another number.
const KILLS: usize = 30;

/// Where a server without a storage of its own keeps its files.
pub(crate) fn storage(server: &Standalone) -> PathBuf {
    server.folder.path().join("data/recordings")
}

/// Files that are whole.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !name.starts_with('.')).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Waits for so many hooks of recordings that can be played.
pub(crate) async fn ready(server: &Standalone, count: usize) -> Result<Vec<Request>> {
    wait::until(format!("{count} vodReady"), SOON, async || {
        let seen = server.receiver.accepted();
        let ready: Vec<_> = seen.iter().filter(|request| request.action() == "vodReady").cloned().collect();
        let actions = || seen.iter().map(Request::action).collect::<Vec<_>>();
        if ready.len() >= count {
            Ok(ready)
        } else {
            Err(format!("{:?}; log: {}", actions(), server.service.process.log()))
        }
    })
    .await
}

pub(crate) fn name(hook: &Request) -> String {
    hook.field("vodName").unwrap_or_default()
}

/// The id of a file that grows.
pub(crate) fn vod_id(storage: &Path, file: &str) -> Result<String> {
    let text = fs::read(storage.join(".recording").join(file).join("recording.json"))?;
    let recording: Recording = serde_json::from_slice(&text)?;
    recording.metadata.name.context("a recording has a name")
}

/// The VoDs that REST lists.
pub(crate) async fn listed(server: &Standalone) -> Result<Vec<Value>> {
    let answer = http::get(server.service.address("http")?, "/LiveApp/rest/v2/vods/list/0/50").await?;
    Ok(answer.json()?.as_array().cloned().unwrap_or_default())
}

pub(crate) fn encode(server: &Standalone, stream: &str, arguments: &[&str]) -> Result<Publisher> {
    Publisher::encoding(server.folder.path(), &format!("publisher-{stream}"), &server.rtmp(stream), arguments)
}

#[tokio::test]
async fn what_ffmpeg_publishes_is_in_the_file_that_the_hook_names() -> Result<()> {
    let server = Standalone::with("record-ffmpeg", &["--recording=On"]).await?;
    let mut publisher = encode(&server, "show", &[VIDEO, TONE, "-t 6", H264, AAC])?;
    publisher.process.wait(SOON).await?;

    let hooks = ready(&server, 1).await?;
    let file = storage(&server).join(name(&hooks[0]));
    probe::decodes(&file)?;
    let streams = probe::probe(&file)?;
    let [video, audio] = &streams[..] else { panic!("{streams:?}") };
    assert_eq!((video.codec.as_str(), video.packets, audio.codec.as_str()), ("h264", 150, "aac"));
    assert!((audio.start - video.start).abs() <= OFFSET + 1024.0 / 48_000.0, "{streams:?}");
    assert!((video.length - 6.0).abs() < 0.1, "{streams:?}");
    assert_eq!(files(&storage(&server)), [name(&hooks[0])], "nothing else");
    let vods = listed(&server).await?;
    assert_eq!(vods[0]["vodId"].as_str(), hooks[0].field("vodId").as_deref(), "{vods:?}");
    assert_eq!(vods[0]["fileSize"].as_u64(), Some(file.metadata()?.len()), "{vods:?}");
    server.receiver.check_promises()
}

#[tokio::test]
async fn what_gstreamer_publishes_is_recorded_and_one_kind_of_track_too() -> Result<()> {
    let server = Standalone::with("record-gstreamer", &["--recording=On", "--recording-name={streamID}"]).await?;
    let publisher = Publisher::gstreamer(server.folder.path(), "gstreamer", &server.rtmp("both"))?;
    let mut sound = encode(&server, "sound", &[TONE, "-t 4", AAC])?;
    let mut pictures = encode(&server, "pictures", &[VIDEO, "-t 4", H264])?;
    sound.process.wait(SOON).await?;
    pictures.process.wait(SOON).await?;
    ready(&server, 2).await?;
    grown(&storage(&server), 60_000).await?;
    publisher.stop().await?;

    ready(&server, 3).await?;
    assert_eq!(files(&storage(&server)), ["both.mp4", "pictures.mp4", "sound.mp4"]);
    for (file, codecs) in [("both", &["h264", "aac"][..]), ("sound", &["aac"]), ("pictures", &["h264"])] {
        let path = storage(&server).join(format!("{file}.mp4"));
        probe::decodes(&path)?;
        let found: Vec<_> = probe::probe(&path)?.into_iter().map(|stream| stream.codec).collect();
        assert_eq!(found, codecs, "{file}");
    }
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_full_is_followed_by_the_next_and_none_overwrites_another() -> Result<()> {
    let rotate = ["--recording=On", "--recording-max-duration-seconds=10", "--recording-name={streamID}"];
    let server = Standalone::with("record-rotation", &rotate).await?;
    let mut publisher = encode(&server, "show", &[VIDEO, TONE, "-t 24", H264, AAC])?;
    publisher.process.wait(SOON).await?;

    ready(&server, 3).await?;
    assert_eq!(files(&storage(&server)), ["show-2.mp4", "show-3.mp4", "show.mp4"]);
    let mut frames = 0;
    for file in ["show.mp4", "show-2.mp4", "show-3.mp4"] {
        let path = storage(&server).join(file);
        probe::decodes(&path)?;
        frames += probe::frames(&path)?;
    }
    assert_eq!(frames, 600, "no frame is lost between two files");
    Ok(())
}

#[tokio::test]
async fn a_broadcast_is_recorded_while_somebody_asks_for_it() -> Result<()> {
    let server = Standalone::with("record-on-demand", &["--recording=OnDemand"]).await?;
    let publisher = encode(&server, "show", &[VIDEO, TONE, H264, AAC])?;
    server.until_status("show", "broadcasting").await?;
    assert!(files(&storage(&server)).is_empty() && listed(&server).await?.is_empty());
    let address = server.service.address("http")?;
    let ask = async |wanted: bool| -> Result<()> {
        let path = format!("/LiveApp/rest/v2/broadcasts/show/recording/{wanted}");
        let answer = http::request(Method::PUT, address, &path, None).await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    };

    for part in 1..=2 {
        ask(true).await?;
        let grows = async || {
            let log = server.service.process.log();
            if log.matches("recording.started").count() == part { Ok(()) } else { Err(log) }
        };
        wait::until("the file to be begun", SOON, grows).await?;
        ask(false).await?;
        ready(&server, part).await?;
    }
    publisher.stop().await?;
    server.receiver.wait_for(4, SOON).await?;

    assert_eq!(files(&storage(&server)).len(), 2);
    server.receiver.check_promises()
}

#[tokio::test]
async fn to_delete_a_vod_deletes_its_file() -> Result<()> {
    let server = Standalone::with("record-delete", &["--recording=On"]).await?;
    let mut publisher = encode(&server, "show", &[VIDEO, "-t 3", H264])?;
    publisher.process.wait(SOON).await?;
    let hooks = ready(&server, 1).await?;

    let path = format!("/LiveApp/rest/v2/vods/{}", hooks[0].field("vodId").unwrap_or_default());
    assert_eq!(http::request(Method::DELETE, server.service.address("http")?, &path, None).await?.status, 200);

    wait::until("the file to go", SOON, async || match files(&storage(&server)) {
        gone if gone.is_empty() && listed(&server).await.is_ok_and(|vods| vods.is_empty()) => Ok(()),
        there => Err(format!("{there:?}")),
    })
    .await
}

#[tokio::test]
async fn a_server_that_stops_finishes_its_files_first() -> Result<()> {
    let mut server = Standalone::with("record-stop", &["--recording=On"]).await?;
    let _publisher = encode(&server, "show", &[VIDEO, TONE, H264, AAC])?;
    server.receiver.wait_for(1, SOON).await?;
    grown(&storage(&server), 60_000).await?;

    assert!(server.service.process.stop(SOON).await?.success());

    let files = files(&storage(&server));
    assert_eq!(files.len(), 1, "{files:?}");
    probe::decodes(&storage(&server).join(&files[0]))?;
    server.service = server.launch.start().await?;
    assert_eq!(name(&ready(&server, 1).await?[0]), files[0]);
    server.receiver.check_promises()
}

/// Waits until a file that grows has so many bytes.
pub(crate) async fn grown(folder: &Path, bytes: u64) -> Result<()> {
    wait::until("the file to grow", SOON, async || {
        let growing = fs::read_dir(folder.join(".recording")).into_iter().flatten().flatten();
        let sizes: Vec<_> =
            growing.map(|entry| entry.path().join("media.mp4").metadata().map_or(0, |file| file.len())).collect();
        if sizes.iter().any(|size| *size >= bytes) { Ok(()) } else { Err(format!("{sizes:?}")) }
    })
    .await
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_costs_the_recording_alone_until_it_can() -> Result<()> {
    let server = Standalone::with("record-read-only", &["--recording=On"]).await?;
    // a file where the folder should be: root may write in any folder
    fs::write(storage(&server), "in the way")?;
    let publisher = encode(&server, "show", &[VIDEO, TONE, H264, AAC])?;
    let trouble = async || {
        let log = server.service.process.log();
        if log.contains("see to the storage; recording goes on by itself") { Ok(()) } else { Err(log) }
    };
    wait::until("the trouble to be told", SOON, trouble).await?;
    media::play_with_ffmpeg(server.folder.path(), "player", &server.rtmp("show")).await?;
    let in_trouble = async || -> Result<Option<f64>> {
        let metrics = http::get(server.service.address("http")?, "/metrics").await?.body;
        Ok(http::metric(&metrics, "tallylight_node_recordings_in_trouble{reason=\"StorageUnavailable\"}"))
    };
    assert_eq!(in_trouble().await?, Some(1.0));

    fs::remove_file(storage(&server))?;
    grown(&storage(&server), 60_000).await?;
    assert_eq!(in_trouble().await?, Some(0.0), "it records again");
    publisher.stop().await?;

    let hooks = ready(&server, 1).await?;
    probe::decodes(&storage(&server).join(name(&hooks[0])))
}

#[tokio::test]
async fn a_disk_that_is_full_costs_what_does_not_fit_and_recording_goes_on_when_there_is_room() -> Result<()> {
    let folder = repository::folder("record-disk-full")?;
    let receiver = Receiver::start().await?;
    let data = folder.path().join("data/recordings");
    fs::create_dir_all(&data)?;
    let hook = format!("--listener-hook-url={}", receiver.url("hook"));
    let launch = Launch::standalone(folder.path()).args(["--recording=On", &hook]).on_small_disk(&data, "3m");
    let service = launch.start().await?;
    let server = Standalone { service, receiver, launch, folder };
    // as the server sees it
    let disk = server.service.process.sees(&data);
    let publisher = encode(&server, "show", &[VIDEO, TONE, H264, AAC])?;
    grown(&disk, 60_000).await?;
    let _full = fs::write(disk.join("ballast"), vec![0; 4 << 20]); // as much as fits
    let full = async || {
        let log = server.service.process.log();
        if log.contains("make room in the storage") { Ok(()) } else { Err(log) }
    };
    wait::until("the disk to be full", SOON, full).await?;
    media::play_with_ffmpeg(server.folder.path(), "player", &server.rtmp("show")).await?;
    assert_eq!(server.receiver.accepted().len(), 1, "no file is told of that is not whole");

    fs::remove_file(disk.join("ballast"))?;
    ready(&server, 1).await?;
    grown(&disk, 60_000).await?;
    publisher.stop().await?;

    for hook in ready(&server, 2).await? {
        probe::decodes(&disk.join(name(&hook)))?;
    }
    server.receiver.check_promises()
}

/// Twenty seconds of what encoders send.
fn clip(folder: &Path) -> Result<Vec<Message>> {
    let path = folder.join("clip.flv");
    media::write(&[VIDEO, TONE, "-t 20", H264, AAC], &path)?;
    Ok(rtmp::flv::messages(fs::read(&path)?.into()))
}

#[tokio::test]
async fn a_kill_at_any_moment_costs_at_most_a_second_and_each_file_is_told_of_once() -> Result<()> {
    let kills = std::env::var("KILLS").map_or(Ok(KILLS), |kills| kills.parse())?;
    let mut server = Standalone::with("record-kills", &["--recording=On"]).await?;
    let clip = clip(server.folder.path())?;
    let (mut seed, mut sent) = (0x9E37_79B9_7F4A_7C15_u64, Vec::new());
    for round in 0..kills {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let lasts = Duration::from_millis(1_200 + (seed >> 33) % 2_500);
        let mut publisher = come_back(&server.rtmp(&format!("show-{round}"))).await?;
        sent.push(publisher.send_clip(&clip, Instant::now() + lasts).await?);
        server.service.process.kill()?;
        server.service = server.launch.start().await?;
    }
    let hooks = ready(&server, kills).await?;

    let mut worst = Duration::ZERO;
    for (round, sent) in sent.into_iter().enumerate() {
        let of_round = |hook: &&Request| hook.field("id").as_deref() == Some(&*format!("show-{round}"));
        let hook = hooks.iter().find(of_round).with_context(|| format!("round {round} was not told of"))?;
        let file = storage(&server).join(name(hook));
        probe::decodes(&file).with_context(|| format!("round {round}"))?;
        let kept = probe::probe(&file)?.iter().map(|stream| stream.start + stream.length).fold(0.0, f64::max);
        let lost = sent.saturating_sub(Duration::from_secs_f64(kept));
        worst = worst.max(lost);
        ensure!(lost <= Duration::from_secs(1), "round {round}: {lost:?} of {sent:?} are lost");
    }
    println!("{kills} kills: at most {worst:?} lost");
    assert_eq!(hooks.len(), kills, "each is told of once");
    assert!(files(&storage(&server).join(".recording")).is_empty(), "nothing is left growing");
    server.receiver.check_promises()
}

#[tokio::test]
async fn a_session_that_goes_on_makes_the_next_part() -> Result<()> {
    let flags = ["--recording=On", "--reconnect-window-seconds=30", "--recording-name={streamID}-{session}-{part}"];
    let mut server = Standalone::with("record-resume", &flags).await?;
    let mut first = server.ffmpeg("show").await?;
    server.receiver.wait_for(1, SOON).await?;
    grown(&storage(&server), 60_000).await?;
    first.process.kill()?;
    ready(&server, 1).await?;

    let second = server.ffmpeg("show").await?;
    grown(&storage(&server), 60_000).await?;
    server.service.process.kill()?;
    drop(second);
    server.service = server.launch.start().await?;
    ready(&server, 2).await?;
    let third = server.ffmpeg("show").await?;
    grown(&storage(&server), 60_000).await?;
    third.stop().await?;

    ready(&server, 3).await?;
    assert_eq!(files(&storage(&server)), ["show-1-1.mp4", "show-1-2.mp4", "show-1-3.mp4"]);
    for file in files(&storage(&server)) {
        probe::decodes(&storage(&server).join(file))?;
    }
    server.receiver.check_promises()
}

#[tokio::test]
async fn a_playlist_and_its_segments_survive_a_kill_as_well() -> Result<()> {
    let flags = ["--recording=On", "--recording-format=HLS", "--recording-name={streamID}"];
    let mut server = Standalone::with("record-hls", &flags).await?;
    let mut publisher = encode(&server, "whole", &[VIDEO, TONE, "-t 7", H264, AAC])?;
    publisher.process.wait(SOON).await?;
    ready(&server, 1).await?;
    let clip = clip(server.folder.path())?;
    let mut cut = come_back(&server.rtmp("cut")).await?;
    let sent = cut.send_clip(&clip, Instant::now() + Duration::from_millis(5_300)).await?;
    server.service.process.kill()?;
    server.service = server.launch.start().await?;

    ready(&server, 2).await?;
    assert_eq!(files(&storage(&server)), ["cut", "cut.m3u8", "whole", "whole.m3u8"]);
    let (whole, cut) = (storage(&server).join("whole.m3u8"), storage(&server).join("cut.m3u8"));
    assert!(fs::read_to_string(&whole)?.ends_with("#EXT-X-ENDLIST\n"));
    probe::decodes(&whole)?;
    probe::decodes(&cut)?;
    assert_eq!(probe::frames(&whole)?, 175);
    let kept = probe::probe(&cut)?.iter().map(|stream| stream.length).fold(0.0, f64::max);
    assert!(kept + 1.0 >= sent.as_secs_f64(), "{kept} s of {sent:?}");
    server.receiver.check_promises()
}

/// A clip whose encoder has nothing to send for three seconds, after as many.
fn with_silence(clip: &[Message]) -> Vec<Message> {
    let later = |message: &Message| {
        let silence = if message.timestamp_ms >= 3_000 { 3_000 } else { 0 };
        Message { timestamp_ms: message.timestamp_ms + silence, ..message.clone() }
    };
    clip.iter().map(later).collect()
}

#[tokio::test]
async fn a_silence_is_a_discontinuity_of_the_playlist_also_when_a_kill_follows() -> Result<()> {
    let flags = ["--recording=On", "--recording-format=HLS", "--recording-name={streamID}"];
    let mut server = Standalone::with("record-silence", &flags).await?;
    let clip = with_silence(&clip(server.folder.path())?);
    let (mut whole, mut cut) = (server.publish("whole").await?, server.publish("cut").await?);
    // a second after the silence: its segment is in no playlist yet
    let until = Instant::now() + Duration::from_secs(7);
    tokio::try_join!(whole.send_clip(&clip, until), cut.send_clip(&clip, until))?;
    whole.finish().await?;
    ready(&server, 1).await?;
    server.service.process.kill()?;
    server.service = server.launch.start().await?;
    ready(&server, 2).await?;

    for name in ["whole", "cut"] {
        let playlist = storage(&server).join(format!("{name}.m3u8"));
        let text = fs::read_to_string(&playlist)?;
        let tags: Vec<_> = text.lines().filter(|line| line.starts_with("#EXTINF") || line.contains("DISC")).collect();
        let breaks: Vec<_> = (0..tags.len()).filter(|at| tags[*at] == "#EXT-X-DISCONTINUITY").collect();
        assert_eq!(breaks, [2], "two segments, then the silence: {text}");
        probe::decodes(&playlist)?;
        let seconds: f64 =
            tags.iter().filter_map(|tag| tag.strip_prefix("#EXTINF:")?.trim_end_matches(',').parse::<f64>().ok()).sum();
        assert!((2.9..4.2).contains(&seconds), "the silence is in no segment: {text}");
    }
    server.receiver.check_promises()
}

pub(crate) fn is_ready(recording: &Recording) -> bool {
    recording.state() == RecordingState::Ready
}

/// Waits until so many Recordings of a cluster are as they should be.
pub(crate) async fn until_recorded(
    cluster: &Cluster,
    count: usize,
    is: impl Fn(&Recording) -> bool,
) -> Result<Vec<Recording>> {
    let api: Api<Recording> = Api::namespaced(cluster.tenant.admin.clone(), &cluster.tenant.namespace);
    wait::until(format!("{count} Recordings"), LEASE_EXPIRED, async || {
        let all = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let found: Vec<_> = all.iter().filter(|recording| is(recording)).cloned().collect();
        if found.len() == count { Ok(found) } else { Err(format!("{all:?}; {}", cluster.node.process.log())) }
    })
    .await
}

#[tokio::test]
async fn in_a_cluster_a_recording_costs_few_writes_and_outlives_a_kill_of_its_node() -> Result<()> {
    let cluster = Cluster::new("record-cluster", json!({"recording": {"mode": "On"}})).await?;
    cluster.broadcast("show").await?;
    cluster.broadcast("cut").await?;
    let publisher = cluster.ffmpeg("show").await?;
    grown(&cluster.folder.path().join("media-live-1/recordings"), 60_000).await?;
    publisher.stop().await?;
    until_recorded(&cluster, 1, is_ready).await?;
    cluster.receiver.wait_for(3, SOON).await?;
    let calls = cluster.tenant.plane.calls(&cluster.tenant.namespace)?;
    let writes = calls.iter().filter(|call| call.writes() && call.resource.starts_with("recordings")).count();
    assert!(writes <= 3, "{writes} writes: {calls:#?}");

    let launch = node(&cluster.tenant, &cluster.folder, "media-live-2").await?;
    let mut second = launch.start().await?;
    let storage = |recording: &Recording| cluster.folder.path().join(&recording.spec.node).join("recordings");
    let url = second.rtmp("LiveApp", "cut")?;
    let lost = Publisher::ffmpeg(cluster.folder.path(), "publisher-cut", &url).await?;
    cluster.receiver.wait_for(4, SOON).await?;
    grown(&cluster.folder.path().join("media-live-2/recordings"), 60_000).await?;
    second.process.kill()?;
    drop(lost);
    let _second = launch.start().await?;

    let recordings = until_recorded(&cluster, 2, is_ready).await?;
    cluster.receiver.wait_for(6, SOON).await?;
    for recording in &recordings {
        let file = storage(recording).join(&recording.spec.file_name);
        probe::decodes(&file)?;
        let status = recording.status_or_default();
        assert_eq!(status.location, Some(format!("file://{}", file.display())));
        assert_eq!(status.bytes, Some(i64::try_from(file.metadata()?.len())?));
        assert!(status.checksum.is_some() && status.tracks.len() == 2, "{status:?}");
    }
    let calls = cluster.tenant.plane.calls(&cluster.tenant.namespace)?;
    let refused: Vec<_> = calls.into_iter().filter(|call| call.status == 403).collect();
    assert!(refused.is_empty(), "the chart's roles miss rights: {refused:#?}");
    cluster.receiver.check_promises()
}

#[tokio::test]
async fn while_the_api_server_is_away_files_are_finished_and_told_of_when_it_is_back() -> Result<()> {
    let mut cluster = Cluster::alone("record-outage", json!({"recording": {"mode": "On"}})).await?;
    cluster.broadcast("show").await?;
    let publisher = cluster.ffmpeg("show").await?;
    cluster.receiver.wait_for(1, SOON).await?;
    let storage = cluster.folder.path().join("media-live-1/recordings");
    grown(&storage, 60_000).await?;

    cluster.tenant.plane.kill_api()?;
    publisher.stop().await?;
    let ended = Timestamp::now();
    wait::until("the file to be whole", SOON, async || match files(&storage) {
        whole if whole.len() == 1 => Ok(()),
        none => Err(format!("{none:?}")),
    })
    .await?;
    cluster.tenant.plane.start_api().await?;
    if cluster.operator.process.must_run().is_err() {
        cluster.restart_operator().await?;
    }

    let recordings = until_recorded(&cluster, 1, is_ready).await?;
    let told = recordings[0].status_or_default().end_time.context("it has an end")?;
    assert!(
        told.duration_since(ended).as_secs_f64().abs() < 5.0,
        "its own time, and not that of the API server's return"
    );
    cluster.receiver.wait_for(3, LEASE_EXPIRED).await?;
    cluster.receiver.check_promises()
}
