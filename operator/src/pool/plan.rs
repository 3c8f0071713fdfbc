//! Decides which media pod of a pool to make, to stop or to remove, from what there is. Knows no client and no clock.
//!
//! Whatever is stopped is stopped softly: its sessions have the drain time. One pod is stopped at a time, and no session is
//! cut for the sake of fewer pods; only a pod of an outdated spec is stopped with sessions on air, after its replacement is ready.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

#[cfg(test)]
pub(super) mod tests;

/// How long a pool must have had more than it needs before a node goes: a publisher that reconnects must not cost a pod start.
pub(crate) const SCALE_IN_AFTER: Duration = Duration::from_secs(60);
/// How long a host port rests after its pod: connection tracking of the Kubernetes node may still know the old one
/// (UDP entries live up to 120 s).
pub(crate) const PORT_REST: Duration = Duration::from_secs(120);
/// A pod that is still there this long after its drain time is on a machine that does not answer: nothing waits for it any more.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// First and longest wait for a replacement after failed pods; doubled in between.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Without a failure for this long, the next one counts as the first.
const FORGIVE_AFTER: Duration = Duration::from_secs(600);
/// Pods made in one go: more are made after these were seen, so that an error costs no more than these.
const BATCH: usize = 20;

/// What a pool asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) min: usize,
    pub(crate) max: usize,
    /// Free sessions that ready nodes should have.
    pub(crate) min_ready: u32,
    pub(crate) limits: Limits,
    /// Host ports to give out, when pods have one.
    pub(crate) ports: Option<RangeInclusive<u16>>,
    pub(crate) drain: Duration,
    pub(crate) publishers: Publishers,
}

/// What publishers do when their node stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Publishers {
    /// They go on there for as long as the drain time lets them.
    Stay,
    /// They go on with their sessions at another node: the pool has a reconnect window.
    Move,
}

/// What one node carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) sessions: u32,
    pub(crate) megabits_out: Option<u32>,
    pub(crate) cpu_percent: Option<u32>,
}

/// What a node says of itself in its Lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Rounded up: 0 means that nobody watches.
    pub(crate) megabits_out: u32,
    pub(crate) cpu_percent: u32,
}

/// A media pod of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) state: State,
    pub(crate) revision: Revision,
    /// Sessions on air, from the Broadcasts.
    pub(crate) sessions: u32,
    pub(crate) load: Load,
    /// Grows with each pod of the pool: a creation time, which is in whole seconds, does not tell which pod is the younger.
    pub(crate) order: i64,
    pub(crate) port: Option<u16>,
    /// The port of the machine at which it has media of WebRTC.
    pub(crate) media_port: Option<u16>,
    /// Whether its label says that sessions hold it.
    pub(crate) labelled: Sessions,
    /// The Node of Kubernetes that it is on.
    pub(crate) machine: Option<Machine>,
    /// Where it is reached, as its annotation says.
    pub(crate) address: Option<String>,
    /// By which IP browsers reach its media from outside, as its annotation says.
    pub(crate) media_address: Option<String>,
}

/// A Node of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) name: String,
    /// As its kubelet says.
    pub(crate) ip: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// Not ready yet, or not any more.
    Starting,
    Ready,
    /// Its Lease has expired: Kubernetes will tell whether its machine comes back.
    Lost,
    /// It was told to stop.
    Draining,
    /// Its containers have ended and will not run again.
    Failed,
}

