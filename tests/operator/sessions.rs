//! Sessions end with their node, and only with it: the operator's half of a broadcast's life.

use std::time::Duration;

use anyhow::Result;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use tallylight_crds::{Broadcast, BroadcastState, HOOKS_FINALIZER, Reason};
use tests::{
    apiserver::{ControlPlane, Parts},
    identity,
    install::{self, Tenant},
    node::Node,
    receiver::Receiver,
    repository,
    service::Launch,
    wait,
};

use crate::stage::{SOON, Stage};

/// A Lease lasts 15 s; then come the reconcile and a busy machine.
const LEASE_EXPIRED: Duration = Duration::from_secs(60);

fn is_ended(broadcast: &Broadcast) -> bool {
    broadcast.status_or_default().state == BroadcastState::Ended
}

#[tokio::test]
async fn a_session_ends_when_its_pod_is_gone() -> Result<()> {
    let stage = Stage::new("pod-gone", json!({})).await?;
    stage.broadcast("show").await?;
    let owner = stage.node.open("show").await?;
    stage.receiver.wait_for(1, SOON).await?;

    identity::delete_pod(&stage.tenant.admin, &stage.tenant.namespace, "media-live-1").await?;

    let requests = stage.receiver.wait_for(2, SOON).await?;
    assert_eq!(requests[1].field("reason").as_deref(), Some("NodeLost"));
    let late = stage.node.end("show", owner, Reason::PublisherClosed).await;
    assert!(late.is_err(), "the lost node is fenced");
    stage.tenant.settled("show", 2, SOON).await?;
    assert_eq!(stage.receiver.requests().len(), 2, "one end");
    Ok(())
}

#[tokio::test]
async fn a_session_ends_when_its_node_is_silent_and_another_may_claim() -> Result<()> {
    let mut stage = Stage::new("silent-node", json!({})).await?;
    let other = Node::start(&stage.tenant, "live", "media-live-2").await?;
    stage.broadcast("show").await?;
    stage.broadcast("kept").await?;
    let lost = stage.node.open("show").await?;
    other.open("kept").await?;

    stage.node.silence().await;

    let ended = stage.tenant.until("show", "to end", LEASE_EXPIRED, is_ended).await?;
    assert!(ended.status_or_default().session.epoch > lost.epoch, "the lost node is fenced");
    assert!(stage.node.end("show", lost, Reason::PublisherClosed).await.is_err());
    other.session("show").await?;
    stage.receiver.wait_for(5, SOON).await?;
    let kept = stage.tenant.until("kept", "to be there", SOON, |_| true).await?;
    assert_eq!(kept.status_or_default().state, BroadcastState::Live, "the other node lives");
    stage.receiver.check_promises()
}

#[tokio::test]
async fn an_outage_of_the_api_server_ends_no_session() -> Result<()> {
    let plane = ControlPlane::start(Parts::ApiServer).await?;
    let (admin, namespace) = install::install(&plane, "outage").await?;
    // The other tests never see this plane; it lives until the process ends.
    let tenant = Tenant { plane: Box::leak(Box::new(plane)), admin, namespace };
    let folder = repository::folder("outage")?;
    tenant.pool(&json!({})).await?;
    let receiver = Receiver::start().await?;
    tenant.broadcast("show", &json!({"listenerHookURL": receiver.url("hook")})).await?;
    let node = Node::start(&tenant, "live", "media-live-1").await?;
    let kubeconfig = tenant.operator_kubeconfig(folder.path()).await?;
    let _operator =
        // One that elects ends when it cannot renew its Lease, and judges afresh when it is started again.
        Launch::operator(folder.path(), &kubeconfig, &tenant.namespace)
            .args(["--lease-seconds=5", "--leader-elect=false"])
            .start()
            .await?;
    let owner = node.open("show").await?;
    receiver.wait_for(1, SOON).await?;

    // Four times the Lease: frozen, then gone, then back.
    tenant.plane.freeze_api()?;
    pass(Duration::from_secs(10)).await?;
    tenant.plane.kill_api()?;
    pass(Duration::from_secs(10)).await?;
    tenant.plane.start_api().await?;
    wait::throughout("the session goes on", Duration::from_secs(4), async || {
        anyhow::ensure!(receiver.requests().len() == 1, "{:?}", receiver.requests());
        Ok(())
    })
    .await?;

    node.end("show", owner, Reason::PublisherClosed).await?;
    let requests = receiver.wait_for(2, SOON).await?;
    assert_eq!(requests[1].field("reason").as_deref(), Some("PublisherClosed"));
    receiver.check_promises()
}

