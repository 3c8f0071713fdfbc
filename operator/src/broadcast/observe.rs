//! Decides the conditions of a Broadcast from what is known. Knows no client.

use jiff::Timestamp;
use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use serde_json::json;
use tallylight_crds::{
    Broadcast, BroadcastState, BroadcastStatus, Condition, ConditionStatus, FrameOrder, HookUrlSource, Lane, LaneState,
    SessionState, StreamId, hook_url, set_condition,
};

use crate::paused;

/// What a Broadcast depends on, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Surroundings {
    pub(crate) pool: Pool,
    pub(crate) key: StreamKey,
    /// How the latest session is recorded; nothing when it is not, or when there is no need to say so.
    pub(crate) recorded: Option<Recorded>,
}

/// How a session is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recorded {
    Well,
    Trouble { reason: &'static str, message: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pool {
    Absent,
    /// There; whether it takes publishers is not known yet.
    Unknown,
    /// There, but without a media node that takes publishers.
    Empty,
    Serving,
}

/// The stream key that the spec asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamKey {
    NotAsked,
    Known,
    /// The Secret, or the key in it, is not there.
    Absent,
    /// The operator may not read the Secret.
    Forbidden,
}

/// What the Broadcast itself tells of its stream key.
pub(crate) fn key_in(broadcast: &Broadcast) -> StreamKey {
    let asked = broadcast.spec.publish.as_ref().is_some_and(|publish| publish.stream_key_secret_ref.is_some());
    let status = broadcast.status.as_ref();
    if !asked {
        return StreamKey::NotAsked;
    }
    if status.and_then(|s| s.publish.as_ref()).is_some_and(|p| p.key_verifier.is_some()) {
        return StreamKey::Known;
    }
    let forbidden = status.is_some_and(|s| s.conditions.iter().any(|c| c.reason == "SecretForbidden"));
    if forbidden { StreamKey::Forbidden } else { StreamKey::Absent }
}

/// The conditions that a Broadcast with this status should have.
pub(crate) fn conditions(
    broadcast: &Broadcast,
    status: &BroadcastStatus,
    around: Surroundings,
    now: Timestamp,
) -> Vec<Condition> {
    let mut list = status.conditions.clone();
    let accepted = accepted(broadcast);
    let valid = accepted.status == ConditionStatus::True;
    let mut found = vec![accepted];
    found.extend(ready(broadcast, status, &around, valid));
    found.extend(around.recorded.map(recorded));
    found.push(live(status));
    if is_reordered(status) {
        found.push(finding(WEBRTC_PLAYABLE, false, "ReorderedFrames", REORDERED));
    } else {
        list.retain(|condition| condition.kind != WEBRTC_PLAYABLE);
    }
    if paused::is_paused(broadcast) {
        let waiting = status.hooks.pending.len();
        if waiting > 0 {
            found.push(finding(
                "HooksDelivered",
                false,
                "Paused",
                format!("{} while the Broadcast is paused", waits(waiting)),
            ));
        } else {
            found.push(hooks_delivered(status));
        }
        let message = paused::message("the operator sends no hook, ends no session and lets no deletion through");
        found.push(finding(paused::CONDITION, true, paused::REASON, message));
    } else {
        found.push(hooks_delivered(status));
        list.retain(|condition| condition.kind != paused::CONDITION);
    }
    for Finding { kind, status, reason, message } in found {
        let condition = Condition {
            kind: kind.into(),
            status,
            observed_generation: broadcast.metadata.generation,
            last_transition_time: now,
            reason: reason.into(),
            message,
        };
        set_condition(&mut list, condition);
    }
    list
}

/// The patch that brings conditions and `observedGeneration` up to date, when they are not.
pub(crate) fn patch(
    broadcast: &Broadcast,
    status: &BroadcastStatus,
    around: Surroundings,
    now: Timestamp,
) -> Option<Vec<PatchOperation>> {
    let conditions = conditions(broadcast, status, around, now);
    let generation = broadcast.metadata.generation;
    if conditions == status.conditions && generation == status.observed_generation {
        return None;
    }
    let add = |path: [&str; 2], value| PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(path), value });
    Some(vec![
        add(["status", "conditions"], json!(conditions)),
        add(["status", "observedGeneration"], json!(generation)),
    ])
}

/// Whether the status says that something is wrong with the recordings.
pub(crate) fn is_in_trouble(status: &BroadcastStatus) -> bool {
    let of_recordings = status.conditions.iter().find(|condition| condition.kind == RECORDED);
    of_recordings.is_some_and(|condition| condition.status == ConditionStatus::False)
}

