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
    time::Duration,
};

use futures::future::BoxFuture;
use object_store::{
    MultipartId, ObjectStoreExt, PutPayload,
    multipart::{MultipartStore, PartId},
    path,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    bucket::{Bucket, no_answer},
    trouble::{Meaning, Trouble, meaning},
};

mod disk;
mod plan;

use plan::{Part, Piece, State, Step};

/// Longest time of a request, beside what its bytes take.
const REQUEST: Duration = Duration::from_secs(30);
/// Least speed of an upload, in bytes a second: a part that is slower is sent anew. 0.5 Mbit/s is too little for a live stream.
const LEAST_SPEED: u64 = 64 << 10;
/// Pauses between attempts double from the first to the longest: a service that is away for an hour is asked some 120 times.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How far a file has grown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Growth {
    /// It grows. So many of its bytes are whole fragments, and on the disk.
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
        file: &'a Path,
        mut growth: watch::Receiver<Growth>,
        owner: Owner<'a>,
    ) -> Result<Uploaded, Stopped> {
        let mut upload =
            Upload { bucket: self, key: self.key(file_name), file, notes: notes(file), state: State::default(), owner };
        upload.state = disk::read_state(&upload.notes, upload.key.as_ref()).await;
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
        let (key, notes) = (self.key(file_name), notes(file));
        let state = disk::read_state(&notes, key.as_ref()).await;
        if let Some(id) = &state.upload_id {
            match timeout(REQUEST, self.store().abort_multipart(&key, id)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => match meaning(&error) {
                    Meaning::Gone => {}
                    Meaning::Trouble(trouble) => return Err(trouble),
                },
                Err(_elapsed) => return Err(no_answer(REQUEST)),
            }
        }
        disk::remove_state(&notes).await;
        Ok(())
    }
}

/// Where it is noted what was sent of a file.
fn notes(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".upload.json");
    file.with_file_name(name)
}

struct Upload<'a> {
    bucket: &'a Bucket,
    key: path::Path,
    file: &'a Path,
    notes: PathBuf,
    state: State,
    owner: Owner<'a>,
}

/// What a request came to.
type Answer<T> = Result<T, Meaning>;

/// How a request ended that is repeated until it does.
enum Outcome<T> {
    Done(T),
    /// There is no such upload any more.
    Gone,
}

