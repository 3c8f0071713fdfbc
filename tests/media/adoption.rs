//! Recordings of a node that was lost, in a folder that all nodes of a pool share: another node makes them whole, also when the
//! lost one comes back. And recordings that are deleted before they are whole.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;
use tallylight_crds::{Recording, RecordingState};
use tests::{
    http, identity, install, media, probe,
    receiver::{Receiver, Request},
    repository,
    service::{Launch, Service},
    wait,
};

use crate::{
    cluster::{Cluster, LEASE_EXPIRED, node, operator},
    recording::{files, grown, is_ready, until_recorded},
    standalone::SOON,
};

const FIRST: &str = "media-live-1";
const SECOND: &str = "media-live-2";

/// Two nodes that share a storage.
struct Pair {
    // dropped first: its log is in the other's folder
    second: Service,
    cluster: Cluster,
    storage: PathBuf,
}

impl Pair {
    async fn new(name: &str) -> Result<Self> {
        let tenant = install::tenant(name).await?;
        let folder = repository::folder(name)?;
        let storage = folder.path().join("shared");
        fs::create_dir(&storage)?;
        let recording = json!({"mode": "On", "nameTemplate": "{streamID}-{part}"});
        let storages = json!([{"name": "archive", "volume": {"claimName": "shared"}}]);
        tenant.pool(&json!({"recording": recording, "storages": storages})).await?;
        let operator = operator(&tenant, &folder).await?;
        let flag = format!("--storages=archive=file://{}", storage.display());
        let launch = async |name: &str| -> Result<Launch> { Ok(node(&tenant, &folder, name).await?.args([&*flag])) };
        let first = launch(FIRST).await?.start().await?;
        let second = launch(SECOND).await?.start().await?;
        let receiver = Receiver::start().await?;
        Ok(Self { second, cluster: Cluster { node: first, operator, receiver, tenant, folder }, storage })
    }

    async fn recordings(&self) -> Result<Vec<Recording>> {
        let api: Api<Recording> = Api::namespaced(self.cluster.tenant.admin.clone(), &self.cluster.tenant.namespace);
        Ok(api.list(&ListParams::default()).await?.items)
    }

    /// Waits until the second node is responsible for the recording.
    async fn until_adopted(&self) -> Result<()> {
        wait::until("the recording to be adopted", LEASE_EXPIRED, async || {
            let all = self.recordings().await.map_err(|error| format!("{error:#}"))?;
            match all.iter().find(|recording| recording.spec.node == SECOND) {
                Some(_) => Ok(()),
                None => Err(format!("{all:?}")),
            }
        })
        .await
    }

    /// The one recording is whole, and told of once.
    async fn is_whole(&self) -> Result<()> {
        let recordings = until_recorded(&self.cluster, 1, is_ready).await?;
        let told = self.cluster.receiver.wait_for(3, LEASE_EXPIRED).await?;
        let file = self.storage.join(&recordings[0].spec.file_name);
        probe::decodes(&file)?;
        let status = recordings[0].status_or_default();
        assert_eq!(status.location, Some(format!("file://{}", file.display())));
        assert_eq!(status.bytes, Some(i64::try_from(file.metadata()?.len())?));
        let ids: Vec<_> = told.iter().filter_map(|request| request.field("vodId")).collect();
        assert_eq!(ids, [recordings[0].metadata.name.clone().context("a name")?]);
        wait::until("nothing to be left growing", SOON, async || match files(&self.storage.join(".recording")) {
            none if none.is_empty() => Ok(()),
            left => Err(format!("{left:?}; {}", self.second.process.log())),
        })
        .await?;
        assert_eq!(files(&self.storage), [recordings[0].spec.file_name.clone()]);
        let calls = self.cluster.tenant.plane.calls(&self.cluster.tenant.namespace)?;
        let refused: Vec<_> = calls.into_iter().filter(|call| call.status == 403).collect();
        assert!(refused.is_empty(), "the chart's roles miss rights: {refused:#?}");
        self.cluster.receiver.check_promises()
    }
}

#[tokio::test]
async fn another_node_makes_the_recordings_of_a_killed_one_whole() -> Result<()> {
    let mut pair = Pair::new("adopt-killed").await?;
    pair.cluster.broadcast("show").await?;
    let publisher = pair.cluster.ffmpeg("show").await?;
    pair.cluster.receiver.wait_for(1, SOON).await?;
    grown(&pair.storage, 120_000).await?;

    pair.cluster.node.process.kill()?;
    drop(publisher);
    identity::delete_pod(&pair.cluster.tenant.admin, &pair.cluster.tenant.namespace, FIRST).await?;

    pair.until_adopted().await?;
    pair.is_whole().await
}

