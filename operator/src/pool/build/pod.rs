//! The pod of one media node.

use std::iter;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, LocalObjectReference, Pod, PodSpec, Volume, VolumeMount,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tallylight_crds::{
    Exposure, Hls, MEDIA_SERVICE_ACCOUNT, ORDER_ANNOTATION, POOL_SECRET_KEY, POOL_SECRET_PREFIX, PullPolicy,
    REVISION_LABEL, is_media_address,
};

use super::storage;
use crate::pool::validate::{MediaAt, ValidatedPool};

pub(crate) const RTMP_PORT: u16 = 1935;
/// Health and metrics.
const METRICS_PORT: u16 = 8080;
/// For the pool's other nodes only.
const RELAY_PORT: u16 = 5081;
/// Beyond the drain time: for farewells and a last renewal, before the kubelet kills.
const GRACE_MARGIN_SECONDS: i64 = 10;

/// The pod of a node; `suffix` makes its name unique, `order` tells it from older ones, `port` is the port of the Kubernetes node that it is reached by.
pub(crate) fn pod(pool: &ValidatedPool, suffix: &str, order: i64, port: Option<u16>) -> Pod {
    let template = &pool.template;
    let mut metadata = super::metadata(pool, format!("{}-{suffix}", super::base_name(pool)));
    let mut labels = template.labels.clone();
    labels.append(metadata.labels.get_or_insert_default());
    labels.insert(REVISION_LABEL.to_owned(), pool.revision.clone());
    metadata.labels = Some(labels);
    let mut annotations = template.annotations.clone();
    annotations.insert(ORDER_ANNOTATION.to_owned(), order.to_string());
    metadata.annotations = Some(annotations);
    let on_host = pool.exposure == Exposure::HostNetwork;
    let secrets = template.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect();
    let spec = PodSpec {
        service_account_name: Some(MEDIA_SERVICE_ACCOUNT.to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(pool.drain_seconds + GRACE_MARGIN_SECONDS),
        host_network: on_host.then_some(true),
        dns_policy: on_host.then(|| "ClusterFirstWithHostNet".to_owned()),
        image_pull_secrets: some(secrets),
        security_context: Some(template.pod_security_context.clone()),
        containers: vec![container(pool, port)],
        volumes: Some(volumes(pool)),
        node_selector: Some(template.node_selector.clone()).filter(|selector| !selector.is_empty()),
        tolerations: some(template.tolerations.clone()),
        affinity: template.affinity.clone(),
        topology_spread_constraints: some(template.topology_spread_constraints.clone()),
        priority_class_name: template.priority_class_name.clone(),
        ..PodSpec::default()
    };
    Pod { metadata, spec: Some(spec), status: None }
}

fn container(pool: &ValidatedPool, port: Option<u16>) -> Container {
    let template = &pool.template;
    let mut env = template.env.clone();
    if !env.iter().any(|variable| variable.name == LOG_FORMAT) {
        env.push(EnvVar { name: LOG_FORMAT.into(), value: Some("json".into()), value_from: None });
    }
    env.extend(users(pool));
    env.extend(web_rtc(pool, port));
    env.extend(storage::env(&pool.storages));
    env.extend(own_env());
    let mut mounts: Vec<VolumeMount> = fixed(json!([
        {"name": "token", "mountPath": TOKEN_DIR, "readOnly": true},
        {"name": KEY_VOLUME, "mountPath": KEY_DIR, "readOnly": true},
    ]));
    // Ends that the API server has not taken yet survive a restart of the container here.
    let has_data = template.volume_mounts.iter().any(|mount| mount.mount_path == DATA_DIR);
    if !has_data {
        mounts.push(VolumeMount { name: "data".into(), mount_path: DATA_DIR.into(), ..VolumeMount::default() });
    }
    mounts.extend(storage::mounts(&pool.storages));
    mounts.extend(template.volume_mounts.clone());
    Container {
        name: "media-node".to_owned(),
        image: Some(template.image.clone()),
        image_pull_policy: template.image_pull_policy.map(PullPolicy::as_str).map(str::to_owned),
        args: Some(arguments(pool)),
        env: Some(env),
        ports: Some(ports(pool, port)),
        liveness_probe: Some(fixed(
            json!({"httpGet": {"path": "/healthz", "port": "metrics"}, "periodSeconds": 10, "failureThreshold": 3}),
        )),
        readiness_probe: Some(fixed(json!({"httpGet": {"path": "/readyz", "port": "metrics"}, "periodSeconds": 2}))),
        resources: Some(template.resources.clone()),
        security_context: Some(template.security_context.clone()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

/// Where in-cluster clients look for the token.
const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Beside it.
const MEDIA_ADDRESS_FILE: &str = "media-address";
const LOG_FORMAT: &str = "TALLYLIGHT_LOG_FORMAT";
const DATA_DIR: &str = "/var/lib/tallylight";
const KEY_VOLUME: &str = "pool-key";
const KEY_DIR: &str = "/etc/tallylight/pool";

fn ports(pool: &ValidatedPool, host: Option<u16>) -> Vec<ContainerPort> {
    let port = |name: &str, container_port: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: container_port.into(),
        ..ContainerPort::default()
    };
    let of_rtmp = host.filter(|_| pool.exposure == Exposure::HostPort);
    let rtmp = ContainerPort { host_port: of_rtmp.map(i32::from), ..port("rtmp", RTMP_PORT) };
    let http = pool.serves_users().then(|| port(super::HTTP, super::HTTP_PORT));
    let others = [rtmp, port("metrics", METRICS_PORT), port("relay", RELAY_PORT)];
    others.into_iter().chain(http).chain(media_ports(pool, host)).collect()
}

/// In the pod the number is that of its machine: what browsers are told of is what the node listens on.
fn media_ports(pool: &ValidatedPool, host: Option<u16>) -> Vec<ContainerPort> {
    let Some(media) = pool.web_rtc.as_ref().map(|webrtc| webrtc.media) else { return Vec::new() };
    let Some(number) = media.port(host) else { return Vec::new() };
    let port = |name: &str, protocol: &str| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number.into(),
        host_port: media.is_host_port().then(|| number.into()),
        protocol: Some(protocol.to_owned()),
        ..ContainerPort::default()
    };
    vec![port(super::WEBRTC, "UDP"), port(super::WEBRTC_TCP, "TCP")]
}

fn arguments(pool: &ValidatedPool) -> Vec<String> {
    vec![
        "run".to_owned(),
        format!("--pool={}", pool.name),
        format!("--app={}", pool.app),
        format!("--rtmp-address=0.0.0.0:{RTMP_PORT}"),
        format!("--http-address=0.0.0.0:{METRICS_PORT}"),
        format!("--relay-address=0.0.0.0:{RELAY_PORT}"),
        format!("--relay-key-file={KEY_DIR}/{POOL_SECRET_KEY}"),
        format!("--data-dir={DATA_DIR}"),
        format!("--drain-seconds={}", pool.drain_seconds),
        format!("--reconnect-window-seconds={}", pool.reconnect_window_seconds),
    ]
}

/// What the nodes serve to users over HTTP. Variables and not arguments: a node that is older than this operator, as a template may
/// name one, does not know them.
fn users(pool: &ValidatedPool) -> Vec<EnvVar> {
    let Hls { mode, part_milliseconds, segment_seconds, window_seconds } = &pool.hls;
    let number = |number: &Option<i32>| number.map(|number| number.to_string());
    [
        ("TALLYLIGHT_PUBLIC_HTTP_ADDRESS", pool.serves_users().then(|| format!("0.0.0.0:{}", super::HTTP_PORT))),
        ("TALLYLIGHT_REST_UPSTREAM", pool.rest_upstream.as_ref().map(ToString::to_string)),
        ("TALLYLIGHT_HLS", Some(mode.as_str().to_owned())),
        ("TALLYLIGHT_HLS_PART_MILLISECONDS", number(part_milliseconds)),
        ("TALLYLIGHT_HLS_SEGMENT_SECONDS", number(segment_seconds)),
        ("TALLYLIGHT_HLS_WINDOW_SECONDS", number(window_seconds)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some(EnvVar { name: name.to_owned(), value: Some(value?), value_from: None }))
    .collect()
}

/// Where the node has media of WebRTC, and what addresses it tells browsers. Variables, as with [`users`].
fn web_rtc(pool: &ValidatedPool, host: Option<u16>) -> Vec<EnvVar> {
    let said = |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), value_from: None };
    let listening = pool.web_rtc.as_ref().and_then(|webrtc| Some((webrtc, webrtc.media.port(host)?)));
    let Some((webrtc, port)) = listening else { return vec![said("TALLYLIGHT_WEBRTC_WORKERS", "0".to_owned())] };
    let own = match webrtc.media {
        MediaAt::GivenPort | MediaAt::InStep { .. } | MediaAt::Machine { .. } => "status.hostIP",
        MediaAt::Balancer { .. } | MediaAt::Pod { .. } => "status.podIP",
    };
    let own: EnvVar = fixed(json!({"name": OWN_IP, "valueFrom": {"fieldRef": {"fieldPath": own}}}));
    let host = pool.advertise_host.as_ref().filter(|host| is_media_address(host) && !webrtc.advertise.contains(host));
    let all = iter::once(format!("$({OWN_IP})")).chain(host.cloned()).chain(webrtc.advertise.clone());
    let advertise = said("TALLYLIGHT_WEBRTC_ADVERTISE", all.collect::<Vec<_>>().join(","));
    let later = said("TALLYLIGHT_WEBRTC_ADVERTISE_FILE", format!("{TOKEN_DIR}/{MEDIA_ADDRESS_FILE}"));
    let workers = webrtc.workers.map(|workers| said("TALLYLIGHT_WEBRTC_WORKERS", workers.to_string()));
    let servers = Some(webrtc.ice_servers.join(",")).filter(|servers| !servers.is_empty());
    let servers = servers.map(|servers| said("TALLYLIGHT_WEBRTC_ICE_SERVER", servers));
    let address = said("TALLYLIGHT_WEBRTC_ADDRESS", format!("0.0.0.0:{port}"));
    [address, own, advertise, later].into_iter().chain(workers).chain(servers).collect()
}

/// What the others refer to: a reference is to a variable that comes before.
const OWN_IP: &str = "TALLYLIGHT_MEDIA_IP";

/// Who the node is: last, so that a template does not change it.
fn own_env() -> Vec<EnvVar> {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    fixed(json!([
        field("TALLYLIGHT_NODE_NAME", "metadata.name"),
        field("TALLYLIGHT_ADVERTISE_ADDRESS", "status.podIP"),
        // The pod owns its Lease, which goes with it.
        field("TALLYLIGHT_POD_UID", "metadata.uid"),
    ]))
}

/// The account's token, bound to the pod and renewed by the kubelet, where in-cluster clients look for it.
fn volumes(pool: &ValidatedPool) -> Vec<Volume> {
    let of_media = format!("metadata.annotations['{}']", super::MEDIA_ADDRESS_ANNOTATION);
    let mut volumes: Vec<Volume> = fixed(json!([
        {"name": "token", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}},
                // it comes when the machine is known, and the kubelet brings it within a minute or two
                {"path": MEDIA_ADDRESS_FILE, "fieldRef": {"fieldPath": of_media}},
            ]}},
        ]}},
        // The kubelet waits for it: `pool_keys` makes it as soon as the pool is seen.
        {"name": KEY_VOLUME, "secret": {"secretName": format!("{POOL_SECRET_PREFIX}{}", pool.name), "defaultMode": 0o440}},
    ]));
    let theirs = &pool.template.volumes;
    let is_mounted_by_them = pool.template.volume_mounts.iter().any(|mount| mount.mount_path == DATA_DIR);
    if !is_mounted_by_them && !theirs.iter().any(|volume| volume.name == "data") {
        volumes.push(fixed(json!({"name": "data", "emptyDir": {}})));
    }
    volumes.extend(storage::volumes(&pool.storages));
    volumes.extend(theirs.clone());
    volumes
}

