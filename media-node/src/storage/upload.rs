//! Uploads a file while it grows, in parts, so that what is lost with its node is the open part only. It goes on for as long as
//! it takes: while the service is away, it waits, and says what is wrong.
//!
//! S3 takes no part below 5 MiB but the last. What is not yet 5 MiB is on the disk alone: the open part. Parts are cut where
//! fragments end, so that the parts alone are a file. The end of a recording overwrites a few bytes at its begin: the part that
//! holds them is sent once more then, under its number, which replaces it.
//!
//! What was sent is noted beside the file, and a restart goes on from there. One part is in memory at a time.
//!
//! Another may take over what is in the bucket, and make an object of it. Whoever has begun the upload then finds it gone: before it
//! begins anew, and before it makes an object itself, it asks whether the file is still its own.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use futures::future::BoxFuture;
use object_store::{
    MultipartId, ObjectStoreExt, PutPayload,
    multipart::{MultipartStore, PartId},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    asking::{Answer, Asking, FIRST_PAUSE, LONGEST_PAUSE, Outcome},
    bucket::Bucket,
    notes,
    trouble::Trouble,
};

mod disk;
mod plan;

use plan::{Part, Piece, State, Step};

/// How far a file has grown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Growth {
    /// It grows. So many of its bytes are whole fragments, or segments that are listed, and on the disk.
    Open { len: u64 },
    /// It grows no more. These bytes were overwritten at its end.
    Closed { len: u64, patched: Range<u64> },
}

/// A file that is in the bucket, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    pub bytes: u64,
    pub etag: Option<String>,
}

/// Why an upload ended before the file was there.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// What was sent stays, and the next call goes on.
    #[error("the upload was cancelled")]
    Cancelled,
    #[error("failed to read the file")]
    File(#[source] std::io::Error),
    #[error("the file needs more than 10000 parts, which S3 does not take")]
    TooLarge,
    /// What was sent may stay, or be part of an object by now.
    #[error("the file is another's by now")]
    TakenOver,
}

/// Who uploads: what it is told and asked meanwhile.
#[derive(Clone, Copy)]
pub struct Owner<'a> {
    /// What is wrong.
    pub trouble: &'a watch::Sender<Option<Trouble>>,
    pub cancel: &'a CancellationToken,
    /// Whether the file is still its own. It may take as long as it takes.
    pub has_it: &'a (dyn Fn() -> BoxFuture<'a, bool> + Send + Sync),
}

impl fmt::Debug for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").finish_non_exhaustive()
    }
}

impl Bucket {
    /// Uploads `file` as `file_name`, as far as `growth` says, until it is closed and there.
    ///
    /// # Errors
    /// When it is cancelled or `growth` has no sender any more; when the file cannot be read; when it is another's by now.
    pub async fn upload<'a>(
        &'a self,
        file_name: &str,
        file: &Path,
        mut growth: watch::Receiver<Growth>,
        owner: Owner<'a>,
    ) -> Result<Uploaded, Stopped> {
        let asking = Asking { bucket: self, key: self.key(file_name), owner };
        let notes = notes_of(file);
        let state = read_state(&notes, asking.key.as_ref()).await;
        let mut upload = Upload { asking, file: file.to_owned(), notes, state };
        loop {
            let grown = growth.borrow_and_update().clone();
            match plan::next(&upload.state, &grown) {
                Step::Wait => {
                    let changed = owner.cancel.run_until_cancelled(growth.changed()).await;
                    changed.and_then(Result::ok).ok_or(Stopped::Cancelled)?;
                }
                Step::Begin => upload.begin().await?,
                Step::Anew => upload.forget("the file is shorter than what was sent of it").await?,
                Step::Put(piece) => upload.put(piece).await?,
                Step::Complete { len } => {
                    if let Some(uploaded) = upload.complete(len).await? {
                        return Ok(uploaded);
                    }
                }
            }
        }
    }

    /// Lets go of what was sent of a file that is not wanted any more.
    ///
    /// # Errors
    /// When the service does not do it; what was noted stays then.
    pub async fn abort(&self, file_name: &str, file: &Path) -> Result<(), Trouble> {
        let (key, notes) = (self.key(file_name), notes_of(file));
        let state = read_state(&notes, key.as_ref()).await;
        if let Some(id) = &state.upload_id {
            self.within(self.store().abort_multipart(&key, id)).await?;
        }
        notes::remove(&notes).await;
        Ok(())
    }
}

