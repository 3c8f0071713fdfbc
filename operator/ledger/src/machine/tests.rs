use proptest::prelude::*;
use serde_json::Value;
use tallylight_crds::HooksStatus;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn claim(id: &str, node: &str, second: i64) -> Input {
    Input::Claim(Claim { id: id.into(), node: node.into(), address: None, protocol: Protocol::Rtmp, time: at(second) })
}

fn written(status: &BroadcastStatus, input: &Input) -> BroadcastStatus {
    match apply(status, input) {
        Ok(Step::Write(transition)) => transition.status,
        other => panic!("{input:?} is not written: {other:?}"),
    }
}

fn live() -> BroadcastStatus {
    written(&BroadcastStatus::default(), &claim("a", "node-1", 0))
}

fn end(status: &BroadcastStatus, second: i64) -> Input {
    Input::End { owner: Owner::of(&status.session), reason: Reason::PublisherClosed, time: at(second) }
}

fn close(status: &BroadcastStatus, second: i64) -> Input {
    Input::Close { owner: Owner::of(&status.session), reason: Reason::NodeLost, time: at(second) }
}

/// Lost at `second`, awaited for 30 s.
fn away(second: i64) -> Away {
    Away { since: at(second), until: at(second + 30), reason: Reason::PublisherLost }
}

fn park(status: &BroadcastStatus, second: i64) -> Input {
    Input::Park { owner: Owner::of(&status.session), away: away(second) }
}

#[test]
fn a_claim_opens_a_session_and_appends_its_start_in_one_patch() {
    let status = live();
    assert_eq!(status.state, BroadcastState::Live);
    assert_eq!((status.session.ordinal, status.session.epoch), (1, 1));
    let events: Vec<_> = status.hooks.pending.iter().map(|e| (e.sequence, e.session, e.action)).collect();
    assert_eq!(events, [(1, 1, Action::LiveStreamStarted)]);
    assert_eq!(status.hooks.last_sequence, 1);
}

#[test]
fn a_second_publisher_is_refused_while_the_first_is_live() {
    let refused = apply(&live(), &claim("b", "node-2", 1));
    assert_eq!(refused, Err(Rejection::OnAir { node: "node-1".into() }));
}

#[test]
fn a_claim_whose_reply_was_lost_is_found_again() {
    assert_eq!(apply(&live(), &claim("a", "node-1", 0)), Ok(Step::Settled));
}

#[test]
fn a_claim_that_was_closed_meanwhile_is_not_taken_for_open() {
    let closed = written(&live(), &close(&live(), 5));
    assert_eq!(apply(&closed, &claim("a", "node-1", 0)), Err(Rejection::Fenced));
}

#[test]
fn an_end_is_written_once_whoever_asks_again() {
    let ended = written(&live(), &end(&live(), 9));
    assert_eq!(ended.state, BroadcastState::Ended);
    assert_eq!(ended.hooks.pending[1].reason, Some(Reason::PublisherClosed));
    assert_eq!(apply(&ended, &end(&live(), 9)), Ok(Step::Settled));
}

#[test]
fn what_a_newer_version_added_outlives_every_write_about_it() {
    let parked = written(&live(), &park(&live(), 5));
    let waiting = |attempts| Lane {
        state: LaneState::Backoff,
        attempts,
        next_attempt_time: None,
        last_status: None,
        last_error: None,
        observed_generation: None,
    };
    let failing = written(&live(), &Input::SetLane(waiting(1)));
    for (status, input) in [
        (live(), end(&live(), 9)),
        (live(), close(&live(), 9)),
        (live(), park(&live(), 5)),
        (parked.clone(), claim("b", "node-2", 6)),
        (parked.clone(), close(&parked, 60)),
        (failing.clone(), Input::SetLane(waiting(2))),
        (failing, Input::Ack { through: 1, lane: Some(waiting(0)) }),
    ] {
        let mut newer = json!({"status": status});
        newer["status"]["session"]["newer"] = json!("kept");
        if status.hooks.lane.is_some() {
            newer["status"]["hooks"]["lane"]["newer"] = json!("kept");
        }
        let Ok(Step::Write(transition)) = apply(&status, &input) else { panic!("{input:?}") };

        json_patch::patch(&mut newer, &transition.patch).unwrap();

        assert_eq!(newer["status"]["session"]["newer"], "kept", "{input:?}");
        assert!(status.hooks.lane.is_none() || newer["status"]["hooks"]["lane"]["newer"] == "kept", "{input:?}");
    }
}

