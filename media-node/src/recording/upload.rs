//! Brings a file that is whole to its bucket, and says what stands in the way.

use std::{fs, io::ErrorKind, pin::pin};

use tallylight_crds::{RecordingState, RecordingStatus};
use tokio::{sync::watch, time::sleep};
use tracing::warn;

use super::{Recorder, finish::AGAIN, folder::Place, part::Part, trouble::Trouble};
use crate::storage::{
    Bucket,
    upload::{Growth, Stopped, Uploaded},
};

/// Uploads the file of a Recording whose storage is a bucket. `None` when it is thrown away, or when the node ends: the next start
/// goes on.
pub(super) async fn bring(
    recorder: &Recorder,
    part: &Part,
    place: &Place,
    mut status: RecordingStatus,
) -> Option<RecordingStatus> {
    let Some(bucket) = recorder.bucket(&part.recording) else { return Some(status) };
    let bytes = status.bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default();
    part.say_uploading();
    loop {
        let uploaded = tokio::select! {
            uploaded = attempt(recorder, part, place, &bucket, bytes) => uploaded,
            () = part.discard.cancelled() => {
                let file = &part.recording.spec.file_name;
                if let Err(trouble) = bucket.abort(file, &place.path()).await {
                    warn!(file, %trouble, "failed to abort an upload that is not wanted any more");
                }
                return None;
            }
        };
        let trouble = match uploaded {
            Ok(_uploaded) => {
                status.location = Some(bucket.location(&part.recording.spec.file_name));
                return Some(status);
            }
            Err(Stopped::Cancelled) => return None,
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

async fn attempt(
    recorder: &Recorder,
    part: &Part,
    place: &Place,
    bucket: &Bucket,
    bytes: u64,
) -> Result<Uploaded, Stopped> {
    let (_grown, growth) = watch::channel(Growth::Closed { len: bytes, patched: 0..0 });
    let (trouble, mut seen) = watch::channel(None);
    let file = place.path();
    let mut upload = pin!(bucket.upload(&part.recording.spec.file_name, &file, growth, &trouble, &recorder.0.end));
    loop {
        tokio::select! {
            uploaded = upload.as_mut() => return uploaded,
            Ok(()) = seen.changed() => match &*seen.borrow_and_update() {
                Some(trouble) => part.say(recorder, RecordingState::Uploading, &Trouble::of_bucket(trouble)),
                None => part.say_uploading(),
            },
        }
    }
}

/// Removes a file that is in its bucket, once the store knows.
pub(super) async fn clear(recorder: &Recorder, place: &Place) {
    let file = place.path();
    if let Err(error) = recorder.blocking(move || fs::remove_file(file)).await {
        warn!(%error, "failed to remove a file that is uploaded");
    }
}
