//! Starts a Kubernetes control plane on loopback: etcd, kube-apiserver with RBAC and an audit log, and, when asked,
//! kube-controller-manager. Nothing of Kubernetes is faked; there is no kubelet, so pods are objects only.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use kube::{Client, Config, config::KubeConfigOptions, config::Kubeconfig};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::{
    http, install,
    pki::{Authority, Leaf},
    ports,
    process::Process,
    repository::{self, kubernetes_binary},
    wait,
};

/// The API server is ready after 3 to 6 s on a quiet machine with two cores; a build beside it makes that a minute.
const START: Duration = Duration::from_secs(120);

/// The controllers that the tests rely on: ownership, namespaces, policies' type check, disruption budgets.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,serviceaccount-controller,\
                           disruption-controller,validatingadmissionpolicy-status-controller";

/// When this variable is set etcd writes through to the disk, as in a cluster: for what is measured.
const ETCD_FSYNC: &str = "TALLYLIGHT_ETCD_FSYNC";

/// When this variable is set the audit logs are kept in the folder that it names, and must be there.
pub const AUDIT_FOLDER: &str = "TALLYLIGHT_AUDIT_FOLDER";

/// Only what ServiceAccounts do is audited: those are ours; the admin is the test.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- {level: Metadata, userGroups: [system:serviceaccounts]}
- {level: None}
";

/// What a control plane is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parts {
    /// etcd and the API server.
    #[default]
    ApiServer,
    /// The controller manager too: garbage collection and the end of namespaces need it.
    WithControllers,
}

/// A running control plane.
pub struct ControlPlane {
    // Dropped in this order: who writes goes first.
    controllers: Option<Process>,
    api: Mutex<Process>,
    _etcd: Process,
    settings: Settings,
    folder: TempDir,
}

struct Settings {
    /// What ServiceAccounts asked for, one JSON object a line.
    audit: PathBuf,
    port: u16,
    etcd: String,
    authority: String,
    admin: Leaf,
}

/// Who speaks to the API server.
#[derive(Clone, Debug)]
pub enum Credential {
    Certificate(Leaf),
    /// A ServiceAccount's bearer token.
    Token(String),
}

/// One request by a ServiceAccount, from the audit log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// `tallylight-operator` or `tallylight-media`; the namespace is left out.
    pub account: String,
    pub verb: String,
    /// `broadcasts/status`, `leases`, …
    pub resource: String,
    pub name: String,
    /// The HTTP status of the answer.
    pub status: u64,
}

impl Call {
    /// Reports whether the request asked for a change, accepted or not.
    #[must_use]
    pub fn writes(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

impl ControlPlane {
    /// Returns the control plane that all tests of this binary share. A test keeps to a namespace of its own, and does not stop it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
        // Never dropped: the watchdog ends its processes and removes its folder.
        SHARED.get_or_try_init(|| Self::start(Parts::WithControllers)).await
    }

    /// Starts a control plane of the test's own, and waits until it is ready.
    ///
    /// # Errors
    /// When a binary is missing, or something does not start; with the end of its log.
    pub async fn start(parts: Parts) -> Result<Self> {
        let folder = repository::folder("kube")?;
        let at = folder.path();
        let authority = Authority::new()?;
        let admin = authority.client("admin", "system:masters")?;
        write_files(at, &authority)?;
        let etcd_address = format!("http://127.0.0.1:{}", ports::free()?);
        let etcd = Process::spawn("etcd", at, etcd_command(at, &etcd_address)?)?.quiet();
        let audit = audit_log(at)?;
        let settings =
            Settings { audit, port: ports::free()?, etcd: etcd_address, authority: authority.certificate(), admin };
        let api = Process::spawn("kube-apiserver", at, api_command(at, &settings)?)?.quiet();
        let mut plane = Self { controllers: None, api: Mutex::new(api), _etcd: etcd, settings, folder };
        plane.ready().await?;
        if parts == Parts::WithControllers {
            plane.controllers = Some(plane.start_controllers()?);
        }
        Ok(plane)
    }

    /// Returns the address, such as `https://127.0.0.1:21000`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.settings.port)
    }