#[test]
fn a_node_whose_session_was_closed_is_fenced() {
    let closed = written(&live(), &close(&live(), 5));
    assert_eq!(closed.session.epoch, 2);
    assert_eq!(apply(&closed, &end(&live(), 6)), Err(Rejection::Fenced));
    assert_eq!(apply(&closed, &close(&live(), 6)), Ok(Step::Settled));
    let next = written(&closed, &claim("b", "node-1", 7));
    assert_eq!((next.session.ordinal, next.session.epoch), (2, 3));
}

#[test]
fn an_end_is_never_before_its_start() {
    let started = written(&BroadcastStatus::default(), &claim("a", "node-1", 100));
    let ended = written(&started, &close(&started, 40));
    assert_eq!(ended.session.end_time, Some(at(100)));
}

#[test]
fn a_publisher_that_is_away_leaves_an_open_session_to_nobody() {
    let parked = written(&live(), &park(&live(), 9));
    assert_eq!(parked.state, BroadcastState::Reconnecting);
    let expected = Session { epoch: 2, id: None, node: None, address: None, away: Some(away(9)), ..live().session };
    assert_eq!(parked.session, expected);
    assert_eq!(parked.hooks, live().hooks, "nobody is told");
    assert_eq!(apply(&parked, &park(&live(), 9)), Ok(Step::Settled), "the same again");
    assert_eq!(apply(&parked, &end(&live(), 10)), Err(Rejection::Fenced), "whoever had it has it no more");
    assert_eq!(apply(&parked, &end(&parked, 10)), Err(Rejection::Fenced), "and nobody else has it");
    assert_eq!(apply(&parked, &park(&parked, 10)), Err(Rejection::Fenced), "it waits no longer than was said");
}

#[test]
fn a_publisher_that_comes_back_in_time_goes_on_with_its_session() {
    let parked = written(&live(), &park(&live(), 9));
    let back = written(&parked, &claim("b", "node-2", 38));
    assert_eq!(back.state, BroadcastState::Live);
    let expected = Session { epoch: 3, id: Some("b".into()), node: Some("node-2".into()), ..live().session };
    assert_eq!(back.session, expected);
    assert_eq!(back.hooks, live().hooks, "no start and no end");
    assert_eq!(apply(&back, &claim("b", "node-2", 38)), Ok(Step::Settled));
    assert_eq!(apply(&back, &park(&live(), 9)), Err(Rejection::Fenced), "the node that lost it does not take it away");
    assert_eq!(apply(&back, &close(&parked, 39)), Err(Rejection::Fenced), "nor whoever waited for it to be overdue");
}

fn reordered(status: &BroadcastStatus) -> Input {
    Input::Note { owner: Owner::of(&status.session), frames: FrameOrder::Reordered }
}

#[test]
fn what_is_noted_of_a_publisher_is_its_own_and_not_of_the_next() {
    let noted = written(&live(), &reordered(&live()));
    assert_eq!(noted.session, Session { frame_order: Some(FrameOrder::Reordered), ..live().session });
    assert_eq!(noted.hooks, live().hooks, "nobody is told");
    assert_eq!(apply(&noted, &reordered(&live())), Ok(Step::Settled), "the same again");

    let parked = written(&noted, &park(&noted, 9));
    assert_eq!(parked.session.frame_order, Some(FrameOrder::Reordered));
    assert_eq!(apply(&parked, &reordered(&live())), Err(Rejection::Fenced), "whoever had it has it no more");
    assert_eq!(apply(&parked, &reordered(&parked)), Err(Rejection::Fenced), "and nobody else has it");
    let back = written(&parked, &claim("b", "node-2", 38));
    assert_eq!(back.session.frame_order, None);
    let ended = written(&noted, &end(&noted, 9));
    assert_eq!(apply(&ended, &reordered(&noted)), Err(Rejection::Fenced));
    assert_eq!(written(&ended, &claim("c", "node-1", 50)).session.frame_order, None);
}

