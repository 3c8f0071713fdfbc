//! Each pool has a key, with which its media nodes sign what they ask of each other.

use anyhow::Result;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use serde_json::json;
use tallylight_crds::{MediaPool, POOL_SECRET_PREFIX};
use tests::{
    install::{self, Tenant},
    repository,
    service::Launch,
    wait,
};

use crate::stage::SOON;

async fn key(tenant: &Tenant, pool: &str) -> Result<Secret> {
    let secrets: Api<Secret> = Api::namespaced(tenant.admin.clone(), &tenant.namespace);
    let name = format!("{POOL_SECRET_PREFIX}{pool}");
    wait::until("the pool's key", SOON, async || match secrets.get_opt(&name).await {
        Ok(Some(secret)) => Ok(secret),
        other => Err(format!("{other:?}")),
    })
    .await
}

#[tokio::test]
async fn a_pool_owns_one_key_which_another_operator_leaves_alone() -> Result<()> {
    let (tenant, folder) = (install::tenant("pool-key").await?, repository::folder("pool-key")?);
    tenant.pool(&json!({})).await?;
    let pool = Api::<MediaPool>::namespaced(tenant.admin.clone(), &tenant.namespace).get("live").await?;
    let kubeconfig = tenant.operator_kubeconfig(folder.path()).await?;
    let launch = Launch::operator(folder.path(), &kubeconfig, &tenant.namespace);

    let first = launch.start().await?;
    let made = key(&tenant, "live").await?;
    first.stop().await?;
    let _second = launch.named("second").start().await?;
    let other = json!({
        "apiVersion": "tallylight.dev/v1alpha1", "kind": "MediaPool", "metadata": {"name": "other"}, "spec": {},
    });
    install::apply(&tenant.admin, &tenant.namespace, &other).await?;
    let others = key(&tenant, "other").await?;
    let kept = key(&tenant, "live").await?;

    assert_eq!(made.data.as_ref().unwrap()["key"].0.len(), 32);
    assert_ne!(made.data, others.data);
    assert_eq!(made.immutable, Some(true));
    assert_eq!(made.owner_references()[0].uid, pool.uid().unwrap());
    assert_eq!(kept.resource_version(), made.resource_version());
    let calls = tenant.plane.calls(&tenant.namespace)?;
    let refused: Vec<_> = calls.iter().filter(|call| call.status == 403).collect();
    assert!(refused.is_empty(), "the chart's roles miss rights: {refused:#?}");
    Ok(())
}
