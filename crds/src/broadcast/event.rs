//! What a ledger holds: events, and the recordings that some of them tell of.

#![allow(unreachable_pub, reason = "KubeSchema repeats each struct where nothing can reach it")]

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, rules};
use crate::manifest;

/// A Recording whose event is in the log.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Announced {
    /// Name of the Recording.
    #[schemars(length(min = 1, max = 63))]
    pub recording: String,
    /// Position of its event.
    #[schemars(range(min = 1))]
    pub sequence: i64,
}

/// Something that happened to a Broadcast.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::events_of_recordings_say_which())]
pub struct Event {
    /// Position in the ledger, from 1.
    #[schemars(range(min = 1))]
    pub sequence: i64,
    /// Ordinal of the session that it belongs to.
    #[schemars(range(min = 1))]
    pub session: i64,
    /// What happened, in the words of Ant Media Server's webhooks.
    pub action: Action,
    /// When it happened.
    #[schemars(schema_with = "manifest::time")]
    pub time: Timestamp,
    /// Why, for an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<crate::Reason>,
    /// Which recording, for vodReady and vodFailed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vod: Option<Vod>,
}

/// A recording, as hooks tell of it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Vod {
    /// Name of the Recording; sent as vodId.
    #[schemars(length(min = 1, max = 63))]
    pub id: String,
    /// Name of its file; sent as vodName.
    #[schemars(length(min = 1, max = 200))]
    pub name: String,
    /// How long it plays, in milliseconds; sent as duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub duration_milliseconds: Option<i64>,
}
