//! Everything that the chart makes of values is what a real API server takes: each object of each set of values is sent to it as a
//! dry run with strict field validation, with the definitions of the Gateway API, the Prometheus Operator and cert-manager there.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests::{install, repository};

/// Sets of values that reach every branch of the templates.
const MATRIX: &[(&str, &[&str])] = &[
    ("the defaults", &[]),
    ("one namespace", &["watchNamespaces={NAMESPACE}", "secrets.names={studio-key,hook-url}"]),
    (
        "a Deployment of media nodes",
        &[
            "mediaNode.managedBy=Deployment",
            "mediaNode.service.type=NodePort",
            "mediaNode.replicas=3",
            "mediaNode.rtmps.enabled=true",
            "mediaNode.https.enabled=true",
            "mediaNode.rtmps.secretName=tls",
            "operator.rest.tokenSecret.name=rest",
            "mediaPool.storages[0].name=archive",
            "mediaPool.storages[0].s3.bucket=vods",
            "mediaPool.storages[0].s3.prefix=live",
            "mediaPool.storages[0].s3.endpoint=https://minio.example.com:9000",
            "mediaPool.storages[0].s3.region=eu-central-1",
            "mediaPool.storages[0].s3.pathStyle=Enabled",
            "mediaPool.storages[0].s3.serverSideEncryption=KMS",
            "mediaPool.storages[0].s3.kmsKeyID=key",
            "mediaPool.storages[0].s3.acl=private",
            "mediaPool.storages[0].s3.maxMegabitsPerSecond=200",
            "mediaPool.storages[0].s3.secretRef.name=vods-s3",
            "mediaPool.storages[1].name=shared",
            "mediaPool.storages[1].volume.claimName=vods",
            "mediaPool.storages[1].volume.path=live",
            "mediaPool.webRTC.advertise={203.0.113.9}",
            "mediaPool.webRTC.iceServers[0].url=stun:stun.example.com",
        ],
    ),
    (
        "a load balancer and certificates",
        &[
            "mediaNode.service.type=LoadBalancer",
            "mediaNode.service.loadBalancerClass=example.com/lb",
            "mediaNode.service.annotations.example=a",
            "mediaPool.webRTC.exposure=HostPort",
            "mediaPool.webRTC.port=20000",
            "mediaPool.webRTC.advertise={203.0.113.9,203.0.113.9:20000,2001:db8::1}",
            "mediaPool.webRTC.iceServers[0].url=turns:turn.example.com?transport=tcp",
            "mediaNode.rtmps.enabled=true",
            "mediaNode.https.enabled=true",
            "mediaNode.https.port=8443",
            "mediaNode.rtmps.secretName=tls",
            "mediaNode.rtmps.certificate.create=true",
            "mediaNode.rtmps.certificate.dnsNames={live.example.com}",
            "mediaNode.rtmps.certificate.issuerRef.name=letsencrypt",
            "mediaNode.rtmps.certificate.issuerRef.kind=ClusterIssuer",
        ],
    ),
    (
        "ports of the machines",
        &[
            "mediaPool.nodes.exposure=HostPort",
            "mediaPool.nodes.portRange.first=7000",
            "mediaPool.nodes.portRange.last=7100",
            "mediaPool.nodes.maxNodes=5",
            "mediaPool.nodes.capacity.sessions=50",
            "mediaPool.webRTC.mode=Off",
            "mediaPool.hooks.contentType=JSON",
            "mediaPool.listenerHookURL=https://backend.example.com/hooks",
            "mediaPool.reconnectWindowSeconds=30",
            "mediaPool.recording.mode=OnDemand",
            "mediaPool.recording.storageRef.name=archive",
            "mediaPool.storages[0].name=archive",
            "mediaPool.storages[0].s3.bucket=vods",
            "mediaPool.storages[0].s3.secretRef.name=vods-s3",
        ],
    ),
    (
        "REST for users",
        &[
            "operator.rest.tokenSecret.name=rest",
            "operator.rest.publicRTMPHost=live.example.com",
            "ingress.enabled=true",
            "ingress.host=live.example.com",
            "ingress.className=nginx",
            "ingress.tlsSecretName=rest-tls",
            "ingress.annotations.a=b",
            "gateway.http.enabled=true",
            "gateway.http.parentRefs[0].name=edge",
            "gateway.http.hostnames={live.example.com}",
            "gateway.tcp.enabled=true",
            "gateway.tcp.parentRefs[0].name=edge",
            "gateway.tcp.parentRefs[0].sectionName=rtmp",
        ],
    ),
    (
        "monitoring",
        &[
            "metrics.serviceMonitor.enabled=true",
            "metrics.serviceMonitor.labels.release=prometheus",
            "metrics.podMonitor.enabled=true",
            "metrics.rules.enabled=true",
            "metrics.dashboard.enabled=true",
            "metrics.dashboard.annotations.folder=Media",
        ],
    ),
    ("monitoring of one namespace", &["watchNamespaces={NAMESPACE}", "metrics.podMonitor.enabled=true"]),
    (
        "closed networks",
        &[
            "networkPolicy.egress.enabled=true",
            "networkPolicy.egress.apiServerTo[0].ipBlock.cidr=10.0.0.1/32",
            "networkPolicy.egress.mediaTo[0].ports[0].port=9000",
            "networkPolicy.egress.mediaTo[0].to[0].ipBlock.cidr=192.0.2.1/32",
            "networkPolicy.mediaFrom[0].ipBlock.cidr=0.0.0.0/0",
            "networkPolicy.restFrom[0].podSelector.matchLabels.app=web",
            "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
            "operator.rest.tokenSecret.name=rest",
        ],
    ),
    (
        "REST of one namespace that media nodes do not pass on",
        &["watchNamespaces={NAMESPACE}", "operator.rest.tokenSecret.name=rest", "mediaNode.forwardREST=false"],
    ),
    ("REST of one namespace", &["watchNamespaces={NAMESPACE}", "operator.rest.tokenSecret.name=rest"]),
    (
        "placement and images",
        &[
            "imagePullSecrets={registry}",
            "commonLabels.team=tv",
            "operator.priorityClassName=system-cluster-critical",
            "operator.nodeSelector.disk=ssd",
            "operator.tolerations[0].key=a",
            "operator.tolerations[0].operator=Exists",
            "mediaNode.nodeSelector.disk=ssd",
            "mediaNode.tolerations[0].key=a",
            "mediaNode.tolerations[0].operator=Exists",
            "mediaNode.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution=null",
            "operator.podAnnotations.a=b",
            "mediaNode.podAnnotations.a=b",
            "operator.env[0].name=TALLYLIGHT_LEASE_SECONDS",
            "operator.env[0].value=s20",
            "mediaNode.env[0].name=TALLYLIGHT_LOG_FILTER",
            "mediaNode.env[0].value=debug",
            "operator.hookCA.configMap=authorities",
            "operator.image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ],
    ),
    (
        "as little as can be",
        &[
            "crds.keep=false",
            "admissionPolicy.enabled=false",
            "userRoles.create=false",
            "networkPolicy.enabled=false",
            "operator.replicas=1",
            "mediaPool.create=false",
            "check.enabled=false",
        ],
    ),
    (
        "objects of the user",
        &[
            "extraObjects[0].apiVersion=v1",
            "extraObjects[0].kind=ConfigMap",
            "extraObjects[0].metadata.name=\\{\\{ .Release.Name \\}\\}-extra",
        ],
    ),
];

#[tokio::test]
async fn the_api_server_takes_every_object_of_every_set_of_values() -> Result<()> {
    let tenant = install::tenant("matrix").await?;
    for name in ["gateway", "monitoring", "cert-manager"] {
        let path = repository::cached(&format!("{name}-crds.yaml"))?;
        let definitions = install::documents(&fs::read_to_string(path)?)?;
        for definition in &definitions {
            install::apply(&tenant.admin, &tenant.namespace, definition).await?;
        }
        install::effective(&tenant.admin, &definitions).await?;
    }
    let mut kinds = std::collections::BTreeSet::new();

    for (what, values) in MATRIX {
        let values: Vec<_> = values.iter().map(|value| value.replace("NAMESPACE", &tenant.namespace)).collect();
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        let mut documents = install::render(&tenant.namespace, &values).context(*what)?;
        documents.extend(documents.iter().filter_map(pool).collect::<Vec<_>>());
        for document in &documents {
            install::dry_run(&tenant.admin, &tenant.namespace, document).await.context(*what)?;
            kinds.insert(document["kind"].as_str().unwrap_or_default().to_owned());
        }
    }

    for kind in [
        "Certificate",
        "ClusterRole",
        "ConfigMap",
        "CustomResourceDefinition",
        "Deployment",
        "HTTPRoute",
        "Ingress",
        "MediaPool",
        "NetworkPolicy",
        "Pod",
        "PodDisruptionBudget",
        "PodMonitor",
        "PrometheusRule",
        "Role",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
        "TCPRoute",
        "ValidatingAdmissionPolicy",
    ] {
        assert!(kinds.contains(kind), "no set of values makes a {kind}");
    }
    Ok(())
}

/// The pool that waits in a ConfigMap.
fn pool(document: &Value) -> Option<Value> {
    let text = document["data"]["pool.yaml"].as_str()?;
    Some(install::documents(text).unwrap().remove(0))
}
