//! Media nodes of the pool `live` that relay to each other, as its pods do.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use tallylight_crds::POOL_SECRET_PREFIX;

use crate::{
    install::Tenant,
    service::{Launch, Service},
    wait,
};

/// A running operator makes the key at once; a busy machine is slow.
const SOON: Duration = Duration::from_secs(60);

/// Writes the key that the operator makes for the pool into `folder`, as the kubelet mounts it; returns the file.
///
/// # Errors
/// When there is none within a minute.
pub async fn key_file(tenant: &Tenant, folder: &Path) -> Result<String> {
    let secrets: Api<Secret> = Api::namespaced(tenant.admin.clone(), &tenant.namespace);
    let name = format!("{POOL_SECRET_PREFIX}live");
    let secret = wait::until("the pool's key", SOON, async || match secrets.get_opt(&name).await {
        Ok(Some(secret)) => Ok(secret),
        other => Err(format!("{other:?}")),
    })
    .await?;
    let file = folder.join("pool-key");
    fs::write(&file, &secret.data.and_then(|mut data| data.remove("key")).context("the Secret is empty")?.0)?;
    Ok(file.display().to_string())
}

/// Starts a media node with that key.
///
/// # Errors
/// When it does not start.
pub async fn node(tenant: &Tenant, folder: &Path, name: &str, key_file: &str) -> Result<Service> {
    node_with(tenant, folder, name, key_file, &[]).await
}

/// As [`node`], with more flags.
///
/// # Errors
/// When it does not start.
pub async fn node_with(tenant: &Tenant, folder: &Path, name: &str, key_file: &str, flags: &[&str]) -> Result<Service> {
    let credential = tenant.media_pod("live", name).await?;
    let kubeconfig = tenant.plane.kubeconfig(folder, name, &credential, &tenant.namespace)?;
    let pod = Api::<Pod>::namespaced(tenant.admin.clone(), &tenant.namespace).get(name).await?;
    let launch = Launch::media_node(folder, &kubeconfig, &tenant.namespace, "live", name)
        .var("TALLYLIGHT_POD_UID", pod.metadata.uid.as_deref().context("the pod has no UID")?);
    let key = format!("--relay-key-file={key_file}");
    launch
        .args([
            "--relay-address=127.0.0.1:0",
            "--advertise-address=127.0.0.1",
            "--public-http-address=127.0.0.1:0",
            &key,
        ])
        .args(flags.iter().copied())
        .start()
        .await
}
