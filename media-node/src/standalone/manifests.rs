//! Takes Broadcasts, MediaPools and Secrets from a folder of YAML files, at the start and whenever it changes.
//!
//! What a file no longer names is deleted. A file that cannot be read is reported, harms no other, and what it named before
//! stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, jsonptr::PointerBuf};
use kube::ResourceExt;
use ledger::{Key, SqliteStore, Store};
use notify::{RecursiveMode, Watcher};
use serde_json::json;
use tallylight_crds::{Broadcast, HOOKS_FINALIZER, PublishStatus};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use webhook::Dispatcher;

use super::{
    NAMESPACE,
    catalog::{Catalog, Secret},
};
use crate::stream_key;

mod parse;
use parse::Object;

/// Label of Broadcasts that manifests made, so that they alone are deleted with them.
const LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", "tallylight-manifests");

/// Rest after a change: editors write a file in several steps.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// A folder of manifests.
pub(super) struct Manifests {
    folder: PathBuf,
    catalog: Catalog,
    store: SqliteStore,
    dispatcher: Dispatcher<SqliteStore, Catalog>,
    /// What each file said when it could be read.
    files: BTreeMap<PathBuf, Vec<Object>>,
    /// Which key each verifier was found to be of, so that an unchanged key is not hashed again.
    verified: BTreeMap<String, String>,
}

/// A folder that is watched.
pub(super) struct Watched {
    manifests: Manifests,
    /// Ends the watch when it is dropped.
    _watcher: notify::RecommendedWatcher,
    changes: mpsc::Receiver<()>,
}

impl Manifests {
    pub(super) fn new(
        folder: PathBuf,
        catalog: Catalog,
        store: SqliteStore,
        dispatcher: Dispatcher<SqliteStore, Catalog>,
    ) -> Self {
        Self { folder, catalog, store, dispatcher, files: BTreeMap::new(), verified: BTreeMap::new() }
    }

