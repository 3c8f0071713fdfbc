//! One request to a bucket, asked again until there is an answer, however long that takes; and what its owner is told meanwhile.

use std::time::Duration;

use object_store::path;
use tokio::{
    sync::SemaphorePermit,
    time::{sleep, timeout},
};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    bucket::{Bucket, REQUEST, no_answer},
    trouble::{Meaning, Trouble, meaning},
    upload::{Owner, Stopped},
};

/// Least speed of an upload, in bytes a second: a part that is slower is sent anew. 0.5 Mbit/s is too little for a live stream.
const LEAST_SPEED: u64 = 64 << 10;
/// Pauses between attempts double from the first to the longest: a service that is away for an hour is asked some 120 times.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(500);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Who asks, and for what.
pub(super) struct Asking<'a> {
    pub(super) bucket: &'a Bucket,
    pub(super) key: path::Path,
    pub(super) owner: Owner<'a>,
}

/// What a request came to.
pub(super) type Answer<T> = Result<T, Meaning>;

/// How a request ended that is repeated until it does.
pub(super) enum Outcome<T> {
    Done(T),
    /// There is no such thing, or not as it was said to be.
    Gone,
}

impl Asking<'_> {
    /// Tries until there is an answer, however long that takes.
    pub(super) async fn repeat<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<Outcome<T>, Stopped>
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

    /// Waits until something may be read that is sent.
    pub(super) async fn room(&self) -> Result<Option<SemaphorePermit<'_>>, Stopped> {
        self.owner.cancel.run_until_cancelled(self.bucket.room()).await.ok_or(Stopped::Cancelled)
    }

    /// Waits until so many bytes may be sent.
    pub(super) async fn pace(&self, bytes: u64) -> Result<(), Stopped> {
        self.rest(self.bucket.pause(bytes)).await
    }

    /// One request, and time for so many bytes.
    pub(super) async fn ask<T>(
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

    pub(super) async fn rest(&self, pause: Duration) -> Result<(), Stopped> {
        self.owner.cancel.run_until_cancelled(sleep(pause)).await.ok_or(Stopped::Cancelled)
    }

    /// Stops who is not responsible any more.
    pub(super) async fn must_have_it(&self) -> Result<(), Stopped> {
        match self.owner.cancel.run_until_cancelled((self.owner.has_it)()).await {
            Some(true) => Ok(()),
            Some(false) => Err(Stopped::TakenOver),
            None => Err(Stopped::Cancelled),
        }
    }
}

/// Between three quarters of a pause and all of it, so that the uploads of a node do not ask in step.
fn jittered(pause: Duration) -> Duration {
    let drawn = u32::from(Uuid::new_v4().as_bytes()[0]);
    pause * (768 + drawn) / 1_024
}
