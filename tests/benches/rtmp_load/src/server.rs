//! What the server's processes cost, from /proc.

use std::fs;

use anyhow::{Context, Result};
use rustix::param::clock_ticks_per_second;

/// CPU time and memory of processes at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_kib: u64,
}

impl Usage {
    /// Sums over these processes, all their threads included.
    pub(crate) fn of(processes: &[u32]) -> Result<Self> {
        let mut sum = Self::default();
        for process in processes {
            let stat = read(*process, "stat")?;
            // behind the name, which may hold anything: fields 14 and 15 of proc(5) are user and system time
            let (_, fields) = stat.rsplit_once(')').context("no name in /proc/<pid>/stat")?;
            let ticks: u64 =
                fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
            sum.cpu_seconds += ticks as f64 / clock_ticks_per_second() as f64;
            let status = read(*process, "status")?;
            let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
            sum.resident_kib +=
                resident.split_whitespace().next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(sum)
    }
}

fn read(process: u32, file: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/{process}/{file}")).with_context(|| format!("process {process} is gone"))
}
