//! Where publishers and players reach a pool is in its status, and at each pod.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node as Machine, Pod, Service as KubeService};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tallylight_crds::MediaPool;
use tests::{
    apiserver::{ControlPlane, Parts},
    identity, install,
    kubelet::Kubelet,
    repository,
    service::Launch,
    wait,
};

use crate::{
    chart::kubectl,
    pools::{Stage, names},
    stage::SOON,
};

const ADDRESS: &str = "tallylight.dev/address";

/// Waits until the addresses at the pods are these.
async fn at_pods(client: &Client, namespace: &str, expected: &[&str]) -> Result<()> {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let expected: BTreeSet<_> = expected.iter().map(|address| (*address).to_owned()).collect();
    wait::until(format!("pods at {expected:?}"), SOON, async || {
        let all = pods.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let found: BTreeSet<_> = all.iter().filter_map(|pod| pod.annotations().get(ADDRESS).cloned()).collect();
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
}

fn is_at(address: &'static str) -> impl Fn(&Value) -> bool {
    move |status| status["address"] == address
}

#[tokio::test]
async fn a_pool_inside_the_cluster_is_reached_by_its_service_and_that_costs_no_write() -> Result<()> {
    let mut stage = Stage::new("at-service", json!({"minNodes": 2})).await?;
    stage.settled(2, SOON).await?;
    let namespace = stage.tenant.namespace.clone();
    let address = format!("media-live.{namespace}.svc:1935");

    let status = stage.status("two nodes", |status| status["readyReplicas"] == 2).await?;

    assert_eq!(status["address"], address.as_str());
    assert_eq!(status["addresses"].as_array().map(Vec::len), Some(2), "{status}");
    at_pods(&stage.tenant.admin, &namespace, &[&address]).await?;
    let shown = kubectl(stage.tenant.plane, &namespace, &["get", "mediapools"])?;
    assert!(shown.contains("ADDRESS") && shown.contains(&address), "{shown}");
    let writes = stage.tenant.plane.writes(&namespace)?;
    assert_eq!(writes.get("tallylight-operator patch pods"), None, "the pods were made with it: {writes:?}");
    stage.nothing_was_refused()
}

#[tokio::test]
async fn a_load_balancers_address_is_told_when_it_comes_and_when_it_changes() -> Result<()> {
    let mut stage = Stage::new("at-balancer", json!({"minNodes": 1, "exposure": "LoadBalancer"})).await?;
    stage.settled(1, SOON).await?;
    let status = stage.status("a node", |status| status["readyReplicas"] == 1).await?;
    assert_eq!((&status["address"], &status["addresses"]), (&Value::Null, &Value::Null), "there is no balancer yet");
    let services = Api::<KubeService>::namespaced(stage.tenant.admin.clone(), &stage.tenant.namespace);
    let balance = async |ingress: Value| {
        let status = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": [ingress]}}}));
        services.patch_status("media-live", &PatchParams::default(), &status).await
    };

    balance(json!({"ip": "198.51.100.1"})).await?;
    let status = stage.status("the address", is_at("198.51.100.1:1935")).await?;
    assert_eq!(status["addresses"][0]["host"], "198.51.100.1");
    at_pods(&stage.tenant.admin, &stage.tenant.namespace, &["198.51.100.1:1935"]).await?;
    balance(json!({"hostname": "lb.example.com"})).await?;

    stage.status("the name", is_at("lb.example.com:1935")).await?;
    at_pods(&stage.tenant.admin, &stage.tenant.namespace, &["lb.example.com:1935"]).await?;
    stage.nothing_was_refused()
}

#[tokio::test]
async fn an_operator_of_one_namespace_tells_machines_by_what_kubelets_say_and_by_what_users_say() -> Result<()> {
    let nodes = |more: &Value| {
        let mut nodes = json!({"minNodes": 2, "exposure": "HostPort", "portRange": {"first": 7000, "last": 7009}});
        json_patch::merge(&mut nodes, more);
        nodes
    };
    let mut stage = Stage::new("at-machine", nodes(&json!({}))).await?;
    let before = names(&stage.settled(2, SOON).await?);

    let both = |status: &Value| status["addresses"].as_array().is_some_and(|all| all.len() == 2);
    let status = stage.status("both nodes", both).await?;
    let ports: BTreeSet<_> = [0, 1].map(|at| status["addresses"][at]["rtmpPort"].as_i64()).into();
    assert_eq!(ports, BTreeSet::from([Some(7000), Some(7001)]));
    let media: BTreeSet<_> = [0, 1].map(|at| status["addresses"][at]["webRTCPort"].as_i64()).into();
    assert_eq!(media, BTreeSet::from([Some(50_000), Some(50_001)]), "in step with those of RTMP");
    assert_eq!(status["address"], "192.0.2.1:7000", "the oldest node's");
    at_pods(&stage.tenant.admin, &stage.tenant.namespace, &["192.0.2.1:7000", "192.0.2.1:7001"]).await?;
    stage.pool(&nodes(&json!({"advertiseHost": "live.example.com"}))).await?;

    stage.status("the name", is_at("live.example.com:7000")).await?;
    at_pods(&stage.tenant.admin, &stage.tenant.namespace, &["live.example.com:7000", "live.example.com:7001"]).await?;
    assert_eq!(names(&stage.settled(2, SOON).await?), before, "no pod is replaced for it");
    stage.nothing_was_refused()
}

#[tokio::test]
async fn an_operator_of_the_cluster_reads_each_machine_once() -> Result<()> {
    const NAMESPACE: &str = "machines";
    let plane = ControlPlane::start(Parts::ApiServer).await?;
    let admin = install::install_for_all(&plane, NAMESPACE).await?;
    let machines = Api::<Machine>::all(admin.clone());
    let machine = serde_json::from_value(json!({"metadata": {"name": "machine-1"}}))?;
    machines.create(&PostParams::default(), &machine).await?;
    let addresses = json!([
        {"type": "Hostname", "address": "machine-1"},
        {"type": "InternalIP", "address": "192.0.2.1"},
        {"type": "ExternalIP", "address": "203.0.113.9"},
    ]);
    let status = Patch::Merge(json!({"status": {"addresses": addresses}}));
    machines.patch_status("machine-1", &PatchParams::default(), &status).await?;
    let folder = repository::folder(NAMESPACE)?;
    let credential = identity::operator(&admin, NAMESPACE).await?;
    let kubeconfig = plane.kubeconfig(folder.path(), identity::OPERATOR, &credential, NAMESPACE)?;
    let launch = Launch::operator_of_all(folder.path(), &kubeconfig);
    let _operator = launch.args(["--media-node-image=localhost/tallylight/media-node:test"]).start().await?;
    let _kubelet = Kubelet::start(admin.clone(), NAMESPACE);
    let pools = Api::<MediaPool>::namespaced(admin.clone(), NAMESPACE);
    let shows = async |address: &str, nodes: usize| {
        wait::until(format!("{nodes} nodes, and {address}"), SOON, async || {
            let status = pools.get("live").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
            let is_it = status.address.as_deref() == Some(address) && status.addresses.len() == nodes;
            if is_it { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await
    };
    let pool = |nodes: usize| {
        json!({
            "apiVersion": "tallylight.dev/v1alpha1", "kind": "MediaPool", "metadata": {"name": "live"},
            "spec": {"nodes": {"minNodes": nodes, "exposure": "HostPort"}},
        })
    };

    install::apply(&admin, NAMESPACE, &pool(1)).await?;
    shows("203.0.113.9:7000", 1).await?;
    at_pods(&admin, NAMESPACE, &["203.0.113.9:7000"]).await?;
    install::apply(&admin, NAMESPACE, &pool(3)).await?;
    shows("203.0.113.9:7000", 3).await?;
    at_pods(&admin, NAMESPACE, &["203.0.113.9:7000", "203.0.113.9:7001", "203.0.113.9:7002"]).await?;

    let reads = plane.calls("")?.into_iter().filter(|call| call.resource == "nodes").count();
    ensure!(reads == 1, "the machine was read {reads} times");
    let refused: Vec<_> = plane.calls(NAMESPACE)?.into_iter().filter(|call| call.status == 403).collect();
    ensure!(refused.is_empty(), "the chart's role lacks rights: {refused:?}");
    Ok(())
}
