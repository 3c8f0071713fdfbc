//! Decides which media nodes are lost, from what this process has seen itself.
//!
//! A node renews its Lease every 5 s. Its age counts by a clock of our own that runs only while the connection to the API
//! server works: neither a remote clock nor an outage can make a node look lost. Knows no client.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ledger::Key;

use crate::scope::Place;

mod doors;

pub(crate) use doors::{Availability, Listed};

/// Silence of a node after which its Lease is read again and again, so that there are contacts to count by: one renewal missed.
const SUSPECT_AFTER: Duration = Duration::from_secs(6);
/// Two contacts that are further apart do not prove that the connection worked in between. It covers the wait for the first
/// look at a silent node, plus the 2 s between two looks; a node tries to renew every second, so an outage that fits in
/// here has ended long before the rest of the lease time is over.
const CONTACT_GAP: Duration = Duration::from_secs(8);

/// A media node: namespace and name of its Lease, which are those of its pod.
pub(crate) type NodeKey = Key;

/// What changed for the pool or the sessions of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// The node is there (again).
    Found { node: NodeKey, pool: Option<String> },
    /// The node's open sessions must be closed.
    Lost { node: NodeKey, pool: Option<String>, cause: Cause },
    /// The pod of a node that was lost before is no more.
    Gone { node: NodeKey },
    /// The pool takes publishers now, or takes none any more.
    Turned { pool: Key, now: Availability },
    /// All Leases and pods of the watched namespace are known, so which of its pools take publishers is.
    Listed { place: Place },
}

/// How a node was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prometheus_client::encoding::EncodeLabelValue)]
pub(crate) enum Cause {
    PodGone,
    ContainerDown,
    LeaseExpired,
}

/// What follows the death of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The kubelet starts another one after a while, on the same disk.
    Start,
    /// Nothing: the pod is over.
    Nothing,
}

#[derive(Debug)]
struct Node {
    pool: Option<String>,
    /// The Lease's renewal as text: only whether it changes matters.
    renewal: Option<String>,
    /// [`Nodes::connected`] when the renewal changed last.
    seen: Duration,
    /// By the process's clock, to know when to look closer.
    seen_at: Instant,
    lost: bool,
    /// What its container's death was followed by, if that is how it was lost.
    next: Option<Next>,
}

/// All media nodes that were seen, or that a session names.
#[derive(Debug)]
pub(crate) struct Nodes {
    nodes: BTreeMap<NodeKey, Node>,
    pods: BTreeSet<NodeKey>,
    doors: doors::Doors,
    /// How long the connection is known to have worked, in all.
    connected: Duration,
    contact: Option<Instant>,
    lease: Duration,
}

impl Nodes {
    /// `lease`: how long a node may go without a renewal.
    pub(crate) fn new(lease: Duration) -> Self {
        Self {
            nodes: BTreeMap::new(),
            pods: BTreeSet::new(),
            doors: doors::Doors::default(),
            connected: Duration::ZERO,
            contact: None,
            lease,
        }
    }

    /// The API server has answered.
    pub(crate) fn contact(&mut self, now: Instant) {
        if let Some(last) = self.contact {
            let gap = now.saturating_duration_since(last);
            if gap <= CONTACT_GAP {
                self.connected += gap;
            }
        }
        self.contact = Some(now);
    }

    /// The API server has not answered, or a watch has broken.
    pub(crate) fn lost_contact(&mut self) {
        self.contact = None;
    }

    /// A Lease as it was just read or watched.
    pub(crate) fn lease(&mut self, node: NodeKey, pool: Option<String>, renewal: &str, now: Instant) -> Option<Change> {
        self.contact(now);
        let connected = self.connected;
        let entry = self.nodes.entry(node.clone()).or_insert_with(|| Node {
            pool: pool.clone(),
            renewal: None,
            seen: connected,
            seen_at: now,
            lost: true,
            next: None,
        });
        entry.pool.clone_from(&pool);
        if entry.renewal.as_deref() == Some(renewal) {
            return None;
        }
        entry.renewal = Some(renewal.to_owned());
        entry.seen = connected;
        entry.seen_at = now;
        entry.next = None;
        if !std::mem::replace(&mut entry.lost, false) {
            return None;
        }
        self.doors.node_changed();
        Some(Change::Found { node, pool })
    }

