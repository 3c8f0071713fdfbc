//! A session whose publisher is away.

#![allow(unreachable_pub, reason = "KubeSchema repeats each struct where nothing can reach it")]

use jiff::Timestamp;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use crate::manifest;

/// A publisher that left and may come back. Whoever claims the Broadcast in time goes on with the session; nobody is told.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::away_is_bounded(), validation = rules::away_has_a_reason_to_wait())]
pub struct Away {
    /// When the publisher left.
    #[schemars(schema_with = "manifest::time")]
    pub since: Timestamp,
    /// Until when it is awaited; then the session is ended, as of when the publisher left.
    #[schemars(schema_with = "manifest::time")]
    pub until: Timestamp,
    /// Why the session will have ended if nobody comes back.
    pub reason: crate::Reason,
}
