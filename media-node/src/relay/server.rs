//! The owner's side: serves the streams that have a publisher here to the pool's other nodes, each as one HTTP response of
//! records. A puller is a reader of the ring as any other: it starts at the latest keyframe, and skips when it lags.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    io::IoSlice,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::stream;
use http_body_util::{BodyExt, Empty, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Buf, Frame, Incoming},
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use ledger::{Key, Store};
use media_core::{
    fanout::{Batch, Item, Read, Subscriber},
    wire,
};
use prometheus_client::metrics::counter::Counter;
use tallylight_crds::StreamId;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    metrics::{Counted, Metrics, Refusal},
    token::{Invalid, PoolKey},
};
use crate::{
    claim::Claims,
    hub::{Hub, Name, Stream},
    metrics::Direction,
};

/// Most connections of other nodes: all nodes of a large pool, each with a few streams. More are closed at once.
const MAX_CONNECTIONS: usize = 512;
/// Most pullers of one stream, as many as nodes that may have viewers of it. At 4 Mbit/s they take 256 Mbit/s.
const MAX_PULLERS: usize = 64;

/// Longest wait for a request.
const REQUEST: Duration = Duration::from_secs(5);
/// Pause after which an owner with nothing to send says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A puller that takes nothing for this long is cut: it has missed three heartbeats.
const STALL: Duration = Duration::from_secs(20);
/// Pause after an accept that failed, as it does without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One read of the ring; also about what is held for a puller beside the kernel's buffer.
const BATCH: Batch = Batch { packets: 256, bytes: 128 << 10 };
/// What the HTTP library holds for a puller.
const WRITE_AHEAD: usize = 128 << 10;

const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/vnd.tallylight.packets");

type Body = UnsyncBoxBody<Records, Infallible>;

/// Where a stream is asked for.
pub(super) fn path(name: &Name) -> Uri {
    let path = format!("/relay/v{}/{}/{}", wire::VERSION, name.app, name.id);
    // both names hold nothing but letters, digits, `.`, `-` and `_`
    path.parse().unwrap_or_default()
}

fn name_of(uri: &Uri) -> Option<Name> {
    let (version, name) = uri.path().strip_prefix("/relay/v")?.split_once('/')?;
    let (app, id) = name.split_once('/')?;
    (version.parse() == Ok(wire::VERSION)).then_some(())?;
    Some(Name { app: app.to_owned(), id: StreamId::parse(id).ok()? })
}

/// Serves a node's streams to the others.
pub(super) struct Server<S> {
    pub(super) namespace: String,
    pub(super) key: Arc<PoolKey>,
    pub(super) hub: Hub,
    pub(super) claims: Claims<S>,
    pub(super) metrics: Metrics,
    pub(super) shutdown: CancellationToken,
    pub(super) pullers: Pullers,
}

