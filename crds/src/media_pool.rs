//! `MediaPool`: media pods and the defaults of their Broadcasts; Ant Media Server calls it an application.

#![allow(unreachable_pub, reason = "KubeSchema repeats each struct where nothing can reach it")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, DEFAULT_APP, Hooks, RecordingPolicy, broadcast};

mod hls;
mod nodes;
mod storage;
mod web_rtc;

pub use hls::{HLS_PART_MILLISECONDS, HLS_SEGMENT_SECONDS, HLS_WINDOW_SECONDS, Hls, HlsMode};
pub use nodes::{Capacity, Exposure, MediaNodes, NodeService, NodeTemplate, PortRange, PullPolicy};
pub use storage::{PathStyle, S3Storage, ServerSideEncryption, Storage, StorageSecretRef, VolumeStorage};
pub use web_rtc::{IceServer, WEBRTC_PORT, WebRtc, WebRtcExposure, WebRtcMode, is_media_address};

/// MediaPool is a set of media nodes, and the defaults of the Broadcasts that they carry.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "tallylight.dev",
    version = "v1alpha1",
    kind = "MediaPool",
    plural = "mediapools",
    shortname = "mpool",
    category = "tallylight",
    namespaced,
    status = "MediaPoolStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.nodes.minNodes",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    doc = "MediaPool is a set of media nodes, and the defaults of the Broadcasts that they carry.",
    printcolumn(name = "App", type_ = "string", json_path = ".spec.app"),
    printcolumn(name = "Admission", type_ = "string", json_path = ".spec.admission"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Ready-Nodes", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Free", type_ = "integer", json_path = ".status.readyCapacity"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address"),
    printcolumn(name = "Exposure", type_ = "string", json_path = ".spec.nodes.exposure", priority = 1),
    printcolumn(name = "Updated", type_ = "integer", json_path = ".status.updatedReplicas", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = kube::core::Rule::new("size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')")
        .message("metadata.name must be a DNS label of at most 63 characters"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = web_rtc::balanced_nodes_are_one(), validation = web_rtc::host_network_is_shared())]
pub struct MediaPoolSpec {
    /// First path segment of publish, play and REST addresses (rtmp://host/APP/streamID): the application's name.
    #[serde(default = "default_app")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9_-]+$"))]
    pub app: String,

    /// Where events of this pool's Broadcasts are POSTed when they name no URL of their own.
    #[serde(rename = "listenerHookURL", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = broadcast::is_url(), validation = broadcast::is_http(), validation = broadcast::has_host(),
             validation = broadcast::has_no_fragment(), validation = broadcast::has_no_user())]
    pub listener_hook_url: Option<String>,

    /// How events are sent; each field is a default for this pool's Broadcasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,

    /// What is recorded of this pool's Broadcasts, and how; each field is a default for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<RecordingPolicy>,

    /// Where recordings are kept; the first is the default. Without any, they are in the data folder of the node that makes them, and go with it unless that is a volume.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(validation = storage::names_are_unique())]
    pub storages: Vec<Storage>,

    /// Who may publish: RegisteredOnly takes ids that have a Broadcast; Open makes a Broadcast for any other id, which is deleted after its end is delivered.
    #[serde(default)]
    pub admission: Admission,

    /// How long a session waits, in seconds, for a publisher that lost its connection or its node to come back to any node of the pool; 0 ends it at once.
    #[serde(default)]
    #[schemars(range(min = 0, max = 3600))]
    pub reconnect_window_seconds: i32,

    /// Playback over HLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hls: Option<Hls>,

    /// Publishing (WHIP) and playback (WHEP) over WebRTC.
    #[serde(rename = "webRTC", default, skip_serializing_if = "Option::is_none")]
    pub web_rtc: Option<WebRtc>,

    /// Media nodes that the operator makes. When it is left out, others make them (a Deployment, say) and the operator only watches them; to take it out of a pool lets its nodes run on until they are deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<MediaNodes>,
}

/// Admission of unregistered stream ids.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum Admission {
    /// Only ids that have a Broadcast.
    #[default]
    RegisteredOnly,
    /// Any id.
    Open,
}

/// What is observed of a MediaPool.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MediaPoolStatus {
    /// Generation of the spec that this status was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Media nodes that the operator has made and not told to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub replicas: Option<i32>,
    /// Those that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ready_replicas: Option<i32>,
    /// Those that are made by the present spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub updated_replicas: Option<i32>,
    /// Free sessions of the ready nodes. Written with other changes, and at most once a minute by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ready_capacity: Option<i32>,
    /// Where publishers and players reach the pool, as host:port of RTMP: spec.nodes.advertiseHost, else the load balancer's name or address, the Service's name in the cluster, or the address of the oldest node that is ready, as the exposure has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub address: Option<String>,
    /// Where each node that is ready is reached, the oldest 64 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub addresses: Vec<NodeAddress>,
    /// Selector of the nodes' pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub selector: Option<String>,
    /// Accepted says whether the spec is valid, Ready whether a node takes publishers, CapacityMet whether there are as many nodes and as much free capacity as asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
}

/// Most nodes in `status.addresses`; the schema's bound too.
pub const MAX_ADDRESSES: usize = 64;

/// Where publishers and players reach a media node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeAddress {
    /// Name of the node, which is its pod's.
    #[schemars(length(max = 253))]
    pub node: String,
    /// DNS name or IP.
    #[schemars(length(max = 253))]
    pub host: String,
    /// Port of RTMP.
    #[schemars(range(min = 1, max = 65_535))]
    pub rtmp_port: i32,
    /// Port of WebRTC's media there, UDP and TCP, when it is not the pod's own.
    #[serde(rename = "webRTCPort", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub web_rtc_port: Option<i32>,
}

/// What a pool settles for its Broadcasts, with every default decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamDefaults {
    pub listener_hook_url: Option<String>,
    pub hooks: Hooks,
}

impl MediaPoolSpec {
    /// The pool's defaults for its Broadcasts.
    #[must_use]
    pub fn stream_defaults(&self) -> StreamDefaults {
        StreamDefaults {
            listener_hook_url: self.listener_hook_url.clone(),
            hooks: self.hooks.clone().unwrap_or_default(),
        }
    }
}

fn default_app() -> String {
    DEFAULT_APP.to_owned()
}
