//! Makes files whole: those that are over, and those that a crash or a full disk has left unfinished.

use std::{io, time::Duration};

use jiff::Timestamp;
use ledger::Key;
use tallylight_crds::{Recording, RecordingState, RecordingStatus};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Recorder,
    folder::Place,
    growing::{self, Growing, Whole},
    objects::Told,
    part::Part,
    trouble::{self, Reason, Trouble},
    upload,
};

/// Before the store is told that a file is being finished: most are ready sooner, and a write to the store is dear.
const LASTS: Duration = Duration::from_secs(1);
/// Pauses before a storage is tried again, from the first to the longest.
pub(super) const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Makes a file whole and says so. `growing` is what is still open of it; without that, it is read again.
pub(super) async fn finish(recorder: &Recorder, part: Part, place: Place, growing: Option<Growing>) {
    let began = Instant::now();
    let (mut growing, mut pause) = (growing, AGAIN.0);
    let end_time = Timestamp::now();
    loop {
        if part.discard.is_cancelled() {
            return;
        }
        let (here, work) = (place.clone(), growing.take());
        let begun = part.recording.status_or_default();
        let mut done = std::pin::pin!(recorder.blocking(move || make_whole(&here, work, &begun, end_time)));
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
                let Some(status) = upload::bring(recorder, &part, &place, status).await else { return };
                let was_brought = recorder.bucket(&part.recording).is_some();
                let told = part.ready(recorder, status).await;
                if was_brought && told == Told::All {
                    upload::clear(recorder, &place).await;
                }
                return forget(recorder, place, told).await;
            }
            Err(growing::Error::Hopeless(reason)) => {
                let aside = place.clone();
                if let Err(error) = recorder.blocking(move || aside.put_aside()).await {
                    warn!(%error, "failed to put a damaged file aside");
                }
                let text = format!("nothing can be played of the file: {reason}");
                part.failed(recorder, &Trouble::new(Reason::Damaged, text)).await;
                return;
            }
            Err(growing::Error::Disk(error)) => Trouble::of("finish the file", &error),
        };
        part.say(recorder, RecordingState::Finalizing, &trouble);
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(AGAIN.1),
            () = part.discard.cancelled() => return,
            () = recorder.0.end.cancelled() => return,
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
        Some(found) if found.spec.node != recorder.0.identity.node => {
            return debug!(recording = %key, node = found.spec.node, "a recording is another node's by now");
        }
        // its deletion is seen elsewhere
        Some(found) if found.is_leaving() => return,
        Some(found) => found.state().is_final(),
        None => false,
    };
    if ended {
        return forget(recorder, place, Told::All).await;
    }
    let here = place.clone();
    let look = move || Ok::<_, io::Error>((here.sidecar().ok(), here.is_there()));
    let (begun, is_there) = recorder.blocking(look).await.unwrap_or((None, true));
    // what is in the file was known when it was begun
    let status = begun.and_then(|begun| begun.status);
    // as it was made: an API server takes none that says which version of an object it is
    let recording = Recording { status, ..Recording::begun(&key.namespace, recording.spec) };
    let part = Part::begin(recorder, recording, discard);
    if is_there {
        return finish(recorder, part, place, None).await;
    }
    let text = "the file is gone: nothing was written before the node ended, or somebody has removed it";
    let told = part.failed(recorder, &Trouble::new(Reason::Damaged, text)).await;
    forget(recorder, place, told).await;
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
