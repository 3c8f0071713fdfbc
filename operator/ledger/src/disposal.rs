//! Decides how a Broadcast goes: one that is being deleted, or an ephemeral one that has done its work.

use tallylight_crds::{Broadcast, HOOKS_FINALIZER, Recording, SessionState};

use crate::Owner;

/// The next step towards the end of a Broadcast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposal {
    /// Nothing to do: it stays, or it waits for deliveries.
    None,
    /// It is being deleted while on air: end the session with the reason `Stopped`.
    End(Owner),
    /// Every event of it is settled: take our finalizer away, unless a recording [holds] it.
    Release,
    /// An ephemeral Broadcast whose end is delivered: delete it, unless a recording [holds] it.
    Delete,
}

/// Decides the next step for a Broadcast.
#[must_use]
pub fn next(broadcast: &Broadcast) -> Disposal {
    let status = broadcast.status_or_default();
    let settled = status.hooks.pending.is_empty();
    if broadcast.metadata.deletion_timestamp.is_none() {
        let done = status.session.state == SessionState::Ended && status.session.ordinal > 0 && settled;
        return if broadcast.is_ephemeral() && done { Disposal::Delete } else { Disposal::None };
    }
    let held = broadcast.metadata.finalizers.iter().flatten().any(|f| f == HOOKS_FINALIZER);
    match status.session.state {
        SessionState::Open => Disposal::End(Owner::of(&status.session)),
        SessionState::Ended if held && settled => Disposal::Release,
        SessionState::Ended => Disposal::None,
    }
}

/// Whether a recording of the Broadcast will still be told of, given all recordings under its name.
#[must_use]
pub fn holds(broadcast: &Broadcast, recordings: &[Recording]) -> bool {
    let uid = broadcast.metadata.uid.as_deref().unwrap_or_default();
    recordings
        .iter()
        .any(|recording| recording.spec.broadcast.uid == uid && !recording.is_announced() && !recording.is_leaving())
}

/// Whether the Broadcast may have recordings at all: one that never was on air has none to look for.
#[must_use]
pub fn may_be_held(broadcast: &Broadcast) -> bool {
    broadcast.status.as_ref().is_some_and(|status| status.session.ordinal > 0)
}
