//! Events of the ledger reach their URL: which, what, in what order, and what happens when it does not take them.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::PostParams};
use serde_json::json;
use tallylight_crds::{Broadcast, LaneState, Reason};
use tests::{
    http,
    receiver::{Receiver, Reply, Request},
};

use crate::stage::{SOON, Stage};

/// Replaces what differs between two runs: the ids that hang on the object's UID, and the times.
fn stable(request: &Request) -> String {
    let mut text = format!("{} {}\n", request.method, request.target);
    let changing = ["host", "webhook-id", "webhook-timestamp", "content-length", "user-agent"];
    for (name, value) in &request.headers {
        let value = if changing.contains(&name.as_str()) { "*" } else { value };
        text += &format!("{name}: {value}\n");
    }
    let fields = request.fields().into_iter().map(|(name, value)| match name.as_str() {
        "eventId" | "timestamp" | "broadcastUID" => format!("{name}=*"),
        _ => format!("{name}={value}"),
    });
    text + "\n" + &fields.collect::<Vec<_>>().join("\n")
}

fn outline(requests: &[Request]) -> Vec<String> {
    requests.iter().map(|request| format!("{} {}", request.field("id").unwrap_or_default(), request.action())).collect()
}

#[tokio::test]
async fn a_start_and_an_end_reach_the_broadcasts_own_url_and_not_the_pools() -> Result<()> {
    let default = Receiver::start().await?;
    let stage = Stage::new("own-url", json!({"listenerHookURL": default.url("default")})).await?;
    let spec = json!({
        "listenerHookURL": stage.receiver.url("own?token=a%20b"), "name": "Morgen & Übermorgen", "category": "news",
        "metadata": {"room": "1", "action": "forged"},
    });
    stage.tenant.broadcast("show", &spec).await?;

    let owner = stage.node.open("show").await?;
    stage.receiver.wait_for(1, SOON).await?;
    stage.node.end("show", owner, Reason::PublisherLost).await?;

    let requests = stage.receiver.wait_for(2, SOON).await?;
    stage.tenant.settled("show", 2, SOON).await?;
    insta::assert_snapshot!("form_started", stable(&requests[0]));
    insta::assert_snapshot!("form_ended", stable(&requests[1]));
    assert_eq!(stage.receiver.requests().len(), 2, "each is sent once");
    assert!(default.requests().is_empty());
    stage.receiver.check_promises()
}

#[tokio::test]
async fn without_a_url_of_its_own_a_broadcast_uses_the_pools() -> Result<()> {
    let default = Receiver::start().await?;
    let pool = json!({"app": "WebRTCApp", "listenerHookURL": default.url("default"), "hooks": {"contentType": "JSON"}});
    let stage = Stage::new("default-url", pool).await?;
    stage.tenant.broadcast("show", &json!({})).await?;

    stage.node.session("show").await?;

    let requests = default.wait_for(2, SOON).await?;
    stage.tenant.settled("show", 2, SOON).await?;
    insta::assert_snapshot!("json_started", stable(&requests[0]));
    insta::assert_snapshot!("json_ended", stable(&requests[1]));
    default.check_promises()
}

#[tokio::test]
async fn a_name_and_a_category_that_are_not_set_are_left_out() -> Result<()> {
    let stage = Stage::new("null", json!({})).await?;
    let url = stage.receiver.url("hook");
    stage.tenant.broadcast("unset", &json!({"listenerHookURL": url})).await?;
    stage.tenant.broadcast("blank", &json!({"listenerHookURL": url, "name": "", "category": ""})).await?;

    stage.node.session("unset").await?;
    stage.node.session("blank").await?;

    for request in stage.receiver.wait_for(4, SOON).await? {
        assert_eq!(request.field("streamName"), None, "{}", request.body);
        assert_eq!(request.field("category"), None, "{}", request.body);
    }
    Ok(())
}

