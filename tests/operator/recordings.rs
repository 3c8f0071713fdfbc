//! Recordings: told of once, whatever dies; adopted when their node is lost; deleted when their time is over.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use reqwest::Method;
use serde_json::{Value, json};
use tallylight_crds::{Broadcast, MediaPool, Reason, Recording, RecordingState};
use tests::{http, node::Node, receiver::Reply, wait};

use crate::stage::{SOON, Stage};

/// The steps between a recording that is done and the receiver that has heard of it.
const POINTS: [&str; 4] = ["before-tell", "after-tell", "after-note", "before-ack"];
/// Deaths over all of them.
const ROUNDS: usize = 40;

fn recordings(stage: &Stage) -> Api<Recording> {
    Api::namespaced(stage.tenant.admin.clone(), &stage.tenant.namespace)
}

/// Waits until a recording is as the test wants it.
async fn until(
    stage: &Stage,
    recording: &Recording,
    what: &str,
    holds: impl Fn(Option<&Recording>) -> bool,
) -> Result<Option<Recording>> {
    let (api, name) = (recordings(stage), recording.metadata.name.clone().context("a name")?);
    wait::until(format!("{name} {what}"), SOON, async || {
        let found = api.get_opt(&name).await.map_err(|error| error.to_string())?;
        if holds(found.as_ref()) { Ok(found) } else { Err(format!("{found:#?}")) }
    })
    .await
}

/// What the receiver took, by stream: `start`, `end` and vod ids.
fn story(stage: &Stage, stream: &str) -> Vec<String> {
    let accepted = stage.receiver.accepted();
    let of_stream = accepted.iter().filter(|request| request.field("id").as_deref() == Some(stream));
    of_stream.map(|request| format!("{} {}", request.action(), request.field("vodId").unwrap_or_default())).collect()
}

fn name(recording: &Recording) -> &str {
    recording.metadata.name.as_deref().unwrap_or_default()
}

#[tokio::test]
async fn a_recording_that_is_ready_is_told_of_after_its_session_and_noted() -> Result<()> {
    let stage = Stage::new("rec-told", json!({})).await?;
    stage.broadcast("show").await?;
    let owner = stage.node.open("show").await?;
    let recording = stage.node.record("show", 1, "local").await?;
    stage.node.end("show", owner, Reason::PublisherClosed).await?;

    stage.node.ready(&recording, Timestamp::now()).await?;

    let requests = stage.receiver.wait_for(3, SOON).await?;
    assert_eq!(requests[2].action(), "vodReady");
    for (field, value) in
        [("vodId", name(&recording)), ("vodName", "show-1-1.mp4"), ("duration", "61250"), ("id", "show")]
    {
        assert_eq!(requests[2].field(field).as_deref(), Some(value), "{}", requests[2].body);
    }
    let broadcast = stage.tenant.settled("show", 3, SOON).await?;
    let noted = until(&stage, &recording, "to note its hook", |it| it.is_some_and(Recording::is_announced)).await?;
    let hook = noted.and_then(|it| it.status.and_then(|status| status.hook)).context("a hook")?;
    assert_eq!(hook.sequence, 3);
    let condition = broadcast.status_or_default().conditions.into_iter().find(|it| it.kind == "Recorded");
    assert_eq!(condition.map(|it| it.reason).as_deref(), Some("Recorded"));
    stage.receiver.check_promises()
}

