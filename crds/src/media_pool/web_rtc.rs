//! How a pool's streams are published and played over WebRTC.

#![allow(unreachable_pub, reason = "KubeSchema repeats each struct where nothing can reach it")]

use std::net::{IpAddr, SocketAddr};

use kube::{KubeSchema, core::Rule};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The port of media where a pool says nothing.
pub const WEBRTC_PORT: u16 = 50_000;

/// How streams are published and played over WebRTC. WHIP and WHEP are at the HTTP port of the nodes; this is about the media, which go
/// between a browser and the one node that answered it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WebRtc {
    /// Off serves no WebRTC, and opens no port for it.
    #[serde(default)]
    pub mode: WebRtcMode,
    /// How media reach the nodes. With nodes.exposure HostPort or HostNetwork the same by default; else PodIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposure: Option<WebRtcExposure>,
    /// Port of media, UDP and TCP; 50000 by default. With exposure HostPort that of the first node: each has the next one that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10_000, max = 65_535))]
    pub port: Option<i32>,
    /// Further addresses at which browsers try to reach each node, as IP or IP:port (an IPv6 with a port in brackets): the public one of a machine behind NAT, say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "addresses")]
    pub advertise: Vec<String>,
    /// STUN and TURN servers that clients are told of, in Link headers. The nodes themselves need none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub ice_servers: Vec<IceServer>,
    /// Threads for media in each node, each with a socket of its own; one a core by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub workers: Option<i32>,
}

/// Whether there is WebRTC.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum WebRtcMode {
    #[default]
    On,
    Off,
}

/// How media reach a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum WebRtcExposure {
    /// At a port of the Kubernetes node, UDP and TCP. Needs a namespace that Pod Security lets use host ports.
    HostPort,
    /// At the pool's load balancer, which must take UDP. For pools of one node: a balancer does not know which node a browser talks to.
    LoadBalancer,
    /// At the pod's own address: for browsers inside the cluster, or where the pods' network is routed.
    #[serde(rename = "PodIP")]
    PodIp,
}

/// A STUN or TURN server.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct IceServer {
    /// Its URL (RFC 7064, RFC 7065), such as stun:stun.example.com:3478 or turns:turn.example.com?transport=tcp.
    #[schemars(
        length(min = 6, max = 512),
        regex(pattern = r"^(stuns?|turns?):[A-Za-z0-9.:\[\]_-]+([?]transport=(udp|tcp))?$")
    )]
    pub url: String,
}

impl WebRtc {
    /// Whether it says what is done where nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        let Self { mode, exposure, port, advertise, ice_servers, workers } = self;
        *mode == WebRtcMode::default()
            && exposure.is_none()
            && port.is_none_or(|said| said == i32::from(WEBRTC_PORT))
            && advertise.is_empty()
            && ice_servers.is_empty()
            && workers.is_none()
    }
}

/// Whether the text is what `MediaPool.spec.webRTC.advertise` may hold.
#[must_use]
pub fn is_media_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0)
}

fn addresses(_: &mut SchemaGenerator) -> Schema {
    let rule = json!({
        "rule": r"isIP(self) || self.matches('^([0-9]{1,3}([.][0-9]{1,3}){3}|\\[[0-9a-fA-F:.]{2,45}\\]):[0-9]{1,5}$')",
        "message": "an address is an IP or IP:port, an IPv6 with a port in brackets",
    });
    let item = json!({"type": "string", "minLength": 2, "maxLength": 53, "x-kubernetes-validations": [rule]});
    json_schema!({"type": "array", "maxItems": 8, "items": item})
}

/// Rules of the spec that see its nodes too.
pub(super) fn balanced_nodes_are_one() -> Rule {
    Rule::new(
        "!has(self.webRTC) || !has(self.webRTC.exposure) || self.webRTC.exposure != 'LoadBalancer' || !has(self.nodes) || \
         (self.nodes.exposure == 'LoadBalancer' && self.nodes.minNodes <= 1 && (!has(self.nodes.maxNodes) || self.nodes.maxNodes <= 1))",
    )
    .message("webRTC.exposure LoadBalancer is for pools of one node with nodes.exposure LoadBalancer: with more use HostPort")
}

/// See [`balanced_nodes_are_one`].
pub(super) fn host_network_is_shared() -> Rule {
    Rule::new(
        "!has(self.webRTC) || !has(self.webRTC.exposure) || !has(self.nodes) || self.nodes.exposure != 'HostNetwork'",
    )
    .message("webRTC.exposure is not for nodes.exposure HostNetwork: media are at the machine's port too")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pool_may_advertise_is_an_address() {
        for address in ["203.0.113.9", "203.0.113.9:50000", "2001:db8::1", "[2001:db8::1]:50000"] {
            assert!(is_media_address(address), "{address}");
        }
        for other in ["live.example.com", "203.0.113.9:0", "203.0.113.999", "[2001:db8::1]", "1.2.3.4:70000", ""] {
            assert!(!is_media_address(other), "{other}");
        }
    }

    #[test]
    fn a_default_that_is_said_is_a_default() {
        assert!(WebRtc { port: Some(50_000), ..WebRtc::default() }.is_default());
        assert!(!WebRtc { mode: WebRtcMode::Off, ..WebRtc::default() }.is_default());
        assert!(!WebRtc { workers: Some(1), ..WebRtc::default() }.is_default());
    }
}
