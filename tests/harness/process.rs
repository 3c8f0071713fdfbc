//! Runs a program as a child: captures what it prints, signals it, and ends it when the handle is dropped.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{wait, watchdog};

/// How much of a log is shown for a failed test: its end, where the reason is.
const SHOWN: usize = 16 << 10;

/// A running child. Dropping it kills it, and prints the end of its log (libtest shows that for a failed test only).
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    reaped: Option<ExitStatus>,
    print: bool,
}

impl Process {
    /// Starts `command` with stdout and stderr going to `<folder>/<name>.log`, after what an earlier run under this name left there.
    ///
    /// # Errors
    /// When the program or the log cannot be opened.
    pub fn spawn(name: &str, folder: &Path, mut command: Command) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("failed to open {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Self::start(name, log, command)
    }

    fn start(name: &str, log: PathBuf, mut command: Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("failed to start {name} ({})", command.get_program().to_string_lossy()))?;
        watchdog::watch(child.id())?;
        Ok(Self { name: name.to_owned(), child, log, reaped: None, print: true })
    }

    /// Keeps the log out of the test's output: for parts that are not under test and print much.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.print = false;
        self
    }

    /// Returns the process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns all that the process has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Returns the exit status once the process has ended.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.reaped.is_none() {
            self.reaped = self.child.try_wait()?;
            if self.reaped.is_some() {
                watchdog::forget(self.child.id())?;
            }
        }
        Ok(self.reaped)
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Errors
    /// At the deadline, with the end of the log.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait::until(format!("{name} to end"), deadline, async || match self.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(format!("it runs; its log ends with:\n{}", self.log_end())),
            Err(error) => Err(format!("{error:#}")),
        })
        .await
    }

    /// Fails when the process has ended, with the end of its log: for the inside of other waits.
    ///
    /// # Errors
    /// When it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        match self.try_wait()? {
            Some(status) => bail!("{} ended with {status}; its log ends with:\n{}", self.name, self.log_end()),
            None => Ok(()),
        }
    }

    /// A path as the process sees it, which may have disks of its own.
    #[must_use]
    pub fn sees(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.child.id()));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.must_run()?;
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("not a process id")?;
        kill_process(pid, signal).with_context(|| format!("failed to signal {}", self.name))
    }

    /// Kills the process as a crash would (SIGKILL), and reaps it.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        if self.try_wait()?.is_none() {
            self.child.kill().with_context(|| format!("failed to kill {}", self.name))?;
            self.reaped = Some(self.child.wait()?);
            watchdog::forget(self.child.id())?;
        }
        Ok(())
    }

    /// Asks the process to stop (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// At the deadline, or when it has ended already.
    pub async fn stop(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(deadline).await
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let start = log.len().saturating_sub(SHOWN);
        let start = (start..=log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(0);
        log.get(start..).unwrap_or_default().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let killed = self.kill();
        if self.print || killed.is_err() {
            #[expect(clippy::print_stderr, reason = "libtest keeps it for failed tests")]
            {
                eprintln!("--- {} ({killed:?}), the end of its log:\n{}---", self.name, self.log_end());
            }
        }
    }
}