#[tokio::test]
async fn a_node_that_was_thought_lost_and_comes_back_spoils_no_recording() -> Result<()> {
    let mut pair = Pair::new("adopt-frozen").await?;
    pair.cluster.broadcast("show").await?;
    let publisher = pair.cluster.ffmpeg("show").await?;
    pair.cluster.receiver.wait_for(1, SOON).await?;
    grown(&pair.storage, 120_000).await?;

    pair.cluster.node.process.signal(Signal::STOP)?;
    pair.until_adopted().await?;
    wait::until("the second node to wait for the first", SOON, async || {
        let log = pair.second.process.log();
        if log.contains("it is finished when that one lets go") { Ok(()) } else { Err(log) }
    })
    .await?;
    assert!(files(&pair.storage).is_empty(), "nothing is whole while another may write it");
    pair.cluster.node.process.signal(Signal::CONT)?;
    publisher.stop().await?;

    pair.is_whole().await
}

fn is_growing(part: i64) -> impl Fn(&Recording) -> bool {
    move |recording| recording.spec.part == part && recording.state() == RecordingState::Recording
}

#[tokio::test]
async fn a_recording_that_is_deleted_while_it_grows_is_thrown_away_and_the_next_part_begins() -> Result<()> {
    let recording = json!({"mode": "On", "nameTemplate": "{streamID}-{part}"});
    let cluster = Cluster::new("record-deleted", json!({"recording": recording})).await?;
    cluster.broadcast("show").await?;
    let publisher = cluster.ffmpeg("show").await?;
    let storage = cluster.folder.path().join(FIRST).join("recordings");
    let api: Api<Recording> = Api::namespaced(cluster.tenant.admin.clone(), &cluster.tenant.namespace);
    let rest = cluster.operator.address("rest")?;

    // first as kubectl does, then by REST
    for part in 1..=2 {
        let found = until_recorded(&cluster, 1, is_growing(part)).await?;
        grown(&storage, 60_000).await?;
        let name = found[0].metadata.name.clone().context("a name")?;
        if part == 1 {
            api.delete(&name, &DeleteParams::default()).await?;
        } else {
            let answer = http::request(Method::DELETE, rest, &format!("/LiveApp/rest/v2/vods/{name}"), None).await?;
            assert_eq!(answer.json()?["success"], true, "{answer:?}");
        }
        until_deleted(&api, &name, &storage, &cluster).await?;
    }
    let url = cluster.node.rtmp("LiveApp", "show")?;
    let played = media::play_with_ffmpeg(cluster.folder.path(), "player", &url).await?;
    assert!(played.frames >= 40, "viewers see nothing of it");
    grown(&storage, 60_000).await?;
    publisher.stop().await?;

    let ready = until_recorded(&cluster, 1, is_ready).await?;
    let told = cluster.receiver.wait_for(3, SOON).await?;
    let vods: Vec<_> = told.iter().filter_map(|request: &Request| request.field("vodName")).collect();
    assert_eq!(vods, ["show-3.mp4"]);
    assert_eq!(files(&storage), vods);
    probe::decodes(&storage.join("show-3.mp4"))?;
    api.delete(ready[0].metadata.name.as_deref().context("a name")?, &DeleteParams::default()).await?;
    until_recorded(&cluster, 0, |_| true).await?;
    assert!(files(&storage).is_empty() && files(&storage.join(".recording")).is_empty());
    cluster.receiver.check_promises()
}

/// Waits until an object has gone, and with it what there was of its file.
async fn until_deleted(api: &Api<Recording>, name: &str, storage: &Path, cluster: &Cluster) -> Result<()> {
    wait::until(format!("{name} to go"), SOON, async || {
        let found = api.get_opt(name).await.map_err(|error| error.to_string())?;
        match found {
            None => Ok(()),
            Some(left) => Err(format!("{left:?}; {}", cluster.node.process.log())),
        }
    })
    .await?;
    for entry in fs::read_dir(storage.join(".recording"))? {
        let sidecar = fs::read_to_string(entry?.path().join("recording.json")).unwrap_or_default();
        assert!(!sidecar.contains(name), "its folder is there");
    }
    Ok(())
}