#[tokio::test]
async fn an_operator_that_is_killed_at_any_step_tells_of_each_recording_once() -> Result<()> {
    let mut stage = Stage::without_operator("rec-crash", json!({})).await?;
    let mut told = Vec::new();
    for round in 0..ROUNDS {
        let show = format!("show-{}", round / POINTS.len());
        if round % POINTS.len() == 0 {
            stage.broadcast(&show).await?;
        }
        let point = POINTS[round % POINTS.len()];
        // At the acknowledgement of the recording: the start and the end have theirs before.
        let plan = if point == "before-ack" { format!("{point}:3") } else { point.to_owned() };
        stage.receiver.always(Reply::Status(200));
        let mut operator = stage.launch().var("TALLYLIGHT_CRASH_AT", &plan).spawn()?;
        let owner = stage.node.open(&show).await?;
        let recording = stage.node.record(&show, 1, "local").await?;
        stage.node.end(&show, owner, Reason::PublisherClosed).await?;
        stage.node.ready(&recording, Timestamp::now()).await?;
        // Acknowledgements that are written together pass their step once: then it lives, and is killed as it is.
        if operator.wait(Duration::from_secs(3)).await.is_err() {
            ensure!(point == "before-ack", "round {round}: {plan}: it goes on");
            operator.kill()?;
        }
        told.push((show, recording));
    }
    stage.start_operator().await?;
    for (show, recording) in &told {
        until(&stage, recording, "to note its hook", |it| it.is_some_and(Recording::is_announced)).await?;
        stage.tenant.settled(show, 3, SOON).await?;
    }
    for (show, recording) in &told {
        let mut of_it = story(&stage, show);
        of_it.retain(|event| event.ends_with(name(recording)));
        of_it.dedup();
        assert_eq!(of_it, [format!("vodReady {}", name(recording))]);
    }
    stage.receiver.check_promises()
}

