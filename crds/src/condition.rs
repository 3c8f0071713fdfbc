//! Conditions as the API conventions define them (sig-architecture/api-conventions.md, "Typical status properties").

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest;

/// One observation of an object, by type.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Kind of condition, CamelCase: Accepted, Ready, Live or HooksDelivered.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 316), regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?$"))]
    pub kind: String,
    /// Whether the condition holds.
    pub status: ConditionStatus,
    /// Generation of the spec that this was observed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// When `status` changed last.
    #[schemars(schema_with = "manifest::time")]
    pub last_transition_time: Timestamp,
    /// Machine-readable reason, CamelCase.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"))]
    pub reason: String,
    /// What a person needs to know, and the remedy when there is one.
    #[schemars(length(max = 4096))]
    pub message: String,
}

/// `True`, `False` or `Unknown`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// Puts a condition into a list: `lastTransitionTime` moves only when `status` moves.
pub fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition) {
    match conditions.iter_mut().find(|c| c.kind == new.kind) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time;
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(status: ConditionStatus, at: i64) -> Condition {
        Condition {
            kind: "Ready".into(),
            status,
            observed_generation: Some(1),
            last_transition_time: Timestamp::from_second(at).unwrap(),
            reason: "R".into(),
            message: String::new(),
        }
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut list = vec![];
        set_condition(&mut list, ready(ConditionStatus::False, 1));
        set_condition(&mut list, ready(ConditionStatus::False, 2));
        assert_eq!(list, [ready(ConditionStatus::False, 1)]);
        set_condition(&mut list, ready(ConditionStatus::True, 3));
        assert_eq!(list, [ready(ConditionStatus::True, 3)]);
    }
}
