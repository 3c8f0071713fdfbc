//! What processes cost, from /proc.

use std::fs;

use anyhow::{Context, Result};

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
            let tasks = fs::read_dir(format!("/proc/{process}/task"));
            for task in tasks.with_context(|| format!("process {process} is gone"))? {
                // to the nanosecond, where /proc/<pid>/stat counts in ticks of 10 ms
                let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
                let nanoseconds: f64 = text.split(' ').next().unwrap_or_default().parse().unwrap_or(0.0);
                sum.cpu_seconds += nanoseconds / 1e9;
            }
            let status = fs::read_to_string(format!("/proc/{process}/status"))?;
            let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
            sum.resident_kib +=
                resident.split_whitespace().next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(sum)
    }
}
