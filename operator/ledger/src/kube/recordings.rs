//! Recordings in a cluster.

use json_patch::{
    AddOperation, Patch as JsonPatch, PatchOperation, RemoveOperation, ReplaceOperation, jsonptr::PointerBuf,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PostParams, Preconditions},
};
use serde_json::{Value, json};
use tallylight_crds::{BROADCAST_LABEL, Broadcast, RECORDING_FINALIZER, Recording};

use super::{KubeStore, answered, guarded, pages, released, test};
use crate::{Error, Key, Recordings};

impl KubeStore {
    fn recordings_in(&self, namespace: &str) -> Api<Recording> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

impl Recordings for KubeStore {
    async fn recording(&self, key: &Key) -> Result<Option<Recording>, Error> {
        answered(self.recordings_in(&key.namespace).get_opt(&key.name)).await
    }

    async fn create_recording(&self, recording: &Recording) -> Result<Recording, Error> {
        let namespace = recording.metadata.namespace.as_deref().unwrap_or_default();
        let params = PostParams { field_manager: Some(self.manager.to_owned()), ..PostParams::default() };
        // that of one which was read: an API server refuses it, before it says that there is one
        let mut recording = recording.clone();
        recording.metadata.resource_version = None;
        answered(self.recordings_in(namespace).create(&params, &recording)).await
    }

    async fn patch_recording(&self, key: &Key, uid: &str, patch: &JsonPatch) -> Result<Recording, Error> {
        let patch: Patch<()> = Patch::Json(guarded(uid, patch));
        answered(self.recordings_in(&key.namespace).patch_status(&key.name, &self.patch_params(), &patch)).await
    }

    async fn assign_recording(&self, known: &Recording, node: &str) -> Result<Recording, Error> {
        let (key, metadata) = (Key::of_recording(known), &known.metadata);
        let patch = JsonPatch(vec![
            test(
                PointerBuf::from_tokens(["metadata", "resourceVersion"]),
                Value::from(metadata.resource_version.as_deref().unwrap_or_default()),
            ),
            PatchOperation::Replace(ReplaceOperation {
                path: PointerBuf::from_tokens(["spec", "node"]),
                value: Value::from(node),
            }),
        ]);
        let patch: Patch<()> = Patch::Json(guarded(metadata.uid.as_deref().unwrap_or_default(), &patch));
        answered(self.recordings_in(&key.namespace).patch(&key.name, &self.patch_params(), &patch)).await
    }

    async fn recordings_of_node(&self, namespace: &str, node: &str) -> Result<Vec<Recording>, Error> {
        let params = ListParams::default().fields(&format!("spec.node={node}"));
        pages(&self.recordings_in(namespace), params).await
    }

    async fn recording_of_file(&self, namespace: &str, pool: &str, file: &str) -> Result<Option<Recording>, Error> {
        let params = ListParams::default().fields(&format!("spec.pool={pool},spec.fileName={file}"));
        Ok(pages(&self.recordings_in(namespace), params).await?.into_iter().next())
    }

    async fn recordings_of(&self, namespace: &str, broadcast: Option<&str>) -> Result<Vec<Recording>, Error> {
        let params = match broadcast {
            Some(name) => ListParams::default().labels(&format!("{BROADCAST_LABEL}={name}")),
            None => ListParams::default(),
        };
        pages(&self.recordings_in(namespace), params).await
    }

    async fn delete_recording(&self, key: &Key, uid: &str) -> Result<(), Error> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        answered(self.recordings_in(&key.namespace).delete(&key.name, &params)).await.map(|_| ())
    }

    async fn release_recording(&self, known: &Recording) -> Result<(), Error> {
        let key = Key::of_recording(known);
        let Some(patch) = released(&known.metadata, RECORDING_FINALIZER) else { return Ok(()) };
        let patch: Patch<()> =
            Patch::Json(guarded(known.metadata.uid.as_deref().unwrap_or_default(), &JsonPatch(patch)));
        let api = self.recordings_in(&key.namespace);
        match answered(api.patch_metadata(&key.name, &self.patch_params(), &patch)).await {
            Ok(_) | Err(Error::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn annotate(&self, known: &Broadcast, name: &str, value: Option<&str>) -> Result<Broadcast, Error> {
        let all = known.metadata.annotations.as_ref();
        let old = all.and_then(|all| all.get(name)).map(String::as_str);
        if old == value {
            return Ok(known.clone());
        }
        let list = PointerBuf::from_tokens(["metadata", "annotations"]);
        let place = PointerBuf::from_tokens(["metadata", "annotations", name]);
        let operations = match value {
            None => vec![PatchOperation::Remove(RemoveOperation { path: place })],
            Some(value) if all.is_some() => {
                vec![PatchOperation::Add(AddOperation { path: place, value: Value::from(value) })]
            }
            // A missing member tests as null.
            Some(value) => vec![
                test(list.clone(), Value::Null),
                PatchOperation::Add(AddOperation { path: list, value: json!({name: value}) }),
            ],
        };
        let (key, uid) = (Key::of(known), known.metadata.uid.as_deref().unwrap_or_default());
        let patch: Patch<()> = Patch::Json(guarded(uid, &JsonPatch(operations)));
        answered(self.broadcasts(&key.namespace).patch(&key.name, &self.patch_params(), &patch)).await
    }
}
