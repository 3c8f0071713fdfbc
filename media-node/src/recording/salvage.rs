//! Takes up a file of which nothing is here: another node has sent it to its bucket as far as it came, and is gone with its disk.
//! What the bucket has is made an object, and fetched; from there on it is a file that was cut off.

use tallylight_crds::RecordingState;
use tokio::time::sleep;
use tracing::info;

use super::{Recorder, finish::AGAIN, folder::Place, part::Part, trouble::Trouble, upload};
use crate::storage::{
    Bucket,
    salvage::{Fetch, Interrupted},
};

/// What there is of a file.
pub(super) enum Salvaged {
    /// It is here now.
    Here,
    /// There is nothing, here or in the bucket.
    Nothing,
    /// It is thrown away, or left to the next start.
    Left,
}

pub(super) async fn salvage(recorder: &Recorder, part: &Part, place: &Place, bucket: &Bucket) -> Salvaged {
    part.say_finalizing();
    let mut fetch = None;
    let mut pause = AGAIN.0;
    loop {
        // a storage may be away for long
        if !recorder.has(&part.recording).await {
            upload::leave(recorder, &part.recording, place).await;
            return Salvaged::Left;
        }
        let attempted = tokio::select! {
            attempted = attempt(recorder, part, place, bucket, &mut fetch) => attempted,
            () = part.discard.cancelled() => return Salvaged::Left,
            () = recorder.0.end.cancelled() => return Salvaged::Left,
        };
        let trouble = match attempted {
            Ok(Some(bytes)) => {
                info!(file = part.recording.spec.file_name, bytes, "recording.salvaged");
                return Salvaged::Here;
            }
            Ok(None) => return Salvaged::Nothing,
            Err(Interrupted::Changed) => {
                fetch = None;
                None
            }
            Err(Interrupted::Bucket(trouble)) => Some(Trouble::of_bucket(&trouble)),
            Err(Interrupted::File(error)) => Some(Trouble::of("fetch the file from its bucket", &error)),
        };
        match trouble {
            Some(trouble) => part.say(recorder, RecordingState::Finalizing, &trouble),
            None => part.say_finalizing(),
        }
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(AGAIN.1),
            () = part.discard.cancelled() => return Salvaged::Left,
            () = recorder.0.end.cancelled() => return Salvaged::Left,
        }
    }
}

/// Goes as far as it can be gone. Returns how much is here then.
async fn attempt(
    recorder: &Recorder,
    part: &Part,
    place: &Place,
    bucket: &Bucket,
    fetch: &mut Option<Fetch>,
) -> Result<Option<u64>, Interrupted> {
    let file_name = &part.recording.spec.file_name;
    let under_way = match fetch {
        Some(fetch) => fetch,
        None => {
            let Some(found) = bucket.salvage(file_name).await.map_err(Interrupted::Bucket)? else { return Ok(None) };
            let (here, recording) = (place.clone(), part.recording.clone());
            recorder.blocking(move || here.take_over(&recording)).await.map_err(Interrupted::File)?;
            fetch.insert(Fetch::new(found, place.fetched()))
        }
    };
    bucket.fetch(file_name, under_way).await?;
    let here = place.clone();
    recorder.blocking(move || here.keep_fetched().map(Some)).await.map_err(Interrupted::File)
}
