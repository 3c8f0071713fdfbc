//! A media pod, with the token that it has in a cluster, can do its own work and nothing else.

use std::fmt::Debug;

use anyhow::Result;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tallylight_crds::{Broadcast, MediaPool, Recording};
use tests::{
    identity,
    install::{self, Tenant},
    status::{ack, append, claim, end, expire, park, patch, resume, send, set},
    wait,
};

struct Pods {
    tenant: Tenant,
    one: Client,
    two: Client,
}

impl Pods {
    async fn new(name: &str) -> Result<Self> {
        let tenant = install::tenant(name).await?;
        let one = tenant.plane.client(&tenant.media_pod("live", "media-live-1").await?).await?;
        let two = tenant.plane.client(&tenant.media_pod("live", "media-live-2").await?).await?;
        install::apply(&tenant.admin, &tenant.namespace, &broadcast("show")).await?;
        Ok(Self { tenant, one, two })
    }

    async fn send(&self, client: &Client, operations: Vec<Value>) -> kube::Result<Broadcast> {
        send(client, &self.tenant.namespace, "show", &operations).await
    }

    fn broadcasts(&self, client: &Client) -> Api<Broadcast> {
        Api::namespaced(client.clone(), &self.tenant.namespace)
    }
}

fn broadcast(name: &str) -> Value {
    json!({
        "apiVersion": "tallylight.dev/v1alpha1", "kind": "Broadcast",
        "metadata": {"name": name}, "spec": {"pool": "live"},
    })
}

fn ephemeral(extra: &Value) -> Broadcast {
    let mut value = broadcast("unregistered");
    value["metadata"]["labels"] = json!({"tallylight.dev/ephemeral": "true"});
    json_patch::merge(&mut value, extra);
    serde_json::from_value(value).unwrap()
}

#[track_caller]
fn refused<T: Debug>(answer: kube::Result<T>, reason: &str) {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains(reason) => {}
        other => panic!("expected a 403 that says {reason:?}: {other:?}"),
    }
}

#[tokio::test]
async fn a_media_pod_claims_and_ends_sessions_of_its_own() -> Result<()> {
    let pods = Pods::new("own").await?;

    pods.send(&pods.one, claim("media-live-1", 1, 1, 0)).await?;
    pods.send(&pods.one, end(1, 1)).await?;
    let taken = pods.send(&pods.two, claim("media-live-2", 2, 2, 2)).await?;

    assert_eq!(taken.status.unwrap().hooks.last_sequence, 3);
    Ok(())
}

#[tokio::test]
async fn a_media_pod_cannot_write_what_is_not_its_own() -> Result<()> {
    const OWN: &str = "may not write session";
    const STATUS: &str = "may only change status.state, status.session and status.hooks";
    const APPEND: &str = "may only append to status.hooks.pending";
    let pods = Pods::new("foreign").await?;

    refused(pods.send(&pods.one, claim("media-live-2", 1, 1, 0)).await, OWN);
    refused(pods.send(&pods.one, claim("media-live-1", 1, 5, 0)).await, OWN);
    pods.send(&pods.one, claim("media-live-1", 1, 1, 0)).await?;

    refused(pods.send(&pods.two, end(1, 1)).await, OWN);
    refused(pods.send(&pods.two, vec![set("/status/session/address", "10.0.0.9")]).await, OWN);
    refused(pods.send(&pods.two, vec![]).await, OWN);
    refused(pods.send(&pods.one, vec![set("/status/session/epoch", 2)]).await, OWN);
    refused(pods.send(&pods.one, vec![set("/status/session/id", "another")]).await, OWN);
    refused(pods.send(&pods.one, ack(1)).await, APPEND);
    refused(
        pods.send(&pods.one, vec![set("/status/hooks/lane", json!({"state": "Gone", "attempts": 0}))]).await,
        APPEND,
    );
    refused(pods.send(&pods.one, vec![set("/status/publish", json!({"keyVerifier": "mine"}))]).await, STATUS);
    refused(pods.send(&pods.one, vec![set("/status/observedGeneration", 1)]).await, STATUS);
    Ok(())
}

