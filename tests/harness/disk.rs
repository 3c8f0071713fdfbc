//! Disks of a process that is under test: small ones, and ones that stall. They go with the process. Need root.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command as AsyncCommand},
    time::timeout,
};

use crate::process::Process;

/// What is dirty is written first.
const STALLED: Duration = Duration::from_secs(30);

/// A disk of a process.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    /// Mounts it; the folder is its `$0`, and `$1` what it needs.
    mount: &'static str,
    needs: String,
}

impl Disk {
    /// One of that size, such as `3m`.
    pub(crate) fn small(folder: &Path, size: &str) -> Self {
        Self { folder: folder.to_owned(), mount: "mount -t tmpfs -o size=$1 tmpfs \"$0\"", needs: size.to_owned() }
    }

    /// One that [`Stall`] can stop. `image` is the file that it is made in.
    pub(crate) fn stalling(folder: &Path, image: &Path) -> Self {
        let mount = "truncate --size=512M \"$1\" && mkfs.ext4 -q -F \"$1\" && mount -o loop \"$1\" \"$0\"";
        Self { folder: folder.to_owned(), mount, needs: image.display().to_string() }
    }

    /// Runs `binary` with it.
    pub(crate) fn command(&self, binary: &Path) -> Command {
        let Self { folder, mount, needs } = self;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &format!("{mount} && shift && exec \"$@\"")]);
        command.arg(folder).arg(needs).arg(binary);
        command
    }
}

/// A disk that stalls: who writes to it waits until this is [over](Self::end), dropped, or its test killed.
#[derive(Debug)]
pub struct Stall(Child);

impl Stall {
    /// Begins with the disk that has `folder`, as `process` sees it.
    ///
    /// # Errors
    /// When the disk cannot be stopped.
    pub async fn begin(process: &Process, folder: &Path) -> Result<Self> {
        // it ends with its input: who waits for a frozen disk cannot even be killed
        let script = "exec 3<\"$0\" && fsfreeze --freeze /proc/self/fd/3 && echo frozen && read -r _; \
                      fsfreeze --unfreeze /proc/self/fd/3";
        let mut child = AsyncCommand::new("sh")
            .args(["-c", script])
            .arg(process.sees(folder))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to run sh")?;
        let mut lines = BufReader::new(child.stdout.take().context("its output is piped")?).lines();
        match timeout(STALLED, lines.next_line()).await {
            Ok(Ok(Some(_))) => Ok(Self(child)),
            other => bail!("fsfreeze has not stopped {}: {other:?}", folder.display()),
        }
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn end(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        timeout(STALLED, self.0.wait()).await.context("fsfreeze does not end")??;
        Ok(())
    }
}