#[test]
fn a_publisher_that_does_not_come_back_was_on_air_until_it_left() {
    let parked = written(&live(), &park(&live(), 9));
    let Input::Close { owner, .. } = close(&parked, 39) else { unreachable!() };
    let ended = written(&parked, &Input::Close { owner, reason: away(9).reason, time: at(45) });
    assert_eq!((ended.session.end_time, ended.session.away), (Some(at(9)), None));
    assert_eq!((ended.hooks.pending[1].time, ended.hooks.pending[1].reason), (at(9), Some(Reason::PublisherLost)));
}

#[test]
fn a_claim_that_comes_too_late_ends_the_session_first_and_opens_the_next() {
    let parked = written(&live(), &park(&live(), 9));
    let late = claim("b", "node-2", 39);
    let Ok(Step::First(first)) = apply(&parked, &late) else { panic!("the old session is in the way") };
    assert_eq!(first.status.session.end_time, Some(at(9)));
    assert_eq!(first.status.hooks.pending[1].reason, Some(Reason::PublisherLost));
    let next = written(&first.status, &late);
    assert_eq!((next.session.ordinal, next.session.start_time), (2, Some(at(39))));
    assert_eq!(
        next.hooks.pending.iter().map(|e| (e.sequence, e.session)).collect::<Vec<_>>(),
        [(1, 1), (2, 1), (3, 2)]
    );
}

#[test]
fn a_claim_whose_session_was_parked_before_its_reply_came_takes_it_again() {
    let parked = written(&live(), &park(&live(), 1));
    assert_eq!(written(&parked, &claim("a", "node-1", 0)).session.epoch, 3);
}

#[test]
fn nobody_leaves_before_the_start_and_the_wait_is_as_long_as_it_was() {
    let started = written(&BroadcastStatus::default(), &claim("a", "node-1", 100));
    let parked = written(&started, &park(&started, 40));
    let away = parked.session.away.unwrap();
    assert_eq!((away.since, away.until), (at(100), at(130)));
}

#[test]
fn an_ack_takes_the_events_away_and_only_those() {
    let ended = written(&live(), &end(&live(), 9));
    let acked = written(&ended, &Input::Ack { through: 1, lane: None });
    assert_eq!(acked.hooks.acked_sequence, 1);
    assert_eq!(acked.hooks.pending.iter().map(|e| e.sequence).collect::<Vec<_>>(), [2]);
    assert_eq!(apply(&acked, &Input::Ack { through: 1, lane: None }), Ok(Step::Settled));
    assert_eq!(apply(&acked, &Input::Ack { through: 3, lane: None }), Err(Rejection::NotAppended));
}

#[test]
fn a_lane_that_never_failed_is_not_written_down() {
    let idle = Lane {
        state: LaneState::Idle,
        attempts: 0,
        next_attempt_time: None,
        last_status: None,
        last_error: None,
        observed_generation: None,
    };
    assert_eq!(apply(&live(), &Input::SetLane(idle.clone())), Ok(Step::Settled));
    let failing = Lane { state: LaneState::Backoff, attempts: 1, ..idle.clone() };
    let backoff = written(&live(), &Input::SetLane(failing));
    assert_eq!(written(&backoff, &Input::SetLane(idle.clone())).hooks.lane, Some(idle));
}

