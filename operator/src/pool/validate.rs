//! From the raw spec to a pool with every default decided. What the schema cannot check is checked here. Knows no client.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, PodSecurityContext, ResourceRequirements, SecurityContext, Toleration, TopologySpreadConstraint,
    Volume, VolumeMount,
};
use kube::ResourceExt as _;
use rest::Upstream;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tallylight_crds::{
    Exposure, Hls, HlsMode, MediaNodes, MediaPool, NodeTemplate, POOL_LABEL, PullPolicy, RecordingMode, Storage,
    WEBRTC_PORT, WebRtcExposure, WebRtcMode, is_host, is_media_address,
};
use uuid::Uuid;

use super::{
    Given,
    plan::{Bounds, Limits, Publishers},
};

/// `media-` + name + `-` + [`super::build::SUFFIX`] characters must stay a DNS label, which is at most 63.
const MAX_NAME: usize = 51;
/// Ports when the spec names none.
const PORTS: (i32, i32) = (7000, 8000);
const DEFAULT_RTMP_PORT: i32 = 1935;
/// Host ports for WebRTC beside the first, where nodes have one for nothing else: as many as [`PORTS`].
const MORE_WEBRTC_PORTS: i32 = 1000;

/// A pool whose nodes the operator makes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ValidatedPool {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) app: String,
    pub(crate) bounds: Bounds,
    pub(crate) exposure: Exposure,
    /// Host that users reach the nodes by, whatever Kubernetes says.
    pub(crate) advertise_host: Option<String>,
    pub(crate) service: ServiceSettings,
    pub(crate) drain_seconds: i64,
    pub(crate) reconnect_window_seconds: i32,
    pub(crate) template: Template,
    pub(crate) rest_upstream: Option<Upstream>,
    pub(crate) hls: Hls,
    /// None when there is no WebRTC.
    pub(crate) web_rtc: Option<WebRtcSettings>,
    /// Its Broadcasts are recorded, unless they say otherwise.
    pub(crate) records: bool,
    /// Where recordings are kept.
    pub(crate) storages: Vec<Storage>,
    /// Names the part of the spec that pods are made of: it does not change when the operator is upgraded.
    pub(crate) revision: String,
}

impl ValidatedPool {
    /// Whether the nodes serve HTTP to users: HLS, WHIP and WHEP, recordings or REST.
    pub(crate) fn serves_users(&self) -> bool {
        let has_recordings = self.records || !self.storages.is_empty();
        self.hls.mode != HlsMode::Off || self.web_rtc.is_some() || has_recordings || self.rest_upstream.is_some()
    }
}

/// WebRTC of the nodes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WebRtcSettings {
    pub(crate) media: MediaAt,
    /// Addresses that the user knows of.
    pub(crate) advertise: Vec<String>,
    /// URLs.
    pub(crate) ice_servers: Vec<String>,
    pub(crate) workers: Option<i32>,
}

/// Where media of WebRTC reach a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MediaAt {
    /// The host port that the node has been given.
    GivenPort,
    /// A host port that follows from the one that the node has been given for RTMP: both ranges go in step, and rest together.
    InStep {
        rtmp_first: u16,
        first: u16,
    },
    /// The machine, whose network the node uses.
    Machine {
        port: u16,
    },
    Balancer {
        port: u16,
    },
    Pod {
        port: u16,
    },
}

impl MediaAt {
    /// The port of a node that has been given this one.
    pub(crate) fn port(self, given: Option<u16>) -> Option<u16> {
        match self {
            Self::GivenPort => given,
            Self::InStep { rtmp_first, first } => first.checked_add(given?.checked_sub(rtmp_first)?),
            Self::Machine { port } | Self::Balancer { port } | Self::Pod { port } => Some(port),
        }
    }

