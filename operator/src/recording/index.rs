//! How the recordings of each Broadcast are, for its condition `Recorded` and for its end.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tallylight_crds::{Broadcast, ConditionStatus, Recording, RecordingState, RecordingTrouble};

use crate::broadcast::observe::Recorded;

/// By UID of the Broadcast and name of the Recording. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Index(Arc<Mutex<HashMap<String, BTreeMap<String, Brief>>>>);

/// What a Broadcast cares about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Brief {
    session: i64,
    is_announced: bool,
    trouble: Option<Recorded>,
}

impl Index {
    /// A Recording is as it is now. Says whether that concerns its Broadcast.
    pub(super) fn see(&self, recording: &Recording) -> bool {
        let name = recording.metadata.name.clone().unwrap_or_default();
        let brief = Brief {
            session: recording.spec.session,
            is_announced: recording.is_announced(),
            trouble: trouble(recording),
        };
        let mut index = self.lock();
        let of_broadcast = index.entry(recording.spec.broadcast.uid.clone()).or_default();
        let old = of_broadcast.insert(name, brief.clone());
        let news = |old: &Brief| old.trouble != brief.trouble || old.is_announced != brief.is_announced;
        old.as_ref().map_or_else(|| brief.trouble.is_some(), news)
    }

    /// A Recording is gone.
    pub(super) fn forget(&self, recording: &Recording) {
        let mut index = self.lock();
        if let Some(of_broadcast) = index.get_mut(&recording.spec.broadcast.uid) {
            of_broadcast.remove(recording.metadata.name.as_deref().unwrap_or_default());
            if of_broadcast.is_empty() {
                index.remove(&recording.spec.broadcast.uid);
            }
        }
    }

    /// How the latest session of a Broadcast is recorded; nothing when it is not.
    pub(crate) fn recorded(&self, broadcast: &Broadcast) -> Option<Recorded> {
        let session = broadcast.status.as_ref()?.session.ordinal;
        let index = self.lock();
        let of_broadcast = index.get(broadcast.metadata.uid.as_deref()?)?;
        let mut latest = of_broadcast.values().filter(|brief| brief.session == session).peekable();
        latest.peek()?;
        Some(latest.find_map(|brief| brief.trouble.clone()).unwrap_or(Recorded::Well))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, BTreeMap<String, Brief>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is wrong with a recording, as its node says.
fn trouble(recording: &Recording) -> Option<Recorded> {
    let status = recording.status.as_ref()?;
    let ready = status.conditions.iter().find(|condition| condition.kind == "Ready");
    let says = ready.filter(|ready| ready.status == ConditionStatus::False);
    let reason = says.map_or("", |ready| ready.reason.as_str());
    let is_well = matches!(reason, "" | "Recording" | "Finalizing" | "Uploading");
    if is_well && status.state != RecordingState::Failed {
        return None;
    }
    let name = recording.metadata.name.as_deref().unwrap_or_default();
    let known = RecordingTrouble::of(reason); // whatever a node of another version says
    let message = says.map_or("it has failed", |ready| ready.message.as_str());
    Some(Recorded::Trouble {
        reason: known.map_or("RecordingFailed", RecordingTrouble::as_str),
        message: format!("recording {name}: {message}"),
    })
}

#[cfg(test)]
mod tests {
    use ledger::conformance::{at, recording};
    use tallylight_crds::{BroadcastSpec, Condition, RecordingHook};

    use super::*;

    fn broadcast(session: i64) -> Broadcast {
        let mut broadcast = Broadcast::new("studio", BroadcastSpec::default());
        broadcast.metadata.uid = Some("u".into());
        broadcast.status.get_or_insert_default().session.ordinal = session;
        broadcast
    }

    #[test]
    fn a_broadcast_hears_of_trouble_with_its_latest_session_and_of_its_end() {
        let index = Index::default();
        let mut recording = recording(RecordingState::Recording);
        assert!(!index.see(&recording), "one that begins costs no write");
        assert_eq!(index.recorded(&broadcast(1)), Some(Recorded::Well));
        recording.status.as_mut().unwrap().conditions = vec![Condition {
            kind: "Ready".into(),
            status: ConditionStatus::False,
            observed_generation: None,
            last_transition_time: at(0),
            reason: "DiskFull".into(),
            message: "no space left".into(),
        }];
        assert!(index.see(&recording));
        assert!(!index.see(&recording), "once");
        let Some(Recorded::Trouble { reason, message }) = index.recorded(&broadcast(1)) else { panic!("trouble") };
        assert_eq!((reason, message.ends_with("no space left")), ("DiskFull", true));
        assert_eq!(index.recorded(&broadcast(2)), None, "that was another session");
        for (said, told) in [("AccessDenied", "AccessDenied"), ("NewReason", "RecordingFailed")] {
            recording.status.as_mut().unwrap().conditions[0].reason = said.into();
            assert!(index.see(&recording));
            let Some(Recorded::Trouble { reason, .. }) = index.recorded(&broadcast(1)) else { panic!("trouble") };
            assert_eq!(reason, told);
        }

        let status = recording.status.as_mut().unwrap();
        (status.state, status.hook) = (RecordingState::Ready, Some(RecordingHook { sequence: 3 }));
        status.conditions.clear();
        assert!(index.see(&recording), "it holds its Broadcast no more");
        assert_eq!(index.recorded(&broadcast(1)), Some(Recorded::Well));
        index.forget(&recording);
        assert_eq!(index.recorded(&broadcast(1)), None);
    }
}
