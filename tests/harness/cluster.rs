//! A cluster with real nodes: the scripts of tests/cluster, and what a test asks of them.
//!
//! The test is a machine outside: once it has entered the clients' network, all that its thread opens or starts is there. It
//! reaches nodes and pods, and cluster addresses through a node of its choice. Needs root.

use std::{
    fs::File,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

use crate::{http, repository, watchdog};

/// Any one command: a cluster comes up in 20 s, Helm waits at most as long as it is told.
const COMMAND: Duration = Duration::from_secs(180);
/// The test's own address, `client.rig` to pods.
pub const CLIENT: [u8; 4] = [10, 77, 0, 200];
const SERVICES: &str = "10.96.0.0/16";

/// A running cluster of two nodes. Dropping it powers everything off and removes it.
pub struct Cluster {
    folder: TempDir,
    name: String,
    nodes: u32,
}

impl Cluster {
    /// Brings up two nodes whose loss is noticed after 8 s, and moves the calling thread into the clients' network.
    ///
    /// # Errors
    /// When a part is missing (the text names the command), or it does not come up.
    pub async fn start() -> Result<Self> {
        http::install_crypto();
        let name = format!("tl{}", std::process::id());
        // Sockets live below: the path must be short.
        let cluster = Self { folder: repository::folder("rig")?, name, nodes: 2 };
        let down = cluster.script("down.sh");
        watchdog::run_at_end(&format!("RIG_NAME={} RIG_DIR={} {}", cluster.name, cluster.path(), down.display()))?;
        cluster.power_on().await?;
        let network = File::open(format!("/run/netns/{}-client", cluster.name))?;
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .context("failed to enter the clients' network")?;
        Ok(cluster)
    }

    /// Starts what is off.
    ///
    /// # Errors
    /// When a node does not become ready.
    pub async fn power_on(&self) -> Result<()> {
        self.run("up.sh", &[&self.nodes.to_string()]).await.map(drop)
    }

    /// Powers a node off: its cable first, so that nobody sees a farewell.
    ///
    /// # Errors
    /// When the script fails.
    pub async fn kill_node(&self, node: u32) -> Result<()> {
        self.run("node-kill.sh", &[&node.to_string()]).await.map(drop)
    }

    /// Ends a part of the control plane, such as `kube-apiserver`, as a crash does; [`Cluster::power_on`] starts it again.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn kill_control(&self, part: &str) -> Result<()> {
        self.run("control-kill.sh", &[part]).await.map(drop)
    }

    /// Cuts a node and its pods off from the control plane, or heals that.
    ///
    /// # Errors
    /// When the script fails.
    pub async fn partition(&self, node: u32, state: &str) -> Result<()> {
        self.run("node-partition.sh", &[&node.to_string(), state]).await.map(drop)
    }

    /// Brings images, as archives, into every node.
    ///
    /// # Errors
    /// When an archive is none.
    pub async fn load_images(&self, archives: &[PathBuf]) -> Result<()> {
        let archives: Vec<_> = archives.iter().map(|path| path.display().to_string()).collect();
        self.run("load-image.sh", &archives.iter().map(String::as_str).collect::<Vec<_>>()).await.map(drop)
    }

    /// Runs a command inside a node, and returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it printed.
    pub async fn inside(&self, node: u32, command: &[&str]) -> Result<String> {
        let place = format!("@{node}");
        let mut arguments = vec![place.as_str()];
        arguments.extend(command);
        self.run("in.sh", &arguments).await
    }

    /// Reaches cluster addresses through this node from now on.
    ///
    /// # Errors
    /// When the route is refused.
    pub async fn enter_by(&self, node: u32) -> Result<()> {
        let gateway = format!("10.77.0.{node}");
        output(Command::new("ip").args(["route", "replace", SERVICES, "via", &gateway])).await.map(drop)
    }

    /// Runs kubectl as the cluster's admin.
    ///
    /// # Errors
    /// When it fails, with what it printed.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        output(Command::new(repository::kubectl()).args(arguments).env("KUBECONFIG", self.kubeconfig())).await
    }

    /// Runs Helm as the cluster's admin; `client` is `helm` or `helm3`.
    ///
    /// # Errors
    /// When it fails, with what it printed.
    pub async fn helm(&self, client: &str, arguments: &[&str]) -> Result<String> {
        let helm = repository::kubernetes_binary(client)?;
        output(Command::new(helm).args(arguments).env("KUBECONFIG", self.kubeconfig())).await
    }

    /// Returns the admin's client.
    ///
    /// # Errors
    /// When the kubeconfig is broken.
    pub async fn client(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig())?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// Returns the folder of the cluster, for logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    fn path(&self) -> String {
        self.folder.path().display().to_string()
    }

    fn script(&self, name: &str) -> PathBuf {
        repository::root().join("tests/cluster").join(name)
    }

    async fn run(&self, script: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.script(script));
        command.args(arguments).env("RIG_DIR", self.folder.path()).env("RIG_NAME", &self.name).env("RIG_FAST", "1");
        output(&mut command).await
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stdout, reason = "a drop cannot return, and somebody must clean up")]
    fn drop(&mut self) {
        let mut down = std::process::Command::new(self.script("down.sh"));
        down.env("RIG_DIR", self.folder.path()).env("RIG_NAME", &self.name).stdin(Stdio::null());
        if !down.status().is_ok_and(|status| status.success()) {
            println!("tests/cluster/down.sh failed; run: RIG_NAME={} tests/cluster/down.sh", self.name);
        }
    }
}

/// Returns the images that `make images` has left beside the test's build, as archives.
///
/// # Errors
/// When they are not there.
pub fn images() -> Result<Vec<PathBuf>> {
    let folder = repository::binary("tallylight-operator")?;
    let folder = folder.ancestors().nth(2).context("the binary is not in a target folder")?.join("images");
    let archives = ["operator", "media-node"].map(|name| folder.join(format!("{name}.tar"))).to_vec();
    ensure!(archives.iter().all(|path| path.is_file()), "no images in {}; run: make images", folder.display());
    Ok(archives)
}

async fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{:?}", command.as_std());
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(COMMAND, running).await.with_context(|| format!("{shown} took too long"))??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{shown} failed: {}{text}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}
