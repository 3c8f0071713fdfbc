//! Recordings on real kubelets: played while they grow, fetched when they are done, finished whatever becomes of their node. The
//! storages are a claim that pods of both machines mount, and a bucket.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use reqwest::{Client, StatusCode, redirect};
use serde_json::json;
use tallylight_crds::{Recording, RecordingState};
use tests::{media, probe, receiver::Request, rtmp, wait};

use crate::release::{BUCKET, NAMESPACE, Release, SHARED, SOON, expect, http_address, report, url};

/// How much of the clip is sent before something dies.
const SENT: Duration = Duration::from_secs(4);
/// How long players watch what is live.
const PLAYED: Duration = Duration::from_secs(2);
/// What a crash may cost: the part that was open.
const OPEN_PART: Duration = Duration::from_secs(1);

/// A Broadcast that is recorded.
pub(crate) struct Show<'a> {
    release: &'a Release,
    name: String,
    /// Recordings that it has been told of.
    told: usize,
}

/// One that is ready, and its hook.
pub(crate) struct Vod {
    pub(crate) recording: Recording,
    hook: Request,
}

impl<'a> Show<'a> {
    /// Makes it, recorded to this storage.
    pub(crate) async fn new(release: &'a Release, name: &str, storage: &str) -> Result<Self> {
        let recording = json!({"mode": "On", "storageRef": {"name": storage}});
        release.broadcasts_with(&[name.to_owned()], &json!({"recording": recording})).await?;
        Ok(Self { release, name: name.to_owned(), told: 0 })
    }

    /// Publishes to `url` for a while; who that is stays connected, in silence. Returns how much was sent.
    pub(crate) async fn send(&self, url: &str) -> Result<(rtmp::Client, Duration)> {
        let clip = ::rtmp::flv::messages(fs::read(media::clip().await?)?.into());
        let mut client = rtmp::publish(url).await?.started()?;
        let sent = client.send_clip(&clip, Instant::now() + SENT).await?;
        Ok((client, sent))
    }

    /// Waits for the next hook of a recording, and reads the Recording that it tells of.
    pub(crate) async fn vod(&mut self) -> Result<Vod> {
        let hook = self.hook("vodReady", self.told).await?;
        self.told += 1;
        let recordings = Api::<Recording>::namespaced(self.release.admin.clone(), NAMESPACE);
        let recording = recordings.get(&hook.field("vodId").context("no vodId")?).await?;
        ensure!(recording.state() == RecordingState::Ready, "{hook:?} came before {recording:?}");
        Ok(Vod { recording, hook })
    }

    /// Waits for the end of its only session, which may be told of before a recording of it or after.
    pub(crate) async fn lost(&self) -> Result<()> {
        expect(&self.hook("liveStreamEnded", 0).await?, "liveStreamEnded", Some("NodeLost"))
    }

    /// Waits for the hook of this action that comes after so many others.
    async fn hook(&self, action: &str, others: usize) -> Result<Request> {
        wait::until(format!("{action} of {}", self.name), SOON * 2, async || {
            let accepted = self.release.receiver.accepted();
            let of_it =
                |hook: &&Request| hook.action() == action && hook.field("id").as_deref() == Some(self.name.as_str());
            accepted.iter().filter(of_it).nth(others).cloned().ok_or_else(|| format!("{accepted:#?}"))
        })
        .await
    }
}

impl Vod {
    fn file(&self) -> &str {
        &self.recording.spec.file_name
    }

    fn duration(&self) -> Duration {
        let milliseconds = self.recording.status_or_default().duration_milliseconds;
        Duration::from_millis(milliseconds.unwrap_or_default().try_into().unwrap_or_default())
    }