    /// The node's Lease says whether it drains.
    pub(crate) fn draining(&mut self, node: &NodeKey, is_draining: bool) {
        self.doors.lease(node, is_draining);
    }

    /// The Lease is gone: its node left in good order, or was tidied up after its pod.
    pub(crate) fn lease_gone(&mut self, node: &NodeKey) -> Option<Change> {
        self.doors.lease(node, false);
        self.lose(node, Cause::LeaseExpired)
    }

    /// A session names this node: one that was never seen counts as seen now.
    pub(crate) fn expect(&mut self, node: &NodeKey, now: Instant) {
        let connected = self.connected;
        self.nodes.entry(node.clone()).or_insert_with(|| Node {
            pool: None,
            renewal: None,
            seen: connected,
            seen_at: now,
            lost: false,
            next: None,
        });
    }

    /// The node's pod exists; `is_unready` when it stops or fails its readiness probe.
    pub(crate) fn pod(&mut self, node: NodeKey, is_unready: bool) {
        self.doors.pod(&node, is_unready);
        self.pods.insert(node);
    }

    /// The node's pod is gone from the API, so its containers have ended, or somebody vouched for it by force.
    pub(crate) fn pod_gone(&mut self, node: &NodeKey) -> Option<Change> {
        let was_there = self.pods.remove(node);
        self.doors.pod(node, false);
        let lost = self.lose(node, Cause::PodGone);
        lost.or_else(|| (was_there && self.is_lost(node)).then(|| Change::Gone { node: node.clone() }))
    }

    /// The node's container has died and is not started again for now. A renewal by the next one finds the node again.
    pub(crate) fn container_down(&mut self, node: &NodeKey, next: Next) -> Option<Change> {
        self.nodes.get_mut(node)?.next = Some(next);
        self.lose(node, Cause::ContainerDown)
    }

    /// All pods of a namespace (of all without one), as they were just listed; says which of those known before are gone.
    pub(crate) fn pods_listed(&mut self, namespace: Option<&str>, listed: &BTreeSet<NodeKey>) -> Vec<Change> {
        let covered = |node: &&NodeKey| namespace.is_none_or(|namespace| node.namespace == namespace);
        let gone: Vec<NodeKey> = self.pods.difference(listed).filter(covered).cloned().collect();
        self.pods.extend(listed.iter().cloned());
        gone.iter().filter_map(|node| self.pod_gone(node)).collect()
    }

    /// Nodes to read the Lease of now, because their renewal is overdue.
    pub(crate) fn suspects(&self, now: Instant) -> Vec<NodeKey> {
        let overdue = |node: &Node| !node.lost && now.saturating_duration_since(node.seen_at) >= SUSPECT_AFTER;
        self.nodes.iter().filter(|(_, node)| overdue(node)).map(|(key, _)| key.clone()).collect()
    }

    /// Gives up nodes whose Lease has not been renewed for the whole lease time, by the connected clock.
    pub(crate) fn expire(&mut self) -> Vec<Change> {
        let (connected, lease) = (self.connected, self.lease);
        let expired = |node: &Node| !node.lost && connected.saturating_sub(node.seen) >= lease;
        let keys: Vec<NodeKey> = self.nodes.iter().filter(|(_, n)| expired(n)).map(|(k, _)| k.clone()).collect();
        keys.iter().filter_map(|key| self.lose(key, Cause::LeaseExpired)).collect()
    }

    /// Whether the node's sessions must be closed.
    pub(crate) fn is_lost(&self, node: &NodeKey) -> bool {
        self.nodes.get(node).is_some_and(|node| node.lost)
    }

