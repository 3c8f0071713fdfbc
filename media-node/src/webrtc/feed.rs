//! A stream that has viewers over WebRTC: one task reads its ring, makes frames of RTP payloads once for all, and gives them to the
//! workers. It begins with the first viewer and ends a while after the last.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use media_core::fanout::{Batch, Item, Read, Subscriber};
use media_webrtc::{
    clock::Wallclock,
    pool::{Pool, StreamId},
    sdp::Codec,
    source::{Layer, Track},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info};

use super::{
    metrics::Metrics,
    tracks::{Obstacle, Sendable, Sent, Sound, Tracks, are_alike},
};
use crate::hub::{Name, Stream, Viewer};

/// One read of the ring. Its last packets decide what of its sound is made.
const BATCH: Batch = Batch { packets: 8_192, bytes: usize::MAX };

/// How long a stream without viewers is prepared on: a page that is loaded anew finds it ready.
const LINGER: Duration = Duration::from_secs(5);

/// How long a track is waited for that has not come when another one has, in media and on the wall: publishers send both at once.
const BOTH: Duration = Duration::from_millis(500);

/// Longest wait of a viewer for the stream's first media.
const START: Duration = Duration::from_secs(5);

/// The streams of a node that have viewers over WebRTC.
#[derive(Clone)]
pub(crate) struct Feeds(Arc<Inner>);

struct Inner {
    pool: Arc<Pool>,
    metrics: Metrics,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    /// By the address of the stream, which is there for as long as its entry is.
    all: Mutex<HashMap<usize, Arc<Feed>>>,
    /// The last stream that the workers were told of.
    last: AtomicU64,
}

/// What is known of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Looking,
    Open(Offering),
    Refused(Obstacle),
    Over,
}

/// What a viewer may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offering {
    pub(crate) stream: StreamId,
    tracks: Arc<[Track]>,
}

impl Offering {
    /// Those of its tracks.
    pub(crate) fn codecs(&self) -> Vec<Codec> {
        self.tracks.iter().map(|track| track.codec).collect()
    }

    /// Where a frame of the first encoding belongs; `None` when what the stream is made of has changed.
    fn track(&self, codec: Codec) -> Option<usize> {
        self.tracks.iter().position(|known| are_alike(&[*known], &[codec.into()]))
    }

    /// Where a frame belongs. One of an encoding that is not known is left out.
    fn layer(&self, sent: &Sent) -> Option<Layer> {
        let track = self.track(sent.codec)?;
        let is_known = self.tracks.get(track).is_some_and(|known| sent.layer < known.layers);
        is_known.then_some(Layer { track, layer: sent.layer })
    }
}

/// Why a viewer is not sent a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Obstacle(Obstacle),
    /// It has ended, or nothing came of it.
    NoMedia,
}

#[derive(Debug)]
struct Feed {
    name: Name,
    stream: Arc<Stream>,
    state: watch::Sender<State>,
    seats: AtomicUsize,
    /// A viewer has left.
    left: Notify,
}

/// A viewer's place at a stream: it counts as a viewer, and the stream is prepared, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    feed: Arc<Feed>,
    _viewer: Viewer,
}

impl Seat {
    pub(crate) fn stream(&self) -> &Stream {
        &self.feed.stream
    }

    /// Waits until it is known what the stream is made of.
    ///
    /// # Errors
    /// When it cannot be sent, or no media comes.
    pub(crate) async fn offering(&self) -> Result<Offering, Refused> {
        let mut state = self.feed.state.subscribe();
        let known = timeout(START, state.wait_for(|state| *state != State::Looking)).await;
        match known.map(|state| state.map(|state| state.clone())) {
            Ok(Ok(State::Open(offering))) => Ok(offering),
            Ok(Ok(State::Refused(obstacle))) => Err(Refused::Obstacle(obstacle)),
            Ok(Ok(State::Over | State::Looking) | Err(_)) | Err(_) => Err(Refused::NoMedia),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.feed.seats.fetch_sub(1, Ordering::AcqRel);
        self.feed.left.notify_one();
    }
}

impl Feeds {
    pub(super) fn new(pool: Arc<Pool>, metrics: Metrics, shutdown: CancellationToken, tasks: TaskTracker) -> Self {
        let (all, last) = (Mutex::default(), AtomicU64::default());
        Self(Arc::new(Inner { pool, metrics, shutdown, tasks, all, last }))
    }