fn announcing(recording: usize, session: i64, settled: &[usize]) -> Input {
    let name = |at: &usize| format!("rec-{at}");
    Input::Announce(Announce {
        action: Action::VodReady,
        vod: Vod { id: name(&recording), name: "x.mp4".into(), duration_milliseconds: Some(1) },
        session,
        time: at(20),
        settled: settled.iter().map(name).collect(),
    })
}

#[test]
fn a_recording_is_told_of_once_however_often_and_in_whatever_state_of_the_session() {
    let told = written(&live(), &announcing(1, 1, &[]));
    assert_eq!((told.hooks.last_sequence, told.hooks.pending[1].action), (2, Action::VodReady));
    assert_eq!(told.hooks.announced, [Announced { recording: "rec-1".into(), sequence: 2 }]);
    assert_eq!(apply(&told, &announcing(1, 1, &[])), Ok(Step::Settled));
    let ended = written(&told, &end(&told, 30));
    let acked = written(&ended, &Input::Ack { through: 3, lane: None });
    assert_eq!(apply(&acked, &announcing(1, 1, &[])), Ok(Step::Settled), "also when the receiver has it");

    let next = written(&acked, &announcing(2, 1, &[1]));

    assert_eq!(next.hooks.announced, [Announced { recording: "rec-2".into(), sequence: 4 }], "one that is noted goes");
    assert_eq!(apply(&live(), &announcing(1, 2, &[])), Err(Rejection::NoSuchSession));
}

#[test]
fn recordings_leave_room_for_a_start_and_its_end_and_the_list_of_them_is_bounded() {
    let mut status = written(&live(), &end(&live(), 1));
    let mut recording = 0;
    let refusal = loop {
        recording += 1;
        match apply(&status, &announcing(recording, 1, &[recording - 1])) {
            Ok(Step::Write(transition)) => status = transition.status,
            other => break other,
        }
    };
    assert_eq!(refusal, Err(Rejection::LedgerFull));
    let next = written(&status, &claim("b", "node-1", 90));
    assert_eq!(written(&next, &end(&next, 95)).hooks.pending.len(), MAX_PENDING);

    let full = (0..MAX_ANNOUNCED).fold(live(), |status, at| written(&status, &announcing(at, 1, &[])));
    assert_eq!(apply(&full, &announcing(99, 1, &[])), Err(Rejection::LedgerFull), "none has noted its event");
    assert!(matches!(apply(&full, &announcing(99, 1, &[3])), Ok(Step::Write(_))));
}

#[test]
fn a_full_ledger_refuses_a_start_but_has_room_for_every_end() {
    let mut status = BroadcastStatus::default();
    let mut second = 0;
    let refusal = loop {
        second += 1;
        match apply(&status, &claim(&second.to_string(), "n", second)) {
            Ok(Step::Write(transition)) => status = transition.status,
            other => break other,
        }
        status = written(&status, &end(&status, second));
    };
    assert_eq!(refusal, Err(Rejection::LedgerFull));
    assert_eq!(status.hooks.pending.len(), MAX_PENDING);

    // the receiver takes a start: there is room for one event, but a session makes two
    let odd = written(&status, &Input::Ack { through: 1, lane: None });
    assert_eq!(apply(&odd, &claim("odd", "n", second)), Err(Rejection::LedgerFull));

    let room = written(&odd, &Input::Ack { through: 2, lane: None });
    let last = written(&room, &claim("last", "n", second));
    assert_eq!(written(&last, &end(&last, second)).hooks.pending.len(), MAX_PENDING);
}

// --- Any interleaving of nodes, operators, lost replies and crashes.

