//! Where recordings are kept: folders and buckets of S3, each under a name. Knows nothing of Recordings.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use tallylight_crds::LOCAL_STORAGE;

mod asking;
pub mod beside;
pub mod bucket;
mod credentials;
mod notes;
mod pace;
pub mod playlist;
pub mod salvage;
pub mod trouble;
pub mod upload;
pub mod url;
mod wire;

pub use bucket::Bucket;
use url::{NamedStorage, StorageUrl};

/// Where recordings are without any storage, in the data folder.
const LOCAL_FOLDER: &str = "recordings";
/// Where files for buckets are until they are there, in the data folder.
const SPOOL: &str = "uploads";
/// Name of a bucket that `--storage-url` gives.
const DEFAULT_BUCKET: &str = "default";

/// One storage.
#[derive(Clone, Debug)]
pub enum Storage {
    /// A folder, of this machine or a claim that nodes share.
    Volume(PathBuf),
    Bucket {
        bucket: Bucket,
        /// Where files are until they are there.
        spool: PathBuf,
    },
}

/// The storages of a node by name; the first is the default.
#[derive(Clone, Debug)]
pub struct Storages(Vec<(String, Storage)>);

impl Storages {
    /// Makes what `--storage-url` and `--storages` name. The data folder comes last and is always there, so that what was
    /// recorded before is found.
    ///
    /// # Errors
    /// When two have one name, or a bucket's client cannot be made.
    pub fn new(first: Option<&StorageUrl>, named: &[NamedStorage], data_dir: &Path) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        if let Some(url) = first {
            let name = match url {
                StorageUrl::Folder(_) => LOCAL_STORAGE,
                StorageUrl::Bucket(_) => DEFAULT_BUCKET,
            };
            all.push((name.to_owned(), Storage::new(name, url, data_dir).context("failed to use --storage-url")?));
        }
        for NamedStorage { name, url } in named {
            let is_new = all.iter().all(|(other, _)| other != name);
            ensure!(is_new, "--storages names {name} twice, or as --storage-url is named; give it another name");
            let storage =
                Storage::new(name, url, data_dir).with_context(|| format!("failed to use {name} of --storages"))?;
            all.push((name.clone(), storage));
        }
        if all.iter().all(|(name, _)| name != LOCAL_STORAGE) {
            all.push((LOCAL_STORAGE.to_owned(), Storage::Volume(data_dir.join(LOCAL_FOLDER))));
        }
        Ok(Self(all))
    }

    /// The storage of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Storage> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, storage)| storage)
    }

    /// Each one with its name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &Storage)> {
        self.0.iter().map(|(name, storage)| (name.as_str(), storage))
    }

    /// Name of the storage of recordings that name none.
    #[must_use]
    pub fn default_name(&self) -> &str {
        self.0.first().map_or(LOCAL_STORAGE, |(name, _)| name)
    }
}

impl Storage {
    fn new(name: &str, url: &StorageUrl, data_dir: &Path) -> anyhow::Result<Self> {
        Ok(match url {
            StorageUrl::Folder(path) => Self::Volume(path.clone()),
            StorageUrl::Bucket(url) => {
                Self::Bucket { bucket: Bucket::new(url)?, spool: data_dir.join(SPOOL).join(name) }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storages(first: Option<&str>, named: &[&str]) -> anyhow::Result<Storages> {
        let first = first.map(|url| url.parse().unwrap());
        let named: Vec<_> = named.iter().map(|named| named.parse().unwrap()).collect();
        Storages::new(first.as_ref(), &named, Path::new("/data"))
    }

    fn folder(storages: &Storages, name: &str) -> Option<PathBuf> {
        match storages.get(name)? {
            Storage::Volume(path) => Some(path.clone()),
            Storage::Bucket { .. } => None,
        }
    }

    #[test]
    fn the_data_folder_serves_a_node_that_is_told_no_storage() {
        let none = storages(None, &[]).unwrap();

        assert_eq!((none.default_name(), folder(&none, "local")), ("local", Some("/data/recordings".into())));
        assert!(none.get("archive").is_none());
    }

    #[test]
    fn the_first_storage_is_the_default() {
        let one = storages(Some("file:///vods"), &["archive=file:///archive"]).unwrap();
        assert_eq!((one.default_name(), folder(&one, "local")), ("local", Some("/vods".into())));
        assert_eq!(folder(&one, "archive"), Some("/archive".into()));

        let named = storages(None, &["archive=file:///archive"]).unwrap();
        assert_eq!((named.default_name(), folder(&named, "local")), ("archive", Some("/data/recordings".into())));
    }

    #[test]
    fn two_storages_of_one_name_are_refused() {
        let error = storages(None, &["a=file:///a", "a=file:///b"]).unwrap_err().to_string();
        assert!(error.contains("--storages names a twice"), "{error}");
    }
}