    /// Whether it is a port of the machine that Kubernetes is to open.
    pub(crate) fn is_host_port(self) -> bool {
        match self {
            Self::GivenPort | Self::InStep { .. } => true,
            Self::Machine { .. } | Self::Balancer { .. } | Self::Pod { .. } => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServiceSettings {
    pub(crate) port: i32,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) load_balancer_class: Option<String>,
}

/// The overlay of the pods, read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template {
    pub(crate) image: String,
    pub(crate) image_pull_policy: Option<PullPolicy>,
    pub(crate) image_pull_secrets: Vec<String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) resources: ResourceRequirements,
    pub(crate) node_selector: BTreeMap<String, String>,
    pub(crate) tolerations: Vec<Toleration>,
    pub(crate) affinity: Option<Affinity>,
    pub(crate) topology_spread_constraints: Vec<TopologySpreadConstraint>,
    pub(crate) priority_class_name: Option<String>,
    pub(crate) pod_security_context: PodSecurityContext,
    pub(crate) security_context: SecurityContext,
    pub(crate) env: Vec<EnvVar>,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) volume_mounts: Vec<VolumeMount>,
}

/// Why no nodes are made; the text names the field and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("metadata.name must be at most {MAX_NAME} characters for a pool with spec.nodes: pods are named after it")]
    Name,
    #[error("spec.nodes.template.image must be set: the operator runs without --media-node-image")]
    NoImage,
    #[error(
        "spec.nodes.portRange has {ports} ports and must have at least maxNodes + 1 = {needed}: an update needs one more"
    )]
    PortRange { ports: i32, needed: i32 },
    #[error("spec.nodes.advertiseHost must be a DNS name in lower case or an IP address, without a port")]
    AdvertiseHost,
    #[error("spec.webRTC.port must leave room for {ports} ports up to 65535, apart from spec.nodes.portRange")]
    WebRtcPort { ports: i32 },
    #[error("spec.webRTC.advertise must hold IPs or IP:port, an IPv6 with a port in brackets")]
    WebRtcAdvertise,
    #[error("spec.nodes.template.{field}: {reason}")]
    Template { field: &'static str, reason: String },
}

impl Invalid {
    /// The reason of the condition.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Name => "InvalidName",
            Self::NoImage => "NoImage",
            Self::PortRange { .. } => "PortRangeTooSmall",
            Self::AdvertiseHost => "InvalidAdvertiseHost",
            Self::WebRtcPort { .. } => "InvalidWebRTCPort",
            Self::WebRtcAdvertise => "InvalidWebRTCAdvertise",
            Self::Template { .. } => "InvalidTemplate",
        }
    }
}

/// Decides every default of a pool with nodes.
///
/// # Errors
/// When no pod can be made of the spec.
pub(crate) fn validate(pool: &MediaPool, nodes: &MediaNodes, given: &Given) -> Result<ValidatedPool, Invalid> {
    let name = pool.name_any();
    if name.len() > MAX_NAME {
        return Err(Invalid::Name);
    }
    if nodes.advertise_host.as_deref().is_some_and(|host| !is_host(host)) {
        return Err(Invalid::AdvertiseHost);
    }
    let service = nodes.service.clone().unwrap_or_default();
    let template = template(&nodes.template.clone().unwrap_or_default(), &name, given.image.as_deref())?;
    let (rtmp_ports, web_rtc) = (host_ports(nodes)?, web_rtc(pool, nodes)?);
    let ports = rtmp_ports.or_else(|| web_rtc_ports(pool, web_rtc.as_ref()?.media));
    Ok(ValidatedPool {
        namespace: pool.namespace().unwrap_or_default(),
        uid: pool.uid().unwrap_or_default(),
        app: pool.spec.app.clone(),
        bounds: bounds(pool, nodes, ports),
        reconnect_window_seconds: pool.spec.reconnect_window_seconds,
        exposure: nodes.exposure,
        advertise_host: nodes.advertise_host.clone(),
        service: ServiceSettings {
            port: service.port.unwrap_or(DEFAULT_RTMP_PORT),
            annotations: service.annotations,
            load_balancer_class: service.load_balancer_class,
        },
        drain_seconds: nodes.drain_timeout_seconds.into(),
        revision: revision(pool, nodes, &template.image),
        template,
        rest_upstream: given.rest_upstream.clone(),
        hls: pool.spec.hls.clone().unwrap_or_default(),
        web_rtc,
        records: records(pool),
        storages: pool.spec.storages.clone(),
        name,
    })
}

