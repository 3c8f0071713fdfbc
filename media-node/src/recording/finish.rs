//! Makes files whole: those that are over, and those that a crash or a full disk has left unfinished.

use std::{io, pin::pin, time::Duration};

use jiff::Timestamp;
use ledger::Key;
use tallylight_crds::{Recording, RecordingFormat, RecordingState, RecordingStatus};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Recorder,
    folder::Place,
    growing::{self, Growing, Whole},
    objects::Told,
    part::Part,
    salvage::{Salvaged, salvage},
    trouble::{self, Reason, Trouble},
    upload::{self, Uploading},
};

/// Before the store is told that a file is being finished: most are ready sooner, and a write to the store is dear.
pub(super) const LASTS: Duration = Duration::from_secs(1);
/// Pauses before a storage is tried again, from the first to the longest.
pub(super) const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What there is of a file, for those who finish it.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// What is still open of it; without that, it is read again.
    pub(super) growing: Option<Growing>,
    /// Its upload, if that was begun.
    pub(super) uploading: Option<Uploading>,
}

/// Makes a file whole, brings it to where it belongs, and says so.
pub(super) async fn finish(recorder: &Recorder, part: Part, place: Place, begun: Begun) {
    let Begun { growing, uploading } = begun;
    match make(recorder, &part, &place, growing).await {
        Made::Whole(status) => {
            let Some(status) = upload::bring(recorder, &part, &place, *status, uploading).await else { return };
            let recording = part.recording.clone();
            let told = part.ready(recorder, status).await;
            if recorder.bucket(&recording).is_some() {
                match told {
                    Told::All => upload::clear(recorder, &place).await,
                    Told::NotOurs => upload::leave(recorder, &recording, &place).await,
                    Told::GivenUp => {}
                }
            }
            forget(recorder, place, told).await;
        }
        Made::Hopeless(reason) => {
            stop(uploading).await;
            upload::abort(recorder, &part.recording, &place).await;
            if let Err(error) = recorder.blocking(move || place.put_aside()).await {
                warn!(%error, "failed to put a damaged file aside");
            }
            let text = format!("nothing can be played of the file: {reason}");
            part.failed(recorder, &Trouble::new(Reason::Damaged, text)).await;
        }
        Made::Nothing => stop(uploading).await,
    }
}

async fn stop(uploading: Option<Uploading>) {
    if let Some(uploading) = uploading {
        uploading.stop().await;
    }
}

/// What was made of a file.
enum Made {
    Whole(Box<RecordingStatus>),
    Hopeless(String),
    /// It is thrown away, or left to the next start.
    Nothing,
}

/// Tries to make a file whole until that can be done.
async fn make(recorder: &Recorder, part: &Part, place: &Place, mut growing: Option<Growing>) -> Made {
    let (began, end_time, mut pause) = (Instant::now(), Timestamp::now(), AGAIN.0);
    loop {
        if part.discard.is_cancelled() {
            return Made::Nothing;
        }
        let (here, work) = (place.clone(), growing.take());
        let begun = part.recording.status_or_default();
        let mut done = pin!(recorder.blocking(move || make_whole(&here, work, &begun, end_time)));
        let answer = match timeout(LASTS, &mut done).await {
            Ok(answer) => answer,
            Err(_elapsed) => {
                part.say_finalizing();
                done.await
            }
        };
        let trouble = match answer {
            Ok(status) => {
                recorder.0.metrics.finished(began.elapsed());
                return Made::Whole(Box::new(status));
            }
            Err(growing::Error::Hopeless(reason)) => return Made::Hopeless(reason),
            Err(growing::Error::Disk(error)) => Trouble::of("finish the file", &error),
        };
        part.say(recorder, RecordingState::Finalizing, &trouble);
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(AGAIN.1),
            () = part.discard.cancelled() => return Made::Nothing,
            () = recorder.0.end.cancelled() => return Made::Nothing,
        }
    }
}

