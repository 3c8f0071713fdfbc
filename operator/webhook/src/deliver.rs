//! Drives the lanes: one task for each Broadcast with events that wait, none for the others.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use json_patch::PatchOperation;
use ledger::Store;
use prometheus_client::registry::Registry;
use tallylight_crds::{Broadcast, BroadcastStatus};
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    http::Client,
    lane::{Activity, Lane},
    settings::{ResolveError, Settings},
};

mod attempt;
mod metrics;
mod task;
use metrics::Metrics;
use task::Task;

/// Requests in flight at once, over all lanes. With a receiver next door it is never reached (1 ms each); with receivers
/// that hang for their 10 s it lets 51 of them a second fail. When it is full, lanes wait their turn in order. Each costs
/// a socket, so it stays below the 1,024 open files that many systems allow.
const MAX_POSTS: usize = 512;

/// Finds out how a Broadcast's events are sent: asked anew at every attempt.
pub trait Resolver: Send + Sync + 'static {
    /// Settles the settings, for which [`Settings::of`] has the rules.
    fn settings(&self, broadcast: &Broadcast) -> impl Future<Output = Result<Settings, ResolveError>> + Send;
}

/// Time as the lanes know it.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;
    fn sleep_until(&self, due: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// More operations for a patch that changes a status: given the Broadcast as it was and the status that the patch makes,
/// without these. They may touch what is not the ledger's: `/status/conditions`, `/status/observedGeneration`.
pub type Annotate = dyn Fn(&Broadcast, &BroadcastStatus) -> Vec<PatchOperation> + Send + Sync;

/// Told about a Broadcast whose lane turns.
pub type Tell = dyn Fn(&Broadcast, &Report) + Send + Sync;

/// What the owner of a [`Dispatcher`] may settle.
pub struct Options {
    /// Requests in flight at once, over all lanes.
    pub max_posts: usize,
    pub annotate: Box<Annotate>,
    /// Told when a lane turns: its first failure, its recovery, its stop.
    pub report: Box<Tell>,
    pub clock: Box<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_posts: MAX_POSTS,
            annotate: Box::new(|_, _| Vec::new()),
            report: Box::new(|_, _| {}),
            clock: Box::new(SystemClock),
        }
    }
}

/// News of a lane that a person may want to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub kind: ReportKind,
    /// How the attempt came out: `Delivered`, `Status`, `Timeout`, …
    pub class: &'static str,
    /// HTTP status, when there was an answer.
    pub status: Option<u16>,
    /// Which attempt of the event it was, from 1.
    pub attempt: u32,
    pub next_attempt: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportKind {
    /// The first failure after a success.
    Failing,
    /// The first success after a failure.
    Recovered,
    /// The receiver answered 410: nothing more is sent until the spec changes.
    Gone,
}

/// Delivers the events of the Broadcasts that it is shown. Clones are the same dispatcher.
pub struct Dispatcher<S, R>(Arc<Shared<S, R>>);

impl<S, R> Clone for Dispatcher<S, R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Shared<S, R> {
    store: S,
    resolver: R,
    client: Client,
    options: Options,
    posts: Semaphore,
    metrics: Metrics,
    cancel: CancellationToken,
    tasks: TaskTracker,
    /// By UID.
    lanes: Mutex<BTreeMap<String, Entry>>,
}

enum Entry {
    Active(watch::Sender<News>),
    /// All is delivered and acknowledged up to here, and readings from before that may still arrive: their events are not
    /// to be sent again.
    Settled(i64),
}

/// What a lane's task is told.
#[derive(Clone)]
struct News {
    broadcast: Arc<Broadcast>,
    /// Grows when the settings may have changed.
    wakes: u64,
}

impl<S: Store, R: Resolver> Dispatcher<S, R> {
    /// Makes a dispatcher, and its metrics in `registry`.
    #[must_use]
    pub fn new(store: S, resolver: R, client: Client, options: Options, registry: &mut Registry) -> Self {
        Self(Arc::new(Shared {
            store,
            resolver,
            client,
            posts: Semaphore::new(options.max_posts),
            options,
            metrics: Metrics::register(registry),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
            lanes: Mutex::default(),
        }))
    }

