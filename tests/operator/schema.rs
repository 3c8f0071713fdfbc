//! What the API server refuses by itself, and what people see of a Broadcast.

use anyhow::{Context, Result};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tallylight_crds::Recording;
use tests::{
    install::{self, Tenant},
    status::{ack, append, claim, end, expire, park, patch, resume, send, set},
};

use crate::chart::kubectl;

fn broadcast(name: &str, spec: &Value) -> Value {
    let mut value = json!({"apiVersion": "tallylight.dev/v1alpha1", "kind": "Broadcast", "metadata": {"name": name}});
    value["spec"] = json!({"pool": "live"});
    json_patch::merge(&mut value["spec"], spec);
    value
}

async fn tenant_with_show(name: &str) -> Result<Tenant> {
    let tenant = install::tenant(name).await?;
    install::apply(&tenant.admin, &tenant.namespace, &broadcast("show", &json!({}))).await?;
    Ok(tenant)
}

/// Sends the patch and returns the text of the refusal.
async fn refusal(admin: &Client, namespace: &str, operations: Vec<Value>) -> Result<String> {
    match send(admin, namespace, "show", &operations).await {
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(status.message.clone()),
        other => anyhow::bail!("expected a 422: {other:?}"),
    }
}

#[tokio::test]
async fn the_ledger_is_a_law_for_every_writer() -> Result<()> {
    let Tenant { admin, namespace, .. } = tenant_with_show("law").await?;
    let event = |sequence: i64, session: i64, action: &str| {
        append(&json!({"sequence": sequence, "session": session, "action": action, "time": "2026-11-24T00:00:00Z"}))
    };
    let refusal = async |operations: Vec<Value>| refusal(&admin, &namespace, operations).await;
    send(&admin, &namespace, "show", &claim("a", 1, 1, 0)).await?;

    for (attempt, operations, message) in [
        ("the cursor goes back", vec![set("/status/hooks/lastSequence", 0)], "lastSequence must not decrease"),
        ("a cursor without its event", vec![set("/status/hooks/lastSequence", 2)], "pending must hold every event"),
        (
            "an ack ahead of the log",
            vec![set("/status/hooks/ackedSequence", 9)],
            "must not be greater than lastSequence",
        ),
        ("an ack that leaves its event", vec![set("/status/hooks/ackedSequence", 1)], "pending must hold every event"),
        (
            "both cursors jump over nothing",
            vec![
                set("/status/hooks/lastSequence", 50),
                set("/status/hooks/ackedSequence", 50),
                set("/status/hooks/pending", json!([])),
            ],
            "only events that were in the log before this write",
        ),
        (
            "an event is changed",
            vec![set("/status/hooks/pending/0/time", "2026-11-24T00:00:01Z")],
            "must not be changed",
        ),
        (
            "a second start over an open session",
            claim("b", 2, 2, 1),
            "a session may start only when the one before has ended",
        ),
        (
            "a start without its session",
            vec![event(2, 1, "liveStreamStarted"), set("/status/hooks/lastSequence", 2)],
            "must be appended by the write that opens or ends that session",
        ),
        ("another node without an epoch", vec![set("/status/session/node", "b")], "session.node may change only"),
        ("the status is removed", vec![json!({"op": "remove", "path": "/status"})], "must not"),
        (
            "an idle state while a session is open",
            vec![set("/status/state", "Idle")],
            "state must be Live or Reconnecting exactly while a session is open",
        ),
    ] {
        let text = refusal(operations).await.with_context(|| attempt.to_owned())?;
        assert!(text.contains(message), "{attempt}: {text}");
    }

    send(&admin, &namespace, "show", &end(1, 1)).await?;
    let text = refusal(vec![set("/status/session/state", "Open"), set("/status/state", "Live")]).await?;
    assert!(text.contains("an ended session must not be reopened"), "{text}");
    let text = refusal(end(1, 2)).await?;
    assert!(text.contains("must be appended by the write that opens or ends that session"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_session_waits_for_its_publisher_only_as_it_says() -> Result<()> {
    let Tenant { admin, namespace, .. } = tenant_with_show("away").await?;
    let refusals = async |cases: Vec<(&str, Vec<Value>, &str)>| -> Result<()> {
        for (attempt, operations, message) in cases {
            let text = refusal(&admin, &namespace, operations).await.with_context(|| attempt.to_owned())?;
            assert!(text.contains(message), "{attempt}: {text}");
        }
        Ok(())
    };
    let parked_with = |change: Value| [park(1, 2), vec![change]].concat();
    send(&admin, &namespace, "show", &claim("a", 1, 1, 0)).await?;
    refusals(vec![
        (
            "a state without its time",
            vec![set("/status/state", "Reconnecting")],
            "state must be Reconnecting exactly while",
        ),
        (
            "a time without its state",
            parked_with(set("/status/state", "Live")),
            "state must be Reconnecting exactly while",
        ),
        ("the epoch stays", park(1, 1), "may change only with a larger epoch"),
        (
            "a node has it",
            parked_with(set("/status/session/node", "a")),
            "must be open and have no node, address or id",
        ),
        (
            "a wait of more than an hour",
            parked_with(set("/status/session/away/until", "1970-01-01T02:00:00Z")),
            "until must be at most one hour after since",
        ),
        (
            "a wait that ends before it begins",
            parked_with(set("/status/session/away/until", "1970-01-01T00:00:30Z")),
            "until must be at most one hour after since",
        ),
        (
            "a publisher that closed",
            parked_with(set("/status/session/away/reason", "PublisherClosed")),
            "a publisher that closed, or was stopped, is not awaited",
        ),
    ])
    .await?;
    send(&admin, &namespace, "show", &park(1, 2)).await?;
    refusals(vec![
        (
            "a longer wait",
            vec![set("/status/session/away/until", "1970-01-01T00:10:00Z")],
            "session.away may change only with a larger epoch",
        ),
        (
            "another end than when it left",
            [expire(1, 3, 1), vec![set("/status/session/endTime", "1970-01-01T00:02:00Z")]].concat(),
            "must end at session.away.since",
        ),
        ("a start", claim("b", 2, 3, 1), "a session may start only when the one before has ended"),
        ("the same epoch", resume("b", 1, 2), "may change only with a larger epoch"),
    ])
    .await?;
    send(&admin, &namespace, "show", &resume("b", 1, 3)).await?;
    send(&admin, &namespace, "show", &park(1, 4)).await?;
    let ended = send(&admin, &namespace, "show", &expire(1, 5, 1)).await?.status.unwrap();
    assert_eq!(ended.hooks.last_sequence, 2);
    refusals(vec![("nobody is away", park(1, 6), "an ended session must not be reopened")]).await
}

#[tokio::test]
async fn a_bad_spec_is_refused_with_the_field_and_the_reason() -> Result<()> {
    let tenant = tenant_with_show("spec").await?;
    let url = |url: &str| json!({"listenerHookURL": url});
    for (spec, message) in [
        (json!({"pool": null}), "spec.pool"),
        (json!({"pool": "UPPER"}), "spec.pool"),
        (url("ftp://example.com/"), "must have scheme http or https"),
        (url("/relative"), "must have scheme http or https"),
        (url("not a url"), "must be an absolute URL"),
        (url("http://user:secret@example.com/"), "must not contain a user name or password"),
        (url("http://example.com/#part"), "must not have a fragment"),
        (json!({"streamID": "a/b"}), "spec.streamID"),
        (json!({"hooks": {"contentType": "XML"}}), "spec.hooks.contentType"),
        (json!({"hooks": {"timeoutSeconds": 0}}), "spec.hooks.timeoutSeconds"),
        (json!({"hooks": {"actions": ["streamStarted"]}}), "spec.hooks.actions"),
        (json!({"listenerHookUrl": "http://example.com/"}), "listenerHookUrl"),
    ] {
        let answer = install::apply(&tenant.admin, &tenant.namespace, &broadcast("bad", &spec)).await;
        let text = format!("{:#}", answer.expect_err(&format!("{spec} must be refused")));
        assert!(text.contains(message), "{spec}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn pool_and_stream_id_never_change() -> Result<()> {
    let tenant = tenant_with_show("fixed").await?;
    let apply = async |name: &str, spec: Value| {
        let answer = install::apply(&tenant.admin, &tenant.namespace, &broadcast(name, &spec)).await;
        answer.map(|_| ()).map_err(|error| format!("{error:#}"))
    };

    let pool = apply("show", json!({"pool": "other"})).await.unwrap_err();
    let added = apply("show", json!({"streamID": "Show_1"})).await.unwrap_err();

    assert!(pool.contains("spec.pool is immutable"), "{pool}");
    assert!(added.contains("spec.streamID is immutable, and may be neither added nor removed"), "{added}");
    assert_eq!(apply("show", json!({"name": "Title"})).await, Ok(()), "the rest may change");
    Ok(())
}

#[tokio::test]
async fn kubectl_shows_what_matters() -> Result<()> {
    let Tenant { plane, admin, namespace } = install::tenant("columns").await?;
    let spec = json!({"name": "Morning show"});
    install::apply(&admin, &namespace, &broadcast("show", &spec)).await?;
    let operations = [claim("media-live-1", 1, 1, 0), end(1, 1), ack(1)].concat();
    for operations in [&operations[..4], &operations[4..9], &operations[9..]] {
        send(&admin, &namespace, "show", operations).await?;
    }

    let narrow = kubectl(plane, &namespace, &["get", "bc"])?;
    let wide = kubectl(plane, &namespace, &["get", "bc", "-o", "wide"])?;

    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<_> = narrow.lines().map(words).collect();
    assert_eq!(lines[0], ["NAME", "STATE", "TITLE", "PROTOCOL", "EVENTS", "ACKED", "AGE"]);
    assert_eq!(lines[1][..7], ["show", "Ended", "Morning", "show", "RTMP", "2", "1"]);
    assert!(wide.lines().next().unwrap().ends_with("POOL   NODE           NEXT ATTEMPT"), "{wide}");
    assert!(wide.contains("media-live-1"), "{wide}");
    Ok(())
}

#[tokio::test]
async fn kubectl_explains_every_field() -> Result<()> {
    let tenant = install::tenant("explain").await?;
    for kind in ["broadcast", "mediapool"] {
        let text = kubectl(tenant.plane, &tenant.namespace, &["explain", kind, "--recursive"])?;
        assert!(text.contains("listenerHookURL"), "{text}");
    }
    let text = kubectl(tenant.plane, &tenant.namespace, &["explain", "broadcast.spec.listenerHookURL"])?;
    assert!(text.contains("DESCRIPTION:\n    Where "), "{text}");
    Ok(())
}

#[test]
fn every_field_is_described() {
    for (name, yaml) in tallylight_crds::manifests() {
        let crd: Value = serde_saphyr::from_str(&yaml).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut silent = Vec::new();
        undescribed(schema, name, &mut silent);
        assert!(silent.is_empty(), "give these a doc comment: {silent:#?}");
    }
}

fn undescribed(schema: &Value, path: &str, silent: &mut Vec<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if property["description"].as_str().is_none_or(str::is_empty) {
            silent.push(path.clone());
        }
        undescribed(property, &path, silent);
        undescribed(&property["items"], &path, silent);
    }
}

/// A recording as its node makes it.
fn recording(name: &str) -> Value {
    json!({
        "apiVersion": "tallylight.dev/v1alpha1", "kind": "Recording", "metadata": {"name": name},
        "spec": {
            "pool": "live", "streamID": "show", "broadcast": {"name": "show", "uid": "u"}, "session": 1, "epoch": 1, "part": 1,
            "startTime": "2026-11-24T00:00:00Z", "format": "MP4", "fileName": "show-1.mp4", "storage": "local",
            "node": "media-live-1",
        },
    })
}

#[tokio::test]
async fn a_recording_goes_forward_only_and_its_spec_stays() -> Result<()> {
    let Tenant { admin, namespace, .. } = install::tenant("rec-law").await?;
    let api = Api::<Recording>::namespaced(admin.clone(), &namespace);
    install::apply(&admin, &namespace, &recording("rec")).await?;
    let params = PatchParams::default().validation_strict();
    let refusal = async |operations: &[Value]| match api
        .patch_status("rec", &params, &Patch::Json::<()>(patch(operations)))
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(status.message.clone()),
        other => anyhow::bail!("expected a 422: {other:?}"),
    };
    let says = async |operations: &[Value], message: &str| -> Result<()> {
        let text = refusal(operations).await?;
        anyhow::ensure!(text.contains(message), "{text}");
        Ok(())
    };
    let write =
        async |operations: &[Value]| api.patch_status("rec", &params, &Patch::Json::<()>(patch(operations))).await;

    says(&[set("/status/state", "Ready")], "must have a location, endTime").await?;
    says(&[set("/status/hook", json!({"sequence": 1}))], "hook is written once").await?;
    write(&[set("/status/state", "Uploading")]).await?;
    write(&[set("/status/state", "Finalizing")]).await?;
    says(&[set("/status/state", "Recording")], "does not grow again").await?;
    write(&[set("/status/state", "Failed")]).await?;
    says(&[set("/status/state", "Uploading")], "Ready and Failed are final").await?;
    write(&[set("/status/hook", json!({"sequence": 1}))]).await?;
    says(&[set("/status/hook", json!({"sequence": 2}))], "hook is written once").await?;
    says(&[json!({"op": "remove", "path": "/status/hook"})], "hook is written once").await?;

    for spec in [json!({"part": 2}), json!({"fileName": "other.mp4"}), json!({"retentionSeconds": 60})] {
        let answer = api.patch("rec", &params, &Patch::Merge(json!({"spec": spec}))).await;
        assert!(matches!(&answer, Err(kube::Error::Api(status)) if status.message.contains("immutable")), "{answer:?}");
    }
    api.patch("rec", &params, &Patch::Merge(json!({"spec": {"node": "media-live-2"}}))).await?;
    let nodes = api.list(&ListParams::default().fields("spec.node=media-live-2,status.state=Failed")).await?;
    assert_eq!(nodes.items.len(), 1);
    Ok(())
}

#[tokio::test]
async fn what_a_pool_cannot_do_with_webrtc_is_refused() -> Result<()> {
    let Tenant { admin, namespace, .. } = install::tenant("webrtc-spec").await?;
    let pool = |webrtc: &Value, nodes: &Value| {
        let spec = json!({"webRTC": webrtc, "nodes": nodes});
        json!({"apiVersion": "tallylight.dev/v1alpha1", "kind": "MediaPool", "metadata": {"name": "live"}, "spec": spec})
    };
    let one = json!({"exposure": "LoadBalancer"});
    let balanced = json!({"exposure": "LoadBalancer"});
    for (webrtc, nodes, message) in [
        (json!({"advertise": ["live.example.com"]}), json!({}), "an address is an IP"),
        (json!({"port": 5080}), json!({}), "webRTC.port"),
        (json!({"workers": 0}), json!({}), "webRTC.workers"),
        (json!({"iceServers": [{"url": "https://turn.example.com"}]}), json!({}), "iceServers[0].url"),
        (balanced.clone(), json!({"exposure": "LoadBalancer", "minNodes": 2}), "for pools of one node"),
        (balanced.clone(), json!({"exposure": "LoadBalancer", "maxNodes": 2}), "for pools of one node"),
        (balanced.clone(), json!({}), "for pools of one node"),
        (json!({"exposure": "HostPort"}), json!({"exposure": "HostNetwork"}), "not for nodes.exposure HostNetwork"),
    ] {
        let answer = install::dry_run(&admin, &namespace, &pool(&webrtc, &nodes)).await;
        let text = answer.map_or_else(|error| format!("{error:#}"), |taken| format!("taken: {taken:?}"));
        assert!(text.contains(message), "{webrtc} {nodes}: {text}");
    }
    let full = json!({
        "mode": "On", "exposure": "LoadBalancer", "port": 50000, "workers": 2,
        "advertise": ["203.0.113.9", "203.0.113.9:50001", "2001:db8::1", "[2001:db8::1]:50001"],
        "iceServers": [{"url": "stun:stun.example.com"}, {"url": "turns:turn.example.com:443?transport=tcp"}],
    });
    install::apply(&admin, &namespace, &pool(&full, &one)).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_no_policy_and_no_storage_is_refused() -> Result<()> {
    let Tenant { admin, namespace, .. } = install::tenant("rec-spec").await?;
    let pool = |spec: Value| json!({"apiVersion": "tallylight.dev/v1alpha1", "kind": "MediaPool", "metadata": {"name": "live"}, "spec": spec});
    let s3 = |more: Value| {
        let mut storage = json!({"name": "archive", "s3": {"bucket": "vods"}});
        json_patch::merge(&mut storage["s3"], &more);
        json!({"storages": [storage]})
    };
    for (spec, message) in [
        (json!({"recording": {"nameTemplate": "{other}"}}), "nameTemplate"),
        (json!({"recording": {"nameTemplate": "a/b"}}), "nameTemplate"),
        (json!({"recording": {"maxDurationSeconds": 5}}), "maxDurationSeconds"),
        (json!({"recording": {"mode": "Sometimes"}}), "mode"),
        (json!({"storages": [{"name": "a"}]}), "either a volume or s3"),
        (json!({"storages": [{"name": "local", "volume": {"path": "/a"}}]}), "give the storage another name"),
        (json!({"storages": [{"name": "a", "volume": {"path": "a"}}]}), "absolute without one"),
        (json!({"storages": [{"name": "a", "volume": {"claimName": "c", "path": "/a"}}]}), "relative to the claim"),
        (json!({"storages": [{"name": "a", "volume": {"claimName": "c", "path": "../a"}}]}), "must not contain"),
        (json!({"storages": [{"name": "a", "volume": {}}]}), "needs a claimName or a path"),
        (s3(json!({"kmsKeyID": "k"})), "serverSideEncryption KMS only"),
        (s3(json!({"endpoint": "http://user:secret@minio/"})), "must not contain a user name"),
        (
            json!({"storages": [{"name": "a", "volume": {"path": "/a"}}, {"name": "a", "volume": {"path": "/b"}}]}),
            "must have different names",
        ),
    ] {
        let answer = install::dry_run(&admin, &namespace, &pool(spec.clone())).await;
        let text = answer.map_or_else(|error| format!("{error:#}"), |taken| format!("taken: {taken:?}"));
        assert!(text.contains(message), "{spec}: {text}");
    }
    let full = json!({
        "recording": {
            "mode": "OnDemand", "format": "HLS", "maxDurationSeconds": 3600, "maxBytes": 1_048_576, "retentionSeconds": 86400,
            "storageRef": {"name": "archive"}, "nameTemplate": "{streamID}_{session}.{part}-{date}{time}",
        },
        "storages": [
            {"name": "archive", "s3": {
                "bucket": "vods", "prefix": "live/tv", "endpoint": "http://minio:9000", "region": "eu-1", "pathStyle": "Enabled",
                "secretRef": {"name": "minio"}, "serverSideEncryption": "KMS", "kmsKeyID": "arn:aws:kms:1", "acl": "private",
                "maxMegabitsPerSecond": 100,
            }},
            {"name": "shared", "volume": {"claimName": "vods", "path": "live/tv"}},
        ],
    });
    install::apply(&admin, &namespace, &pool(full)).await?;
    Ok(())
}
