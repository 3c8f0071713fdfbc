//! Runs one of our own binaries, and knows the addresses that it bound.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Result, anyhow};
use serde_json::Value;

use crate::{disk::Disk, process::Process, repository, wait};

/// A debug build on a busy machine; ready takes well under a second on a quiet one.
const READY: Duration = Duration::from_secs(60);
/// The operator lets requests end for 12 s by default.
const STOP: Duration = Duration::from_secs(40);

/// What is about to be started.
#[derive(Debug)]
pub struct Launch {
    binary: &'static str,
    name: String,
    folder: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    disk: Option<Disk>,
}

/// A running binary of ours that has said that it is ready.
#[derive(Debug)]
pub struct Service {
    pub process: Process,
    ready: Value,
}

impl Launch {
    /// The operator, in a test's folder: on ports of its own, with text logs, for one namespace.
    #[must_use]
    pub fn operator(folder: &Path, kubeconfig: &Path, namespace: &str) -> Self {
        Self::operator_of_all(folder, kubeconfig).args([&*format!("--watch-namespaces={namespace}")])
    }

    /// As [`Launch::operator`], for all namespaces: for a control plane of the test's own.
    #[must_use]
    pub fn operator_of_all(folder: &Path, kubeconfig: &Path) -> Self {
        Self::new("tallylight-operator", "operator", folder).args([
            "run",
            &format!("--kubeconfig={}", kubeconfig.display()),
            "--rest-address=127.0.0.1:0",
            "--metrics-address=127.0.0.1:0",
            "--log-format=text",
        ])
    }

    /// A media-node of a cluster, in a test's folder.
    #[must_use]
    pub fn media_node(folder: &Path, kubeconfig: &Path, namespace: &str, pool: &str, name: &str) -> Self {
        Self::new("tallylight-media-node", name, folder).args([
            "run",
            &format!("--kubeconfig={}", kubeconfig.display()),
            &format!("--namespace={namespace}"),
            &format!("--pool={pool}"),
            &format!("--node-name={name}"),
            &format!("--data-dir={}", folder.join(name).display()),
            "--rtmp-address=127.0.0.1:0",
            "--webrtc-address=127.0.0.1:0",
            "--http-address=127.0.0.1:0",
            "--log-format=text",
        ])
    }

    /// A standalone server, in a test's folder.
    #[must_use]
    pub fn standalone(folder: &Path) -> Self {
        Self::new("tallylight-media-node", "standalone", folder).args([
            "standalone",
            &format!("--data-dir={}", folder.join("data").display()),
            "--rtmp-address=127.0.0.1:0",
            "--webrtc-address=127.0.0.1:0",
            "--http-address=127.0.0.1:0",
            "--log-format=text",
        ])
    }

    fn new(binary: &'static str, name: &str, folder: &Path) -> Self {
        let (name, folder) = (name.to_owned(), folder.to_owned());
        Self { binary, name, folder, arguments: Vec::new(), variables: Vec::new(), disk: None }
    }

    /// Sets the name of the log, for a second one in the same folder.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(arguments.into_iter().map(str::to_owned));
        self
    }

    /// Sets the address of health and metrics, for what is to be asked before it is ready.
    #[must_use]
    pub fn metrics_at(mut self, address: &str) -> Self {
        const FLAG: &str = "--metrics-address=";
        self.arguments.retain(|argument| !argument.starts_with(FLAG));
        self.arguments.push(format!("{FLAG}{address}"));
        self
    }

    /// Sets the address of a media node's HTTP, for one that comes back where it was.
    #[must_use]
    pub fn http_at(mut self, address: &str) -> Self {
        const FLAG: &str = "--http-address=";
        self.arguments.retain(|argument| !argument.starts_with(FLAG));
        self.arguments.push(format!("{FLAG}{address}"));
        self
    }

    /// Waits until a process that was [spawned](Self::spawn) says that it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready in time; with the end of its log.
    pub async fn ready(&self, mut process: Process) -> Result<Service> {
        let ready = wait::until(format!("{} to be ready", self.name), READY, async || {
            if let Err(ended) = process.must_run() {
                return Ok(Err(ended));
            }
            let text = fs::read(self.ready_file()).map_err(|error| format!("{error}; {}", process.log()))?;
            serde_json::from_slice::<Value>(&text).map(Ok).map_err(|error| error.to_string())
        })
        .await??;
        Ok(Service { process, ready })
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn var(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives it a disk of that size, such as `3m`, at a folder; it goes with the process. Needs root.
    #[must_use]
    pub fn on_small_disk(mut self, folder: &Path, size: &str) -> Self {
        self.disk = Some(Disk::small(folder, size));
        self
    }

    /// Gives it a disk at a folder that a test can [stop](crate::disk::Stall); it goes with the process. Needs root.
    #[must_use]
    pub fn on_stalling_disk(mut self, folder: &Path) -> Self {
        self.disk = Some(Disk::stalling(folder, &self.folder.join("disk.img")));
        self
    }

    /// Starts it without waiting for anything.
    ///
    /// # Errors
    /// When the binary is not built.
    pub fn spawn(&self) -> Result<Process> {
        let ready_file = self.ready_file();
        if ready_file.exists() {
            fs::remove_file(&ready_file)?; // of an earlier run under this name
        }
        let binary = repository::binary(self.binary)?;
        let mut command = match &self.disk {
            None => Command::new(binary),
            Some(disk) => disk.command(&binary),
        };
        command.args(&self.arguments).arg("--ready-file").arg(&ready_file).current_dir(&self.folder);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        Process::spawn(&self.name, &self.folder, command)
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When the binary is not built, ends, or is not ready in time; with the end of its log.
    pub async fn start(&self) -> Result<Service> {
        self.ready(self.spawn()?).await
    }

    fn ready_file(&self) -> PathBuf {
        self.folder.join(format!("{}.ready.json", self.name))
    }
}

impl Service {
    /// Returns an address of the ready file, such as `127.0.0.1:41935`.
    ///
    /// # Errors
    /// When the ready file has no such key.
    pub fn address(&self, key: &str) -> Result<&str> {
        self.ready
            .get(key)
            .and_then(Value::as_str)
            .ok_or_else(|| anyhow!("the ready file has no {key}: {}", self.ready))
    }

    /// Returns the address at which `stream` of `app` is published and played.
    ///
    /// # Errors
    /// When no RTMP address was bound.
    pub fn rtmp(&self, app: &str, stream: &str) -> Result<String> {
        Ok(format!("rtmp://{}/{app}/{stream}", self.address("rtmp")?))
    }

    /// Stops it with SIGTERM, as the kubelet and a shell do.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        self.process.stop(STOP).await
    }
}
