//! Runs the load client as a process of its own, on the core that the server does not have.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::{process::Process, repository};

/// Variables with the clips: 550 kbit/s, 4 Mbit/s and 6 Mbit/s.
pub(crate) const SMALL_CLIP: &str = "TALLYLIGHT_BENCH_CLIP";
pub(crate) const HD_CLIP: &str = "TALLYLIGHT_BENCH_HD_CLIP";
pub(crate) const BROADCAST_CLIP: &str = "TALLYLIGHT_BENCH_BROADCAST_CLIP";

/// Connecting a thousand players, warming up and measuring takes under a minute.
const LONGEST: Duration = Duration::from_secs(600);

/// Runs `rtmp-load` and returns its report.
pub(crate) async fn run(folder: &Path, arguments: &[&str]) -> Result<Value> {
    let mut command = Command::new("taskset");
    command
        .args(["--cpu-list", "1"])
        .arg(repository::binary("rtmp-load")?)
        .args(arguments)
        .arg("--clip")
        .arg(clip(SMALL_CLIP)?);
    report(folder, command).await
}

/// Runs a load client and returns its report.
pub(crate) async fn report(folder: &Path, command: Command) -> Result<Value> {
    // one log for each run: the report is its last line
    let log = folder.join("load.log");
    if log.exists() {
        std::fs::remove_file(&log)?;
    }
    let mut process = Process::spawn("load", folder, command)?.quiet();
    let status = process.wait(LONGEST).await?;
    let output = process.log();
    ensure!(status.success(), "the load client failed: {output}");
    parse(&output)
}

/// The report that a load client has printed.
pub(crate) fn parse(output: &str) -> Result<Value> {
    let Some(line) = output.lines().last() else { bail!("the load client reported nothing") };
    serde_json::from_str(line).with_context(|| format!("not a report: {output}"))
}

/// Publishes that many streams of a clip, load-0 and on, until it is dropped.
pub(crate) fn publish(folder: &Path, url: &str, streams: usize, clip: &str) -> Result<Process> {
    publish_for(folder, url, streams, clip, 3_600)
}

/// As [`publish`]; it reports on as many seconds, which begin 7 s after the streams.
pub(crate) fn publish_for(folder: &Path, url: &str, streams: usize, clip: &str, seconds: u64) -> Result<Process> {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "1"]).arg(repository::binary("rtmp-load")?);
    command.args(["load", "--url", url, "--warm-up", "0", "--seconds", &seconds.to_string()]);
    command.args(["--publishers", &streams.to_string()]);
    command.arg("--clip").arg(self::clip(clip)?);
    Process::spawn("publisher", folder, command)
}

/// A number of a report, by its JSON pointer.
pub(crate) fn number(report: &Value, pointer: &str) -> Result<f64> {
    report.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no {pointer} in {report}"))
}

/// A clip that `tests/bench.sh` made.
pub(crate) fn clip(variable: &str) -> Result<PathBuf> {
    env::var_os(variable).map(PathBuf::from).with_context(|| format!("{variable} is not set; run: make bench"))
}
