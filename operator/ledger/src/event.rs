//! The identity of an event.

use tallylight_crds::Event;
use uuid::Uuid;

/// Namespace of event ids: the UUIDv5 of `https://tallylight.dev/events` in the URL namespace (RFC 9562, sections 5.5 and 6.6).
const NAMESPACE: Uuid = Uuid::from_u128(0x39f1_151b_3f40_5efc_83ee_4015_271b_23ef);

/// The id of an event: the UUIDv5 of the Broadcast's UID, session, sequence and action, so that whoever derives it again,
/// after whatever crash, derives the same.
#[must_use]
pub fn event_id(uid: &str, event: &Event) -> Uuid {
    let name = format!("{uid}/{}/{}/{}", event.session, event.sequence, event.action.as_str());
    Uuid::new_v5(&NAMESPACE, name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_is_what_it_says() {
        assert_eq!(NAMESPACE, Uuid::new_v5(&Uuid::NAMESPACE_URL, b"https://tallylight.dev/events"));
    }
}