#[derive(Debug, Clone)]
enum Move {
    /// Reads the Broadcast.
    Read {
        actor: usize,
    },
    Claim {
        actor: usize,
    },
    /// Claims without hearing the answer, and asks again.
    ClaimTwice {
        actor: usize,
    },
    End {
        actor: usize,
    },
    EndTwice {
        actor: usize,
    },
    /// The node is gone: the operator closes whatever it has read to be open.
    Close {
        actor: usize,
    },
    /// The operator lets whatever it has read to be open wait for its publisher.
    Park {
        actor: usize,
    },
    /// The owner does.
    Leave {
        actor: usize,
    },
    Wait {
        seconds: i64,
    },
    Ack {
        actor: usize,
        events: usize,
    },
    /// Forgets the session that it owned.
    Crash {
        actor: usize,
    },
    /// Reads all recordings, after whatever it has read of the Broadcast.
    Look {
        actor: usize,
    },
    /// Tells of a recording that has noted nothing, as far as the actor has seen.
    Announce {
        actor: usize,
        recording: usize,
    },
    /// Lets a recording note its event.
    Note {
        actor: usize,
        recording: usize,
    },
}

/// Recordings that are done, whoever made them.
const RECORDINGS: usize = 3;

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let actor = 0..4_usize;
    let one = prop_oneof![
        3 => actor.clone().prop_map(|actor| Move::Read { actor }),
        3 => actor.clone().prop_map(|actor| Move::Claim { actor }),
        1 => actor.clone().prop_map(|actor| Move::ClaimTwice { actor }),
        3 => actor.clone().prop_map(|actor| Move::End { actor }),
        1 => actor.clone().prop_map(|actor| Move::EndTwice { actor }),
        2 => actor.clone().prop_map(|actor| Move::Close { actor }),
        2 => actor.clone().prop_map(|actor| Move::Park { actor }),
        3 => actor.clone().prop_map(|actor| Move::Leave { actor }),
        1 => (0..40_i64).prop_map(|seconds| Move::Wait { seconds }),
        4 => (actor.clone(), 1..4_usize).prop_map(|(actor, events)| Move::Ack { actor, events }),
        1 => actor.clone().prop_map(|actor| Move::Crash { actor }),
        2 => actor.clone().prop_map(|actor| Move::Look { actor }),
        4 => (actor.clone(), 0..RECORDINGS).prop_map(|(actor, recording)| Move::Announce { actor, recording }),
        4 => (actor, 0..RECORDINGS).prop_map(|(actor, recording)| Move::Note { actor, recording }),
    ];
    prop::collection::vec(one, 1..120)
}

/// The store: JSON under patches, as both stores have it, and the law that CEL is in a cluster.
struct World {
    object: Value,
    reads: Vec<BroadcastStatus>,
    /// The events that recordings have noted.
    noted: [Option<i64>; RECORDINGS],
    /// Which recordings had noted one when the actor looked, since its last reading of the Broadcast.
    looks: Vec<Option<[bool; RECORDINGS]>>,
    owned: Vec<Option<Owner>>,
    log: Vec<Event>,
    acked: Vec<i64>,
    claims: u32,
    now: i64,
    /// Sessions that went on after their publisher was away.
    resumed: u32,
}

impl World {
    fn new() -> Self {
        let status = BroadcastStatus::default();
        let object = json!({"status": serde_json::to_value(&status).unwrap()});
        Self {
            object,
            reads: vec![status; 4],
            noted: [None; RECORDINGS],
            looks: vec![None; 4],
            owned: vec![None; 4],
            log: vec![],
            acked: vec![],
            claims: 0,
            now: 0,
            resumed: 0,
        }
    }

    fn status(&self) -> BroadcastStatus {
        serde_json::from_value(self.object["status"].clone()).unwrap()
    }

    fn read(&mut self, actor: usize) {
        self.reads[actor] = self.status();
        self.looks[actor] = None;
    }

    /// Decides on what the actor has read, and sends the patch; says whether the effect is there.
    fn send(&mut self, actor: usize, input: &Input) -> bool {
        let Ok(step) = apply(&self.reads[actor], input) else { return false };
        let (transition, again) = match step {
            Step::Settled => return true,
            Step::Write(transition) => (transition, false),
            Step::First(transition) => (transition, true),
        };
        let before = self.status();
        let mut object = self.object.clone();
        if json_patch::patch(&mut object, &transition.patch).is_err() {
            return false;
        }
        self.object = object;
        let after = self.status();
        assert_lawful(&before, &after);
        if before == self.reads[actor] {
            assert_eq!(after, transition.status, "the patch makes the status that was announced");
        }
        let new = after.hooks.pending.iter().filter(|e| e.sequence > before.hooks.last_sequence);
        self.log.extend(new.cloned());
        self.acked.extend(before.hooks.acked_sequence + 1..=after.hooks.acked_sequence);
        self.resumed += u32::from(before.session.away.is_some() && after.state == BroadcastState::Live);
        if again {
            self.reads[actor] = after;
            self.looks[actor] = None;
            return self.send(actor, input);
        }
        true
    }

