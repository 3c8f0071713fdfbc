//! One muxing of each stream that is published to this node, shared by all who want fragmented MP4 of it: LL-HLS and a
//! recorder. It decides when a muxing begins and ends; what it makes is `mux`'s, and what of it lags `follower`'s.
//!
//! Fragments are shared and payloads never copied. All who wait for what comes next are woken once a part.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use jiff::Timestamp;
use media_core::fanout::{Batch, Item, Read, Subscriber};
use mux::{
    Event, Init, Muxer, Policy,
    playlist::{Delta, Window, multivariant},
};
use tokio::{
    sync::{Notify, futures::Notified},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::hub::{Hub, Name, Stream};

mod follower;
mod text;

use follower::Queue;
pub use follower::{Fed, Follower};
pub(crate) use text::Text;
use text::Texts;

/// How long a muxing goes on that nobody asks for any more: a page that is loaded anew finds its playlist there.
const IDLE: Duration = Duration::from_secs(60);
/// Longest wait for a publisher that is away, when nobody says what became of its session: the longest reconnect window.
const AWAY: Duration = Duration::from_secs(3_660);
/// Discontinuities for each epoch of a session. A codec that changes and a clock that jumps are one each.
const DISCONTINUITIES: u64 = 16;
/// One read of the ring: all of a keyframe interval of some seconds, in a few steps.
const BATCH: Batch = Batch { packets: 512, bytes: 1 << 20 };

/// How many discontinuities playlists of a stream have had, at most, by the time that its session has this epoch. Each time that a
/// publisher is on air, wherever, has some numbers of its own, so that a player sees that what comes does not go on with what it
/// has. After more than 16 in one such time they may be taken twice.
#[must_use]
pub fn discontinuities_before(epoch: i64) -> u64 {
    u64::try_from(epoch).unwrap_or(0).saturating_mul(DISCONTINUITIES)
}

/// When streams are muxed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// When somebody wants it.
    OnDemand,
    /// When they are published.
    AtPublish,
}

/// How streams are muxed.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub begin: Begin,
    pub policy: Policy,
    /// How far back viewers may seek.
    pub window: Duration,
}

/// All muxings of a node. Clones share them.
#[derive(Clone, Debug)]
pub struct Packagers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hub: Hub,
    settings: Settings,
    all: Mutex<HashMap<Name, Arc<Packaged>>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// A publisher has gone away that is awaited.
    parked: Notify,
}

/// The muxing of one stream.
#[derive(Debug)]
pub struct Packaged {
    name: Name,
    /// What its numbers begin with.
    first: u32,
    output: Mutex<Output>,
    /// Something was added to the output. One `Notify` and no `watch`, whose eight lists answer in any order: who has waited
    /// longest is woken first, so that nobody waits for two rounds of all others.
    changed: Notify,
    /// A publisher has come, or somebody knows what became of the one that is away.
    news: Notify,
}

/// What has been made of a stream.
#[derive(Debug)]
struct Output {
    window: Window,
    /// Counts what was added.
    version: u64,
    state: State,
    init: Option<Arc<Init>>,
    followers: Vec<Arc<Queue>>,
    texts: Texts,
    last_asked: Instant,
}

/// What is known of a muxing's publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is here.
    Flowing,
    /// It is away, and awaited.
    Parked,
    /// It is gone for good: players finish what there is.
    Ended,
    /// The muxing has been given up: nobody wanted it, the node shuts down, or the stream goes on elsewhere.
    GivenUp,
}

impl Packagers {
    /// Makes the muxings of a node; each is a task of `tasks` until it ends, or the node shuts down.
    #[must_use]
    pub fn new(hub: Hub, settings: Settings, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self(Arc::new(Inner { hub, settings, all: Mutex::default(), tasks, shutdown, parked: Notify::new() }))
    }

    /// How long segments last, where keyframes come in time.
    pub(crate) fn segment(&self) -> Duration {
        self.0.settings.policy.segment()
    }

