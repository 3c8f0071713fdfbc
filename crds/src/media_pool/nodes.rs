//! What a pool says of the media nodes that the operator makes for it: how many, how big, and how they are reached.

#![allow(unreachable_pub, reason = "KubeSchema repeats each struct where nothing can reach it")]

use std::collections::BTreeMap;

use kube::{KubeSchema, core::Rule};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Media nodes that the operator makes: pods named media-POOL-SUFFIX.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.maxNodes) || self.maxNodes >= self.minNodes")
        .message("maxNodes must not be less than minNodes"),
    validation = Rule::new("!has(self.portRange) || self.exposure == 'HostPort'")
        .message("portRange is for exposure HostPort only"),
    validation = Rule::new("!has(self.service) || !has(self.service.loadBalancerClass) || self.exposure == 'LoadBalancer'")
        .message("service.loadBalancerClass is for exposure LoadBalancer only"),
)]
pub struct MediaNodes {
    /// Fewest nodes. `kubectl scale` sets this field.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub min_nodes: i32,
    /// Most nodes; as many as minNodes by default, so that the pool does not grow by itself. A rolling update adds one for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub max_nodes: Option<i32>,
    /// Free sessions that ready nodes should have between them: below it the pool grows, up to maxNodes; above it an idle node goes, down to minNodes.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100_000))]
    pub min_ready_capacity: i32,
    /// What one node carries.
    #[serde(default)]
    pub capacity: Capacity,
    /// How publishers and players reach the nodes from outside: by a port of the Kubernetes node (HostPort, HostNetwork), by a load balancer, or not at all (ClusterIP).
    #[serde(default)]
    pub exposure: Exposure,
    /// DNS name (in lower case) or IP by which publishers and players reach the nodes, when it is not what Kubernetes says: a name for the load balancer, the public address of a machine behind NAT. It is told in status.address; nothing else changes by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = is_host())]
    pub advertise_host: Option<String>,
    /// Ports of Kubernetes nodes that HostPort takes from, one a media node; 7000 to 8000 by default. A port rests for two minutes after use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_range: Option<PortRange>,
    /// The Service media-POOL in front of the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<NodeService>,
    /// How long sessions may go on after their node was told to stop, in seconds; then each is ended, durably.
    #[serde(default = "default_drain_timeout")]
    #[schemars(range(min = 1, max = 3600))]
    pub drain_timeout_seconds: i32,
    /// What the nodes' pods have besides. A change replaces the pods, one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<NodeTemplate>,
}

/// What one node carries. A node at one of its limits counts as full.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// Sessions on air.
    #[serde(default = "default_sessions")]
    #[schemars(range(min = 1, max = 10_000))]
    pub sessions: i32,
    /// Media that it sends, in Mbit/s; unlimited by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 400_000))]
    pub megabits_per_second_out: Option<i32>,
    /// CPU time that it uses, in percent of one core; unlimited by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 25_600))]
    pub cpu_percent: Option<i32>,
}

/// How media nodes are reached.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum Exposure {
    /// RTMP at a port of the Kubernetes node, from portRange. Needs a namespace that Pod Security lets use host ports.
    HostPort,
    /// RTMP at port 1935 of the Kubernetes node, whose network the pod uses: one media node each.
    HostNetwork,
    /// By a Service of type LoadBalancer.
    LoadBalancer,
    /// By a Service inside the cluster.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
}

/// Ports, both ends included.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[x_kube(validation = Rule::new("self.first <= self.last").message("first must not be greater than last"))]
pub struct PortRange {
    /// Lowest port.
    #[schemars(range(min = 1, max = 65_535))]
    pub first: i32,
    /// Highest port.
    #[schemars(range(min = 1, max = 65_535))]
    pub last: i32,
}

/// The Service in front of a pool's nodes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeService {
    /// Port of RTMP; 1935 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
    /// Annotations, for the cloud's load balancer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::manifest::string_map")]
    pub annotations: BTreeMap<String, String>,
    /// Which load balancer implements the Service; the cluster's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 316))]
    pub load_balancer_class: Option<String>,
}

/// What the nodes' pods have besides. The fields are those of a Pod and its container; a wrong one is reported in the condition Accepted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeTemplate {
    /// Image of the media node; the operator's --media-node-image by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// When the image is pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Secrets for pulling the image, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "names")]
    pub image_pull_secrets: Vec<String>,
    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::manifest::string_map")]
    pub annotations: BTreeMap<String, String>,
    /// Further labels of the pods. Those of Tallylight cannot be changed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::manifest::string_map")]
    pub labels: BTreeMap<String, String>,
    /// Requests and limits of the container, as `resources` of a container.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "object")]
    pub resources: Map<String, Value>,
    /// Labels of the Kubernetes nodes that the pods may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::manifest::string_map")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate, as `tolerations` of a pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "objects")]
    pub tolerations: Vec<Value>,
    /// As `affinity` of a pod.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "object")]
    pub affinity: Map<String, Value>,
    /// As `topologySpreadConstraints` of a pod; by default the pods are spread over zones and hosts as well as can be. A constraint without labelSelector counts this pool's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "objects")]
    pub topology_spread_constraints: Option<Vec<Value>>,
    /// Priority of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Changes to the pods' security context; by default not root, with the runtime's seccomp profile.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "object")]
    pub pod_security_context: Map<String, Value>,
    /// Changes to the container's security context; by default no privileges and a root file system that cannot be written.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "object")]
    pub security_context: Map<String, Value>,
    /// Further variables of the container, as `env` of a container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "objects")]
    pub env: Vec<Value>,
    /// Further volumes, as `volumes` of a pod. One named `data` takes the place of the node's emptyDir.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "objects")]
    pub volumes: Vec<Value>,
    /// Further mounts, as `volumeMounts` of a container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "objects")]
    pub volume_mounts: Vec<Value>,
}

/// When an image is pulled.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { sessions: default_sessions(), megabits_per_second_out: None, cpu_percent: None }
    }
}

impl PullPolicy {
    /// The name that Kubernetes gives it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

fn one() -> i32 {
    1
}

fn default_sessions() -> i32 {
    100
}

fn default_drain_timeout() -> i32 {
    600
}

/// The rule of [`crate::is_host`].
fn is_host() -> Rule {
    Rule::new(
        r"isIP(self) || self.matches('^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\\.)*[a-z]([-a-z0-9]{0,61}[a-z0-9])?$')",
    )
    .message("advertiseHost must be a DNS name in lower case or an IP address, without a port")
}

/// A part of a Pod: its own schema would be longer than the rest of the definition.
fn object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "maxProperties": 64})
}

fn objects(_: &mut SchemaGenerator) -> Schema {
    let item = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "maxProperties": 64});
    json_schema!({"type": "array", "maxItems": 64, "items": item})
}

fn names(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 16, "items": json!({"type": "string", "minLength": 1, "maxLength": 253})})
}
