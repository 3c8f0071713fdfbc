//! The recordings of a node without media: made, moved and released as a recorder does, with the node's own token.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use json_patch::Patch;
use ledger::{Key, Recordings as _, conformance::recording_spec};
use serde_json::{Value, json};
use tallylight_crds::{Broadcast, Recording, RecordingSpec};

use crate::node::Node;

impl Node {
    /// Begins a recording of what is on air.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn record(&self, broadcast: &str, part: i64, storage: &str) -> Result<Recording> {
        self.record_as(broadcast, part, storage, |_| {}).await
    }

    /// As [`Node::record`], with changes to what it says.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn record_as(
        &self,
        broadcast: &str,
        part: i64,
        storage: &str,
        change: impl FnOnce(&mut RecordingSpec),
    ) -> Result<Recording> {
        let found = self.broadcast(broadcast).await?;
        let session = found.status_or_default().session;
        let mut spec = RecordingSpec {
            pool: found.spec.pool.clone(),
            session: session.ordinal,
            epoch: session.epoch,
            start_time: Timestamp::now(),
            file_name: format!("{broadcast}-{}-{part}.mp4", session.ordinal),
            storage: storage.to_owned(),
            ..recording_spec(&found, part, self.name())
        };
        change(&mut spec);
        Ok(self.store().create_recording(&Recording::begun(self.namespace(), spec)).await?)
    }

    /// The file can be fetched.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn ready(&self, recording: &Recording, end: Timestamp) -> Result<Recording> {
        let add = |name: &str, value: Value| json!({"op": "add", "path": format!("/status/{name}"), "value": value});
        let ready = [
            add("state", json!("Ready")),
            add("endTime", json!(end)),
            add("durationMilliseconds", json!(61_250)),
            add("bytes", json!(1_000_000)),
            add("location", json!(format!("file:///recordings/{}", recording.spec.file_name))),
        ];
        self.write_recording(recording, &ready).await
    }

    /// # Errors
    /// When the API server refuses it.
    pub async fn write_recording(&self, recording: &Recording, operations: &[Value]) -> Result<Recording> {
        let patch: Patch = serde_json::from_value(Value::from(operations.to_vec()))?;
        let uid = recording.metadata.uid.as_deref().unwrap_or_default();
        Ok(self.store().patch_recording(&Key::of_recording(recording), uid, &patch).await?)
    }

    /// The file is gone.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn release(&self, recording: &Recording) -> Result<()> {
        Ok(self.store().release_recording(recording).await?)
    }

    async fn broadcast(&self, name: &str) -> Result<Broadcast> {
        let key = Key { namespace: self.namespace().to_owned(), name: name.to_owned() };
        ledger::Store::get(self.store(), &key).await?.with_context(|| format!("no Broadcast {name}"))
    }
}
