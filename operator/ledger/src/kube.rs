//! The store in a cluster: the status subresources of Broadcasts and Recordings, by JSON Patch.
//!
//! How the API server's answers must be read (tried against a real one): a failed `test` is a 422 `Invalid` without causes,
//! and so is a patch that cannot be applied; a refusal by schema or CEL is a 422 with causes.

use std::time::Duration;

use json_patch::{Patch as JsonPatch, PatchOperation, TestOperation, jsonptr::PointerBuf};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, ValidationDirective},
    core::{ObjectMeta, Status},
};
use serde_json::Value;
use tallylight_crds::{Broadcast, HOOKS_FINALIZER, MediaPool};

use crate::{Error, Key, Store};

mod patience;
mod recordings;
mod watch;

pub use patience::patient_client;
pub use watch::watch;

/// Longest wait for an answer, by which a claim has long been refused: a connection that hangs must not hold up its user.
const DEADLINE: Duration = Duration::from_secs(10);

/// Page size of lists: the API server's own default for large lists.
const PAGE: u32 = 500;

/// Broadcasts in a cluster.
#[derive(Clone)]
pub struct KubeStore {
    client: Client,
    manager: &'static str,
}

impl KubeStore {
    /// Makes a store that writes as the field manager `manager`. The client should not retry by itself.
    #[must_use]
    pub fn new(client: Client, manager: &'static str) -> Self {
        Self { client, manager }
    }