#[tokio::test]
async fn a_media_pod_takes_over_a_session_whose_publisher_is_away() -> Result<()> {
    let pods = Pods::new("away").await?;

    pods.send(&pods.one, claim("media-live-1", 1, 1, 0)).await?;
    pods.send(&pods.one, park(1, 2)).await?;
    pods.send(&pods.two, resume("media-live-2", 1, 3)).await?;
    pods.send(&pods.two, park(1, 4)).await?;
    // the publisher came back too late
    pods.send(&pods.one, expire(1, 5, 1)).await?;
    let next = pods.send(&pods.one, claim("media-live-1", 2, 6, 2)).await?;

    assert_eq!(next.status.unwrap().hooks.last_sequence, 3);
    Ok(())
}

#[tokio::test]
async fn a_media_pod_leaves_only_sessions_of_its_own_and_takes_over_only_those_that_were_left() -> Result<()> {
    const OWN: &str = "may not write session";
    let pods = Pods::new("away-foreign").await?;
    pods.send(&pods.one, claim("media-live-1", 1, 1, 0)).await?;

    refused(pods.send(&pods.two, park(1, 2)).await, OWN);
    refused(pods.send(&pods.two, resume("media-live-2", 1, 2)).await, OWN);
    refused(pods.send(&pods.one, park(1, 3)).await, OWN);
    pods.send(&pods.one, park(1, 2)).await?;
    refused(pods.send(&pods.one, expire(1, 4, 1)).await, OWN);
    refused(pods.send(&pods.two, resume("media-live-1", 1, 3)).await, OWN);
    refused(pods.send(&pods.two, resume("media-live-2", 1, 4)).await, OWN);
    pods.send(&pods.two, resume("media-live-2", 1, 3)).await?;
    refused(pods.send(&pods.one, end(1, 1)).await, OWN);
    refused(pods.send(&pods.one, park(1, 4)).await, OWN);
    Ok(())
}

#[tokio::test]
async fn a_token_without_a_pod_is_no_media_pod() -> Result<()> {
    let pods = Pods::new("unbound").await?;
    let unbound = identity::unbound_media(&pods.tenant.admin, &pods.tenant.namespace).await?;
    let unbound = pods.tenant.plane.client(&unbound).await?;

    refused(pods.send(&unbound, claim("media-live-1", 1, 1, 0)).await, "the token must be bound to a pod");
    refused(
        pods.broadcasts(&unbound).create(&PostParams::default(), &ephemeral(&json!({}))).await,
        "the token must be bound to a pod",
    );
    Ok(())
}

#[tokio::test]
async fn a_media_pod_creates_only_broadcasts_for_unregistered_ids() -> Result<()> {
    let pods = Pods::new("ephemeral").await?;
    let broadcasts = pods.broadcasts(&pods.one);
    let create = async |extra: Value| broadcasts.create(&PostParams::default(), &ephemeral(&extra)).await;
    const ONLY: &str = "may only create Broadcasts that are labelled";

    refused(create(json!({"metadata": {"labels": null}})).await, ONLY);
    refused(create(json!({"metadata": {"finalizers": ["example.com/keep"]}})).await, ONLY);
    refused(create(json!({"spec": {"listenerHookURL": "http://example.com/"}})).await, ONLY);
    let url = json!({"urlSecretRef": {"name": "any", "key": "any"}});
    refused(create(json!({"spec": {"hooks": url}})).await, ONLY);
    let created = create(json!({"metadata": {"finalizers": ["tallylight.dev/hooks"]}})).await?;

    assert!(created.is_ephemeral());
    Ok(())
}

