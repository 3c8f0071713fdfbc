//! Decides which pools take publishers: those with a node that lives, that does not say it drains, and whose pod, when it has
//! one, neither stops nor fails its readiness probe. Knows no client.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ledger::Key;

use super::NodeKey;
use crate::scope::Place;

/// How long a pool must have been without an open node before its Broadcasts are told. In an update of a single node, or when a probe
/// fails once, the next one is open within that time, and nothing is written.
const HOLD: Duration = Duration::from_secs(3);

/// Whether a pool takes publishers, as its Broadcasts are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Availability {
    /// Not everything is listed yet.
    Unknown,
    Open,
    Closed,
}

/// What must have been listed before it is known which pools take publishers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Listed {
    Leases,
    Pods,
}

/// What nodes and pods say of themselves, and what became of it.
#[derive(Debug, Default)]
pub(super) struct Doors {
    /// Nodes whose Lease says that they drain.
    draining: BTreeSet<NodeKey>,
    /// Nodes whose pod stops or is not ready.
    unready: BTreeSet<NodeKey>,
    /// Pools that are open, or were until less than [`HOLD`] ago.
    open: BTreeMap<Key, State>,
    listed: BTreeSet<(Listed, Place)>,
    has_changed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closing { since: Instant },
}

impl Doors {
    pub(super) fn lease(&mut self, node: &NodeKey, is_draining: bool) {
        self.has_changed |= put(&mut self.draining, node, is_draining);
    }

    pub(super) fn pod(&mut self, node: &NodeKey, is_unready: bool) {
        self.has_changed |= put(&mut self.unready, node, is_unready);
    }

    /// A node was found or lost.
    pub(super) fn node_changed(&mut self) {
        self.has_changed = true;
    }

    /// Says whether all of the place is known now that was not before.
    pub(super) fn listed(&mut self, what: Listed, place: &Place) -> bool {
        let is_new = self.listed.insert((what, place.clone()));
        self.has_changed |= is_new;
        is_new && is_known(&self.listed, place)
    }

    /// Whether a node that lives takes publishers.
    pub(super) fn takes(&self, node: &NodeKey) -> bool {
        !self.draining.contains(node) && !self.unready.contains(node)
    }

    pub(super) fn of(&self, namespace: &str, pool: &str) -> Availability {
        if !covers(&self.listed, namespace) {
            return Availability::Unknown;
        }
        let pool = Key { namespace: namespace.to_owned(), name: pool.to_owned() };
        if self.open.contains_key(&pool) { Availability::Open } else { Availability::Closed }
    }

    /// Says which pools have opened or closed, of these nodes that live, each with its pool.
    pub(super) fn settle<'a>(
        &mut self,
        alive: impl Iterator<Item = (&'a NodeKey, &'a str)>,
        now: Instant,
    ) -> BTreeSet<Key> {
        let is_closing = self.open.values().any(|state| *state != State::Open);
        // What is listed first is looked at as a whole.
        if self.listed.is_empty() || (!std::mem::take(&mut self.has_changed) && !is_closing) {
            return BTreeSet::new();
        }
        let pool = |(node, pool): (&NodeKey, &str)| Key { namespace: node.namespace.clone(), name: pool.to_owned() };
        let takers: BTreeSet<Key> = alive.filter(|(node, _)| self.takes(node)).map(pool).collect();
        let mut turned = BTreeSet::new();
        let listed = &self.listed;
        self.open.retain(|pool, state| {
            if takers.contains(pool) {
                *state = State::Open;
                return true;
            }
            let since = match *state {
                State::Open => now,
                State::Closing { since } => since,
            };
            *state = State::Closing { since };
            // Nobody was told before all is listed.
            let is_told = covers(listed, &pool.namespace);
            let stays = is_told && now.saturating_duration_since(since) < HOLD;
            if is_told && !stays {
                turned.insert(pool.clone());
            }
            stays
        });
        for pool in takers {
            if self.open.insert(pool.clone(), State::Open).is_none() && covers(&self.listed, &pool.namespace) {
                turned.insert(pool);
            }
        }
        turned
    }
}

fn is_known(listed: &BTreeSet<(Listed, Place)>, place: &Place) -> bool {
    [Listed::Leases, Listed::Pods].into_iter().all(|what| listed.contains(&(what, place.clone())))
}

