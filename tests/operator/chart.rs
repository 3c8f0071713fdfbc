//! The chart installs, and gives the two accounts their rights and no more.

use std::process::Command;

use anyhow::Result;
use tests::{
    apiserver::{ControlPlane, Parts},
    install, repository,
};

const MINIMAL: &str = "\
apiVersion: tallylight.dev/v1alpha1
kind: Broadcast
metadata: {name: show}
spec: {pool: live}
";

#[tokio::test]
async fn helm_installs_upgrades_and_uninstalls_a_release() -> Result<()> {
    // Of its own: the release owns objects of the whole cluster.
    let plane = ControlPlane::start(Parts::ApiServer).await?;
    install::create_namespace(&plane.admin().await?, "release").await?;
    let chart = repository::root().join("charts/tallylight");
    let helm = |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new(repository::kubernetes_binary("helm")?);
        command.arg("--kubeconfig").arg(plane.admin_kubeconfig()?).args(["--namespace", "release"]).args(arguments);
        output(command)
    };
    let chart = chart.to_str().unwrap();
    let settings = ["--set", "mediaPool.name=studio"];

    let notes = helm(&[&["install", "tallylight", chart][..], &settings].concat())?;
    helm(&[&["upgrade", "tallylight", chart, "--set", "mediaPool.admission=Open"][..], &settings].concat())?;
    let pool = kubectl(&plane, "release", &["get", "mediapool", "studio", "-o", "jsonpath={.spec.admission}"])?;
    helm(&["uninstall", "tallylight"])?;
    let kinds = kubectl(&plane, "release", &["get", "crd", "broadcasts.tallylight.dev", "-o", "name"])?;

    assert!(notes.contains("rtmp://localhost:1935/LiveApp/morning-show"), "{notes}");
    assert_eq!(pool, "Open");
    assert!(kinds.contains("broadcasts.tallylight.dev"), "Broadcasts must outlive the release: {kinds}");
    Ok(())
}

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

pub(crate) fn kubectl(plane: &ControlPlane, namespace: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(repository::kubectl());
    command.arg("--kubeconfig").arg(plane.admin_kubeconfig()?).args(["--namespace", namespace]).args(arguments);
    output(command)
}

fn output(mut command: Command) -> Result<String> {
    let output = command.output()?;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    anyhow::ensure!(output.status.success(), "{command:?}: {errors}");
    Ok(text.into_owned())
}
