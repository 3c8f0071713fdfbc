//! The command line. Each flag also is a variable `TALLYLIGHT_…` and a key of the file that `--config` names; the flag
//! wins over the variable, that over the file, that over the default. What is written here is the reference of all three.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use mux::Policy;
use rest::Upstream;
use tallylight_crds::{HLS_PART_MILLISECONDS, HLS_SEGMENT_SECONDS, HLS_WINDOW_SECONDS};

use crate::{
    config,
    packager::{self, Begin},
    storage::url::{NamedStorage, StorageUrl},
    webrtc::{addresses::Advertised, ice_server::IceServer},
};

/// Folder of a node that is told no other.
pub const DEFAULT_DATA_DIR: &str = "./tallylight-data";

/// Takes live streams in, plays them out, and reports their state.
#[derive(Debug, Parser)]
#[command(name = "tallylight-media-node", version, args_override_self = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to be.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Be a node of a MediaPool in a Kubernetes cluster
    Run(Box<RunArgs>),
    /// Be a whole server on this machine: streams, hooks and REST over an embedded database
    Standalone(Box<StandaloneArgs>),
    /// Publish a stream in a cluster and wait for its hooks: what `helm test` does
    Check(Box<CheckArgs>),
}

/// Flags of both subcommands.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// YAML file with flags as keys, such as `http-address: 127.0.0.1:5080`
    #[arg(long, env = "TALLYLIGHT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of everything that must survive a restart
    #[arg(long, env = "TALLYLIGHT_DATA_DIR", value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
    /// Application: the first path segment of publish, play and REST addresses
    #[arg(long, env = "TALLYLIGHT_APP", value_name = "NAME", default_value = tallylight_crds::DEFAULT_APP,
          value_parser = app)]
    pub app: String,
    /// Where health and metrics are served, and standalone without --public-http-address REST and HLS too; port 0 takes a free one
    #[arg(long, env = "TALLYLIGHT_HTTP_ADDRESS", value_name = "IP:PORT", default_value = "127.0.0.1:5080")]
    pub http_address: SocketAddr,
    /// Where REST and HLS are served to users, and nothing else; over HTTP/1.1 and HTTP/2
    #[arg(long, env = "TALLYLIGHT_PUBLIC_HTTP_ADDRESS", value_name = "IP:PORT")]
    pub public_http_address: Option<SocketAddr>,
    /// Where the same is served over TLS; needs --tls-cert and --tls-key
    #[arg(long, env = "TALLYLIGHT_PUBLIC_HTTPS_ADDRESS", value_name = "IP:PORT", requires_all = ["tls_cert", "tls_key"])]
    pub public_https_address: Option<SocketAddr>,
    /// Where RTMP is served
    #[arg(long, env = "TALLYLIGHT_RTMP_ADDRESS", value_name = "IP:PORT", default_value = "0.0.0.0:1935")]
    pub rtmp_address: SocketAddr,
    /// Where RTMP over TLS is served; needs --tls-cert and --tls-key
    #[arg(long, env = "TALLYLIGHT_RTMPS_ADDRESS", value_name = "IP:PORT", requires_all = ["tls_cert", "tls_key"])]
    pub rtmps_address: Option<SocketAddr>,
    /// Where WebRTC is served, over UDP, for all viewers and publishers
    #[arg(long, env = "TALLYLIGHT_WEBRTC_ADDRESS", value_name = "IP:PORT", default_value = "0.0.0.0:50000")]
    pub webrtc_address: SocketAddr,
    /// Under which address WebRTC's peers reach this node, once for each, separated by commas in the variable; by default that of
    /// --webrtc-address, or all of the machine's
    #[arg(long, env = "TALLYLIGHT_WEBRTC_ADVERTISE", value_name = "IP[:PORT]", value_delimiter = ',')]
    pub webrtc_advertise: Vec<Advertised>,
    /// File with further addresses of --webrtc-advertise, read at each answer: for those that are known later
    #[arg(long, env = "TALLYLIGHT_WEBRTC_ADVERTISE_FILE", value_name = "FILE", requires = "webrtc_advertise")]
    pub webrtc_advertise_file: Option<PathBuf>,
    /// Threads that serve WebRTC; as many as there are cores by default, 0 turns it off
    #[arg(long, env = "TALLYLIGHT_WEBRTC_WORKERS", value_name = "THREADS", value_parser = clap::value_parser!(u8).range(0..=64))]
    pub webrtc_workers: Option<u8>,
    /// STUN or TURN server that clients are told of, such as stun:stun.example.net; once for each, separated by commas in the variable
    #[arg(long, env = "TALLYLIGHT_WEBRTC_ICE_SERVER", value_name = "URL", value_delimiter = ',')]
    pub webrtc_ice_server: Vec<IceServer>,
    /// PEM file with the certificate and its chain
    #[arg(long, env = "TALLYLIGHT_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, env = "TALLYLIGHT_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Whether streams are played over HLS, and when they are prepared for it: when somebody asks, or as long as they are
    /// published
    #[arg(long, env = "TALLYLIGHT_HLS", value_name = "MODE", default_value = "OnDemand")]
    pub hls: Hls,
    /// Length of the parts that LL-HLS players get, and about a third of what they are behind the publisher
    #[arg(long, env = "TALLYLIGHT_HLS_PART_MILLISECONDS", value_name = "MILLISECONDS", default_value_t = HLS_PART_MILLISECONDS,
          value_parser = clap::value_parser!(u16).range(200..=500))]
    pub hls_part_milliseconds: u16,
    /// A segment ends with the first keyframe after this long, and without one after twice as long
    #[arg(long, env = "TALLYLIGHT_HLS_SEGMENT_SECONDS", value_name = "SECONDS", default_value_t = HLS_SEGMENT_SECONDS,
          value_parser = clap::value_parser!(u8).range(1..=5))]
    pub hls_segment_seconds: u8,
    /// How far back HLS viewers may seek. It is held in memory, up to 512 MiB a stream; less than eight segments counts as eight
    #[arg(long, env = "TALLYLIGHT_HLS_WINDOW_SECONDS", value_name = "SECONDS", default_value_t = HLS_WINDOW_SECONDS,
          value_parser = clap::value_parser!(u16).range(4..=3_600))]
    pub hls_window_seconds: u16,
    /// A publisher that sends no media for this long is ended with the reason PublisherTimeout
    #[arg(long, env = "TALLYLIGHT_PUBLISHER_TIMEOUT_SECONDS", value_name = "SECONDS", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub publisher_timeout_seconds: u32,
    /// How long a session waits for a publisher that lost its connection or its node; 0 ends it at once. The operator sets it
    /// from the pool's reconnectWindowSeconds
    #[arg(long, env = "TALLYLIGHT_RECONNECT_WINDOW_SECONDS", value_name = "SECONDS", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(0..=3_600))]
    pub reconnect_window_seconds: u32,
    /// Longest time from SIGTERM to exit. Without a reconnect window publishers may go on for most of it; with one they are sent
    /// to other nodes. Standalone stops at once, and takes it for slow peers only
    #[arg(long, env = "TALLYLIGHT_DRAIN_SECONDS", value_name = "SECONDS", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub drain_seconds: u32,
    /// Where recordings are kept: file:///PATH, or s3://BUCKET/PREFIX?OPTION=VALUE&… with the options endpoint, region, path-style,
    /// sse, kms-key-id, acl, max-mbps and credentials-dir; by default `recordings` in the data folder
    #[arg(long, env = "TALLYLIGHT_STORAGE_URL", value_name = "URL")]
    pub storage_url: Option<StorageUrl>,
    /// Further storages by name, separated by commas; the first storage of all is the default
    #[arg(long, env = "TALLYLIGHT_STORAGES", value_name = "NAME=URL,…", value_delimiter = ',')]
    pub storages: Vec<NamedStorage>,
    /// Form of the log on standard error
    #[arg(long, env = "TALLYLIGHT_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// What is logged: a level, or directives such as `info,rtmp=debug`
    #[arg(
        long,
        env = "TALLYLIGHT_LOG_FILTER",
        value_name = "FILTER",
        default_value = "info,kube_client::client::builder=off,rtc_dtls=error"
    )]
    pub log_filter: String,
    /// File that gets the bound addresses as JSON once all of them are served
    #[arg(long, env = "TALLYLIGHT_READY_FILE", value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
}