    /// Fetches it there, as a player does that follows redirects. It must be there at once: its hook has come.
    pub(crate) async fn fetch(&self, release: &Release, address: &str) -> Result<PathBuf> {
        let url = format!("http://{address}/LiveApp/streams/{}", self.file());
        let client = Client::builder().timeout(SOON).no_proxy().build()?;
        let mut answer = client.get(&url).send().await?;
        ensure!(answer.status() == StatusCode::OK, "{url}: {}", answer.status());
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        let file = release.folder().join(self.file());
        fs::write(&file, bytes)?;
        Ok(file)
    }

    /// Asserts that what is fetched there is what hook and Recording say, that it can be played, and that it has all that was sent
    /// but for what a crash may cost.
    pub(crate) async fn has(&self, release: &Release, address: &str, sent: Duration) -> Result<()> {
        let (status, duration) = (self.recording.status_or_default(), self.duration());
        let file = self.fetch(release, address).await?;
        ensure!(status.bytes == i64::try_from(file.metadata()?.len()).ok(), "{status:?}");
        probe::decodes(&file)?;
        let kept = probe::probe(&file)?.iter().map(|stream| stream.length).fold(0.0, f64::max);
        ensure!((kept - duration.as_secs_f64()).abs() < 0.1, "{kept} s are in the file of {duration:?}");
        ensure!(duration + OPEN_PART >= sent, "{duration:?} of {sent:?} were kept");
        for (field, value) in [("vodName", self.file().to_owned()), ("duration", duration.as_millis().to_string())] {
            ensure!(self.hook.field(field).as_deref() == Some(&value), "{field} is not {value}: {}", self.hook.body);
        }
        Ok(())
    }
}

/// A stream that is recorded plays as LL-HLS from any pod; when it is over, its file is there, at any pod too.
pub(crate) async fn is_played_and_fetched(release: &Release) -> Result<()> {
    let hooks = release.receiver.accepted().len();
    let mut show = Show::new(release, "film", SHARED).await?;
    let begin = Instant::now();
    let publisher = release.publish("film", &release.service_url("film").await?).await?;
    let (start, _) = release.hook(hooks + 1, begin, SOON).await?;
    expect(&start, "liveStreamStarted", None)?;
    let owner = release.owner("film").await?.name_any();
    let pods = release.media_nodes(2).await?;
    let other = pods.values().find(|pod| pod.name_any() != owner).context("no other pod")?;
    let playlist = |address: String| format!("http://{address}/LiveApp/streams/film.m3u8");
    let (service, relayed) = (playlist(release.http_address().await?), playlist(http_address(other)?));
    let (service, relayed) = tokio::try_join!(
        media::play_hls_with_ffmpeg(release.folder(), "hls", &service),
        media::play_hls_with_ffmpeg(release.folder(), "hls-relayed", &relayed),
    )?;
    ensure!(service >= 40 && relayed >= 40, "{service} and {relayed} frames of two seconds");

    publisher.stop().await?;
    let stopped = Instant::now();
    let vod = show.vod().await?;
    report("publisher stopped to vodReady received", &[stopped.elapsed()]);
    vod.has(release, &release.http_address().await?, PLAYED).await?;
    for pod in pods.values() {
        vod.fetch(release, &http_address(pod)?).await?;
    }
    is_shown(release, &vod).await
}

/// `kubectl get rec` prints what docs/recording.md shows.
async fn is_shown(release: &Release, vod: &Vod) -> Result<()> {
    let table = release.kubectl(&["get", "rec"]).await?;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let [head, row] = &rows[..] else { anyhow::bail!("one recording: {table}") };
    ensure!(head[..] == ["NAME", "STREAM", "STATE", "MILLISECONDS", "BYTES", "FILE", "AGE"], "{table}");
    let (status, name) = (vod.recording.status_or_default(), vod.recording.name_any());
    let (duration, bytes) = (vod.duration().as_millis().to_string(), status.bytes.unwrap_or_default().to_string());
    ensure!(row[..6] == [&*name, "film", "Ready", &*duration, &*bytes, vod.file()], "{table}");
    Ok(())
}