/// A recording of `show` for which `node` is responsible.
fn recording(name: &str, node: &str) -> Recording {
    serde_json::from_value(json!({
        "apiVersion": "tallylight.dev/v1alpha1", "kind": "Recording",
        "metadata": {
            "name": name, "labels": {"tallylight.dev/broadcast": "show"}, "finalizers": ["tallylight.dev/recording"],
        },
        "spec": {
            "pool": "live", "streamID": "show", "broadcast": {"name": "show", "uid": "u"}, "session": 1, "epoch": 1, "part": 1,
            "startTime": "2026-11-24T00:00:00Z", "format": "MP4", "fileName": format!("{name}.mp4"), "storage": "local",
            "node": node,
        },
    }))
    .unwrap()
}

#[tokio::test]
async fn a_media_pod_writes_only_recordings_that_it_is_responsible_for() -> Result<()> {
    const OWN: &str = "is not responsible for a recording";
    const RELEASE: &str = "may only take the finalizer";
    let pods = Pods::new("foreign-rec").await?;
    let of = |client: &Client| Api::<Recording>::namespaced(client.clone(), &pods.tenant.namespace);
    let (one, two, admin) = (of(&pods.one), of(&pods.two), of(&pods.tenant.admin));
    let create = async |recording: &Recording| one.create(&PostParams::default(), recording).await;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    wait::until("the policy of recordings to be enforced", std::time::Duration::from_secs(60), async || {
        match one.create(&dry, &recording("theirs", "media-live-2")).await {
            Err(kube::Error::Api(status)) if status.message.contains(OWN) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let mut unfound = recording("mine", "media-live-1");
    unfound.metadata.labels = None;
    refused(create(&unfound).await, "must have the label tallylight.dev/broadcast");
    let mut unheld = recording("mine", "media-live-1");
    unheld.metadata.finalizers = None;
    refused(create(&unheld).await, "must have the label tallylight.dev/broadcast");
    create(&recording("mine", "media-live-1")).await?;

    let params = PatchParams::default().validation_strict();
    let status = |operations: &[Value]| Patch::Json::<()>(patch(operations));
    let finalizing = status(&[set("/status/state", "Finalizing")]);
    refused(two.patch_status("mine", &params, &finalizing).await, OWN);
    one.patch_status("mine", &params, &finalizing).await?;
    let hook = status(&[set("/status/state", "Failed"), set("/status/hook", json!({"sequence": 1}))]);
    refused(one.patch_status("mine", &params, &hook).await, "is the operator's to write");
    let moved = Patch::Merge(json!({"spec": {"node": "media-live-2"}}));
    refused(one.patch("mine", &params, &moved).await, RELEASE);
    let let_go = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    refused(one.patch("mine", &params, &let_go).await, RELEASE);
    refused(one.delete("mine", &DeleteParams::default()).await, "cannot delete resource");

    admin.delete("mine", &DeleteParams::default()).await?;
    refused(two.patch("mine", &params, &let_go).await, OWN);
    let more = Patch::Merge(json!({"metadata": {"finalizers": null, "labels": {"a": "b"}}}));
    refused(one.patch("mine", &params, &more).await, RELEASE);
    one.patch("mine", &params, &let_go).await?;
    assert!(admin.get_opt("mine").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_media_pod_tells_of_no_recording() -> Result<()> {
    let pods = Pods::new("foreign-vod").await?;
    pods.send(&pods.one, claim("media-live-1", 1, 1, 0)).await?;
    let event = json!({
        "sequence": 2, "session": 1, "action": "vodReady", "time": "2026-11-24T00:00:00Z", "vod": {"id": "x", "name": "x.mp4"},
    });

    let told = pods.send(&pods.one, vec![append(&event), set("/status/hooks/lastSequence", 2)]).await;
    refused(told, "may only append starts and ends of its own session");
    let announced = json!([{"recording": "x", "sequence": 1}]);
    refused(
        pods.send(&pods.one, vec![set("/status/hooks/announced", announced)]).await,
        "may only append to status.hooks.pending",
    );
    Ok(())
}

#[tokio::test]
async fn a_media_pod_has_no_other_rights() -> Result<()> {
    let pods = Pods::new("rights").await?;
    let Tenant { plane: _, admin, namespace } = &pods.tenant;
    let broadcasts = pods.broadcasts(&pods.one);
    let secrets = Api::<Secret>::namespaced(pods.one.clone(), namespace);
    let pools = Api::<MediaPool>::namespaced(pods.one.clone(), namespace);
    let elsewhere = install::tenant("elsewhere").await?;
    install::apply(admin, &elsewhere.namespace, &broadcast("show")).await?;
    let spec = Patch::Merge(json!({"spec": {"listenerHookURL": "http://example.com/"}}));

    refused(broadcasts.patch("show", &PatchParams::default(), &spec).await, "cannot patch resource \"broadcasts\"");
    refused(broadcasts.delete("show", &DeleteParams::default()).await, "cannot delete resource");
    refused(secrets.get("any").await, "cannot get resource \"secrets\"");
    refused(secrets.list(&ListParams::default()).await, "cannot list resource \"secrets\"");
    refused(pools.patch("live", &PatchParams::default(), &spec).await, "cannot patch resource \"mediapools\"");
    refused(send(&pods.one, &elsewhere.namespace, "show", &claim("media-live-1", 1, 1, 0)).await, "cannot patch");
    Ok(())
}

#[tokio::test]
async fn a_media_pod_keeps_its_lease() -> Result<()> {
    let pods = Pods::new("lease").await?;
    let leases = Api::<Lease>::namespaced(pods.one.clone(), &pods.tenant.namespace);
    let lease: Lease =
        serde_json::from_value(json!({"metadata": {"name": "media-live-1"}, "spec": {"leaseDurationSeconds": 15}}))?;

    leases.create(&PostParams::default(), &lease).await?;
    let renewed = Patch::Merge(json!({"spec": {"renewTime": "2026-11-24T00:00:00.000000Z"}}));
    let lease = leases.patch("media-live-1", &PatchParams::default(), &renewed).await?;

    assert!(lease.spec.unwrap().renew_time.is_some());
    Ok(())
}

#[tokio::test]
async fn a_spec_sent_to_the_status_is_not_written() -> Result<()> {
    let pods = Pods::new("spec").await?;
    pods.send(&pods.one, claim("media-live-1", 1, 1, 0)).await?;

    let answer = pods.send(&pods.one, vec![set("/spec/listenerHookURL", "http://example.com/")]).await?;

    assert_eq!(answer.spec.listener_hook_url, None);
    Ok(())
}

#[tokio::test]
async fn a_session_that_the_operator_closed_is_fenced() -> Result<()> {
    let pods = Pods::new("fence").await?;
    pods.send(&pods.one, claim("media-live-1", 1, 1, 0)).await?;
    let mut close = end(1, 1);
    close.push(set("/status/session/epoch", 2));
    let operator = identity::operator(&pods.tenant.admin, &pods.tenant.namespace).await?;
    let operator = pods.tenant.plane.client(&operator).await?;
    pods.send(&operator, close).await?;

    let late = pods.send(&pods.one, vec![set("/status/state", "Live")]).await;

    assert!(matches!(late, Err(kube::Error::Api(status)) if status.code == 422));
    pods.send(&pods.one, claim("media-live-1", 2, 3, 2)).await?;
    Ok(())
}

#[tokio::test]
async fn the_end_of_a_session_must_have_its_event() -> Result<()> {
    let pods = Pods::new("events").await?;
    pods.send(&pods.one, claim("media-live-1", 1, 1, 0)).await?;
    let foreign = json!({"sequence": 2, "session": 7, "action": "liveStreamEnded", "time": "2026-11-24T00:00:00Z"});

    let silent = pods.send(&pods.one, vec![set("/status/session/state", "Ended"), set("/status/state", "Ended")]).await;
    let other = pods.send(&pods.one, vec![append(&foreign), set("/status/hooks/lastSequence", 2)]).await;

    for answer in [silent, other] {
        assert!(matches!(&answer, Err(kube::Error::Api(status)) if status.code == 422), "{answer:?}");
    }
    Ok(())
}