/// Flags of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub node: NodeArgs,
    /// MediaPool that this node belongs to
    #[arg(long, env = "TALLYLIGHT_POOL", value_name = "NAME", default_value = "default")]
    pub pool: String,
    /// Namespace of the pool and its Broadcasts; the pod's own by default
    #[arg(long, env = "TALLYLIGHT_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// Name of this node: the pod's name, as the admission policy compares them
    #[arg(long, env = "TALLYLIGHT_NODE_NAME", value_name = "NAME")]
    pub node_name: String,
    /// Host at which other nodes reach this one: the pod's IP
    #[arg(long, env = "TALLYLIGHT_ADVERTISE_ADDRESS", value_name = "HOST")]
    pub advertise_address: Option<String>,
    /// Where other nodes of the pool pull the streams of this one, over plain HTTP inside the cluster
    #[arg(long, env = "TALLYLIGHT_RELAY_ADDRESS", value_name = "IP:PORT", default_value = "0.0.0.0:5081")]
    pub relay_address: SocketAddr,
    /// File with the key that the pool's nodes share, 32 bytes or more; without it nothing is relayed
    #[arg(long, env = "TALLYLIGHT_RELAY_KEY_FILE", value_name = "FILE", requires = "advertise_address")]
    pub relay_key_file: Option<PathBuf>,
    /// The operator's REST, such as http://tallylight-operator:5080: what users ask of this node's application at
    /// --public-http-address is passed on to it
    #[arg(long, env = "TALLYLIGHT_REST_UPSTREAM", value_name = "URL", requires = "public_http_address")]
    pub rest_upstream: Option<Upstream>,
    /// UID of the pod, which then owns this node's Lease
    #[arg(long, env = "TALLYLIGHT_POD_UID", value_name = "UID")]
    pub pod_uid: Option<String>,
    /// kubeconfig file; the pod's ServiceAccount by default
    #[arg(long, env = "TALLYLIGHT_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// Flags of `standalone`.