    /// Returns the certificate of the authority that signed the server's, PEM.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.settings.authority
    }

    /// Returns a client that may do everything. Each test makes its own: a client lives on the runtime that it was made on.
    ///
    /// # Errors
    /// When the client cannot be built.
    pub async fn admin(&self) -> Result<Client> {
        self.client(&Credential::Certificate(self.settings.admin.clone())).await
    }

    /// Returns a client for this identity.
    ///
    /// # Errors
    /// When the client cannot be built.
    pub async fn client(&self, credential: &Credential) -> Result<Client> {
        http::install_crypto();
        let kubeconfig: Kubeconfig = serde_json::from_value(self.kubeconfig_value(credential, "default"))?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }

    /// Writes a kubeconfig file for this identity into `folder`, and returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig(&self, folder: &Path, name: &str, credential: &Credential, namespace: &str) -> Result<PathBuf> {
        let path = folder.join(format!("{name}.kubeconfig"));
        // Tests share the admin's: none may find it half written.
        let part = folder.join(format!("{name}.{}.part", uuid::Uuid::new_v4().simple()));
        // JSON is YAML.
        fs::write(&part, self.kubeconfig_value(credential, namespace).to_string())?;
        fs::rename(&part, &path)?;
        Ok(path)
    }

    /// Returns a kubeconfig file of the admin.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn admin_kubeconfig(&self) -> Result<PathBuf> {
        self.kubeconfig(self.folder.path(), "admin", &Credential::Certificate(self.settings.admin.clone()), "default")
    }

    /// Kills the API server.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill_api(&self) -> Result<()> {
        self.api().kill()
    }

    /// Starts the API server again on the same port, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start_api(&self) -> Result<()> {
        let command = api_command(self.folder.path(), &self.settings)?;
        *self.api() = Process::spawn("kube-apiserver", self.folder.path(), command)?.quiet();
        self.ready().await
    }

    /// Stops the API server from answering, with its connections left open: what a partition looks like to a client.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze_api(&self) -> Result<()> {
        self.api().signal(Signal::STOP)
    }

    /// Lets a frozen API server go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw_api(&self) -> Result<()> {
        self.api().signal(Signal::CONT)
    }

    /// Lets etcd forget every revision but the newest. What the API server keeps in memory it forgets when it is started again.
    ///
    /// # Errors
    /// When etcd refuses.
    pub async fn compact(&self) -> Result<()> {
        let address = self.settings.etcd.trim_start_matches("http://");
        let found = http::post(address, "/v3/kv/range", &json!({"key": "AA=="}).to_string()).await?.json()?;
        let revision = &found["header"]["revision"];
        let newest = json!({"revision": revision, "physical": true}).to_string();
        let compacted = http::post(address, "/v3/kv/compaction", &newest).await?;
        ensure!(compacted.status == 200, "etcd compacts nothing at {revision}: {}", compacted.body);
        Ok(())
    }

    /// Returns what ServiceAccounts asked of this namespace so far, in order; of what belongs to no namespace when it is empty.
    ///
    /// # Errors
    /// When the audit log cannot be read.
    pub fn calls(&self, namespace: &str) -> Result<Vec<Call>> {
        let log = fs::read_to_string(&self.settings.audit).context("failed to read the audit log")?;
        Ok(log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter_map(|entry| call(&entry, namespace))
            .collect())
    }

    /// Counts the writes in this namespace by account, verb and resource.
    ///
    /// # Errors
    /// When the audit log cannot be read.
    pub fn writes(&self, namespace: &str) -> Result<BTreeMap<String, usize>> {
        let mut counts = BTreeMap::new();
        for call in self.calls(namespace)?.into_iter().filter(Call::writes) {
            *counts.entry(format!("{} {} {}", call.account, call.verb, call.resource)).or_default() += 1;
        }
        Ok(counts)
    }

    fn api(&self) -> MutexGuard<'_, Process> {
        self.api.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ready(&self) -> Result<()> {
        let client = self.admin().await?;
        wait::until("the API server to be ready", START, async || {
            if let Err(ended) = self.api().must_run() {
                return Ok(Err(ended));
            }
            let request = ::http::Request::get("/readyz").body(Vec::new())?;
            client.request_text(request).await.map(|_| Ok(())).map_err(anyhow::Error::from)
        })
        .await?
    }

    fn start_controllers(&self) -> Result<Process> {
        let at = self.folder.path();
        let kubeconfig = self.admin_kubeconfig()?;
        let mut command = Command::new(kubernetes_binary("kube-controller-manager")?);
        for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
            command.arg(format!("--{flag}={}", kubeconfig.display()));
        }
        command
            .arg(format!("--root-ca-file={}", at.join("ca.crt").display()))
            .arg(format!("--service-account-private-key-file={}", at.join("accounts.key").display()))
            .arg(format!("--secure-port={}", ports::free()?))
            .arg(format!("--cert-dir={}", at.join("controllers").display()))
            .arg(format!("--controllers={CONTROLLERS}"))
            .args(["--bind-address=127.0.0.1", "--leader-elect=false", "--use-service-account-credentials=false"])
            .args(["--kube-api-qps=5000", "--kube-api-burst=10000"]);
        Ok(Process::spawn("kube-controller-manager", at, command)?.quiet())
    }

    fn kubeconfig_value(&self, credential: &Credential, namespace: &str) -> Value {
        let user = match credential {
            Credential::Certificate(leaf) => json!({
                "client-certificate-data": BASE64_STANDARD.encode(&leaf.certificate),
                "client-key-data": BASE64_STANDARD.encode(&leaf.key),
            }),
            Credential::Token(token) => json!({"token": token}),
        };
        let authority = BASE64_STANDARD.encode(&self.settings.authority);
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url(), "certificate-authority-data": authority}}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "current-context": "test",
        })
    }
}

