//! The planner, rule by rule, and in a world where anything may happen.

use proptest::prelude::*;

use super::*;

const DRAIN: Duration = Duration::from_secs(600);

fn bounds(min: usize, max: usize) -> Bounds {
    let limits = Limits { sessions: 10, megabits_out: Some(100), cpu_percent: None };
    Bounds { min, max, min_ready: 0, limits, ports: None, drain: DRAIN, publishers: Publishers::Stay }
}

fn pod(name: &str, state: State) -> Pod {
    Pod {
        name: name.into(),
        uid: name.into(),
        state,
        revision: Revision::Current,
        sessions: 0,
        load: Load::default(),
        order: 0,
        port: None,
        media_port: None,
        labelled: Sessions::None,
        machine: None,
        address: None,
        media_address: None,
    }
}

pub(in crate::pool) fn ready(name: &str) -> Pod {
    pod(name, State::Ready)
}

fn with(sessions: u32, mut pod: Pod) -> Pod {
    pod.sessions = sessions;
    pod.labelled = if sessions > 0 { Sessions::Live } else { Sessions::None };
    pod
}

fn outdated(mut pod: Pod) -> Pod {
    pod.revision = Revision::Outdated;
    pod
}

fn at(port: u16, mut pod: Pod) -> Pod {
    pod.port = Some(port);
    pod
}

fn create(why: Why) -> Action {
    Action::Create { port: None, order: 0, why }
}

fn drain(name: &str, why: Why) -> Action {
    Action::Drain { name: name.into(), uid: name.into(), why }
}

fn once(bounds: &Bounds, pods: &[Pod]) -> Plan {
    let mut plan = plan(bounds, pods, &mut Memory::default(), Instant::now());
    for action in &mut plan.actions {
        if let Action::Create { order, .. } = action {
            *order = 0; // has a test of its own
        }
    }
    plan
}

pub(in crate::pool) fn nth(order: i64, mut pod: Pod) -> Pod {
    pod.order = order;
    pod
}

#[test]
fn a_pool_has_its_fewest_nodes() {
    assert_eq!(once(&bounds(2, 2), &[]).actions, [create(Why::TooFew), create(Why::TooFew)]);
    assert_eq!(once(&bounds(2, 2), &[pod("a", State::Starting)]).actions, [create(Why::TooFew)]);
    assert_eq!(once(&bounds(2, 2), &[ready("a"), pod("b", State::Starting)]), Plan::default());
}

#[test]
fn a_pool_grows_before_publishers_are_refused() {
    let bounds = Bounds { min_ready: 5, ..bounds(1, 3) };

    assert_eq!(once(&bounds, &[with(5, ready("a"))]), Plan::default());
    assert_eq!(once(&bounds, &[with(6, ready("a"))]).actions, [create(Why::LowCapacity)]);
    assert_eq!(once(&bounds, &[with(6, ready("a")), pod("b", State::Starting)]), Plan::default(), "one is on its way");
}

#[test]
fn a_node_at_its_limit_of_bandwidth_is_full() {
    let bounds = Bounds { min_ready: 1, ..bounds(1, 2) };
    let mut busy = ready("a");
    busy.load.megabits_out = 100;

    assert_eq!(once(&bounds, &[busy]).actions, [create(Why::LowCapacity)]);
}

#[test]
fn a_pool_at_its_most_nodes_says_so() {
    let bounds = Bounds { min_ready: 5, ..bounds(1, 1) };

    let plan = once(&bounds, &[with(9, ready("a"))]);

    assert_eq!((plan.actions, plan.obstacle), (vec![], Some(Obstacle::AtMaxNodes)));
}

