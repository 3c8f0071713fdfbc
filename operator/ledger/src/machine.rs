//! Decides what a claim, an end and an acknowledgement do to a Broadcast's status, and which patch says so.
//!
//! A patch carries the `test`s that make it true only for the state it was decided on, and touches only what it must: an
//! append at the tail and an acknowledgement at the head commute. Knows nothing of stores, clocks or webhooks.

use jiff::Timestamp;
use json_patch::{Patch, PatchOperation, jsonptr::PointerBuf};
use serde::Serialize;
use serde_json::{Value, json};
use tallylight_crds::{
    Action, Announced, Away, BroadcastState, BroadcastStatus, Event, FrameOrder, Lane, LaneState, MAX_ANNOUNCED,
    MAX_PENDING, Protocol, Reason, Session, SessionState, Vod,
};

/// Room that a claim leaves in the ledger, so that the session's end always fits.
const ROOM_FOR_END: usize = 1;
/// Room that an event of a recording leaves: recordings that nobody hears of keep no publisher out.
const ROOM_FOR_SESSION: usize = 2;

/// Something that someone wants to happen to a Broadcast.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A node has the first media of a publisher.
    Claim(Claim),
    /// The owner of a session ends it.
    End { owner: Owner, reason: Reason, time: Timestamp },
    /// The operator ends a session whose owner cannot, and fences the owner off by a new epoch.
    Close { owner: Owner, reason: Reason, time: Timestamp },
    /// The publisher is away and awaited: the session stays open, and whoever owned it is fenced off by a new epoch. Asked for
    /// by the owner, or by the operator when the owner is lost.
    Park { owner: Owner, away: Away },
    /// The owner has seen in what order its publisher sends pictures.
    Note { owner: Owner, frames: FrameOrder },
    /// The operator tells of a recording that is done.
    Announce(Announce),
    /// The receiver has every event up to `through`, or they need no sending.
    Ack { through: i64, lane: Option<Lane> },
    /// A delivery failed, or a lane was stopped or woken.
    SetLane(Lane),
}

/// A node's wish to open a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// Random and unique: by it a claim whose reply was lost is found again.
    pub id: String,
    pub node: String,
    /// Where other nodes reach this one.
    pub address: Option<String>,
    pub protocol: Protocol,
    /// When the first media arrived.
    pub time: Timestamp,
}

/// What is told of a recording, once, whoever asks how often.
#[derive(Debug, Clone, PartialEq)]
pub struct Announce {
    /// `vodReady` or `vodFailed`.
    pub action: Action,
    pub vod: Vod,
    /// Ordinal of the session that was recorded.
    pub session: i64,
    pub time: Timestamp,
    /// Names in `announced` whose Recordings say themselves by now that they were told of: they are dropped.
    pub settled: Vec<String>,
}

/// The right to write one session: what a claim gives, and what a newer epoch takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
pub struct Owner {
    pub ordinal: i64,
    pub epoch: i64,
}

impl Owner {
    /// The owner of the session that a status shows.
    #[must_use]
    pub fn of(session: &Session) -> Self {
        Self { ordinal: session.ordinal, epoch: session.epoch }
    }

    /// Whoever comes after the owner of that session.
    fn raised(session: &Session) -> Self {
        Self { ordinal: session.ordinal, epoch: session.epoch + 1 }
    }
}

/// What an input does.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Commit this.
    Write(Box<Transition>),
    /// Commit this, and give the same input again: it has to wait for something that is overdue.
    First(Box<Transition>),
    /// The status already says so: the same input took effect before.
    Settled,
}

/// A decided change: the patch, and the status that it makes.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    pub patch: Patch,
    pub status: BroadcastStatus,
}

/// Why an input cannot have its effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("another publisher is on air")]
    OnAir { node: String },
    #[error("the ledger holds {MAX_PENDING} events that the receiver has not taken")]
    LedgerFull,
    #[error("the session belongs to a newer epoch")]
    Fenced,
    #[error("no event with that sequence was appended")]
    NotAppended,
    #[error("the session that was recorded has not begun")]
    NoSuchSession,
}

/// Decides what `input` does to a Broadcast in `status`.
///
/// # Errors
/// When it may not happen; the status stays as it is.
pub fn apply(status: &BroadcastStatus, input: &Input) -> Result<Step, Rejection> {
    match input {
        Input::Claim(claim) => open(status, claim),
        Input::End { owner, reason, time } => end(status, *owner, *reason, *time, Fence::Keep),
        Input::Close { owner, reason, time } => end(status, *owner, *reason, *time, Fence::Raise),
        Input::Park { owner, away } => park(status, *owner, away),
        Input::Note { owner, frames } => note(status, *owner, *frames),
        Input::Announce(announce) => tell(status, announce),
        Input::Ack { through, lane } => ack(status, *through, lane.as_ref()),
        Input::SetLane(lane) => Ok(set_lane(status, lane)),
    }
}