    fn play(&mut self, step: &Move) {
        match *step {
            Move::Read { actor } => self.read(actor),
            Move::Claim { actor } => self.claim(actor, false),
            Move::ClaimTwice { actor } => self.claim(actor, true),
            Move::End { actor } => self.end(actor, false),
            Move::EndTwice { actor } => self.end(actor, true),
            Move::Close { actor } => {
                let input = close(&self.reads[actor], self.now);
                self.send(actor, &input);
            }
            Move::Park { actor } => {
                let input = park(&self.reads[actor], self.now);
                self.send(actor, &input);
            }
            Move::Leave { actor } => self.leave(actor),
            Move::Wait { seconds } => self.now += seconds,
            Move::Ack { actor, events } => {
                let through = self.reads[actor].hooks.pending.iter().map(|e| e.sequence).take(events).max();
                if let Some(through) = through {
                    self.send(actor, &Input::Ack { through, lane: None });
                }
            }
            Move::Crash { actor } => self.owned[actor] = None,
            Move::Look { actor } => self.looks[actor] = Some(self.noted.map(|noted| noted.is_some())),
            Move::Announce { actor, recording } => self.announce(actor, recording),
            Move::Note { actor, recording } => {
                let name = format!("rec-{recording}");
                let known = self.reads[actor].hooks.announced.iter().find(|known| known.recording == name);
                if let Some(sequence) = known.map(|known| known.sequence) {
                    assert!(self.noted[recording].is_none_or(|noted| noted == sequence), "one event a recording");
                    self.noted[recording] = Some(sequence);
                }
            }
        }
    }

    fn announce(&mut self, actor: usize, recording: usize) {
        let looked = *self.looks[actor].get_or_insert_with(|| self.noted.map(|noted| noted.is_some()));
        if !looked[recording] {
            let settled: Vec<usize> = (0..RECORDINGS).filter(|at| looked[*at]).collect();
            self.send(actor, &announcing(recording, 1, &settled));
        }
    }

    fn claim(&mut self, actor: usize, twice: bool) {
        self.claims += 1;
        let input = claim(&format!("claim-{}", self.claims), &format!("node-{actor}"), self.now);
        let mut done = self.send(actor, &input);
        if twice {
            self.read(actor);
            let again = self.send(actor, &input);
            assert!(again || !done, "a claim that took effect is found again");
            done = again;
        }
        if done {
            self.owned[actor] = Some(Owner::of(&self.status().session));
        }
    }

    fn end(&mut self, actor: usize, twice: bool) {
        let Some(owner) = self.owned[actor] else { return };
        self.read(actor);
        let stale = Owner::of(&self.status().session) != owner;
        let input = Input::End { owner, reason: Reason::PublisherLost, time: at(self.now) };
        let before = self.log.len();
        let done = self.send(actor, &input);
        if twice {
            self.read(actor);
            assert_eq!(self.send(actor, &input), done);
        }
        assert!(!(stale && self.log.len() > before), "a stale epoch never writes");
    }

    fn leave(&mut self, actor: usize) {
        let Some(owner) = self.owned[actor] else { return };
        self.read(actor);
        let (before, stale) = (self.status(), Owner::of(&self.status().session) != owner);
        let done = self.send(actor, &Input::Park { owner, away: away(self.now) });
        assert!(!stale || self.status() == before, "a stale epoch never writes");
        if done {
            self.owned[actor] = None;
        }
    }
}

