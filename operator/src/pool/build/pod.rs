//! The pod of one media node.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, LocalObjectReference, Pod, PodSpec, Volume, VolumeMount,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tallylight_crds::{
    Exposure, Hls, MEDIA_SERVICE_ACCOUNT, ORDER_ANNOTATION, POOL_SECRET_KEY, POOL_SECRET_PREFIX, PullPolicy,
    REVISION_LABEL,
};

use super::storage;
use crate::pool::validate::ValidatedPool;

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
    env.extend(storage::env(&pool.storages));
    env.extend(own_env());
    let mut mounts: Vec<VolumeMount> = fixed(json!([
        {"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true},
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
    let rtmp = ContainerPort { host_port: host.map(i32::from), ..port("rtmp", RTMP_PORT) };
    let http = pool.serves_users().then(|| port(super::HTTP, super::HTTP_PORT));
    [rtmp, port("metrics", METRICS_PORT), port("relay", RELAY_PORT)].into_iter().chain(http).collect()
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
    let mut volumes: Vec<Volume> = fixed(json!([
        {"name": "token", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
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
        assert_eq!(with["ports"].as_array().unwrap().len(), 4);
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
        let mut pool = validated(json!({})).unwrap();
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
