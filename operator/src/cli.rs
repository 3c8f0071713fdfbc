//! The command line. Each flag is also a variable; the texts here are the reference that docs/operator.md repeats.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use rest::Upstream;

/// Turns the status of Broadcasts into webhooks, and ends the sessions of media nodes that are lost.
#[derive(Debug, Parser)]
#[command(name = "tallylight-operator", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the operator.
    Run(Box<Run>),
    /// Write the custom resource definitions, or their reference.
    Crd(Crd),
}

#[derive(Debug, Args)]
pub(crate) struct Crd {
    /// What to write: the definitions, or the reference of the API.
    #[arg(long, default_value = "yaml")]
    pub(crate) format: CrdFormat,

    /// Folder to write one file a kind into; standard output when left out.
    #[arg(long, value_name = "DIR")]
    pub(crate) output_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Namespaces to watch, comma-separated; all of them when left out.
    #[arg(long, env = "TALLYLIGHT_WATCH_NAMESPACES", value_delimiter = ',', value_name = "NAMESPACE")]
    pub(crate) watch_namespaces: Vec<String>,

    /// Kubeconfig file; the pod's service account, or the usual kubeconfig, when left out.
    #[arg(long, env = "TALLYLIGHT_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// Address of the REST API. It stays on loopback unless a token is configured.
    #[arg(long, env = "TALLYLIGHT_REST_ADDRESS", default_value = "127.0.0.1:5080", value_name = "ADDRESS")]
    pub(crate) rest_address: SocketAddr,

    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, env = "TALLYLIGHT_METRICS_ADDRESS", default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    pub(crate) metrics_address: SocketAddr,

    /// File with the bearer tokens that REST requests may carry, one a line.
    #[arg(long, env = "TALLYLIGHT_REST_TOKEN_FILE", value_name = "FILE")]
    pub(crate) rest_token_file: Option<PathBuf>,

    /// This operator's REST as media nodes reach it, such as http://tallylight-operator:5080. The media nodes that the operator makes
    /// then pass REST on to it, at port 5080 of their pool's Service. Nodes that there are get it when they are replaced.
    #[arg(long, env = "TALLYLIGHT_MEDIA_REST_UPSTREAM", value_name = "URL", requires = "rest_token_file")]
    pub(crate) media_rest_upstream: Option<Upstream>,

    /// Host, or host:port, that rtmpURL names in REST answers; the request's own host when left out.
    #[arg(long, env = "TALLYLIGHT_PUBLIC_RTMP_HOST", value_name = "HOST")]
    pub(crate) public_rtmp_host: Option<String>,

    /// Seconds without a renewed Lease after which a media node is lost.
    #[arg(long, env = "TALLYLIGHT_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(5..=300))]
    pub(crate) lease_seconds: u64,

    /// Whether to elect, among several operators, the one that writes. A single one may go without: then it need not end when
    /// it cannot renew its Lease.
    #[arg(long, env = "TALLYLIGHT_LEADER_ELECT", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub(crate) leader_elect: bool,

    /// Namespace of the Lease by which several operators elect the one that writes; the pod's own when left out.
    #[arg(long, env = "TALLYLIGHT_LEADER_NAMESPACE", value_name = "NAMESPACE")]
    pub(crate) leader_namespace: Option<String>,

    /// Name of this process in the election and in Events: the pod's name. Two that run at once must differ.
    #[arg(long, env = "HOSTNAME", default_value = "tallylight-operator", value_name = "NAME")]
    pub(crate) identity: String,

    /// Image of the media nodes that the operator makes for pools whose template names none.
    #[arg(long, env = "TALLYLIGHT_MEDIA_NODE_IMAGE", value_name = "IMAGE")]
    pub(crate) media_node_image: Option<String>,

    /// ConfigMap in the operator's namespace with a MediaPool, under the key pool.yaml, that the operator makes: the chart's.
    #[arg(long, env = "TALLYLIGHT_DEFAULT_POOL", value_name = "NAME")]
    pub(crate) default_pool: Option<String>,

    /// PEM file with certificate authorities that receivers may also be signed by.
    #[arg(long, env = "TALLYLIGHT_HOOK_CA_FILE", value_name = "FILE")]
    pub(crate) hook_ca_file: Option<PathBuf>,

    /// Seconds that requests under way get to finish after SIGTERM.
    #[arg(long, env = "TALLYLIGHT_DRAIN_SECONDS", default_value_t = 12, value_parser = clap::value_parser!(u64).range(0..=300))]
    pub(crate) drain_seconds: u64,

    /// File to write the bound addresses into, as JSON, when the operator is ready.
    #[arg(long, env = "TALLYLIGHT_READY_FILE", value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,

    /// Form of log lines.
    #[arg(long, env = "TALLYLIGHT_LOG_FORMAT", default_value = "json")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum CrdFormat {
    Yaml,
    Markdown,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}
