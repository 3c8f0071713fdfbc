//! Two releases beside each other, as an upgrade makes them: what the last one wrote is read, what this one writes fits the last one's
//! definitions, and what a newer one added outlives this one's writes.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use ledger::{Claim, Committed, Input, Key, KubeStore, Owner, Store as _, commit};
use serde_json::{Value, json};
use tallylight_crds::{Away, Broadcast, BroadcastState, Lane, Protocol, Reason};
use tempfile::TempDir;
use tests::{
    apiserver::{ControlPlane, Parts},
    identity,
    install::{self, Tenant},
    node::Node,
    receiver::{Receiver, Reply},
    repository,
    service::{Launch, Service},
};

use crate::{chart::output, stage::SOON};

/// The chart of the last release, as it was packaged.
const LAST: &str = "tests/operator/fixtures/tallylight-0.1.0.tgz";

/// A node and an operator of this version under other definitions.
struct Stage {
    // Dropped in this order: the operator before what it talks to.
    _operator: Service,
    receiver: Receiver,
    node: Node,
    tenant: Tenant,
    _folder: TempDir,
}

impl Stage {
    async fn new(name: &str, definitions: &[Value]) -> Result<Self> {
        // Definitions are of the whole cluster, so it is the test's own. As the shared one it is never dropped: the watchdog ends it.
        let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start(Parts::ApiServer).await?));
        let (admin, namespace) = install::install(plane, name).await?;
        for definition in definitions {
            replace(&admin, definition).await?;
        }
        let tenant = Tenant { plane, admin, namespace };
        tenant.pool(&json!({})).await?;
        let receiver = Receiver::start().await?;
        let node = Node::start(&tenant, "live", "media-live-1").await?;
        tenant.broadcast("show", &json!({"listenerHookURL": receiver.url("hook")})).await?;
        let folder = repository::folder(name)?;
        let kubeconfig = tenant.operator_kubeconfig(folder.path()).await?;
        let operator = Launch::operator(folder.path(), &kubeconfig, &tenant.namespace).start().await?;
        Ok(Self { _operator: operator, receiver, node, tenant, _folder: folder })
    }

    /// A session whose first hook is refused at first; `meanwhile` comes while it waits for its next attempt.
    async fn life(&self, meanwhile: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
        self.receiver.always(Reply::Status(503));
        let owner = self.node.open("show").await?;
        let waits = |broadcast: &Broadcast| broadcast.status_or_default().hooks.lane.is_some();
        self.tenant.until("show", "to wait for its receiver", SOON, waits).await?;
        meanwhile().await?;
        self.receiver.always(Reply::Status(200));
        self.node.end("show", owner, Reason::PublisherClosed).await?;
        self.tenant.settled("show", 2, SOON).await?;
        assert_eq!(self.receiver.accepted().len(), 2);
        self.receiver.check_promises()
    }
}

/// Puts another definition in the place of one that has no objects; gone first, so that no old one is served for a moment.
async fn replace(admin: &Client, definition: &Value) -> Result<()> {
    let name = definition["metadata"]["name"].as_str().context("a definition without a name")?;
    install::remove_definition(admin, name).await?;
    install::apply(admin, "default", definition).await?;
    install::effective(admin, std::slice::from_ref(definition)).await
}

fn broadcasts(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("tallylight.dev", "v1alpha1", "Broadcast");
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(&kind))
}

#[tokio::test]
async fn what_a_newer_version_added_outlives_every_write_of_this_one() -> Result<()> {
    const PLACES: [&str; 5] = ["spec", "status", "status/session", "status/hooks", "status/hooks/lane"];
    let mut newer =
        install::documents(&fs::read_to_string(repository::root().join("crds/broadcasts.yaml"))?)?.remove(0);
    for place in PLACES {
        let path = place.replace('/', "/properties/");
        let path = format!("/spec/versions/0/schema/openAPIV3Schema/properties/{path}/properties");
        newer.pointer_mut(&path).with_context(|| path.clone())?["newer"] = json!({"type": "string"});
    }
    let stage = Stage::new("newer", &[newer]).await?;
    let shows = broadcasts(&stage.tenant.admin, &stage.tenant.namespace);

    stage
        .life(async || {
            let spec = Patch::Merge(json!({"spec": {"newer": "kept"}}));
            shows.patch("show", &PatchParams::default(), &spec).await?;
            let status = Patch::Merge(json!({"status": {
                "newer": "kept", "session": {"newer": "kept"}, "hooks": {"newer": "kept", "lane": {"newer": "kept"}},
            }}));
            shows.patch_status("show", &PatchParams::default(), &status).await?;
            Ok(())
        })
        .await?;

    let after = serde_json::to_value(shows.get("show").await?)?;
    for place in PLACES {
        assert_eq!(after.pointer(&format!("/{place}/newer")), Some(&json!("kept")), "{place}: {after:#}");
    }
    Ok(())
}

#[tokio::test]
async fn what_this_version_writes_fits_the_definitions_of_the_last_release() -> Result<()> {
    let mut definitions = Vec::new();
    for file in ["broadcasts", "mediapools"] {
        let mut tar = Command::new("tar");
        tar.arg("-xzOf").arg(repository::root().join(LAST)).arg(format!("tallylight/crds/{file}.yaml"));
        definitions.extend(install::documents(&output(tar)?)?);
    }
    assert_eq!(definitions.len(), 2);
    let stage = Stage::new("older", &definitions).await?;

    stage.life(async || Ok(())).await?;

    let refused: Vec<_> =
        stage.tenant.plane.calls(&stage.tenant.namespace)?.into_iter().filter(|call| call.status == 400).collect();
    assert_eq!(refused, []);
    Ok(())
}

