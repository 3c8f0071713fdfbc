//! What a broadcast's life costs the API server, and that what does not change costs it nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::PostParams};
use serde_json::json;
use tallylight_crds::{Broadcast, BroadcastState, MediaPool, Reason};
use tests::{apiserver::Call, identity, install, kubelet::Kubelet, node::Node, wait};
use tokio::time::Instant;

use crate::stage::{SOON, Stage};

/// Media nodes of the pool that the operator makes.
const NODES: i32 = 2;

// The reading of a long audit log must not keep the fake kubelet from renewing Leases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcasts_life_costs_few_writes_and_idleness_none() -> Result<()> {
    let mut stage = Stage::without_operator("writes", json!({"reconnectWindowSeconds": 600})).await?;
    let image = "--media-node-image=localhost/tallylight/media-node:test";
    stage.operator = Some(stage.launch().args([image]).start().await?);
    stage.broadcast("show").await?;
    let ready = |broadcast: &Broadcast| !broadcast.status_or_default().conditions.is_empty();
    stage.tenant.until("show", "to have conditions", SOON, ready).await?;
    let owner = stage.node.open("show").await?;
    stage.receiver.wait_for(1, SOON).await?;
    stage.node.end("show", owner, Reason::PublisherClosed).await?;
    stage.tenant.settled("show", 2, SOON).await?;
    let _kubelet = populate(&stage).await?;

    // What follows the last acknowledgement comes at once.
    quiet(&stage).await?;
    let calls = stage.tenant.plane.calls(&stage.tenant.namespace)?;
    let is_of_life = |call: &&Call| call.writes() && call.resource.starts_with("broadcasts") && call.name == "show";
    let writes: Vec<_> = calls.iter().filter(is_of_life).collect();
    ensure!(writes.len() <= 8, "{writes:#?}");
    let refused: Vec<_> = calls.iter().filter(|call| call.status >= 400 && call.name == "show").collect();
    ensure!(refused.is_empty(), "{refused:#?}");

    let before = operators_calls(&stage)?.len();
    wait::throughout("nothing changes", Duration::from_secs(60), async || Ok(())).await?;
    let asked = operators_calls(&stage)?.split_off(before);
    ensure!(asked.is_empty(), "the operator asked for {asked:?} while nothing changed");
    Ok(())
}

/// Something of everything that there is: a pool that the operator makes, stream keys, a session on air, one whose publisher is
/// away, one that has ended.
async fn populate(stage: &Stage) -> Result<Kubelet> {
    let (tenant, namespace) = (&stage.tenant, &stage.tenant.namespace);
    away(stage).await?;
    let kubelet = Kubelet::start(tenant.admin.clone(), namespace);
    let made = json!({
        "apiVersion": "tallylight.dev/v1alpha1", "kind": "MediaPool", "metadata": {"name": "made"},
        "spec": {"app": "Made", "nodes": {"minNodes": NODES, "maxNodes": NODES}},
    });
    install::apply(&tenant.admin, namespace, &made).await?;
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": "keys"}, "stringData": {"key": "a-long-and-random-one"},
    }))?;
    Api::namespaced(tenant.admin.clone(), namespace).create(&PostParams::default(), &secret).await?;
    for (name, pool) in [("keyed-1", "live"), ("keyed-2", "live"), ("keyed-3", "made")] {
        let key = json!({"pool": pool, "publish": {"streamKeySecretRef": {"name": "keys", "key": "key"}}});
        tenant.broadcast(name, &key).await?;
        let keyed = |b: &Broadcast| b.status.as_ref().and_then(|s| s.publish.as_ref()).is_some();
        tenant.until(name, "to have a verifier", SOON, keyed).await?;
    }
    stage.broadcast("on-air").await?;
    stage.node.open("on-air").await?;
    tenant.settled("on-air", 1, SOON).await?;
    let pools = Api::<MediaPool>::namespaced(tenant.admin.clone(), namespace);
    wait::until("the nodes that the operator makes", SOON, async || {
        let status = pools.get("made").await.map_err(|error| error.to_string())?.status;
        let ready = status.as_ref().and_then(|status| status.ready_replicas);
        if ready == Some(NODES) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await?;
    Ok(kubelet)
}

/// A session whose node is lost, and whose publisher is awaited.
async fn away(stage: &Stage) -> Result<()> {
    let tenant = &stage.tenant;
    stage.broadcast("away").await?;
    let mut lost = Node::start(tenant, "live", "media-live-2").await?;
    lost.open("away").await?;
    lost.silence().await;
    identity::delete_pod(&tenant.admin, &tenant.namespace, "media-live-2").await?;
    let is_away = |b: &Broadcast| b.status_or_default().state == BroadcastState::Reconnecting;
    tenant.until("away", "to wait for its publisher", SOON, is_away).await?;
    tenant.settled("away", 1, SOON).await?;
    Ok(())
}

/// Waits until the operator has asked for nothing for a while.
async fn quiet(stage: &Stage) -> Result<()> {
    const WHILE: Duration = Duration::from_secs(3);
    let (mut before, mut since) = (0, Instant::now());
    wait::until("the operator to be quiet", SOON, async || {
        let now = operators_calls(stage).map_err(|error| error.to_string())?.len();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        if since.elapsed() >= WHILE { Ok(()) } else { Err(format!("{now} calls")) }
    })
    .await
}

/// What the operator has asked for so far, but for Leases.
fn operators_calls(stage: &Stage) -> Result<Vec<Call>> {
    let calls = stage.tenant.plane.calls(&stage.tenant.namespace)?.into_iter();
    Ok(calls.filter(|call| call.account == "tallylight-operator" && call.resource != "leases").collect())
}
