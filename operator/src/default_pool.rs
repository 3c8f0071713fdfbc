//! Makes the MediaPool that a release of the chart brings. Helm cannot: it refuses an object whose definition comes with the same
//! release. So the pool waits in a ConfigMap, and whoever begins to lead applies it, once for each content: what people and
//! autoscalers change in the pool afterwards is theirs until the next release says something else.

use std::time::Duration;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};
use ring::digest;
use serde_json::{Value, json};
use tallylight_crds::{API_VERSION, MediaPool};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::leader::Leadership;

/// Key of the ConfigMap that holds the manifest.
const KEY: &str = "pool.yaml";
/// Which content of the ConfigMap a pool was made from.
const APPLIED: &str = "tallylight.dev/default-pool";
/// Field manager of what is applied.
const MANAGER: &str = "tallylight-default-pool";
/// First and longest wait after a failure, such as that the definitions are not served yet; doubled in between.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Longest time for the requests of one attempt.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Why there is no pool yet.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("failed to read the ConfigMap")]
    Read { source: kube::Error },
    #[error("the ConfigMap does not exist")]
    Absent,
    #[error("the ConfigMap holds no MediaPool under the key {KEY:?}")]
    Manifest,
    #[error("failed to read the MediaPool")]
    Look { source: kube::Error },
    #[error("failed to apply the MediaPool")]
    Apply { source: kube::Error },
    #[error("the API server does not answer")]
    Unavailable,
}

/// Applies the pool of this ConfigMap, if there is one, when this process comes to lead, as a task of `tasks`.
pub(crate) fn start(
    config_map: Option<String>,
    client: &Client,
    leadership: &Leadership,
    cancel: &CancellationToken,
    tasks: &TaskTracker,
) {
    if let Some(config_map) = config_map {
        tasks.spawn(keep(client.clone(), config_map, leadership.clone(), cancel.clone()));
    }
}

/// Ends when the pool is applied, or when cancelled.
async fn keep(client: Client, config_map: String, leadership: Leadership, cancel: CancellationToken) {
    let namespace = client.default_namespace().to_owned();
    let work = async {
        leadership.gained().await;
        let mut wait = RETRY.0;
        loop {
            let attempt = tokio::time::timeout(ATTEMPT, apply(&client, &namespace, &config_map)).await;
            let Err(error) = attempt.unwrap_or(Err(Error::Unavailable)) else { return };
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(config_map, %error, source, ?wait, "the default pool is not made");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY.1);
        }
    };
    cancel.run_until_cancelled(work).await;
}

async fn apply(client: &Client, namespace: &str, config_map: &str) -> Result<(), Error> {
    let found = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(config_map).await;
    let source = found.map_err(|source| Error::Read { source })?.ok_or(Error::Absent)?;
    let (name, pool, content) = manifest(&source).ok_or(Error::Manifest)?;
    let pools: Api<MediaPool> = Api::namespaced(client.clone(), namespace);
    let before = pools.get_metadata_opt(&name).await.map_err(|source| Error::Look { source })?;
    if before.is_some_and(|pool| pool.annotations().get(APPLIED) == Some(&content)) {
        return Ok(());
    }
    let how = PatchParams::apply(MANAGER).force();
    pools.patch(&name, &how, &Patch::Apply(&pool)).await.map_err(|source| Error::Apply { source })?;
    tracing::info!(namespace, pool = name, "pool.applied");
    Ok(())
}

/// The name, the manifest to apply, and what tells its content from another. The ConfigMap owns the pool, which so goes with the release.
fn manifest(source: &ConfigMap) -> Option<(String, Value, String)> {
    let text = source.data.as_ref()?.get(KEY)?;
    let mut pool: Value = serde_saphyr::from_str(text).ok()?;
    let name = pool.pointer("/metadata/name")?.as_str()?.to_owned();
    if pool["kind"] != "MediaPool" || pool["apiVersion"] != API_VERSION {
        return None;
    }
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        name: source.name_any(),
        uid: source.uid()?,
        ..OwnerReference::default()
    };
    // A ConfigMap that was made anew owns the pool anew.
    let digest = digest::digest(&digest::SHA256, format!("{}\n{text}", owner.uid).as_bytes());
    let content: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let metadata = pool.get_mut("metadata")?.as_object_mut()?;
    metadata.insert("ownerReferences".to_owned(), json!([owner]));
    metadata.insert("annotations".to_owned(), json!({APPLIED: content}));
    Some((name, pool, content))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn config_map(text: &str) -> ConfigMap {
        let mut map =
            ConfigMap { data: Some(BTreeMap::from([(KEY.to_owned(), text.to_owned())])), ..ConfigMap::default() };
        map.metadata.name = Some("tallylight-default-pool".to_owned());
        map.metadata.uid = Some("u-1".to_owned());
        map
    }

    const POOL: &str =
        "apiVersion: tallylight.dev/v1alpha1\nkind: MediaPool\nmetadata: {name: live}\nspec: {app: LiveApp}\n";

    #[test]
    fn the_pool_belongs_to_the_config_map_and_says_what_it_was_made_from() {
        let (name, pool, content) = manifest(&config_map(POOL)).unwrap();

        assert_eq!(name, "live");
        assert_eq!(pool["metadata"]["ownerReferences"][0]["uid"], "u-1");
        assert_eq!(pool["metadata"]["annotations"][APPLIED], content);
        assert_eq!(pool["spec"]["app"], "LiveApp");
        let (_, _, other) = manifest(&config_map(&POOL.replace("LiveApp", "studio"))).unwrap();
        assert_ne!(content, other, "another content is applied again");
    }

    #[test]
    fn what_is_no_media_pool_is_refused() {
        for text in ["", "kind: MediaPool", "{", &POOL.replace("MediaPool", "Pod")] {
            assert!(manifest(&config_map(text)).is_none(), "{text}");
        }
    }
}