    /// The muxing of a stream that is published here, begun when there is none yet; `None` when nobody publishes it here.
    #[must_use]
    pub fn of(&self, name: &Name) -> Option<Arc<Packaged>> {
        let mut all = self.all();
        let before = all.get(name).cloned();
        if let Some(packaged) = before.as_ref().filter(|packaged| packaged.goes_on()) {
            packaged.output().last_asked = Instant::now();
            return before;
        }
        let (stream, packets) = self.0.hub.subscribe(name)?;
        let first = before.map_or(0, |before| before.output().window.next().saturating_add(1));
        let discontinuities = stream.discontinuities().load(Ordering::Acquire);
        let packaged = Arc::new(Packaged::new(name.clone(), self.0.settings, first, discontinuities));
        all.insert(name.clone(), Arc::clone(&packaged));
        drop(all);
        let (packagers, muxed) = (self.clone(), Arc::clone(&packaged));
        let muxer = Muxer::numbered(self.0.settings.policy, packaged.first);
        self.0.tasks.spawn(async move { packagers.run(&muxed, muxer, stream, packets).await });
        Some(packaged)
    }

    /// The muxing of a stream whose publisher is gone, for as long as players may finish.
    #[must_use]
    pub fn ended(&self, name: &Name) -> Option<Arc<Packaged>> {
        self.all().get(name).filter(|packaged| packaged.state() == State::Ended).cloned()
    }

    /// Takes note that a stream has a publisher here.
    pub fn published(&self, name: &Name) {
        let known = self.all().get(name).cloned();
        if let Some(packaged) = known.filter(|packaged| packaged.state() == State::Parked) {
            packaged.news.notify_one();
        } else if self.0.settings.begin == Begin::AtPublish {
            let _begun = self.of(name); // it lives without those who want it
        }
    }

    /// Streams whose publishers are away, as far as muxings of this node await them. Waits until there are some.
    pub(crate) async fn parked(&self) -> Vec<Name> {
        loop {
            let mut parked = std::pin::pin!(self.0.parked.notified());
            parked.as_mut().enable();
            let names: Vec<_> =
                self.all().values().filter(|p| p.state() == State::Parked).map(|p| p.name.clone()).collect();
            if !names.is_empty() {
                return names;
            }
            parked.await;
        }
    }

    /// Says what became of a stream whose publisher was away: it has ended, or goes on elsewhere.
    pub(crate) fn settle(&self, name: &Name, state: State) {
        let known = self.all().get(name).cloned();
        if let Some(packaged) = known {
            let mut output = packaged.output();
            if output.state == State::Parked {
                output.state = state;
                packaged.news.notify_one();
            }
        }
    }

    async fn run(&self, packaged: &Arc<Packaged>, mut muxer: Muxer, stream: Arc<Stream>, packets: Subscriber) {
        let name = &packaged.name;
        info!(app = name.app, stream = %name.id, "packaging.started");
        let mut source = Some((stream, packets));
        while let Some((stream, packets)) = source.take() {
            let left = self.mux(packaged, &mut muxer, stream, packets).await;
            packaged.take(&mut muxer, Muxer::end);
            source = match left {
                Left::Ended => {
                    packaged.settle(State::Ended);
                    None
                }
                Left::Deserted => None,
                Left::Parked => self.await_publisher(packaged).await,
            };
        }
        let skipped = muxer.take_skipped();
        info!(app = name.app, stream = %name.id, state = ?packaged.state(), ?skipped, "packaging.ended");
        if packaged.finish() == State::Ended {
            let kept = self.0.settings.window.max(packaged.output().window.length());
            let _shutting_down = self.0.shutdown.run_until_cancelled(sleep(kept)).await;
        }
        self.remove(packaged);
    }