/// Whether a new session's start fits, and its end after it.
#[must_use]
pub fn has_room(status: &BroadcastStatus) -> bool {
    status.hooks.pending.len() + ROOM_FOR_END < MAX_PENDING
}

/// Whether an event of a recording fits, with room for the end of the session, and for another session, after it.
#[must_use]
pub fn has_room_for_recording(status: &BroadcastStatus) -> bool {
    status.hooks.pending.len() + ROOM_FOR_SESSION < MAX_PENDING
}

fn open(status: &BroadcastStatus, claim: &Claim) -> Result<Step, Rejection> {
    let old = &status.session;
    if old.id.as_deref() == Some(&claim.id) {
        return if old.state == SessionState::Open { Ok(Step::Settled) } else { Err(Rejection::Fenced) };
    }
    if old.state == SessionState::Open {
        return match &old.away {
            None => Err(Rejection::OnAir { node: old.node.clone().unwrap_or_default() }),
            Some(away) if claim.time < away.until => Ok(resume(status, claim)),
            // Nobody has ended it yet: it must not keep the publisher out.
            Some(away) => {
                let transition = ended(status, Owner::raised(old), away.reason, away.since);
                Ok(Step::First(Box::new(transition)))
            }
        };
    }
    if !has_room(status) {
        return Err(Rejection::LedgerFull);
    }
    let session = Session {
        ordinal: old.ordinal + 1,
        epoch: old.epoch + 1,
        state: SessionState::Open,
        id: Some(claim.id.clone()),
        node: Some(claim.node.clone()),
        address: claim.address.clone(),
        protocol: Some(claim.protocol),
        start_time: Some(claim.time),
        end_time: None,
        away: None,
        frame_order: None,
    };
    let event = Event {
        sequence: status.hooks.last_sequence + 1,
        session: session.ordinal,
        action: Action::LiveStreamStarted,
        time: claim.time,
        reason: None,
        vod: None,
    };
    Ok(Step::Write(Box::new(change_session(status, BroadcastState::Live, session, Some(event)))))
}

/// The publisher is back, at whatever node: it goes on with its session, and there is nothing to tell anybody.
fn resume(status: &BroadcastStatus, claim: &Claim) -> Step {
    let session = Session {
        epoch: status.session.epoch + 1,
        id: Some(claim.id.clone()),
        node: Some(claim.node.clone()),
        address: claim.address.clone(),
        protocol: Some(claim.protocol),
        away: None,
        // another encoder, for all that is known
        frame_order: None,
        ..status.session.clone()
    };
    Step::Write(Box::new(change_session(status, BroadcastState::Live, session, None)))
}

fn park(status: &BroadcastStatus, owner: Owner, away: &Away) -> Result<Step, Rejection> {
    let old = &status.session;
    let raised = Owner { epoch: owner.epoch + 1, ..owner };
    if old.away.is_some() && Owner::of(old) == raised {
        return Ok(Step::Settled);
    }
    if old.state == SessionState::Ended || old.away.is_some() || Owner::of(old) != owner {
        return Err(Rejection::Fenced);
    }
    // Clocks of two machines may differ: nobody leaves before the start, and the wait is as long as it was meant to be.
    let since = old.start_time.map_or(away.since, |start| away.since.max(start));
    let until = away.until.saturating_add(since.duration_since(away.since)).unwrap_or(since);
    let away = Away { since, until, reason: away.reason };
    let session = Session { epoch: raised.epoch, id: None, node: None, address: None, away: Some(away), ..old.clone() };
    Ok(Step::Write(Box::new(change_session(status, BroadcastState::Reconnecting, session, None))))
}

fn note(status: &BroadcastStatus, owner: Owner, frames: FrameOrder) -> Result<Step, Rejection> {
    let session = &status.session;
    if session.state == SessionState::Ended || session.away.is_some() || Owner::of(session) != owner {
        return Err(Rejection::Fenced);
    }
    if session.frame_order == Some(frames) {
        return Ok(Step::Settled);
    }
    let mut next = status.clone();
    let mut patch = PatchBuilder::default();
    patch.test("/status/session/epoch", &session.epoch);
    patch.test("/status/session/state", &session.state);
    patch.add("/status/session/frameOrder", &frames);
    next.session.frame_order = Some(frames);
    Ok(Step::Write(Box::new(Transition { patch: patch.build(), status: next })))
}

/// Whether an end takes the right to write away from the owner.
#[derive(Clone, Copy, PartialEq)]
enum Fence {
    Keep,
    Raise,
}