/// The CRD's rules, in Rust.
fn assert_lawful(old: &BroadcastStatus, new: &BroadcastStatus) {
    let (o, n): (&HooksStatus, &HooksStatus) = (&old.hooks, &new.hooks);
    assert!(n.last_sequence >= o.last_sequence && n.acked_sequence >= o.acked_sequence);
    assert!(n.acked_sequence <= o.last_sequence, "only what was in the log is acknowledged");
    let expected: Vec<i64> = (n.acked_sequence + 1..=n.last_sequence).collect();
    assert_eq!(n.pending.iter().map(|e| e.sequence).collect::<Vec<_>>(), expected, "no gap");
    for event in o.pending.iter().filter(|e| e.sequence > n.acked_sequence) {
        assert!(n.pending.contains(event), "a pending event stays as it is");
    }
    assert!(new.session.epoch >= old.session.epoch && new.session.ordinal >= old.session.ordinal);
    let is_open = new.session.state == SessionState::Open;
    assert_eq!(is_open, matches!(new.state, BroadcastState::Live | BroadcastState::Reconnecting));
    assert_eq!(new.session.away.is_some(), new.state == BroadcastState::Reconnecting);
    assert!(new.session.away.is_none() || new.session.node.is_none() && new.session.id.is_none(), "it is nobody's");
    assert!(new.session.away == old.session.away || new.session.epoch > old.session.epoch, "a fence");
    if let (Some(away), false) = (&old.session.away, is_open) {
        assert_eq!(new.session.end_time, Some(away.since), "on air until it left");
    }
    let same = new.session.ordinal == old.session.ordinal;
    assert!(!same || new.session.start_time == old.session.start_time, "a session starts once");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_inputs_keeps_starts_and_ends_alternating_and_acknowledges_each_event_once(moves in moves()) {
        let mut world = World::new();
        for step in &moves {
            world.play(step);
        }
        for (at, event) in world.log.iter().enumerate() {
            prop_assert_eq!(event.sequence, i64::try_from(at).unwrap() + 1, "sequences have no gap");
        }
        let (vods, sessions): (Vec<&Event>, Vec<&Event>) = world.log.iter().partition(|event| event.vod.is_some());
        let mut told: Vec<_> = vods.iter().map(|event| &event.vod.as_ref().unwrap().id).collect();
        told.sort();
        told.dedup();
        prop_assert_eq!(told.len(), vods.len(), "a recording is told of once");
        for (at, event) in sessions.into_iter().enumerate() {
            let action = if at % 2 == 0 { Action::LiveStreamStarted } else { Action::LiveStreamEnded };
            prop_assert_eq!(event.action, action, "starts and ends alternate");
            prop_assert_eq!(event.session, i64::try_from(at / 2).unwrap() + 1, "an end belongs to the start before it");
        }
        let sessions = world.log.iter().filter(|event| event.action == Action::LiveStreamStarted).count();
        prop_assert_eq!(world.status().session.ordinal, i64::try_from(sessions).unwrap(), "who resumes is no start");
        let expected: Vec<i64> = (1..=world.status().hooks.acked_sequence).collect();
        prop_assert_eq!(&world.acked, &expected, "each event is acknowledged exactly once, in order");
    }

    #[test]
    fn an_event_has_the_same_id_however_often_it_is_derived(
        uid in "[0-9a-f-]{36}", session in 1..1000_i64, sequence in 1..1000_i64, second in 0..1_000_000_i64,
    ) {
        let event = |time| Event { sequence, session, action: Action::LiveStreamStarted, time, reason: None, vod: None };
        let id = crate::event_id(&uid, &event(at(second)));
        prop_assert_eq!(id, crate::event_id(&uid, &event(at(0))), "the time is no part of it");
        prop_assert_eq!(id.get_version_num(), 5);
        let ended = Event { action: Action::LiveStreamEnded, ..event(at(0)) };
        prop_assert_ne!(id, crate::event_id(&uid, &ended));
    }
}
