//! The folder of everything that must survive a restart, which one process has at a time.

use std::{
    fs::{DirBuilder, File, TryLockError},
    os::unix::fs::DirBuilderExt,
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
    /// Makes the folder if it is not there, for this user alone, since hook URLs with tokens are in it; and locks it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.with_context(|| format!("failed to make --data-dir {shown}"))?;
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
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_folder_is_this_users_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");

        let _open = DataDir::open(&path).unwrap();

        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }

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
