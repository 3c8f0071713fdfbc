//! Brings files to their buckets: begun with the file, they go along while it grows, and end when it is there. Says what stands in
//! the way.

use std::{
    fs,
    io::{self, ErrorKind},
    pin::pin,
};

use futures::future::BoxFuture;
use ledger::Key;
use mux::file::PATCHED;
use tallylight_crds::{Recording, RecordingFormat, RecordingState, RecordingStatus};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Recorder,
    finish::{AGAIN, LASTS},
    folder::Place,
    part::Part,
    trouble::Trouble,
};
use crate::storage::{
    Bucket,
    trouble::Trouble as BucketTrouble,
    upload::{Growth, Owner, Stopped, Uploaded},
};

/// The upload of one file, beside whoever writes it. Whoever holds this ends it.
#[derive(Debug)]
pub(super) struct Uploading {
    growth: watch::Sender<Growth>,
    trouble: watch::Receiver<Option<BucketTrouble>>,
    cancel: CancellationToken,
    task: JoinHandle<Result<Uploaded, Stopped>>,
}

impl Uploading {
    /// Begins it, or goes on with that of an earlier life. `None` when the file stays in its folder.
    pub(super) fn begin(recorder: &Recorder, recording: &Recording, place: &Place, growth: Growth) -> Option<Self> {
        let bucket = recorder.bucket(recording)?;
        let (growth, grown) = watch::channel(growth);
        let (told, trouble) = watch::channel(None);
        let cancel = recorder.0.end.child_token();
        let (stop, here, recording) = (cancel.clone(), place.clone(), recording.clone());
        let owned = recorder.clone();
        let task = recorder.0.tasks.spawn(async move {
            let has_it = || -> BoxFuture<'_, bool> { Box::pin(owned.has(&recording)) };
            let owner = Owner { trouble: &told, cancel: &stop, has_it: &has_it };
            let name = &recording.spec.file_name;
            match here.format() {
                RecordingFormat::Mp4 => bucket.upload(name, &here.upload(), grown, owner).await,
                RecordingFormat::Hls => bucket.upload_playlist(name, &here.growing(), grown, owner).await,
            }
        });
        Some(Self { growth, trouble, cancel, task })
    }

    /// So much of the file is whole, and on the disk.
    pub(super) fn grown(&self, len: u64) {
        let next = Growth::Open { len };
        self.growth.send_if_modified(|known| {
            let grows = *known != next;
            *known = next;
            grows
        });
    }

    /// The next change of what is wrong; never, when it has ended.
    pub(super) async fn changed(&mut self) -> Option<BucketTrouble> {
        match self.trouble.changed().await {
            Ok(()) => self.trouble.borrow_and_update().clone(),
            Err(_ended) => std::future::pending().await,
        }
    }

    /// Ends it where it is. What was sent stays.
    pub(super) async fn stop(self) {
        self.cancel.cancel();
        let _stopped = self.task.await; // however it ended
    }

    /// Waits until the file is there, and has the object say what it waits for.
    async fn there(mut self, recorder: &Recorder, part: &Part) -> Result<Uploaded, Stopped> {
        let mut lasts = pin!(sleep(LASTS));
        let mut is_said = false;
        self.trouble.mark_changed(); // what was wrong while the file grew
        loop {
            let Self { trouble, task, .. } = &mut self;
            tokio::select! {
                ended = task => return ended.unwrap_or_else(|gone| Err(Stopped::File(io::Error::other(gone)))),
                () = &mut lasts, if !is_said => {
                    is_said = true;
                    if self.trouble.borrow().is_none() {
                        part.say_uploading();
                    }
                }
                Ok(()) = trouble.changed() => match &*trouble.borrow_and_update() {
                    Some(trouble) => part.say(recorder, RecordingState::Uploading, &Trouble::of_bucket(trouble)),
                    None if is_said => part.say_uploading(),
                    None => {}
                },
                () = part.discard.cancelled() => {
                    self.stop().await;
                    return Err(Stopped::Cancelled);
                }
            }
        }
    }
}

