//! The owner's side: serves the streams that have a publisher here to the pool's other nodes. A puller asks by HTTP and gets
//! the connection for records (`101 Switching Protocols`, RFC 9110 §7.8), which go out as a player's messages do: in
//! vectored writes of what the ring holds. A puller is a reader of the ring as any other: it starts at the latest keyframe,
//! and skips when it lags.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    future::pending,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use axum::body::Body;
use bytes::{Buf, Bytes, BytesMut};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{AUTHORIZATION, CONNECTION, HeaderValue, RETRY_AFTER, UPGRADE},
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
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
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, SetOnce},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info};

use super::{
    errands::Sessions,
    metrics::{Counted, Metrics, Refusal},
    recordings::Lender,
    token::{Grant, Invalid, PoolKey, Statement},
};
use crate::{
    claim::Claims,
    http::Stall,
    hub::{Hub, Name, Stream},
    listener,
    metrics::Direction,
    packager::Packagers,
};

/// Most connections of other nodes: all nodes of a large pool, each with a few streams, and with players over HLS two requests a
/// stream that wait. More are closed at once.
const MAX_CONNECTIONS: usize = 2_048;
/// Most pullers of one stream, as many as nodes that may have viewers of it. At 4 Mbit/s they take 256 Mbit/s.
const MAX_PULLERS: usize = 64;

/// Longest wait for a request.
const REQUEST: Duration = Duration::from_secs(5);
/// Longest time of a connection until it is refused, answered, a puller's or sent a recording: a request for a part waits for it, up
/// to three target durations.
const ANSWER: Duration = Duration::from_secs(45);
/// Pause after which an owner with nothing to send says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A puller that takes nothing for this long is cut: it has missed three heartbeats.
const STALL: Duration = Duration::from_secs(20);

/// One read of the ring; also about what is held for a puller beside the kernel's buffer.
const BATCH: Batch = Batch { packets: 256, bytes: 128 << 10 };

/// What the connection becomes; its version is the path's.
pub(super) const PROTOCOL: HeaderValue = HeaderValue::from_static("tallylight-packets");

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
    pub(super) packagers: Packagers,
    pub(super) claims: Claims<S>,
    pub(super) metrics: Metrics,
    pub(super) shutdown: CancellationToken,
    pub(super) pullers: Pullers,
    /// None on a node that lends none.
    pub(super) recordings: Option<Lender>,
    /// None on a node without WebRTC.
    pub(super) sessions: Option<Sessions>,
}