#[derive(Debug, Clone, Args)]
pub struct StandaloneArgs {
    #[command(flatten)]
    pub node: NodeArgs,
    /// Where events are POSTed for Broadcasts without a URL of their own
    #[arg(long, env = "TALLYLIGHT_LISTENER_HOOK_URL", value_name = "URL", hide_env_values = true)]
    pub listener_hook_url: Option<String>,
    /// Who may publish: ids with a Broadcast, or any
    #[arg(long, env = "TALLYLIGHT_ADMISSION", value_name = "ADMISSION", default_value = "Open")]
    pub admission: Admission,
    /// Folder with YAML files of Broadcasts, MediaPools and Secrets; changes to it take effect at once
    #[arg(long, env = "TALLYLIGHT_MANIFESTS", value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// File with the token that REST requires as `Authorization: Bearer …`; without it REST is served on loopback only
    #[arg(long, env = "TALLYLIGHT_REST_TOKEN_FILE", value_name = "FILE")]
    pub rest_token_file: Option<PathBuf>,
    /// PEM file with further certificate authorities of receivers
    #[arg(long, env = "TALLYLIGHT_HOOK_CA_FILE", value_name = "FILE")]
    pub hook_ca_file: Option<PathBuf>,
    #[command(flatten)]
    pub recording: RecordingArgs,
    /// Show it: publish a built-in clip to this server and print the hooks that arrive
    #[arg(long, env = "TALLYLIGHT_DEMO")]
    pub demo: bool,
}

