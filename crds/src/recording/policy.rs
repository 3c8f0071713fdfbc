//! Whether and how a Broadcast is recorded: the part of a spec that Broadcasts and MediaPools share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RecordingFormat;
use crate::{Broadcast, MediaPoolSpec, RECORD_ANNOTATION};

/// Storage of files when the pool names none: the data folder of the node.
pub const LOCAL_STORAGE: &str = "local";
/// A name that tells the files of a pool apart, and can be read.
const NAME_TEMPLATE: &str = "{streamID}-{date}-{time}-{part}";

/// What is recorded, and how. A field that a Broadcast leaves out is taken from its MediaPool.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RecordingPolicy {
    /// Off, On, or OnDemand: while REST or the annotation tallylight.dev/record of the Broadcast asks for it. Off by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<RecordingMode>,
    /// MP4 or HLS; MP4 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<RecordingFormat>,
    /// A file that is as long as this, in seconds, is followed by the next part; no limit by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 86_400))]
    pub max_duration_seconds: Option<i64>,
    /// A file that is as large as this is followed by the next part; no limit by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_048_576, max = 5_497_558_138_880_i64))]
    pub max_bytes: Option<i64>,
    /// Which of the pool's storages keeps the files; the first by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_ref: Option<StorageRef>,
    /// Names of files, of letters, digits, `.`, `_`, `-` and {streamID}, {session}, {part}, {date}, {time} (UTC); {streamID}-{date}-{time}-{part} by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^([A-Za-z0-9._-]|\{(streamID|session|part|date|time)\})+$")
    )]
    pub name_template: Option<String>,
    /// How long after its end a recording is kept, in seconds; then it is deleted with its file. For ever by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 3_153_600_000_i64))]
    pub retention_seconds: Option<i64>,
}

/// When a Broadcast is recorded.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[schemars(inline)]
pub enum RecordingMode {
    /// Never.
    #[default]
    Off,
    /// While it is on air.
    On,
    /// While it is on air and somebody asks for it.
    OnDemand,
}

/// One of the pool's storages.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct StorageRef {
    /// Its name.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// How a Broadcast is recorded, with every default decided.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordingSettings {
    pub mode: RecordingMode,
    pub format: RecordingFormat,
    pub max_duration_seconds: Option<i64>,
    pub max_bytes: Option<i64>,
    /// Name of the storage.
    pub storage: String,
    pub name_template: String,
    pub retention_seconds: Option<i64>,
}

impl RecordingPolicy {
    /// Fills what a Broadcast leaves out from its pool's policy.
    #[must_use]
    pub fn or(&self, pool: &Self) -> Self {
        Self {
            mode: self.mode.or(pool.mode),
            format: self.format.or(pool.format),
            max_duration_seconds: self.max_duration_seconds.or(pool.max_duration_seconds),
            max_bytes: self.max_bytes.or(pool.max_bytes),
            storage_ref: self.storage_ref.clone().or_else(|| pool.storage_ref.clone()),
            name_template: self.name_template.clone().or_else(|| pool.name_template.clone()),
            retention_seconds: self.retention_seconds.or(pool.retention_seconds),
        }
    }
}

impl RecordingSettings {
    /// Settles how a Broadcast of the pool is recorded.
    #[must_use]
    pub fn of(broadcast: &Broadcast, pool: &MediaPoolSpec) -> Self {
        let defaults = pool.recording.clone().unwrap_or_default();
        let policy = broadcast.spec.recording.clone().unwrap_or_default().or(&defaults);
        let first = || pool.storages.first().map_or(LOCAL_STORAGE, |storage| &storage.name).to_owned();
        Self {
            mode: policy.mode.unwrap_or_default(),
            format: policy.format.unwrap_or_default(),
            max_duration_seconds: policy.max_duration_seconds,
            max_bytes: policy.max_bytes,
            storage: policy.storage_ref.map_or_else(first, |storage| storage.name),
            name_template: policy.name_template.unwrap_or_else(|| NAME_TEMPLATE.to_owned()),
            retention_seconds: policy.retention_seconds,
        }
    }

    /// Whether the Broadcast is to be recorded while it is on air.
    #[must_use]
    pub fn records(&self, broadcast: &Broadcast) -> bool {
        match self.mode {
            RecordingMode::Off => false,
            RecordingMode::On => true,
            RecordingMode::OnDemand => broadcast.is_asked_to_record(),
        }
    }
}

impl Broadcast {
    /// Whether REST, or a person, asks for a recording of what is on air.
    #[must_use]
    pub fn is_asked_to_record(&self) -> bool {
        let annotations = self.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(RECORD_ANNOTATION)).is_some_and(|value| value == "true")
    }
}

#[cfg(test)]
mod tests {
    use crate::{BroadcastSpec, Storage};

    use super::*;

    #[test]
    fn what_a_broadcast_leaves_out_is_its_pools_and_then_the_default() {
        let own = RecordingPolicy { mode: Some(RecordingMode::OnDemand), ..RecordingPolicy::default() };
        let mut broadcast = Broadcast::new("b", BroadcastSpec { recording: Some(own), ..BroadcastSpec::default() });
        let mut pool = MediaPoolSpec::default();
        assert_eq!(RecordingSettings::of(&broadcast, &pool).storage, LOCAL_STORAGE);

        pool.storages = vec![Storage { name: "archive".into(), ..Storage::default() }];
        pool.recording = Some(RecordingPolicy {
            mode: Some(RecordingMode::On),
            format: Some(RecordingFormat::Hls),
            retention_seconds: Some(60),
            ..RecordingPolicy::default()
        });
        let settings = RecordingSettings::of(&broadcast, &pool);

        assert_eq!((settings.mode, settings.format), (RecordingMode::OnDemand, RecordingFormat::Hls));
        assert_eq!((settings.storage.as_str(), settings.retention_seconds), ("archive", Some(60)));
        assert_eq!(settings.name_template, NAME_TEMPLATE);
        assert!(!settings.records(&broadcast));
        broadcast.metadata.annotations = Some([(RECORD_ANNOTATION.to_owned(), "true".to_owned())].into());
        assert!(settings.records(&broadcast));
    }
}