/// Whether a pod is made by the present spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Revision {
    Outdated,
    Current,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sessions {
    None,
    Live,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    /// What keeps the pool from what it asks for.
    pub(crate) obstacle: Option<Obstacle>,
    /// When to plan again though nothing has changed.
    pub(crate) again: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Write the label that the disruption budget looks for, or take it off.
    Label {
        name: String,
        uid: String,
        sessions: Sessions,
    },
    Create {
        port: Option<u16>,
        order: i64,
        why: Why,
    },
    /// Delete with the drain time as grace.
    Drain {
        name: String,
        uid: String,
        why: Why,
    },
    /// Delete a pod that has failed.
    Remove {
        name: String,
        uid: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    TooFew,
    LowCapacity,
    Outdated,
    TooMany,
    Idle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// There are maxNodes, and they have less free capacity than asked for.
    AtMaxNodes,
    /// Pods failed lately.
    Backoff,
    /// Every port of the range is in use or rests.
    NoFreePort,
}

/// What is remembered of a pool between plans. It may be lost: then ports are handed out by the newest pod's, and waits begin anew.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pods: BTreeMap<String, Known>,
    resting: BTreeMap<u16, Instant>,
    last_port: Option<u16>,
    failures: u32,
    failed_at: Option<Instant>,
    surplus_since: Option<Instant>,
    /// Name and UID of pods that were found lost since this was taken last: no more than there are pods.
    lost: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Known {
    port: Option<u16>,
    draining_since: Option<Instant>,
    counted: bool,
}

/// Plans for the pods that there are. The same view plans the same again.
pub(crate) fn plan(bounds: &Bounds, pods: &[Pod], memory: &mut Memory, now: Instant) -> Plan {
    memory.observe(pods, now);
    let next_order = pods.iter().map(|pod| pod.order).max().unwrap_or(0).saturating_add(1);
    let mut planner = Planner { bounds, pods, memory, now, next_order, taken: Vec::new(), plan: Plan::default() };
    planner.label();
    planner.remove_failed();
    if planner.grow() || planner.replace() || planner.is_draining() {
        planner.memory.surplus_since = None;
    } else {
        planner.shrink();
    }
    planner.plan
}

/// Free sessions of the ready nodes.
pub(crate) fn ready_capacity(bounds: &Bounds, pods: &[Pod]) -> u32 {
    pods.iter().filter(|pod| pod.state == State::Ready).map(|pod| pod.free(bounds.limits)).sum()
}

impl Pod {
    fn is_serving(&self) -> bool {
        matches!(self.state, State::Starting | State::Ready)
    }

    fn is_idle(&self) -> bool {
        self.sessions == 0 && self.load.megabits_out == 0
    }

    /// Sessions that it can still take; as many as it will, while it starts.
    fn free(&self, limits: Limits) -> u32 {
        let full = |load: u32, limit: Option<u32>| limit.is_some_and(|limit| load >= limit);
        if full(self.load.megabits_out, limits.megabits_out) || full(self.load.cpu_percent, limits.cpu_percent) {
            return 0;
        }
        limits.sessions.saturating_sub(self.sessions)
    }
}

impl Memory {
    fn observe(&mut self, pods: &[Pod], now: Instant) {
        let gone: Vec<String> =
            self.pods.keys().filter(|name| !pods.iter().any(|pod| pod.name == **name)).cloned().collect();
        for port in gone.iter().filter_map(|name| self.pods.remove(name)?.port) {
            self.resting.insert(port, now + PORT_REST);
        }
        self.resting.retain(|_, until| *until > now);
        if self.failed_at.is_some_and(|at| now.saturating_duration_since(at) >= FORGIVE_AFTER) {
            (self.failures, self.failed_at) = (0, None);
        }
        for pod in pods {
            let known = self.pods.entry(pod.name.clone()).or_default();
            known.port = pod.port;
            match pod.state {
                State::Draining => _ = known.draining_since.get_or_insert(now),
                State::Failed | State::Lost if !known.counted => {
                    known.counted = true;
                    if pod.state == State::Lost {
                        self.lost.push((pod.name.clone(), pod.uid.clone()));
                    }
                    self.failures = self.failures.saturating_add(1);
                    self.failed_at = Some(now);
                }
                State::Ready => known.counted = false,
                State::Failed | State::Lost | State::Starting => {}
            }
        }
        if self.last_port.is_none() {
            self.last_port =
                pods.iter().filter(|pod| pod.port.is_some()).max_by_key(|pod| pod.order).and_then(|p| p.port);
        }
    }

    /// Pods that were found lost since the last call.
    pub(crate) fn take_lost(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.lost)
    }

    /// When the next pod may be made.
    fn retry_at(&self) -> Option<Instant> {
        let doublings = self.failures.checked_sub(1)?.min(16);
        Some(self.failed_at? + BACKOFF.1.min(BACKOFF.0 * 2_u32.pow(doublings)))
    }

    /// A pod was made. Should it be gone before it is seen, its port rests all the same.
    pub(crate) fn made(&mut self, pod: String, port: Option<u16>) {
        self.last_port = port.or(self.last_port);
        self.pods.insert(pod, Known { port, ..Known::default() });
    }

    /// The next port after the one that was given out last, so that each rests as long as can be.
    fn free_port(&self, range: &RangeInclusive<u16>, taken: &[u16]) -> Option<u16> {
        let last = taken.last().copied().or(self.last_port);
        let after = last.filter(|last| range.contains(last)).unwrap_or_else(|| *range.end());
        let is_used = |port: &u16| taken.contains(port) || self.pods.values().any(|pod| pod.port == Some(*port));
        let mut in_turn = (after..=*range.end()).skip(1).chain(*range.start()..=after);
        in_turn.find(|port| !is_used(port) && !self.resting.contains_key(port))
    }
}