#[tokio::test]
async fn a_broadcast_that_is_deleted_waits_for_its_recording() -> Result<()> {
    let mut stage = Stage::new("rec-deleted", json!({})).await?;
    stage.broadcast("show").await?;
    stage.tenant.until("show", "to be held", SOON, |it| it.metadata.finalizers.is_some()).await?;
    let owner = stage.node.open("show").await?;
    let recording = stage.node.record("show", 1, "local").await?;
    stage.node.end("show", owner, Reason::PublisherClosed).await?;
    let broadcasts = Api::<Broadcast>::namespaced(stage.tenant.admin.clone(), &stage.tenant.namespace);
    broadcasts.delete("show", &DeleteParams::default()).await?;
    stage.tenant.settled("show", 2, SOON).await?;
    // A new operator decides anew, with nothing pending: only the recording holds it.
    drop(stage.operator.take());
    stage.start_operator().await?;

    stage.node.ready(&recording, Timestamp::now()).await?;

    stage.receiver.wait_for(3, SOON).await?;
    wait::until("the Broadcast to go", SOON, async || match broadcasts.get_opt("show").await {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    let expected =
        ["liveStreamStarted ".to_owned(), "liveStreamEnded ".to_owned(), format!("vodReady {}", name(&recording))];
    assert_eq!(story(&stage, "show"), expected);
    stage.receiver.check_promises()
}

#[tokio::test]
async fn a_failed_recording_is_told_of_to_those_who_ask() -> Result<()> {
    let stage = Stage::new("rec-failed", json!({})).await?;
    stage.broadcast("quiet").await?;
    let actions = ["liveStreamStarted", "liveStreamEnded", "vodReady", "vodFailed"];
    let spec = json!({"listenerHookURL": stage.receiver.url("hook"), "hooks": {"actions": actions}});
    stage.tenant.broadcast("asks", &spec).await?;
    let mut failed = Vec::new();
    for show in ["quiet", "asks"] {
        let owner = stage.node.open(show).await?;
        let recording = stage.node.record(show, 1, "local").await?;
        stage.node.end(show, owner, Reason::PublisherClosed).await?;
        let condition = json!({
            "type": "Ready", "status": "False", "reason": "Damaged", "message": "no whole frame; delete it",
            "lastTransitionTime": Timestamp::now(),
        });
        let operations = [
            json!({"op": "replace", "path": "/status/state", "value": "Failed"}),
            json!({"op": "add", "path": "/status/conditions", "value": [condition]}),
        ];
        failed.push(stage.node.write_recording(&recording, &operations).await?);
    }
    let sequence = |recording: Option<Recording>| recording.and_then(|it| it.status?.hook).map(|hook| hook.sequence);
    let noted = |it: Option<&Recording>| it.is_some_and(Recording::is_announced);
    assert_eq!(sequence(until(&stage, &failed[0], "to be settled", noted).await?), Some(0));
    assert_eq!(sequence(until(&stage, &failed[1], "to be told of", noted).await?), Some(3));

    stage.tenant.settled("asks", 3, SOON).await?;
    assert_eq!(story(&stage, "asks")[2], format!("vodFailed {}", name(&failed[1])));
    let trouble = |broadcast: &Broadcast| {
        broadcast.status_or_default().conditions.iter().any(|it| it.kind == "Recorded" && it.reason == "Damaged")
    };
    let quiet = stage.tenant.until("quiet", "to say what is wrong", SOON, trouble).await?;
    assert_eq!(quiet.status_or_default().hooks.last_sequence, 2, "nobody asked");
    stage.receiver.check_promises()
}

#[tokio::test]
async fn recordings_of_a_lost_node_go_to_another_or_with_it() -> Result<()> {
    let storages = json!([{"name": "archive", "s3": {"bucket": "vods"}}]);
    let stage = Stage::new("rec-lost", json!({"storages": storages})).await?;
    stage.broadcast("show").await?;
    let heir = Node::start(&stage.tenant, "live", "media-live-2").await?;
    let owner = stage.node.open("show").await?;
    let local = stage.node.record("show", 1, "local").await?;
    let shared = stage.node.record("show", 2, "archive").await?;
    let leaving = stage.node.record("show", 3, "local").await?;
    stage.node.end("show", owner, Reason::PublisherClosed).await?;
    recordings(&stage).delete(name(&leaving), &DeleteParams::default()).await?;

    let pods = Api::<Pod>::namespaced(stage.tenant.admin.clone(), &stage.tenant.namespace);
    pods.delete("media-live-1", &DeleteParams::default().grace_period(0)).await?;

    let adopted =
        until(&stage, &shared, "to be adopted", |it| it.is_some_and(|it| it.spec.node == "media-live-2")).await?;
    let failed =
        until(&stage, &local, "to fail", |it| it.is_some_and(|it| it.state() == RecordingState::Failed)).await?;
    let conditions = failed.and_then(|it| it.status).map(|status| status.conditions).unwrap_or_default();
    assert_eq!(conditions[0].reason, "NodeLost");
    until(&stage, &leaving, "to go", |it| it.is_none()).await?;
    let refused = stage.node.ready(&shared, Timestamp::now()).await;
    assert!(refused.is_err(), "the node that was lost has no say any more");
    heir.ready(&adopted.context("it is adopted")?, Timestamp::now()).await?;
    stage.receiver.wait_for(3, SOON).await?;
    assert_eq!(story(&stage, "show")[2], format!("vodReady {}", name(&shared)));
    stage.receiver.check_promises()
}

#[tokio::test]
async fn a_recording_is_deleted_when_its_time_is_over_and_goes_with_its_file() -> Result<()> {
    let stage = Stage::new("rec-kept", json!({})).await?;
    stage.broadcast("show").await?;
    let owner = stage.node.open("show").await?;
    let kept = stage.node.record_as("show", 1, "local", |spec| spec.retention_seconds = Some(3600)).await?;
    let over = stage.node.record_as("show", 2, "local", |spec| spec.retention_seconds = Some(60)).await?;
    stage.node.end("show", owner, Reason::PublisherClosed).await?;
    stage.node.ready(&kept, Timestamp::now()).await?;
    let ended = Timestamp::now() - jiff::SignedDuration::from_secs(120);

    stage.node.ready(&over, ended).await?;

    let leaving = until(&stage, &over, "to be deleted", |it| it.is_some_and(Recording::is_leaving)).await?;
    assert!(leaving.is_some_and(|it| it.is_announced()), "not before it was told of");
    stage.node.release(&over).await?;
    until(&stage, &over, "to go", |it| it.is_none()).await?;
    assert!(!recordings(&stage).get(name(&kept)).await?.is_leaving());
    Ok(())
}

#[tokio::test]
async fn a_pool_that_is_gone_holds_no_recording_back() -> Result<()> {
    let stage = Stage::new("rec-pool-gone", json!({})).await?;
    stage.broadcast("show").await?;
    let owner = stage.node.open("show").await?;
    let recording = stage.node.record("show", 1, "archive").await?;
    stage.node.end("show", owner, Reason::PublisherClosed).await?;
    let (namespace, admin) = (&stage.tenant.namespace, stage.tenant.admin.clone());
    recordings(&stage).delete(name(&recording), &DeleteParams::default()).await?;
    Api::<MediaPool>::namespaced(admin.clone(), namespace).delete("live", &DeleteParams::default()).await?;

    let pods = Api::<Pod>::namespaced(admin, namespace);
    pods.delete("media-live-1", &DeleteParams::default().grace_period(0)).await?;

    until(&stage, &recording, "to go", |it| it.is_none()).await?;
    Ok(())
}

#[tokio::test]
async fn rest_lists_shows_and_deletes_vods_and_asks_for_recordings() -> Result<()> {
    let stage = Stage::new("rec-rest", json!({"recording": {"mode": "OnDemand"}})).await?;
    stage.broadcast("show").await?;
    let owner = stage.node.open("show").await?;
    let first = stage.node.record("show", 1, "local").await?;
    let operator = stage.operator.as_ref().context("it runs")?;
    let rest = operator.address("rest")?.to_owned();
    let asked = async |method: Method, path: &str| -> Result<Value> {
        http::request(method, &rest, &format!("/LiveApp/rest/v2/{path}"), None).await?.json()
    };
    let broadcasts = Api::<Broadcast>::namespaced(stage.tenant.admin.clone(), &stage.tenant.namespace);

    assert_eq!(asked(Method::PUT, "broadcasts/show/recording/true").await?["success"], true);
    assert!(broadcasts.get("show").await?.is_asked_to_record());
    let stopped = asked(Method::PUT, "broadcasts/show/recording/false?recordType=mp4").await?;
    assert_eq!((&stopped["success"], &stopped["dataId"]), (&json!(true), &json!(name(&first))));
    assert!(!broadcasts.get("show").await?.is_asked_to_record());

    assert_eq!(asked(Method::GET, "vods/count").await?, json!({"number": 0}), "it is not ready");
    stage.node.end("show", owner, Reason::PublisherClosed).await?;
    stage.node.ready(&first, Timestamp::now()).await?;
    let listed = asked(Method::GET, "vods/list/0/50?streamId=show").await?;
    assert_eq!(listed[0]["vodId"], json!(name(&first)));
    assert_eq!(asked(Method::GET, "vods/list/0/50?streamId=other").await?, json!([]));
    assert_eq!(asked(Method::GET, &format!("vods/{}", name(&first))).await?, listed[0]);
    assert_eq!(asked(Method::DELETE, &format!("vods/{}", name(&first))).await?["success"], true);
    until(&stage, &first, "to be deleted", |it| it.is_some_and(Recording::is_leaving)).await?;
    Ok(())
}

/// `kubectl annotate` writes as users do.
#[tokio::test]
async fn a_user_deletes_a_recording_and_the_node_lets_it_go() -> Result<()> {
    let stage = Stage::without_operator("rec-user", json!({})).await?;
    stage.broadcast("show").await?;
    stage.node.open("show").await?;
    let recording = stage.node.record("show", 1, "local").await?;
    let label = Patch::Merge(json!({"metadata": {"labels": {"team": "tv"}}}));
    recordings(&stage).patch(name(&recording), &PatchParams::default(), &label).await?;
    recordings(&stage).delete(name(&recording), &DeleteParams::default()).await?;

    stage.node.release(&recording).await?;

    until(&stage, &recording, "to go", |it| it.is_none()).await?;
    Ok(())
}
