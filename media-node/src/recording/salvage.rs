//! Takes up a file of which nothing is here: another node has sent it to its bucket as far as it came, and is gone with its disk.
//! What the bucket has is made an object, and fetched; from there on it is a file that was cut off. Of a playlist what it lists stays
//! where it is.

use std::fs;

use tallylight_crds::{RecordingFormat, RecordingState};
use tokio::time::sleep;
use tracing::info;

use super::{Recorder, finish::AGAIN, folder::Place, growing, hls, part::Part, trouble::Trouble, upload};
use crate::storage::{
    Bucket,
    playlist::{self, Sent},
    salvage::{Fetch, Found, Interrupted},
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
            attempted = async {
                match place.format() {
                    RecordingFormat::Mp4 => fetch_file(recorder, part, place, bucket, &mut fetch).await,
                    RecordingFormat::Hls => fetch_playlist(recorder, part, place, bucket).await,
                }
            } => attempted,
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
async fn fetch_file(
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

/// Fetches the playlist, and segments that it does not list yet. Returns how much is here or in the bucket then.
async fn fetch_playlist(
    recorder: &Recorder,
    part: &Part,
    place: &Place,
    bucket: &Bucket,
) -> Result<Option<u64>, Interrupted> {
    let file_name = place.file_name();
    bucket.abort_beside(file_name).await.map_err(Interrupted::Bucket)?;
    let found = bucket.playlist(file_name).await.map_err(Interrupted::Bucket)?;
    let there = bucket.beside(file_name).await.map_err(Interrupted::Bucket)?;
    let (text, etag) =
        found.map(|found| (String::from_utf8_lossy(&found.text).into_owned(), found.etag)).unwrap_or_default();
    let listed = hls::count(&text);
    let Some((0, init)) = there.first() else { return Ok(None) };
    let unlisted = unlisted(&there, listed);
    if listed == 0 && unlisted.is_empty() {
        return Ok(None);
    }
    let (here, recording) = (place.clone(), part.recording.clone());
    let taken = recorder.blocking(move || {
        here.take_over(&recording)?;
        fs::create_dir_all(here.fetched_segments())
    });
    taken.await.map_err(Interrupted::File)?;
    let fetch = async |number: usize, found: &Found, to| {
        let name = format!("{}/{}", place.stem(), playlist::name(number));
        bucket.fetch(&name, &mut Fetch::new(found.clone(), to)).await
    };
    fetch(0, init, place.fetched()).await?;
    for (number, found) in unlisted {
        fetch(*number, found, place.fetched_segments().join(playlist::name(*number))).await?;
    }
    let bytes = there.iter().filter(|(number, _)| *number <= listed).map(|(_, found)| found.bytes).sum();
    let sent = Sent { files: listed + 1, bytes, etag, is_whole: false };
    sent.note(&place.growing()).await.map_err(Interrupted::File)?;
    let (here, init) = (place.clone(), place.fetched());
    match recorder.blocking(move || hls::adopt(&here, &text, &init)).await {
        Ok(()) => Ok(Some(bytes)),
        Err(growing::Error::Hopeless(_)) => Ok(None),
        Err(growing::Error::Disk(error)) => Err(Interrupted::File(error)),
    }
}

/// What follows the segments that are listed, up to one that is missing.
fn unlisted(there: &[(usize, Found)], listed: usize) -> Vec<&(usize, Found)> {
    let after = there.iter().filter(|(number, _)| *number > listed);
    after.zip(listed + 1..).take_while(|((number, _), next)| number == next).map(|(file, _)| file).collect()
}
