//! Where things are: the repository, the built binaries, the cache, a test's own folder.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::watchdog;

/// Returns the root of the repository.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."))
}

/// Returns one of our binaries, as the build that made this test put it into the target folder.
///
/// # Errors
/// When it was not built; the text names the command.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = env::current_exe().context("failed to find the test's own binary")?;
    // <target>/<profile>/deps/<test>
    let profile = test.ancestors().nth(2).context("the test binary is not in a target folder")?;
    let path = profile.join(name);
    if !path.is_file() {
        bail!("{} is not there; run: cargo build -p tallylight-operator -p tallylight-media-node", path.display());
    }
    Ok(path)
}

/// Returns a Kubernetes binary (`etcd`, `kube-apiserver`, …): from `KUBE_ASSETS`, else from the cache that `tests/setup.sh` fills.
///
/// # Errors
/// When it is not there; the text names the command.
pub fn kubernetes_binary(name: &str) -> Result<PathBuf> {
    let folder = match env::var_os("KUBE_ASSETS").filter(|value| !value.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => cache()?.join("bin"),
    };
    let path = folder.join(name);
    if !path.is_file() {
        bail!("{} is not there; run: tests/setup.sh", path.display());
    }
    Ok(path)
}

/// Returns what else `tests/setup.sh` keeps in the cache: a tool, or a file of definitions.
///
/// # Errors
/// When it is not there; the text names the command.
pub fn cached(name: &str) -> Result<PathBuf> {
    let path = cache()?.join("bin").join(name);
    if !path.is_file() {
        bail!("{} is not there; run: tests/setup.sh", path.display());
    }
    Ok(path)
}

/// Returns kubectl: the one that `tests/setup.sh` built when the system's is missing or too old, else the system's.
#[must_use]
pub fn kubectl() -> PathBuf {
    kubernetes_binary("kubectl").unwrap_or_else(|_| PathBuf::from("kubectl"))
}

fn cache() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("TALLYLIGHT_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("tallylight")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/tallylight")))
        .context("neither TALLYLIGHT_CACHE, XDG_CACHE_HOME nor HOME is set: there is no cache to look in")
}

/// Makes a folder that is removed when the handle is dropped, and also when the process dies before.
///
/// # Errors
/// When it cannot be made.
pub fn folder(name: &str) -> Result<TempDir> {
    let folder = tempfile::Builder::new()
        .prefix(&format!("tallylight-{name}-"))
        .tempdir()
        .context("failed to make a temporary folder")?;
    watchdog::remove_folder(folder.path())?;
    Ok(folder)
}
