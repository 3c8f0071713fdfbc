//! How a pool's streams are played over HLS.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What media nodes do where a pool says nothing: the length of parts, in milliseconds.
pub const HLS_PART_MILLISECONDS: u16 = 300;
/// The least length of segments, in seconds.
pub const HLS_SEGMENT_SECONDS: u8 = 2;
/// How far back viewers may seek, in seconds.
pub const HLS_WINDOW_SECONDS: u16 = 16;

/// How streams are played over HLS. What is left out is the media node's default.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Hls {
    /// Off serves no HLS; OnDemand prepares a stream when somebody asks for it, Always as long as it is published.
    #[serde(default)]
    pub mode: HlsMode,
    /// Length of the parts that low-latency players get, in milliseconds: players are about three of them behind the publisher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 500))]
    pub part_milliseconds: Option<i32>,
    /// A segment ends with the first keyframe after this many seconds, and without one after twice as many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5))]
    pub segment_seconds: Option<i32>,
    /// How far back viewers may seek, in seconds. It is held in the memory of a media node, up to 512 MiB a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 4, max = 3600))]
    pub window_seconds: Option<i32>,
}

/// When streams are prepared for HLS.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum HlsMode {
    /// Never.
    Off,
    /// When somebody asks.
    #[default]
    OnDemand,
    /// As long as they are published.
    Always,
}

impl Hls {
    /// Whether it says what media nodes do where nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        let Self { mode, part_milliseconds, segment_seconds, window_seconds } = self;
        *mode == HlsMode::default()
            && part_milliseconds.is_none_or(|said| said == i32::from(HLS_PART_MILLISECONDS))
            && segment_seconds.is_none_or(|said| said == i32::from(HLS_SEGMENT_SECONDS))
            && window_seconds.is_none_or(|said| said == i32::from(HLS_WINDOW_SECONDS))
    }
}

impl HlsMode {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "Off",
            Self::OnDemand => "OnDemand",
            Self::Always => "Always",
        }
    }
}