fn fixed<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a literal part of a pod")
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

#[cfg(test)]
mod tests {
    use tallylight_crds::HlsMode;

    use super::*;
    use crate::pool::validate::WebRtcSettings;
    use crate::pool::validate::tests::{validated, with_rest};

    fn built(nodes: Value, port: Option<u16>) -> Value {
        serde_json::to_value(pod(&validated(nodes).unwrap(), "abcde", 7, port)).unwrap()
    }

    #[test]
    fn a_pod_knows_who_it_is_and_holds_no_rights_on_its_machine() {
        let pod = built(json!({"drainTimeoutSeconds": 30}), None);

        assert_eq!(pod["metadata"]["name"], "media-live-abcde");
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "u-1");
        assert_eq!(pod["spec"]["serviceAccountName"], "tallylight-media");
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 40);
        assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        let arguments = container["args"].as_array().unwrap();
        assert!(arguments.contains(&json!("--pool=live")) && arguments.contains(&json!("--drain-seconds=30")));
        assert!(arguments.contains(&json!("--reconnect-window-seconds=0")));
        assert!(pod["spec"].get("hostNetwork").is_none());
        let key =
            pod["spec"]["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "pool-key").unwrap();
        assert_eq!(key["secret"]["secretName"], "tallylight-pool-live");
        assert!(arguments.contains(&json!("--relay-key-file=/etc/tallylight/pool/key")));
    }

    #[test]
    fn exposure_decides_how_the_host_is_used() {
        let by_port = built(json!({"exposure": "HostPort"}), Some(7004));
        let by_network = built(json!({"exposure": "HostNetwork"}), None);

        assert_eq!(by_port["spec"]["containers"][0]["ports"][0]["hostPort"], 7004);
        assert_eq!(by_network["spec"]["hostNetwork"], true);
        assert_eq!(by_network["spec"]["dnsPolicy"], "ClusterFirstWithHostNet");
    }

    #[test]
    fn a_node_that_passes_rest_on_serves_it_at_a_port_of_its_own_and_at_none_of_its_machine() {
        let nodes = json!({"exposure": "HostPort"});
        let without = built(nodes.clone(), Some(7004));
        let pool = with_rest(nodes, Some("http://operator.media.svc:5080")).unwrap();
        let with = serde_json::to_value(pod(&pool, "abcde", 7, Some(7004))).unwrap();

        let container = |pod: &Value| pod["spec"]["containers"][0].clone();
        let (with, without) = (container(&with), container(&without));
        assert_eq!(with["ports"].as_array().unwrap().len(), 6);
        assert_eq!(with["ports"][3], json!({"name": "http", "containerPort": 5080}));
        assert_eq!(with["ports"], without["ports"], "for HLS");
        assert_eq!(with["args"], without["args"], "an older node would refuse an argument that it does not know");
        let env = with["env"].as_array().unwrap();
        for (name, value) in [
            ("TALLYLIGHT_PUBLIC_HTTP_ADDRESS", "0.0.0.0:5080"),
            ("TALLYLIGHT_REST_UPSTREAM", "http://operator.media.svc:5080"),
        ] {
            assert!(env.contains(&json!({"name": name, "value": value})), "{env:?}");
        }
    }

    #[test]
    fn a_pod_is_told_what_its_pool_says_of_hls() {
        let mut pool = ValidatedPool { web_rtc: None, ..validated(json!({})).unwrap() };
        let env = |pool: &ValidatedPool| {
            let pod = serde_json::to_value(pod(pool, "abcde", 7, None)).unwrap();
            let container = &pod["spec"]["containers"][0];
            (container["ports"].as_array().unwrap().len(), container["env"].as_array().unwrap().clone())
        };
        let (ports, variables) = env(&pool);
        assert_eq!(ports, 4);
        assert!(variables.contains(&json!({"name": "TALLYLIGHT_HLS", "value": "OnDemand"})), "{variables:?}");
        assert!(!variables.iter().any(|variable| variable["name"] == "TALLYLIGHT_HLS_PART_MILLISECONDS"));

        pool.hls = Hls { mode: HlsMode::Always, window_seconds: Some(60), ..Hls::default() };
        assert!(env(&pool).1.contains(&json!({"name": "TALLYLIGHT_HLS_WINDOW_SECONDS", "value": "60"})));
        pool.hls = Hls { mode: HlsMode::Off, ..Hls::default() };
        let (ports, variables) = env(&pool);
        assert_eq!(ports, 3, "nothing is served to users");
        assert!(variables.contains(&json!({"name": "TALLYLIGHT_HLS", "value": "Off"})));
    }

    /// Ports by name, and the variables that concern WebRTC.
    fn media(nodes: Value, port: Option<u16>) -> (Vec<Value>, Vec<(String, Value)>) {
        let pod = built(nodes, port);
        let container = &pod["spec"]["containers"][0];
        let ports = container["ports"].as_array().unwrap().iter();
        let ports = ports.filter(|port| port["name"].as_str().unwrap().starts_with("webrtc"));
        let field = |variable: &Value| variable["valueFrom"]["fieldRef"]["fieldPath"].clone();
        let value = |variable: &Value| variable.get("value").cloned().unwrap_or_else(|| field(variable));
        let env = container["env"].as_array().unwrap().iter();
        let env = env.map(|variable| (variable["name"].as_str().unwrap().to_owned(), value(variable)));
        let is_ours = |name: &str| name.starts_with("TALLYLIGHT_WEBRTC") || name == OWN_IP;
        (ports.cloned().collect(), env.filter(|(name, _)| is_ours(name)).collect())
    }

    #[test]
    fn media_of_webrtc_have_a_port_of_both_protocols_in_step_with_that_of_rtmp() {
        let (ports, env) = media(json!({"exposure": "HostPort", "advertiseHost": "203.0.113.9"}), Some(7004));

        assert_eq!(
            ports,
            [
                json!({"name": "webrtc", "containerPort": 50004, "hostPort": 50004, "protocol": "UDP"}),
                json!({"name": "webrtc-tcp", "containerPort": 50004, "hostPort": 50004, "protocol": "TCP"}),
            ]
        );
        let said = |name: &str, value: &str| (name.to_owned(), json!(value));
        assert_eq!(
            env,
            [
                said("TALLYLIGHT_WEBRTC_ADDRESS", "0.0.0.0:50004"),
                said(OWN_IP, "status.hostIP"),
                said("TALLYLIGHT_WEBRTC_ADVERTISE", "$(TALLYLIGHT_MEDIA_IP),203.0.113.9"),
                said("TALLYLIGHT_WEBRTC_ADVERTISE_FILE", "/var/run/secrets/kubernetes.io/serviceaccount/media-address"),
            ]
        );
    }

    #[test]
    fn media_of_webrtc_are_at_the_pod_where_no_machine_has_a_port_for_them() {
        let (ports, env) = media(json!({"advertiseHost": "live.example.com"}), None);

        assert_eq!(ports[0], json!({"name": "webrtc", "containerPort": 50000, "protocol": "UDP"}));
        assert_eq!(env[1], (OWN_IP.to_owned(), json!("status.podIP")));
        assert_eq!(env[2].1, "$(TALLYLIGHT_MEDIA_IP)", "a name is no candidate");
        assert_eq!(media(json!({"exposure": "HostNetwork"}), None).1[1].1, "status.hostIP");
    }

    #[test]
    fn a_pod_is_told_what_its_pool_says_of_webrtc() {
        let of = |web_rtc: Option<WebRtcSettings>, port: Option<u16>| {
            let pool = ValidatedPool { web_rtc, ..validated(json!({})).unwrap() };
            serde_json::to_value(pod(&pool, "abcde", 7, port)).unwrap()["spec"]["containers"][0].clone()
        };
        let settings = WebRtcSettings {
            media: MediaAt::GivenPort,
            advertise: vec!["203.0.113.9:7".into()],
            ice_servers: vec!["stun:a".into(), "turn:b".into()],
            workers: Some(2),
        };

        let on = of(Some(settings), Some(20_003));
        assert_eq!(on["ports"][0].get("hostPort"), None, "RTMP is behind its Service");
        assert_eq!(on["ports"][4]["hostPort"], 20_003);
        for (name, value) in [
            ("TALLYLIGHT_WEBRTC_ADVERTISE", "$(TALLYLIGHT_MEDIA_IP),203.0.113.9:7"),
            ("TALLYLIGHT_WEBRTC_WORKERS", "2"),
            ("TALLYLIGHT_WEBRTC_ICE_SERVER", "stun:a,turn:b"),
        ] {
            assert!(on["env"].as_array().unwrap().contains(&json!({"name": name, "value": value})), "{}", on["env"]);
        }
        let off = of(None, None);
        assert_eq!(off["ports"].as_array().unwrap().len(), 4);
        assert!(off["env"].as_array().unwrap().contains(&json!({"name": "TALLYLIGHT_WEBRTC_WORKERS", "value": "0"})));
    }

    #[test]
    fn a_template_adds_and_does_not_take_away_who_the_node_is() {
        let pod = built(
            json!({"template": {
                "labels": {"team": "tv", "tallylight.dev/pool": "other"},
                "env": [{"name": "TALLYLIGHT_NODE_NAME", "value": "other"}],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "ends"}}],
                "imagePullPolicy": "Never",
            }}),
            None,
        );

        assert_eq!(pod["metadata"]["labels"]["tallylight.dev/pool"], "live");
        assert_eq!(pod["metadata"]["labels"]["team"], "tv");
        assert_eq!(pod["metadata"]["annotations"]["tallylight.dev/order"], "7");
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        assert_eq!(volumes.iter().filter(|volume| volume["name"] == "data").count(), 1);
        let env = pod["spec"]["containers"][0]["env"].as_array().unwrap();
        let name = env.iter().rfind(|variable| variable["name"] == "TALLYLIGHT_NODE_NAME").unwrap();
        assert!(name.get("value").is_none(), "the last one counts: {name}");
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "Never");
    }
}
