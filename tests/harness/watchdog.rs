//! Ends child processes, runs commands and removes folders when the test process dies without running destructors (SIGKILL, an abort, or
//! the parts that a whole test binary shares, which are never dropped).
//!
//! One `sh` a test process reads the process ids and folders from a pipe. The pipe closes when this process is gone, in
//! whichever way; the shell then kills and removes what is still on its list.

use std::{
    io::Write,
    path::Path,
    process::{ChildStdin, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

use anyhow::{Context, Result, anyhow};

/// Ctrl-C reaches the whole process group: the watchdog must outlive it.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
pids= folders= commands=
while read -r op value; do
  case $op in
    +) pids="$pids $value " ;;
    -) pids=$(printf %s "$pids" | sed "s/ $value //") ;;
    c) commands="$commands$value
" ;;
    d) folders="$folders$value
" ;;
  esac
done
[ -z "$pids" ] || kill -9 $pids 2>/dev/null
printf %s "$commands" | while IFS= read -r command; do sh -c "$command"; done
printf %s "$folders" | while IFS= read -r folder; do rm -rf -- "$folder"; done
"#;

/// Kills the process when this process dies.
///
/// # Errors
/// When `sh` cannot be started or has died.
pub fn watch(process: u32) -> Result<()> {
    tell(&format!("+ {process}"))
}

/// Takes a process off the list: it was reaped, and its id may be given to another.
///
/// # Errors
/// As [`watch`].
pub fn forget(process: u32) -> Result<()> {
    tell(&format!("- {process}"))
}

/// Removes the folder when this process dies.
///
/// # Errors
/// As [`watch`].
pub fn remove_folder(folder: &Path) -> Result<()> {
    tell(&format!("d {}", folder.display()))
}

/// Runs a shell command, on one line, when this process dies.
///
/// # Errors
/// As [`watch`].
pub fn run_at_end(command: &str) -> Result<()> {
    tell(&format!("c {command}"))
}

fn tell(line: &str) -> Result<()> {
    static PIPE: OnceLock<Result<Mutex<ChildStdin>, String>> = OnceLock::new();
    let pipe = PIPE.get_or_init(|| start().map_err(|error| format!("{error:#}"))).as_ref();
    let mut pipe = pipe.map_err(|error| anyhow!("{error}"))?.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(pipe, "{line}").context("the watchdog is gone")
}

fn start() -> Result<Mutex<ChildStdin>> {
    let mut child = Command::new("sh")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("failed to start sh as watchdog")?;
    child.stdin.take().map(Mutex::new).context("the watchdog has no pipe")
}