#[test]
fn an_idle_node_that_is_not_needed_goes_after_a_while() {
    let (bounds, pods) = (bounds(1, 3), [with(1, ready("a")), ready("b"), ready("c")]);
    let (mut memory, start) = (Memory::default(), Instant::now());

    let first = plan(&bounds, &pods, &mut memory, start);
    assert_eq!((first.actions, first.again), (vec![], Some(SCALE_IN_AFTER)));
    let second = plan(&bounds, &pods, &mut memory, start + SCALE_IN_AFTER);
    assert!(matches!(&second.actions[..], [Action::Drain { why: Why::Idle, name, .. }] if name != "a"), "{second:?}");
}

#[test]
fn nodes_with_sessions_or_viewers_are_never_stopped_for_fewer_nodes() {
    let mut watched = ready("b");
    watched.load.megabits_out = 3;
    let (mut memory, start) = (Memory::default(), Instant::now());

    for seconds in [0, 61, 600] {
        let pods = [with(1, ready("a")), watched.clone()];
        assert_eq!(plan(&bounds(0, 1), &pods, &mut memory, start + Duration::from_secs(seconds)), Plan::default());
    }
}

#[test]
fn one_node_is_stopped_at_a_time() {
    let bounds = bounds(1, 1);
    let pods = [ready("a"), ready("b"), ready("c")];

    assert_eq!(once(&bounds, &pods).actions.len(), 1);
    assert_eq!(once(&bounds, &[ready("a"), ready("b"), pod("c", State::Draining)]), Plan::default());
}

#[test]
fn the_youngest_idle_node_goes_first_though_all_were_made_in_one_second() {
    let pods = [nth(3, ready("a")), nth(1, ready("b")), nth(2, ready("c"))];
    assert_eq!(once(&bounds(2, 2), &pods).actions, [drain("a", Why::TooMany)]);

    let grown = plan(&bounds(5, 5), &pods, &mut Memory::default(), Instant::now());

    let orders = grown.actions.iter().map(|action| match action {
        Action::Create { order, .. } => *order,
        _ => 0,
    });
    assert_eq!(orders.collect::<Vec<_>>(), [4, 5]);
}

#[test]
fn a_node_that_does_not_end_holds_up_nothing_for_ever() {
    let bounds = bounds(1, 1);
    let pods = [ready("a"), ready("b"), pod("c", State::Draining)];
    let (mut memory, start) = (Memory::default(), Instant::now());

    assert_eq!(plan(&bounds, &pods, &mut memory, start), Plan::default());
    let later = plan(&bounds, &pods, &mut memory, start + DRAIN + STUCK_AFTER);
    assert_eq!(later.actions.len(), 1);
}

#[test]
fn an_update_makes_a_new_node_before_an_old_one_stops() {
    let bounds = bounds(2, 2);
    let (live, idle) = (outdated(with(3, ready("live"))), outdated(ready("idle")));

    assert_eq!(once(&bounds, &[live.clone(), idle.clone()]).actions, [create(Why::Outdated)]);
    let starting = pod("new", State::Starting);
    assert_eq!(once(&bounds, &[live.clone(), idle.clone(), starting]), Plan::default());
    assert_eq!(once(&bounds, &[live.clone(), idle, ready("new")]).actions, [drain("idle", Why::Outdated)]);
    assert_eq!(once(&bounds, &[live.clone(), ready("new"), pod("idle", State::Draining)]), Plan::default());
    assert_eq!(once(&bounds, &[live.clone(), ready("new")]).actions, [create(Why::Outdated)]);
    assert_eq!(once(&bounds, &[live, ready("new"), ready("newer")]).actions, [drain("live", Why::Outdated)]);
}

#[test]
fn an_update_replaces_what_never_became_ready_at_once() {
    let broken = outdated(pod("broken", State::Starting));

    assert_eq!(once(&bounds(1, 1), &[broken]).actions, [drain("broken", Why::Outdated)]);
}