    /// Muxes what a publisher sends until it leaves, or nobody wants it.
    async fn mux(
        &self,
        packaged: &Arc<Packaged>,
        muxer: &mut Muxer,
        stream: Arc<Stream>,
        mut packets: Subscriber,
    ) -> Left {
        let mut items: Vec<Item> = Vec::new();
        let mut look = Instant::now() + IDLE;
        loop {
            let mut more = std::pin::pin!(stream.more().notified());
            more.as_mut().enable();
            let is_published = stream.is_published();
            match packets.read(BATCH, &mut items) {
                Read::Some => packaged.take(muxer, |muxer, events| {
                    for item in items.drain(..) {
                        muxer.push(&item.packet, events);
                    }
                }),
                Read::UpToDate if is_published => tokio::select! {
                    () = more => {}
                    () = sleep_until(look) => match self.desert(packaged, &stream) {
                        Some(next) => look = next,
                        None => return Left::Deserted,
                    },
                },
                Read::UpToDate | Read::Ended if stream.is_parked() => return Left::Parked,
                Read::UpToDate | Read::Ended => return Left::Ended,
            }
            let skipped = packets.take_skipped();
            if skipped > 0 {
                let name = &packaged.name;
                warn!(app = name.app, stream = %name.id, skipped, "packaging has lost packets: the node has too little CPU");
            }
        }
    }

    /// Gives a muxing up that nobody has wanted for [`IDLE`]; else says when to look again.
    fn desert(&self, packaged: &Arc<Packaged>, stream: &Stream) -> Option<Instant> {
        let mut all = self.all();
        let mut output = packaged.output();
        output.followers.retain(|queue| queue.is_followed());
        let until = output.last_asked + IDLE;
        if self.0.settings.begin == Begin::AtPublish || !output.followers.is_empty() {
            return Some(Instant::now() + IDLE);
        }
        if until > Instant::now() {
            return Some(until);
        }
        output.state = State::GivenUp;
        // one at least: the next muxing of the stream does not go on with this one
        stream.discontinuities().store(output.window.discontinuities().max(1), Ordering::Release);
        drop(output);
        all.remove(&packaged.name);
        None
    }

    /// Waits for a publisher that is away; `None` when it does not come back to this node.
    async fn await_publisher(&self, packaged: &Arc<Packaged>) -> Option<(Arc<Stream>, Subscriber)> {
        packaged.park();
        self.0.parked.notify_waiters();
        let deadline = Instant::now() + AWAY;
        loop {
            if let Some(source) = self.0.hub.subscribe(&packaged.name) {
                packaged.settle(State::Flowing);
                return Some(source);
            }
            let news = async {
                tokio::select! {
                    () = packaged.news.notified() => true,
                    () = self.0.shutdown.cancelled() => false,
                }
            };
            let goes_on = timeout(deadline.saturating_duration_since(Instant::now()), news).await;
            match (packaged.state(), goes_on) {
                (State::Ended | State::GivenUp, _) => return None,
                (State::Flowing | State::Parked, Ok(true)) => {}
                (State::Flowing | State::Parked, Ok(false)) => {
                    packaged.settle(State::GivenUp);
                    return None;
                }
                (State::Flowing | State::Parked, Err(_elapsed)) => {
                    packaged.settle(State::Ended);
                    return None;
                }
            }
        }
    }

