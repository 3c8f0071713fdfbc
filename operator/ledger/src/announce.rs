//! Tells of each recording once: the event goes into its Broadcast's ledger, then the Recording notes that it did.
//!
//! The crash between the two is bridged by `status.hooks.announced`, which is written with the event. A name leaves that list
//! only after its Recording has noted the event, so whoever reads the Broadcast first and then the Recording, and finds the
//! name in neither, may append; the `test` of `lastSequence` refuses everybody who read before another append.

use jiff::{SignedDuration, Timestamp};
use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use serde_json::json;
use tallylight_crds::{Action, Broadcast, Recording, RecordingHook, RecordingState, Vod};

use crate::{
    Announce, Error, Input, Key, Recordings, Rejection, Store,
    machine::{self, Step},
};

/// Lost races before it is called a fault: a Broadcast's other writers are its node and the lane of its deliveries.
const MAX_ROUNDS: usize = 16;

/// What is to be told of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Nothing: it is not done, or was told of, or is being deleted.
    None,
    /// Append this event.
    Announce(Action),
    /// Nobody wants to hear of it: note that.
    Note,
}

/// Decides what is to be told of a recording to a receiver that `sends` those actions.
#[must_use]
pub fn duty(recording: &Recording, sends: impl Fn(Action) -> bool) -> Duty {
    if recording.is_announced() || recording.is_leaving() {
        return Duty::None;
    }
    match recording.state() {
        RecordingState::Recording | RecordingState::Finalizing | RecordingState::Uploading => Duty::None,
        RecordingState::Ready => Duty::Announce(Action::VodReady),
        RecordingState::Failed if sends(Action::VodFailed) => Duty::Announce(Action::VodFailed),
        RecordingState::Failed => Duty::Note,
    }
}

/// When a recording is to be deleted: its retention after its end, but not before its hook is settled.
#[must_use]
pub fn expiry(recording: &Recording) -> Option<Timestamp> {
    let status = recording.status.as_ref()?;
    if !status.state.is_final() || status.hook.is_none() || recording.is_leaving() {
        return None;
    }
    let kept = SignedDuration::from_secs(recording.spec.retention_seconds?);
    status.end_time.unwrap_or(recording.spec.start_time).checked_add(kept).ok()
}

/// What came of an announcement.
#[derive(Debug)]
pub enum Announced {
    /// The event was appended now.
    Appended { broadcast: Box<Broadcast>, sequence: i64 },
    /// The event was appended before, and the Recording has not noted it.
    Found { sequence: i64 },
    /// The Recording has noted it.
    Noted,
    /// The ledger does not take it now.
    Rejected(Rejection),
    /// The Broadcast, or the Recording, is gone.
    Gone,
}

/// Appends the event of a recording to the ledger of `known`, its Broadcast as it was last read.
///
/// # Errors
/// [`Error::Unavailable`] when the store gives no answer: it may be asked again, and appends once.
pub async fn announce<S: Store + Recordings>(
    store: &S,
    known: &Broadcast,
    recording: &Recording,
    action: Action,
    time: Timestamp,
) -> Result<Announced, Error> {
    let key = Key::of(known);
    let uid = known.metadata.uid.as_deref().unwrap_or_default();
    let mut current = known.clone();
    for round in 0..MAX_ROUNDS {
        // After the Broadcast, and anew for each reading of it.
        let Some(fresh) = reread(store, recording).await? else { return Ok(Announced::Gone) };
        if fresh.is_announced() {
            return Ok(Announced::Noted);
        }
        let status = current.status_or_default();
        let settled = settled(store, &current).await?;
        let announce = Announce { action, vod: vod(&fresh), session: fresh.spec.session, time, settled };
        match machine::apply(&status, &Input::Announce(announce)) {
            Ok(Step::Settled) => return Ok(found(&current, &fresh)),
            Ok(Step::Write(transition) | Step::First(transition)) => {
                match store.patch_status(&key, uid, &transition.patch).await {
                    Ok(broadcast) => {
                        let sequence = transition.status.hooks.last_sequence;
                        return Ok(Announced::Appended { broadcast: Box::new(broadcast), sequence });
                    }
                    Err(Error::NotFound) => return Ok(Announced::Gone),
                    Err(Error::Conflict) => {}
                    Err(error) => return Err(error),
                }
            }
            // What was read may be old: only a fresh read may reject.
            Err(_) if round == 0 => {}
            Err(rejection) => return Ok(Announced::Rejected(rejection)),
        }
        match store.get(&key).await?.filter(|found| found.metadata.uid.as_deref() == Some(uid)) {
            Some(found) => current = found,
            None => return Ok(Announced::Gone),
        }
    }
    Err(Error::Invalid { message: format!("{MAX_ROUNDS} patches in a row met a conflict") })
}