    /// Begins to watch, and takes what is there.
    pub(super) async fn start(mut self) -> anyhow::Result<Watched> {
        // one waiting change stands for any number
        let (changed, changes) = mpsc::channel(1);
        let shown = self.folder.display();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                // full: a reading is due anyway
                let _told = changed.try_send(());
            }
        })
        .context("failed to watch --manifests")?;
        watcher
            .watch(&self.folder, RecursiveMode::NonRecursive)
            .with_context(|| format!("failed to watch --manifests {shown}; make the folder"))?;
        self.take().await;
        Ok(Watched { manifests: self, _watcher: watcher, changes })
    }

    /// Reads all files and brings the server to what they say.
    async fn take(&mut self) {
        let broken = self.read();
        let objects: Vec<Object> = self.files.values().flatten().cloned().collect();
        let (mut broadcasts, mut pools, mut secrets) = (Vec::new(), Vec::new(), BTreeMap::new());
        for object in objects {
            match object {
                Object::Broadcast(broadcast) => broadcasts.push(*broadcast),
                Object::MediaPool(pool) => pools.push(*pool),
                Object::Secret(name, data) => {
                    secrets.insert(name, Secret(data));
                }
            }
        }
        let counts = (broadcasts.len(), pools.len(), secrets.len());
        for problem in self.catalog.set(pools, secrets) {
            warn!(problem, "a manifest is left out");
        }
        let named: BTreeSet<String> = broadcasts.iter().map(ResourceExt::name_any).collect();
        for broadcast in broadcasts {
            self.apply(broadcast).await;
        }
        if !broken {
            self.prune(&named).await;
        }
        self.sync_keys().await;
        for pool in self.catalog.pools() {
            self.dispatcher.wake_pool(NAMESPACE, &pool);
        }
        info!(broadcasts = counts.0, pools = counts.1, secrets = counts.2, "manifests taken");
    }

    /// Reads the files; says whether one cannot be read.
    fn read(&mut self) -> bool {
        let (mut files, mut broken) = (BTreeMap::new(), false);
        let paths = match yaml_files(&self.folder) {
            Ok(paths) => paths,
            Err(error) => {
                warn!(folder = %self.folder.display(), %error, "failed to read the folder of manifests");
                return true;
            }
        };
        for path in paths {
            let read = std::fs::read_to_string(&path).map_err(|error| error.to_string());
            match read.and_then(|text| parse::objects(&text)) {
                Ok(objects) => {
                    files.insert(path, objects);
                }
                Err(error) => {
                    broken = true;
                    warn!(file = %path.display(), error, "a manifest cannot be used; what it said before stays");
                    if let Some(before) = self.files.remove(&path) {
                        files.insert(path, before);
                    }
                }
            }
        }
        self.files = files;
        broken
    }

    async fn apply(&self, mut broadcast: Broadcast) {
        let name = broadcast.name_any();
        broadcast.metadata.namespace = Some(NAMESPACE.to_owned());
        broadcast.metadata.finalizers = Some(vec![HOOKS_FINALIZER.to_owned()]);
        let labels = broadcast.metadata.labels.get_or_insert_default();
        labels.insert(LABEL.0.to_owned(), LABEL.1.to_owned());
        if !self.catalog.pools().contains(&broadcast.spec.pool) {
            warn!(broadcast = name, pool = broadcast.spec.pool, "spec.pool names no MediaPool; nobody can publish it");
        }
        if let Err(error) = self.store.apply(&broadcast).await {
            warn!(broadcast = name, %error, "a Broadcast of a manifest is left out");
        }
    }

    /// Deletes the Broadcasts that manifests made and no longer name.
    async fn prune(&self, named: &BTreeSet<String>) {
        let all = match self.store.list().await {
            Ok(all) => all,
            Err(error) => return warn!(%error, "failed to read the ledger"),
        };
        let made_here = |b: &&Broadcast| b.labels().get(LABEL.0).is_some_and(|by| by == LABEL.1);
        for gone in all.iter().filter(made_here).filter(|b| !named.contains(&b.name_any())) {
            if gone.metadata.deletion_timestamp.is_some() {
                continue;
            }
            info!(broadcast = gone.name_any(), "no manifest names the Broadcast any more: it is deleted");
            if let Err(error) = self.store.delete(&Key::of(gone), &gone.uid().unwrap_or_default()).await {
                warn!(broadcast = gone.name_any(), %error, "failed to delete a Broadcast");
            }
        }
    }

    /// Keeps the verifiers of stream keys in step with the Secrets.
    async fn sync_keys(&mut self) {
        let all = match self.store.list().await {
            Ok(all) => all,
            Err(error) => return warn!(%error, "failed to read the ledger"),
        };
        for broadcast in all {
            let wanted = broadcast.spec.publish.as_ref().and_then(|publish| publish.stream_key_secret_ref.as_ref());
            let Some(wanted) = wanted else { continue };
            let key = self.catalog.secret(wanted);
            if key.is_none() {
                let (name, secret, key) = (broadcast.name_any(), &wanted.name, &wanted.key);
                warn!(
                    broadcast = name,
                    secret, key, "the Secret of the stream key, or its key, is not there: nobody can publish"
                );
            }
            self.sync_key(&broadcast, key).await;
        }
    }

    async fn sync_key(&mut self, broadcast: &Broadcast, key: Option<String>) {
        let known = broadcast.status.as_ref().and_then(|s| s.publish.as_ref()?.key_verifier.clone());
        let path = PointerBuf::from_tokens(["status", "publish"]);
        let operation = match (key, known) {
            (None, None) => return,
            (None, Some(_)) => PatchOperation::Remove(RemoveOperation { path }),
            (Some(key), known) => {
                if let Some(known) = known
                    && self.is_of(&known, &key).await
                {
                    return;
                }
                let hashed = key.clone();
                let made = tokio::task::spawn_blocking(move || stream_key::verifier(&hashed)).await;
                let Ok(Ok(verifier)) = made else {
                    return warn!(broadcast = broadcast.name_any(), "failed to make the verifier of a stream key");
                };
                let publish = PublishStatus { key_verifier: Some(verifier.clone()) };
                self.verified.insert(verifier, key);
                PatchOperation::Add(AddOperation { path, value: json!(publish) })
            }
        };
        let uid = broadcast.uid().unwrap_or_default();
        if let Err(error) = self.store.patch_status(&Key::of(broadcast), &uid, &Patch(vec![operation])).await {
            warn!(broadcast = broadcast.name_any(), %error, "failed to write the verifier of a stream key");
        }
    }

    async fn is_of(&mut self, verifier: &str, key: &str) -> bool {
        if let Some(known) = self.verified.get(verifier) {
            return known == key;
        }
        let (hash, hashed) = (verifier.to_owned(), key.to_owned());
        let fits = tokio::task::spawn_blocking(move || stream_key::fits(&hashed, &hash)).await.unwrap_or(false);
        if fits {
            self.verified.insert(verifier.to_owned(), key.to_owned());
        }
        fits
    }
}

impl Watched {
    /// Takes changes until cancelled.
    pub(super) async fn run(mut self, until: CancellationToken) {
        let follow = async {
            while self.changes.recv().await.is_some() {
                sleep(DEBOUNCE).await;
                self.manifests.take().await;
            }
        };
        let _cancelled = until.run_until_cancelled(follow).await;
    }
}

/// The YAML files of the folder, in the order of their names. Hidden ones are editors' own.
fn yaml_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|e| e == "yaml" || e == "yml") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
