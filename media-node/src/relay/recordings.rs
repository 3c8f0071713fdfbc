//! Recordings between nodes: what a player asks of a node that does not have it is passed on to the node that has it on its own disk,
//! over the relay's port. The owner serves from its own folders alone, so nothing is passed on twice.
//!
//! A request is a connection of its own. Its answer goes through as it comes: what the player does not take, the owner does not send.

use std::{io, sync::Arc, time::Duration};

use axum::{body::Body, response::IntoResponse as _};
use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    client::conn::http1,
    header::{
        ACCEPT_RANGES, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HOST,
        HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
        RETRY_AFTER,
    },
    http::response::Parts,
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use ledger::Store;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SetOnce, mpsc, oneshot},
    time::timeout,
};
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::{
    client::{self, Error},
    metrics::{Metrics, Passage, Refusal},
    peers::{Peer, Peers},
    server::Server,
    token::{LIFETIME_SECONDS, Loan, PoolKey},
};
use crate::{
    metrics::Direction,
    playback::vod::{self, Named},
    storage::{Storage, Storages},
};

/// What asks for recordings; another form takes another number.
const PREFIX: &str = "/recordings/v1/";

/// Recordings that are passed on at once; more are refused. Each takes two connections, and 200 KiB while its player is slow.
const MAX_PASSED: usize = 256;
/// Recordings that other nodes are sent at once; more are refused: the relay's other connections are for what is live.
const MAX_LENT: usize = 512;

/// Longest wait for the head of an answer: the owner opens a file.
const HEAD: Duration = Duration::from_secs(5);
/// Longest silence of an owner in mid-file: longer than disks hang that come back.
const SILENCE: Duration = Duration::from_secs(20);
/// Longest time in which a player takes nothing at all.
const STALL: Duration = Duration::from_secs(30);
/// One read of an answer.
const READ: usize = 64 << 10;

/// What of a request concerns the file.
const ASKED: [HeaderName; 6] = [RANGE, IF_RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE];
/// And of its answer.
const ANSWERED: [HeaderName; 7] =
    [ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED];

/// Recordings on the disks of other nodes. Clones share it.
#[derive(Clone, Debug)]
pub struct Others(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: String,
    key: Arc<PoolKey>,
    peers: Peers,
    metrics: Metrics,
    room: Arc<Semaphore>,
    tasks: TaskTracker,
}

/// A file that a player asks for.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// The node that has it.
    pub(crate) owner: &'a str,
    pub(crate) storage: &'a str,
    /// In the storage.
    pub(crate) path: &'a str,
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
}

/// Why it is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// Too many are passed on.
    Busy,
    /// Its node does not answer.
    Away,
    /// Its node is gone for good.
    Gone,
    /// Its node does not have it.
    NoFile,
}

/// The head of an answer, and its body as it comes.
type Answer = (Parts, mpsc::Receiver<io::Result<Bytes>>);

impl Others {
    /// Passes on as the node of that name.
    pub(super) fn new(node: String, key: Arc<PoolKey>, peers: Peers, metrics: Metrics, tasks: TaskTracker) -> Self {
        Self(Arc::new(Inner { node, key, peers, metrics, room: Arc::new(Semaphore::new(MAX_PASSED)), tasks }))
    }

    /// Whether a recording is one of this node's own.
    pub(crate) fn is_me(&self, node: &str) -> bool {
        self.0.node == node
    }

    /// Asks the node that has a file for it, and passes its answer on.
    pub(crate) async fn pass(&self, wanted: &Wanted<'_>) -> Result<axum::response::Response, Unavailable> {
        let asked = self.ask(wanted).await;
        let failed = match &asked {
            // counted when it is over
            Ok(_) => return asked,
            Err(Unavailable::Busy) => Passage::TooMany,
            Err(Unavailable::Away) => Passage::NodeAway,
            Err(Unavailable::Gone) => Passage::NodeGone,
            Err(Unavailable::NoFile) => Passage::NoFile,
        };
        self.0.metrics.passed(failed);
        asked
    }