    /// Whether a node that is lost comes back with what was on its disk, as far as is known.
    pub(crate) fn starts_again(&self, node: &NodeKey) -> bool {
        let next = self.nodes.get(node).filter(|node| node.lost).and_then(|node| node.next);
        next == Some(Next::Start) && self.pods.contains(node)
    }

    /// Whether a node that is lost has no pod any more, so that nothing of it will come back.
    pub(crate) fn is_gone(&self, node: &NodeKey) -> bool {
        let is_known = self.doors.of(&node.namespace, "") != Availability::Unknown;
        is_known && self.is_lost(node) && !self.pods.contains(node)
    }

    /// The pool's nodes that live and take publishers, in the order of their names.
    pub(crate) fn open(&self, namespace: &str, pool: &str) -> Vec<String> {
        let is_open = |(key, node): &(&NodeKey, &Node)| {
            let is_alive = !node.lost && node.renewal.is_some();
            is_alive && key.namespace == namespace && node.pool.as_deref() == Some(pool) && self.doors.takes(key)
        };
        self.nodes.iter().filter(is_open).map(|(key, _)| key.name.clone()).collect()
    }

    /// All Leases, or all pods, of a watched namespace are known.
    pub(crate) fn listed(&mut self, what: Listed, place: &Place) -> Option<Change> {
        self.doors.listed(what, place).then(|| Change::Listed { place: place.clone() })
    }

    /// Whether a pool takes publishers, as of the last [`Nodes::settle`].
    pub(crate) fn availability(&self, namespace: &str, pool: &str) -> Availability {
        self.doors.of(namespace, pool)
    }

    /// Says which pools take publishers now that took none, or the other way round for a while.
    pub(crate) fn settle(&mut self, now: Instant) -> Vec<Change> {
        let alive = self.nodes.iter().filter(|(_, node)| !node.lost && node.renewal.is_some());
        let alive = alive.filter_map(|(key, node)| Some((key, node.pool.as_deref()?)));
        let turned = self.doors.settle(alive, now);
        let told = |pool: Key| Change::Turned { now: self.availability(&pool.namespace, &pool.name), pool };
        turned.into_iter().map(told).collect()
    }