struct Planner<'a> {
    bounds: &'a Bounds,
    pods: &'a [Pod],
    memory: &'a mut Memory,
    now: Instant,
    /// Of the next pod that is made.
    next_order: i64,
    /// Ports that this plan gives out.
    taken: Vec<u16>,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn serving(&self) -> impl Iterator<Item = &'a Pod> + use<'a> {
        self.pods.iter().filter(|pod| pod.is_serving())
    }

    fn label(&mut self) {
        for pod in self.pods.iter().filter(|pod| !matches!(pod.state, State::Draining | State::Failed)) {
            let sessions = if self.is_held(pod) { Sessions::Live } else { Sessions::None };
            if pod.labelled != sessions {
                let (name, uid) = (pod.name.clone(), pod.uid.clone());
                self.plan.actions.push(Action::Label { name, uid, sessions });
            }
        }
    }

    /// Whether sessions would end if the pod were evicted. One of an outdated spec may have been made without the window.
    fn is_held(&self, pod: &Pod) -> bool {
        let may_end = self.bounds.publishers == Publishers::Stay || pod.revision == Revision::Outdated;
        pod.sessions > 0 && may_end
    }

    fn remove_failed(&mut self) {
        for pod in self.pods.iter().filter(|pod| pod.state == State::Failed) {
            self.plan.actions.push(Action::Remove { name: pod.name.clone(), uid: pod.uid.clone() });
        }
    }

    /// Makes what is missing. Says whether something is.
    fn grow(&mut self) -> bool {
        let count = self.serving().count();
        let too_few = self.bounds.min.saturating_sub(count);
        let free: u32 = self.serving().map(|pod| pod.free(self.bounds.limits)).sum();
        let deficit = self.bounds.min_ready.saturating_sub(free).div_ceil(self.bounds.limits.sessions.max(1));
        let deficit = usize::try_from(deficit).unwrap_or(usize::MAX);
        let room = self.bounds.max.saturating_sub(count);
        if deficit > room {
            self.plan.obstacle = Some(Obstacle::AtMaxNodes);
        }
        // Lost nodes may come back, and those that crash over and over look lost: replacements for them are bounded.
        let lost = self.pods.iter().filter(|pod| pod.state == State::Lost).count();
        let bound = (2 * self.bounds.max).saturating_sub(count + lost);
        let missing = too_few.max(deficit).min(room);
        let why = if too_few > 0 { Why::TooFew } else { Why::LowCapacity };
        for _ in 0..missing.min(bound).min(BATCH) {
            if !self.create(why) {
                break;
            }
        }
        missing > 0
    }

    /// Replaces outdated pods, one after another. Says whether there are any.
    fn replace(&mut self) -> bool {
        let outdated = || self.serving().filter(|pod| pod.revision == Revision::Outdated);
        let order = |pod: &&Pod| (pod.state, pod.sessions, pod.order);
        let Some(next) = outdated().min_by_key(order) else { return false };
        if self.is_draining() {
            return true;
        }
        // One that never became ready serves nobody: it needs no successor first.
        let is_useless = next.state == State::Starting && next.is_idle();
        let is_settling = self.serving().any(|pod| pod.state == State::Starting);
        if is_useless || (!is_settling && (self.can_spare(next) || self.serving().count() > self.bounds.max)) {
            self.drain(next, Why::Outdated);
        } else if !is_settling {
            self.create(Why::Outdated);
        }
        true
    }

    /// Stops an idle pod that is not needed.
    fn shrink(&mut self) {
        // What is not ready goes first, then the youngest.
        let order = |pod: &&Pod| (pod.state, Reverse(pod.order));
        let idle = || self.serving().filter(|pod| pod.is_idle());
        if self.serving().count() > self.bounds.max {
            if let Some(pod) = idle().min_by_key(order) {
                self.drain(pod, Why::TooMany);
            }
            return;
        }
        let surplus = idle().filter(|pod| self.can_spare(pod)).min_by_key(order);
        let Some(pod) = surplus else {
            self.memory.surplus_since = None;
            return;
        };
        let since = *self.memory.surplus_since.get_or_insert(self.now);
        let due = since + SCALE_IN_AFTER;
        if due <= self.now {
            self.drain(pod, Why::Idle);
        } else {
            self.again_at(due);
        }
    }

    /// Whether the pool has what it asks for without this pod, now.
    fn can_spare(&self, pod: &Pod) -> bool {
        let rest: Vec<Pod> = self.pods.iter().filter(|other| other.uid != pod.uid).cloned().collect();
        let ready = rest.iter().filter(|pod| pod.state == State::Ready).count();
        ready >= self.bounds.min && ready_capacity(self.bounds, &rest) >= self.bounds.min_ready
    }

    /// Whether a pod is on its way out, and still answers.
    fn is_draining(&self) -> bool {
        let longest = self.bounds.drain + STUCK_AFTER;
        let is_stuck = |pod: &Pod| {
            let since = self.memory.pods.get(&pod.name).and_then(|known| known.draining_since);
            since.is_some_and(|since| self.now.saturating_duration_since(since) >= longest)
        };
        self.pods.iter().any(|pod| pod.state == State::Draining && !is_stuck(pod))
    }

    fn create(&mut self, why: Why) -> bool {
        if let Some(at) = self.memory.retry_at().filter(|at| *at > self.now) {
            self.plan.obstacle = Some(Obstacle::Backoff);
            self.again_at(at);
            return false;
        }
        let port = match &self.bounds.ports {
            None => None,
            Some(range) => match self.memory.free_port(range, &self.taken) {
                Some(port) => Some(port),
                None => {
                    self.plan.obstacle = Some(Obstacle::NoFreePort);
                    if let Some(at) = self.memory.resting.values().min().copied() {
                        self.again_at(at);
                    }
                    return false;
                }
            },
        };
        self.taken.extend(port);
        let order = self.next_order;
        self.next_order = order.saturating_add(1);
        self.plan.actions.push(Action::Create { port, order, why });
        true
    }

    fn drain(&mut self, pod: &Pod, why: Why) {
        self.plan.actions.push(Action::Drain { name: pod.name.clone(), uid: pod.uid.clone(), why });
    }

    fn again_at(&mut self, at: Instant) {
        let wait = at.saturating_duration_since(self.now);
        self.plan.again = Some(self.plan.again.map_or(wait, |other| other.min(wait)));
    }
}