    async fn ask(&self, wanted: &Wanted<'_>) -> Result<axum::response::Response, Unavailable> {
        let place = Arc::clone(&self.0.room).try_acquire_owned().map_err(|_none_left| Unavailable::Busy)?;
        let address = match self.0.peers.find(wanted.owner).await {
            Peer::At(address) => address,
            Peer::Gone => return Err(Unavailable::Gone),
            Peer::Unknown => return Err(Unavailable::Away),
        };
        let request = self.request(wanted, &address);
        let (head, answered) = oneshot::channel();
        self.0.tasks.spawn(self.clone().carry(address, request, head, place));
        let Ok((parts, body)) = answered.await else {
            self.0.peers.forget(wanted.owner).await;
            return Err(Unavailable::Away);
        };
        match parts.status {
            status if is_for_players(status) => Ok(answer(wanted.method, &parts, body)),
            StatusCode::NOT_FOUND if !parts.headers.contains_key(RETRY_AFTER) => Err(Unavailable::NoFile),
            refused => {
                debug!(owner = wanted.owner, file = wanted.path, %refused, "a node does not lend a recording");
                self.0.peers.forget(wanted.owner).await;
                Err(Unavailable::Away)
            }
        }
    }

    fn request(&self, wanted: &Wanted<'_>, address: &str) -> Request<Empty<Bytes>> {
        let loan = Loan {
            storage: wanted.storage.to_owned(),
            path: wanted.path.to_owned(),
            owner: wanted.owner.to_owned(),
            node: self.0.node.clone(),
            expires: Timestamp::now().as_second() + LIFETIME_SECONDS,
        };
        let mut request = Request::new(Empty::new());
        request.method_mut().clone_from(wanted.method);
        // names hold nothing but letters, digits, `.`, `-` and `_`
        *request.uri_mut() = format!("{PREFIX}{}/{}", wanted.storage, wanted.path).parse().unwrap_or_default();
        *request.headers_mut() = only(&ASKED, wanted.headers);
        let ours = [(HOST, address.to_owned()), (AUTHORIZATION, format!("Bearer {}", self.0.key.sign(&loan)))];
        for (header, value) in ours {
            // an address with bytes that no header may have is no address; without it the owner refuses
            if let Ok(value) = value.parse() {
                request.headers_mut().insert(header, value);
            }
        }
        request
    }

    /// Asks, hands over the head, and then the body for as long as somebody takes it.
    async fn carry(
        self,
        address: String,
        request: Request<Empty<Bytes>>,
        head: oneshot::Sender<Answer>,
        place: OwnedSemaphorePermit,
    ) {
        let _counted = (self.0.metrics.passing(), place);
        let carried = async {
            let socket = client::connect(&address).await?;
            let mut http = http1::Builder::new();
            let handshake = http.max_buf_size(READ).handshake(TokioIo::new(socket));
            let (mut sender, connection) = handshake.await.map_err(Error::Http)?;
            let carried = async {
                let answer = timeout(HEAD, sender.send_request(request)).await;
                let answer = answer.map_err(|_elapsed| Error::NoAnswer(HEAD))?.map_err(Error::Http)?;
                self.hand_over(answer, head).await;
                // the connection ends with it
                drop(sender);
                Ok(())
            };
            // what breaks the connection shows in the answer
            let (carried, _over) = tokio::join!(carried, connection);
            carried
        };
        let carried: Result<(), Error> = carried.await;
        if let Err(error) = carried {
            debug!(address, error = &error as &dyn std::error::Error, "failed to ask for a recording");
        }
    }

    async fn hand_over(&self, answer: Response<Incoming>, head: oneshot::Sender<Answer>) {
        let (parts, body) = answer.into_parts();
        let is_counted = is_for_players(parts.status);
        let (output, taken) = mpsc::channel(1);
        if head.send((parts, taken)).is_err() {
            return; // the player has left
        }
        let outcome = self.copy(body, &output).await;
        if outcome == Passage::Broken {
            // so that it does not look like the end
            let _left = timeout(STALL, output.send(Err(io::ErrorKind::UnexpectedEof.into()))).await;
        }
        if is_counted {
            self.0.metrics.passed(outcome);
        }
    }

    async fn copy(&self, mut body: Incoming, output: &mpsc::Sender<io::Result<Bytes>>) -> Passage {
        let received = self.0.metrics.bytes(Direction::In);
        loop {
            let frame = tokio::select! {
                frame = timeout(SILENCE, body.frame()) => frame,
                () = output.closed() => return Passage::Passed,
            };
            let bytes = match frame {
                Ok(None) => return Passage::Passed,
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                Ok(Some(Err(_))) | Err(_) => return Passage::Broken,
            };
            received.inc_by(bytes.len() as u64);
            match timeout(STALL, output.send(Ok(bytes))).await {
                Ok(Ok(())) => {}
                Ok(Err(_left)) => return Passage::Passed,
                Err(_elapsed) => return Passage::Stalled,
            }
        }
    }
}

