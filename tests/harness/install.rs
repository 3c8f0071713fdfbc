//! Installs Tallylight into a control plane as a user does: what `helm template` makes of the chart, applied on the server.

use std::{collections::BTreeSet, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use k8s_openapi::{
    api::{admissionregistration::v1::ValidatingAdmissionPolicy, core::v1::Namespace},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    runtime::conditions,
};
use serde_json::{Value, json};
use tallylight_crds::Broadcast;

use crate::{
    apiserver::{ControlPlane, Credential},
    identity, repository, wait,
};

/// How long the API server may take to serve a new kind, or to enforce a new policy (about a second).
const EFFECTIVE: Duration = Duration::from_secs(60);

/// The Broadcast by which the policy is tried; what is asked of it is not counted among a test's calls.
pub(crate) const PROBE: &str = "policy-probe";

/// A namespace with Tallylight's kinds, accounts, roles and policy, and no Tallylight process yet.
pub struct Tenant {
    pub plane: &'static ControlPlane,
    pub admin: Client,
    pub namespace: String,
}

/// Makes a new namespace on the shared control plane, with everything of the chart but what needs a kubelet.
///
/// # Errors
/// When the chart does not render, or the API server refuses something.
pub async fn tenant(name: &str) -> Result<Tenant> {
    let plane = ControlPlane::shared().await?;
    let (admin, namespace) = install(plane, name).await?;
    Ok(Tenant { plane, admin, namespace })
}

/// As [`tenant`], on a control plane of the test's own.
///
/// # Errors
/// When the chart does not render, or the API server refuses something.
pub async fn install(plane: &ControlPlane, name: &str) -> Result<(Client, String)> {
    let namespace = format!("{name}-{}", uuid::Uuid::new_v4().simple().to_string().get(..8).unwrap_or_default());
    let watched = format!("watchNamespaces={{{namespace}}}");
    let admin = install_with(plane, &namespace, &[&watched, "mediaPool.create=false", "secrets.readAll=true"]).await?;
    Ok((admin, namespace))
}

/// As [`install`], with an operator that sees all namespaces.
///
/// # Errors
/// As [`install`].
pub async fn install_for_all(plane: &ControlPlane, namespace: &str) -> Result<Client> {
    install_with(plane, namespace, &["check.enabled=false", "secrets.readAll=true"]).await
}

async fn install_with(plane: &ControlPlane, namespace: &str, values: &[&str]) -> Result<Client> {
    let admin = plane.admin().await?;
    create_namespace(&admin, namespace).await?;
    let documents = render(namespace, values)?;
    for document in documents.iter().filter(|document| !needs_kubelet(document)) {
        apply(&admin, namespace, document).await?;
    }
    effective(&admin, &documents).await?;
    enforced(plane, &admin, namespace).await?;
    Ok(admin)
}

/// Renders the chart with Helm.
///
/// # Errors
/// When Helm is missing or refuses the chart or the values.
pub fn render(namespace: &str, set: &[&str]) -> Result<Vec<Value>> {
    let mut command = Command::new(repository::kubernetes_binary("helm")?);
    let chart = repository::root().join("charts/tallylight");
    command.args(["template", "tallylight"]).arg(chart).args(["--namespace", namespace]);
    for value in set {
        command.args(["--set", value]);
    }
    let output = command.output().context("failed to run helm")?;
    if !output.status.success() {
        bail!("helm template failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    documents(std::str::from_utf8(&output.stdout)?)
}

/// Splits a YAML stream into its documents; empty ones are left out.
///
/// # Errors
/// When one is not YAML.
pub fn documents(yaml: &str) -> Result<Vec<Value>> {
    let mut documents = Vec::new();
    for text in yaml.split("\n---") {
        let value: Value = serde_saphyr::from_str(text).with_context(|| format!("not YAML:\n{text}"))?;
        if value.is_object() {
            documents.push(value);
        }
    }
    Ok(documents)
}

/// Creates the object or makes it what the document says, by server-side apply with strict field validation.
///
/// # Errors
/// When the API server refuses it.
pub async fn apply(client: &Client, namespace: &str, document: &Value) -> Result<DynamicObject> {
    write(client, namespace, document, PatchParams::apply("tests").force().validation_strict()).await
}

/// As [`apply`], and nothing is written: the API server says what it would say.
///
/// # Errors
/// When the API server refuses it.
pub async fn dry_run(client: &Client, namespace: &str, document: &Value) -> Result<DynamicObject> {
    write(client, namespace, document, PatchParams::apply("tests").force().validation_strict().dry_run()).await
}

async fn write(client: &Client, namespace: &str, document: &Value, how: PatchParams) -> Result<DynamicObject> {
    let object: DynamicObject = serde_json::from_value(document.clone())?;
    let types = object.types.clone().context("the document has no kind")?;
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
    let name = object.metadata.name.clone().context("the document has no name")?;
    let api: Api<DynamicObject> = if cluster_scoped(&types.kind) {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), object.metadata.namespace.as_deref().unwrap_or(namespace), &resource)
    };
    api.patch(&name, &how, &Patch::Apply(document))
        .await
        .with_context(|| format!("failed to apply {} {name}", types.kind))
}

/// # Errors
/// When the API server refuses it.
pub async fn create_namespace(admin: &Client, name: &str) -> Result<()> {
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    Api::<Namespace>::all(admin.clone()).create(&PostParams::default(), &namespace).await?;
    Ok(())
}

/// Removes a definition, and with it all objects of its kind; returns when it is gone.
///
/// # Errors
/// At the deadline.
pub async fn remove_definition(admin: &Client, name: &str) -> Result<()> {
    let definitions = Api::<CustomResourceDefinition>::all(admin.clone());
    definitions.delete(name, &DeleteParams::default()).await?;
    wait::until(format!("{name} to go"), EFFECTIVE, async || match definitions.get_opt(name).await {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
}

/// Waits until the kinds are served and the policies are known.
///
/// # Errors
/// At the deadline.
pub async fn effective(admin: &Client, documents: &[Value]) -> Result<()> {
    let named = |kind: &str| -> BTreeSet<String> {
        let of_kind = documents.iter().filter(|document| document["kind"] == kind);
        of_kind.filter_map(|document| document["metadata"]["name"].as_str().map(str::to_owned)).collect()
    };
    let kinds = Api::<CustomResourceDefinition>::all(admin.clone());
    for name in named("CustomResourceDefinition") {
        let established = kube::runtime::wait::await_condition(kinds.clone(), &name, conditions::is_crd_established());
        tokio::time::timeout(EFFECTIVE, established).await.with_context(|| format!("{name} is not established"))??;
    }
    let policies = Api::<ValidatingAdmissionPolicy>::all(admin.clone());
    for name in named("ValidatingAdmissionPolicy") {
        policies.get(&name).await?;
    }
    Ok(())
}

/// Waits until the policy refuses what it must: it binds about a second after its creation.
async fn enforced(plane: &ControlPlane, admin: &Client, namespace: &str) -> Result<()> {
    let probe = json!({
        "apiVersion": "tallylight.dev/v1alpha1", "kind": "Broadcast",
        "metadata": {"name": PROBE}, "spec": {"pool": "probe"},
    });
    apply(admin, namespace, &probe).await?;
    let media = plane.client(&identity::unbound_media(admin, namespace).await?).await?;
    let broadcasts = broadcasts(&media, namespace);
    let nothing = Patch::Merge(json!({"status": {}}));
    wait::until("the admission policy to be enforced", EFFECTIVE, async || {
        match broadcasts.patch_status(PROBE, &PatchParams::default(), &nothing).await {
            Err(kube::Error::Api(status)) if status.message.contains("ValidatingAdmissionPolicy") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    self::broadcasts(admin, namespace).delete(PROBE, &DeleteParams::default()).await?;
    Ok(())
}

fn broadcasts(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("tallylight.dev", "v1alpha1", "Broadcast");
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(&kind))
}

fn needs_kubelet(document: &Value) -> bool {
    matches!(document["kind"].as_str(), Some("Deployment" | "Service" | "PodDisruptionBudget"))
}

fn cluster_scoped(kind: &str) -> bool {
    kind.starts_with("Cluster")
        || kind.starts_with("ValidatingAdmissionPolicy")
        || matches!(kind, "CustomResourceDefinition" | "Namespace" | "PriorityClass" | "ClusterIssuer")
}

impl Tenant {
    /// Writes a kubeconfig of the operator's account into `folder`.
    ///
    /// # Errors
    /// When the token is refused.
    pub async fn operator_kubeconfig(&self, folder: &std::path::Path) -> Result<std::path::PathBuf> {
        let credential = identity::operator(&self.admin, &self.namespace).await?;
        self.plane.kubeconfig(folder, identity::OPERATOR, &credential, &self.namespace)
    }

    /// Makes a Broadcast of pool `live` with these fields in its spec.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn broadcast(&self, name: &str, spec: &Value) -> Result<()> {
        let mut broadcast = json!({
            "apiVersion": "tallylight.dev/v1alpha1", "kind": "Broadcast",
            "metadata": {"name": name}, "spec": {"pool": "live"},
        });
        json_patch::merge(&mut broadcast["spec"], spec);
        apply(&self.admin, &self.namespace, &broadcast).await.map(|_| ())
    }

    /// Makes the MediaPool `live` with these fields in its spec.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn pool(&self, spec: &Value) -> Result<()> {
        let pool = json!({
            "apiVersion": "tallylight.dev/v1alpha1", "kind": "MediaPool", "metadata": {"name": "live"}, "spec": spec,
        });
        apply(&self.admin, &self.namespace, &pool).await.map(|_| ())
    }

    /// Waits until a Broadcast is what the test wants, and returns it.
    ///
    /// # Errors
    /// At the deadline, with the status that was last seen.
    pub async fn until(
        &self,
        name: &str,
        what: &str,
        deadline: Duration,
        holds: impl Fn(&Broadcast) -> bool,
    ) -> Result<Broadcast> {
        let broadcasts = Api::<Broadcast>::namespaced(self.admin.clone(), &self.namespace);
        wait::until(format!("{name} {what}"), deadline, async || {
            let broadcast = broadcasts.get(name).await.map_err(|error| error.to_string())?;
            if holds(&broadcast) { Ok(broadcast) } else { Err(format!("{:#?}", broadcast.status)) }
        })
        .await
    }

    /// Waits until every event so far, and at least `count`, is settled.
    ///
    /// # Errors
    /// At the deadline, with the status that was last seen.
    pub async fn settled(&self, name: &str, count: i64, deadline: Duration) -> Result<Broadcast> {
        self.until(name, &format!("to have {count} events settled"), deadline, |broadcast| {
            let hooks = broadcast.status_or_default().hooks;
            hooks.last_sequence >= count && hooks.acked_sequence == hooks.last_sequence
        })
        .await
    }

    /// Makes a media pod's object and returns what proves to be it.
    ///
    /// # Errors
    /// When the pod exists already.
    pub async fn media_pod(&self, pool: &str, name: &str) -> Result<Credential> {
        identity::media_pod(&self.admin, &self.namespace, pool, name).await
    }
}