    /// Seats a viewer of a stream, which is prepared from now on.
    pub(crate) fn seat(&self, name: &Name, viewer: Viewer) -> Seat {
        let mut all = self.all();
        let feed = match all.entry(key(&viewer.stream)) {
            Entry::Occupied(entry) => Arc::clone(entry.get()),
            Entry::Vacant(entry) => {
                let feed = Arc::new(Feed {
                    name: name.clone(),
                    stream: Arc::clone(&viewer.stream),
                    state: watch::Sender::new(State::Looking),
                    seats: AtomicUsize::new(0),
                    left: Notify::new(),
                });
                entry.insert(Arc::clone(&feed));
                self.0.tasks.spawn(self.clone().run(Arc::clone(&feed)));
                feed
            }
        };
        // under the lock: a stream is given up only without seats
        feed.seats.fetch_add(1, Ordering::AcqRel);
        drop(all);
        Seat { feed, _viewer: viewer }
    }

    async fn run(self, feed: Arc<Feed>) {
        let _counted = self.0.metrics.stream();
        let packets = feed.stream.subscribe();
        let mut feeding = Feeding { feeds: &self, feed: &feed, tracks: Tracks::new(), phase: Phase::new(), frames: 0 };
        let why = tokio::select! {
            biased;
            () = self.0.shutdown.cancelled() => "this node shuts down",
            () = self.deserted(&feed) => "the last viewer has left",
            () = feeding.run(packets) => "the stream has ended",
        };
        feeding.close();
        let frames = feeding.frames;
        self.remove(&feed);
        feed.state.send_replace(State::Over);
        info!(app = feed.name.app, stream = %feed.name.id, frames, why, "webrtc.stream.ended");
    }

    /// Returns when nobody has watched for a while; then nobody joins any more.
    async fn deserted(&self, feed: &Arc<Feed>) {
        loop {
            if feed.seats.load(Ordering::Acquire) > 0 {
                feed.left.notified().await;
                continue;
            }
            sleep(LINGER).await;
            let mut all = self.all();
            if feed.seats.load(Ordering::Acquire) == 0 {
                all.remove(&key(&feed.stream));
                return;
            }
        }
    }

    fn remove(&self, feed: &Arc<Feed>) {
        if let Entry::Occupied(entry) = self.all().entry(key(&feed.stream))
            && Arc::ptr_eq(entry.get(), feed)
        {
            entry.remove();
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<usize, Arc<Feed>>> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(stream: &Arc<Stream>) -> usize {
    Arc::as_ptr(stream).addr()
}

/// One stream on its way to the workers.
struct Feeding<'a> {
    feeds: &'a Feeds,
    feed: &'a Feed,
    tracks: Tracks,
    phase: Phase,
    /// That the workers were given.
    frames: u64,
}

enum Phase {
    /// It is not known yet what the stream is made of; what came so far waits, no longer than [`BOTH`].
    Looking {
        since: Option<Instant>,
        frames: Vec<Sent>,
    },
    Open(Offering),
    Refused,
}

impl Phase {
    fn new() -> Self {
        Self::Looking { since: None, frames: Vec::new() }
    }
}

impl Feeding<'_> {
    /// Returns when the stream has ended.
    async fn run(&mut self, mut packets: Subscriber) {
        let (stream, mut items) = (Arc::clone(&self.feed.stream), Vec::new());
        loop {
            let mut more = std::pin::pin!(stream.more().notified());
            more.as_mut().enable();
            match packets.read(BATCH, &mut items) {
                Read::Some => {
                    self.take(&items);
                    items.clear();
                }
                Read::UpToDate => {
                    let due = self.due();
                    tokio::select! {
                        () = more => {}
                        () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.settle(),
                    }
                }
                Read::Ended => return,
            }
            let skipped = packets.take_skipped();
            if skipped > 0 {
                self.feeds.0.metrics.skipped(skipped);
            }
        }
    }

    fn take(&mut self, items: &[Item]) {
        let Some(newest) = items.last().map(|item| item.time) else { return };
        let has_seats = self.feed.seats.load(Ordering::Acquire) > 0;
        let sound = if has_seats { Sound::Wanted } else { Sound::Spared };
        let mut frames = Vec::new();
        for item in items {
            self.tracks.push(&item.packet, newest, sound, &mut frames);
            frames.drain(..).for_each(|sent| self.send(sent));
        }
        if let Phase::Looking { since, frames } = &mut self.phase
            && !frames.is_empty()
        {
            since.get_or_insert_with(Instant::now);
        }
        self.settle();
    }

    fn send(&mut self, sent: Sent) {
        match &mut self.phase {
            Phase::Looking { frames, .. } => frames.push(sent),
            Phase::Open(offering) => {
                if let Some(layer) = offering.layer(&sent) {
                    self.frames += 1;
                    self.feeds.0.pool.push(offering.stream, layer, &sent.frame);
                } else if sent.layer == 0 {
                    // what the stream is made of has changed: it begins anew with this frame
                    self.close();
                    self.phase = Phase::Looking { since: None, frames: vec![sent] };
                }
            }
            // it may be that it can be sent again
            Phase::Refused => {
                self.feed.state.send_replace(State::Looking);
                self.phase = Phase::Looking { since: None, frames: vec![sent] };
            }
        }
    }

    /// When it is decided by what has come.
    fn due(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Looking { since, .. } => since.map(|since| since + BOTH),
            Phase::Open(_) | Phase::Refused => None,
        }
    }

