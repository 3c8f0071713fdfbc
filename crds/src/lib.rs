//! The Tallylight API, group `tallylight.dev`, version `v1alpha1`: Rust types, names, defaults and the rules that the
//! API server itself enforces (CEL). Both binaries and the chart's CRDs come from here; it knows no client and no clock.

mod broadcast;
mod condition;
mod hook_url;
mod hooks;
mod manifest;
mod media_pool;
mod naming;
mod recording;
mod reference;

pub use broadcast::{
    Action, Announced, Away, Broadcast, BroadcastSpec, BroadcastState, BroadcastStatus, Event, FrameOrder, HooksStatus,
    Lane, LaneState, Protocol, Publish, PublishStatus, Reason, Session, SessionState, Vod,
};
pub use condition::{Condition, ConditionStatus, set_condition};
pub use hook_url::{HookUrlSource, InvalidHookUrl, MAX_HOOK_URL, hook_url};
pub use hooks::{ContentType, Hooks, SecretKeyRef};
pub use manifest::manifests;
pub use media_pool::{
    Admission, Capacity, Exposure, HLS_PART_MILLISECONDS, HLS_SEGMENT_SECONDS, HLS_WINDOW_SECONDS, Hls, HlsMode,
    IceServer, MAX_ADDRESSES, MediaNodes, MediaPool, MediaPoolSpec, MediaPoolStatus, NodeAddress, NodeService,
    NodeTemplate, PathStyle, PortRange, PullPolicy, S3Storage, ServerSideEncryption, Storage, StorageSecretRef,
    StreamDefaults, VolumeStorage, WEBRTC_PORT, WebRtc, WebRtcExposure, WebRtcMode, is_media_address,
};
pub use naming::{InvalidApp, InvalidStreamId, StreamId, check_app, is_host, object_name};
pub use recording::{
    BroadcastRef, FileName, LOCAL_STORAGE, RecordedTrack, RecordedTrackKind, Recording, RecordingFormat, RecordingHook,
    RecordingMode, RecordingPolicy, RecordingSettings, RecordingSpec, RecordingState, RecordingStatus,
    RecordingTrouble, StorageRef, recording_name,
};
pub use reference::reference;

/// The API group.
pub const GROUP: &str = "tallylight.dev";
/// `apiVersion` of all objects.
pub const API_VERSION: &str = "tallylight.dev/v1alpha1";
/// Label of a Broadcast that a node created for an unregistered stream id; it is deleted after its end is delivered.
pub const EPHEMERAL_LABEL: &str = "tallylight.dev/ephemeral";
/// Label on pods and Leases of media nodes: the pool's name.
pub const POOL_LABEL: &str = "tallylight.dev/pool";
/// Standard label that tells media nodes' pods and Leases from others.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Value of [`COMPONENT_LABEL`] on pods and Leases of media nodes.
pub const MEDIA_NODE_COMPONENT: &str = "media-node";
/// Label that a media node's pod has while a session is on air there that would end with it: the pool's disruption budget covers
/// those pods.
pub const LIVE_LABEL: &str = "tallylight.dev/live";
/// Label on pods that the operator makes: which state of the pool's spec they are made by.
pub const REVISION_LABEL: &str = "tallylight.dev/revision";
/// Annotation on pods that the operator makes: a number that grows with each pod of the pool, since creation times tell whole
/// seconds only.
pub const ORDER_ANNOTATION: &str = "tallylight.dev/order";
/// Annotation on pods that the operator makes: host:port at which publishers and players reach the pod's RTMP.
pub const ADDRESS_ANNOTATION: &str = "tallylight.dev/address";
/// Annotation of a media node's Lease: `"true"` once it takes no new publishers because it is about to end.
pub const DRAINING_ANNOTATION: &str = "tallylight.dev/draining";
/// Annotation of a media node's Lease: host:port at which other nodes of the pool reach it; empty when it does not relay.
pub const RELAY_ADDRESS_ANNOTATION: &str = "tallylight.dev/relay-address";
/// Annotation of a media node's Lease: media that it sends, in whole Mbit/s.
pub const MEGABITS_OUT_ANNOTATION: &str = "tallylight.dev/megabits-per-second-out";
/// Annotation of a media node's Lease: CPU time that it uses, in percent of one core.
pub const CPU_ANNOTATION: &str = "tallylight.dev/cpu-percent";
/// Annotation of a media node's Lease: sessions on air.
pub const SESSIONS_ANNOTATION: &str = "tallylight.dev/sessions";
/// Annotation of Broadcasts and `MediaPools`; `"true"` lets the operator look on only.
pub const PAUSED_ANNOTATION: &str = "tallylight.dev/paused";
/// The operator's finalizer: an open session is ended and every event is settled before a Broadcast goes.
pub const HOOKS_FINALIZER: &str = "tallylight.dev/hooks";
/// Label of a Recording: the name of its Broadcast.
pub const BROADCAST_LABEL: &str = "tallylight.dev/broadcast";
/// A Recording's finalizer: the node that is responsible deletes the file and takes it away.
pub const RECORDING_FINALIZER: &str = "tallylight.dev/recording";
/// Annotation of a Broadcast that is recorded on demand: `"true"` while it is to be recorded.
pub const RECORD_ANNOTATION: &str = "tallylight.dev/record";
/// `ServiceAccount` of media pods, as the admission policy knows it.
pub const MEDIA_SERVICE_ACCOUNT: &str = "tallylight-media";
/// Before a pool's name, the name of the Secret with the key that its media nodes share.
pub const POOL_SECRET_PREFIX: &str = "tallylight-pool-";
/// The item of that Secret, and so the file in a pod.
pub const POOL_SECRET_KEY: &str = "key";
/// A ledger's hard bound: what the schema allows in `status.hooks.pending`.
pub const MAX_PENDING: usize = 64;
/// Most names in `status.hooks.announced`; the schema's bound too. Each goes with the next event of a recording once its
/// Recording says so itself, so that there are rarely more than two.
pub const MAX_ANNOUNCED: usize = 16;
/// Application name when a pool names none: Ant Media Server's default application.
pub const DEFAULT_APP: &str = "LiveApp";
