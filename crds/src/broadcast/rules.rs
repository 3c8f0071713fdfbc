//! CEL rules of the Broadcast: what the API server refuses whoever asks. Each was tried against a real API server.

use kube::core::{Rule, cel::Message};

fn rule(rule: &str, message: &str) -> Rule {
    Rule::new(rule).message(Message::Message(message.to_owned()))
}

// --- URL. Each rule but the first is guarded by isURL, so that a bad URL gets one message.

pub(crate) fn is_url() -> Rule {
    rule("isURL(self)", "must be an absolute URL")
}

pub(crate) fn is_http() -> Rule {
    rule("!isURL(self) || url(self).getScheme() in ['http', 'https']", "must have scheme http or https")
}

pub(crate) fn has_host() -> Rule {
    rule("!isURL(self) || url(self).getHostname() != ''", "must have a host")
}

pub(crate) fn has_no_fragment() -> Rule {
    rule("!self.contains('#')", "must not have a fragment")
}

// CEL's url library has no accessor for the user, and getHost() leaves it out: text it is.
pub(crate) fn has_no_user() -> Rule {
    rule(
        "!self.matches('^[^/?#]*//[^/?#]*@')",
        "must not contain a user name or password; keep the URL in a Secret and name it in hooks.urlSecretRef",
    )
}

// --- Session and ledger move together.

pub(super) fn session_follows() -> Rule {
    rule(
        "self.session.ordinal == oldSelf.session.ordinal || \
         (oldSelf.session.state == 'Ended' && self.session.state == 'Open' && \
         self.session.ordinal == oldSelf.session.ordinal + 1 && self.session.epoch > oldSelf.session.epoch)",
        "a session may start only when the one before has ended, with the next ordinal and a larger epoch",
    )
}

pub(super) fn session_has_its_start() -> Rule {
    rule(
        "self.session.ordinal == oldSelf.session.ordinal || \
         (self.hooks.lastSequence > oldSelf.hooks.lastSequence && \
         self.hooks.pending.exists(e, e.sequence > oldSelf.hooks.lastSequence && \
         e.session == self.session.ordinal && e.action == 'liveStreamStarted'))",
        "a session must be opened by the write that appends its liveStreamStarted",
    )
}

pub(super) fn end_has_its_event() -> Rule {
    rule(
        "!(oldSelf.session.state == 'Open' && self.session.state == 'Ended') || \
         self.hooks.pending.exists(e, e.sequence > oldSelf.hooks.lastSequence && \
         e.session == self.session.ordinal && e.action == 'liveStreamEnded')",
        "a session must be ended by the write that appends its liveStreamEnded",
    )
}

pub(super) fn no_reopening() -> Rule {
    rule(
        "!(oldSelf.session.state == 'Ended' && self.session.state == 'Open' && self.session.ordinal == oldSelf.session.ordinal)",
        "an ended session must not be reopened",
    )
}

pub(super) fn ended_is_final() -> Rule {
    rule(
        "oldSelf.session.state == 'Open' || self.session.ordinal != oldSelf.session.ordinal || self.session == oldSelf.session",
        "an ended session must not be changed",
    )
}

pub(super) fn state_tells_the_session() -> Rule {
    rule(
        "(self.session.state == 'Open') == (self.state in ['Live', 'Reconnecting'])",
        "state must be Live or Reconnecting exactly while a session is open",
    )
}

pub(super) fn events_have_their_session() -> Rule {
    rule(
        "self.hooks.pending.all(e, e.sequence <= oldSelf.hooks.lastSequence || \
         (e.action == 'liveStreamStarted' ? e.session == self.session.ordinal && self.session.ordinal > oldSelf.session.ordinal : \
         e.action == 'liveStreamEnded' ? e.session == self.session.ordinal && self.session.state == 'Ended' && oldSelf.session.state == 'Open' : \
         e.session <= self.session.ordinal))",
        "liveStreamStarted and liveStreamEnded must be appended by the write that opens or ends that session",
    )
}

pub(super) fn events_of_recordings_say_which() -> Rule {
    rule(
        "has(self.vod) == (self.action in ['vodReady', 'vodFailed'])",
        "vodReady and vodFailed say which recording, and no other event does",
    )
}

