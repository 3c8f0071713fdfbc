use std::collections::BTreeSet;

use jiff::{SignedDuration, ToSpan};
use ledger::{Step, apply};
use proptest::prelude::*;
use tallylight_crds::{Action, BroadcastSpec, BroadcastStatus};

use super::*;
use crate::verdict::Failure;

const OK: Outcome = Outcome::Answered { status: 200, retry_after: None };
const BUSY: Outcome = Outcome::Answered { status: 503, retry_after: None };
const GONE: Outcome = Outcome::Answered { status: 410, retry_after: None };

fn t0() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// A Broadcast with that many pending events.
fn broadcast(pending: i64) -> Broadcast {
    let mut broadcast = Broadcast::new("studio", BroadcastSpec::default());
    broadcast.metadata.uid = Some("u".into());
    broadcast.metadata.generation = Some(1);
    broadcast.status = Some(BroadcastStatus::default());
    for _ in 0..pending {
        append(&mut broadcast);
    }
    broadcast
}

fn status(broadcast: &mut Broadcast) -> &mut BroadcastStatus {
    broadcast.status.as_mut().unwrap()
}

fn append(broadcast: &mut Broadcast) {
    let hooks = &mut status(broadcast).hooks;
    hooks.last_sequence += 1;
    hooks.pending.push(Event {
        sequence: hooks.last_sequence,
        session: 1,
        action: Action::LiveStreamStarted,
        time: t0(),
        reason: None,
        vod: None,
    });
}

/// Does to the stored status what the lane wants written.
fn write(broadcast: &mut Broadcast, input: &Input) {
    if let Step::Write(transition) = apply(&broadcast.status_or_default(), input).unwrap() {
        broadcast.status = Some(transition.status);
    }
}

fn save(lane: &mut Lane, broadcast: &mut Broadcast) {
    let input = lane.next_write().expect("something to write");
    write(broadcast, &input);
    lane.wrote(&input);
    lane.observe(broadcast);
}

#[test]
fn events_go_one_by_one_in_order_and_are_acknowledged_together() {
    let mut stored = broadcast(3);
    let mut lane = Lane::load(&stored, 0, t0());
    for sequence in 1..=3 {
        let delivery = lane.next_due(t0()).expect("due at once");
        assert_eq!((delivery.event.sequence, delivery.attempt), (sequence, 1));
        assert_eq!(lane.next_due(t0()), None, "one is in flight");
        lane.record(&OK, t0());
    }
    assert!(matches!(lane.next_write(), Some(Input::Ack { through: 3, .. })));
    assert!(!lane.is_done(), "not durable yet");

    save(&mut lane, &mut stored);

    assert!(lane.is_done());
    assert_eq!(lane.next_write(), None);
    assert_eq!(status(&mut stored).hooks.lane, None, "a lane that never failed is not written down");
}

#[test]
fn a_failure_holds_up_what_follows_until_its_time() {
    let mut stored = broadcast(2);
    let mut lane = Lane::load(&stored, 0, t0());
    lane.next_due(t0());

    let recorded = lane.record(&BUSY, t0());

    let due = recorded.next_attempt.unwrap();
    assert_eq!(recorded.turn, Turn::Failing);
    assert_eq!(lane.poll_timeout(), Some((due, "retry due")));
    assert_eq!(lane.next_due(due - 1.millisecond()), None);
    save(&mut lane, &mut stored);
    let written = status(&mut stored).hooks.lane.clone().unwrap();
    assert_eq!((written.state, written.attempts, written.last_status), (LaneState::Backoff, 1, Some(503)));
    let delivery = lane.next_due(due).unwrap();
    assert_eq!((delivery.event.sequence, delivery.attempt), (1, 2));
    assert_eq!(lane.record(&OK, due).turn, Turn::Recovered);
    assert_eq!(lane.next_due(due).unwrap().event.sequence, 2);
    assert_eq!(lane.record(&OK, due).turn, Turn::None);
    save(&mut lane, &mut stored);
    assert_eq!(status(&mut stored).hooks.lane, Some(idle()));
}

#[test]
fn a_restart_goes_on_with_the_same_wait() {
    let mut stored = broadcast(1);
    let mut lane = Lane::load(&stored, 0, t0());
    for _ in 0..4 {
        let due = lane.poll_timeout().map_or_else(t0, |(due, _)| due);
        lane.next_due(due).unwrap();
        lane.record(&Outcome::Failed(Failure::Timeout), due);
        save(&mut lane, &mut stored);
    }
    let due = lane.poll_timeout();

    let mut lane = Lane::load(&stored, 0, t0());

    assert_eq!(lane.poll_timeout(), due);
    assert_eq!(lane.next_due(due.unwrap().0).unwrap().attempt, 5);
}