/// How `standalone` records what its Broadcasts and MediaPools do not say.
#[derive(Debug, Clone, Args)]
pub struct RecordingArgs {
    /// What is recorded: nothing, everything, or what REST or the annotation tallylight.dev/record asks for
    #[arg(long, env = "TALLYLIGHT_RECORDING", value_name = "MODE", default_value = "Off")]
    pub recording: RecordingMode,
    /// Form of recordings
    #[arg(long, env = "TALLYLIGHT_RECORDING_FORMAT", value_name = "FORMAT", default_value = "MP4")]
    pub recording_format: RecordingFormat,
    /// A file that is as long as this is followed by the next part, from a keyframe on
    #[arg(long, env = "TALLYLIGHT_RECORDING_MAX_DURATION_SECONDS", value_name = "SECONDS",
          value_parser = clap::value_parser!(i64).range(10..=86_400))]
    pub recording_max_duration_seconds: Option<i64>,
    /// A file that is as large as this is followed by the next part, from a keyframe on
    #[arg(long, env = "TALLYLIGHT_RECORDING_MAX_BYTES", value_name = "BYTES",
          value_parser = clap::value_parser!(i64).range(1_048_576..))]
    pub recording_max_bytes: Option<i64>,
    /// Names of files: letters, digits, `.`, `_`, `-` and {streamID}, {session}, {part}, {date}, {time};
    /// {streamID}-{date}-{time}-{part} by default
    #[arg(long, env = "TALLYLIGHT_RECORDING_NAME", value_name = "TEMPLATE", value_parser = name_template)]
    pub recording_name: Option<String>,
    /// How long after its end a recording is kept; for ever by default
    #[arg(long, env = "TALLYLIGHT_RECORDING_RETENTION_SECONDS", value_name = "SECONDS",
          value_parser = clap::value_parser!(i64).range(60..=3_153_600_000))]
    pub recording_retention_seconds: Option<i64>,
}

/// When a Broadcast is recorded, in the words of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum RecordingMode {
    Off,
    On,
    OnDemand,
}

/// Form of recordings, in the words of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RecordingFormat {
    #[value(name = "MP4")]
    Mp4,
    #[value(name = "HLS")]
    Hls,
}

impl RecordingArgs {
    /// What the flags say, as a pool does.
    #[must_use]
    pub fn policy(&self) -> tallylight_crds::RecordingPolicy {
        use tallylight_crds::{RecordingFormat as Format, RecordingMode as Mode};
        let mode = match self.recording {
            RecordingMode::Off => Mode::Off,
            RecordingMode::On => Mode::On,
            RecordingMode::OnDemand => Mode::OnDemand,
        };
        let format = match self.recording_format {
            RecordingFormat::Mp4 => Format::Mp4,
            RecordingFormat::Hls => Format::Hls,
        };
        tallylight_crds::RecordingPolicy {
            mode: Some(mode),
            format: Some(format),
            max_duration_seconds: self.recording_max_duration_seconds,
            max_bytes: self.recording_max_bytes,
            storage_ref: None,
            name_template: self.recording_name.clone(),
            retention_seconds: self.recording_retention_seconds,
        }
    }
}

/// As the API's schema holds it.
fn name_template(text: &str) -> Result<String, String> {
    let mut rest = text.to_owned();
    for known in ["{streamID}", "{session}", "{part}", "{date}", "{time}"] {
        rest = rest.replace(known, "");
    }
    let is_plain = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if is_plain && (1..=128).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    let allowed = "letters, digits, '.', '_', '-' and {streamID}, {session}, {part}, {date}, {time}";
    Err(format!("up to 128 characters are allowed: {allowed}"))
}