/// The patch that says of an object that this version cannot read it.
pub(crate) fn unreadable(generation: Option<i64>, now: Timestamp) -> Patch {
    let condition = Condition {
        kind: "Accepted".into(),
        status: ConditionStatus::False,
        observed_generation: generation,
        last_transition_time: now,
        reason: "Unreadable".into(),
        message: "this version of the operator cannot read the object: it was written for a newer one".into(),
    };
    let path = PointerBuf::from_tokens(["status", "conditions"]);
    Patch(vec![PatchOperation::Add(AddOperation { path, value: json!([condition]) })])
}

/// Kind of the condition of recordings; a Broadcast that never was recorded has none.
const RECORDED: &str = "Recorded";

fn recorded(recorded: Recorded) -> Finding {
    match recorded {
        Recorded::Well => finding(RECORDED, true, "Recorded", "the latest session is, or was, recorded"),
        Recorded::Trouble { reason, message } => finding(RECORDED, false, reason, message),
    }
}

/// Kind of the condition that is there while a publisher sends what WebRTC cannot play.
const WEBRTC_PLAYABLE: &str = "WebRTCPlayable";
const REORDERED: &str = "the publisher sends B-frames, which WebRTC cannot play, and viewers over WebRTC get no picture: turn them off \
                         in the encoder (OBS: x264 options bframes=0 or tune zerolatency, or B-frames 0; ffmpeg: -bf 0) and publish anew";

fn is_reordered(status: &BroadcastStatus) -> bool {
    status.session.state == SessionState::Open && status.session.frame_order == Some(FrameOrder::Reordered)
}

struct Finding {
    kind: &'static str,
    status: ConditionStatus,
    reason: &'static str,
    message: String,
}

fn finding(kind: &'static str, holds: bool, reason: &'static str, message: impl Into<String>) -> Finding {
    let status = if holds { ConditionStatus::True } else { ConditionStatus::False };
    Finding { kind, status, reason, message: message.into() }
}

fn accepted(broadcast: &Broadcast) -> Finding {
    let (id, name) = (broadcast.stream_id(), broadcast.metadata.name.as_deref().unwrap_or_default());
    let misnamed = match StreamId::parse(id) {
        Ok(parsed) if broadcast.carries(&parsed) => None,
        Ok(parsed) => Some(tallylight_crds::object_name(&parsed)),
        Err(invalid) => return finding("Accepted", false, "InvalidStreamID", format!("spec.streamID: {invalid}")),
    };
    if let Some(expected) = misnamed {
        let message =
            format!("spec.streamID {id:?} belongs to a Broadcast named {expected:?}, not {name:?}: rename it");
        return finding("Accepted", false, "StreamIDMismatch", message);
    }
    let url = broadcast.spec.listener_hook_url.as_deref();
    if let Some(Err(error)) = url.map(|url| hook_url(url, HookUrlSource::Spec)) {
        return finding("Accepted", false, "InvalidListenerHookURL", format!("spec.listenerHookURL: {error}"));
    }
    finding("Accepted", true, "Valid", "the spec is valid")
}

/// Nothing while it is not known: then what was said before holds.
fn ready(broadcast: &Broadcast, status: &BroadcastStatus, around: &Surroundings, valid: bool) -> Option<Finding> {
    let pool = &broadcast.spec.pool;
    let not = |reason, message: String| Some(finding("Ready", false, reason, message));
    if !valid {
        return not("NotAccepted", "the spec is invalid: see Accepted".into());
    }
    if broadcast.metadata.deletion_timestamp.is_some() {
        return not("Deleting", "the Broadcast is being deleted".into());
    }
    if paused::is_paused(broadcast) {
        return not("Paused", "the Broadcast is paused: its hooks wait".into());
    }
    if !ledger::has_room(status) {
        let message = "the receiver has not taken so many events that no more fit: see HooksDelivered";
        return not("LedgerFull", message.into());
    }
    match (around.pool, around.key) {
        (Pool::Unknown, _) => None,
        (Pool::Absent, _) => not("PoolNotFound", format!("no MediaPool {pool:?} in this namespace: create it")),
        (Pool::Empty, _) => {
            not("NoMediaNode", format!("no media node of pool {pool} is ready: kubectl describe mediapool {pool}"))
        }
        (Pool::Serving, StreamKey::Absent) => not(
            "SecretNotFound",
            "the Secret or the key in spec.publish.streamKeySecretRef does not exist: create it".into(),
        ),
        (Pool::Serving, StreamKey::Forbidden) => not(
            "SecretForbidden",
            "the operator may not read the Secret in spec.publish.streamKeySecretRef: grant it get on that Secret"
                .into(),
        ),
        (Pool::Serving, StreamKey::NotAsked | StreamKey::Known) => {
            Some(finding("Ready", true, "PoolReady", "a publisher is accepted"))
        }
    }
}

