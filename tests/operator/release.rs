//! A release of the chart from its first day to its last, with Helm 4 and with Helm 3, on a real API server: it brings its pool, is
//! upgraded from the last release without touching a media pod, and leaves the Broadcasts when it goes.

use std::{process::Command, time::Duration};

use anyhow::Result;
use k8s_openapi::api::core::v1::{Pod, Service as KubeService};
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde_json::json;
use tallylight_crds::{Broadcast, MediaPool};
use tempfile::TempDir;
use tests::{
    apiserver::{ControlPlane, Parts},
    identity, install, repository,
    service::{Launch, Service},
    wait,
};

use crate::chart::{kubectl, output};

const NAMESPACE: &str = "release";
const SOON: Duration = Duration::from_secs(60);
/// The chart of the last release, as it was packaged.
pub(crate) const LAST: &str = "tests/operator/fixtures/tallylight-0.1.0.tgz";

/// Which Helm deploys. Both are in use.
#[derive(Clone, Copy)]
enum Helm {
    Three,
    Four,
}

impl Helm {
    fn command(self) -> Result<Command> {
        let name = match self {
            Self::Three => "helm3",
            Self::Four => "helm",
        };
        Ok(Command::new(repository::kubernetes_binary(name)?))
    }
}

struct Cluster {
    helm: Helm,
    operator: Option<Service>,
    plane: ControlPlane,
    admin: Client,
    folder: TempDir,
}

impl Cluster {
    /// Of its own: a release owns objects of the whole cluster.
    async fn new(helm: Helm) -> Result<Self> {
        let plane = ControlPlane::start(Parts::WithControllers).await?;
        let admin = plane.admin().await?;
        install::create_namespace(&admin, NAMESPACE).await?;
        Ok(Self { helm, operator: None, plane, admin, folder: repository::folder("release")? })
    }

    fn helm(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.helm.command()?;
        command
            .arg("--kubeconfig")
            .arg(self.plane.admin_kubeconfig()?)
            .args(["--namespace", NAMESPACE])
            .args(arguments);
        output(command)
    }

    /// `helm install` or `helm upgrade` with a chart of the repository.
    fn deploy(&self, what: &str, chart: &str, arguments: &[&str]) -> Result<String> {
        let path = repository::root().join(chart);
        self.helm(&[&[what, "tallylight", path.to_str().unwrap()], arguments].concat())
    }

    /// Starts the operator as the Deployment would, with the account that the chart made; the one before is stopped.
    async fn operator(&mut self) -> Result<()> {
        self.operator_with(&[]).await
    }

    async fn operator_with(&mut self, more: &[&str]) -> Result<()> {
        self.operator = None;
        let credential = identity::operator(&self.admin, NAMESPACE).await?;
        let kubeconfig = self.plane.kubeconfig(self.folder.path(), identity::OPERATOR, &credential, NAMESPACE)?;
        let launch = Launch::operator(self.folder.path(), &kubeconfig, NAMESPACE)
            .args(["--media-node-image=tallylight/media-node:0.1.0"])
            .args(more.iter().copied());
        let launch = if kubectl(&self.plane, NAMESPACE, &["get", "configmap", "-o", "name"])?.contains("default-pool") {
            launch.args(["--default-pool=tallylight-default-pool"])
        } else {
            launch
        };
        self.operator = Some(launch.start().await?);
        Ok(())
    }

    async fn pool(&self, what: &str, holds: impl Fn(&MediaPool) -> bool) -> Result<MediaPool> {
        let pools = Api::<MediaPool>::namespaced(self.admin.clone(), NAMESPACE);
        wait::until(format!("the pool {what}"), SOON, async || {
            let pool = pools.get("live").await.map_err(|error| error.to_string())?;
            if holds(&pool) { Ok(pool) } else { Err(format!("{pool:?}")) }
        })
        .await
    }

    /// Waits until the pool's Service has this port.
    async fn service_port(&self, name: &str) -> Result<()> {
        let services = Api::<KubeService>::namespaced(self.admin.clone(), NAMESPACE);
        wait::until(format!("the pool's Service to have the port {name}"), SOON, async || {
            let service = services.get("media-live").await.map_err(|error| error.to_string())?;
            let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
            let found = ports.iter().any(|port| port.name.as_deref() == Some(name));
            if found { Ok(()) } else { Err(format!("{ports:?}")) }
        })
        .await
    }

    async fn pods(&self) -> Result<Vec<Pod>> {
        Ok(Api::<Pod>::namespaced(self.admin.clone(), NAMESPACE).list(&ListParams::default()).await?.items)
    }
}

fn is_observed(pool: &MediaPool) -> bool {
    let status = pool.status.as_ref();
    status.is_some_and(|status| status.observed_generation == pool.metadata.generation && status.replicas == Some(1))
}

