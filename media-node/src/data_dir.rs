//! The folder of everything that must survive a restart, which one process has at a time.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

/// The folder, locked while this lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// The lock goes with the file, also when the process is killed.
    _lock: File,
}

impl DataDir {
    /// Makes the folder if it is not there, and locks it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        fs::create_dir_all(path).with_context(|| format!("failed to make --data-dir {shown}"))?;
        let lock = File::create(path.join("lock")).with_context(|| format!("failed to write in --data-dir {shown}"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                bail!("--data-dir {shown} is in use by another media-node; stop it, or choose another folder")
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("failed to lock --data-dir {shown}")),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_with_the_folder_and_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::open(folder.path()).unwrap();

        let error = DataDir::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is in use") && error.contains("--data-dir"), "{error}");

        drop(first);
        assert!(DataDir::open(folder.path()).is_ok());
    }
}
