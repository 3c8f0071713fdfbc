//! CEL rules of the Recording: what the API server refuses whoever asks.

use kube::core::{Rule, cel::Message};

fn rule(rule: &str, message: &str) -> Rule {
    Rule::new(rule).message(Message::Message(message.to_owned()))
}

pub(super) fn only_the_node_changes() -> Rule {
    rule(
        "self.pool == oldSelf.pool && self.streamID == oldSelf.streamID && self.broadcast == oldSelf.broadcast && \
         self.session == oldSelf.session && self.epoch == oldSelf.epoch && self.part == oldSelf.part && \
         self.startTime == oldSelf.startTime && self.format == oldSelf.format && self.fileName == oldSelf.fileName && \
         self.storage == oldSelf.storage && has(self.retentionSeconds) == has(oldSelf.retentionSeconds) && \
         (!has(self.retentionSeconds) || self.retentionSeconds == oldSelf.retentionSeconds)",
        "the spec of a Recording is immutable, but for node",
    )
}

pub(super) fn final_states_are_final() -> Rule {
    rule("!(oldSelf.state in ['Ready', 'Failed']) || self.state == oldSelf.state", "Ready and Failed are final")
}

pub(super) fn recording_does_not_come_back() -> Rule {
    rule(
        "self.state != 'Recording' || oldSelf.state == 'Recording'",
        "a file that is finalized or uploaded does not grow again",
    )
}

pub(super) fn ready_says_what_is_there() -> Rule {
    rule(
        "self.state != 'Ready' || (has(self.location) && has(self.endTime) && has(self.durationMilliseconds) && has(self.bytes))",
        "a Recording that is Ready must have a location, endTime, durationMilliseconds and bytes",
    )
}

pub(super) fn hook_is_said_once() -> Rule {
    rule(
        "(!has(self.hook) || self.state in ['Ready', 'Failed']) && \
         (!has(oldSelf.hook) || (has(self.hook) && self.hook == oldSelf.hook))",
        "hook is written once, when the Recording is Ready or Failed",
    )
}
