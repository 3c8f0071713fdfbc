//! `Recording`: one file of a session, from its first byte until it is deleted.

#![allow(unreachable_pub, reason = "KubeSchema repeats each struct where nothing can reach it")]

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BROADCAST_LABEL, Condition, RECORDING_FINALIZER, manifest};

mod name;
mod policy;
mod rules;

pub use name::{FileName, recording_name};
pub use policy::{LOCAL_STORAGE, RecordingMode, RecordingPolicy, RecordingSettings, StorageRef};

/// Recording is one recorded file of a Broadcast: a VoD once it is Ready.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "tallylight.dev",
    version = "v1alpha1",
    kind = "Recording",
    plural = "recordings",
    shortname = "rec",
    category = "tallylight",
    namespaced,
    status = "RecordingStatus",
    derive = "PartialEq",
    doc = "Recording is one recorded file of a Broadcast: a VoD once it is Ready. Media nodes make them. Its name is the vodId of hooks and of REST. To delete it deletes the file.",
    selectable = ".spec.pool",
    selectable = ".spec.node",
    selectable = ".spec.fileName",
    selectable = ".status.state",
    printcolumn(name = "Stream", type_ = "string", json_path = ".spec.streamID"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Milliseconds", type_ = "integer", json_path = ".status.durationMilliseconds"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.bytes"),
    printcolumn(name = "File", type_ = "string", json_path = ".spec.fileName"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node", priority = 1),
    printcolumn(name = "Location", type_ = "string", json_path = ".status.location", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#, priority = 1),
    validation = kube::core::Rule::new("size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')")
        .message("metadata.name must be a DNS label of at most 63 characters"),
    // Removal of a whole branch switches off every transition rule inside it, so the parent forbids it.
    validation = kube::core::Rule::new("!has(oldSelf.status) || has(self.status)").message("status must not be removed"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::only_the_node_changes())]
pub struct RecordingSpec {
    /// Name of the MediaPool whose node records.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub pool: String,
    /// Id of the stream, as publishers, players and hooks know it.
    #[serde(rename = "streamID")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9_.-]+$"))]
    pub stream_id: String,
    /// The Broadcast that was recorded.
    pub broadcast: BroadcastRef,
    /// Ordinal of its session.
    #[schemars(range(min = 1))]
    pub session: i64,
    /// Epoch of the session when the file was begun.
    #[schemars(range(min = 1))]
    pub epoch: i64,
    /// Which file of the session on its node it is, from 1.
    #[schemars(range(min = 1))]
    pub part: i64,
    /// When the first media of the file arrived.
    #[schemars(schema_with = "manifest::time")]
    pub start_time: Timestamp,
    /// Format of the file.
    pub format: RecordingFormat,
    /// Name of the file, unique in its pool: the hook's vodName.
    #[schemars(length(min = 5, max = 200), regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*\.(mp4|m3u8)$"))]
    pub file_name: String,
    /// Name of the pool's storage that the file is kept in; `local` is the data folder of the node.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub storage: String,
    /// How long after its end the recording is kept, in seconds; for ever when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 3_153_600_000_i64))]
    pub retention_seconds: Option<i64>,
    /// Media node that is responsible for the file: it writes the status, and deletes the file. Only the operator changes it.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
}

/// A Broadcast, and which of those that have had its name.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BroadcastRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Its UID.
    #[schemars(length(min = 1, max = 64))]
    pub uid: String,
}

/// Format of a recorded file.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[schemars(inline)]
pub enum RecordingFormat {
    /// One MP4 file.
    #[default]
    #[serde(rename = "MP4")]
    Mp4,
    /// A playlist and its segments.
    #[serde(rename = "HLS")]
    Hls,
}

/// What is observed of a Recording.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::final_states_are_final(), validation = rules::recording_does_not_come_back(),
         validation = rules::ready_says_what_is_there(), validation = rules::hook_is_said_once())]