    /// Forgets a muxing, unless its name has another one by now.
    fn remove(&self, packaged: &Arc<Packaged>) {
        if let Entry::Occupied(entry) = self.all().entry(packaged.name.clone())
            && Arc::ptr_eq(entry.get(), packaged)
        {
            entry.remove();
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Name, Arc<Packaged>>> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a muxing has no packets any more.
enum Left {
    Ended,
    Parked,
    Deserted,
}

impl Packaged {
    /// `least` is the first number that may be taken. Numbers begin at the seconds since 1970, and segments last a second or
    /// longer: so those of a later muxing are greater, also on another node, and a name stands for one thing for ever.
    fn new(name: Name, settings: Settings, least: u64, discontinuities: u64) -> Self {
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
        let first = u32::try_from(now.max(least)).unwrap_or(u32::MAX);
        let output = Output {
            window: Window::numbered(settings.policy, settings.window, first, discontinuities),
            version: 0,
            state: State::Flowing,
            init: None,
            followers: Vec::new(),
            texts: Texts::default(),
            last_asked: Instant::now(),
        };
        Self { name, first, output: Mutex::new(output), changed: Notify::new(), news: Notify::new() }
    }

    /// Follows the muxing for a recorder: from its very begin when it has not begun, else from the next independent segment on;
    /// always `Init` first. Holds up to `bytes` of media; a follower that lags more loses whole segments and is told, then gets
    /// `Init` and goes on at an independent segment.
    #[must_use]
    pub fn follow(&self, bytes: usize) -> Follower {
        let mut output = self.output();
        let queue = Arc::new(Queue::new(bytes, output.init.clone()));
        match output.state {
            State::Flowing | State::Parked => output.followers.push(Arc::clone(&queue)),
            State::Ended | State::GivenUp => queue.end(),
        }
        Follower::new(queue)
    }

    /// What is known of the publisher.
    #[must_use]
    pub fn state(&self) -> State {
        self.output().state
    }

    /// Looks at what is in the window.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Window) -> T) -> T {
        look(&self.output().window)
    }

    /// The playlist as it is now.
    pub(crate) fn text(&self, delta: Delta) -> Arc<Text> {
        let output = &mut *self.output();
        output.texts.of(&output.window, delta, self.first, output.version)
    }

    /// The multivariant playlist, with the media playlist at `uri`; `None` before there is a whole segment.
    pub(crate) fn multivariant(&self, uri: &str) -> Option<Arc<Text>> {
        let output = self.output();
        let variant = output.window.variant(uri.to_owned())?;
        let tag = format!("{}-{}-m", self.first, output.version);
        Some(Text::new(multivariant(&[variant]), tag))
    }

    /// Waits for the next change, counted from the call: who looks after it misses none.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    fn goes_on(&self) -> bool {
        match self.state() {
            State::Flowing | State::Parked => true,
            State::Ended | State::GivenUp => false,
        }
    }

    /// Adds what comes of `work` on the muxer.
    fn take(&self, muxer: &mut Muxer, work: impl FnOnce(&mut Muxer, &mut Vec<Event>)) {
        let mut events = Vec::new();
        work(muxer, &mut events);
        if events.is_empty() {
            return;
        }
        let mut output = self.output();
        output.window.extend(&events, Timestamp::now());
        for event in events {
            match &event {
                Event::Init(init) => output.init = Some(Arc::clone(init)),
                Event::Unsupported(unsupported) => {
                    info!(app = self.name.app, stream = %self.name.id, %unsupported, "a track is left out");
                }
                Event::Discontinuity(reason) => {
                    debug!(app = self.name.app, stream = %self.name.id, ?reason, "the output begins anew");
                }
                Event::Part(_) | Event::SegmentEnd(_) => {}
            }
            output.followers.retain(|queue| queue.is_followed());
            output.followers.iter().for_each(|queue| queue.push(event.clone()));
        }
        output.version += 1;
        drop(output);
        self.changed.notify_waiters();
    }

    fn settle(&self, state: State) {
        self.output().state = state;
    }

    /// Tells followers that they have all of the publisher that has left.
    fn park(&self) {
        let mut output = self.output();
        output.state = State::Parked;
        output.followers.iter().for_each(|queue| queue.park());
    }

    /// Tells all that nothing follows; says how it was settled.
    fn finish(&self) -> State {
        let mut output = self.output();
        match output.state {
            State::Ended => output.window.end(),
            State::Flowing | State::Parked | State::GivenUp => output.state = State::GivenUp,
        }
        output.followers.drain(..).for_each(|queue| queue.end());
        output.version += 1;
        let state = output.state;
        drop(output);
        self.changed.notify_waiters();
        state
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
