//! Gives every MediaPool a key: random bytes in a Secret that the pool owns and its media pods mount. With it they sign what they
//! ask of each other. It is made once and never read again, so that there is nothing to do while nothing changes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, Resource as _, ResourceExt as _, api::PostParams, runtime::watcher::Event};
use ledger::Key;
use ring::rand::{SecureRandom as _, SystemRandom};
use tallylight_crds::{MediaPool, POOL_SECRET_KEY, POOL_SECRET_PREFIX};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::leader::Leadership;

/// Bytes of a key: what HMAC-SHA256 has of strength.
const KEY_BYTES: usize = 32;
/// First and longest wait after a failure; doubled in between.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Longest time for the requests of one pool.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Hears of pools from their watch. Clones share what was heard.
#[derive(Clone, Default)]
pub(crate) struct PoolKeys(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// As many as there are pools.
    pools: Mutex<BTreeMap<Key, Keyed>>,
    wanted: Notify,
}

/// A pool, and what became of its key.
enum Keyed {
    Made { uid: String },
    Wanted { pool: Box<MediaPool>, due: Instant, wait: Duration },
}

/// Why a pool has no key yet.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("failed to read the Secret")]
    Read { source: kube::Error },
    #[error("failed to create the Secret")]
    Create { source: kube::Error },
    #[error("the Secret is of a pool that was deleted, and goes with it")]
    Going,
    #[error(
        "the Secret was made by somebody else and has no {KEY_BYTES} bytes under the key {POOL_SECRET_KEY:?}: delete it"
    )]
    Foreign,
    #[error("the API server does not answer")]
    Unavailable,
    #[error("the system gives no random bytes")]
    Random,
}

impl PoolKeys {
    /// Takes note of what a watch of pools shows.
    pub(crate) fn follow<E>(&self, event: &Result<Event<MediaPool>, E>) {
        match event {
            Ok(Event::Apply(pool) | Event::InitApply(pool)) if pool.metadata.deletion_timestamp.is_none() => {
                self.want(pool);
            }
            Ok(Event::Delete(pool)) => drop(self.pools().remove(&key_of(pool))),
            Ok(_) | Err(_) => {}
        }
    }

    fn want(&self, pool: &MediaPool) {
        let uid = pool.uid().unwrap_or_default();
        let mut pools = self.pools();
        match pools.get(&key_of(pool)) {
            Some(Keyed::Made { uid: made }) if *made == uid => return,
            Some(Keyed::Wanted { pool: wanted, .. }) if wanted.uid() == Some(uid) => return,
            Some(Keyed::Made { .. } | Keyed::Wanted { .. }) | None => {}
        }
        pools.insert(key_of(pool), Keyed::Wanted { pool: Box::new(pool.clone()), due: Instant::now(), wait: RETRY.0 });
        self.0.wanted.notify_one();
    }

    /// Makes keys while this operator leads, until cancelled, as a task of `tasks`.
    pub(crate) fn start(
        client: &Client,
        leadership: &Leadership,
        cancel: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let keys = Self::default();
        tasks.spawn(keys.clone().run(client.clone(), leadership.clone(), cancel.clone()));
        keys
    }

    async fn run(self, client: Client, leadership: Leadership, cancel: CancellationToken) {
        let work = async {
            leadership.gained().await;
            loop {
                tokio::select! {
                    () = self.0.wanted.notified() => {}
                    () = until(self.next_due()) => {}
                }
                while let Some(pool) = self.take_due() {
                    let made = tokio::time::timeout(ATTEMPT, ensure(&client, &pool)).await;
                    self.settle(&pool, &made.unwrap_or(Err(Error::Unavailable)));
                }
            }
        };
        cancel.run_until_cancelled(work).await;
    }

    fn next_due(&self) -> Option<Instant> {
        let due = |keyed: &Keyed| match keyed {
            Keyed::Made { .. } => None,
            Keyed::Wanted { due, .. } => Some(*due),
        };
        self.pools().values().filter_map(due).min()
    }

    /// A pool that is due; until it is settled it is not due for as long as an attempt may take.
    fn take_due(&self) -> Option<MediaPool> {
        let now = Instant::now();
        self.pools().values_mut().find_map(|keyed| match keyed {
            Keyed::Wanted { pool, due, .. } if *due <= now => {
                *due = now + ATTEMPT;
                Some((**pool).clone())
            }
            Keyed::Wanted { .. } | Keyed::Made { .. } => None,
        })
    }

    fn settle(&self, pool: &MediaPool, made: &Result<(), Error>) {
        let (key, uid) = (key_of(pool), pool.uid());
        let mut pools = self.pools();
        // unless it was deleted, or another took its name, meanwhile
        let Some(keyed) = pools.get_mut(&key) else { return };
        let Keyed::Wanted { pool: wanted, due, wait } = keyed else { return };
        if wanted.uid() != uid {
            return;
        }
        match made {
            Ok(()) => *keyed = Keyed::Made { uid: uid.unwrap_or_default() },
            Err(error) => {
                let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(pool = %key, %error, source, ?wait, "a pool has no relay key");
                *due = Instant::now() + *wait;
                *wait = (*wait * 2).min(RETRY.1);
            }
        }
    }