fn bounds(pool: &MediaPool, nodes: &MediaNodes, ports: Option<RangeInclusive<u16>>) -> Bounds {
    Bounds {
        min: usize::try_from(nodes.min_nodes).unwrap_or(0),
        max: usize::try_from(max_nodes(nodes)).unwrap_or(0),
        min_ready: whole(nodes.min_ready_capacity),
        limits: Limits {
            sessions: whole(nodes.capacity.sessions),
            megabits_out: nodes.capacity.megabits_per_second_out.map(whole),
            cpu_percent: nodes.capacity.cpu_percent.map(whole),
        },
        ports,
        drain: Duration::from_secs(whole(nodes.drain_timeout_seconds).into()),
        publishers: if pool.spec.reconnect_window_seconds > 0 { Publishers::Move } else { Publishers::Stay },
    }
}

fn max_nodes(nodes: &MediaNodes) -> i32 {
    nodes.max_nodes.unwrap_or(nodes.min_nodes).max(nodes.min_nodes)
}

/// The host ports that nodes have for RTMP.
fn host_ports(nodes: &MediaNodes) -> Result<Option<RangeInclusive<u16>>, Invalid> {
    match nodes.exposure {
        Exposure::HostPort => {
            let (first, last) = nodes.port_range.map_or(PORTS, |range| (range.first, range.last));
            let (ports, needed) = (last.saturating_sub(first).saturating_add(1), max_nodes(nodes).saturating_add(1));
            if ports < needed {
                return Err(Invalid::PortRange { ports, needed });
            }
            Ok(Some(port(first)..=port(last)))
        }
        Exposure::HostNetwork | Exposure::LoadBalancer | Exposure::ClusterIp => Ok(None),
    }
}

