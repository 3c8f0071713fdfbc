//! One suite that every [`Store`] of Broadcasts and [`Recordings`] passes: it speaks of the machine's promises, not of a store's ways.
//!
//! `tests/` runs it against a real API server, this crate against SQLite.

#![expect(clippy::panic, reason = "a suite fails by panicking")]

use jiff::Timestamp;
use json_patch::Patch;
use tallylight_crds::{
    Away, Broadcast, BroadcastSpec, BroadcastState, FrameOrder, HOOKS_FINALIZER, Protocol, Reason, SessionState,
};

use crate::{Claim, Committed, Error, Input, Key, Owner, Recordings, Rejection, Store, commit, event_id};

mod recordings;

pub use recordings::{recording, recording_spec};

/// Runs every case in a namespace, each on Broadcasts of its own.
///
/// # Panics
/// When the store breaks a promise.
pub async fn run<S: Store + Recordings>(store: &S, namespace: &str) {
    let suite = Suite { store, namespace };
    suite.a_broadcast_starts_idle().await;
    suite.a_name_is_taken_once().await;
    suite.a_session_is_opened_and_ended_with_its_events().await;
    suite.a_lost_reply_is_found_again().await;
    suite.of_two_claims_one_wins().await;
    suite.appends_and_acks_commute().await;
    suite.a_stale_epoch_never_writes().await;
    suite.what_is_noted_of_a_publisher_commutes_with_its_events().await;
    suite.a_session_goes_on_where_its_publisher_comes_back().await;
    suite.a_late_claim_ends_one_session_and_opens_the_next().await;
    suite.a_publisher_that_stays_away_left_when_it_left().await;
    suite.a_failed_test_changes_nothing().await;
    suite.another_broadcast_of_the_same_name_is_another().await;
    suite.a_broadcast_that_was_claimed_is_not_deleted_as_idle().await;
    suite.a_held_broadcast_goes_when_it_is_released().await;
    suite.a_nodes_sessions_are_found().await;
    suite.many_writers_lose_nothing().await;
    suite.recordings().await;
}

struct Suite<'a, S> {
    store: &'a S,
    namespace: &'a str,
}

/// A second of the time in which the cases play.
///
/// # Panics
/// When that is in no century to speak of.
#[must_use]
pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).expect("a second of this century")
}

fn claim(id: &str, node: &str) -> Input {
    let address = Some("10.0.0.1".to_owned());
    Input::Claim(Claim { id: id.into(), node: node.into(), address, protocol: Protocol::Rtmp, time: at(0) })
}

fn end_of(broadcast: &Broadcast) -> Input {
    let owner = Owner::of(&broadcast.status_or_default().session);
    Input::End { owner, reason: Reason::PublisherClosed, time: at(60) }
}

/// Lost after `since` seconds, awaited for 30 s.
fn park(broadcast: &Broadcast, since: i64) -> Input {
    let owner = Owner::of(&broadcast.status_or_default().session);
    Input::Park { owner, away: Away { since: at(since), until: at(since + 30), reason: Reason::NodeShutdown } }
}

fn uid(broadcast: &Broadcast) -> &str {
    broadcast.metadata.uid.as_deref().expect("a stored Broadcast has a UID")
}