pub struct RecordingStatus {
    /// Recording while it grows, Finalizing, Uploading, and at last Ready or Failed.
    pub state: RecordingState,
    /// When the last media of the file arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "manifest::time")]
    pub end_time: Option<Timestamp>,
    /// How long it plays, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub duration_milliseconds: Option<i64>,
    /// Size of the file; of all its files, for HLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub bytes: Option<i64>,
    /// What is in the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub tracks: Vec<RecordedTrack>,
    /// Where the file is: file:///… on the node's volume, or s3://BUCKET/KEY. It never holds a credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub location: Option<String>,
    /// Checksum of the whole file, as ALGORITHM:BASE64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub checksum: Option<String>,
    /// The hook that told of it; there once the event is in the Broadcast's ledger, or nobody asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<RecordingHook>,
    /// Ready says whether the file can be fetched, and why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// State of a Recording.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[schemars(inline)]
pub enum RecordingState {
    /// The file grows.
    #[default]
    Recording,
    /// The file is being made whole.
    Finalizing,
    /// The file is whole and on its way to the storage.
    Uploading,
    /// The file can be fetched where `location` says.
    Ready,
    /// There is no file, and there will be none.
    Failed,
}

/// A track of a recorded file.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RecordedTrack {
    /// Video or Audio.
    pub kind: RecordedTrackKind,
    /// Codec, as RFC 6381 writes it.
    #[schemars(length(min = 1, max = 64))]
    pub codec: String,
    /// Width of the picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub width: Option<i32>,
    /// Height of the picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub height: Option<i32>,
    /// Samples a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub sample_rate: Option<i32>,
    /// Channels of sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 255))]
    pub channels: Option<i32>,
}

/// Kind of a recorded track.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum RecordedTrackKind {
    Video,
    Audio,
}

/// The hook that told of a Recording.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RecordingHook {
    /// Position of the event in the Broadcast's ledger; 0 when nobody asked for one.
    #[schemars(range(min = 0))]
    pub sequence: i64,
}

impl Recording {
    /// A Recording as a media node makes it: under its own name, found by its Broadcast's, and held until its file is deleted.
    #[must_use]
    pub fn begun(namespace: &str, spec: RecordingSpec) -> Self {
        let BroadcastRef { name, uid } = &spec.broadcast;
        let labels = [(BROADCAST_LABEL.to_owned(), name.clone())];
        let mut recording = Self::new(&recording_name(name, uid, spec.session, spec.epoch, spec.part), spec);
        recording.metadata.namespace = Some(namespace.to_owned());
        recording.metadata.labels = Some(labels.into());
        recording.metadata.finalizers = Some(vec![RECORDING_FINALIZER.to_owned()]);
        recording
    }

    /// The status, with the schema's default where the store has none.
    #[must_use]
    pub fn status_or_default(&self) -> RecordingStatus {
        self.status.clone().unwrap_or_default()
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> RecordingState {
        self.status.as_ref().map(|status| status.state).unwrap_or_default()
    }

    /// Whether its hook is settled: in the ledger, or not asked for.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.hook.is_some())
    }

    /// Whether somebody has asked for its deletion.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

impl RecordingState {
    /// Whether nothing follows it.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Ready | Self::Failed => true,
            Self::Recording | Self::Finalizing | Self::Uploading => false,
        }
    }

    /// The spelling of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recording => "Recording",
            Self::Finalizing => "Finalizing",
            Self::Uploading => "Uploading",
            Self::Ready => "Ready",
            Self::Failed => "Failed",
        }
    }
}

/// What stands between a recording and its file, as the reason of the condition `Ready` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordingTrouble {
    /// There is no room left.
    DiskFull,
    /// The folder cannot be written, or the bucket's service does not answer.
    StorageUnavailable,
    /// A write takes longer than anybody should wait.
    StorageSlow,
    /// The node has no storage of that name.
    StorageMissing,
    /// The bucket's service refuses the credentials.
    CredentialsRefused,
    BucketMissing,
    /// The credentials may not do it.
    AccessDenied,
    /// The file holds nothing that can be played.
    Damaged,
    /// The node is gone, and the file was on its disk.
    NodeLost,
}

impl RecordingTrouble {
    const ALL: [Self; 9] = [
        Self::DiskFull,
        Self::StorageUnavailable,
        Self::StorageSlow,
        Self::StorageMissing,
        Self::CredentialsRefused,
        Self::BucketMissing,
        Self::AccessDenied,
        Self::Damaged,
        Self::NodeLost,
    ];

    /// The spelling of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DiskFull => "DiskFull",
            Self::StorageUnavailable => "StorageUnavailable",
            Self::StorageSlow => "StorageSlow",
            Self::StorageMissing => "StorageMissing",
            Self::CredentialsRefused => "CredentialsRefused",
            Self::BucketMissing => "BucketMissing",
            Self::AccessDenied => "AccessDenied",
            Self::Damaged => "Damaged",
            Self::NodeLost => "NodeLost",
        }
    }

    /// The trouble of a reason; `None` of one that says no trouble, or that this version does not know.
    #[must_use]
    pub fn of(reason: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|trouble| trouble.as_str() == reason)
    }
}

impl RecordingFormat {
    /// How the name of a file of this format ends, without the dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Hls => "m3u8",
        }
    }
}
