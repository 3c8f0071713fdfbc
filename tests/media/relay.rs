//! Everything lands anywhere: what people publish to one pod they play from another.

use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::json;
use tallylight_crds::{BroadcastState, POOL_SECRET_PREFIX};
use tests::{
    http,
    install::{self, Tenant},
    media::{self, Publisher},
    repository,
    service::{Launch, Service},
    wait,
};

use crate::standalone::SOON;

/// The key that the operator makes for the pool, as the kubelet mounts it.
pub(crate) async fn key_file(tenant: &Tenant, folder: &Path) -> Result<String> {
    let secrets: Api<Secret> = Api::namespaced(tenant.admin.clone(), &tenant.namespace);
    let name = format!("{POOL_SECRET_PREFIX}live");
    let secret = wait::until("the pool's key", SOON, async || match secrets.get_opt(&name).await {
        Ok(Some(secret)) => Ok(secret),
        other => Err(format!("{other:?}")),
    })
    .await?;
    let file = folder.join("pool-key");
    std::fs::write(&file, &secret.data.context("the Secret is empty")?["key"].0)?;
    Ok(file.display().to_string())
}

async fn node(tenant: &Tenant, folder: &Path, name: &str, key_file: &str) -> Result<Service> {
    let credential = tenant.media_pod("live", name).await?;
    let kubeconfig = tenant.plane.kubeconfig(folder, name, &credential, &tenant.namespace)?;
    let launch = Launch::media_node(folder, &kubeconfig, &tenant.namespace, "live", name);
    let key = format!("--relay-key-file={key_file}");
    launch.args(["--relay-address=127.0.0.1:0", "--advertise-address=127.0.0.1", &key]).start().await
}

async fn metric(node: &Service, name: &str) -> Result<u64> {
    let scraped = http::get(node.address("http")?, "/metrics").await?;
    let line = scraped.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no metric {name}"))?.parse()?)
}

#[tokio::test]
async fn what_is_published_to_one_pod_is_played_from_another() -> Result<()> {
    let (tenant, folder) = (install::tenant("relay").await?, repository::folder("relay")?);
    let folder = folder.path();
    tenant.pool(&json!({})).await?;
    tenant.broadcast("show", &json!({})).await?;
    let kubeconfig = tenant.operator_kubeconfig(folder).await?;
    let _operator = Launch::operator(folder, &kubeconfig, &tenant.namespace).start().await?;
    let key_file = key_file(&tenant, folder).await?;
    let one = node(&tenant, folder, "media-live-1", &key_file).await?;
    let two = node(&tenant, folder, "media-live-2", &key_file).await?;

    let publisher = Publisher::ffmpeg(folder, "publisher", &one.rtmp("LiveApp", "show")?).await?;
    let is_live = |b: &tallylight_crds::Broadcast| b.status_or_default().state == BroadcastState::Live;
    let live = tenant.until("show", "to be live", SOON, is_live).await?;
    let url = two.rtmp("LiveApp", "show")?;
    let (ffmpeg, gstreamer) = tokio::try_join!(
        media::play_with_ffmpeg(folder, "ffmpeg", &url),
        media::play_with_gstreamer(folder, "gstreamer", &url)
    )?;
    let (pulls, pullers) =
        (metric(&two, "tallylight_relay_pulls_started_total").await?, metric(&one, "tallylight_relay_pullers").await?);
    publisher.stop().await?;

    let session = live.status_or_default().session;
    assert_eq!(session.node.as_deref(), Some("media-live-1"));
    assert_eq!(session.address.as_deref(), Some(one.address("relay")?), "others find its relay there");
    for played in [ffmpeg, gstreamer] {
        assert_eq!(played.codecs, ["aac", "h264"]);
        assert!(played.frames >= 40, "{played:?}");
    }
    assert_eq!((pulls, pullers), (1, 1));
    let refused: Vec<_> =
        tenant.plane.calls(&tenant.namespace)?.into_iter().filter(|call| call.status == 403).collect();
    assert!(refused.is_empty(), "the chart's roles miss rights: {refused:#?}");
    Ok(())
}