fn end(
    status: &BroadcastStatus,
    owner: Owner,
    reason: Reason,
    time: Timestamp,
    fence: Fence,
) -> Result<Step, Rejection> {
    let old = &status.session;
    let raised = Owner { epoch: owner.epoch + 1, ..owner };
    let ended_as = if fence == Fence::Raise { raised } else { owner };
    if old.state == SessionState::Ended && Owner::of(old) == ended_as {
        return Ok(Step::Settled);
    }
    let is_nobodys = old.away.is_some() && fence == Fence::Keep;
    if old.state == SessionState::Ended || is_nobodys || Owner::of(old) != owner {
        return Err(Rejection::Fenced);
    }
    Ok(Step::Write(Box::new(ended(status, ended_as, reason, time))))
}

fn ended(status: &BroadcastStatus, ended_as: Owner, reason: Reason, time: Timestamp) -> Transition {
    let old = &status.session;
    // Clocks of two machines may differ: an end is never before its start.
    let time = old.start_time.map_or(time, |start| time.max(start));
    // Whoever ends it: a publisher that is away was on air until it left.
    let time = old.away.as_ref().map_or(time, |away| away.since);
    let session =
        Session { state: SessionState::Ended, epoch: ended_as.epoch, end_time: Some(time), away: None, ..old.clone() };
    let event = Event {
        sequence: status.hooks.last_sequence + 1,
        session: session.ordinal,
        action: Action::LiveStreamEnded,
        time,
        reason: Some(reason),
        vod: None,
    };
    change_session(status, BroadcastState::Ended, session, Some(event))
}

fn change_session(
    status: &BroadcastStatus,
    state: BroadcastState,
    session: Session,
    event: Option<Event>,
) -> Transition {
    let mut next = status.clone();
    let mut patch = PatchBuilder::default();
    patch.test("/status/session/epoch", &status.session.epoch);
    patch.test("/status/session/state", &status.session.state);
    patch.test("/status/hooks/lastSequence", &status.hooks.last_sequence);
    if session.ordinal == status.session.ordinal {
        patch.change("/status/session", &status.session, &session);
    } else {
        patch.replace("/status/session", &session);
    }
    patch.replace("/status/state", &state);
    next.state = state;
    next.session = session;
    if let Some(event) = event {
        patch.replace("/status/hooks/lastSequence", &event.sequence);
        patch.add("/status/hooks/pending/-", &event);
        next.hooks.last_sequence = event.sequence;
        next.hooks.pending.push(event);
    }
    Transition { patch: patch.build(), status: next }
}

fn tell(status: &BroadcastStatus, announce: &Announce) -> Result<Step, Rejection> {
    let Announce { action, vod, session, time, settled } = announce;
    let hooks = &status.hooks;
    if hooks.announced.iter().any(|known| known.recording == vod.id) {
        return Ok(Step::Settled);
    }
    if *session > status.session.ordinal {
        return Err(Rejection::NoSuchSession);
    }
    let mut announced: Vec<Announced> =
        hooks.announced.iter().filter(|known| !settled.contains(&known.recording)).cloned().collect();
    if !has_room_for_recording(status) || announced.len() >= MAX_ANNOUNCED {
        return Err(Rejection::LedgerFull);
    }
    let event = Event {
        sequence: hooks.last_sequence + 1,
        session: *session,
        action: *action,
        time: *time,
        reason: None,
        vod: Some(vod.clone()),
    };
    announced.push(Announced { recording: vod.id.clone(), sequence: event.sequence });
    let mut next = status.clone();
    let mut patch = PatchBuilder::default();
    // Each event of a recording moves it, so the names that were told of are the known ones, too.
    patch.test("/status/hooks/lastSequence", &hooks.last_sequence);
    patch.replace("/status/hooks/lastSequence", &event.sequence);
    patch.add("/status/hooks/announced", &announced);
    patch.add("/status/hooks/pending/-", &event);
    next.hooks.last_sequence = event.sequence;
    next.hooks.announced = announced;
    next.hooks.pending.push(event);
    Ok(Step::Write(Box::new(Transition { patch: patch.build(), status: next })))
}