#[test]
fn a_wait_from_a_clock_that_ran_ahead_is_cut() {
    let mut stored = broadcast(1);
    let far = t0() + SignedDuration::from_hours(1000);
    status(&mut stored).hooks.lane =
        Some(Written { state: LaneState::Backoff, next_attempt_time: Some(far), attempts: 2, ..idle() });
    let lane = Lane::load(&stored, 0, t0());
    assert_eq!(lane.poll_timeout().unwrap().0, t0() + schedule::LONGEST);
}

#[test]
fn a_clock_that_is_set_back_makes_no_wait_begin_more_than_once() {
    let mut lane = Lane::load(&broadcast(1), 0, t0());
    lane.next_due(t0());
    let due = lane.record(&BUSY, t0()).next_attempt.unwrap();
    let wait = due.duration_since(t0());

    let set_back = t0() - 24.hours();
    assert_eq!(lane.next_due(set_back), None);

    assert_eq!(lane.poll_timeout(), Some((set_back + wait, "retry due")), "not a day later");
    assert!(lane.next_due(set_back + wait).is_some());
}

#[test]
fn a_clock_that_is_set_forward_ends_a_wait() {
    let mut lane = Lane::load(&broadcast(1), 0, t0());
    lane.next_due(t0());
    lane.record(&BUSY, t0());

    assert!(lane.next_due(t0() + 24.hours()).is_some());
}

#[test]
fn an_endpoint_that_is_gone_stops_its_lane_until_the_spec_changes() {
    let mut stored = broadcast(1);
    let mut lane = Lane::load(&stored, 0, t0());
    lane.next_due(t0()).unwrap();

    assert_eq!(lane.record(&GONE, t0()).turn, Turn::Stopped);

    save(&mut lane, &mut stored);
    append(&mut stored);
    lane.observe(&stored);
    assert_eq!(lane.next_due(t0() + SignedDuration::from_hours(1000)), None);
    assert_eq!(lane.poll_timeout(), None, "nothing else is scheduled");
    assert_eq!(Lane::load(&stored, 0, t0()).next_due(t0()), None, "not even by a restart");
    stored.metadata.generation = Some(2);
    assert!(Lane::load(&stored, 0, t0()).next_due(t0()).is_some(), "a new spec that came while we were away");
    lane.observe(&stored);
    assert_eq!(lane.next_due(t0()).unwrap().attempt, 1);
}

#[test]
fn a_new_spec_ends_a_wait() {
    let mut stored = broadcast(1);
    let mut lane = Lane::load(&stored, 0, t0());
    lane.next_due(t0()).unwrap();
    lane.record(&BUSY, t0());
    save(&mut lane, &mut stored);
    stored.metadata.generation = Some(2);
    lane.observe(&stored);
    assert_eq!(lane.next_due(t0()).unwrap().attempt, 1);
}

#[test]
fn a_failure_at_the_old_endpoint_does_not_delay_the_new_one() {
    let mut stored = broadcast(1);
    let mut lane = Lane::load(&stored, 0, t0());
    lane.next_due(t0()).unwrap();
    stored.metadata.generation = Some(2);
    lane.observe(&stored);
    lane.record(&GONE, t0());
    assert_eq!(lane.next_write(), None);
    assert!(lane.next_due(t0()).is_some());
}

#[test]
fn deliveries_stop_ahead_of_a_store_that_does_not_answer() {
    let stored = broadcast(40);
    let mut lane = Lane::load(&stored, 0, t0());
    let mut sent = 0;
    while lane.next_due(t0()).is_some() {
        lane.record(&OK, t0());
        sent += 1;
    }
    assert_eq!(sent, MAX_AHEAD);
}

#[test]
fn an_old_reading_brings_no_event_back() {
    let mut stored = broadcast(2);
    let old = stored.clone();
    let mut lane = Lane::load(&stored, 0, t0());
    lane.next_due(t0());
    lane.record(&OK, t0());
    save(&mut lane, &mut stored);
    lane.observe(&old);
    assert_eq!(lane.next_due(t0()).unwrap().event.sequence, 2);
    assert_eq!(Lane::load(&old, 1, t0()).next_due(t0()).unwrap().event.sequence, 2, "nor in a new lane");
}

#[test]
fn an_event_that_another_operator_acknowledged_is_not_sent() {
    let mut stored = broadcast(2);
    let mut lane = Lane::load(&stored, 0, t0());
    lane.next_due(t0());
    write(&mut stored, &Input::Ack { through: 2, lane: None });
    lane.observe(&stored);
    lane.record(&BUSY, t0());
    assert!(lane.is_done());
    assert_eq!((lane.next_due(t0()), lane.next_write(), lane.poll_timeout()), (None, None, None));
}