/// Waits until the whole file of a Recording whose storage is a bucket is there. `None` when it is thrown away or another's, or
/// when the node ends: the next start goes on.
pub(super) async fn bring(
    recorder: &Recorder,
    part: &Part,
    place: &Place,
    mut status: RecordingStatus,
    mut uploading: Option<Uploading>,
) -> Option<RecordingStatus> {
    let Some(bucket) = recorder.bucket(&part.recording) else { return Some(status) };
    let len = status.bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default();
    let closed = Growth::Closed { len, patched: PATCHED };
    loop {
        let here = place.clone();
        let linked = recorder.blocking(move || here.link_upload()).await;
        let begun = || Uploading::begin(recorder, &part.recording, place, closed.clone());
        let ended = match (linked, uploading.take().or_else(begun)) {
            (Err(error), _) => Err(Stopped::File(error)),
            (Ok(()), None) => return Some(status),
            (Ok(()), Some(uploading)) => {
                uploading.growth.send_replace(closed.clone());
                uploading.there(recorder, part).await
            }
        };
        let trouble = match ended {
            Ok(_uploaded) => {
                status.location = Some(bucket.location(&part.recording.spec.file_name));
                return Some(status);
            }
            Err(Stopped::Cancelled) => return None,
            Err(Stopped::TakenOver) => {
                leave(recorder, &part.recording, place).await;
                return None;
            }
            Err(Stopped::File(error)) => Trouble::of("read the file that is uploaded", &error),
            Err(Stopped::TooLarge) => {
                Trouble::of("upload the file, which has more parts than S3 takes", &ErrorKind::FileTooLarge.into())
            }
        };
        part.say(recorder, RecordingState::Uploading, &trouble);
        let pause = pin!(sleep(AGAIN.1));
        recorder.0.end.run_until_cancelled(pause).await?;
    }
}

/// Lets go of a file that another node has made something of, from what was in the bucket. A file on a volume is that node's to
/// finish.
pub(super) async fn leave(recorder: &Recorder, recording: &Recording, place: &Place) {
    let (key, file) = (Key::of_recording(recording), &recording.spec.file_name);
    let Some(bucket) = recorder.bucket(recording) else { return };
    let Some(found) = recorder.0.objects.get(&key).await.filter(|found| !recorder.is_ours(found)) else { return };
    if let Err(trouble) = bucket.abort(file, &place.upload()).await {
        warn!(file, %trouble, "failed to abort an upload whose file is another node's by now");
    }
    let (here, state) = (place.clone(), found.state());
    let left = recorder.blocking(move || match state {
        RecordingState::Ready => here.delete(),
        RecordingState::Failed => here.put_aside(),
        // it may come back
        RecordingState::Recording | RecordingState::Finalizing | RecordingState::Uploading => Ok(()),
    });
    match left.await {
        Ok(()) => info!(recording = %key, node = found.spec.node, "a recording is another node's by now"),
        Err(error) => warn!(recording = %key, %error, "failed to remove what another node has by now"),
    }
}

/// Lets go of what was sent of a file of which nothing can be made. Of a playlist it stays until its Recording goes.
pub(super) async fn abort(recorder: &Recorder, recording: &Recording, place: &Place) {
    let Some(bucket) = recorder.bucket(recording) else { return };
    let file = &recording.spec.file_name;
    if let Err(trouble) = abort_noted(&bucket, place).await {
        warn!(file, %trouble, "failed to abort the upload of a damaged file");
    }
}

/// Aborts the upload of a file that is one. A playlist has none of its own.
async fn abort_noted(bucket: &Bucket, place: &Place) -> Result<(), BucketTrouble> {
    match place.format() {
        RecordingFormat::Mp4 => bucket.abort(place.file_name(), &place.upload()).await,
        RecordingFormat::Hls => Ok(()),
    }
}

/// Deletes what a bucket has of a file, and aborts what is under way. A playlist goes last: as long as it is there nobody else takes
/// its name.
pub(super) async fn delete(bucket: &Bucket, place: &Place) -> Result<(), BucketTrouble> {
    let file = place.file_name();
    abort_noted(bucket, place).await?;
    let aborted = match place.format() {
        RecordingFormat::Mp4 => bucket.abort_all(file).await,
        RecordingFormat::Hls => bucket.abort_beside(file).await,
    };
    match aborted {
        Ok(()) => {}
        // credentials of before this was needed; what is noted here is aborted, and a rule of the bucket sees to the rest
        Err(denied @ BucketTrouble::Denied { .. }) => {
            warn!(file, %denied, "other uploads of a recording that is deleted may be left in the bucket");
        }
        Err(trouble) => return Err(trouble),
    }
    match place.format() {
        RecordingFormat::Mp4 => {}
        RecordingFormat::Hls => bucket.delete_beside(file).await?,
    }
    bucket.delete(file).await
}

/// Removes a file that is in its bucket, once the store knows.
pub(super) async fn clear(recorder: &Recorder, place: &Place) {
    let file = place.path();
    if let Err(error) = recorder.blocking(move || fs::remove_file(file)).await
        && error.kind() != ErrorKind::NotFound
    {
        warn!(%error, "failed to remove a file that is uploaded");
    }
}
