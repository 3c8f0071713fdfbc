//! aiortc, a WebRTC stack in Python, as a viewer and a publisher that share no code with ours.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::{process::Process, repository};

/// Python starts slowly, and encodes and decodes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// Plays over WHEP until so many pictures are decoded, and returns what the player saw: `pictures`, `sounds`, `width`, `height`, and
/// `ended`, the answer to its DELETE.
///
/// # Errors
/// When it does not come to that.
pub async fn play(folder: &Path, name: &str, url: &str, pictures: u32) -> Result<Value> {
    let mut command = client()?;
    command.args(["play", url, "--pictures", &pictures.to_string()]);
    let mut process = Process::spawn(name, folder, command)?;
    let status = process.wait(DEADLINE).await?;
    ensure!(status.success(), "aiortc could not play {url}");
    report(&process)
}

/// A publisher over WHIP: pictures of 320×240 in real time, and silence.
#[derive(Debug)]
pub struct Publisher(Process);

impl Publisher {
    /// Starts one with a codec as in SDP: `H264` or `VP8`.
    ///
    /// # Errors
    /// When aiortc is not there.
    pub fn start(folder: &Path, name: &str, url: &str, codec: &str) -> Result<Self> {
        let mut command = client()?;
        command.args(["publish", url, "--codec", codec]);
        Ok(Self(Process::spawn(name, folder, command)?))
    }

    /// Ends its session by DELETE, and returns what it did: `pictures`, and `ended`, the answer.
    ///
    /// # Errors
    /// When it has failed before.
    pub async fn stop(mut self) -> Result<Value> {
        self.0.signal(Signal::TERM)?;
        let status = self.0.wait(DEADLINE).await?;
        ensure!(status.success(), "aiortc could not publish");
        report(&self.0)
    }
}

fn client() -> Result<Command> {
    let mut command = Command::new(repository::cached("python-aiortc")?);
    command.arg(repository::root().join("tests/tools/aiortc/client.py"));
    Ok(command)
}

fn report(process: &Process) -> Result<Value> {
    let log = process.log();
    let line = log.lines().rev().find(|line| line.starts_with('{')).with_context(|| format!("no report: {log}"))?;
    serde_json::from_str(line).with_context(|| line.to_owned())
}