impl<S: Store> Server<S> {
    /// Accepts until the node shuts down; connections are tasks of `tasks`.
    pub(super) async fn run(self, listener: TcpListener, tasks: TaskTracker) {
        let (server, room) = (Arc::new(self), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = server.shutdown.cancelled() => return,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "failed to accept a connection of another node");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match Arc::clone(&room).try_acquire_owned() {
                Ok(place) => {
                    let server = Arc::clone(&server);
                    tasks.spawn(async move {
                        server.serve(socket, peer).await;
                        drop(place);
                    });
                }
                Err(_full) => server.metrics.refused(Refusal::TooManyPullers),
            }
        }
    }

    async fn serve(self: Arc<Self>, socket: TcpStream, peer: SocketAddr) {
        if let Err(error) = socket.set_nodelay(true) {
            debug!(%peer, %error, "the connection was gone at once");
            return;
        }
        let progress = Progress::new();
        let service = {
            let (server, progress) = (Arc::clone(&self), progress.clone());
            service_fn(move |request| {
                let answer = server.answer(&request, peer, progress.clone());
                async move { Ok::<_, Infallible>(answer) }
            })
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST)
            .keep_alive(false)
            .max_buf_size(WRITE_AHEAD)
            .serve_connection(TokioIo::new(socket), service);
        tokio::select! {
            done = connection => if let Err(error) = done {
                debug!(%peer, %error, "the connection of another node broke");
            },
            () = progress.stalled() => {
                info!(%peer, "a puller takes nothing; it is cut");
                self.metrics.refused(Refusal::Stalled);
            }
        }
    }

    fn answer(&self, request: &Request<Incoming>, peer: SocketAddr, progress: Progress) -> Response<Body> {
        match self.admit(request) {
            Ok((feed, node)) => {
                debug!(%peer, node, "a node pulls a stream");
                let feed = Feed { progress, ..feed };
                let body = StreamBody::new(stream::unfold(feed, Feed::next)).boxed_unsync();
                let mut response = Response::new(body);
                response.headers_mut().insert(CONTENT_TYPE, MEDIA_TYPE);
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                response
            }
            Err(reason) => {
                debug!(%peer, ?reason, "puller refused");
                self.metrics.refused(reason);
                let mut response = Response::new(Empty::new().boxed_unsync());
                *response.status_mut() = status(reason);
                response
            }
        }
    }

    /// The stream that a request asks for, and the node that asks.
    fn admit(&self, request: &Request<Incoming>) -> Result<(Feed, String), Refusal> {
        let name = name_of(request.uri()).filter(|_| request.method() == Method::GET).ok_or(Refusal::UnknownPath)?;
        let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let grant =
            self.key.verify(token.unwrap_or_default(), Timestamp::now().as_second()).map_err(
                |invalid| match invalid {
                    Invalid::Forged => Refusal::WrongToken,
                    Invalid::Expired => Refusal::ExpiredToken,
                },
            )?;
        // a stream that is here through a relay has no session here: it is never passed on
        let on_air = self.claims.on_air(&Key::of_stream(&self.namespace, &name.id));
        let (uid, session) = on_air.ok_or(Refusal::NotHere)?;
        if (uid, session) != (grant.uid, grant.session) {
            return Err(Refusal::OtherSession);
        }
        let (stream, packets) = self.hub.subscribe(&name).ok_or(Refusal::NotHere)?;
        let place = self.pullers.enter(name).ok_or(Refusal::TooManyPullers)?;
        let feed = Feed {
            stream,
            packets,
            items: Vec::new(),
            state: State::Open,
            progress: Progress::new(),
            sent: self.metrics.bytes(Direction::Out),
            metrics: self.metrics.clone(),
            shutdown: self.shutdown.clone(),
            _place: place,
            _counted: self.metrics.serving(),
        };
        Ok((feed, grant.node))
    }
}

fn status(reason: Refusal) -> StatusCode {
    match reason {
        Refusal::UnknownPath | Refusal::NotHere => StatusCode::NOT_FOUND,
        Refusal::WrongToken | Refusal::ExpiredToken => StatusCode::UNAUTHORIZED,
        Refusal::OtherSession => StatusCode::CONFLICT,
        Refusal::TooManyPullers | Refusal::Stalled => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// A response's body: what a ring has, as records.
struct Feed {
    stream: Arc<Stream>,
    packets: Subscriber,
    items: Vec<Item>,
    state: State,
    progress: Progress,
    sent: Counter<u64, AtomicU64>,
    metrics: Metrics,
    shutdown: CancellationToken,
    _place: Place,
    _counted: Counted,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The end was said.
    Ended,
}

impl Feed {
    async fn next(mut self) -> Option<(Result<Frame<Records>, Infallible>, Self)> {
        // hyper asks when it has room, so an ask is progress
        self.progress.made();
        if self.state == State::Ended {
            return None;
        }
        let mut output = Records::default();
        while !output.has_remaining() {
            self.fill(&mut output).await;
        }
        self.progress.made();
        self.sent.inc_by(output.remaining() as u64);
        Some((Ok(Frame::data(output)), self))
    }

    /// Appends what is new, at once or when there is something; or, after a while, that nothing is.
    async fn fill(&mut self, output: &mut Records) {
        let stream = Arc::clone(&self.stream);
        let mut more = pin!(stream.more().notified());
        let mut read = self.read(output);
        let mut is_published = true;
        if read == Read::UpToDate {
            // first in line for the next packet, then a last look
            more.as_mut().enable();
            is_published = stream.is_published();
            read = self.read(output);
        }
        match read {
            Read::Some => {}
            // what others feed it with then, they get from there themselves
            Read::UpToDate if !is_published => self.end(output),
            Read::Ended => self.end(output),
            Read::UpToDate => tokio::select! {
                () = more => {}
                () = self.shutdown.cancelled() => self.end(output),
                () = sleep(HEARTBEAT) => output.push_with(wire::encode_silence),
            },
        }
    }

    fn read(&mut self, output: &mut Records) -> Read {
        let read = self.packets.read(BATCH, &mut self.items);
        for item in self.items.drain(..) {
            output.push_with(|bytes| wire::encode_header(&item, bytes));
            output.push(item.packet.payload.clone());
        }
        let skipped = self.packets.take_skipped();
        if skipped > 0 {
            self.metrics.skipped(skipped);
        }
        read
    }

    fn end(&mut self, output: &mut Records) {
        output.push_with(wire::encode_end);
        self.state = State::Ended;
    }
}

/// Records on their way out. Payloads are those of the ring, so that a puller costs no copy of the stream.
#[derive(Debug, Default)]
struct Records {
    parts: VecDeque<Bytes>,
    remaining: usize,
}

impl Records {
    fn push(&mut self, bytes: Bytes) {
        self.remaining += bytes.len();
        // a `Buf` has no empty chunks
        self.parts.extend(Some(bytes).filter(|bytes| !bytes.is_empty()));
    }

    fn push_with(&mut self, encode: impl FnOnce(&mut BytesMut)) {
        let mut bytes = BytesMut::new();
        encode(&mut bytes);
        self.push(bytes.freeze());
    }
}

impl Buf for Records {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| part)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = slices.iter_mut().zip(&self.parts);
        parts.map(|(slice, part)| *slice = IoSlice::new(part)).count()
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "cannot advance past the end");
        self.remaining -= count;
        while let Some(part) = self.parts.front_mut().filter(|_| count > 0) {
            let taken = count.min(part.len());
            part.advance(taken);
            count -= taken;
            if part.is_empty() {
                self.parts.pop_front();
            }
        }
    }
}

