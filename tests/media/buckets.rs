//! Recordings as playlists in a bucket: what is there while they grow, what players get, and what a bucket that is away, a kill and
//! the loss of a node cost.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result};
use kube::{Api, api::DeleteParams};
use reqwest::{Client, Method, StatusCode, redirect};
use rustix::process::Signal;
use tallylight_crds::{Recording, RecordingState};
use tests::{
    http, identity,
    media::Publisher,
    probe,
    s3::{Ask, Fault, S3},
    service::Service,
    wait,
};
use tokio::task::spawn_blocking;

use crate::{
    cluster::{Cluster, LEASE_EXPIRED, node},
    recording::{AAC, H264, TONE, VIDEO, encode, files, is_ready, listed, until_recorded, vod_id},
    standalone::{SOON, Standalone},
    storage::{archive, storage, told},
};

/// A recording that is named as its stream is hidden by it for as long as that is live.
const HLS: [&str; 3] = ["--recording=On", "--recording-format=HLS", "--recording-name=vod"];

/// Text of a playlist in the bucket, as its object is now; empty before there is one.
fn playlist(s3: &S3, name: &str) -> String {
    fs::read_to_string(s3.file("vods", &format!("live/{name}.m3u8"))).unwrap_or_default()
}

fn count(text: &str) -> usize {
    text.lines().filter(|line| line.ends_with(".m4s")).count()
}

/// What the bucket has beside a playlist.
fn beside(s3: &S3, name: &str) -> Vec<String> {
    files(&s3.file("vods", &format!("live/{name}")))
}

/// Segments of a file that grows that are on the node's disk.
fn here(spool: &Path, name: &str) -> usize {
    files(&spool.join(".recording").join(format!("{name}.m3u8")).join(name)).len()
}

/// Waits until the bucket's playlist lists so many segments. Returns its text.
async fn until_listed(s3: &S3, name: &str, segments: usize) -> Result<String> {
    wait::until(format!("{segments} segments to be listed"), SOON, async || {
        let text = playlist(s3, name);
        if count(&text) >= segments { Ok(text) } else { Err(text) }
    })
    .await
}

/// Sum of all objects of a recording.
fn bytes(s3: &S3, name: &str) -> Result<u64> {
    let mut bytes = playlist(s3, name).len() as u64;
    for file in beside(s3, name) {
        bytes += s3.file("vods", &format!("live/{name}/{file}")).metadata()?.len();
    }
    Ok(bytes)
}

/// Waits until nothing of a recording is in the bucket.
async fn until_gone(s3: &S3, name: &str, server: &Service) -> Result<()> {
    wait::until("all objects to go", SOON, async || {
        let left = beside(s3, name);
        if left.is_empty() && playlist(s3, name).is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}; {}", server.process.log()))
        }
    })
    .await
}