/// Whether all of the namespace is known, by a watch of its own or by one of all.
fn covers(listed: &BTreeSet<(Listed, Place)>, namespace: &str) -> bool {
    is_known(listed, &None) || is_known(listed, &Some(namespace.to_owned()))
}

/// Puts the node into the set or takes it out. Says whether that changed anything.
fn put(set: &mut BTreeSet<NodeKey>, node: &NodeKey, belongs: bool) -> bool {
    if belongs { set.insert(node.clone()) } else { set.remove(node) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { namespace: "tv".into(), name: name.into() }
    }

    /// Everything is listed, and node `a` of the pool `live` is open.
    fn open(now: Instant) -> Doors {
        let mut doors = Doors::default();
        for what in [Listed::Leases, Listed::Pods] {
            doors.listed(what, &None);
        }
        assert_eq!(settle(&mut doors, &["a"], now), [key("live")]);
        doors
    }

    /// With these nodes of the pool `live` alive.
    fn settle(doors: &mut Doors, alive: &[&str], now: Instant) -> Vec<Key> {
        let nodes: Vec<_> = alive.iter().map(|name| key(name)).collect();
        doors.settle(nodes.iter().map(|node| (node, "live")), now).into_iter().collect()
    }

    #[test]
    fn nothing_is_said_of_a_pool_before_all_is_listed() {
        let mut doors = Doors::default();
        let place = Some("tv".to_owned());
        assert!(!doors.listed(Listed::Leases, &place));
        assert_eq!(doors.of("tv", "live"), Availability::Unknown);

        assert!(doors.listed(Listed::Pods, &place));
        assert!(!doors.listed(Listed::Pods, &place), "once");

        assert_eq!(doors.of("tv", "live"), Availability::Closed);
        assert_eq!(doors.of("other", "live"), Availability::Unknown, "another namespace has a watch of its own");
    }

    #[test]
    fn a_pool_closes_when_its_last_node_drains_or_stops_or_is_lost_for_a_while() {
        let now = Instant::now();
        let close: [fn(&mut Doors) -> &'static [&'static str]; 3] = [
            |doors| {
                doors.lease(&key("a"), true);
                &["a"]
            },
            |doors| {
                doors.pod(&key("a"), true);
                &["a"]
            },
            |doors| {
                doors.node_changed();
                &[]
            },
        ];
        for close in close {
            let mut doors = open(now);
            let alive = close(&mut doors);

            assert_eq!(settle(&mut doors, alive, now), []);
            assert_eq!(doors.of("tv", "live"), Availability::Open, "held open");
            assert_eq!(settle(&mut doors, alive, now + HOLD), [key("live")]);
            assert_eq!(doors.of("tv", "live"), Availability::Closed);
            assert_eq!(settle(&mut doors, alive, now + HOLD * 2), [], "told once");
        }
    }

    #[test]
    fn a_node_that_is_open_again_in_time_is_not_told_of() {
        let now = Instant::now();
        let mut doors = open(now);
        doors.pod(&key("a"), true);
        assert_eq!(settle(&mut doors, &["a"], now), []);

        doors.pod(&key("a"), false);

        assert_eq!(settle(&mut doors, &["a"], now + HOLD), []);
        assert_eq!(settle(&mut doors, &["a"], now + HOLD * 3), []);
        assert_eq!(doors.of("tv", "live"), Availability::Open);
    }

    #[test]
    fn a_pool_that_only_seemed_open_while_pods_were_listed_is_closed_at_once() {
        let now = Instant::now();
        let mut doors = Doors::default();
        doors.listed(Listed::Leases, &None);
        assert_eq!(settle(&mut doors, &["a"], now), []);

        doors.pod(&key("a"), true);
        assert_eq!(settle(&mut doors, &["a"], now), []);
        doors.listed(Listed::Pods, &None);

        assert_eq!(settle(&mut doors, &["a"], now), []);
        assert_eq!(doors.of("tv", "live"), Availability::Closed);
    }

    #[test]
    fn another_node_keeps_the_pool_open() {
        let now = Instant::now();
        let mut doors = open(now);
        doors.lease(&key("a"), true);

        assert_eq!(settle(&mut doors, &["a", "b"], now), []);
        assert_eq!(settle(&mut doors, &["a", "b"], now + HOLD), []);
        assert_eq!(doors.of("tv", "live"), Availability::Open);
    }
}