fn ack(status: &BroadcastStatus, through: i64, lane: Option<&Lane>) -> Result<Step, Rejection> {
    let hooks = &status.hooks;
    if through > hooks.last_sequence {
        return Err(Rejection::NotAppended);
    }
    if through <= hooks.acked_sequence {
        return Ok(lane.map_or(Step::Settled, |lane| set_lane(status, lane)));
    }
    let mut next = status.clone();
    let mut patch = PatchBuilder::default();
    patch.test("/status/hooks/ackedSequence", &hooks.acked_sequence);
    let settled = hooks.pending.iter().take_while(|event| event.sequence <= through).count();
    if let Some(first) = hooks.pending.first().filter(|_| settled > 0) {
        patch.test("/status/hooks/pending/0/sequence", &first.sequence);
    }
    patch.replace("/status/hooks/ackedSequence", &through);
    for _ in 0..settled {
        patch.remove("/status/hooks/pending/0");
    }
    next.hooks.acked_sequence = through;
    next.hooks.pending.drain(..settled);
    if let Some(lane) = lane.filter(|lane| changes_lane(hooks.lane.as_ref(), lane)) {
        patch.set_lane(hooks.lane.as_ref(), lane);
        next.hooks.lane = Some(lane.clone());
    }
    Ok(Step::Write(Box::new(Transition { patch: patch.build(), status: next })))
}

fn set_lane(status: &BroadcastStatus, lane: &Lane) -> Step {
    if !changes_lane(status.hooks.lane.as_ref(), lane) {
        return Step::Settled;
    }
    let mut next = status.clone();
    let mut patch = PatchBuilder::default();
    // A lane's state speaks of the first pending event: it must still be that one.
    patch.test("/status/hooks/ackedSequence", &status.hooks.acked_sequence);
    patch.set_lane(status.hooks.lane.as_ref(), lane);
    next.hooks.lane = Some(lane.clone());
    Step::Write(Box::new(Transition { patch: patch.build(), status: next }))
}

/// The `test`s that hold only while session and cursors are as in `status`: a guard for what is said about them.
#[must_use]
pub fn unchanged(status: &BroadcastStatus) -> Patch {
    let mut patch = PatchBuilder::default();
    patch.test("/status/session/epoch", &status.session.epoch);
    patch.test("/status/session/state", &status.session.state);
    patch.test("/status/hooks/lastSequence", &status.hooks.last_sequence);
    patch.test("/status/hooks/ackedSequence", &status.hooks.acked_sequence);
    patch.build()
}

/// A lane that never had a failure is not written down as idle.
fn changes_lane(old: Option<&Lane>, new: &Lane) -> bool {
    match old {
        Some(old) => old != new,
        None => new.state != LaneState::Idle,
    }
}

/// Builds a JSON Patch (RFC 6902) of paths that are known to parse and values that are plain data.
#[derive(Default)]
pub(crate) struct PatchBuilder(Vec<PatchOperation>);

impl PatchBuilder {
    pub(crate) fn test<T: Serialize>(&mut self, path: &'static str, value: &T) {
        let (path, value) = (pointer(path), plain(value));
        self.0.push(PatchOperation::Test(json_patch::TestOperation { path, value }));
    }

    fn add<T: Serialize>(&mut self, path: &'static str, value: &T) {
        let (path, value) = (pointer(path), plain(value));
        self.0.push(PatchOperation::Add(json_patch::AddOperation { path, value }));
    }

    fn replace<T: Serialize>(&mut self, path: &'static str, value: &T) {
        let (path, value) = (pointer(path), plain(value));
        self.0.push(PatchOperation::Replace(json_patch::ReplaceOperation { path, value }));
    }

    /// Writes the members of an object that differ, and no others: a newer version may have added some.
    fn change<T: Serialize>(&mut self, path: &'static str, old: &T, new: &T) {
        let (Value::Object(old), Value::Object(new)) = (plain(old), plain(new)) else { return };
        let place = |member: &String| {
            let mut path = pointer(path);
            path.push_back(member);
            path
        };
        for member in old.keys().filter(|member| !new.contains_key(*member)) {
            self.0.push(PatchOperation::Remove(json_patch::RemoveOperation { path: place(member) }));
        }
        for (member, value) in new.iter().filter(|(member, value)| old.get(*member) != Some(value)) {
            let (path, value) = (place(member), value.clone());
            self.0.push(PatchOperation::Add(json_patch::AddOperation { path, value }));
        }
    }

    fn set_lane(&mut self, old: Option<&Lane>, new: &Lane) {
        match old {
            Some(old) => self.change("/status/hooks/lane", old, new),
            None => self.add("/status/hooks/lane", new),
        }
    }

    pub(crate) fn remove(&mut self, path: &'static str) {
        self.0.push(PatchOperation::Remove(json_patch::RemoveOperation { path: pointer(path) }));
    }

    pub(crate) fn build(self) -> Patch {
        Patch(self.0)
    }
}

fn pointer(path: &'static str) -> PointerBuf {
    PointerBuf::parse(path).expect("paths here are literals that start with a slash")
}

fn plain<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_else(|error| json!(error.to_string()))
}

#[cfg(test)]
mod tests;
