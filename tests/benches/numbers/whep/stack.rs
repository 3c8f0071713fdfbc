//! The servers that send a clip to viewers, each on the first core.

use std::{fs, net::UdpSocket, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tests::{
    ports,
    process::Process,
    repository,
    service::{Launch, Service},
    wait,
    webrtc::{self, Options},
};

use crate::{load, machine};

const READY: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stack {
    Ours {
        workers: usize,
    },
    /// An echo on the high-level crate `webrtc`.
    Webrtc,
    /// An echo on the crate `rtc`, with segmentation offload.
    Rtc,
    /// Debian's Janus with its streaming plugin.
    Janus,
}

impl Stack {
    pub(super) const OURS: Self = Self::Ours { workers: 1 };

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours { workers: 1 } => "Tallylight",
            Self::Ours { .. } => "Tallylight, two workers",
            Self::Webrtc => "`webrtc` 0.21.1",
            Self::Rtc => "`rtc` 0.21.1, GSO",
            Self::Janus => "Janus",
        }
    }
}

/// A server that sends the clip to whoever joins.
pub(super) struct Running {
    server: Server,
    /// Where an offer is posted.
    pub(super) url: String,
    arguments: Vec<String>,
    folder: TempDir,
}

enum Server {
    Ours { service: Service, publisher: Process },
    Echo(Process),
    Janus { janus: Process, _source: Process },
}

impl Running {
    pub(super) async fn start(stack: Stack, clip: &str) -> Result<Self> {
        Self::start_for(stack, clip, 3_600).await
    }

    /// With a publisher that goes after so many seconds, for its report.
    pub(super) async fn start_for(stack: Stack, clip: &str, seconds: u64) -> Result<Self> {
        let folder = repository::folder("whep")?;
        let at = folder.path();
        let (server, url, arguments) = match stack {
            Stack::Ours { workers } => ours(at, workers, clip, seconds).await?,
            Stack::Webrtc => echo(at, "webrtc", clip).await?,
            Stack::Rtc => echo(at, "rtc", clip).await?,
            Stack::Janus => start_janus(at, clip).await?,
        };
        Ok(Self { server, url, arguments, folder })
    }

    pub(super) fn pid(&self) -> u32 {
        match &self.server {
            Server::Ours { service, .. } => service.process.id(),
            Server::Echo(process) => process.id(),
            Server::Janus { janus, .. } => janus.id(),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Of the load client, for this server.
    pub(super) fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// The report of the publisher, which is waited for.
    pub(super) async fn publisher(mut self) -> Result<Value> {
        let Server::Ours { publisher, .. } = &mut self.server else { bail!("the clip is its own") };
        publisher.wait(Duration::from_secs(60)).await?;
        load::parse(&publisher.log())
    }
}

/// A standalone server with so many workers and no streams.
pub(crate) async fn alone(folder: &Path, workers: usize) -> Result<Service> {
    let workers = format!("--webrtc-workers={workers}");
    Launch::standalone(folder).args([&*workers]).start().await
}

async fn ours(folder: &Path, workers: usize, clip: &str, seconds: u64) -> Result<(Server, String, Vec<String>)> {
    if workers == 1 {
        machine::keep_to_core(0)?;
    }
    let service = alone(folder, workers).await?;
    machine::use_all_cores()?;
    let rtmp = service.rtmp("LiveApp", "")?.trim_end_matches('/').to_owned();
    let publisher = load::publish_for(folder, &rtmp, 1, clip, seconds)?;
    let url = format!("http://{}/LiveApp/whep/load-0", service.address("http")?);
    wait::until("the stream to be live", READY, async || match webrtc::play(&url, &Options::default()).await {
        Ok(viewer) => viewer.close().await.map(drop).map_err(|error| format!("{error:#}")),
        Err(error) => Err(format!("{error:#}")),
    })
    .await?;
    Ok((Server::Ours { service, publisher }, url, Vec::new()))
}

async fn echo(folder: &Path, stack: &str, clip: &str) -> Result<(Server, String, Vec<String>)> {
    let http = format!("127.0.0.1:{}", ports::free()?);
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "0"]).arg(repository::binary("webrtc-load")?);
    command.args(["serve", "--stack", stack, "--http", &http, "--clip"]).arg(load::clip(clip)?);
    let mut process = Process::spawn(stack, folder, command)?;
    listens(&mut process, &http).await?;
    Ok((Server::Echo(process), format!("http://{http}/whep"), Vec::new()))
}