#[tokio::test]
async fn events_without_a_url_or_filtered_out_are_settled_unsent() -> Result<()> {
    let stage = Stage::new("unsent", json!({})).await?;
    stage.tenant.broadcast("silent", &json!({})).await?;
    let spec = json!({"listenerHookURL": stage.receiver.url("hook"), "hooks": {"actions": ["liveStreamEnded"]}});
    stage.tenant.broadcast("ends-only", &spec).await?;

    stage.node.session("silent").await?;
    stage.node.session("ends-only").await?;

    stage.tenant.settled("silent", 2, SOON).await?;
    stage.tenant.settled("ends-only", 2, SOON).await?;
    assert_eq!(outline(&stage.receiver.requests()), ["ends-only liveStreamEnded"]);
    Ok(())
}

#[tokio::test]
async fn a_receiver_that_was_down_for_ten_sessions_gets_all_in_order() -> Result<()> {
    let mut stage = Stage::new("down", json!({})).await?;
    stage.broadcast("show").await?;
    stage.receiver.stop().await;
    for _ in 0..10 {
        stage.node.session("show").await?;
    }
    let is_backing_off = |broadcast: &Broadcast| {
        broadcast
            .status_or_default()
            .hooks
            .lane
            .is_some_and(|lane| lane.state == LaneState::Backoff && lane.attempts > 0)
    };
    let waiting = stage.tenant.until("show", "to back off", SOON, is_backing_off).await?;
    assert_eq!(waiting.status_or_default().hooks.pending.len(), 20);

    stage.receiver.restart().await?;

    stage.receiver.wait_for(20, SOON).await?;
    let settled = stage.tenant.settled("show", 20, SOON).await?;
    assert_eq!(settled.status_or_default().hooks.pending, []);
    assert_eq!(stage.receiver.requests().len(), 20, "nothing is sent twice");
    stage.receiver.check_promises()
}

#[tokio::test]
async fn a_receiver_that_is_down_holds_up_no_other() -> Result<()> {
    let stage = Stage::new("isolation", json!({})).await?;
    let stuck = Receiver::start().await?;
    stuck.always(Reply::Delay(Duration::from_secs(60)));
    for number in 0..20 {
        stage.tenant.broadcast(&format!("stuck-{number}"), &json!({"listenerHookURL": stuck.url("hook")})).await?;
        stage.node.session(&format!("stuck-{number}")).await?;
    }
    stage.broadcast("show").await?;

    stage.node.session("show").await?;

    stage.receiver.wait_for(2, Duration::from_secs(5)).await?;
    Ok(())
}

#[tokio::test]
async fn only_a_2xx_settles_an_event() -> Result<()> {
    let stage = Stage::new("verdicts", json!({})).await?;
    stage.broadcast("show").await?;
    let elsewhere = Receiver::start().await?;
    let location = elsewhere.url("redirected");
    let count = std::sync::atomic::AtomicUsize::new(0);
    stage.receiver.script(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => Reply::Redirect(location.clone()),
        1 => Reply::HangUp,
        2 => Reply::Status(500),
        _ => Reply::Status(204),
    });

    stage.node.session("show").await?;

    stage.receiver.wait_for(2, SOON).await?;
    stage.tenant.settled("show", 2, SOON).await?;
    let requests = stage.receiver.requests();
    assert_eq!(requests.len(), 5, "four attempts of the start, one of the end");
    assert!(requests[..4].iter().all(|request| request.body == requests[0].body), "an attempt repeats the body");
    assert!(elsewhere.requests().is_empty(), "a redirect is not followed");
    stage.receiver.check_promises()
}

#[tokio::test]
async fn a_receiver_says_when_to_come_again() -> Result<()> {
    let stage = Stage::new("retry-after", json!({})).await?;
    stage.broadcast("show").await?;
    let count = std::sync::atomic::AtomicUsize::new(0);
    stage.receiver.script(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => Reply::RetryAfter(503, 4),
        _ => Reply::Status(200),
    });

    stage.node.session("show").await?;

    stage.receiver.wait_for(2, SOON).await?;
    let requests = stage.receiver.requests();
    let pause = requests[1].time.duration_since(requests[0].time);
    assert!(pause.as_secs_f64() >= 4.0, "{pause:?}");
    Ok(())
}

