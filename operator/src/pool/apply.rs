//! Writes what was built and planned. Each write touches one object; what fails is decided anew by the next reconcile.

use k8s_openapi::api::{core::v1::Pod, core::v1::Service, policy::v1::PodDisruptionBudget};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Map, Value, json};
use tallylight_crds::{ADDRESS_ANNOTATION, LIVE_LABEL};
use uuid::Uuid;

use super::{
    Context, Error,
    addresses::{Front, Machines},
    build::{self, Resources},
    plan::{self, Action, Memory, Sessions, State},
    validate::ValidatedPool,
};

/// Field manager of what the operator applies.
const MANAGER: &str = "tallylight-operator";
/// While a session is on air, a cluster autoscaler must not take the node away for being little used.
const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";

/// Applies what a pool has once. The budget comes first: from the first pod on, sessions are protected.
///
/// # Errors
/// When the API server refuses one, or somebody else owns a field of it.
pub(super) async fn resources(pool: &ValidatedPool, resources: &Resources, context: &Context) -> Result<(), Error> {
    let how = PatchParams::apply(MANAGER);
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(context.client.clone(), &pool.namespace);
    let applied = budgets.patch(&resources.budget.name_any(), &how, &Patch::Apply(&resources.budget)).await;
    applied.map_err(|source| Error::ApplyBudget { source })?;
    let services: Api<Service> = Api::namespaced(context.client.clone(), &pool.namespace);
    let applied = services.patch(&resources.service.name_any(), &how, &Patch::Apply(&resources.service)).await;
    applied.map_err(|source| Error::ApplyService { source })?;
    Ok(())
}

/// Does what was planned, in order.
///
/// # Errors
/// At the first action that fails for another reason than that its pod is gone or replaced.
pub(super) async fn actions(
    pool: &ValidatedPool,
    actions: &[Action],
    front: &Front<'_>,
    memory: &mut Memory,
    context: &Context,
) -> Result<(), Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &pool.namespace);
    for action in actions {
        match action {
            Action::Label { name, uid, sessions } => label(&pods, name, uid, *sessions).await?,
            Action::Create { port, order, why } => {
                let suffix: String = Uuid::new_v4().simple().to_string().chars().take(build::SUFFIX).collect();
                let mut pod = build::pod(pool, &suffix, *order, *port);
                if let Some(address) = front.of_node(*port, None) {
                    pod.annotations_mut().insert(ADDRESS_ANNOTATION.to_owned(), address.to_string());
                }
                let how = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
                pods.create(&how, &pod).await.map_err(|source| Error::CreatePod { source })?;
                memory.made(pod.name_any(), *port);
                tracing::info!(namespace = pool.namespace, pod = pod.name_any(), port, ?why, "node.created");
            }
            Action::Drain { name, uid, why } => {
                stop(&pods, name, uid).await?;
                tracing::info!(namespace = pool.namespace, pod = name, ?why, "node.draining");
            }
            Action::Remove { name, uid } => {
                stop(&pods, name, uid).await?;
                tracing::warn!(namespace = pool.namespace, pod = name, "node.failed");
            }
        }
    }
    Ok(())
}

/// Writes at each pod where it is reached, once that is known.
///
/// # Errors
/// When the API server refuses it.
pub(super) async fn addresses(
    pool: &ValidatedPool,
    pods: &[plan::Pod],
    front: &Front<'_>,
    machines: &Machines,
    context: &Context,
) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pool.namespace);
    for pod in pods.iter().filter(|pod| !matches!(pod.state, State::Draining | State::Failed)) {
        let told = [
            (ADDRESS_ANNOTATION, front.of_pod(pod, machines).map(|address| address.to_string()), &pod.address),
            (build::MEDIA_ADDRESS_ANNOTATION, front.of_media(pod, machines), &pod.media_address),
        ];
        let news = told.into_iter().filter(|(_, now, before)| now.is_some() && now != *before);
        let annotations: Map<String, Value> = news.map(|(name, now, _)| (name.to_owned(), json!(now))).collect();
        if annotations.is_empty() {
            continue;
        }
        let metadata = json!({"uid": pod.uid, "annotations": annotations});
        patch(&api, &pod.name, metadata, |source| Error::AnnotatePod { source }).await?;
    }
    Ok(())
}

/// Deletes the pod with the grace that its spec names. A pod whose containers have ended goes at once.
async fn stop(pods: &Api<Pod>, name: &str, uid: &str) -> Result<(), Error> {
    let this_one = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let how = DeleteParams { preconditions: Some(this_one), ..DeleteParams::default() };
    settle(pods.delete(name, &how).await.map(drop), |source| Error::DeletePod { source })
}

async fn label(pods: &Api<Pod>, name: &str, uid: &str, sessions: Sessions) -> Result<(), Error> {
    let (live, evict) = match sessions {
        Sessions::Live => (json!("true"), json!("false")),
        Sessions::None => (json!(null), json!(null)),
    };
    let metadata = json!({"uid": uid, "labels": {LIVE_LABEL: live}, "annotations": {SAFE_TO_EVICT: evict}});
    patch(pods, name, metadata, |source| Error::LabelPod { source }).await
}

async fn patch(
    pods: &Api<Pod>,
    name: &str,
    metadata: Value,
    failed: impl FnOnce(kube::Error) -> Error,
) -> Result<(), Error> {
    let patch = Patch::Merge(json!({"metadata": metadata}));
    settle(pods.patch(name, &PatchParams::default(), &patch).await.map(drop), failed)
}

/// A pod that is gone, or another under its name, needs nothing.
fn settle(answer: kube::Result<()>, failed: impl FnOnce(kube::Error) -> Error) -> Result<(), Error> {
    match answer {
        Ok(()) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(source) => Err(failed(source)),
    }
}
