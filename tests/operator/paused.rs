//! What is paused is only looked at; nothing is lost by it.

use std::time::Duration;

use anyhow::Result;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tallylight_crds::{Broadcast, Reason};
use tests::wait;

use crate::stage::{SOON, Stage};

async fn pause(stage: &Stage, value: Value) -> Result<()> {
    let api: Api<Broadcast> = Api::namespaced(stage.tenant.admin.clone(), &stage.tenant.namespace);
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"tallylight.dev/paused": value}}}));
    api.patch("show", &PatchParams::default(), &patch).await?;
    Ok(())
}

fn reason(broadcast: &Broadcast, kind: &str) -> Option<String> {
    let found = broadcast.status_or_default().conditions.into_iter().find(|condition| condition.kind == kind);
    found.map(|condition| condition.reason)
}

#[tokio::test]
async fn a_paused_broadcasts_hooks_wait_and_none_is_lost() -> Result<()> {
    let stage = Stage::new("paused", json!({})).await?;
    stage.broadcast("show").await?;
    pause(&stage, json!("true")).await?;
    let is_paused = |b: &Broadcast| reason(b, "Paused").is_some() && reason(b, "Ready").as_deref() == Some("Paused");
    stage.tenant.until("show", "to say that it is paused", SOON, is_paused).await?;

    let owner = stage.node.open("show").await?;
    stage.node.end("show", owner, Reason::PublisherClosed).await?;
    let waits = |b: &Broadcast| reason(b, "HooksDelivered").as_deref() == Some("Paused");
    stage.tenant.until("show", "to say that its hooks wait", SOON, waits).await?;
    wait::throughout("it is paused", Duration::from_secs(3), async || {
        anyhow::ensure!(stage.receiver.requests().is_empty(), "a hook of a paused Broadcast was sent");
        Ok(())
    })
    .await?;
    pause(&stage, Value::Null).await?;

    let sent = stage.receiver.wait_for(2, SOON).await?;
    assert_eq!([sent[0].action(), sent[1].action()], ["liveStreamStarted", "liveStreamEnded"]);
    let goes_on = |b: &Broadcast| reason(b, "Paused").is_none() && reason(b, "Ready").as_deref() == Some("PoolReady");
    stage.tenant.until("show", "to go on", SOON, goes_on).await?;
    stage.tenant.settled("show", 2, SOON).await?;
    Ok(())
}