async fn listens(process: &mut Process, address: &str) -> Result<()> {
    wait::until(format!("{address} to listen"), READY, async || {
        if let Err(ended) = process.must_run() {
            return Ok(Err(ended));
        }
        std::net::TcpStream::connect(address).map(|_| Ok(())).map_err(|error| error.to_string())
    })
    .await?
}

/// Says why Janus cannot be compared with.
pub(super) fn janus() -> Result<()> {
    let help = Command::new("janus").arg("--help").output().context("Debian's janus is not installed")?;
    ensure!(help.status.success(), "janus does not start");
    Ok(())
}

/// It gathers no addresses of loopback, so its viewers are at the machine's own address.
async fn start_janus(folder: &Path, clip: &str) -> Result<(Server, String, Vec<String>)> {
    // its own port for RTP is chosen and let go
    let (http, rtp) = (ports::free()?, UdpSocket::bind(("127.0.0.1", 0))?.local_addr()?.port());
    let ip = own_address()?;
    let at = folder.display();
    let files = [
        (
            "janus.jcfg",
            format!(
                "general: {{ configs_folder = \"{at}\"; debug_level = 3; session_timeout = 0; }}\n\
                 media: {{ rtp_port_range = \"20000-40000\"; }}\n\
                 nat: {{ ice_lite = true; full_trickle = false; ice_enforce_list = \"{ip}\"; }}\n\
                 plugins: {{ disable = \"libjanus_audiobridge.so,libjanus_echotest.so,libjanus_nosip.so,libjanus_recordplay.so,\
                 libjanus_sip.so,libjanus_textroom.so,libjanus_videocall.so,libjanus_videoroom.so,libjanus_voicemail.so,\
                 libjanus_duktape.so,libjanus_lua.so\"; }}\n\
                 transports: {{ disable = \"libjanus_pfunix.so,libjanus_rabbitmq.so,libjanus_websockets.so,libjanus_mqtt.so,\
                 libjanus_nanomsg.so\"; }}\n"
            ),
        ),
        ("janus.transport.http.jcfg", format!("general: {{ http = true; port = {http}; ip = \"127.0.0.1\"; }}\n")),
        (
            "janus.plugin.streaming.jcfg",
            format!(
                "clip: {{ type = \"rtp\"; id = 1; audio = false; video = true; videoport = {rtp}; videopt = 96; \
                 videocodec = \"h264\"; videofmtp = \"profile-level-id=42e01f;packetization-mode=1\"; videobufferkf = true; }}\n"
            ),
        ),
    ];
    for (name, text) in files {
        fs::write(folder.join(name), text)?;
    }
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "0", "janus", "--configs-folder"]).arg(folder);
    let mut janus = Process::spawn("janus", folder, command)?.quiet();
    let address = format!("127.0.0.1:{http}");
    listens(&mut janus, &address).await?;
    let mut source = Command::new("taskset");
    source.args(["--cpu-list", "1"]).arg(repository::binary("webrtc-load")?);
    source.args(["rtp", "--to", &format!("127.0.0.1:{rtp}"), "--clip"]).arg(load::clip(clip)?);
    let source = Process::spawn("source", folder, source)?;
    let arguments = ["--signalling", "janus", "--ip", &ip].map(str::to_owned).into();
    Ok((Server::Janus { janus, _source: source }, format!("http://{address}/janus"), arguments))
}

/// The first address that is not of loopback; nothing is sent to learn it.
fn own_address() -> Result<String> {
    let output = Command::new("hostname").arg("-I").output().context("failed to run hostname")?;
    let text = String::from_utf8(output.stdout)?;
    text.split_whitespace().next().map(str::to_owned).context("this machine has no address")
}