/// What the media node and the operator of the last release wrote in a life, step by step.
fn released_life(uid: &str) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&include_str!("../fixtures/0.1.0/life.json").replace("$UID", uid))?)
}

#[tokio::test]
async fn a_life_that_the_last_release_wrote_is_accepted_and_read_whole() -> Result<()> {
    let mixed = Mixed::new("released").await?;

    let (states, _) = mixed.life("show", &[]).await?;

    use BroadcastState::{Ended, Live, Reconnecting};
    assert_eq!(states, [Live, Live, Live, Reconnecting, Live, Ended, Ended]);
    Ok(())
}

#[tokio::test]
async fn an_operator_and_a_media_node_of_two_releases_write_the_life_that_one_release_writes() -> Result<()> {
    let mixed = Mixed::new("mixed").await?;
    let (_, released) = mixed.life("released", &[]).await?;

    let (_, new_media_node) = mixed.life("new-media-node", &[identity::MEDIA]).await?;
    let (_, new_operator) = mixed.life("new-operator", &[identity::OPERATOR]).await?;

    assert_eq!(new_media_node, released, "this media node with the last release's operator");
    assert_eq!(new_operator, released, "this operator with the last release's media node");
    Ok(())
}

/// A media node's and an operator's view of one namespace.
struct Mixed {
    media: Client,
    operator: Client,
    tenant: Tenant,
}

impl Mixed {
    async fn new(name: &str) -> Result<Self> {
        let tenant = install::tenant(name).await?;
        let media = tenant.plane.client(&tenant.media_pod("live", "media-live-1").await?).await?;
        let operator = tenant.plane.client(&identity::operator(&tenant.admin, &tenant.namespace).await?).await?;
        Ok(Self { media, operator, tenant })
    }

    /// Lets a Broadcast live: the accounts in `new` write as this version does, the others as the last release did. Returns the
    /// state and the ledger after each step, all of which this version has read whole.
    async fn life(&self, name: &str, new: &[&str]) -> Result<(Vec<BroadcastState>, Vec<Value>)> {
        self.tenant.broadcast(name, &json!({"listenerHookURL": "http://127.0.0.1:9/hook"})).await?;
        let made = broadcasts(&self.tenant.admin, &self.tenant.namespace).get(name).await?;
        let (mut states, mut ledgers) = (Vec::new(), Vec::new());
        for (step, input) in released_life(&made.metadata.uid.unwrap_or_default())?.iter().zip(life()?) {
            let by = step["by"].as_str().context("nobody does it")?;
            let client = if by == identity::MEDIA { &self.media } else { &self.operator };
            let written = if new.contains(&by) {
                self.commit(client, name, &input).await
            } else {
                let patch = Patch::Json::<()>(serde_json::from_value(step["patch"].clone())?);
                let shows = broadcasts(client, &self.tenant.namespace);
                shows.patch_status(name, &PatchParams::default(), &patch).await.map_err(Into::into)
            };
            let raw = serde_json::to_value(written.with_context(|| step["does"].to_string())?)?;
            let read: Broadcast = serde_json::from_value(raw.clone())?;
            assert_eq!(serde_json::to_value(&read.status)?, raw["status"], "{}", step["does"]);
            states.push(read.status_or_default().state);
            ledgers.push(json!({"session": raw["status"]["session"], "hooks": raw["status"]["hooks"]}));
        }
        Ok((states, ledgers))
    }

    async fn commit(&self, client: &Client, name: &str, input: &Input) -> Result<DynamicObject> {
        let store = KubeStore::new(client.clone(), "tallylight");
        let key = Key { namespace: self.tenant.namespace.clone(), name: name.to_owned() };
        let known = store.get(&key).await?.context("there is no Broadcast")?;
        let done = commit(&store, &known, input).await?;
        anyhow::ensure!(matches!(done, Committed::Done(_)), "{done:?}");
        Ok(broadcasts(client, &self.tenant.namespace).get(name).await?)
    }
}

/// What happens in that life, as this version is told of it.
fn life() -> Result<[Input; 7]> {
    let at = |seconds: i64| Timestamp::from_second(1_795_521_600 + seconds);
    let claim = |id: u32, seconds: i64| -> Result<Input> {
        Ok(Input::Claim(Claim {
            id: format!("7f0c3a52-9f1f-4a1e-8d0a-0f5a5f0f7f{id:02}"),
            node: "media-live-1".to_owned(),
            address: Some("10.1.0.7:5081".to_owned()),
            protocol: Protocol::Rtmp,
            time: at(seconds)?,
        }))
    };
    let lane = |lane: Value| serde_json::from_value::<Lane>(lane);
    let waits = json!({"state": "Backoff", "attempts": 1, "nextAttemptTime": at(2)?, "lastStatus": 503});
    let away = Away { since: at(10)?, until: at(40)?, reason: Reason::PublisherLost };
    let end = at(30)?;
    Ok([
        claim(1, 0)?,
        Input::SetLane(lane(waits)?),
        Input::Ack { through: 1, lane: Some(lane(json!({"state": "Idle"}))?) },
        Input::Park { owner: Owner { ordinal: 1, epoch: 1 }, away },
        claim(2, 12)?,
        Input::End { owner: Owner { ordinal: 1, epoch: 3 }, reason: Reason::PublisherClosed, time: end },
        Input::Ack { through: 2, lane: None },
    ])
}
