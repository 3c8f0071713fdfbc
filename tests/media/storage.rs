//! Recordings of a server whose storage is a bucket: where they are, when the hook says so, and how a player gets them.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use reqwest::{Client, StatusCode, redirect};
use serde_json::{Value, json};
use tallylight_crds::{BroadcastState, Recording, RecordingState};
use tests::{
    http, identity,
    media::{self, Publisher},
    probe,
    receiver::{Receiver, Request},
    s3::{Ask, KEY_ID, S3, SECRET},
    wait,
};

use crate::{
    cluster::{Cluster, LEASE_EXPIRED, is, node},
    recording::{is_ready, until_recorded},
    standalone::{SOON, Standalone},
};

/// Some 10 Mbit/s: a part is full after a few seconds.
const NOISE: [&str; 4] = [
    "-f lavfi -i testsrc2=size=320x180:rate=25",
    "-vf noise=alls=100:allf=t",
    "-pix_fmt yuv420p -c:v libx264 -preset ultrafast -crf 4 -g 25",
    "-an",
];
const PART: u64 = 5 << 20;

const CLIP: [&str; 4] = [
    "-f lavfi -i testsrc2=size=320x180:rate=25",
    "-t 4",
    "-pix_fmt yuv420p -c:v libx264 -preset ultrafast -g 25",
    "-an",
];

#[tokio::test]
async fn a_recording_is_told_of_when_its_bucket_has_it_and_players_are_sent_there() -> Result<()> {
    let s3 = S3::start(&[]).await?;
    let keys = tempfile::tempdir()?;
    fs::write(keys.path().join("access-key-id"), KEY_ID)?;
    fs::write(keys.path().join("secret-access-key"), SECRET)?;
    let url = format!("--storage-url=s3://vods/live?endpoint={}&credentials-dir={}", s3.url(), keys.path().display());
    let server = Standalone::with("record-s3", &["--recording=On", "--recording-name=show", &url]).await?;
    let mut publisher = Publisher::encoding(server.folder.path(), "publisher", &server.rtmp("show"), &CLIP)?;
    publisher.process.wait(SOON).await?;
    let page = format!("http://{}/LiveApp/streams/show.mp4", server.service.address("http")?);
    let client = Client::builder().redirect(redirect::Policy::none()).build()?;
    wait::until("the upload to wait for its bucket", SOON, async || {
        if server.service.process.log().contains("BucketMissing") { Ok(()) } else { Err(server.service.process.log()) }
    })
    .await?;
    assert_eq!(client.get(&page).send().await?.status(), StatusCode::NOT_FOUND, "it cannot be fetched yet");
    assert!(!server.receiver.accepted().iter().any(|request| request.action() == "vodReady"), "so nobody is told");

    s3.make_bucket("vods")?;
    wait::until("vodReady", SOON * 2, async || {
        let seen = server.receiver.accepted();
        let is_told = seen.iter().any(|request| request.action() == "vodReady");
        if is_told { Ok(()) } else { Err(format!("{:?}", seen.iter().map(Request::action).collect::<Vec<_>>())) }
    })
    .await?;

    probe::decodes(&s3.file("vods", "live/show.mp4"))?;
    let sent = client.get(&page).send().await?;
    assert_eq!(sent.status(), StatusCode::FOUND);
    let there = client.get(sent.headers()["location"].to_str()?).send().await?;
    assert_eq!(there.status(), StatusCode::OK);
    let spool = server.folder.path().join("data/uploads/default/show.mp4");
    wait::until("the node to let go of its copy", SOON, async || if spool.exists() { Err("there") } else { Ok(()) })
        .await?;

    let vods = http::get(server.service.address("http")?, "/LiveApp/rest/v2/vods/list/0/50").await?.json()?;
    let id = vods[0]["vodId"].as_str().unwrap_or_default().to_owned();
    client.delete(format!("http://{}/LiveApp/rest/v2/vods/{id}", server.service.address("http")?)).send().await?;
    wait::until("the object to be deleted", SOON, async || {
        if s3.file("vods", "live/show.mp4").exists() { Err(server.service.process.log()) } else { Ok(()) }
    })
    .await?;
    server.receiver.check_promises()
}

/// Writes the keys of a bucket, and returns the URL of a storage there.
pub(crate) fn storage(folder: &Path, s3: &S3) -> Result<String> {
    let keys = folder.join("keys");
    fs::create_dir_all(&keys)?;
    fs::write(keys.join("access-key-id"), KEY_ID)?;
    fs::write(keys.join("secret-access-key"), SECRET)?;
    Ok(format!("s3://vods/live?endpoint={}&credentials-dir={}", s3.url(), keys.display()))
}

