//! Whether an administrator has told the operator to look on only.

use tallylight_crds::PAUSED_ANNOTATION;

/// Kind of the condition that a paused object has; one that is not paused has none.
pub(crate) const CONDITION: &str = "Paused";
/// Its reason.
pub(crate) const REASON: &str = "Annotated";

/// Whether the object asks to be left alone.
pub(crate) fn is_paused<K: kube::Resource>(object: &K) -> bool {
    object.meta().annotations.as_ref().and_then(|all| all.get(PAUSED_ANNOTATION)).is_some_and(|value| value == "true")
}

/// What the condition says; `effect` is what does not happen meanwhile.
pub(crate) fn message(effect: &str) -> String {
    format!("{effect}: take the annotation {PAUSED_ANNOTATION} away to go on")
}

/// Keeps, of an object's annotations, those that the operator reads.
pub(crate) fn prune_annotations<K: kube::Resource>(object: &mut K) {
    let annotations = &mut object.meta_mut().annotations;
    let paused = annotations.as_mut().and_then(|all| all.remove_entry(PAUSED_ANNOTATION));
    *annotations = paused.map(|pair| [pair].into());
}

#[cfg(test)]
mod tests {
    use tallylight_crds::{Broadcast, BroadcastSpec};

    use super::*;

    #[test]
    fn only_true_pauses_and_nothing_else_is_kept() {
        let with = |value: &str| {
            let mut broadcast = Broadcast::new("b", BroadcastSpec::default());
            let all = [(PAUSED_ANNOTATION.to_owned(), value.to_owned()), ("other".to_owned(), "x".to_owned())];
            broadcast.metadata.annotations = Some(all.into());
            prune_annotations(&mut broadcast);
            broadcast
        };
        assert!(is_paused(&with("true")));
        assert!(!is_paused(&with("false")) && !is_paused(&Broadcast::new("b", BroadcastSpec::default())));
        assert_eq!(with("true").metadata.annotations.unwrap().len(), 1);
    }
}