fn write_files(at: &Path, authority: &Authority) -> Result<()> {
    let api = authority.server(&["localhost", "kubernetes.default.svc", "127.0.0.1", "10.0.0.1"])?;
    let accounts = rcgen::KeyPair::generate()?;
    for (name, text) in [
        ("ca.crt", authority.certificate()),
        ("api.crt", api.certificate),
        ("api.key", api.key),
        ("accounts.key", accounts.serialize_pem()),
        ("accounts.pub", accounts.public_key_pem()),
        ("audit.yaml", AUDIT_POLICY.to_owned()),
    ] {
        fs::write(at.join(name), text)?;
    }
    Ok(())
}

/// Where the audit log goes: with the rest, or to the folder where `rbac-coverage` reads all of them after the suites.
fn audit_log(at: &Path) -> Result<PathBuf> {
    let path = match std::env::var_os(AUDIT_FOLDER).filter(|value| !value.is_empty()) {
        Some(folder) => PathBuf::from(folder).join(format!("{}.log", uuid::Uuid::new_v4().simple())),
        None => at.join("audit.log"),
    };
    fs::write(&path, "").with_context(|| format!("failed to write {}", path.display()))?;
    Ok(path)
}

fn etcd_command(at: &Path, address: &str) -> Result<Command> {
    let peer = format!("http://127.0.0.1:{}", ports::free()?);
    let mut command = Command::new(kubernetes_binary("etcd")?);
    command
        .arg(format!("--data-dir={}", at.join("etcd").display()))
        .arg(format!("--listen-client-urls={address}"))
        .arg(format!("--advertise-client-urls={address}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=default={peer}"))
        .arg("--log-level=warn");
    // The data outlives a kill of etcd's process either way, which is all that a test does to it.
    if std::env::var_os(ETCD_FSYNC).is_none() {
        command.arg("--unsafe-no-fsync");
    }
    Ok(command)
}

fn api_command(at: &Path, settings: &Settings) -> Result<Command> {
    let file = |flag: &str, name: &str| format!("--{flag}={}", at.join(name).display());
    let mut command = Command::new(kubernetes_binary("kube-apiserver")?);
    command
        .arg(format!("--etcd-servers={}", settings.etcd))
        .arg(format!("--secure-port={}", settings.port))
        .args(["--bind-address=127.0.0.1", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24"])
        .args(["--allow-privileged=true", "--endpoint-reconciler-type=none"])
        // Pods are made without a kubelet and without their account's Secret.
        .arg("--disable-admission-plugins=ServiceAccount")
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .args([
            file("service-account-key-file", "accounts.pub"),
            file("service-account-signing-key-file", "accounts.key"),
        ])
        .args([
            file("client-ca-file", "ca.crt"),
            file("tls-cert-file", "api.crt"),
            file("tls-private-key-file", "api.key"),
        ])
        .args([file("cert-dir", "certificates"), file("audit-policy-file", "audit.yaml")])
        .arg(format!("--audit-log-path={}", settings.audit.display()))
        // An answer is in the log before the client has it.
        .arg("--audit-log-mode=blocking-strict")
        // All of it in one file: by default another is begun after 100 MB.
        .arg("--audit-log-maxsize=10000");
    Ok(command)
}

fn call(entry: &Value, namespace: &str) -> Option<Call> {
    let text = |path: &str| entry.pointer(path).and_then(Value::as_str).unwrap_or_default();
    if text("/objectRef/namespace") != namespace || text("/objectRef/name") == install::PROBE {
        return None;
    }
    let subresource = text("/objectRef/subresource");
    Some(Call {
        account: text("/user/username").rsplit(':').next().unwrap_or_default().to_owned(),
        verb: text("/verb").to_owned(),
        resource: if subresource.is_empty() {
            text("/objectRef/resource").to_owned()
        } else {
            format!("{}/{subresource}", text("/objectRef/resource"))
        },
        name: text("/objectRef/name").to_owned(),
        status: entry.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default(),
    })
}
