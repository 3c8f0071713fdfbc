//! `Broadcast`: one named live stream, on air or not, and the ledger of its events.

#![allow(unreachable_pub, reason = "KubeSchema repeats each struct where nothing can reach it")]

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, Hooks, RecordingPolicy, SecretKeyRef, StreamId, manifest, object_name};

mod away;
mod event;
mod rules;

pub use away::Away;
pub use event::{Announced, Event, Vod};
pub(crate) use rules::{has_host, has_no_fragment, has_no_user, is_http, is_url};

/// Broadcast is one named live stream, on air or not.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "tallylight.dev",
    version = "v1alpha1",
    kind = "Broadcast",
    plural = "broadcasts",
    shortname = "bc",
    category = "tallylight",
    namespaced,
    status = "BroadcastStatus",
    derive = "PartialEq",
    doc = "Broadcast is one named live stream, on air or not.",
    selectable = ".spec.pool",
    selectable = ".status.state",
    selectable = ".status.session.node",
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Title", type_ = "string", json_path = ".spec.name"),
    printcolumn(name = "Protocol", type_ = "string", json_path = ".status.session.protocol"),
    printcolumn(name = "Events", type_ = "integer", json_path = ".status.hooks.lastSequence"),
    printcolumn(name = "Acked", type_ = "integer", json_path = ".status.hooks.ackedSequence"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool", priority = "1"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.session.node", priority = "1"),
    printcolumn(name = "Next Attempt", type_ = "string", json_path = ".status.hooks.lane.nextAttemptTime", priority = "1"),
    validation = Rule::new("size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')")
        .message("metadata.name must be a DNS label of at most 63 characters"),
    // Removal of a whole branch switches off every transition rule inside it, so the parent forbids it.
    validation = Rule::new("!has(oldSelf.status) || has(self.status)").message("status must not be removed"),
)]
#[serde(rename_all = "camelCase")]
// `self == oldSelf` on the field does not run when the field is added or removed: the parent's rule closes that trap.
#[x_kube(validation = Rule::new("has(self.streamID) == has(oldSelf.streamID) && (!has(self.streamID) || self.streamID == oldSelf.streamID)")
    .message("spec.streamID is immutable, and may be neither added nor removed").field_path(".streamID"))]
pub struct BroadcastSpec {
    /// Name of the MediaPool in this namespace that carries the stream.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.pool is immutable"))]
    pub pool: String,

    /// Id that publishers, players and hooks use, when it is not a DNS label; metadata.name is used when this is left out.
    #[serde(rename = "streamID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9_.-]+$"))]
    pub stream_id: Option<String>,

    /// Title for people; sent to hooks as streamName.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub name: Option<String>,

    /// Longer text for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub description: Option<String>,

    /// Category of the stream; sent to hooks as category.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub category: Option<String>,

    /// Free key-value pairs, sent to hooks as metadata. Everyone who may read Broadcasts may read them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "manifest::string_map")]
    pub metadata: BTreeMap<String, String>,

    /// Where events are POSTed; the MediaPool's listenerHookURL when left out. Use hooks.urlSecretRef for a URL that carries a token.
    #[serde(rename = "listenerHookURL", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = is_url(), validation = is_http(), validation = has_host(), validation = has_no_fragment(), validation = has_no_user())]
    pub listener_hook_url: Option<String>,

    /// How events are sent; what is left out is taken from the MediaPool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,

    /// What is recorded, and how; what is left out is taken from the MediaPool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<RecordingPolicy>,

    /// Who may publish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<Publish>,
}

/// Who may publish a Broadcast.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Publish {
    /// Key of a Secret in this namespace that holds the stream key; without it, the stream id alone is enough to publish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_key_secret_ref: Option<SecretKeyRef>,
}

/// What is observed of a Broadcast.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::session_follows(), validation = rules::session_has_its_start(), validation = rules::end_has_its_event(),
         validation = rules::no_reopening(), validation = rules::ended_is_final(), validation = rules::state_tells_the_session(),
         validation = rules::events_have_their_session(), validation = rules::state_tells_who_is_away(),
         validation = rules::away_begins_in_an_open_session(), validation = rules::an_away_publisher_left_when_it_left())]