pub(super) fn node_changes_with_epoch() -> Rule {
    rule(
        "self.epoch > oldSelf.epoch || (has(self.node) ? self.node : '') == (has(oldSelf.node) ? oldSelf.node : '')",
        "session.node may change only with a larger epoch",
    )
}

// --- A publisher that is away.

pub(super) fn state_tells_who_is_away() -> Rule {
    rule(
        "(self.state == 'Reconnecting') == has(self.session.away)",
        "state must be Reconnecting exactly while session.away says since when the publisher is away",
    )
}

pub(super) fn away_begins_in_an_open_session() -> Rule {
    rule(
        "!has(self.session.away) || (oldSelf.session.state == 'Open' && self.session.ordinal == oldSelf.session.ordinal)",
        "only the publisher of a session that is open may be away",
    )
}

// Whoever ends it, and however late: its time on air is what it was.
pub(super) fn an_away_publisher_left_when_it_left() -> Rule {
    rule(
        "!has(oldSelf.session.away) || self.session.state == 'Open' || \
         (has(self.session.endTime) && self.session.endTime == oldSelf.session.away.since)",
        "a session whose publisher is away must end at session.away.since",
    )
}

pub(super) fn away_is_nobodys() -> Rule {
    rule(
        "!has(self.away) || (self.state == 'Open' && !has(self.node) && !has(self.address) && !has(self.id))",
        "a session whose publisher is away must be open and have no node, address or id",
    )
}

pub(super) fn away_changes_with_epoch() -> Rule {
    rule(
        "self.epoch > oldSelf.epoch || (has(self.away) ? has(oldSelf.away) && self.away == oldSelf.away : !has(oldSelf.away))",
        "session.away may change only with a larger epoch",
    )
}

// What a publisher sends does not become what it was not; another publisher may.
pub(super) fn frame_order_goes_with_epoch() -> Rule {
    rule(
        "self.epoch > oldSelf.epoch || has(self.frameOrder) || !has(oldSelf.frameOrder)",
        "session.frameOrder may go only with a larger epoch",
    )
}

pub(super) fn away_is_bounded() -> Rule {
    rule(
        "self.until >= self.since && self.until - self.since <= duration('1h')",
        "until must be at most one hour after since",
    )
}

pub(super) fn away_has_a_reason_to_wait() -> Rule {
    rule(
        "self.reason in ['PublisherLost', 'PublisherTimeout', 'NodeShutdown', 'NodeLost']",
        "a publisher that closed, or was stopped, is not awaited",
    )
}

// --- Cursors and the log.

pub(super) fn cursors_within_log() -> Rule {
    rule(
        "self.ackedSequence <= self.lastSequence && self.spilledSequence <= self.lastSequence",
        "ackedSequence and spilledSequence must not be greater than lastSequence",
    )
}

// Without this one all cursors may jump ahead together, over events that never were in the log.
pub(super) fn cursors_within_old_log() -> Rule {
    rule(
        "self.ackedSequence <= oldSelf.lastSequence && self.spilledSequence <= oldSelf.lastSequence",
        "only events that were in the log before this write may be acknowledged or spilled",
    )
}

pub(super) fn pending_is_whole() -> Rule {
    rule(
        "size(self.pending) == self.lastSequence - (self.ackedSequence > self.spilledSequence ? self.ackedSequence : self.spilledSequence)",
        "pending must hold every event after ackedSequence and spilledSequence, up to lastSequence",
    )
}

pub(super) fn pending_is_contiguous() -> Rule {
    rule(
        "self.pending.all(i, e, e.sequence == self.lastSequence + 1 - size(self.pending) + i)",
        "pending must be contiguous and in order",
    )
}

// An event that is still pending is the event that was appended; SHIFT says how far the window moved. It is the dearest
// rule: with 61 events pending it doubles the CPU of a write, with 2 it is 0.4 of 6 ms.
pub(super) fn pending_is_unchanged() -> Rule {
    const SHIFT: &str = "((self.lastSequence - size(self.pending)) - (oldSelf.lastSequence - size(oldSelf.pending)))";
    rule(
        &format!(
            "oldSelf.pending.all(i, o, i < {SHIFT} || i - {SHIFT} >= size(self.pending) || o == self.pending[i - {SHIFT}])"
        ),
        "a pending event must not be changed",
    )
}