/// The schema lets none be anything else.
fn port(number: i32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// The host ports that nodes have for WebRTC and for nothing else.
fn web_rtc_ports(pool: &MediaPool, media: MediaAt) -> Option<RangeInclusive<u16>> {
    let first = web_rtc_port(pool);
    let last = first.saturating_add(MORE_WEBRTC_PORTS).min(u16::MAX.into());
    (media == MediaAt::GivenPort).then(|| port(first)..=port(last))
}

fn web_rtc_port(pool: &MediaPool) -> i32 {
    pool.spec.web_rtc.as_ref().and_then(|webrtc| webrtc.port).unwrap_or_else(|| WEBRTC_PORT.into())
}

fn web_rtc(pool: &MediaPool, nodes: &MediaNodes) -> Result<Option<WebRtcSettings>, Invalid> {
    let raw = pool.spec.web_rtc.clone().unwrap_or_default();
    if raw.mode == WebRtcMode::Off {
        return Ok(None);
    }
    if !raw.advertise.iter().all(|address| is_media_address(address)) {
        return Err(Invalid::WebRtcAdvertise);
    }
    let first = web_rtc_port(pool);
    let media = match (nodes.exposure, raw.exposure) {
        (Exposure::HostNetwork, _) => MediaAt::Machine { port: port(first) },
        (Exposure::HostPort, None | Some(WebRtcExposure::HostPort)) => {
            let rtmp = nodes.port_range.map_or(PORTS, |range| (range.first, range.last));
            let last = first.saturating_add(rtmp.1.saturating_sub(rtmp.0));
            if last > u16::MAX.into() || (first <= rtmp.1 && rtmp.0 <= last) {
                return Err(Invalid::WebRtcPort { ports: last - first + 1 });
            }
            MediaAt::InStep { rtmp_first: port(rtmp.0), first: port(first) }
        }
        (Exposure::LoadBalancer | Exposure::ClusterIp, Some(WebRtcExposure::HostPort)) => {
            let needed = max_nodes(nodes).saturating_add(1);
            if first.saturating_add(needed - 1) > u16::MAX.into() {
                return Err(Invalid::WebRtcPort { ports: needed });
            }
            MediaAt::GivenPort
        }
        (_, Some(WebRtcExposure::LoadBalancer)) => MediaAt::Balancer { port: port(first) },
        (_, None | Some(WebRtcExposure::PodIp)) => MediaAt::Pod { port: port(first) },
    };
    let ice_servers = raw.ice_servers.into_iter().map(|server| server.url).collect();
    Ok(Some(WebRtcSettings { media, advertise: raw.advertise, ice_servers, workers: raw.workers }))
}

/// The schema lets none be negative.
fn whole(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

fn template(raw: &NodeTemplate, pool: &str, default_image: Option<&str>) -> Result<Template, Invalid> {
    let image = raw.image.clone().or_else(|| default_image.map(str::to_owned)).ok_or(Invalid::NoImage)?;
    let volumes: Vec<Volume> = list("volumes", &raw.volumes)?;
    if volumes.iter().any(|volume| volume.name == "token") {
        let reason = "the name \"token\" is taken by the node's own volume: choose another".to_owned();
        return Err(Invalid::Template { field: "volumes", reason });
    }
    let affinity = (!raw.affinity.is_empty()).then(|| read("affinity", &Value::Object(raw.affinity.clone())));
    Ok(Template {
        image,
        image_pull_policy: raw.image_pull_policy,
        image_pull_secrets: raw.image_pull_secrets.clone(),
        annotations: raw.annotations.clone(),
        labels: raw.labels.clone(),
        resources: read("resources", &quantities(&raw.resources))?,
        node_selector: raw.node_selector.clone(),
        tolerations: list("tolerations", &raw.tolerations)?,
        affinity: affinity.transpose()?,
        topology_spread_constraints: list("topologySpreadConstraints", &spread(raw, pool))?,
        priority_class_name: raw.priority_class_name.clone(),
        pod_security_context: read("podSecurityContext", &changed(pod_security(), &raw.pod_security_context))?,
        security_context: read("securityContext", &changed(container_security(), &raw.security_context))?,
        env: list("env", &raw.env)?,
        volumes,
        volume_mounts: list("volumeMounts", &raw.volume_mounts)?,
    })
}

fn pod_security() -> Value {
    json!({
        "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

fn container_security() -> Value {
    json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
}

/// A merge patch: what is null goes.
fn changed(mut defaults: Value, changes: &Map<String, Value>) -> Value {
    json_patch::merge(&mut defaults, &Value::Object(changes.clone()));
    defaults
}

/// Over zones and hosts as well as can be; a constraint that does not say which pods it counts counts the pool's.
fn spread(raw: &NodeTemplate, pool: &str) -> Vec<Value> {
    let selector = json!({"matchLabels": {POOL_LABEL: pool}});
    let over = |key: &str| json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway"});
    let default = || vec![over("topology.kubernetes.io/zone"), over("kubernetes.io/hostname")];
    let mut constraints = raw.topology_spread_constraints.clone().unwrap_or_else(default);
    for constraint in constraints.iter_mut().filter_map(Value::as_object_mut) {
        constraint.entry("labelSelector").or_insert_with(|| selector.clone());
    }
    constraints
}

/// YAML lets people write `cpu: 1`; the API's quantities are text.
fn quantities(raw: &Map<String, Value>) -> Value {
    let mut resources = Value::Object(raw.clone());
    for kind in ["limits", "requests"] {
        let amounts = resources.get_mut(kind).and_then(Value::as_object_mut);
        for amount in amounts.into_iter().flat_map(|amounts| amounts.values_mut()).filter(|amount| amount.is_number()) {
            *amount = Value::String(amount.to_string());
        }
    }
    resources
}

fn list<T: DeserializeOwned + Serialize>(field: &'static str, items: &[Value]) -> Result<Vec<T>, Invalid> {
    items.iter().map(|item| read(field, item)).collect()
}

/// Reads a part of a pod, and refuses what a pod does not have: it would be dropped without a word.
fn read<T: DeserializeOwned + Serialize>(field: &'static str, raw: &Value) -> Result<T, Invalid> {
    let invalid = |reason: String| Invalid::Template { field, reason };
    let typed: T = T::deserialize(raw).map_err(|error| invalid(error.to_string()))?;
    let kept = serde_json::to_value(&typed).map_err(|error| invalid(error.to_string()))?;
    match dropped(raw, &kept) {
        None => Ok(typed),
        Some(path) => Err(invalid(format!("unknown field {path:?}"))),
    }
}

/// The first member that reading has lost.
fn dropped(raw: &Value, kept: &Value) -> Option<String> {
    match (raw, kept) {
        (Value::Object(raw), Value::Object(kept)) => raw.iter().find_map(|(key, value)| match kept.get(key) {
            Some(kept) => dropped(value, kept).map(|inner| format!("{key}.{inner}")),
            None => (!is_empty(value)).then(|| key.clone()),
        }),
        (Value::Array(raw), Value::Array(kept)) => raw
            .iter()
            .zip(kept)
            .enumerate()
            .find_map(|(at, (raw, kept))| dropped(raw, kept).map(|inner| format!("{at}.{inner}"))),
        _ => None,
    }
}

/// What reading may leave out: it says nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn records(pool: &MediaPool) -> bool {
    let mode = pool.spec.recording.as_ref().and_then(|recording| recording.mode);
    matches!(mode, Some(RecordingMode::On | RecordingMode::OnDemand))
}

/// A hash of what the user wrote, not of the pod that this version makes of it.
fn revision(pool: &MediaPool, nodes: &MediaNodes, image: &str) -> String {
    let mut parts = json!({
        "app": pool.spec.app, "image": image, "exposure": nodes.exposure, "portRange": nodes.port_range,
        "drain": nodes.drain_timeout_seconds, "template": nodes.template,
    });
    // left out when there is none, as before there was any
    if pool.spec.reconnect_window_seconds > 0 {
        parts["reconnectWindow"] = json!(pool.spec.reconnect_window_seconds);
    }
    if let Some(hls) = pool.spec.hls.as_ref().filter(|hls| !hls.is_default()) {
        parts["hls"] = json!(hls);
    }
    if let Some(webrtc) = pool.spec.web_rtc.as_ref().filter(|webrtc| !webrtc.is_default()) {
        parts["webRTC"] = json!(webrtc);
    }
    if !pool.spec.storages.is_empty() {
        parts["storages"] = json!(pool.spec.storages);
    }
    // with HLS the nodes serve users anyway
    if records(pool) && pool.spec.hls.as_ref().is_some_and(|hls| hls.mode == HlsMode::Off) {
        parts["records"] = json!(true);
    }
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, parts.to_string().as_bytes());
    hash.simple().to_string().chars().take(10).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A pool with these nodes, as the API server stores it.
    pub(crate) fn pool(nodes: Value) -> MediaPool {
        let mut pool = json!({
            "apiVersion": "tallylight.dev/v1alpha1", "kind": "MediaPool",
            "metadata": {"name": "live", "namespace": "tv", "uid": "u-1", "generation": 1},
            "spec": {"app": "LiveApp"},
        });
        pool["spec"]["nodes"] = nodes;
        serde_json::from_value(pool).unwrap()
    }

    pub(crate) fn validated(nodes: Value) -> Result<ValidatedPool, Invalid> {
        with_rest(nodes, None)
    }

    /// As an operator makes it whose REST media nodes reach there.
    pub(crate) fn with_rest(nodes: Value, upstream: Option<&str>) -> Result<ValidatedPool, Invalid> {
        let pool = pool(nodes);
        let nodes = pool.spec.nodes.clone().unwrap();
        validate(&pool, &nodes, &given(upstream))
    }

    fn given(upstream: Option<&str>) -> Given {
        let rest_upstream = upstream.map(|url| url.parse().unwrap());
        Given { image: Some("registry.example.com/media-node:1".into()), rest_upstream }
    }

    #[test]
    fn every_default_is_decided() {
        let pool = validated(json!({})).unwrap();

        assert_eq!((pool.bounds.min, pool.bounds.max, pool.bounds.min_ready), (1, 1, 0));
        assert_eq!((pool.exposure, pool.service.port, pool.drain_seconds), (Exposure::ClusterIp, 1935, 600));
        assert_eq!(pool.template.image, "registry.example.com/media-node:1");
        assert_eq!(pool.template.pod_security_context.run_as_non_root, Some(true));
        assert_eq!(pool.template.topology_spread_constraints.len(), 2);
    }

    #[test]
    fn a_wrong_template_is_refused_with_its_field() {
        for (template, message) in [
            (json!({"resources": {"limits": {"cpu": true}}}), "template.resources: invalid type"),
            (
                json!({"tolerations": [{"key": "a", "operater": "Exists"}]}),
                "template.tolerations: unknown field \"operater\"",
            ),
            (
                json!({"securityContext": {"capabilities": {"dropp": []}, "x": 1}}),
                "template.securityContext: unknown field",
            ),
            (json!({"volumes": [{"name": "token", "emptyDir": {}}]}), "choose another"),
        ] {
            let error = validated(json!({"template": template})).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
            assert_eq!(error.reason(), "InvalidTemplate");
        }
    }

    #[test]
    fn the_template_is_laid_over_the_defaults() {
        let pool = validated(json!({"template": {
            "resources": {"limits": {"cpu": 2, "memory": "1Gi"}},
            "podSecurityContext": {"runAsUser": 1000, "fsGroup": null},
            "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}],
        }}))
        .unwrap();

        let security = &pool.template.pod_security_context;
        assert_eq!((security.run_as_user, security.fs_group, security.run_as_group), (Some(1000), None, Some(65532)));
        assert_eq!(pool.template.resources.limits.as_ref().unwrap()["cpu"].0, "2");
        let selector = pool.template.topology_spread_constraints[0].label_selector.as_ref().unwrap();
        assert_eq!(selector.match_labels.as_ref().unwrap()[POOL_LABEL], "live");
    }

    #[test]
    fn what_is_no_host_is_not_advertised() {
        let with = |host: &str| validated(json!({"advertiseHost": host}));
        assert_eq!(with("live.example.com").unwrap().advertise_host.as_deref(), Some("live.example.com"));
        assert_eq!(with("live.example.com:1935").unwrap_err().reason(), "InvalidAdvertiseHost");
        let plain = validated(json!({})).unwrap().revision;
        assert_eq!(with("192.0.2.1").unwrap().revision, plain, "no pod is replaced for it");
    }

    #[test]
    fn a_port_range_has_room_for_an_update() {
        let nodes =
            |last: i32| json!({"exposure": "HostPort", "minNodes": 3, "portRange": {"first": 7000, "last": last}});

        assert_eq!(validated(nodes(7002)).unwrap_err(), Invalid::PortRange { ports: 3, needed: 4 });
        assert_eq!(validated(nodes(7003)).unwrap().bounds.ports, Some(7000..=7003));
    }

    fn pool_with(nodes: Value, webrtc: Value) -> MediaPool {
        let mut pool = pool(nodes);
        pool.spec.web_rtc = Some(serde_json::from_value(webrtc).unwrap());
        pool
    }

    fn media_at(nodes: Value, webrtc: Value) -> Result<(MediaAt, Option<RangeInclusive<u16>>), Invalid> {
        let pool = pool_with(nodes, webrtc);
        let valid = validate(&pool, &pool.spec.nodes.clone().unwrap(), &given(None))?;
        Ok((valid.web_rtc.unwrap().media, valid.bounds.ports))
    }

    #[test]
    fn media_of_webrtc_go_where_the_nodes_are_reached() {
        let port = 50_000;
        let with = |exposure: &str| media_at(json!({"exposure": exposure}), json!({})).unwrap();

        assert_eq!(with("ClusterIP"), (MediaAt::Pod { port }, None));
        assert_eq!(with("LoadBalancer"), (MediaAt::Pod { port }, None));
        assert_eq!(with("HostNetwork"), (MediaAt::Machine { port }, None));
        let in_step = MediaAt::InStep { rtmp_first: 7000, first: 50_000 };
        assert_eq!(with("HostPort"), (in_step, Some(7000..=8000)));
        assert_eq!((in_step.port(Some(7004)), in_step.port(None)), (Some(50_004), None));

        let nodes = json!({"exposure": "LoadBalancer"});
        let with = |webrtc: Value| media_at(nodes.clone(), webrtc).unwrap();
        let at_port = with(json!({"exposure": "HostPort", "port": 20000}));
        assert_eq!(at_port, (MediaAt::GivenPort, Some(20_000..=21_000)));
        assert_eq!(MediaAt::GivenPort.port(Some(20_003)), Some(20_003));
        assert_eq!(with(json!({"exposure": "LoadBalancer", "port": 10443})).0, MediaAt::Balancer { port: 10_443 });
        let high = with(json!({"exposure": "HostPort", "port": 65500}));
        assert_eq!(high.1, Some(65_500..=65_535));
    }

    #[test]
    fn ports_of_webrtc_have_room_and_meet_no_others() {
        let nodes = json!({"exposure": "HostPort", "portRange": {"first": 17000, "last": 17100}});
        let with = |port: i32| media_at(nodes.clone(), json!({"port": port}));

        assert!(with(17_101).is_ok() && with(16_899).is_ok() && with(65_435).is_ok());
        for port in [17_000, 17_100, 16_900, 65_436] {
            assert_eq!(with(port).unwrap_err(), Invalid::WebRtcPort { ports: 101 }, "{port}");
        }
        let few = media_at(json!({"minNodes": 3}), json!({"exposure": "HostPort", "port": 65533}));
        assert_eq!(few.unwrap_err(), Invalid::WebRtcPort { ports: 4 });
        let wrong = media_at(json!({}), json!({"advertise": ["203.0.113.999:1"]}));
        assert_eq!(wrong.unwrap_err().reason(), "InvalidWebRTCAdvertise");
    }

    #[test]
    fn only_what_pods_are_made_of_makes_a_revision() {
        let of = |nodes: Value| validated(nodes).unwrap().revision;
        let first = of(json!({}));

        assert_eq!(
            first,
            of(json!({"minNodes": 5, "maxNodes": 9, "minReadyCapacity": 7, "capacity": {"sessions": 3}}))
        );
        assert_ne!(first, of(json!({"template": {"annotations": {"a": "b"}}})));
        assert_ne!(first, of(json!({"exposure": "HostPort"})));
        assert_eq!(first, with_rest(json!({}), Some("http://operator:5080")).unwrap().revision);
        let with_hls = |hls: Value| {
            let mut pool = pool(json!({}));
            pool.spec.hls = Some(serde_json::from_value(hls).unwrap());
            let nodes = pool.spec.nodes.clone().unwrap();
            validate(&pool, &nodes, &given(None)).unwrap().revision
        };
        let said = json!({"mode": "OnDemand", "partMilliseconds": 300, "segmentSeconds": 2, "windowSeconds": 16});
        assert_eq!(first, with_hls(json!({})));
        assert_eq!(first, with_hls(said), "a default is the same when it is said");
        assert_ne!(first, with_hls(json!({"windowSeconds": 60})));
        let with_webrtc = |webrtc: Value| {
            let mut pool = pool(json!({}));
            pool.spec.web_rtc = Some(serde_json::from_value(webrtc).unwrap());
            let nodes = pool.spec.nodes.clone().unwrap();
            validate(&pool, &nodes, &given(None)).unwrap().revision
        };
        assert_eq!(first, with_webrtc(json!({"mode": "On", "port": 50000})), "a default is the same when it is said");
        assert_ne!(first, with_webrtc(json!({"mode": "Off"})));
        assert_ne!(first, with_webrtc(json!({"advertise": ["203.0.113.9"]})));
        // Written out, because a change of the function would replace every media pod when the operator is upgraded.
        assert_eq!(first, "c59777b1e8");
    }

    #[test]
    fn without_an_image_no_pod_is_made() {
        let pool = pool(json!({}));

        let error = validate(&pool, &pool.spec.nodes.clone().unwrap(), &Given::default()).unwrap_err();

        assert!(error.to_string().contains("--media-node-image"), "{error}");
    }
}
