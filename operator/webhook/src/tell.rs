//! Tells of a recording that is done, whoever asks: the operator from what it watches, a standalone server from its own rows.

use jiff::Timestamp;
use ledger::{Announced, Duty, Error, Key, Recordings, Rejection, Store, announce, duty, note};
use tallylight_crds::{Action, Broadcast, Recording};

use crate::crash;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// There is nothing to tell, or no more.
    Nothing,
    /// The event is in the ledger, and the Recording says so.
    Done,
    /// The ledger has no room: tell again when the receiver has taken events.
    LedgerFull,
}

/// Appends the event of a recording to its Broadcast's ledger, unless it is there, and notes it in the Recording. `broadcast` is
/// the one that was recorded, as it was last read; `None` when it is gone: then there is nobody left to tell.
///
/// # Errors
/// When the store does not do as asked: it may be asked again, and the event is appended once.
pub async fn tell<S: Store + Recordings>(
    store: &S,
    broadcast: Option<&Broadcast>,
    recording: &Recording,
    sends: impl Fn(Action) -> bool,
    now: Timestamp,
) -> Result<Told, Error> {
    let action = match duty(recording, sends) {
        Duty::None => return Ok(Told::Nothing),
        Duty::Note => return note(store, recording, 0).await.map(|()| Told::Done),
        Duty::Announce(action) => action,
    };
    let Some(broadcast) = broadcast else {
        return note(store, recording, 0).await.map(|()| Told::Done);
    };
    crash::point(crash::Point::BeforeTell);
    let sequence = match announce(store, broadcast, recording, action, now).await? {
        Announced::Appended { sequence, .. } => {
            let (broadcast, recording) = (Key::of(broadcast), recording.metadata.name.as_deref());
            tracing::info!(%broadcast, recording, action = action.as_str(), sequence, "recording.told");
            sequence
        }
        Announced::Found { sequence } => sequence,
        Announced::Noted | Announced::Gone => return Ok(Told::Nothing),
        Announced::Rejected(Rejection::LedgerFull) => return Ok(Told::LedgerFull),
        Announced::Rejected(
            rejection @ (Rejection::NoSuchSession
            | Rejection::OnAir { .. }
            | Rejection::Fenced
            | Rejection::NotAppended),
        ) => return Err(Error::Invalid { message: rejection.to_string() }),
    };
    crash::point(crash::Point::AfterTell);
    note(store, recording, sequence).await?;
    crash::point(crash::Point::AfterNote);
    Ok(Told::Done)
}
