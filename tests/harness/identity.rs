//! Gives our processes the identities that they have in a cluster: ServiceAccount tokens, bound to a Pod object for media pods.

use anyhow::{Context, Result};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::json;

use crate::apiserver::Credential;

/// The account of media pods; the admission policy knows it by this name.
pub const MEDIA: &str = "tallylight-media";
/// The operator's account.
pub const OPERATOR: &str = "tallylight-operator";

/// Longer than the longest test and measurement.
const TOKEN_SECONDS: i64 = 3600;

/// A token of the operator's account.
///
/// # Errors
/// When the account is not there.
pub async fn operator(admin: &Client, namespace: &str) -> Result<Credential> {
    token(admin, namespace, OPERATOR, None).await
}

/// A token of another account, bound to no pod.
///
/// # Errors
/// When the account is not there.
pub async fn account(admin: &Client, namespace: &str, name: &str) -> Result<Credential> {
    token(admin, namespace, name, None).await
}

/// A token of the media account that is bound to no pod.
///
/// # Errors
/// When the account is not there.
pub async fn unbound_media(admin: &Client, namespace: &str) -> Result<Credential> {
    token(admin, namespace, MEDIA, None).await
}

/// Makes the Pod object of a media-node, as the kubelet would run it, and a token bound to it.
///
/// # Errors
/// When the pod exists already, or the account does not.
pub async fn media_pod(admin: &Client, namespace: &str, pool: &str, name: &str) -> Result<Credential> {
    let pod: Pod = serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"tallylight.dev/pool": pool, "app.kubernetes.io/component": "media-node"},
        },
        "spec": {
            "serviceAccountName": MEDIA,
            "containers": [{"name": "media-node", "image": "localhost/tallylight/media-node:test"}],
        },
    }))?;
    let pod = Api::<Pod>::namespaced(admin.clone(), namespace).create(&PostParams::default(), &pod).await?;
    of_pod(admin, namespace, &pod).await
}

/// A token bound to the pod of a media-node.
///
/// # Errors
/// When the pod is gone, or the account is not there.
pub async fn of_pod(admin: &Client, namespace: &str, pod: &Pod) -> Result<Credential> {
    let bound = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    };
    token(admin, namespace, MEDIA, Some(bound)).await
}

/// Removes a Pod object at once, as after the end of its containers.
///
/// # Errors
/// When it is not there.
pub async fn delete_pod(admin: &Client, namespace: &str, name: &str) -> Result<()> {
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    Api::<Pod>::namespaced(admin.clone(), namespace).delete(name, &now).await?;
    Ok(())
}

async fn token(
    admin: &Client,
    namespace: &str,
    account: &str,
    bound: Option<BoundObjectReference>,
) -> Result<Credential> {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(TOKEN_SECONDS),
            bound_object_ref: bound,
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let accounts = Api::<ServiceAccount>::namespaced(admin.clone(), namespace);
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .with_context(|| format!("failed to request a token of {account}"))?;
    Ok(Credential::Token(answer.status.context("the token request has no status")?.token))
}