pub struct BroadcastStatus {
    /// Generation of the spec that the operator has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Summary of the session for people; the conditions carry the truth.
    pub state: BroadcastState,
    /// The latest session; it stays after its end, because its ordinal and epoch guard the next one.
    pub session: Session,
    /// The ledger: which events happened, and how far the receiver has them.
    pub hooks: HooksStatus,
    /// What media nodes need to admit a publisher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<PublishStatus>,
    /// Accepted, Ready, Live, HooksDelivered, once there was a recording Recorded, and WebRTCPlayable while it is False.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Summary of a Broadcast.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum BroadcastState {
    /// Nobody has published yet.
    #[default]
    Idle,
    /// A publisher is on air.
    Live,
    /// The publisher is away, and its session waits for it.
    Reconnecting,
    /// The latest session has ended.
    Ended,
}

/// One publisher's time on air.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.ordinal >= oldSelf.ordinal").message("session.ordinal must not decrease"),
         validation = Rule::new("self.epoch >= oldSelf.epoch").message("session.epoch must not decrease"),
         validation = rules::node_changes_with_epoch(), validation = rules::away_is_nobodys(),
         validation = rules::away_changes_with_epoch(), validation = rules::frame_order_goes_with_epoch())]
pub struct Session {
    /// How many sessions this Broadcast has had.
    #[schemars(range(min = 0))]
    pub ordinal: i64,
    /// Fence: grows whenever the right to write this session changes hands. A write that names another epoch is refused.
    #[schemars(range(min = 0))]
    pub epoch: i64,
    /// Whether the session is on air.
    pub state: SessionState,
    /// Random id of the claim that opened the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub id: Option<String>,
    /// Media node that has, or had, the publisher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node: Option<String>,
    /// Address of that node, for other nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub address: Option<String>,
    /// Protocol of the publisher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// When the publisher's first media arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "manifest::time")]
    pub start_time: Option<Timestamp>,
    /// When the session ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "manifest::time")]
    pub end_time: Option<Timestamp>,
    /// There while the publisher is away and awaited: the session is open, no node has it, and any may go on with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<Away>,
    /// There once the publisher has sent pictures in another order than they are shown in (B-frames): WebRTC cannot play those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame_order: Option<FrameOrder>,
}

/// Order in which pictures are sent.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum FrameOrder {
    /// Another than they are shown in.
    Reordered,
}

/// Whether a session is on air.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum SessionState {
    Open,
    #[default]
    Ended,
}

/// Protocol of a publisher.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum Protocol {
    #[serde(rename = "RTMP")]
    Rtmp,
    WebRTC,
    #[serde(rename = "SRT")]
    Srt,
}

/// The ledger of events.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.lastSequence >= oldSelf.lastSequence").message("lastSequence must not decrease"),
         validation = Rule::new("self.ackedSequence >= oldSelf.ackedSequence").message("ackedSequence must not decrease"),
         validation = Rule::new("self.spilledSequence >= oldSelf.spilledSequence").message("spilledSequence must not decrease"),
         validation = rules::cursors_within_log(), validation = rules::cursors_within_old_log(), validation = rules::pending_is_whole(),
         validation = rules::pending_is_contiguous(), validation = rules::pending_is_unchanged())]
pub struct HooksStatus {
    /// Sequence of the latest event; contiguous for the life of the Broadcast, never reset.
    #[schemars(range(min = 0))]
    pub last_sequence: i64,
    /// The receiver has every event up to here.
    #[schemars(range(min = 0))]
    pub acked_sequence: i64,
    /// Events up to here have left the ledger for objects of their own.
    #[schemars(range(min = 0))]
    pub spilled_sequence: i64,
    /// Exactly the events after ackedSequence and spilledSequence, in order.
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Atomic)]
    pub pending: Vec<Event>,
    /// Recordings whose event is in the log, and who may not say so themselves yet: none of them gets a second one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Atomic)]
    pub announced: Vec<Announced>,
    /// How the delivery of the first pending event goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<Lane>,
}