    fn pools(&self) -> MutexGuard<'_, BTreeMap<Key, Keyed>> {
        self.0.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of(pool: &MediaPool) -> Key {
    Key { namespace: pool.namespace().unwrap_or_default(), name: pool.name_any() }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// What came of looking for a Secret.
enum Read {
    Found(Box<Secret>),
    Absent,
    /// The operator's rights name other Secrets.
    Hidden,
}

/// Makes the pool's Secret unless there is one.
async fn ensure(client: &Client, pool: &MediaPool) -> Result<(), Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &pool.namespace().unwrap_or_default());
    let name = secret_name(pool);
    let read = async || match api.get_opt(&name).await {
        Ok(found) => Ok(found.map_or(Read::Absent, |found| Read::Found(Box::new(found)))),
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(Read::Hidden),
        Err(source) => Err(Error::Read { source }),
    };
    if let Read::Found(found) = read().await? {
        return judge(&found, pool);
    }
    match api.create(&PostParams::default(), &secret(pool, &random()?)).await {
        Ok(_) => {
            tracing::info!(pool = pool.name_any(), secret = name, "pool.keyed");
            Ok(())
        }
        // another operator was quicker
        Err(kube::Error::Api(status)) if status.is_already_exists() => match read().await? {
            Read::Found(found) => judge(&found, pool),
            Read::Absent => Err(Error::Going),
            // We may make Secrets and not read them: it is ours from before, or its media pods will say what it lacks.
            Read::Hidden => Ok(()),
        },
        Err(source) => Err(Error::Create { source }),
    }
}

fn judge(found: &Secret, pool: &MediaPool) -> Result<(), Error> {
    let is_pool = |kind: &str| kind == MediaPool::kind(&());
    let owners = found.metadata.owner_references.iter().flatten().filter(|owner| is_pool(&owner.kind));
    let uids: Vec<&str> = owners.map(|owner| owner.uid.as_str()).collect();
    let is_going = found.metadata.deletion_timestamp.is_some();
    if is_going || (!uids.is_empty() && !uids.contains(&pool.uid().unwrap_or_default().as_str())) {
        return Err(Error::Going);
    }
    let length = found.data.as_ref().and_then(|data| data.get(POOL_SECRET_KEY)).map_or(0, |key| key.0.len());
    if length >= KEY_BYTES { Ok(()) } else { Err(Error::Foreign) }
}

fn secret_name(pool: &MediaPool) -> String {
    format!("{POOL_SECRET_PREFIX}{}", pool.name_any())
}

fn random() -> Result<[u8; KEY_BYTES], Error> {
    let mut key = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut key).map_err(|_unspecified| Error::Random)?;
    Ok(key)
}

fn secret(pool: &MediaPool, key: &[u8]) -> Secret {
    let mut secret = Secret {
        data: Some(BTreeMap::from([(POOL_SECRET_KEY.to_owned(), ByteString(key.to_vec()))])),
        // kubelets need not look for changes
        immutable: Some(true),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    secret.metadata.name = Some(secret_name(pool));
    secret.metadata.namespace = pool.namespace();
    secret.metadata.owner_references = pool.controller_owner_ref(&()).map(|owner| vec![owner]);
    secret
}

#[cfg(test)]
mod tests {
    use tallylight_crds::MediaPoolSpec;

    use super::*;

    fn pool(uid: &str) -> MediaPool {
        let mut pool = MediaPool::new("live", MediaPoolSpec::default());
        pool.metadata.uid = Some(uid.to_owned());
        pool.metadata.namespace = Some("studio".to_owned());
        pool
    }

    #[test]
    fn the_secret_of_release_0_1_0_is_taken_and_is_made_the_same() {
        let released: Secret =
            serde_json::from_str(include_str!("../../tests/fixtures/0.1.0/pool-secret.json")).unwrap();

        assert!(judge(&released, &pool("5d1c")).is_ok());
        assert_eq!(secret(&pool("5d1c"), &[7; 32]), released);
    }

    #[test]
    fn the_secret_belongs_to_its_pool_and_holds_a_key_of_its_own() {
        let (one, two) = (random().unwrap(), random().unwrap());
        let secret = secret(&pool("u-1"), &one);

        assert_ne!(one, two);
        assert_eq!(secret.name_any(), "tallylight-pool-live");
        assert_eq!(secret.owner_references()[0].uid, "u-1");
        assert!(judge(&secret, &pool("u-1")).is_ok());
    }

    #[test]
    fn a_secret_of_a_pool_that_is_gone_is_waited_out() {
        let secret = secret(&pool("u-1"), &[7; KEY_BYTES]);

        assert!(matches!(judge(&secret, &pool("u-2")), Err(Error::Going)));
    }

    #[test]
    fn a_secret_that_somebody_made_is_used_when_it_holds_a_key() {
        let mut theirs = secret(&pool("u-1"), &[7; KEY_BYTES]);
        theirs.metadata.owner_references = None;
        assert!(judge(&theirs, &pool("u-2")).is_ok());

        theirs.data = None;
        assert!(matches!(judge(&theirs, &pool("u-2")), Err(Error::Foreign)));
    }
}