/// Players of a file in a bucket are sent there, by a URL that is good without a key.
pub(crate) async fn is_redirected(release: &Release, vod: &Vod) -> Result<()> {
    let url = format!("http://{}/LiveApp/streams/{}", release.http_address().await?, vod.file());
    let answer = Client::builder().redirect(redirect::Policy::none()).no_proxy().build()?.get(&url).send().await?;
    let place = answer.headers().get("location").and_then(|place| place.to_str().ok()).unwrap_or_default();
    ensure!(answer.status() == StatusCode::FOUND && place.starts_with(&release.s3.url()), "{answer:?}");
    ensure!(release.s3.file("vods", &format!("live/{}", vod.file())).is_file(), "the bucket does not have it");
    Ok(())
}

/// Asserts that each Recording was told of once, whatever has happened, and that there is no other.
pub(crate) async fn are_told_of_once(release: &Release) -> Result<()> {
    let accepted = release.receiver.accepted();
    let told: Vec<_> =
        accepted.iter().filter(|hook| hook.action() == "vodReady").map(|hook| hook.field("vodId")).collect();
    let recordings = Api::<Recording>::namespaced(release.admin.clone(), NAMESPACE);
    let all = recordings.list(&ListParams::default()).await?.items;
    let all: BTreeSet<_> = all.iter().map(|recording| recording.metadata.name.clone()).collect();
    ensure!(told.len() == all.len() && told.iter().cloned().collect::<BTreeSet<_>>() == all, "{told:?} of {all:?}");
    Ok(())
}

/// Their files go with them, from the claim and from the bucket.
pub(crate) async fn are_deleted(release: &Release) -> Result<()> {
    release.kubectl(&["delete", "rec", "--all", "--timeout=60s"]).await?;
    for folder in [release.shared_folder(), release.s3.root().join("vods/live")] {
        let files: Vec<_> =
            fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
        ensure!(
            files.iter().all(|name| name.as_encoded_bytes().starts_with(b".")),
            "{files:?} are in {}",
            folder.display()
        );
    }
    Ok(())
}

#[tokio::test]
async fn recordings_outlive_containers_and_pods() -> Result<()> {
    let release = Release::install().await?;
    let mut film = Show::new(&release, "film", SHARED).await?;
    let mut clip = Show::new(&release, "clip", BUCKET).await?;
    let owner = outlives_its_container(&release, &mut clip, &release.service_url("clip").await?).await?;
    // A pod that is killed again is started again after a while. What is on its disk alone waits for that.
    outlives_its_container(&release, &mut clip, &url(&owner, "clip")?).await?;
    outlives_its_container(&release, &mut film, &release.service_url("film").await?).await?;
    outlives_its_pod(&release, &mut film).await?;
    are_told_of_once(&release).await?;
    release.receiver.check_promises()
}

async fn outlives_its_container(release: &Release, show: &mut Show<'_>, url: &str) -> Result<Pod> {
    let (silent, sent) = show.send(url).await?;
    let owner = release.owner(&show.name).await?;
    release.kill_container(&owner).await?;
    drop(silent);
    let vod = show.vod().await?;
    let pods = release.media_nodes(2).await?;
    for pod in pods.values() {
        vod.has(release, &http_address(pod)?, sent).await?;
    }
    Ok(owner)
}

/// Another pod finishes it, beside a container that may still run.
async fn outlives_its_pod(release: &Release, show: &mut Show<'_>) -> Result<()> {
    let (silent, sent) = show.send(&release.service_url(&show.name).await?).await?;
    let owner = release.owner(&show.name).await?.name_any();
    release.delete_by_force(&owner).await?;
    let vod = show.vod().await?;
    ensure!(vod.recording.spec.node != owner, "it was finished by a pod that is gone");
    drop(silent);
    let pods = release.media_nodes(2).await?;
    for pod in pods.values() {
        vod.has(release, &http_address(pod)?, sent).await?;
    }
    Ok(())
}
