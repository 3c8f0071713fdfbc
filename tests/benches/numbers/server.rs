//! The servers that are compared, each as a child process in a folder of its own.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::Result;
use tempfile::TempDir;
use tests::{
    ports,
    process::Process,
    repository,
    service::{Launch, Service},
    wait,
};

use crate::{load, machine};

const READY: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    Tallylight,
}

impl Kind {
    pub(crate) const BOTH: [Self; 2] = [Self::Nginx, Self::Tallylight];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx-rtmp",
            Self::Tallylight => "Tallylight",
        }
    }
}

/// A running server.
pub(crate) struct Server {
    running: Running,
    /// The application's address.
    pub(crate) url: String,
    pub(crate) folder: TempDir,
}

enum Running {
    Nginx(Process),
    Tallylight(Service),
}

impl Server {
    /// Starts one that takes any stream, and tells `hook` of its start and end.
    pub(crate) async fn start(kind: Kind, hook: Option<&str>) -> Result<Self> {
        let folder = repository::folder("bench")?;
        let (running, url) = match kind {
            Kind::Nginx => nginx(folder.path(), hook).await?,
            Kind::Tallylight => tallylight(folder.path(), hook).await?,
        };
        Ok(Self { running, url, folder })
    }

    pub(crate) fn pid(&self) -> String {
        match &self.running {
            Running::Nginx(process) => process.id(),
            Running::Tallylight(service) => service.process.id(),
        }
        .to_string()
    }
}

/// One worker, which is the started process itself.
async fn nginx(folder: &Path, hook: Option<&str>) -> Result<(Running, String)> {
    let port = ports::free()?;
    let hooks = hook.map_or(String::new(), |hook| format!("on_publish {hook}; on_publish_done {hook};"));
    let at = folder.display();
    let configuration = format!(
        "load_module modules/ngx_rtmp_module.so;\n\
         daemon off; master_process off; worker_processes 1; pid {at}/pid; error_log {at}/error.log warn;\n\
         events {{ worker_connections 8192; }}\n\
         rtmp {{ server {{ listen 127.0.0.1:{port}; application live {{ live on; {hooks} }} }} }}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg("/usr/share/nginx").arg("-c").arg(&file);
    let mut process = Process::spawn("nginx", folder, command)?;
    wait::until("nginx to listen", READY, async || {
        if let Err(ended) = process.must_run() {
            return Ok(Err(ended));
        }
        std::net::TcpStream::connect(("127.0.0.1", port)).map(|_| Ok(())).map_err(|error| error.to_string())
    })
    .await??;
    Ok((Running::Nginx(process), format!("rtmp://127.0.0.1:{port}/live")))
}

async fn tallylight(folder: &Path, hook: Option<&str>) -> Result<(Running, String)> {
    let mut launch = Launch::standalone(folder);
    if let Some(hook) = hook {
        launch = launch.args([format!("--listener-hook-url={hook}").as_str()]);
    }
    let service = launch.start().await?;
    let url = service.rtmp("LiveApp", "")?.trim_end_matches('/').to_owned();
    Ok((Running::Tallylight(service), url))
}

/// A standalone server on a core of its own, and the publisher of so many streams of a clip on the other.
pub(crate) async fn streaming(
    folder: &Path,
    streams: usize,
    clip: &str,
    arguments: &[&str],
) -> Result<(Service, Process)> {
    machine::keep_to_core(0)?;
    let server = Launch::standalone(folder).args(arguments.iter().copied()).start().await?;
    machine::use_all_cores()?;
    let url = server.rtmp("LiveApp", "")?.trim_end_matches('/').to_owned();
    let publisher = load::publish(folder, &url, streams, clip)?;
    Ok((server, publisher))
}
