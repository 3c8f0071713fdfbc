//! What was measured, and on what.

use std::{fs, process::Command, thread, time::Duration};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::time::interval;

/// Keeps this process, and what it starts from now on, to one core: a server's cost is then a direct reading, and the load
/// client has the other core.
pub(crate) fn keep_to_core(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).context("failed to keep to one core")
}

/// Lets this process use all cores again.
pub(crate) fn use_all_cores() -> Result<()> {
    let mut cores = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|core| cores.set(core));
    sched_setaffinity(None, &cores).context("failed to use all cores")
}

/// CPU time of all threads of a process, to the nanosecond.
pub(crate) fn cpu_seconds(process: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        nanoseconds += text.split(' ').next().unwrap_or_default().parse().unwrap_or(0.0);
    }
    Ok(nanoseconds / 1e9)
}

/// Resident memory of a process, in KiB.
pub(crate) fn resident_kib(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.split_whitespace().next().and_then(|field| field.parse().ok()).context("VmRSS is no number")
}

/// Lets time pass, where what is measured is what the time does.
pub(crate) async fn rest(length: Duration) {
    let mut ticks = interval(length);
    ticks.tick().await;
    ticks.tick().await;
}

/// One paragraph for BENCHMARKS.md.
pub(crate) fn describe() -> Result<String> {
    let info = fs::read_to_string("/proc/cpuinfo")?;
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = thread::available_parallelism()?;
    let date = jiff::Timestamp::now().to_string();
    Ok(format!(
        "{date}: {cores} CPUs ({}), {}, Linux {}; {}; libnginx-mod-rtmp {}; tallylight {}; load average {}",
        model.trim_start_matches([':', '\t', ' ']),
        first_line("/etc/os-release")?.trim_start_matches("PRETTY_NAME=").trim_matches('"'),
        first_line("/proc/sys/kernel/osrelease")?,
        output("nginx", &["-v"])?,
        output("dpkg-query", &["-W", "-f", "${Version}", "libnginx-mod-rtmp"])?,
        output("git", &["rev-parse", "--short", "HEAD"])?,
        first_line("/proc/loadavg")?,
    ))
}

fn first_line(file: &str) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("failed to read {file}"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("failed to run {program}"))?;
    // nginx tells its version on standard error
    Ok([output.stdout, output.stderr].iter().map(|text| String::from_utf8_lossy(text).trim().to_owned()).collect())
}