    /// Puts our finalizer on a Broadcast, so that it does not go before its events are settled.
    ///
    /// # Errors
    /// [`Error::Conflict`] when its finalizers have changed since it was read.
    pub async fn hold(&self, broadcast: &Broadcast) -> Result<(), Error> {
        let old = broadcast.metadata.finalizers.clone().unwrap_or_default();
        let new: Vec<&str> = old.iter().map(String::as_str).chain([HOOKS_FINALIZER]).collect();
        let place = PointerBuf::from_tokens(["metadata", "finalizers"]);
        // A missing member tests as null.
        let before = if old.is_empty() { Value::Null } else { Value::from(old.clone()) };
        let patch = JsonPatch(vec![
            test(place.clone(), before),
            PatchOperation::Add(json_patch::AddOperation { path: place, value: Value::from(new) }),
        ]);
        let patch: Patch<()> = Patch::Json(guarded(broadcast.metadata.uid.as_deref().unwrap_or_default(), &patch));
        let key = Key::of(broadcast);
        let api = self.broadcasts(&key.namespace);
        match answered(api.patch_metadata(&key.name, &self.patch_params(), &patch)).await {
            Ok(_) | Err(Error::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn broadcasts(&self, namespace: &str) -> Api<Broadcast> {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn delete_if(&self, key: &Key, preconditions: Preconditions) -> Result<(), Error> {
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        answered(self.broadcasts(&key.namespace).delete(&key.name, &params)).await.map(|_| ())
    }

    fn patch_params(&self) -> PatchParams {
        PatchParams {
            field_manager: Some(self.manager.to_owned()),
            field_validation: Some(ValidationDirective::Strict),
            ..PatchParams::default()
        }
    }
}

impl Store for KubeStore {
    async fn get(&self, key: &Key) -> Result<Option<Broadcast>, Error> {
        answered(self.broadcasts(&key.namespace).get_opt(&key.name)).await
    }

    async fn create(&self, broadcast: &Broadcast) -> Result<Broadcast, Error> {
        let namespace = broadcast.metadata.namespace.as_deref().unwrap_or_default();
        let params = PostParams { field_manager: Some(self.manager.to_owned()), ..PostParams::default() };
        answered(self.broadcasts(namespace).create(&params, broadcast)).await
    }

    async fn patch_status(&self, key: &Key, uid: &str, patch: &JsonPatch) -> Result<Broadcast, Error> {
        let patch: Patch<()> = Patch::Json(guarded(uid, patch));
        let api = self.broadcasts(&key.namespace);
        answered(api.patch_status(&key.name, &self.patch_params(), &patch)).await
    }

    async fn delete(&self, key: &Key, uid: &str) -> Result<(), Error> {
        self.delete_if(key, Preconditions { uid: Some(uid.to_owned()), resource_version: None }).await
    }

    async fn delete_unchanged(&self, known: &Broadcast) -> Result<(), Error> {
        let (uid, resource_version) = (known.metadata.uid.clone(), known.metadata.resource_version.clone());
        self.delete_if(&Key::of(known), Preconditions { uid, resource_version }).await
    }

    async fn release(&self, known: &Broadcast) -> Result<(), Error> {
        let (key, metadata) = (Key::of(known), &known.metadata);
        let Some(taken) = released(metadata, HOOKS_FINALIZER) else { return Ok(()) };
        let version = metadata.resource_version.as_deref().unwrap_or_default();
        let guard = test(PointerBuf::from_tokens(["metadata", "resourceVersion"]), Value::from(version));
        let patch = JsonPatch(std::iter::once(guard).chain(taken).collect());
        let patch: Patch<()> = Patch::Json(guarded(metadata.uid.as_deref().unwrap_or_default(), &patch));
        match answered(self.broadcasts(&key.namespace).patch_metadata(&key.name, &self.patch_params(), &patch)).await {
            Ok(_) | Err(Error::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn sessions_of(&self, namespace: &str, node: &str) -> Result<Vec<Broadcast>, Error> {
        let params = ListParams::default().fields(&format!("status.session.node={node}"));
        pages(&self.broadcasts(namespace), params).await
    }

    async fn pool(&self, namespace: &str, name: &str) -> Result<Option<MediaPool>, Error> {
        let api: Api<MediaPool> = Api::namespaced(self.client.clone(), namespace);
        answered(api.get_opt(name)).await
    }
}

/// Reads a list page by page.
async fn pages<K>(api: &Api<K>, params: ListParams) -> Result<Vec<K>, Error>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut params = params.limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page = answered(api.list(&params)).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(all),
        }
    }
}

/// The operations that take a finalizer away, when it is there.
fn released(metadata: &ObjectMeta, finalizer: &str) -> Option<Vec<PatchOperation>> {
    let at = metadata.finalizers.iter().flatten().position(|f| f == finalizer)?;
    let place = PointerBuf::from_tokens(["metadata", "finalizers", &at.to_string()]);
    Some(vec![
        test(place.clone(), Value::from(finalizer)),
        PatchOperation::Remove(json_patch::RemoveOperation { path: place }),
    ])
}

/// Puts the UID first: a Broadcast that was deleted and made again under the same name is another one.
fn guarded(uid: &str, patch: &JsonPatch) -> JsonPatch {
    let guard = test(PointerBuf::from_tokens(["metadata", "uid"]), Value::from(uid));
    JsonPatch(std::iter::once(guard).chain(patch.0.iter().cloned()).collect())
}

fn test(path: PointerBuf, value: Value) -> PatchOperation {
    PatchOperation::Test(TestOperation { path, value })
}

/// Waits for an answer, and reads what it says.
async fn answered<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(answer) => answer.map_err(error_of),
        Err(elapsed) => Err(Error::Unavailable { source: Box::new(elapsed) }),
    }
}

fn error_of(error: kube::Error) -> Error {
    match error {
        kube::Error::Api(status) => answer(&status),
        kube::Error::SerdeError(source) => Error::Invalid { message: source.to_string() },
        other => Error::Unavailable { source: Box::new(other) },
    }
}

fn answer(status: &Status) -> Error {
    let message = || status.message.chars().take(512).collect();
    let causes = status.details.as_ref().map_or(0, |details| details.causes.len());
    match status.code {
        404 => Error::NotFound,
        409 if status.reason == "AlreadyExists" => Error::AlreadyExists,
        409 => Error::Conflict,
        422 if causes == 0 => Error::Conflict,
        400 | 413 | 422 => Error::Invalid { message: message() },
        403 => Error::Forbidden { message: message() },
        _ => Error::Unavailable { source: Box::new(kube::Error::Api(Box::new(status.clone()))) },
    }
}