/// Flags of `check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// MediaPool to try
    #[arg(long, env = "TALLYLIGHT_POOL", value_name = "NAME", default_value = "live")]
    pub pool: String,
    /// The pool's application
    #[arg(long, env = "TALLYLIGHT_APP", value_name = "NAME", default_value = tallylight_crds::DEFAULT_APP,
          value_parser = app)]
    pub app: String,
    /// Where publishers reach the pool
    #[arg(long, env = "TALLYLIGHT_RTMP_SERVER", value_name = "HOST:PORT", default_value = "media-live:1935")]
    pub rtmp_server: String,
    /// Where hooks are received
    #[arg(long, env = "TALLYLIGHT_HOOK_ADDRESS", value_name = "IP:PORT", default_value = "0.0.0.0:8080")]
    pub hook_address: SocketAddr,
    /// Host at which the operator reaches this process: the pod's IP
    #[arg(long, env = "TALLYLIGHT_ADVERTISE_ADDRESS", value_name = "HOST")]
    pub advertise_address: String,
    /// Namespace of the pool; the pod's own by default
    #[arg(long, env = "TALLYLIGHT_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// kubeconfig file; the pod's ServiceAccount by default
    #[arg(long, env = "TALLYLIGHT_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Longest time for all of it
    #[arg(long, env = "TALLYLIGHT_TIMEOUT_SECONDS", value_name = "SECONDS", default_value_t = 120,
          value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub timeout_seconds: u32,
}

/// Playback over HLS, in the words of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Hls {
    Off,
    OnDemand,
    Always,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Admission of unregistered stream ids, in the words of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Admission {
    RegisteredOnly,
    Open,
}

impl From<Admission> for tallylight_crds::Admission {
    fn from(admission: Admission) -> Self {
        match admission {
            Admission::RegisteredOnly => Self::RegisteredOnly,
            Admission::Open => Self::Open,
        }
    }
}

impl Command {
    /// The flags that both kinds of node have; none of a check.
    #[must_use]
    pub fn node(&self) -> Option<&NodeArgs> {
        match self {
            Self::Run(args) => Some(&args.node),
            Self::Standalone(args) => Some(&args.node),
            Self::Check(_) => None,
        }
    }
}

impl NodeArgs {
    /// [`publisher_timeout_seconds`](Self::publisher_timeout_seconds) as a duration.
    #[must_use]
    pub fn publisher_timeout(&self) -> Duration {
        Duration::from_secs(self.publisher_timeout_seconds.into())
    }

    /// [`reconnect_window_seconds`](Self::reconnect_window_seconds) as a duration.
    #[must_use]
    pub fn reconnect_window(&self) -> Duration {
        Duration::from_secs(self.reconnect_window_seconds.into())
    }

    /// How streams are muxed.
    #[must_use]
    pub fn packaging(&self) -> packager::Settings {
        let segment = Duration::from_secs(self.hls_segment_seconds.into());
        let part = Duration::from_millis(self.hls_part_milliseconds.into());
        packager::Settings {
            begin: match self.hls {
                Hls::Always => Begin::AtPublish,
                // a recorder wants it all the same
                Hls::Off | Hls::OnDemand => Begin::OnDemand,
            },
            policy: Policy::new(part, segment, segment * 2).expect("the ranges of the flags are within the policy's"),
            window: Duration::from_secs(self.hls_window_seconds.into()),
        }
    }

    /// [`drain_seconds`](Self::drain_seconds) as a duration.
    #[must_use]
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds.into())
    }
}

fn app(name: &str) -> Result<String, tallylight_crds::InvalidApp> {
    tallylight_crds::check_app(name).map(|()| name.to_owned())
}

/// Reads arguments, variables and the configuration file of this process.
///
/// # Errors
/// When one of them is wrong, or help was asked for; `exit` on it says so.
pub fn parse() -> Result<Command, clap::Error> {
    parse_from(std::env::args_os(), |name| std::env::var_os(name))
}

/// Reads `arguments`, beginning with the program's name. The configuration file's keys yield to variables that `variable`
/// finds.
///
/// # Errors
/// As [`parse`].
pub fn parse_from(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, clap::Error> {
    let arguments = config::with_file(arguments.into_iter().collect(), variable)?;
    Cli::try_parse_from(arguments).map(|cli| cli.command)
}