/// Where it is noted what was sent of a file.
fn notes_of(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".upload.json");
    file.with_file_name(name)
}

/// What was sent of a file before; nothing when that was not noted, or of another key.
async fn read_state(notes: &Path, key: &str) -> State {
    notes::read(notes).await.filter(|state: &State| state.key == key).unwrap_or_default()
}

struct Upload<'a> {
    asking: Asking<'a>,
    file: PathBuf,
    notes: PathBuf,
    state: State,
}

impl Upload<'_> {
    async fn begin(&mut self) -> Result<(), Stopped> {
        match self
            .asking
            .repeat(|| self.asking.ask(0, self.asking.bucket.store().create_multipart(&self.asking.key)))
            .await?
        {
            Outcome::Done(id) => {
                self.state = State { key: self.asking.key.to_string(), upload_id: Some(id), ..State::default() };
                self.note().await;
            }
            // a service that has no such object to begin: as if it were not there
            Outcome::Gone => self.asking.rest(LONGEST_PAUSE).await?,
        }
        Ok(())
    }

    async fn put(&mut self, piece: Piece) -> Result<(), Stopped> {
        if piece.index >= plan::MAX_PARTS {
            return Err(Stopped::TooLarge);
        }
        let Some(id) = self.state.upload_id.clone() else { return Ok(()) };
        match self.asking.repeat(|| self.send(&id, &piece)).await? {
            Outcome::Done((bytes, PartId { content_id })) => {
                self.state.set(piece.index, Part { bytes, tag: content_id, closed: piece.closed });
                self.note().await;
            }
            Outcome::Gone => self.forget("the service has no such upload any more").await?,
        }
        Ok(())
    }

    /// Reads a part and sends it, once. It is read again for each try: between them nothing of it is in memory.
    async fn send(&self, id: &MultipartId, piece: &Piece) -> Result<Answer<(u64, PartId)>, Stopped> {
        let _room = self.asking.room().await?;
        let bytes = disk::read_part(self.file.clone(), piece.from, piece.end.clone()).await.map_err(Stopped::File)?;
        let len = bytes.len() as u64;
        self.asking.pace(len).await?;
        let put = self.asking.bucket.store().put_part(&self.asking.key, id, piece.index, PutPayload::from(bytes));
        Ok(self.asking.ask(len, put).await?.map(|part| (len, part)))
    }

    /// Makes an object of the parts. `None` when it is to be sent anew.
    async fn complete(&mut self, len: u64) -> Result<Option<Uploaded>, Stopped> {
        let Some(id) = self.state.upload_id.clone() else { return Ok(None) };
        let parts: Vec<_> = self.state.parts.iter().map(|part| PartId { content_id: part.tag.clone() }).collect();
        let complete = async || {
            self.asking.must_have_it().await?;
            self.asking
                .ask(0, self.asking.bucket.store().complete_multipart(&self.asking.key, &id, parts.clone()))
                .await
        };
        // an upload that is gone may be one whose answer was lost: the object tells
        let _done_or_gone = self.asking.repeat(complete).await?;
        match self.asking.repeat(|| self.asking.ask(0, self.asking.bucket.store().head(&self.asking.key))).await? {
            Outcome::Done(found) if found.size == len => {
                self.asking.owner.trouble.send_if_modified(|known| known.take().is_some());
                notes::remove(&self.notes).await;
                info!(key = %self.asking.key, bytes = len, parts = parts.len(), "upload.completed");
                Ok(Some(Uploaded { bytes: len, etag: found.e_tag }))
            }
            Outcome::Done(_) | Outcome::Gone => {
                self.forget("the object is not what was sent").await?;
                self.asking.rest(FIRST_PAUSE).await?;
                Ok(None)
            }
        }
    }

    /// Begins anew, from the disk.
    async fn forget(&mut self, why: &'static str) -> Result<(), Stopped> {
        self.asking.must_have_it().await?;
        warn!(key = %self.asking.key, sent = self.state.sent(), why, "the upload begins anew");
        self.state = State::default();
        notes::remove(&self.notes).await;
        Ok(())
    }

    /// Without its notes an upload goes on all the same: a restart begins it anew.
    async fn note(&self) {
        if let Err(error) = notes::write(&self.notes, &self.state).await {
            debug!(file = %self.notes.display(), %error, "failed to note what was sent");
        }
    }
}