/// When a puller last took something. Clones share it.
#[derive(Clone)]
struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn made(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns when there was none for [`STALL`].
    async fn stalled(&self) {
        loop {
            let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() >= STALL {
                return;
            }
            sleep_until(last + STALL).await;
        }
    }
}

/// How many pullers each stream has. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Pullers(Arc<Mutex<HashMap<Name, usize>>>);

/// A puller's place; given back when dropped.
struct Place {
    pullers: Pullers,
    name: Name,
}

impl Pullers {
    fn enter(&self, name: Name) -> Option<Place> {
        let mut counts = self.counts();
        let count = counts.entry(name.clone()).or_default();
        if *count >= MAX_PULLERS {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place { pullers: self.clone(), name })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Name, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.pullers.counts();
        if let Some(count) = counts.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        Name { app: "LiveApp".to_owned(), id: StreamId::parse("Studio_1.a").unwrap() }
    }

    #[test]
    fn a_path_names_a_stream_in_this_version() {
        assert_eq!(path(&name()).to_string(), "/relay/v1/LiveApp/Studio_1.a");
        assert_eq!(name_of(&path(&name())), Some(name()));
        for other in ["/", "/relay/v2/LiveApp/a", "/relay/v1/LiveApp", "/relay/v1/LiveApp/", "/relay/v1/LiveApp/a/b"] {
            assert_eq!(name_of(&Uri::from_static(other)), None, "{other}");
        }
    }

    #[test]
    fn records_are_sent_whole_however_they_are_taken() {
        let mut records = Records::default();
        records.push(Bytes::from_static(b"head"));
        records.push(Bytes::new());
        records.push_with(|bytes| bytes.extend_from_slice(b"payload"));
        let mut slices = [IoSlice::new(&[]); 4];
        assert_eq!(records.chunks_vectored(&mut slices), 2);
        assert_eq!((&*slices[0], &*slices[1]), (&b"head"[..], &b"payload"[..]));

        records.advance(6);
        assert_eq!((records.remaining(), records.chunk()), (5, &b"yload"[..]));
        assert_eq!(records.copy_to_bytes(5), &b"yload"[..]);
        assert_eq!((records.remaining(), records.chunk()), (0, &b""[..]));
    }

    #[test]
    fn a_stream_has_so_many_pullers_and_no_more() {
        let pullers = Pullers::default();
        let mut places: Vec<_> = (0..MAX_PULLERS).map(|_| pullers.enter(name()).unwrap()).collect();
        assert!(pullers.enter(name()).is_none());

        places.pop();
        assert!(pullers.enter(name()).is_some());
        drop(places);
        assert!(pullers.counts().is_empty());
    }
}