impl<S: Store> Suite<'_, S> {
    fn key(&self, name: &str) -> Key {
        Key { namespace: self.namespace.to_owned(), name: name.to_owned() }
    }

    async fn create(&self, name: &str, finalizers: &[&str]) -> Broadcast {
        let mut new = Broadcast::new(name, BroadcastSpec { pool: "live".into(), ..BroadcastSpec::default() });
        new.metadata.namespace = Some(self.namespace.to_owned());
        new.metadata.finalizers = Some(finalizers.iter().map(|&f| f.to_owned()).collect());
        self.store.create(&new).await.expect("a new name is free")
    }

    async fn get(&self, name: &str) -> Broadcast {
        self.store.get(&self.key(name)).await.expect("the store answers").expect("the Broadcast is there")
    }

    async fn done(&self, known: &Broadcast, input: &Input) -> Broadcast {
        match commit(self.store, known, input).await {
            Ok(Committed::Done(broadcast)) => *broadcast,
            other => panic!("{input:?} is not committed: {other:?}"),
        }
    }

    async fn rejection(&self, known: &Broadcast, input: &Input) -> Rejection {
        match commit(self.store, known, input).await {
            Ok(Committed::Rejected(rejection)) => rejection,
            other => panic!("{input:?} is not rejected: {other:?}"),
        }
    }

    async fn a_broadcast_starts_idle(&self) {
        let made = self.create("idle", &[]).await;
        let status = self.get("idle").await.status.expect("a read has a status");
        assert_eq!(status.state, BroadcastState::Idle);
        assert_eq!(status.session.state, SessionState::Ended);
        assert_eq!(made.metadata.generation, Some(1));
        assert!(self.store.get(&self.key("nobody")).await.expect("the store answers").is_none());
    }

    async fn a_name_is_taken_once(&self) {
        let made = self.create("taken", &[]).await;
        let mut again = Broadcast::new("taken", made.spec.clone());
        again.metadata.namespace = Some(self.namespace.to_owned());
        assert!(matches!(self.store.create(&again).await, Err(Error::AlreadyExists)));
    }

    async fn a_session_is_opened_and_ended_with_its_events(&self) {
        let made = self.create("story", &[]).await;
        let live = self.done(&made, &claim("c1", "node-1")).await;
        assert_eq!(live.status_or_default().state, BroadcastState::Live);
        let ended = self.done(&live, &end_of(&live)).await;
        let hooks = self.get("story").await.status_or_default().hooks;
        assert_eq!(hooks.pending.iter().map(|e| e.sequence).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(hooks.pending, ended.status_or_default().hooks.pending);
        assert_eq!(event_id(uid(&made), &hooks.pending[0]), event_id(uid(&ended), &hooks.pending[0]));
        let acked = self.done(&ended, &Input::Ack { through: 2, lane: None }).await;
        assert!(acked.status_or_default().hooks.pending.is_empty());
        assert_eq!(acked.status_or_default().hooks.acked_sequence, 2);
    }

    async fn a_lost_reply_is_found_again(&self) {
        let made = self.create("lost-reply", &[]).await;
        self.done(&made, &claim("c1", "node-1")).await;
        let again = self.done(&made, &claim("c1", "node-1")).await;
        assert_eq!(again.status_or_default().hooks.last_sequence, 1, "one start for one claim");
        self.done(&again, &end_of(&again)).await;
        let twice = self.done(&again, &end_of(&again)).await;
        assert_eq!(twice.status_or_default().hooks.last_sequence, 2, "one end for one session");
    }

    async fn of_two_claims_one_wins(&self) {
        let made = self.create("race", &[]).await;
        self.done(&made, &claim("c1", "node-1")).await;
        let refused = self.rejection(&made, &claim("c2", "node-2")).await;
        assert_eq!(refused, Rejection::OnAir { node: "node-1".into() });
        assert_eq!(self.get("race").await.status_or_default().hooks.last_sequence, 1);
    }

    async fn appends_and_acks_commute(&self) {
        let made = self.create("commute", &[]).await;
        let live = self.done(&made, &claim("c1", "node-1")).await;
        // The node does not know of the operator's ack, nor the operator of the node's end.
        self.done(&live, &Input::Ack { through: 1, lane: None }).await;
        self.done(&live, &end_of(&live)).await;
        let hooks = self.get("commute").await.status_or_default().hooks;
        assert_eq!((hooks.acked_sequence, hooks.last_sequence, hooks.pending.len()), (1, 2, 1));
    }

    async fn a_stale_epoch_never_writes(&self) {
        let made = self.create("fenced", &[]).await;
        let live = self.done(&made, &claim("c1", "node-1")).await;
        let owner = Owner::of(&live.status_or_default().session);
        let closed = self.done(&live, &Input::Close { owner, reason: Reason::NodeLost, time: at(30) }).await;
        assert_eq!(self.rejection(&live, &end_of(&live)).await, Rejection::Fenced);
        let next = self.done(&closed, &claim("c2", "node-2")).await;
        assert_eq!(self.rejection(&live, &end_of(&live)).await, Rejection::Fenced);
        assert_eq!(self.get("fenced").await.status, next.status, "nothing was written");
    }

    async fn what_is_noted_of_a_publisher_commutes_with_its_events(&self) {
        let made = self.create("noted", &[]).await;
        let live = self.done(&made, &claim("c1", "node-1")).await;
        let note = |of: &Broadcast| Input::Note {
            owner: Owner::of(&of.status_or_default().session),
            frames: FrameOrder::Reordered,
        };
        self.done(&live, &Input::Ack { through: 1, lane: None }).await;
        let noted = self.done(&live, &note(&live)).await.status_or_default();
        assert_eq!((noted.session.frame_order, noted.hooks.acked_sequence), (Some(FrameOrder::Reordered), 1));
        let ended = self.done(&live, &end_of(&live)).await.status_or_default();
        assert_eq!(ended.session.frame_order, Some(FrameOrder::Reordered), "it is kept with the session");
        assert_eq!(self.rejection(&live, &note(&live)).await, Rejection::Fenced);
    }

    async fn a_session_goes_on_where_its_publisher_comes_back(&self) {
        let made = self.create("parked", &[]).await;
        let live = self.done(&made, &claim("c1", "node-10")).await;
        let parked = self.done(&live, &park(&live, 0)).await;
        assert_eq!(parked.status_or_default().state, BroadcastState::Reconnecting);
        let left = self.store.sessions_of(self.namespace, "node-10").await.expect("the store answers");
        assert!(left.is_empty(), "it is no node's: {left:?}");
        self.done(&live, &park(&live, 0)).await;
        assert_eq!(self.rejection(&live, &end_of(&live)).await, Rejection::Fenced);

        let back = self.done(&live, &claim("c2", "node-2")).await.status_or_default();
        assert_eq!((back.session.ordinal, back.session.epoch, back.state), (1, 3, BroadcastState::Live));
        assert_eq!((back.session.node.as_deref(), back.hooks.last_sequence), (Some("node-2"), 1));
        assert_eq!(self.rejection(&live, &park(&live, 0)).await, Rejection::Fenced);
        assert_eq!(self.get("parked").await.status_or_default(), back);
    }

    async fn a_late_claim_ends_one_session_and_opens_the_next(&self) {
        let made = self.create("late", &[]).await;
        let live = self.done(&made, &claim("c1", "node-1")).await;
        // whose `until` is before the next claim's time
        let parked = self.done(&live, &park(&live, -60)).await;
        let away = parked.status_or_default().session.away.expect("the publisher is away");
        assert_eq!((away.since, away.until), (at(0), at(30)), "nobody leaves before the start");
        let Input::Claim(next) = claim("c2", "node-2") else { panic!("a claim") };

        let late = self.done(&parked, &Input::Claim(Claim { time: at(31), ..next })).await.status_or_default();

        assert_eq!((late.session.ordinal, late.session.epoch), (2, 4));
        let events: Vec<_> = late.hooks.pending.iter().map(|e| (e.sequence, e.session, e.reason, e.time)).collect();
        let ended = (2, 1, Some(Reason::NodeShutdown), at(0));
        assert_eq!(events, [(1, 1, None, at(0)), ended, (3, 2, None, at(31))]);
    }

    async fn a_publisher_that_stays_away_left_when_it_left(&self) {
        let made = self.create("stays-away", &[]).await;
        let live = self.done(&made, &claim("c1", "node-1")).await;
        let parked = self.done(&live, &park(&live, 20)).await;
        let owner = Owner::of(&parked.status_or_default().session);
        let close = Input::Close { owner, reason: Reason::NodeShutdown, time: at(90) };

        let ended = self.done(&parked, &close).await;
        self.done(&parked, &close).await;

        let status = ended.status_or_default();
        assert_eq!((status.state, status.session.end_time), (BroadcastState::Ended, Some(at(20))));
        assert_eq!(self.get("stays-away").await.status_or_default().hooks.last_sequence, 2, "one end");
    }

    async fn a_failed_test_changes_nothing(&self) {
        let made = self.create("guard", &[]).await;
        let patch: Patch = serde_json::from_value(serde_json::json!([
            {"op": "test", "path": "/status/session/epoch", "value": 7},
            {"op": "replace", "path": "/status/state", "value": "Ended"},
        ]))
        .expect("a patch");
        let refused = self.store.patch_status(&self.key("guard"), uid(&made), &patch).await;
        assert!(matches!(refused, Err(Error::Conflict)), "{refused:?}");
        assert_eq!(self.get("guard").await.status, made.status);
    }

    async fn another_broadcast_of_the_same_name_is_another(&self) {
        let first = self.create("again", &[]).await;
        self.store.delete(&self.key("again"), uid(&first)).await.expect("it is there");
        assert!(matches!(commit(self.store, &first, &claim("c1", "n")).await, Ok(Committed::Gone)));
        let second = self.create("again", &[]).await;
        assert_ne!(uid(&first), uid(&second));
        assert!(matches!(commit(self.store, &first, &claim("c1", "n")).await, Ok(Committed::Gone)));
        assert_eq!(self.get("again").await.status_or_default().hooks.last_sequence, 0);
    }

    async fn a_broadcast_that_was_claimed_is_not_deleted_as_idle(&self) {
        let idle = self.create("unchanged", &[]).await;
        let live = self.done(&idle, &claim("c1", "n")).await;
        let late = self.store.delete_unchanged(&idle).await;
        assert!(matches!(late, Err(Error::Conflict)), "{late:?}");
        assert_eq!(self.get("unchanged").await.metadata.deletion_timestamp, None);
        self.store.delete_unchanged(&live).await.expect("it is as it was read");
        assert!(self.store.get(&self.key("unchanged")).await.expect("the store answers").is_none());
    }

    async fn a_held_broadcast_goes_when_it_is_released(&self) {
        let made = self.create("held", &[HOOKS_FINALIZER]).await;
        self.store.delete(&self.key("held"), uid(&made)).await.expect("it is there");
        let leaving = self.get("held").await;
        assert!(leaving.metadata.deletion_timestamp.is_some());
        let live = self.done(&leaving, &claim("c1", "n")).await;
        let early = self.store.release(&leaving).await;
        assert!(matches!(early, Err(Error::Conflict)), "its start is not settled: {early:?}");
        self.store.release(&live).await.expect("it is as it was read");
        assert!(self.store.get(&self.key("held")).await.expect("the store answers").is_none());
        self.store.release(&live).await.expect("a release may be repeated");
    }

    async fn a_nodes_sessions_are_found(&self) {
        let made = self.create("on-node-9", &[]).await;
        self.done(&made, &claim("c1", "node-9")).await;
        let found = self.store.sessions_of(self.namespace, "node-9").await.expect("the store answers");
        assert_eq!(found.iter().map(Broadcast::stream_id).collect::<Vec<_>>(), ["on-node-9"]);
        assert!(self.store.sessions_of(self.namespace, "node-8").await.expect("the store answers").is_empty());
    }

    /// A node that opens and ends sessions, and an operator that acknowledges, side by side.
    async fn many_writers_lose_nothing(&self) {
        const SESSIONS: i64 = 20;
        let made = self.create("busy", &[]).await;
        let node = async {
            let mut known = made.clone();
            for session in 0..SESSIONS {
                known = self.done(&known, &claim(&format!("c{session}"), "node-1")).await;
                known = self.done(&known, &end_of(&known)).await;
            }
        };
        let operator = async {
            let mut seen = 0;
            while seen < 2 * SESSIONS {
                let known = self.get("busy").await;
                let hooks = known.status_or_default().hooks;
                if let Some(event) = hooks.pending.first() {
                    assert_eq!(event.sequence, seen + 1, "in order, without a gap");
                    seen = event.sequence;
                    self.done(&known, &Input::Ack { through: seen, lane: None }).await;
                } else {
                    tokio::task::yield_now().await;
                }
            }
        };
        let ((), ()) = tokio::join!(node, operator);
        let hooks = self.get("busy").await.status_or_default().hooks;
        assert_eq!((hooks.last_sequence, hooks.acked_sequence, hooks.pending.len()), (40, 40, 0));
    }
}