/// Lets an outage last: its length is what is tested.
async fn pass(time: Duration) -> Result<()> {
    wait::throughout("the outage lasts", time, async || Ok(())).await
}

#[tokio::test]
async fn a_broadcast_that_is_deleted_on_air_ends_is_delivered_and_goes() -> Result<()> {
    let stage = Stage::new("delete", json!({})).await?;
    stage.broadcast("show").await?;
    let held = |broadcast: &Broadcast| {
        broadcast.metadata.finalizers.as_ref().is_some_and(|finalizers| finalizers.iter().any(|f| f == HOOKS_FINALIZER))
    };
    stage.node.open("show").await?;
    stage.tenant.until("show", "to be held by the operator", SOON, held).await?;

    let broadcasts = Api::<Broadcast>::namespaced(stage.tenant.admin.clone(), &stage.tenant.namespace);
    broadcasts.delete("show", &DeleteParams::default()).await?;

    let requests = stage.receiver.wait_for(2, SOON).await?;
    assert_eq!(requests[1].field("reason").as_deref(), Some("Stopped"));
    gone(&broadcasts, "show").await
}

#[tokio::test]
async fn an_ephemeral_broadcast_goes_after_its_end_is_delivered() -> Result<()> {
    let stage = Stage::new("goes", json!({})).await?;
    stage.broadcast("show").await?;
    let broadcasts = Api::<Broadcast>::namespaced(stage.tenant.admin.clone(), &stage.tenant.namespace);
    let label = Patch::Merge(json!({"metadata": {"labels": {"tallylight.dev/ephemeral": "true"}}}));
    broadcasts.patch("show", &PatchParams::default(), &label).await?;

    stage.node.session("show").await?;

    stage.receiver.wait_for(2, SOON).await?;
    gone(&broadcasts, "show").await
}

#[tokio::test]
async fn conditions_follow_the_pool_and_the_session() -> Result<()> {
    let stage = Stage::new("conditions", json!({})).await?;
    let condition = |kind: &'static str, wanted: &'static str| {
        move |broadcast: &Broadcast| {
            let conditions = serde_json::to_value(broadcast.status_or_default().conditions).unwrap();
            conditions.as_array().unwrap().iter().any(|found| found["type"] == kind && found["status"] == wanted)
        }
    };
    stage.tenant.broadcast("early", &json!({"pool": "later"})).await?;
    let later = json!({
        "apiVersion": "tallylight.dev/v1alpha1", "kind": "MediaPool", "metadata": {"name": "later"}, "spec": {},
    });

    stage.tenant.until("early", "not to be ready without its pool", SOON, condition("Ready", "False")).await?;
    install::apply(&stage.tenant.admin, &stage.tenant.namespace, &later).await?;
    let node = Node::start(&stage.tenant, "later", "media-later-1").await?;
    stage.tenant.until("early", "to be ready", SOON, condition("Ready", "True")).await?;
    let owner = node.open("early").await?;
    stage.tenant.until("early", "to be live", SOON, condition("Live", "True")).await?;
    node.end("early", owner, Reason::PublisherClosed).await?;
    stage.tenant.until("early", "not to be live", SOON, condition("Live", "False")).await?;
    Ok(())
}

async fn gone(broadcasts: &Api<Broadcast>, name: &str) -> Result<()> {
    wait::until(format!("{name} to be gone"), SOON, async || match broadcasts.get_opt(name).await {
        Ok(None) => Ok(()),
        Ok(Some(broadcast)) => Err(format!("{broadcast:#?}")),
        Err(error) => Err(error.to_string()),
    })
    .await
}
