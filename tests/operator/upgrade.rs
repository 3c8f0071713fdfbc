//! Two releases beside each other, as an upgrade makes them: what the last one wrote is read, what this one writes fits the last one's
//! definitions, and what a newer one added outlives this one's writes.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::{Value, json};
use tallylight_crds::{Broadcast, BroadcastState};
use tempfile::TempDir;
use tests::{
    apiserver::{ControlPlane, Parts},
    identity,
    install::{self, Tenant},
    node::Node,
    receiver::{Receiver, Reply},
    repository,
    service::{Launch, Service},
    wait,
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
        self.node.end("show", owner, tallylight_crds::Reason::PublisherClosed).await?;
        self.tenant.settled("show", 2, SOON).await?;
        assert_eq!(self.receiver.accepted().len(), 2);
        self.receiver.check_promises()
    }
}

/// Puts another definition in the place of one that has no objects; gone first, so that no old one is served for a moment.
async fn replace(admin: &Client, definition: &Value) -> Result<()> {
    let name = definition["metadata"]["name"].as_str().context("a definition without a name")?;
    let definitions = Api::<CustomResourceDefinition>::all(admin.clone());
    definitions.delete(name, &DeleteParams::default()).await?;
    wait::until(format!("{name} to go"), SOON, async || match definitions.get_opt(name).await {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
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

/// Its patches, as its media node and its operator sent them.
#[tokio::test]
async fn a_life_that_the_last_release_wrote_is_accepted_and_read_whole() -> Result<()> {
    let tenant = install::tenant("released").await?;
    let media = tenant.plane.client(&tenant.media_pod("live", "media-live-1").await?).await?;
    let operator = tenant.plane.client(&identity::operator(&tenant.admin, &tenant.namespace).await?).await?;
    tenant.broadcast("show", &json!({"listenerHookURL": "http://127.0.0.1:9/hook"})).await?;
    let uid = broadcasts(&tenant.admin, &tenant.namespace).get("show").await?.metadata.uid.unwrap();
    let life = include_str!("../fixtures/0.1.0/life.json").replace("$UID", &uid);
    let life: Vec<Value> = serde_json::from_str(&life)?;

    let mut states = Vec::new();
    for step in life {
        let client = if step["by"] == identity::MEDIA { &media } else { &operator };
        let patch = Patch::Json::<()>(serde_json::from_value(step["patch"].clone())?);
        let shows = broadcasts(client, &tenant.namespace);
        let answer = shows.patch_status("show", &PatchParams::default(), &patch).await;
        let raw = serde_json::to_value(answer.with_context(|| step["does"].to_string())?)?;
        let read: Broadcast = serde_json::from_value(raw.clone())?;
        assert_eq!(serde_json::to_value(&read.status)?, raw["status"], "{}", step["does"]);
        states.push(read.status_or_default().state);
    }

    use BroadcastState::{Ended, Live, Reconnecting};
    assert_eq!(states, [Live, Live, Live, Reconnecting, Live, Ended, Ended]);
    Ok(())
}