/// Waits until a node has noted so many parts of a file that grows. Returns how many bytes they have.
async fn sent(spool: &Path, parts: usize) -> Result<u64> {
    wait::until(format!("{parts} parts to be sent"), SOON, async || {
        let growing = fs::read_dir(spool.join(".recording")).into_iter().flatten().flatten();
        let notes = growing.filter_map(|entry| fs::read(entry.path().join("upload.mp4.upload.json")).ok());
        let notes: Vec<Value> = notes.filter_map(|text| serde_json::from_slice(&text).ok()).collect();
        let sizes = |note: &Value| {
            let parts = note["parts"].as_array().into_iter().flatten();
            parts.filter_map(|part| part["bytes"].as_u64()).collect::<Vec<_>>()
        };
        let found = notes.iter().map(sizes).find(|sizes| sizes.len() >= parts);
        found.map(|sizes| sizes.iter().sum()).ok_or_else(|| format!("{notes:?}"))
    })
    .await
}

pub(crate) async fn told(receiver: &Receiver, action: &str) -> Result<Vec<Request>> {
    wait::until(action, SOON, async || {
        let seen = receiver.accepted();
        let told: Vec<_> = seen.iter().filter(|request| request.action() == action).cloned().collect();
        if told.is_empty() {
            Err(format!("{:?}", seen.iter().map(Request::action).collect::<Vec<_>>()))
        } else {
            Ok(told)
        }
    })
    .await
}