#[test]
fn a_failed_pod_is_removed_and_replaced_with_growing_pauses() {
    let (bounds, mut memory, mut now) = (bounds(1, 1), Memory::default(), Instant::now());
    let mut pauses = vec![];
    for round in 0..12 {
        let failed = pod(&format!("f{round}"), State::Failed);
        let plan = plan(&bounds, &[failed], &mut memory, now);
        let removal = Action::Remove { name: format!("f{round}"), uid: format!("f{round}") };
        assert_eq!((plan.actions, plan.obstacle), (vec![removal], Some(Obstacle::Backoff)));
        let pause = plan.again.unwrap();
        pauses.push(pause.as_secs());
        now += pause;
        let next = super::plan(&bounds, &[], &mut memory, now).actions;
        assert_eq!(next, [Action::Create { port: None, order: 1, why: Why::TooFew }]);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    now += FORGIVE_AFTER;
    let plan = plan(&bounds, &[pod("late", State::Failed)], &mut memory, now);
    assert_eq!(plan.again, Some(Duration::from_secs(1)));
}

#[test]
fn nodes_that_crash_over_and_over_do_not_multiply() {
    let bounds = bounds(2, 2);
    let lost = [pod("a", State::Lost), pod("b", State::Lost), pod("c", State::Lost), pod("d", State::Lost)];
    let (mut memory, start) = (Memory::default(), Instant::now());

    plan(&bounds, &lost, &mut memory, start);
    let later = plan(&bounds, &lost, &mut memory, start + Duration::from_secs(300));

    assert_eq!(later.actions, []);
}

#[test]
fn the_label_follows_the_sessions() {
    let mut begun = with(1, ready("begun"));
    begun.labelled = Sessions::None;
    let mut over = ready("over");
    over.labelled = Sessions::Live;

    let plan = once(&bounds(2, 2), &[begun, over]);

    let label = |name: &str, sessions| Action::Label { name: name.into(), uid: name.into(), sessions };
    assert_eq!(plan.actions, [label("begun", Sessions::Live), label("over", Sessions::None)]);
}

#[test]
fn with_a_reconnect_window_only_nodes_of_an_older_spec_are_held() {
    let bounds = Bounds { publishers: Publishers::Move, ..bounds(3, 3) };
    let labels = |pods: &[Pod]| {
        let actions = once(&bounds, pods).actions;
        actions.into_iter().filter(|action| matches!(action, Action::Label { .. })).collect::<Vec<_>>()
    };
    let label = |name: &str, sessions| Action::Label { name: name.into(), uid: name.into(), sessions };

    assert_eq!(labels(&[with(1, ready("a")), ready("b"), ready("c")]), [label("a", Sessions::None)]);
    assert_eq!(labels(&[with(1, outdated(ready("a"))), ready("b"), ready("c")]), []);
}

#[test]
fn a_port_rests_after_its_pod() {
    let bounds = Bounds { ports: Some(7000..=7002), ..bounds(1, 1) };
    let (mut memory, start) = (Memory::default(), Instant::now());
    let port = |plan: &Plan| match plan.actions[..] {
        [Action::Create { port, .. }] => port,
        _ => None,
    };
    for expected in [7000, 7001, 7002] {
        let plan = plan(&bounds, &[], &mut memory, start);
        assert_eq!(port(&plan), Some(expected));
        // It is gone before it is seen.
        memory.made(format!("p{expected}"), Some(expected));
    }

    let none = plan(&bounds, &[], &mut memory, start);
    assert_eq!((port(&none), none.obstacle, none.again), (None, Some(Obstacle::NoFreePort), Some(PORT_REST)));
    let rested = plan(&bounds, &[], &mut memory, start + PORT_REST);
    assert_eq!(port(&rested), Some(7000));
}

#[test]
fn a_new_operator_goes_on_after_the_newest_pods_port() {
    let bounds = Bounds { ports: Some(7000..=7009), ..bounds(3, 3) };
    let mut newest = at(7004, ready("b"));
    newest.order = 9;

    let plan = once(&bounds, &[at(7001, ready("a")), newest]);

    assert_eq!(plan.actions, [Action::Create { port: Some(7005), order: 0, why: Why::TooFew }]);
}

/// What may happen to a pool.
#[derive(Debug, Clone)]
enum Happening {
    Becomes(usize, State),
    Sessions(usize, u32),
    Watched(usize, u32),
    Goes(usize),
    Template,
    Bounds(usize, usize, u32),
    Time(u64),
    /// A new operator takes over.
    Forget,
}

fn happening() -> impl Strategy<Value = Happening> {
    let index = 0_usize..8;
    prop_oneof![
        4 => index.clone().prop_map(|i| Happening::Becomes(i, State::Ready)),
        1 => index.clone().prop_map(|i| Happening::Becomes(i, State::Starting)),
        1 => index.clone().prop_map(|i| Happening::Becomes(i, State::Failed)),
        1 => index.clone().prop_map(|i| Happening::Becomes(i, State::Lost)),
        3 => (index.clone(), 0_u32..12).prop_map(|(i, n)| Happening::Sessions(i, n)),
        1 => (index.clone(), 0_u32..120).prop_map(|(i, n)| Happening::Watched(i, n)),
        3 => index.prop_map(Happening::Goes),
        1 => Just(Happening::Template),
        1 => (0_usize..4, 0_usize..4, 0_u32..25).prop_map(|(min, more, ready)| Happening::Bounds(min, min + more, ready)),
        4 => (0_u64..100).prop_map(Happening::Time),
        1 => Just(Happening::Forget),
    ]
}

struct World {
    bounds: Bounds,
    pods: Vec<Pod>,
    memory: Memory,
    now: Instant,
    made: i64,
    /// When each port became free, in the eyes of one operator.
    freed: BTreeMap<u16, Instant>,
}

impl World {
    fn new() -> Self {
        let bounds = Bounds { ports: Some(7000..=7030), ..bounds(1, 2) };
        let (memory, now) = (Memory::default(), Instant::now());
        Self { bounds, pods: vec![], memory, now, made: 0, freed: BTreeMap::new() }
    }

    fn happens(&mut self, happening: &Happening) {
        let count = self.pods.len().max(1);
        match *happening {
            Happening::Becomes(i, state) => {
                if let Some(pod) = self.pods.get_mut(i % count).filter(|pod| pod.state != State::Draining) {
                    pod.state = state;
                    if state == State::Failed {
                        (pod.sessions, pod.load) = (0, Load::default());
                    }
                }
            }
            Happening::Sessions(i, sessions) => {
                if let Some(pod) = self.pods.get_mut(i % count).filter(|pod| pod.state == State::Ready) {
                    pod.sessions = sessions;
                }
            }
            Happening::Watched(i, megabits) => {
                if let Some(pod) = self.pods.get_mut(i % count).filter(|pod| pod.state == State::Ready) {
                    pod.load.megabits_out = megabits;
                }
            }
            Happening::Goes(i) => {
                if self.pods.get(i % count).is_some_and(|pod| pod.state == State::Draining) {
                    self.remove(i % count);
                }
            }
            Happening::Template => self.pods.iter_mut().for_each(|pod| pod.revision = Revision::Outdated),
            Happening::Bounds(min, max, min_ready) => {
                (self.bounds.min, self.bounds.max, self.bounds.min_ready) = (min, max, min_ready);
            }
            Happening::Time(seconds) => self.now += Duration::from_secs(seconds),
            Happening::Forget => (self.memory, self.freed) = (Memory::default(), BTreeMap::new()),
        }
    }

    fn remove(&mut self, index: usize) {
        let pod = self.pods.remove(index);
        self.freed.extend(pod.port.map(|port| (port, self.now)));
    }

    fn serving(&self) -> usize {
        self.pods.iter().filter(|pod| pod.is_serving()).count()
    }

    /// Plans, checks every promise, and does what was planned.
    fn step(&mut self) -> Result<Plan, TestCaseError> {
        let plan = plan(&self.bounds, &self.pods, &mut self.memory, self.now);
        let again = super::plan(&self.bounds, &self.pods, &mut self.memory, self.now);
        prop_assert_eq!(&plan, &again, "the same view plans the same");
        let drains = plan.actions.iter().filter(|action| matches!(action, Action::Drain { .. })).count();
        prop_assert!(drains <= 1, "one at a time: {:?}", plan);
        let creates = plan.actions.iter().filter(|action| matches!(action, Action::Create { .. })).count();
        if creates > 0 {
            prop_assert!(self.serving() + creates <= self.bounds.max + 1, "at most one more than maxNodes: {:?}", plan);
        }
        for action in &plan.actions {
            self.apply(action)?;
        }
        Ok(plan)
    }

    fn apply(&mut self, action: &Action) -> Result<(), TestCaseError> {
        let find = |pods: &[Pod], name: &str| pods.iter().position(|pod| pod.name == name).expect("it is there");
        match action {
            Action::Label { name, sessions, .. } => {
                let index = find(&self.pods, name);
                prop_assert_eq!(*sessions == Sessions::Live, self.pods[index].sessions > 0);
                self.pods[index].labelled = *sessions;
            }
            Action::Create { port, .. } => {
                let port = port.expect("the pool has a range");
                prop_assert!(!self.pods.iter().any(|pod| pod.port == Some(port)), "{port} is in use");
                let freed = self.freed.get(&port);
                prop_assert!(freed.is_none_or(|at| self.now >= *at + PORT_REST), "{port} rests");
                self.made += 1;
                self.memory.made(format!("p{}", self.made), Some(port));
                let mut new = at(port, pod(&format!("p{}", self.made), State::Starting));
                new.order = self.made;
                self.pods.push(new);
            }
            Action::Drain { name, why, .. } => {
                let index = find(&self.pods, name);
                let pod = &self.pods[index];
                prop_assert!(pod.is_serving());
                prop_assert!(pod.is_idle() || *why == Why::Outdated, "sessions are cut for fewer nodes: {pod:?}");
                if *why == Why::Outdated {
                    prop_assert_eq!(pod.revision, Revision::Outdated);
                }
                if *why == Why::Idle {
                    prop_assert!(self.serving() > self.bounds.min);
                }
                self.pods[index].state = State::Draining;
            }
            Action::Remove { name, .. } => {
                let index = find(&self.pods, name);
                prop_assert_eq!(self.pods[index].state, State::Failed);
                self.remove(index);
            }
        }
        Ok(())
    }

    /// Nothing bad happens any more: pods become ready, drains end, streams end, time passes.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for pod in &mut self.pods {
            (pod.sessions, pod.load) = (0, Load::default());
        }
        for _ in 0..200 {
            self.now += SCALE_IN_AFTER;
            self.pods.retain(|pod| pod.state != State::Draining);
            for pod in &mut self.pods {
                if matches!(pod.state, State::Starting | State::Lost) {
                    pod.state = State::Ready;
                }
            }
            self.step()?;
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn whatever_happens_promises_are_kept_and_the_pool_settles(happenings in prop::collection::vec(happening(), 0..80)) {
        let mut world = World::new();
        for happening in &happenings {
            world.happens(happening);
            world.step()?;
        }
        world.settle()?;

        let (count, bounds) = (world.serving(), world.bounds.clone());
        prop_assert!((bounds.min..=bounds.max).contains(&count), "{} nodes for {:?}", count, bounds);
        prop_assert!(world.pods.iter().all(|pod| pod.revision == Revision::Current));
        let enough = ready_capacity(&bounds, &world.pods) >= bounds.min_ready;
        prop_assert!(enough || count == bounds.max);
        let plan = world.step()?;
        prop_assert_eq!(plan.actions, vec![], "a pool that has what it asks for is left alone");
    }
}