/// Finishes what an earlier life, or another node, has left; the Recording's node is the fence.
pub(super) async fn restore(recorder: &Recorder, recording: Recording, place: Place, discard: CancellationToken) {
    let key = Key::of_recording(&recording);
    let found = recorder.0.objects.get(&key).await;
    if recorder.0.end.is_cancelled() {
        return;
    }
    let ended = match &found {
        Some(found) if !recorder.is_ours(found) => {
            debug!(recording = %key, node = found.spec.node, "a recording is another node's by now");
            return upload::leave(recorder, &recording, &place).await;
        }
        // its deletion is seen elsewhere
        Some(found) if found.is_leaving() => return,
        Some(found) => found.state().is_final(),
        None => false,
    };
    if ended {
        if recorder.bucket(&recording).is_some() {
            upload::clear(recorder, &place).await;
        }
        return forget(recorder, place, Told::All).await;
    }
    let here = place.clone();
    let look = move || Ok::<_, io::Error>((here.sidecar().ok(), here.is_there()));
    let (begun, is_there) = recorder.blocking(look).await.unwrap_or((None, true));
    // what is in the file was known when it was begun
    let told = || Some(RecordingStatus { tracks: found?.status?.tracks, ..RecordingStatus::default() });
    let status = begun.and_then(|begun| begun.status).or_else(told);
    let part = Part::begin(recorder, Recording { status, ..recording }, discard);
    let bucket = recorder.bucket(&part.recording);
    let salvaged = match &bucket {
        _ if is_there => Salvaged::Here,
        Some(bucket) => salvage(recorder, &part, &place, bucket).await,
        None => Salvaged::Nothing,
    };
    match salvaged {
        Salvaged::Here => finish(recorder, part, place, Begun::default()).await,
        Salvaged::Left => {}
        Salvaged::Nothing => {
            let why = match (bucket, part.recording.spec.format) {
                (Some(_), RecordingFormat::Mp4) => "its node ended before the first 5 MiB were in the bucket",
                (Some(_), RecordingFormat::Hls) => "its node ended before the first segment was in the bucket",
                (None, RecordingFormat::Mp4 | RecordingFormat::Hls) => "nothing was written before the node ended",
            };
            let text = format!("the file is gone: {why}, or somebody has removed it");
            let told = part.failed(recorder, &Trouble::new(Reason::Damaged, text)).await;
            forget(recorder, place, told).await;
        }
    }
}

/// What the file was begun with goes when the store knows all of it.
async fn forget(recorder: &Recorder, place: Place, told: Told) {
    match told {
        Told::All => {
            if let Err(error) = recorder.blocking(move || place.forget()).await {
                warn!(%error, "failed to remove the folder in which a file has grown");
            }
        }
        Told::NotOurs | Told::GivenUp => {}
    }
}

/// Makes the file whole and moves it to its name.
fn make_whole(
    place: &Place,
    growing: Option<Growing>,
    begun: &RecordingStatus,
    end_time: Timestamp,
) -> Result<RecordingStatus, growing::Error> {
    if growing.is_none()
        && let Some(status) = place.published()
    {
        return Ok(status);
    }
    let (whole, end_time) = match growing {
        Some(growing) => (growing.finish()?, end_time),
        None => {
            let written = place.media().metadata().and_then(|file| file.modified());
            let written = written.ok().and_then(|time| Timestamp::try_from(time).ok());
            (growing::recover(place)?, written.unwrap_or(end_time))
        }
    };
    let status = status(begun, &whole, place, end_time);
    place.publish(&status)?;
    Ok(status)
}

fn status(begun: &RecordingStatus, whole: &Whole, place: &Place, end_time: Timestamp) -> RecordingStatus {
    let mut status = RecordingStatus {
        state: RecordingState::Ready,
        end_time: Some(end_time),
        duration_milliseconds: i64::try_from(whole.duration.as_millis()).ok(),
        bytes: i64::try_from(whole.bytes).ok(),
        tracks: begun.tracks.clone(),
        location: Some(place.location()),
        checksum: whole.checksum.clone(),
        ..RecordingStatus::default()
    };
    trouble::ready(&mut status);
    status
}
