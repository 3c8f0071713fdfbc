//! How events are sent: the part of a spec that Broadcasts and MediaPools share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::broadcast::Action;

/// How events are POSTed. A field that a Broadcast leaves out is taken from its MediaPool.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Hooks {
    /// Encoding of the body: Form (application/x-www-form-urlencoded, Ant Media's published contract, the default) or JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<ContentType>,
    /// Longest time for one request, from connect to the last byte of the answer that is read, in seconds; 10 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 30))]
    pub timeout_seconds: Option<i32>,
    /// Actions that are sent; others are settled without a request. All but vodFailed are sent by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub actions: Option<Vec<Action>>,
    /// Key of a Secret in this namespace that holds the URL, for a URL that carries a token. Takes the place of listenerHookURL.
    #[serde(rename = "urlSecretRef", default, skip_serializing_if = "Option::is_none")]
    pub url_secret_ref: Option<SecretKeyRef>,
}

/// Encoding of a hook's body.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum ContentType {
    /// `application/x-www-form-urlencoded`, UTF-8.
    #[default]
    Form,
    /// `application/json`.
    #[serde(rename = "JSON")]
    Json,
}

/// One key of a Secret in the object's namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// Key in the Secret's data.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

impl Hooks {
    /// Fills what a Broadcast leaves out from its pool's settings. The URL is not inherited here: see `webhook`.
    #[must_use]
    pub fn or(&self, pool: &Self) -> Self {
        Self {
            content_type: self.content_type.or(pool.content_type),
            timeout_seconds: self.timeout_seconds.or(pool.timeout_seconds),
            actions: self.actions.clone().or_else(|| pool.actions.clone()),
            url_secret_ref: self.url_secret_ref.clone(),
        }
    }

    /// Whether events with this action are sent.
    #[must_use]
    pub fn sends(&self, action: Action) -> bool {
        action.is_sent(self.actions.as_deref())
    }
}