#[test]
fn two_operators_do_not_correct_each_other() {
    let mut stored = broadcast(1);
    let mut lanes = [Lane::load(&stored, 0, t0()), Lane::load(&stored, 0, t0())];
    for lane in &mut lanes {
        lane.next_due(t0()).unwrap();
    }
    lanes[0].record(&BUSY, t0());
    lanes[1].record(&Outcome::Failed(Failure::Timeout), t0());
    let mut writes = 0;
    for turn in 0..10 {
        let lane = &mut lanes[turn % 2];
        lane.observe(&stored);
        if lane.next_write().is_some() {
            save(lane, &mut stored);
            writes += 1;
        }
    }
    assert_eq!(writes, 2);
}

#[derive(Debug, Clone)]
enum Move {
    Append,
    Attempt(u16),
    Write,
    /// The write happened, its answer did not arrive.
    LostAnswer,
    Restart,
    ObserveOld(usize),
    NewSpec,
    Wait,
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        3 => Just(Move::Append),
        6 => prop_oneof![4 => Just(200_u16), 2 => Just(503), 1 => Just(410)].prop_map(Move::Attempt),
        3 => Just(Move::Write),
        1 => Just(Move::LostAnswer),
        1 => Just(Move::Restart),
        1 => any::<usize>().prop_map(Move::ObserveOld),
        1 => Just(Move::NewSpec),
        2 => Just(Move::Wait),
    ]
}

/// Lane, store and receiver, and what must hold between them.
struct World {
    stored: Broadcast,
    lane: Lane,
    now: Timestamp,
    old: Vec<Broadcast>,
    received: BTreeSet<i64>,
    since_restart: BTreeSet<i64>,
}

impl World {
    fn step(&mut self, step: &Move) {
        match step {
            Move::Append if self.stored.status_or_default().hooks.pending.len() < 60 => {
                append(&mut self.stored);
                self.lane.observe(&self.stored);
            }
            Move::Append => {}
            Move::Attempt(status) => self.attempt(*status),
            Move::Write | Move::LostAnswer => {
                let Some(input) = self.lane.next_write() else { return };
                write(&mut self.stored, &input);
                if matches!(step, Move::Write) {
                    self.lane.wrote(&input);
                    self.lane.observe(&self.stored);
                }
            }
            Move::Restart => {
                self.lane = Lane::load(&self.stored, 0, self.now);
                self.since_restart.clear();
            }
            Move::ObserveOld(index) => {
                let old = &self.old[index % self.old.len()];
                self.lane.observe(old);
            }
            Move::NewSpec => {
                self.stored.metadata.generation = self.stored.metadata.generation.map(|g| g + 1);
                self.lane.observe(&self.stored);
            }
            Move::Wait => self.now += SignedDuration::from_mins(20),
        }
        self.old.push(self.stored.clone());
    }

    fn attempt(&mut self, status: u16) {
        let Some(Delivery { event, .. }) = self.lane.next_due(self.now) else {
            let at = self.lane.poll_timeout().map(|(due, _)| due);
            assert!(at.is_none_or(|due| due > self.now), "a driver that waits for this would spin");
            return;
        };
        assert_eq!(self.lane.next_due(self.now), None, "one in flight");
        if status == 200 {
            let next = self.received.last().map_or(1, |last| last + 1);
            assert!(event.sequence <= next, "no gap: {} after {next}", event.sequence);
            assert!(self.since_restart.insert(event.sequence), "sent twice without a restart");
            self.received.insert(event.sequence);
        }
        self.lane.record(&Outcome::Answered { status, retry_after: None }, self.now);
    }

    fn check(&self) {
        let acked = self.stored.status_or_default().hooks.acked_sequence;
        assert!((1..=acked).all(|sequence| self.received.contains(&sequence)), "acknowledged, but never received");
        assert!(self.since_restart.len() <= self.received.len());
        assert!(self.lane.settled() <= acked + MAX_AHEAD);
    }
}

proptest! {
    #[test]
    fn any_order_of_things_delivers_in_order_without_loss(steps in prop::collection::vec(moves(), 1..120)) {
        let stored = broadcast(0);
        let mut world = World {
            lane: Lane::load(&stored, 0, t0()),
            old: vec![stored.clone()],
            stored,
            now: t0(),
            received: BTreeSet::new(),
            since_restart: BTreeSet::new(),
        };
        for step in &steps {
            world.step(step);
            world.check();
        }
        // In the end everything arrives.
        for _ in 0..200 {
            for step in [Move::NewSpec, Move::Attempt(200), Move::Write] {
                world.step(&step);
                world.check();
            }
        }
        let hooks = world.stored.status_or_default().hooks;
        prop_assert_eq!(hooks.acked_sequence, hooks.last_sequence);
        prop_assert!(world.lane.is_done());
        prop_assert_eq!(world.lane.next_write(), None);
    }
}
