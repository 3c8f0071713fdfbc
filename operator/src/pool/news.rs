//! What a person should read of a pool in its Events: what was done, and what turned. Pure.
//!
//! Events of one reason and one pod are aggregated, and keep their first text: so a text holds no count.

use kube::runtime::events::EventType;
use tallylight_crds::{Condition, ConditionStatus, MediaPoolStatus};

use super::plan::{Action, Why};

/// One Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) kind: EventType,
    pub(crate) reason: &'static str,
    pub(crate) action: &'static str,
    pub(crate) note: String,
    /// Name and UID of the pod that it is about.
    pub(crate) pod: Option<(String, String)>,
}

fn normal(reason: &'static str, action: &'static str, note: impl Into<String>) -> News {
    News { kind: EventType::Normal, reason, action, note: note.into(), pod: None }
}

fn warning(reason: &'static str, action: &'static str, note: impl Into<String>) -> News {
    News { kind: EventType::Warning, ..normal(reason, action, note) }
}

/// What was done. However many pods were made for one reason, it is told once; each pod that is stopped or removed is told of.
pub(super) fn of_actions(actions: &[Action]) -> Vec<News> {
    let made =
        |why: Why| actions.iter().any(|action| matches!(action, Action::Create { why: found, .. } if *found == why));
    let mut news = Vec::new();
    if made(Why::TooFew) {
        news.push(normal("ScaledOut", "CreateNodes", "the pool had fewer nodes than minNodes: more are made"));
    }
    if made(Why::LowCapacity) {
        news.push(normal(
            "ScaledOut",
            "GrowPool",
            "the pool had less free capacity than minReadyCapacity: more nodes are made",
        ));
    }
    for action in actions {
        let (mut one, name, uid) = match action {
            Action::Drain { name, uid, why: Why::TooMany | Why::Idle } => {
                (normal("ScaledIn", "StopNode", format!("media node {name} is not needed: it is stopped")), name, uid)
            }
            Action::Remove { name, uid } => {
                (warning("NodeFailed", "RemoveNode", format!("media node {name} has failed: it is removed")), name, uid)
            }
            // An update is told of as a whole.
            Action::Drain { .. } | Action::Label { .. } | Action::Create { .. } => continue,
        };
        one.pod = Some((name.clone(), uid.clone()));
        news.push(one);
    }
    news
}

/// A node that is silent.
pub(super) fn of_lost(name: &str, uid: &str) -> News {
    let note = format!("media node {name} is silent: its machine may be lost; another node takes its place");
    News { pod: Some((name.to_owned(), uid.to_owned())), ..warning("NodeLost", "ReplaceNode", note) }
}

/// What turned between two statuses.
pub(super) fn of_change(before: &MediaPoolStatus, after: &MediaPoolStatus) -> Vec<News> {
    let mut news = Vec::new();
    if let Some(accepted) = turned(before, after, "Accepted")
        && accepted.status == ConditionStatus::False
    {
        news.push(warning("SpecRejected", "Validate", clipped(&accepted.message)));
    }
    if let Some(capacity) = turned(before, after, "CapacityMet") {
        let reason = match capacity.reason.as_str() {
            "NoFreePort" => Some("PortRangeExhausted"),
            "AtMaxNodes" => Some("AtMaxNodes"),
            "PodsFailing" => Some("NodesFailing"),
            _ => None,
        };
        news.extend(reason.map(|reason| warning(reason, "Plan", clipped(&capacity.message))));
    }
    let is_updating = |status: &MediaPoolStatus| status.updated_replicas < status.replicas;
    match (is_updating(before), is_updating(after)) {
        (false, true) => {
            news.push(normal("UpdateStarted", "UpdateNodes", "nodes of an older spec are replaced, one at a time"))
        }
        (true, false) if after.replicas.is_some() => {
            news.push(normal("UpdateFinished", "UpdateNodes", "all nodes are of the present spec"));
        }
        (true, _) | (false, false) => {}
    }
    news
}

/// The condition, when its reason is another than before.
fn turned<'a>(before: &MediaPoolStatus, after: &'a MediaPoolStatus, kind: &str) -> Option<&'a Condition> {
    let is_kind = |condition: &&Condition| condition.kind == kind;
    let old = before.conditions.iter().find(is_kind).map(|condition| &condition.reason);
    after.conditions.iter().find(is_kind).filter(|condition| Some(&condition.reason) != old)
}

/// An Event's note is refused beyond 1024 bytes.
fn clipped(text: &str) -> String {
    text.chars().take(250).collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn status(nodes: i32, updated: i32, accepted: &str, capacity: &str) -> MediaPoolStatus {
        let condition = |kind: &str, good: &str, reason: &str| Condition {
            kind: kind.into(),
            status: if reason == good { ConditionStatus::True } else { ConditionStatus::False },
            observed_generation: None,
            last_transition_time: Timestamp::UNIX_EPOCH,
            reason: reason.into(),
            message: "why".into(),
        };
        MediaPoolStatus {
            replicas: Some(nodes),
            updated_replicas: Some(updated),
            conditions: vec![condition("Accepted", "Valid", accepted), condition("CapacityMet", "Enough", capacity)],
            ..MediaPoolStatus::default()
        }
    }

    fn reasons(before: &MediaPoolStatus, after: &MediaPoolStatus) -> Vec<&'static str> {
        of_change(before, after).into_iter().map(|news| news.reason).collect()
    }

    #[test]
    fn what_turns_is_told_once() {
        let well = status(2, 2, "Valid", "Enough");
        let updating = status(2, 0, "Valid", "Enough");
        assert_eq!(reasons(&well, &status(2, 2, "NoImage", "Enough")), ["SpecRejected"]);
        assert_eq!(reasons(&well, &status(2, 2, "Valid", "NoFreePort")), ["PortRangeExhausted"]);
        assert_eq!(reasons(&well, &updating), ["UpdateStarted"]);
        assert_eq!(reasons(&updating, &well), ["UpdateFinished"]);
        for same in [&well, &updating, &status(2, 2, "NoImage", "NoFreePort")] {
            assert_eq!(reasons(same, same), [""; 0]);
        }
    }

    #[test]
    fn many_pods_made_for_one_reason_are_told_once_and_each_that_goes_is_named() {
        let create = |order| Action::Create { port: None, order, why: Why::TooFew };
        let (name, uid) = ("media-live-a".to_owned(), "u".to_owned());
        let actions = [create(1), create(2), Action::Drain { name, uid, why: Why::Idle }];
        let told: Vec<_> = of_actions(&actions).into_iter().map(|news| (news.reason, news.pod.is_some())).collect();
        assert_eq!(told, [("ScaledOut", false), ("ScaledIn", true)]);
    }
}