/// Waits until nothing is on the node's disk.
async fn until_empty(spool: &Path) -> Result<()> {
    wait::until("nothing to be left on the disk", SOON, async || {
        let left = (files(spool), files(&spool.join(".recording")));
        if left.0.is_empty() && left.1.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await
}

async fn server(name: &str, s3: &S3, keys: &Path) -> Result<Standalone> {
    let url = format!("--storage-url={}", storage(keys, s3)?);
    Standalone::with(name, &[&HLS[..], &[&url]].concat()).await
}

fn spool(server: &Standalone) -> PathBuf {
    server.folder.path().join("data/uploads/default")
}

#[tokio::test]
async fn a_playlist_in_a_bucket_plays_through_the_server_with_all_its_frames_and_is_deleted_as_a_whole() -> Result<()> {
    let (s3, keys) = (S3::start(&["vods"]).await?, tempfile::tempdir()?);
    let server = server("record-hls-s3", &s3, keys.path()).await?;
    let mut publisher = encode(&server, "show", &[VIDEO, TONE, "-t 7", H264, AAC])?;
    publisher.process.wait(SOON).await?;
    assert_eq!(told(&server.receiver, "vodReady").await?[0].field("vodName").as_deref(), Some("vod.m3u8"));

    let page = format!("http://{}/LiveApp/streams/vod.m3u8", server.service.address("http")?);
    let played = PathBuf::from(&page);
    let frames = spawn_blocking(move || {
        probe::decodes(&played)?;
        Ok::<_, anyhow::Error>((probe::frames(&played)?, probe::probe(&played)?))
    });
    let (frames, streams) = frames.await??;
    assert_eq!((frames, streams.len()), (175, 2), "{streams:?}");
    let client = Client::builder().redirect(redirect::Policy::none()).build()?;
    let answer = client.get(&page).send().await?;
    assert_eq!(answer.headers()["content-type"], "application/vnd.apple.mpegurl");
    let tag = answer.headers()["etag"].clone();
    let text = answer.text().await?;
    assert!(text.contains("#EXT-X-PLAYLIST-TYPE:VOD") && text.ends_with("#EXT-X-ENDLIST\n"), "{text}");
    assert_eq!(text, playlist(&s3, "vod"));
    let known = client.get(&page).header("if-none-match", tag).send().await?;
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    let segment = client.get(page.replace("vod.m3u8", "vod/segment-1.m4s")).send().await?;
    assert_eq!(segment.status(), StatusCode::FOUND);
    let there = client.get(segment.headers()["location"].to_str()?).send().await?;
    assert_eq!((there.status(), &there.headers()["content-type"]), (StatusCode::OK, &"video/mp4".parse()?));
    assert_eq!(listed(&server).await?[0]["fileSize"].as_u64(), Some(bytes(&s3, "vod")?));
    until_empty(&spool(&server)).await?;

    let id = listed(&server).await?[0]["vodId"].as_str().unwrap_or_default().to_owned();
    let path = format!("/LiveApp/rest/v2/vods/{id}");
    assert_eq!(http::request(Method::DELETE, server.service.address("http")?, &path, None).await?.status, 200);
    until_gone(&s3, "vod", &server.service).await?;
    wait::until("players to be told", SOON, async || match client.get(&page).send().await {
        Ok(gone) if gone.status() == StatusCode::NOT_FOUND => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    server.receiver.check_promises()
}

#[tokio::test]
async fn segments_leave_the_disk_or_wait_there_for_their_bucket_and_a_killed_server_goes_on() -> Result<()> {
    let (mut s3, keys) = (S3::start(&["vods"]).await?, tempfile::tempdir()?);
    let mut server = server("record-hls-s3-live", &s3, keys.path()).await?;
    let publisher = encode(&server, "show", &[VIDEO, TONE, H264, AAC])?;
    let growing = until_listed(&s3, "vod", 2).await?;
    assert!(growing.contains("#EXT-X-PLAYLIST-TYPE:EVENT") && !growing.contains("ENDLIST"), "{growing}");
    // players wait for the end of what grows: as far as it goes
    let so_far = s3.file("vods", "live/so-far.m3u8");
    fs::write(&so_far, growing + "#EXT-X-ENDLIST\n")?;
    probe::decodes(&so_far)?;
    assert_eq!(server.receiver.accepted().len(), 1, "it is on air");
    let few = async |server: &Standalone| {
        wait::until("the segments to leave", SOON, async || match here(&spool(server), "vod") {
            few if few <= 2 => Ok(()),
            many => Err(format!("{many} files; {}", server.service.process.log())),
        })
        .await
    };
    few(&server).await?;

    s3.stop().await;
    wait::until("segments to wait", SOON, async || match here(&spool(&server), "vod") {
        many if many >= 4 => Ok(()),
        few => Err(few.to_string()),
    })
    .await?;
    wait::until("the trouble to be told", SOON, async || {
        let log = server.service.process.log();
        if log.contains("StorageUnavailable") { Ok(()) } else { Err(log) }
    })
    .await?;
    let before = count(&playlist(&s3, "vod"));
    s3.start_again().await?;
    until_listed(&s3, "vod", before + 4).await?;
    few(&server).await?;

    server.service.process.kill()?;
    drop(publisher);
    let (asked, sent) = (s3.asks().len(), count(&playlist(&s3, "vod")));
    server.service = server.launch.start().await?;
    told(&server.receiver, "vodReady").await?;

    let text = playlist(&s3, "vod");
    assert!(text.ends_with("#EXT-X-ENDLIST\n") && count(&text) >= sent, "{text}");
    assert_eq!(beside(&s3, "vod").len(), count(&text) + 1, "each segment, and the init");
    probe::decodes(&s3.file("vods", "live/vod.m3u8"))?;
    let is_old = |ask: &&Ask| {
        ask.method == Method::PUT && (1..sent).any(|number| ask.target.contains(&format!("/segment-{number}.m4s")))
    };
    let asks = s3.asks();
    assert_eq!(asks[asked..].iter().find(is_old).map(|ask| &ask.target), None, "what was sent is not sent again");
    assert_eq!(listed(&server).await?[0]["fileSize"].as_u64(), Some(bytes(&s3, "vod")?));
    until_empty(&spool(&server)).await?;
    server.receiver.check_promises()
}

#[tokio::test]
async fn a_playlist_that_is_deleted_while_it_grows_leaves_nothing_in_its_bucket() -> Result<()> {
    let (s3, keys) = (S3::start(&["vods"]).await?, tempfile::tempdir()?);
    let server = server("record-hls-s3-delete", &s3, keys.path()).await?;
    let publisher = encode(&server, "show", &[VIDEO, TONE, H264, AAC])?;
    until_listed(&s3, "vod", 2).await?;
    let path = format!("/LiveApp/rest/v2/vods/{}", vod_id(&spool(&server), "vod.m3u8")?);

    assert_eq!(http::request(Method::DELETE, server.service.address("http")?, &path, None).await?.status, 200);
    wait::until("the next part", SOON, async || {
        let log = server.service.process.log();
        if log.contains("recording.deleted") && log.matches("recording.started").count() == 2 {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await?;
    publisher.stop().await?;
    let next = told(&server.receiver, "vodReady").await?[0].field("vodName").context("it has a name")?;

    let stem = next.trim_end_matches(".m3u8");
    probe::decodes(&s3.file("vods", &format!("live/{next}")))?;
    assert_eq!(beside(&s3, stem).len(), count(&playlist(&s3, stem)) + 1, "those of the second alone");
    if stem != "vod" {
        until_gone(&s3, "vod", &server.service).await?;
    }
    server.receiver.check_promises()
}

/// A cluster whose node `media-live-2` waits, and `media-live-3`, which records a stream. Returns that one too, and its publisher.
async fn at_third(name: &str, s3: &S3) -> Result<(Cluster, Service, Publisher)> {
    let (cluster, storages) = archive(name, s3, "HLS").await?;
    let third = node(&cluster.tenant, &cluster.folder, "media-live-3").await?.args([storages.as_str()]).start().await?;
    cluster.broadcast("show").await?;
    let url = third.rtmp("LiveApp", "show")?;
    let publisher = Publisher::encoding(cluster.folder.path(), "publisher", &url, &[VIDEO, TONE, H264, AAC])?;
    Ok((cluster, third, publisher))
}

/// The stem of the one recording of a cluster, as soon as it is made.
async fn stem(cluster: &Cluster) -> Result<String> {
    let found = until_recorded(cluster, 1, |_| true).await?.remove(0);
    Ok(found.spec.file_name.trim_end_matches(".m3u8").to_owned())
}

/// Asserts that the one recording is ready, by the second node, and all of it is as its status says.
async fn is_finished(cluster: &Cluster, s3: &S3) -> Result<Recording> {
    let recording = until_recorded(cluster, 1, is_ready).await?.remove(0);
    let (stem, status) = (stem(cluster).await?, recording.status_or_default());
    assert_eq!(recording.spec.node, "media-live-2");
    assert_eq!(status.location, Some(format!("s3://vods/live/{stem}.m3u8")));
    assert_eq!(status.tracks.len(), 2, "{:?}", status.tracks);
    let text = playlist(s3, &stem);
    assert!(text.ends_with("#EXT-X-ENDLIST\n"), "{text}");
    assert!(status.duration_milliseconds >= i64::try_from(count(&text)).ok().map(|count| count * 500), "{status:?}");
    probe::decodes(&s3.file("vods", &format!("live/{stem}.m3u8")))?;
    cluster.receiver.wait_for(3, SOON).await?;
    cluster.tenant.settled("show", 3, SOON).await?;
    assert_eq!(told(&cluster.receiver, "vodReady").await?.len(), 1);
    Ok(recording)
}

#[tokio::test]
async fn another_node_ends_the_playlist_of_a_lost_one_with_all_that_it_has_sent() -> Result<()> {
    let s3 = S3::start(&["vods"]).await?;
    let (cluster, mut lost, publisher) = at_third("record-hls-salvage", &s3).await?;
    let stem = stem(&cluster).await?;
    let text = until_listed(&s3, &stem, 2).await?;
    // from here on segments go there, and no playlist does
    let away = Arc::new(AtomicBool::new(true));
    let is_away = Arc::clone(&away);
    s3.script(move |ask| {
        let lists = ask.method == Method::PUT && ask.target.contains(".m3u8");
        if lists && is_away.load(Ordering::Relaxed) { Fault::Status(503, "SlowDown") } else { Fault::None }
    });
    let listed = count(&playlist(&s3, &stem));
    wait::until("a segment that is not listed", SOON, async || {
        let there = beside(&s3, &stem);
        if there.len() > listed + 1 { Ok(()) } else { Err(format!("{there:?}")) }
    })
    .await?;

    lost.process.kill()?;
    drop(publisher);
    fs::remove_dir_all(cluster.folder.path().join("media-live-3"))?;
    identity::delete_pod(&cluster.tenant.admin, &cluster.tenant.namespace, "media-live-3").await?;
    away.store(false, Ordering::Relaxed);

    let recording = is_finished(&cluster, &s3).await?;
    let ended = playlist(&s3, &stem);
    let first = text.lines().filter(|line| line.ends_with(".m4s")).all(|line| ended.contains(line));
    assert!(first && count(&ended) > listed, "{listed} were listed: {ended}");
    assert_eq!(beside(&s3, &stem).len(), count(&ended) + 1);
    assert_eq!(recording.status_or_default().bytes, i64::try_from(bytes(&s3, &stem)?).ok());
    until_empty(&cluster.folder.path().join("media-live-2/uploads/archive")).await?;

    let api: Api<Recording> = Api::namespaced(cluster.tenant.admin.clone(), &cluster.tenant.namespace);
    api.delete(&recording.metadata.name.context("it has a name")?, &DeleteParams::default()).await?;
    until_gone(&s3, &stem, &cluster.node).await?;
    until_recorded(&cluster, 0, |_| true).await?;
    cluster.receiver.check_promises()
}

#[tokio::test]
async fn a_node_that_comes_back_late_leaves_a_playlist_as_another_has_ended_it() -> Result<()> {
    let s3 = S3::start(&["vods"]).await?;
    let (cluster, mut late, publisher) = at_third("record-hls-late", &s3).await?;
    let stem = stem(&cluster).await?;
    until_listed(&s3, &stem, 2).await?;

    late.process.signal(Signal::STOP)?;
    is_finished(&cluster, &s3).await?;
    let ended = playlist(&s3, &stem);
    late.process.signal(Signal::CONT)?;
    publisher.stop().await?;

    wait::until("the late node to let go", LEASE_EXPIRED, async || {
        let log = late.process.log();
        if log.contains("a recording is another node's by now") { Ok(()) } else { Err(log) }
    })
    .await?;
    until_empty(&cluster.folder.path().join("media-live-3/uploads/archive")).await?;
    assert_eq!(playlist(&s3, &stem), ended);
    let all = until_recorded(&cluster, 1, |_| true).await?;
    assert_eq!((all[0].state(), all[0].spec.node.as_str()), (RecordingState::Ready, "media-live-2"));
    assert_eq!(told(&cluster.receiver, "vodReady").await?.len(), 1);
    cluster.receiver.check_promises()
}
