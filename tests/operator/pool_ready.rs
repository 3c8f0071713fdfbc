//! A Broadcast is ready while its pool takes publishers, and is told of a change by one write.

use anyhow::Result;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tallylight_crds::{Broadcast, ConditionStatus, MediaPool};
use tests::{install::Tenant, wait};

use crate::{
    chart::kubectl,
    pools,
    stage::{SOON, Stage},
};

/// Waits until the Broadcast's condition `Ready` is this, and returns its message.
async fn ready(tenant: &Tenant, broadcast: &str, expected: ConditionStatus, reason: &str) -> Result<String> {
    let condition = |broadcast: &Broadcast| {
        let conditions = broadcast.status_or_default().conditions;
        conditions.into_iter().find(|found| found.kind == "Ready" && found.status == expected && found.reason == reason)
    };
    let what = format!("to be ready {expected:?} for {reason}");
    let broadcast = tenant.until(broadcast, &what, SOON, |broadcast| condition(broadcast).is_some()).await?;
    Ok(condition(&broadcast).map(|found| found.message).unwrap_or_default())
}

/// Status writes that the operator has sent to this Broadcast.
fn writes(tenant: &Tenant, broadcast: &str) -> Result<usize> {
    let is_it = |call: &tests::apiserver::Call| {
        call.account == "tallylight-operator" && call.resource == "broadcasts/status" && call.name == broadcast
    };
    Ok(tenant.plane.calls(&tenant.namespace)?.iter().filter(|call| is_it(call) && call.writes()).count())
}

#[tokio::test]
async fn broadcasts_follow_the_last_and_the_first_node_of_their_pool_by_one_write_each() -> Result<()> {
    const SHOWS: [&str; 3] = ["one", "two", "three"];
    let mut stage = pools::Stage::new("ready-scale", json!({"minNodes": 1})).await?;
    let tenant = &stage.tenant;
    stage.settled(1, SOON).await?;
    for show in SHOWS {
        tenant.broadcast(show, &json!({})).await?;
        ready(tenant, show, ConditionStatus::True, "PoolReady").await?;
        kubectl(tenant.plane, &tenant.namespace, &["wait", "--for=condition=Ready", &format!("bc/{show}")])?;
    }
    let before = SHOWS.map(|show| writes(tenant, show).unwrap());

    stage.scale(0)?;
    for show in SHOWS {
        let message = ready(tenant, show, ConditionStatus::False, "NoMediaNode").await?;
        assert_eq!(message, "no media node of pool live is ready: kubectl describe mediapool live");
    }
    stage.scale(1)?;
    for show in SHOWS {
        ready(tenant, show, ConditionStatus::True, "PoolReady").await?;
    }

    assert_eq!(SHOWS.map(|show| writes(tenant, show).unwrap()), before.map(|writes| writes + 2));
    stage.nothing_was_refused()
}

#[tokio::test]
async fn a_pool_whose_only_node_fails_its_readiness_probe_takes_no_publishers() -> Result<()> {
    let mut stage = pools::Stage::new("ready-probe", json!({"minNodes": 1})).await?;
    let pod = stage.settled(1, SOON).await?.remove(0).name_any();
    stage.tenant.broadcast("show", &json!({})).await?;
    ready(&stage.tenant, "show", ConditionStatus::True, "PoolReady").await?;
    let pods: Api<Pod> = stage.pods();
    let probe = async |answer: &str| {
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": answer}]}});
        pods.patch_status(&pod, &PatchParams::default(), &Patch::Strategic(status)).await
    };

    probe("False").await?;
    ready(&stage.tenant, "show", ConditionStatus::False, "NoMediaNode").await?;
    probe("True").await?;

    ready(&stage.tenant, "show", ConditionStatus::True, "PoolReady").await?;
    stage.nothing_was_refused()
}

#[tokio::test]
async fn a_pool_that_is_only_watched_takes_publishers_until_its_last_node_says_that_it_drains() -> Result<()> {
    let stage = Stage::new("ready-drain", json!({})).await?;
    stage.broadcast("show").await?;
    ready(&stage.tenant, "show", ConditionStatus::True, "PoolReady").await?;
    let (client, namespace) = (&stage.tenant.admin, &stage.tenant.namespace);
    let leases = Api::<Lease>::namespaced(client.clone(), namespace);
    let say = async |draining: Value| {
        let lease = Patch::Merge(json!({"metadata": {"annotations": {"tallylight.dev/draining": draining}}}));
        leases.patch("media-live-1", &PatchParams::default(), &lease).await
    };
    let pools = Api::<MediaPool>::namespaced(client.clone(), namespace);

    say(json!("true")).await?;
    ready(&stage.tenant, "show", ConditionStatus::False, "NoMediaNode").await?;
    wait::until("the pool to say so too", SOON, async || {
        let status = pools.get("live").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let said = status.conditions.iter().any(|found| found.kind == "Ready" && found.reason == "NoMediaNode");
        if said { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await?;
    say(Value::Null).await?;

    ready(&stage.tenant, "show", ConditionStatus::True, "PoolReady").await?;
    Ok(())
}