    /// Does what follows from what is known of the stream.
    fn settle(&mut self) {
        match self.tracks.sendable() {
            Sendable::Tracks(tracks) => match &self.phase {
                Phase::Looking { .. } if self.is_decided() => self.open(tracks),
                // a track has come that was not there
                Phase::Open(offering) if !are_alike(&offering.tracks, &tracks) => {
                    self.close();
                    self.open(tracks);
                }
                Phase::Looking { .. } | Phase::Open(_) | Phase::Refused => {}
            },
            Sendable::Nothing(obstacle) => match &self.phase {
                Phase::Looking { .. } | Phase::Open(_) => self.refuse(obstacle),
                Phase::Refused => {}
            },
            Sendable::Unknown => {}
        }
    }

    fn is_decided(&self) -> bool {
        let Phase::Looking { since, frames } = &self.phase else { return false };
        let span = frames.first().zip(frames.last()).map(|(first, last)| last.frame.time.abs_diff(first.frame.time));
        let is_late = since.is_some_and(|since| since.elapsed() >= BOTH) || span.is_some_and(|span| span >= BOTH);
        self.tracks.is_certain() || is_late
    }

    /// Makes the stream known to the workers, with what has come of it.
    fn open(&mut self, tracks: Vec<Track>) {
        let Inner { pool, last, .. } = &*self.feeds.0;
        let stream = StreamId(last.fetch_add(1, Ordering::Relaxed) + 1);
        let now = std::time::Instant::now();
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        pool.open(stream, &tracks, Wallclock { at: now, since_epoch });
        let name = &self.feed.name;
        let told: Vec<_> = tracks.iter().map(|track| format!("{} x {}", track.codec, track.layers)).collect();
        info!(app = name.app, stream = %name.id, tracks = ?told, "webrtc.stream.started");
        if let Some(silence) = self.tracks.silence() {
            info!(app = name.app, stream = %name.id, "{silence}");
        }
        let offering = Offering { stream, tracks: tracks.into() };
        let before = std::mem::replace(&mut self.phase, Phase::Open(offering.clone()));
        if let Phase::Looking { frames, .. } = before {
            // of a codec that has changed meanwhile nothing is left
            let known = |sent: &Sent| offering.track(sent.codec).is_some();
            frames.into_iter().filter(known).for_each(|sent| self.send(sent));
        }
        self.feed.state.send_replace(State::Open(offering));
    }

    /// Lets no viewer have a stream that would be garbled or black.
    fn refuse(&mut self, obstacle: Obstacle) {
        self.close();
        let name = &self.feed.name;
        // of B-frames the publisher's node has said it; of all else nobody has
        match obstacle {
            Obstacle::BFrames => debug!(app = name.app, stream = %name.id, "{obstacle}"),
            Obstacle::Video(_) | Obstacle::Audio(_) => info!(app = name.app, stream = %name.id, "{obstacle}"),
        }
        self.phase = Phase::Refused;
        self.feed.state.send_replace(State::Refused(obstacle));
    }

    /// Ends the sessions of what was open.
    fn close(&mut self) {
        if let Phase::Open(offering) = &self.phase {
            self.feeds.0.pool.close(offering.stream);
            self.feed.state.send_replace(State::Looking);
            self.phase = Phase::new();
        }
    }
}