#[tokio::test]
async fn a_recording_is_uploaded_while_it_grows_and_a_killed_server_goes_on_with_it() -> Result<()> {
    let s3 = S3::start(&["vods"]).await?;
    let folder = tempfile::tempdir()?;
    let url = format!("--storage-url={}", storage(folder.path(), &s3)?);
    let mut server = Standalone::with("record-s3-live", &["--recording=On", "--recording-name=show", &url]).await?;
    let mut publisher = Publisher::encoding(server.folder.path(), "publisher", &server.rtmp("show"), &NOISE)?;
    let spool = server.folder.path().join("data/uploads/default");

    sent(&spool, 1).await?;
    publisher.process.must_run()?;
    assert_eq!(server.receiver.accepted().len(), 1, "it is on air");
    assert_eq!(s3.uploads(), ["vods/live/show.mp4"]);
    let sent = sent(&spool, 2).await?;
    server.service.process.kill()?;
    drop(publisher);
    let before = s3.asks().len();
    server.service = server.launch.start().await?;
    told(&server.receiver, "vodReady").await?;

    let object = s3.file("vods", "live/show.mp4");
    probe::decodes(&object)?;
    assert!(object.metadata()?.len() >= sent);
    let asks = s3.asks();
    assert_eq!(asks.iter().filter(|ask| ask.is_begin()).count(), 1, "it is one upload");
    let again: Vec<_> = asks[before..].iter().filter(|ask| ask.is_part()).map(|ask| &ask.target).collect();
    assert!(!again.iter().any(|target| target.contains("partNumber=2&")), "{again:?}");
    wait::until("nothing to be left", SOON, async || {
        let left: Vec<_> = fs::read_dir(&spool).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        let growing = fs::read_dir(spool.join(".recording")).into_iter().flatten().count();
        if growing == 0 && left.len() == 1 && s3.uploads().is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await?;

    let mut next = Publisher::encoding(server.folder.path(), "next", &server.rtmp("show"), &CLIP)?;
    next.process.wait(SOON).await?;
    wait::until("the next recording", SOON, async || {
        let ready = server.receiver.accepted().iter().filter(|request| request.action() == "vodReady").count();
        if ready == 2 { Ok(()) } else { Err(server.service.process.log()) }
    })
    .await?;
    probe::decodes(&s3.file("vods", "live/show-2.mp4"))?;
    server.receiver.check_promises()
}

/// A cluster with one node, `media-live-2`, that records to a bucket. Returns the node's storages too.
pub(crate) async fn archive(name: &str, s3: &S3, format: &str) -> Result<(Cluster, String)> {
    let pool = json!({
        "recording": {"mode": "On", "format": format, "storageRef": {"name": "archive"}},
        "storages": [{"name": "archive", "s3": {"bucket": "vods", "prefix": "live"}}],
    });
    let mut cluster = Cluster::new(name, pool).await?;
    let storages = format!("--storages=archive={}", storage(cluster.folder.path(), s3)?);
    cluster.node.process.kill()?;
    identity::delete_pod(&cluster.tenant.admin, &cluster.tenant.namespace, "media-live-1").await?;
    let launch = node(&cluster.tenant, &cluster.folder, "media-live-2").await?.args([storages.as_str()]);
    cluster.node = launch.start().await?;
    Ok((cluster, storages))
}

#[tokio::test]
async fn another_node_finishes_what_a_lost_one_has_uploaded() -> Result<()> {
    let s3 = S3::start(&["vods"]).await?;
    let (cluster, storages) = archive("record-salvage", &s3, "MP4").await?;
    let launch = node(&cluster.tenant, &cluster.folder, "media-live-3").await?.args([storages.as_str()]);
    let mut lost = launch.start().await?;
    cluster.broadcast("show").await?;
    let url = lost.rtmp("LiveApp", "show")?;
    let publisher = Publisher::encoding(cluster.folder.path(), "publisher", &url, &NOISE)?;
    let disk = cluster.folder.path().join("media-live-3");
    let sent = sent(&disk.join("uploads/archive"), 2).await?;

    lost.process.kill()?;
    drop(publisher);
    fs::remove_dir_all(&disk)?;
    identity::delete_pod(&cluster.tenant.admin, &cluster.tenant.namespace, "media-live-3").await?;

    let recording = until_recorded(&cluster, 1, is_ready).await?.remove(0);
    let object = s3.file("vods", &format!("live/{}", recording.spec.file_name));
    let status = recording.status_or_default();
    assert_eq!(recording.spec.node, "media-live-2");
    assert!(status.location.is_some_and(|location| location.starts_with("s3://vods/live/")));
    assert_eq!(status.bytes, i64::try_from(object.metadata()?.len()).ok());
    assert_eq!(status.tracks.len(), 1, "{:?}", status.tracks);
    assert!(object.metadata()?.len() >= sent && sent >= 2 * PART, "at most the open part is lost");
    probe::decodes(&object)?;
    assert!(probe::frames(&object)? > 0 && status.duration_milliseconds > Some(0));
    cluster.receiver.wait_for(3, SOON).await?;
    cluster.tenant.settled("show", 3, SOON).await?;
    assert_eq!(told(&cluster.receiver, "vodReady").await?.len(), 1);
    assert!(s3.uploads().is_empty(), "{:?}", s3.uploads());
    cluster.receiver.check_promises()
}

#[tokio::test]
async fn a_bucket_in_trouble_is_told_of_while_the_stream_is_live_and_a_deletion_aborts_the_upload() -> Result<()> {
    let mut s3 = S3::start(&["vods"]).await?;
    let (cluster, _) = archive("record-s3-trouble", &s3, "MP4").await?;
    cluster.broadcast("show").await?;
    let url = cluster.node.rtmp("LiveApp", "show")?;
    let publisher = Publisher::encoding(cluster.folder.path(), "publisher", &url, &NOISE)?;
    let api: Api<Recording> = Api::namespaced(cluster.tenant.admin.clone(), &cluster.tenant.namespace);
    let spool = cluster.folder.path().join("media-live-2/uploads/archive");
    let says = |reason: &'static str| {
        move |recording: &Recording| {
            let status = recording.status_or_default();
            let said = status.conditions.iter().any(|condition| condition.reason == reason);
            said && status.state == RecordingState::Recording
        }
    };
    sent(&spool, 1).await?;

    s3.stop().await;
    until_recorded(&cluster, 1, says("StorageUnavailable")).await?;
    cluster.tenant.until("show", "to be live", SOON, is(BroadcastState::Live)).await?;
    media::play_with_ffmpeg(cluster.folder.path(), "player", &url).await?;
    s3.start_again().await?;
    let first = until_recorded(&cluster, 1, says("Recording")).await?.remove(0);
    sent(&spool, 2).await?;

    let key = format!("vods/live/{}", first.spec.file_name);
    assert_eq!(s3.uploads(), [key.as_str()]);
    let name = first.metadata.name.context("it has a name")?;
    api.delete(&name, &DeleteParams::default()).await?;
    wait::until("the Recording and its upload to go", SOON, async || {
        let left = api.get_opt(&name).await.map_err(|error| error.to_string())?;
        if left.is_none() && !s3.uploads().contains(&key) { Ok(()) } else { Err(cluster.node.process.log()) }
    })
    .await?;
    let is_of_first = |ask: &Ask| ask.is_complete() && ask.target.contains(&first.spec.file_name);
    assert!(!s3.asks().iter().any(is_of_first), "it never became an object");
    sent(&spool, 1).await?;
    publisher.stop().await?;

    wait::until("the next part", LEASE_EXPIRED, async || {
        let all = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let Some(next) = all.iter().find(|recording| is_ready(recording)) else { return Err(format!("{all:?}")) };
        let decoded = probe::decodes(&s3.file("vods", &format!("live/{}", next.spec.file_name)));
        decoded.map_err(|error| format!("{error:#}"))
    })
    .await
}