#[tokio::test]
async fn a_url_in_a_secret_is_used_and_shown_nowhere() -> Result<()> {
    let stage = Stage::new("secret-url", json!({})).await?;
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": "hook"}, "stringData": {"url": stage.receiver.url("hook?token=hushhush")},
    }))?;
    let secrets = Api::<Secret>::namespaced(stage.tenant.admin.clone(), &stage.tenant.namespace);
    secrets.create(&PostParams::default(), &secret).await?;
    let spec = json!({"hooks": {"urlSecretRef": {"name": "hook", "key": "url"}}});
    stage.tenant.broadcast("show", &spec).await?;
    stage.receiver.always(Reply::Status(500));

    stage.node.session("show").await?;
    let failing = |broadcast: &Broadcast| broadcast.status_or_default().hooks.lane.is_some();
    let failed = stage.tenant.until("show", "to fail once", SOON, failing).await?;
    stage.receiver.always(Reply::Status(200));

    assert_eq!(stage.receiver.wait_for(2, SOON).await?[0].target, "/hook?token=hushhush");
    let operator = stage.operator.as_ref().unwrap();
    let metrics = http::get(operator.address("metrics")?, "/metrics").await?.body;
    for (place, text) in
        [("status", serde_json::to_string(&failed)?), ("log", operator.process.log()), ("metrics", metrics)]
    {
        assert!(!text.contains("hushhush"), "the {place} shows the URL: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn an_invalid_broadcast_says_so_and_harms_no_other() -> Result<()> {
    let stage = Stage::new("invalid", json!({})).await?;
    // The schema takes it; no port is that large.
    stage.tenant.broadcast("bad", &json!({"listenerHookURL": "http://receiver.example:99999/"})).await?;
    stage.broadcast("good").await?;

    stage.node.session("good").await?;

    stage.receiver.wait_for(2, SOON).await?;
    let condition = |broadcast: &Broadcast, status: &str| {
        let conditions = serde_json::to_value(broadcast.status_or_default().conditions).unwrap();
        conditions.as_array().unwrap().iter().any(|found| found["type"] == "Accepted" && found["status"] == status)
    };
    stage.tenant.until("bad", "to be refused", SOON, |broadcast| condition(broadcast, "False")).await?;
    stage.tenant.until("good", "to be accepted", SOON, |broadcast| condition(broadcast, "True")).await?;
    Ok(())
}

#[tokio::test]
async fn two_operators_at_once_lose_nothing_and_keep_the_order() -> Result<()> {
    let mut stage = Stage::without_operator("two", json!({})).await?;
    // Without an election, as when one leads that has not seen yet that it was followed: the ledger alone must hold.
    let first = stage.launch().args(["--leader-elect=false"]).start().await?;
    let second = stage.launch().args(["--leader-elect=false"]).named("operator-2").start().await?;
    for number in 0..4 {
        stage.broadcast(&format!("show-{number}")).await?;
    }

    for _ in 0..5 {
        for number in 0..4 {
            stage.node.session(&format!("show-{number}")).await?;
        }
    }

    stage.receiver.wait_for(40, SOON).await?;
    for number in 0..4 {
        stage.tenant.settled(&format!("show-{number}"), 10, SOON).await?;
    }
    stage.receiver.check_promises()?;
    drop(second);
    stage.operator = Some(first);
    stage.node.session("show-0").await?;
    stage.receiver.wait_for(42, SOON).await?;
    Ok(())
}

#[tokio::test]
async fn the_operator_tells_how_it_is() -> Result<()> {
    let mut stage = Stage::new("health", json!({})).await?;
    stage.broadcast("show").await?;
    stage.node.session("show").await?;
    stage.tenant.settled("show", 2, SOON).await?;
    let operator = stage.operator.take().unwrap();
    let address = operator.address("metrics")?.to_owned();

    assert_eq!(http::get(&address, "/healthz").await?.status, 200);
    assert_eq!(http::get(&address, "/readyz").await?.status, 200);
    let metrics = http::get(&address, "/metrics").await?.body;
    assert!(metrics.contains("# HELP"), "{metrics}");
    assert!(!metrics.contains("show"), "no label is an object's name: {metrics}");
    assert!(operator.stop().await?.success(), "SIGTERM ends it with 0");
    Ok(())
}