fn live(status: &BroadcastStatus) -> Finding {
    let session = &status.session;
    let node = session.node.as_deref().unwrap_or_default();
    match (session.state, &session.away) {
        (SessionState::Open, Some(away)) => {
            let (session, reason) = (session.ordinal, away.reason.as_str());
            let message = format!(
                "the publisher is away since {} ({reason}); session {session} ends at {} unless it comes back",
                away.since, away.until
            );
            finding("Live", false, "Reconnecting", message)
        }
        (SessionState::Open, None) => {
            finding("Live", true, "OnAir", format!("session {} is on {node}", session.ordinal))
        }
        (SessionState::Ended, _) if status.state == BroadcastState::Idle => {
            finding("Live", false, "Idle", "nobody has published yet")
        }
        (SessionState::Ended, _) => finding("Live", false, "Ended", format!("session {} has ended", session.ordinal)),
    }
}

fn hooks_delivered(status: &BroadcastStatus) -> Finding {
    let waiting = status.hooks.pending.len();
    if waiting == 0 {
        return finding("HooksDelivered", true, "AllDelivered", "no event waits");
    }
    let lane = status.hooks.lane.as_ref();
    let waits = waits(waiting);
    match lane.map(|lane| lane.state) {
        Some(LaneState::Backoff) => {
            finding("HooksDelivered", false, "Backoff", format!("{waits}; the last attempt failed: {}", failure(lane)))
        }
        Some(LaneState::Gone) => finding(
            "HooksDelivered",
            false,
            "EndpointGone",
            format!("{waits}; the endpoint answered 410: change the URL to send them"),
        ),
        Some(LaneState::Idle) | None => finding("HooksDelivered", false, "Delivering", format!("{waits} to be sent")),
    }
}

fn waits(waiting: usize) -> String {
    if waiting == 1 { "1 event waits".to_owned() } else { format!("{waiting} events wait") }
}

