//! The session and event machine of a Broadcast, and the stores that keep it.
//!
//! State and event are one write: whoever opens or ends a session appends the event in the same patch. [`machine`] decides,
//! without a clock or a connection; a [`Store`] commits; [`commit()`] brings the two together, and [`announce()`] those and
//! [`Recordings`]. It sends no webhook.

mod announce;
mod commit;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod disposal;
mod event;
#[cfg(feature = "kube")]
mod kube;
pub mod machine;
mod recordings;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;
mod windows;

#[cfg(feature = "kube")]
pub use crate::kube::{KubeStore, patient_client, watch};
#[cfg(feature = "sqlite")]
pub use crate::sqlite::{Change, SqliteStore};
pub use announce::{Announced, Duty, announce, duty, expiry, note};
pub use commit::{Committed, commit, commit_with};
pub use event::event_id;
pub use machine::{
    Announce, Claim, Input, Owner, Rejection, Step, Transition, apply, has_room, has_room_for_recording, unchanged,
};
pub use recordings::Recordings;
pub use store::{Error, Key, Store};
pub use windows::Windows;