/// Notes in a Recording that its event has this place in the ledger; 0 when nobody asked for one.
///
/// # Errors
/// As [`announce`].
pub async fn note<S: Recordings>(store: &S, recording: &Recording, sequence: i64) -> Result<(), Error> {
    let path = PointerBuf::from_tokens(["status", "hook"]);
    let patch = Patch(vec![PatchOperation::Add(AddOperation { path, value: json!(RecordingHook { sequence }) })]);
    let uid = recording.metadata.uid.as_deref().unwrap_or_default();
    match store.patch_recording(&Key::of_recording(recording), uid, &patch).await {
        Ok(_) | Err(Error::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

fn found(broadcast: &Broadcast, recording: &Recording) -> Announced {
    let name = recording.metadata.name.as_deref();
    let status = broadcast.status.iter().flat_map(|status| &status.hooks.announced);
    let mut announced = status.filter(|announced| Some(announced.recording.as_str()) == name);
    announced.next().map_or(Announced::Gone, |announced| Announced::Found { sequence: announced.sequence })
}

/// Names that may leave the list: their Recordings have noted their events, or are gone for good.
async fn settled<S: Recordings>(store: &S, broadcast: &Broadcast) -> Result<Vec<String>, Error> {
    let namespace = broadcast.metadata.namespace.clone().unwrap_or_default();
    let mut settled = Vec::new();
    for announced in broadcast.status.iter().flat_map(|status| &status.hooks.announced) {
        let key = Key { namespace: namespace.clone(), name: announced.recording.clone() };
        if store.recording(&key).await?.is_none_or(|recording| recording.is_announced()) {
            settled.push(key.name);
        }
    }
    Ok(settled)
}

async fn reread<S: Recordings>(store: &S, recording: &Recording) -> Result<Option<Recording>, Error> {
    let found = store.recording(&Key::of_recording(recording)).await?;
    Ok(found.filter(|found| found.metadata.uid == recording.metadata.uid))
}

fn vod(recording: &Recording) -> Vod {
    Vod {
        id: recording.metadata.name.clone().unwrap_or_default(),
        name: recording.spec.file_name.clone(),
        duration_milliseconds: recording.status.as_ref().and_then(|status| status.duration_milliseconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{at, recording};

    #[test]
    fn one_that_is_ready_is_told_of_and_one_that_failed_to_those_who_ask() {
        let all = |_| true;
        let default = |action| action != Action::VodFailed;
        assert_eq!(duty(&recording(RecordingState::Uploading), all), Duty::None);
        assert_eq!(duty(&recording(RecordingState::Ready), default), Duty::Announce(Action::VodReady));
        assert_eq!(duty(&recording(RecordingState::Failed), all), Duty::Announce(Action::VodFailed));
        assert_eq!(duty(&recording(RecordingState::Failed), default), Duty::Note);
        let mut told = recording(RecordingState::Ready);
        told.status.as_mut().unwrap().hook = Some(RecordingHook { sequence: 3 });
        assert_eq!(duty(&told, all), Duty::None);
    }

    #[test]
    fn a_recording_is_kept_for_its_time_after_its_end_and_until_it_was_told_of() {
        let mut ready = recording(RecordingState::Ready);
        assert_eq!(expiry(&ready), None, "nobody has heard of it");
        ready.status.as_mut().unwrap().hook = Some(RecordingHook { sequence: 3 });
        assert_eq!(expiry(&ready), Some(at(2060)));
        ready.spec.retention_seconds = None;
        assert_eq!(expiry(&ready), None, "it is kept for ever");
    }
}
