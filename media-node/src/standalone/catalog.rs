//! What flags and manifests say: MediaPools and Secrets, in memory, said anew at each start.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::Context;
use kube::ResourceExt;
use ledger::SqliteStore;
use tallylight_crds::{
    Broadcast, HookUrlSource, Hooks, InvalidHookUrl, MediaPool, MediaPoolSpec, RecordingPolicy, SecretKeyRef,
    StorageRef, hook_url,
};
use webhook::{
    ResolveError, Resolver, Settings,
    settings::{UrlSource, url_source},
};

use super::NAMESPACE;
use crate::{admission::Apps, claim::Windows, cli::StandaloneArgs};

/// Name of the pool that the flags make.
pub(super) const DEFAULT_POOL: &str = "default";

/// MediaPools and Secrets. Clones share them.
#[derive(Clone)]
pub(super) struct Catalog {
    store: SqliteStore,
    apps: Apps,
    windows: Windows,
    flags: Arc<Flags>,
    content: Arc<RwLock<Content>>,
}

#[derive(Default)]
struct Content {
    pools: BTreeMap<String, MediaPool>,
    secrets: BTreeMap<String, Secret>,
}

/// The data of a Secret. `Debug` prints its keys.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Secret(pub(super) BTreeMap<String, String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|key| (key, "***"))).finish()
    }
}

/// Where the flags keep a hook URL with a user name and a password, which REST must not show. No manifest can have this name.
const FLAG_SECRET: &str = "--listener-hook-url";
const FLAG_SECRET_KEY: &str = "url";

/// What the flags say: the pool that they make, and the Secret that it needs.
pub(super) struct Flags {
    pool: MediaPool,
    secret: Option<Secret>,
}

impl From<MediaPool> for Flags {
    fn from(pool: MediaPool) -> Self {
        Self { pool, secret: None }
    }
}

impl Flags {
    /// # Errors
    /// When a flag cannot be used.
    pub(super) fn new(args: &StandaloneArgs, storage: &str) -> anyhow::Result<Self> {
        let storage = StorageRef { name: storage.to_owned() };
        let spec = MediaPoolSpec {
            app: args.node.app.clone(),
            admission: args.admission.into(),
            reconnect_window_seconds: i32::try_from(args.node.reconnect_window_seconds)?,
            recording: Some(RecordingPolicy { storage_ref: Some(storage), ..args.recording.policy() }),
            ..MediaPoolSpec::default()
        };
        let mut pool = MediaPool::new(DEFAULT_POOL, spec);
        pool.metadata.namespace = Some(NAMESPACE.to_owned());
        let mut flags = Self::from(pool);
        if let Some(url) = &args.listener_hook_url {
            flags.set_url(url).context("--listener-hook-url cannot be used")?;
        }
        Ok(flags)
    }