#[test]
fn both_helms_make_the_same_of_the_chart() -> Result<()> {
    let rendered = |helm: Helm| {
        let mut command = helm.command()?;
        // What each takes for the cluster's version differs.
        command
            .args(["template", "tallylight", "--kube-version=1.33.0"])
            .arg(repository::root().join("charts/tallylight"));
        install::documents(&output(command)?)
    };

    assert_eq!(rendered(Helm::Three)?, rendered(Helm::Four)?);
    Ok(())
}

#[tokio::test]
async fn an_upgrade_from_the_last_release_touches_no_media_pod_and_no_broadcast() -> Result<()> {
    is_upgraded_by(Helm::Four).await
}

#[tokio::test]
async fn an_upgrade_by_helm_3_touches_no_media_pod_and_no_broadcast_and_helm_4_takes_over() -> Result<()> {
    is_upgraded_by(Helm::Three).await
}

async fn is_upgraded_by(helm: Helm) -> Result<()> {
    let mut cluster = Cluster::new(helm).await?;
    cluster.deploy("install", LAST, &[])?;
    cluster.operator().await?;
    cluster.pool("is served", is_observed).await?;
    let before: Vec<_> = cluster.pods().await?.iter().filter_map(ResourceExt::uid).collect();
    let broadcast = json!({
        "apiVersion": "tallylight.dev/v1alpha1", "kind": "Broadcast", "metadata": {"name": "show"}, "spec": {"pool": "live"},
    });
    install::apply(&cluster.admin, NAMESPACE, &broadcast).await?;

    // The definitions were not the release's before.
    cluster.deploy(
        "upgrade",
        "charts/tallylight",
        &["--take-ownership", "--set", "operator.rest.tokenSecret.name=rest"],
    )?;
    let token = cluster.folder.path().join("token");
    std::fs::write(&token, "0123456789abcdef0123456789abcdef")?;
    let token = format!("--rest-token-file={}", token.display());
    cluster.operator_with(&[&token, "--media-rest-upstream=http://tallylight-operator.release.svc:5080"]).await?;
    cluster.service_port("http").await?;
    cluster.helm = Helm::Four;
    cluster.deploy("upgrade", "charts/tallylight", &["--set", "mediaPool.admission=Open"])?;
    let pool =
        cluster.pool("is observed again", |pool| is_observed(pool) && pool.metadata.generation > Some(1)).await?;

    let after: Vec<_> = cluster.pods().await?.iter().filter_map(ResourceExt::uid).collect();
    assert_eq!(before, after, "the pods run on");
    assert_eq!(before.len(), 1);
    assert_eq!(pool.annotations()["meta.helm.sh/release-name"], "tallylight", "a pool that was Helm's stays Helm's");
    // Helm takes the Deployment away before the account.
    cluster.operator = None;
    cluster.helm(&["uninstall", "tallylight"])?;
    let kept = Api::<Broadcast>::namespaced(cluster.admin.clone(), NAMESPACE).get("show").await?;
    assert!(kept.metadata.deletion_timestamp.is_none(), "Broadcasts outlive the release");
    Ok(())
}

#[tokio::test]
async fn a_release_brings_its_pool_keeps_what_people_change_and_takes_it_along() -> Result<()> {
    lives_by(Helm::Four).await
}

#[tokio::test]
async fn a_release_of_helm_3_brings_its_pool_keeps_what_people_change_and_takes_it_along() -> Result<()> {
    lives_by(Helm::Three).await
}

async fn lives_by(helm: Helm) -> Result<()> {
    let mut cluster = Cluster::new(helm).await?;
    let notes = cluster.deploy("install", "charts/tallylight", &[])?;
    assert!(notes.contains("rtmp://localhost:1935/LiveApp/morning-show"), "{notes}");
    cluster.operator().await?;
    cluster.pool("is made and served", is_observed).await?;

    kubectl(&cluster.plane, NAMESPACE, &["scale", "mediapool/live", "--replicas=2"])?;
    cluster.operator().await?;
    let two = |pool: &MediaPool| pool.status.as_ref().is_some_and(|status| status.replicas == Some(2));
    cluster.pool("keeps its two nodes over a restart of the operator", two).await?;

    cluster.deploy("upgrade", "charts/tallylight", &["--set", "mediaPool.app=studio,mediaNode.replicas=3"])?;
    cluster.operator().await?;
    let pool = cluster.pool("is what the values say", |pool| pool.spec.app == "studio").await?;
    assert_eq!(pool.spec.nodes.as_ref().map(|nodes| nodes.min_nodes), Some(3));

    cluster.operator = None;
    cluster.helm(&["uninstall", "tallylight"])?;
    let pools = Api::<MediaPool>::namespaced(cluster.admin.clone(), NAMESPACE);
    wait::until("the pool to go with the release", SOON, async || {
        match pools.get_opt("live").await.map_err(|error| error.to_string())? {
            None => Ok(()),
            Some(pool) => Err(format!("{:?}", pool.metadata)),
        }
    })
    .await?;
    let again = cluster.deploy("install", "charts/tallylight", &[])?;
    assert!(again.contains("deployed"), "the definitions that were kept are taken back: {again}");
    Ok(())
}