    /// Takes in a Broadcast as it was read: at start, and whenever it changes. Costs next to nothing when none of its events
    /// wait. Must be called within a tokio runtime.
    pub fn observe(&self, broadcast: &Arc<Broadcast>) {
        let Some((uid, status)) = broadcast.metadata.uid.as_deref().zip(broadcast.status.as_ref()) else {
            return;
        };
        let (acked, last) = (status.hooks.acked_sequence, status.hooks.last_sequence);
        let mut lanes = self.0.lock();
        let settled = match lanes.get(uid) {
            Some(Entry::Active(news)) if !news.is_closed() => {
                news.send_modify(|news| news.broadcast = broadcast.clone());
                return;
            }
            Some(Entry::Active(_)) | None => 0,
            Some(Entry::Settled(settled)) => *settled,
        };
        if !status.hooks.pending.is_empty() && last > settled && !self.0.cancel.is_cancelled() {
            let news = self.start(broadcast, settled);
            lanes.insert(uid.to_owned(), Entry::Active(news));
        } else if acked >= settled {
            lanes.remove(uid);
        }
    }

    fn start(&self, broadcast: &Arc<Broadcast>, settled: i64) -> watch::Sender<News> {
        let (sender, news) = watch::channel(News { broadcast: broadcast.clone(), wakes: 0 });
        let lane = Lane::load(broadcast, settled, self.0.options.clock.now());
        let task = Task {
            shared: self.0.clone(),
            news,
            look: lane.activity() != Activity::Delivering,
            lane,
            known: broadcast.clone(),
            gauge: self.0.metrics.gauge(),
            wakes: 0,
            settings: None,
            writes_failed: 0,
            write_not_before: None,
        };
        // `run` waits for it.
        drop(self.0.tasks.spawn(task.run()));
        sender
    }

    /// Drops what is known of a Broadcast that is gone; a request in flight is cut off.
    pub fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    /// Tells that a MediaPool was read, or is gone: those of its lanes that wait, or were stopped, try again at once if their
    /// settings are others now.
    pub fn wake_pool(&self, namespace: &str, pool: &str) {
        for entry in self.0.lock().values() {
            if let Entry::Active(news) = entry {
                news.send_if_modified(|news| {
                    let of_pool = news.broadcast.spec.pool == pool
                        && news.broadcast.metadata.namespace.as_deref() == Some(namespace);
                    news.wakes += u64::from(of_pool);
                    of_pool
                });
            }
        }
    }

    /// Waits for `cancel`, then lets requests in flight end and their acknowledgements be written, for up to 5 s. Afterwards
    /// nothing is sent any more.
    pub async fn run(&self, cancel: CancellationToken) {
        cancel.cancelled().await;
        self.0.cancel.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl<S, R> Shared<S, R> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, broadcast: &Broadcast) {
        self.lock().remove(broadcast.metadata.uid.as_deref().unwrap_or_default());
    }

    /// Ends a lane that has nothing to do, unless there is news that its task has not heard.
    fn retire(&self, broadcast: &Broadcast, news: &watch::Receiver<News>, settled: i64) -> bool {
        let mut lanes = self.lock();
        match news.has_changed() {
            Ok(true) => return false,
            Err(_forgotten) => return true,
            Ok(false) => {}
        }
        let uid = broadcast.metadata.uid.clone().unwrap_or_default();
        let shown = news.borrow().broadcast.status.as_ref().map_or(0, |status| status.hooks.acked_sequence);
        if shown >= settled {
            lanes.remove(&uid);
        } else {
            lanes.insert(uid, Entry::Settled(settled));
        }
        true
    }
}

struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the driver is where the lanes get their time from")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn sleep_until(&self, due: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let wait = due.duration_since(self.now());
        Box::pin(tokio::time::sleep(wait.try_into().unwrap_or_default()))
    }
}

#[cfg(test)]
mod crashes;
#[cfg(test)]
mod documented_receiver;
#[cfg(test)]
mod tests;