impl Upload<'_> {
    async fn begin(&mut self) -> Result<(), Stopped> {
        match self.repeat(|| self.ask(0, self.bucket.store().create_multipart(&self.key))).await? {
            Outcome::Done(id) => {
                self.state = State { key: self.key.to_string(), upload_id: Some(id), ..State::default() };
                self.note().await;
            }
            // a service that has no such object to begin: as if it were not there
            Outcome::Gone => self.rest(LONGEST_PAUSE).await?,
        }
        Ok(())
    }

    async fn put(&mut self, piece: Piece) -> Result<(), Stopped> {
        if piece.index >= plan::MAX_PARTS {
            return Err(Stopped::TooLarge);
        }
        let Some(id) = self.state.upload_id.clone() else { return Ok(()) };
        match self.repeat(|| self.send(&id, &piece)).await? {
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
        let _room = self.owner.cancel.run_until_cancelled(self.bucket.room()).await.ok_or(Stopped::Cancelled)?;
        let bytes =
            disk::read_part(self.file.to_owned(), piece.from, piece.end.clone()).await.map_err(Stopped::File)?;
        let len = bytes.len() as u64;
        self.rest(self.bucket.pause(len)).await?;
        let put = self.bucket.store().put_part(&self.key, id, piece.index, PutPayload::from(bytes));
        Ok(self.ask(len, put).await?.map(|part| (len, part)))
    }

    /// Makes an object of the parts. `None` when it is to be sent anew.
    async fn complete(&mut self, len: u64) -> Result<Option<Uploaded>, Stopped> {
        let Some(id) = self.state.upload_id.clone() else { return Ok(None) };
        let parts: Vec<_> = self.state.parts.iter().map(|part| PartId { content_id: part.tag.clone() }).collect();
        let complete = async || {
            self.must_have_it().await?;
            self.ask(0, self.bucket.store().complete_multipart(&self.key, &id, parts.clone())).await
        };
        // an upload that is gone may be one whose answer was lost: the object tells
        let _done_or_gone = self.repeat(complete).await?;
        match self.repeat(|| self.ask(0, self.bucket.store().head(&self.key))).await? {
            Outcome::Done(found) if found.size == len => {
                self.owner.trouble.send_if_modified(|known| known.take().is_some());
                disk::remove_state(&self.notes).await;
                info!(key = %self.key, bytes = len, parts = parts.len(), "upload.completed");
                Ok(Some(Uploaded { bytes: len, etag: found.e_tag }))
            }
            Outcome::Done(_) | Outcome::Gone => {
                self.forget("the object is not what was sent").await?;
                self.rest(FIRST_PAUSE).await?;
                Ok(None)
            }
        }
    }

    /// Begins anew, from the disk.
    async fn forget(&mut self, why: &'static str) -> Result<(), Stopped> {
        self.must_have_it().await?;
        warn!(key = %self.key, sent = self.state.sent(), why, "the upload begins anew");
        self.state = State::default();
        disk::remove_state(&self.notes).await;
        Ok(())
    }

    async fn must_have_it(&self) -> Result<(), Stopped> {
        match self.owner.cancel.run_until_cancelled((self.owner.has_it)()).await {
            Some(true) => Ok(()),
            Some(false) => Err(Stopped::TakenOver),
            None => Err(Stopped::Cancelled),
        }
    }

    /// Without its notes an upload goes on all the same: a restart begins it anew.
    async fn note(&self) {
        if let Err(error) = disk::write_state(&self.notes, &self.state).await {
            debug!(file = %self.notes.display(), %error, "failed to note what was sent");
        }
    }

    /// Tries until there is an answer, however long that takes.
    async fn repeat<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<Outcome<T>, Stopped>
    where
        F: Future<Output = Result<Answer<T>, Stopped>>,
    {
        let mut pause = FIRST_PAUSE;
        loop {
            match attempt().await? {
                Ok(done) => {
                    if self.owner.trouble.send_if_modified(|known| known.take().is_some()) {
                        info!(key = %self.key, "the storage works again");
                    }
                    return Ok(Outcome::Done(done));
                }
                Err(Meaning::Gone) => return Ok(Outcome::Gone),
                Err(Meaning::Trouble(trouble)) => {
                    // one request that fails is what every network has; a person is told of the second
                    let is_lasting = pause > FIRST_PAUSE || !matches!(trouble, Trouble::Unavailable { .. });
                    self.say(trouble, is_lasting);
                }
            }
            self.rest(jittered(pause)).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One request, and time for so many bytes.
    async fn ask<T>(
        &self,
        bytes: u64,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Answer<T>, Stopped> {
        let deadline = REQUEST + Duration::from_secs(bytes / LEAST_SPEED);
        let answered = self.owner.cancel.run_until_cancelled(timeout(deadline, request)).await;
        Ok(match answered.ok_or(Stopped::Cancelled)? {
            Ok(answer) => answer.map_err(|error| meaning(&error)),
            Err(_elapsed) => Err(Meaning::Trouble(no_answer(deadline))),
        })
    }

    fn say(&self, trouble: Trouble, is_lasting: bool) {
        self.owner.trouble.send_if_modified(|known| {
            if !is_lasting || known.as_ref() == Some(&trouble) {
                return false;
            }
            warn!(key = %self.key, reason = trouble.reason(), %trouble, "the upload waits");
            *known = Some(trouble);
            true
        });
    }

    async fn rest(&self, pause: Duration) -> Result<(), Stopped> {
        self.owner.cancel.run_until_cancelled(sleep(pause)).await.ok_or(Stopped::Cancelled)
    }
}

/// Between three quarters of a pause and all of it, so that the uploads of a node do not ask in step.
fn jittered(pause: Duration) -> Duration {
    let drawn = u32::from(Uuid::new_v4().as_bytes()[0]);
    pause * (768 + drawn) / 1_024
}