impl<S: Store> Server<S> {
    /// Accepts until the node shuts down; connections are tasks of `tasks`.
    pub(super) async fn run(self, listener: TcpListener, tasks: TaskTracker) {
        let (server, room) = (Arc::new(self), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
        while let Some((socket, peer)) = server.shutdown.run_until_cancelled(listener::accept(&listener)).await {
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
        let (granted, lent) = (Arc::new(Mutex::new(None)), SetOnce::new());
        let service = service_fn(|request| {
            let (server, granted, lent) = (&self, &granted, &lent);
            async move {
                if let Some(answer) = server.answer_recording(&request, lent).await {
                    return Ok(answer);
                }
                let request = match server.answer_errand(request).await {
                    Ok(answer) => return Ok(answer),
                    Err(request) => request,
                };
                Ok::<_, Infallible>(match server.answer_files(&request).await {
                    Some(answer) => answer,
                    None => server.answer(request, peer, granted),
                })
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST)
            .keep_alive(false)
            .serve_connection(TokioIo::new(Stall::new(socket)), service)
            .with_upgrades();
        let served = tokio::select! {
            served = connection => served,
            () = overdue(&lent) => return debug!(%peer, "another node did not take its answer in time"),
        };
        if let Err(error) = served {
            return debug!(%peer, %error, "the connection of another node broke");
        }
        let granted = granted.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Granted { upgrade, feed }) = granted else { return };
        // the whole connection, and nothing that was read ahead: a puller says no more
        let upgraded = upgrade.await.ok().and_then(|upgraded| upgraded.downcast::<TokioIo<Stall<TcpStream>>>().ok());
        let Some(socket) = upgraded else { return };
        match feed.run(socket.io.into_inner().into_inner()).await {
            Over::Ended => {}
            Over::Gone => debug!(%peer, "a puller is gone"),
            Over::Stalled => {
                info!(%peer, "a puller takes nothing; it is cut");
                self.metrics.refused(Refusal::Stalled);
            }
        }
    }

    fn answer(
        &self,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        granted: &Mutex<Option<Granted>>,
    ) -> Response<Body> {
        match self.admit(&request) {
            Ok((feed, node)) => {
                let mut response = Response::new(Body::empty());
                debug!(%peer, node, "a node pulls a stream");
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
                response.headers_mut().insert(UPGRADE, PROTOCOL);
                let upgrade = hyper::upgrade::on(&mut request);
                *granted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Granted { upgrade, feed });
                response
            }
            Err(reason) => {
                debug!(%peer, ?reason, "puller refused");
                self.refuse(reason)
            }
        }
    }

    pub(super) fn refuse(&self, reason: Refusal) -> Response<Body> {
        self.metrics.refused(reason);
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status(reason);
        if reason == Refusal::NotHere {
            // the stream, not a file of it
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// What the token of a request allows.
    pub(super) fn granted<T: Statement>(&self, request: &Request<Incoming>) -> Result<T, Refusal> {
        let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let now = Timestamp::now().as_second();
        self.key.verify(token.unwrap_or_default(), now).map_err(|invalid| match invalid {
            Invalid::Forged => Refusal::WrongToken,
            Invalid::Expired => Refusal::ExpiredToken,
        })
    }

    /// The stream that a request asks for, and the node that asks.
    fn admit(&self, request: &Request<Incoming>) -> Result<(Feed, String), Refusal> {
        let name = name_of(request.uri()).filter(|_| request.method() == Method::GET).ok_or(Refusal::UnknownPath)?;
        if request.headers().get(UPGRADE) != Some(&PROTOCOL) {
            return Err(Refusal::UnknownPath);
        }
        let grant: Grant = self.granted(request)?;
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
            output: Records::default(),
            sent: self.metrics.bytes(Direction::Out),
            metrics: self.metrics.clone(),
            shutdown: self.shutdown.clone(),
            _place: place,
            _counted: self.metrics.serving(),
        };
        Ok((feed, grant.node))
    }
}

/// Returns when a connection has had its time, which one that is sent a recording has as long as it takes of it.
async fn overdue(lent: &SetOnce<OwnedSemaphorePermit>) {
    if timeout(ANSWER, lent.wait()).await.is_ok() {
        pending().await
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

/// A puller that was let in: its connection, once it is free of HTTP, and what is sent there.
struct Granted {
    upgrade: OnUpgrade,
    feed: Feed,
}

/// What a ring has, as records.
struct Feed {
    stream: Arc<Stream>,
    packets: Subscriber,
    items: Vec<Item>,
    output: Records,
    sent: Counter<u64, AtomicU64>,
    metrics: Metrics,
    shutdown: CancellationToken,
    _place: Place,
    _counted: Counted,
}

/// Why a puller is served no longer.
enum Over {
    /// The stream, or the node.
    Ended,
    /// It closed, or its connection broke.
    Gone,
    /// It takes nothing.
    Stalled,
}

impl Feed {
    async fn run(mut self, mut socket: TcpStream) -> Over {
        let shutdown = self.shutdown.clone();
        let stream = Arc::clone(&self.stream);
        let mut stopped = pin!(shutdown.cancelled());
        let mut heartbeat = pin!(sleep(HEARTBEAT));
        let mut last_sent = Instant::now();
        loop {
            let mut more = pin!(stream.more().notified());
            let mut read = self.read();
            let mut is_published = true;
            if read == Read::UpToDate {
                // first in line for the next packet, then a last look
                more.as_mut().enable();
                is_published = stream.is_published();
                read = self.read();
            }
            match read {
                Read::Some => {}
                // what others feed it with then, they get from there themselves
                Read::UpToDate if !is_published => return self.end(&mut socket).await,
                Read::Ended => return self.end(&mut socket).await,
                Read::UpToDate => tokio::select! {
                    () = more => continue,
                    () = stopped.as_mut() => return self.end(&mut socket).await,
                    () = gone(&socket) => return Over::Gone,
                    () = heartbeat.as_mut() => {
                        if last_sent.elapsed() >= HEARTBEAT {
                            self.output.push_with(wire::encode_silence);
                            last_sent = Instant::now();
                        }
                        heartbeat.as_mut().reset(last_sent + HEARTBEAT);
                    }
                },
            }
            if let Err(over) = self.write(&mut socket).await {
                return over;
            }
            last_sent = Instant::now();
        }
    }

    fn read(&mut self) -> Read {
        let read = self.packets.read(BATCH, &mut self.items);
        for item in self.items.drain(..) {
            self.output.push_with(|bytes| wire::encode_header(&item, bytes));
            self.output.push(item.packet.payload.clone());
        }
        let skipped = self.packets.take_skipped();
        if skipped > 0 {
            self.metrics.skipped(skipped);
        }
        read
    }

    /// Says that the stream is over.
    async fn end(&mut self, socket: &mut TcpStream) -> Over {
        self.output.push_with(wire::encode_end);
        match self.write(socket).await {
            // the kernel sends what it has; a puller that is gone needs no farewell
            Ok(()) => socket.shutdown().await.map_or(Over::Gone, |()| Over::Ended),
            Err(over) => over,
        }
    }

    async fn write(&mut self, socket: &mut TcpStream) -> Result<(), Over> {
        while self.output.has_remaining() {
            match timeout(STALL, socket.write_buf(&mut self.output)).await {
                Ok(Ok(written)) => _ = self.sent.inc_by(written as u64),
                Ok(Err(_broken)) => return Err(Over::Gone),
                Err(_elapsed) => return Err(Over::Stalled),
            }
        }
        Ok(())
    }
}

/// Returns when the puller closed its side, or says something, which none does.
async fn gone(socket: &TcpStream) {
    loop {
        let readable = socket.readable().await;
        match readable.and_then(|()| socket.try_read(&mut [0])) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => return,
        }
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