    fn lose(&mut self, node: &NodeKey, cause: Cause) -> Option<Change> {
        let entry = self.nodes.get_mut(node)?;
        if std::mem::replace(&mut entry.lost, true) {
            return None;
        }
        self.doors.node_changed();
        Some(Change::Lost { node: node.clone(), pool: entry.pool.clone(), cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    struct Clock(Instant);

    impl Clock {
        fn after(&mut self, seconds: u64) -> Instant {
            self.0 += Duration::from_secs(seconds);
            self.0
        }
    }

    fn node(name: &str) -> NodeKey {
        Key { namespace: "default".into(), name: name.into() }
    }

    fn start() -> (Nodes, Clock) {
        let mut nodes = Nodes::new(LEASE);
        let clock = Clock(Instant::now());
        let found = nodes.lease(node("a"), Some("live".into()), "r1", clock.0);
        assert_eq!(found, Some(Change::Found { node: node("a"), pool: Some("live".into()) }));
        (nodes, clock)
    }

    fn lost(cause: Cause) -> Change {
        Change::Lost { node: node("a"), pool: Some("live".into()), cause }
    }

    #[test]
    fn a_node_that_renews_is_never_suspected() {
        let (mut nodes, mut clock) = start();
        for round in 0..20 {
            let now = clock.after(5);
            assert_eq!(nodes.suspects(now), []);
            assert_eq!(nodes.lease(node("a"), Some("live".into()), &format!("r{round}x"), now), None);
            assert_eq!(nodes.expire(), []);
        }
    }

    #[test]
    fn a_silent_node_is_lost_after_its_lease_while_the_connection_works() {
        let (mut nodes, mut clock) = start();
        let mut seconds = 0;
        let changes = loop {
            let now = clock.after(2);
            seconds += 2;
            if !nodes.suspects(now).is_empty() || seconds < 6 {
                // The probe reads the same renewal as before.
                assert_eq!(nodes.lease(node("a"), Some("live".into()), "r1", now), None);
            }
            let changes = nodes.expire();
            if !changes.is_empty() {
                break changes;
            }
        };
        assert_eq!(changes, [lost(Cause::LeaseExpired)]);
        assert!((15..=20).contains(&seconds), "{seconds} s");
        assert!(nodes.is_lost(&node("a")));
        assert_eq!(nodes.expire(), [], "it is lost once");
    }

    #[test]
    fn an_outage_of_the_api_server_is_not_node_loss() {
        let (mut nodes, mut clock) = start();
        nodes.contact(clock.after(3));
        // five minutes
        for _ in 0..150 {
            let now = clock.after(2);
            assert!(nodes.suspects(now).len() <= 1);
            nodes.lost_contact();
            assert_eq!(nodes.expire(), []);
        }
        // It is back; the node has not renewed yet.
        assert_eq!(nodes.lease(node("a"), Some("live".into()), "r1", clock.after(2)), None);
        assert_eq!(nodes.lease(node("a"), Some("live".into()), "r1", clock.after(2)), None);
        assert_eq!(nodes.expire(), []);
        assert_eq!(nodes.lease(node("a"), Some("live".into()), "r2", clock.after(1)), None);
        assert_eq!(nodes.suspects(clock.after(1)), []);
    }

    #[test]
    fn time_in_which_this_process_was_frozen_does_not_count() {
        let (mut nodes, mut clock) = start();
        assert_eq!(nodes.lease(node("a"), Some("live".into()), "r1", clock.after(3600)), None);
        assert_eq!(nodes.expire(), []);
    }

    #[test]
    fn a_pod_that_is_gone_takes_its_node_along() {
        let (mut nodes, mut clock) = start();
        assert_eq!(nodes.pods_listed(None, &BTreeSet::from([node("a"), node("b")])), []);
        assert_eq!(nodes.pods_listed(None, &BTreeSet::from([node("b")])), [lost(Cause::PodGone)]);
        assert_eq!(nodes.pod_gone(&node("a")), None, "once");
        let back = nodes.lease(node("a"), Some("live".into()), "r2", clock.after(1));
        assert!(matches!(back, Some(Change::Found { .. })));
    }

    #[test]
    fn a_container_that_died_takes_its_node_along_until_the_next_one_renews() {
        let (mut nodes, mut clock) = start();
        nodes.pod(node("a"), true);
        assert_eq!(nodes.container_down(&node("a"), Next::Start), Some(lost(Cause::ContainerDown)));
        assert_eq!(nodes.container_down(&node("a"), Next::Start), None, "once");
        assert!(nodes.is_lost(&node("a")) && nodes.starts_again(&node("a")));
        nodes.container_down(&node("a"), Next::Nothing);
        assert!(!nodes.starts_again(&node("a")), "the pod is over");
        assert!(nodes.lease(node("a"), Some("live".into()), "r2", clock.after(12)).is_some());
        assert!(!nodes.is_lost(&node("a")));
    }

    #[test]
    fn a_list_of_one_namespace_says_nothing_of_another() {
        let (mut nodes, _) = start();
        nodes.pod(node("a"), false);
        assert_eq!(nodes.pods_listed(Some("other"), &BTreeSet::new()), []);
        assert_eq!(nodes.pods_listed(Some("default"), &BTreeSet::new()), [lost(Cause::PodGone)]);
    }

    #[test]
    fn a_node_that_only_a_session_names_is_lost_after_its_lease() {
        let mut nodes = Nodes::new(LEASE);
        let mut clock = Clock(Instant::now());
        nodes.expect(&node("gone"), clock.0);
        nodes.contact(clock.0);
        let mut changes = vec![];
        for _ in 0..8 {
            nodes.contact(clock.after(2));
            changes.extend(nodes.expire());
        }
        assert!(matches!(&changes[..], [Change::Lost { node, .. }] if node.name == "gone"));
    }
}
