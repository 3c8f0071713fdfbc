//! What was sent, as it is noted on the disk, off the threads that serve streams.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::task::spawn_blocking;

/// What was noted; `None` when nothing was, or not so that it can be read.
pub(super) async fn read<T: DeserializeOwned + Send + 'static>(notes: &Path) -> Option<T> {
    let notes = notes.to_owned();
    blocking(move || Ok(serde_json::from_slice(&fs::read(notes)?)?)).await.ok()
}

/// Readers see all of it or what was there before.
pub(super) async fn write(notes: &Path, noted: &impl Serialize) -> io::Result<()> {
    let (notes, text) = (notes.to_owned(), serde_json::to_vec(noted)?);
    blocking(move || {
        let new = notes.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &notes)
    })
    .await
}

pub(super) async fn remove(notes: &Path) {
    let notes = notes.to_owned();
    // not there, or of an upload that is gone: then it is found out
    let _removed = blocking(move || fs::remove_file(notes)).await;
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}
