//! The identity of an event.

use tallylight_crds::Event;
use uuid::Uuid;

/// Namespace of event ids: the UUIDv5 of `https://tallylight.dev/events` in the URL namespace (RFC 9562, section 6.6).
const NAMESPACE: Uuid = Uuid::from_u128(0x8e2f_1b0c_6a54_5f0f_9d53_8f6c_0d0e_4a11);

/// The id of an event: the UUIDv5 of the Broadcast's UID, session, sequence and action, so that whoever derives it again,
/// after whatever crash, derives the same.
#[must_use]
pub fn event_id(uid: &str, event: &Event) -> Uuid {
    let name = format!("{uid}/{}/{}/{}", event.session, event.sequence, event.action.as_str());
    Uuid::new_v5(&NAMESPACE, name.as_bytes())
}