/// Whether a status is one of the file.
fn is_for_players(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::OK
            | StatusCode::PARTIAL_CONTENT
            | StatusCode::NOT_MODIFIED
            | StatusCode::PRECONDITION_FAILED
            | StatusCode::RANGE_NOT_SATISFIABLE
    )
}

fn answer(method: &Method, parts: &Parts, taken: mpsc::Receiver<io::Result<Bytes>>) -> axum::response::Response {
    let has_body = *method != Method::HEAD && parts.status != StatusCode::NOT_MODIFIED;
    let body = if has_body {
        Body::from_stream(stream::unfold(taken, async |mut taken| Some((taken.recv().await?, taken))))
    } else {
        Body::empty()
    };
    let mut response = Response::new(body);
    *response.status_mut() = parts.status;
    *response.headers_mut() = only(&ANSWERED, &parts.headers);
    response
}

/// Some of the headers.
pub(super) fn only(names: &[HeaderName], all: &HeaderMap) -> HeaderMap {
    let mut some = HeaderMap::new();
    for name in names {
        for value in all.get_all(name) {
            some.append(name, value.clone());
        }
    }
    some
}

/// The owner's side: what of this node's disk others are sent.
#[derive(Debug)]
pub(super) struct Lender {
    node: String,
    storages: Arc<Storages>,
    room: Arc<Semaphore>,
}

impl Lender {
    /// Lends what is in the folders of `storages`, as the node of that name.
    pub(super) fn new(node: String, storages: Arc<Storages>) -> Self {
        Self { node, storages, room: Arc::new(Semaphore::new(MAX_LENT)) }
    }
}

impl<S: Store> Server<S> {
    /// Answers another node that asks for a file of a recording; `None` when the request is for something else. `lent` keeps the
    /// place of one that is sent it.
    pub(super) async fn answer_recording(
        &self,
        request: &Request<Incoming>,
        lent: &SetOnce<OwnedSemaphorePermit>,
    ) -> Option<Response<Body>> {
        let lender = self.recordings.as_ref()?;
        let (storage, path) = request.uri().path().strip_prefix(PREFIX)?.split_once('/')?;
        Some(match self.lend(lender, storage, path, request).await {
            Ok((response, place)) => {
                let _kept = lent.set(place); // there is one request a connection
                self.counted(response)
            }
            Err(refusal) => self.refuse(refusal),
        })
    }

    async fn lend(
        &self,
        lender: &Lender,
        storage: &str,
        path: &str,
        request: &Request<Incoming>,
    ) -> Result<(Response<Body>, OwnedSemaphorePermit), Refusal> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Refusal::UnknownPath);
        }
        let loan: Loan = self.granted(request)?;
        if (loan.storage.as_str(), loan.path.as_str()) != (storage, path) {
            return Err(Refusal::WrongToken);
        }
        if loan.owner != lender.node {
            return Err(Refusal::NotHere); // another node had this address before
        }
        let named = Named::parse(path).ok_or(Refusal::UnknownPath)?;
        let folder = match lender.storages.get(storage) {
            Some(Storage::Volume(folder)) => folder,
            Some(Storage::Bucket { .. }) | None => return Err(Refusal::UnknownPath),
        };
        let place = Arc::clone(&lender.room).try_acquire_owned().map_err(|_none_left| Refusal::TooManyPullers)?;
        debug!(node = loan.node, storage, path, "a node reads a recording");
        let found = vod::from_folder(folder, &named, request.method(), request.headers()).await;
        Ok((found.unwrap_or_else(|| StatusCode::NOT_FOUND.into_response()), place))
    }

    fn counted(&self, response: Response<Body>) -> Response<Body> {
        let sent = self.metrics.bytes(Direction::Out);
        response.map(|body| {
            Body::new(body.map_frame(move |frame: Frame<Bytes>| {
                sent.inc_by(frame.data_ref().map_or(0, |bytes| bytes.len() as u64));
                frame
            }))
        })
    }
}