    fn set_url(&mut self, url: &str) -> Result<(), InvalidHookUrl> {
        match hook_url(url, HookUrlSource::Spec) {
            Ok(_) => self.pool.spec.listener_hook_url = Some(url.to_owned()),
            Err(InvalidHookUrl::User) => {
                let key = SecretKeyRef { name: FLAG_SECRET.to_owned(), key: FLAG_SECRET_KEY.to_owned() };
                self.pool.spec.hooks = Some(Hooks { url_secret_ref: Some(key), ..Hooks::default() });
                self.secret = Some(Secret([(FLAG_SECRET_KEY.to_owned(), url.to_owned())].into()));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Catalog {
    /// Begins with what the flags say.
    pub(super) fn new(store: SqliteStore, apps: Apps, windows: Windows, flags: impl Into<Flags>) -> Self {
        let catalog = Self { store, apps, windows, flags: Arc::new(flags.into()), content: Arc::default() };
        catalog.set(Vec::new(), BTreeMap::new());
        catalog
    }

    /// Replaces what the manifests say. A pool of the flags' name takes the flags' place. Returns the pools that are left
    /// out, because another has their application.
    pub(super) fn set(&self, pools: Vec<MediaPool>, mut secrets: BTreeMap<String, Secret>) -> Vec<String> {
        let named = |name: &str| pools.iter().any(|pool| pool.name_any() == name);
        let flags = (!named(DEFAULT_POOL)).then(|| self.flags.pool.clone());
        secrets.extend(self.flags.secret.clone().map(|secret| (FLAG_SECRET.to_owned(), secret)));
        let (mut by_name, mut apps, mut left_out) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for pool in flags.into_iter().chain(pools) {
            let name = pool.name_any();
            if let Some(other) = apps.get(&pool.spec.app) {
                left_out.push(format!("MediaPool {name}: its app {} is that of the MediaPool {other}", pool.spec.app));
                continue;
            }
            apps.insert(pool.spec.app.clone(), name.clone());
            by_name.insert(name, pool);
        }
        let window = |pool: &MediaPool| u64::try_from(pool.spec.reconnect_window_seconds).unwrap_or_default();
        let windows = by_name.iter().map(|(name, pool)| (name.clone(), Duration::from_secs(window(pool))));
        self.windows.set(windows.collect());
        self.store.set_pools(by_name.values().cloned());
        self.apps.set(apps);
        *self.content.write().unwrap_or_else(PoisonError::into_inner) = Content { pools: by_name, secrets };
        left_out
    }

    /// The names of all pools.
    pub(super) fn pools(&self) -> Vec<String> {
        self.read(|content| content.pools.keys().cloned().collect())
    }

    /// The pool of an application, and its hook URL.
    pub(super) fn of_app(&self, app: &str) -> Option<(String, Option<String>)> {
        self.read(|content| {
            let (name, pool) = content.pools.iter().find(|(_, pool)| pool.spec.app == app)?;
            Some((name.clone(), pool.spec.listener_hook_url.clone()))
        })
    }

    /// The text in a Secret; files end in a line feed that is not meant.
    pub(super) fn secret(&self, wanted: &SecretKeyRef) -> Option<String> {
        self.read(|content| {
            let text = content.secrets.get(&wanted.name)?.0.get(&wanted.key)?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        })
    }

    fn read<T>(&self, take: impl FnOnce(&Content) -> T) -> T {
        take(&self.content.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Resolver for Catalog {
    async fn settings(&self, broadcast: &Broadcast) -> Result<Settings, ResolveError> {
        let pool = self.read(|content| content.pools.get(&broadcast.spec.pool).cloned());
        let pool = pool.ok_or(ResolveError::PoolMissing)?;
        let secret = match url_source(broadcast, &pool.spec) {
            Some(UrlSource::Secret(key)) => self.secret(key),
            Some(UrlSource::Spec(_)) | None => None,
        };
        Settings::of(broadcast, &pool.spec, secret.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use tallylight_crds::BroadcastSpec;
    use webhook::Endpoint;

    use super::*;

    fn pool(name: &str, app: &str) -> MediaPool {
        let mut pool = MediaPool::new(name, MediaPoolSpec { app: app.into(), ..MediaPoolSpec::default() });
        pool.metadata.namespace = Some(NAMESPACE.into());
        pool
    }

    fn catalog() -> (Catalog, Apps, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("ledger.sqlite")).unwrap();
        let apps = Apps::default();
        (Catalog::new(store, apps.clone(), Windows::new(Duration::ZERO), pool(DEFAULT_POOL, "LiveApp")), apps, folder)
    }

    #[test]
    fn one_application_is_one_pools() {
        let (catalog, apps, _folder) = catalog();

        let left_out = catalog.set(vec![pool("events", "Events"), pool("more", "LiveApp")], BTreeMap::new());

        assert_eq!(left_out, ["MediaPool more: its app LiveApp is that of the MediaPool default"]);
        assert_eq!(catalog.pools(), ["default", "events"]);
        assert_eq!((apps.pool("LiveApp"), apps.pool("Events")), (Some("default".into()), Some("events".into())));
    }

    #[test]
    fn a_manifest_takes_the_place_of_the_flags_pool() {
        let (catalog, apps, _folder) = catalog();

        assert_eq!(catalog.set(vec![pool(DEFAULT_POOL, "Other")], BTreeMap::new()), Vec::<String>::new());

        assert_eq!((apps.pool("LiveApp"), apps.pool("Other")), (None, Some("default".into())));
    }

    #[tokio::test]
    async fn a_url_with_a_password_in_a_flag_is_used_and_shown_nowhere() {
        const URL: &str = "http://user:hunter2@127.0.0.1:8000/hooks";
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("ledger.sqlite")).unwrap();
        let mut flags = Flags::from(pool(DEFAULT_POOL, "LiveApp"));
        flags.set_url(URL).unwrap();
        let catalog = Catalog::new(store, Apps::default(), Windows::new(Duration::ZERO), flags);
        catalog.set(Vec::new(), BTreeMap::new());
        let mut broadcast = Broadcast::new("studio", BroadcastSpec::default());
        broadcast.spec.pool = DEFAULT_POOL.into();

        let settings = catalog.settings(&broadcast).await.unwrap();

        assert_eq!(settings.endpoint.unwrap(), Endpoint::parse(URL, HookUrlSource::Secret).unwrap());
        assert_eq!(catalog.of_app("LiveApp"), Some((DEFAULT_POOL.to_owned(), None)));
    }

    #[test]
    fn a_secrets_text_is_without_the_files_line_feed_and_never_shown() {
        let (catalog, _, _folder) = catalog();
        let secret = Secret([("key".to_owned(), "hunter2\n".to_owned())].into());
        assert!(!format!("{secret:?}").contains("hunter2"));

        catalog.set(Vec::new(), [("keys".to_owned(), secret)].into());

        let wanted = |key: &str| SecretKeyRef { name: "keys".into(), key: key.into() };
        assert_eq!(catalog.secret(&wanted("key")).as_deref(), Some("hunter2"));
        assert_eq!(catalog.secret(&wanted("other")), None);
    }
}