/// What happened, spelled as on the wire.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum Action {
    LiveStreamStarted,
    LiveStreamEnded,
    /// A recording can be fetched.
    VodReady,
    /// A recording has failed; sent to receivers that ask for it.
    VodFailed,
}

/// Why a session ended.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[schemars(inline)]
pub enum Reason {
    /// The publisher said so.
    PublisherClosed,
    /// The publisher's connection broke.
    PublisherLost,
    /// The publisher stayed silent for too long.
    PublisherTimeout,
    /// A user ended it: the Broadcast was deleted or stopped.
    Stopped,
    /// The media node shut down in good order.
    NodeShutdown,
    /// The media node was killed or lost.
    NodeLost,
}

/// State of delivery to the endpoint.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Lane {
    /// Idle, waiting to try again (Backoff), or stopped by the receiver's 410 until the spec changes (Gone).
    pub state: LaneState,
    /// Failed attempts of the first pending event.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub attempts: i32,
    /// When the next attempt is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "manifest::time")]
    pub next_attempt_time: Option<Timestamp>,
    /// HTTP status of the last attempt, when there was an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 999))]
    pub last_status: Option<i32>,
    /// Class of the last failure; never a text from the receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub last_error: Option<String>,
    /// Generation of the spec that a stopped lane was stopped for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
}

/// State of a lane between two attempts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum LaneState {
    #[default]
    Idle,
    Backoff,
    Gone,
}

/// What media nodes need to admit a publisher.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PublishStatus {
    /// argon2id verifier (PHC string) of the stream key; media nodes check a publisher's key against it without reading Secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub key_verifier: Option<String>,
}

impl Broadcast {
    /// The id that publishers, players and hooks use: `spec.streamID`, else the object's name.
    #[must_use]
    pub fn stream_id(&self) -> &str {
        let name = || self.metadata.name.as_deref().unwrap_or_default();
        self.spec.stream_id.as_deref().unwrap_or_else(name)
    }

    /// Whether this is the Broadcast of that id: a derived name may also be somebody's plain name.
    #[must_use]
    pub fn carries(&self, id: &StreamId) -> bool {
        self.stream_id() == id.as_str() && self.metadata.name.as_deref() == Some(&object_name(id))
    }

    /// The status, with the schema's default where the store has none.
    #[must_use]
    pub fn status_or_default(&self) -> BroadcastStatus {
        self.status.clone().unwrap_or_default()
    }

    /// Whether events with this action are sent, by its own settings over those of its pool.
    #[must_use]
    pub fn sends(&self, pool: Option<&crate::MediaPoolSpec>, action: Action) -> bool {
        let defaults = pool.map(|pool| pool.stream_defaults().hooks).unwrap_or_default();
        self.spec.hooks.clone().unwrap_or_default().or(&defaults).sends(action)
    }

    /// Whether a node made it for an unregistered id.
    #[must_use]
    pub fn is_ephemeral(&self) -> bool {
        let labels = self.metadata.labels.as_ref();
        labels.and_then(|l| l.get(crate::EPHEMERAL_LABEL)).is_some_and(|v| v == "true")
    }
}

impl Action {
    /// Whether it is sent by a spec that names `only` these actions; one that names none sends all but `vodFailed`.
    #[must_use]
    pub fn is_sent(self, only: Option<&[Self]>) -> bool {
        only.map_or(self != Self::VodFailed, |only| only.contains(&self))
    }

    /// The wire spelling.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LiveStreamStarted => "liveStreamStarted",
            Self::LiveStreamEnded => "liveStreamEnded",
            Self::VodReady => "vodReady",
            Self::VodFailed => "vodFailed",
        }
    }
}

impl Reason {
    /// The wire spelling.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PublisherClosed => "PublisherClosed",
            Self::PublisherLost => "PublisherLost",
            Self::PublisherTimeout => "PublisherTimeout",
            Self::Stopped => "Stopped",
            Self::NodeShutdown => "NodeShutdown",
            Self::NodeLost => "NodeLost",
        }
    }
}

impl Protocol {
    /// The spelling of the API, and Ant Media's `publishType`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rtmp => "RTMP",
            Self::WebRTC => "WebRTC",
            Self::Srt => "SRT",
        }
    }
}