/// The status that the receiver answered, or why it did not.
fn failure(lane: Option<&Lane>) -> String {
    let status = lane.and_then(|lane| lane.last_status).map(|status| format!("HTTP {status}"));
    let class = || lane.and_then(|lane| lane.last_error.clone());
    status.or_else(class).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use tallylight_crds::BroadcastSpec;

    use super::*;

    const READY: Surroundings = Surroundings { pool: Pool::Serving, key: StreamKey::NotAsked, recorded: None };

    fn broadcast() -> Broadcast {
        let mut b = Broadcast::new("studio", BroadcastSpec { pool: "live".into(), ..BroadcastSpec::default() });
        b.metadata.generation = Some(3);
        b
    }

    fn reasons(b: &Broadcast, status: &BroadcastStatus, around: Surroundings) -> Vec<(String, bool, String)> {
        let all = conditions(b, status, around, Timestamp::UNIX_EPOCH);
        all.into_iter().map(|c| (c.kind, c.status == ConditionStatus::True, c.reason)).collect()
    }

    fn reason(b: &Broadcast, status: &BroadcastStatus, around: Surroundings, kind: &str) -> (bool, String) {
        let found = reasons(b, status, around).into_iter().find(|(k, ..)| k == kind).unwrap();
        (found.1, found.2)
    }

    #[test]
    fn an_idle_broadcast_in_a_serving_pool_is_ready() {
        let all = reasons(&broadcast(), &BroadcastStatus::default(), READY);
        let expected = [
            ("Accepted", true, "Valid"),
            ("Ready", true, "PoolReady"),
            ("Live", false, "Idle"),
            ("HooksDelivered", true, "AllDelivered"),
        ];
        assert_eq!(all, expected.map(|(k, s, r)| (k.to_owned(), s, r.to_owned())));
    }

    #[test]
    fn what_is_missing_is_named() {
        let status = BroadcastStatus::default();
        let with = |pool, key| reason(&broadcast(), &status, Surroundings { pool, key, recorded: None }, "Ready").1;
        assert_eq!(with(Pool::Absent, StreamKey::NotAsked), "PoolNotFound");
        assert_eq!(with(Pool::Empty, StreamKey::Known), "NoMediaNode");
        assert_eq!(with(Pool::Serving, StreamKey::Absent), "SecretNotFound");
        assert_eq!(with(Pool::Serving, StreamKey::Forbidden), "SecretForbidden");
    }

    #[test]
    fn what_was_said_of_a_pool_holds_until_more_is_known() {
        let unknown = Surroundings { pool: Pool::Unknown, key: StreamKey::NotAsked, recorded: None };
        let mut status = BroadcastStatus::default();
        let first = conditions(&broadcast(), &status, unknown.clone(), Timestamp::UNIX_EPOCH);
        assert!(first.iter().all(|condition| condition.kind != "Ready"), "{first:?}");

        status.conditions = conditions(&broadcast(), &status, READY, Timestamp::UNIX_EPOCH);
        status.observed_generation = Some(3);

        assert_eq!(patch(&broadcast(), &status, unknown, Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn b_frames_are_told_of_while_their_session_lasts() {
        let mut status = BroadcastStatus::default();
        status.session.frame_order = Some(FrameOrder::Reordered);
        status.session.state = SessionState::Open;
        assert_eq!(reason(&broadcast(), &status, READY, WEBRTC_PLAYABLE), (false, "ReorderedFrames".to_owned()));

        status.conditions = conditions(&broadcast(), &status, READY, Timestamp::UNIX_EPOCH);
        status.session.state = SessionState::Ended;
        let all = reasons(&broadcast(), &status, READY);
        assert!(all.iter().all(|(kind, ..)| kind != WEBRTC_PLAYABLE), "{all:?}");
    }

    fn event() -> tallylight_crds::Event {
        tallylight_crds::Event {
            sequence: 1,
            session: 1,
            action: tallylight_crds::Action::LiveStreamStarted,
            time: Timestamp::UNIX_EPOCH,
            reason: None,
            vod: None,
        }
    }

    #[test]
    fn a_full_ledger_takes_no_publisher() {
        let mut status = BroadcastStatus::default();
        status.hooks.pending = vec![event(); tallylight_crds::MAX_PENDING - 1];
        assert_eq!(reason(&broadcast(), &status, READY, "Ready"), (false, "LedgerFull".into()));
        status.hooks.pending.pop();
        assert!(reason(&broadcast(), &status, READY, "Ready").0);
    }

    #[test]
    fn an_invalid_spec_says_so() {
        let mut misnamed = broadcast();
        misnamed.spec.stream_id = Some("Other_Id".into());
        let status = BroadcastStatus::default();
        assert_eq!(reason(&misnamed, &status, READY, "Accepted"), (false, "StreamIDMismatch".into()));
        assert_eq!(reason(&misnamed, &status, READY, "Ready"), (false, "NotAccepted".into()));
        let mut bad_port = broadcast();
        bad_port.spec.listener_hook_url = Some("http://h:99999/".into());
        assert_eq!(reason(&bad_port, &status, READY, "Accepted"), (false, "InvalidListenerHookURL".into()));
    }

    #[test]
    fn a_publisher_that_is_away_is_told_from_one_on_air() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut status = BroadcastStatus { state: BroadcastState::Reconnecting, ..BroadcastStatus::default() };
        status.session.ordinal = 2;
        status.session.state = SessionState::Open;
        status.session.away = Some(tallylight_crds::Away {
            since: at(1_800_000_000),
            until: at(1_800_000_030),
            reason: tallylight_crds::Reason::NodeShutdown,
        });

        let found = conditions(&broadcast(), &status, READY, Timestamp::UNIX_EPOCH);

        let live = found.iter().find(|condition| condition.kind == "Live").unwrap();
        assert_eq!((live.status, live.reason.as_str()), (ConditionStatus::False, "Reconnecting"));
        assert_eq!(
            live.message,
            "the publisher is away since 2027-01-15T08:00:00Z (NodeShutdown); session 2 ends at 2027-01-15T08:00:30Z \
             unless it comes back"
        );
    }

    #[test]
    fn nothing_is_written_when_nothing_changes() {
        let b = broadcast();
        let mut status = BroadcastStatus::default();
        assert!(patch(&b, &status, READY, Timestamp::UNIX_EPOCH).is_some());
        status.conditions = conditions(&b, &status, READY, Timestamp::UNIX_EPOCH);
        status.observed_generation = Some(3);
        assert_eq!(patch(&b, &status, READY, Timestamp::from_second(99).unwrap()), None);
    }

    #[test]
    fn a_failing_lane_shows_in_hooks_delivered() {
        let mut status = BroadcastStatus::default();
        status.hooks.last_sequence = 1;
        status.hooks.pending.push(event());
        let lane = |state| {
            Some(Lane {
                state,
                attempts: 1,
                next_attempt_time: None,
                last_status: Some(503),
                last_error: Some("Status".into()),
                observed_generation: None,
            })
        };
        for (state, expected) in [(LaneState::Backoff, "Backoff"), (LaneState::Gone, "EndpointGone")] {
            status.hooks.lane = lane(state);
            assert_eq!(reason(&broadcast(), &status, READY, "HooksDelivered"), (false, expected.into()));
        }
    }
}
