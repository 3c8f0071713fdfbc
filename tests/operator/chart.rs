//! The chart installs, and gives the two accounts their rights and no more.

use std::process::Command;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, api::PostParams};
use serde_json::json;
use tests::{apiserver::ControlPlane, install, repository};

const MINIMAL: &str = "\
apiVersion: tallylight.dev/v1alpha1
kind: Broadcast
metadata: {name: show}
spec: {pool: live}
";

#[tokio::test]
async fn a_minimal_broadcast_is_accepted_by_kubectl() -> Result<()> {
    let tenant = install::tenant("minimal").await?;
    let folder = repository::folder("minimal")?;
    let file = folder.path().join("broadcast.yaml");
    std::fs::write(&file, MINIMAL)?;

    let applied = kubectl(tenant.plane, &tenant.namespace, &["apply", "-f", file.to_str().unwrap()])?;
    let state = kubectl(tenant.plane, &tenant.namespace, &["get", "bc", "show", "-o", "jsonpath={.status.state}"])?;

    assert_eq!(applied.trim(), "broadcast.tallylight.dev/show created");
    assert_eq!(state, "Idle", "the status has a default");
    Ok(())
}

#[tokio::test]
async fn the_pods_keep_to_the_restricted_pod_security_standard() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let admin = plane.admin().await?;
    let label =
        json!({"metadata": {"name": "restricted", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let namespace: Namespace = serde_json::from_value(label)?;
    Api::<Namespace>::all(admin.clone()).create(&PostParams::default(), &namespace).await?;
    let pods = Api::<Pod>::namespaced(admin, "restricted");
    let deployments =
        install::render("restricted", &["operator.rest.tokenSecret.name=rest", "mediaNode.managedBy=Deployment"])?;
    let templates: Vec<_> =
        deployments.iter().map(|document| &document["spec"]["template"]).filter(|t| !t.is_null()).collect();
    assert_eq!(templates.len(), 2, "the operator's and the media-node's");
    let dry = PostParams { dry_run: true, ..PostParams::default() };

    for (number, template) in templates.into_iter().enumerate() {
        let mut pod = template.clone();
        pod["metadata"]["name"] = json!(format!("pod-{number}"));
        pods.create(&dry, &serde_json::from_value(pod.clone())?).await?;
        pod["spec"]["containers"][0]["securityContext"]["capabilities"] = json!({"add": ["SYS_ADMIN"]});
        let loose = pods.create(&dry, &serde_json::from_value(pod)?).await;
        assert!(
            loose.is_err_and(|error| error.to_string().contains("violates PodSecurity")),
            "the standard is enforced"
        );
    }
    Ok(())
}

#[test]
fn wrong_values_are_refused_with_their_names() {
    for (value, part) in [
        ("operator.replica=2", "replica"),
        ("mediaPool.admission=Closed", "/mediaPool/admission"),
        ("mediaPool.listenerHookURL=ftp://example.com", "/mediaPool/listenerHookURL"),
        ("mediaNode.service.rtmpPort=0", "/mediaNode/service/rtmpPort"),
        ("operator.image.digest=latest", "/operator/image/digest"),
        ("watchNamespaces={elsewhere}", "add it to watchNamespaces"),
        ("ingress.enabled=true", "set operator.rest.tokenSecret.name"),
        ("gateway.tcp.enabled=true", "gateway.tcp.parentRefs must name the Gateway"),
        ("mediaNode.rtmps.enabled=true", "mediaNode.rtmps.secretName must name the Secret"),
        ("mediaNode.https.enabled=true", "mediaNode.rtmps.secretName must name the Secret"),
        ("mediaNode.service.type=NodePort", "needs mediaNode.managedBy=Deployment"),
        ("secrets.names={a,a}", "/secrets/names"),
    ] {
        let error = install::render("default", &[value]).map(|_| ()).expect_err(value).to_string();
        assert!(error.contains(part), "{value}: {error}");
    }
}

#[test]
fn a_confined_operator_gets_no_cluster_wide_right() -> Result<()> {
    let kinds = |set: &[&str]| -> Result<Vec<String>> {
        let documents = install::render("team-a", set)?;
        let bindings = documents.iter().filter(|document| document["roleRef"]["name"] == "tallylight-operator");
        Ok(bindings.map(|document| format!("{}/{}", document["kind"], document["metadata"]["namespace"])).collect())
    };

    assert_eq!(kinds(&[])?, ["\"ClusterRoleBinding\"/null"]);
    assert_eq!(
        kinds(&["watchNamespaces={team-a,team-b}"])?,
        ["\"RoleBinding\"/\"team-a\"", "\"RoleBinding\"/\"team-b\""]
    );
    Ok(())
}

#[test]
fn the_operator_reads_no_secret_but_those_that_are_named() -> Result<()> {
    let reads = |set: &[&str]| -> Result<Vec<serde_json::Value>> {
        let documents = install::render("team-a", set)?;
        let role = documents
            .into_iter()
            .find(|it| it["kind"] == "ClusterRole" && it["metadata"]["name"] == "tallylight-operator");
        let rules = role.unwrap()["rules"].as_array().unwrap().clone();
        let of_secrets =
            |rule: &serde_json::Value| rule["resources"] == json!(["secrets"]) && rule["verbs"] != json!(["create"]);
        Ok(rules.into_iter().filter(of_secrets).collect())
    };

    let named =
        |names: &[&str]| json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": names, "verbs": ["get"]});
    assert_eq!(reads(&["mediaPool.create=false"])?, Vec::<serde_json::Value>::new());
    assert_eq!(reads(&[])?, [named(&["tallylight-pool-live"])], "the key that the operator made itself");
    assert_eq!(reads(&["secrets.names={a,b}"])?, [named(&["tallylight-pool-live", "a", "b"])]);
    assert_eq!(
        reads(&["secrets.readAll=true"])?,
        [json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]})]
    );
    Ok(())
}

#[test]
fn no_role_grants_a_wildcard() -> Result<()> {
    for set in [&["secrets.readAll=true"][..], &["watchNamespaces={team-a,team-b}"]] {
        let documents = install::render("team-a", set)?;
        let rules = documents.iter().filter_map(|document| document["rules"].as_array()).flatten();
        let rules: Vec<_> = rules.collect();
        assert!(rules.len() > 10, "there are rules: {}", rules.len());
        let wild = rules.into_iter().find(|rule| rule.to_string().contains("\"*\""));
        assert_eq!(wild, None);
    }
    Ok(())
}

pub(crate) fn kubectl(plane: &ControlPlane, namespace: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(repository::kubectl());
    command.arg("--kubeconfig").arg(plane.admin_kubeconfig()?).args(["--namespace", namespace]).args(arguments);
    output(command)
}

pub(crate) fn output(mut command: Command) -> Result<String> {
    let output = command.output()?;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    anyhow::ensure!(output.status.success(), "{command:?}: {errors}");
    Ok(text.into_owned())
}
