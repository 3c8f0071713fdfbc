//! REST at a node of a cluster: what users ask of its application below `/{app}/rest/` is passed on to the operator, so that they have
//! one host for media and REST. It decides nothing of it: who may call is the operator's to say, and a token is only passed through.
//!
//! Each request is a connection of its own, which costs little inside a cluster: none is lost, or sent twice, because the
//! operator has just closed an idle one.

use std::{
    error::Error as _,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode, Uri,
        header::{
            CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, PROXY_AUTHORIZATION, RETRY_AFTER, TE, TRAILER,
            TRANSFER_ENCODING, UPGRADE,
        },
    },
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use rest::{Unread, Upstream, fail, read_body};
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};
use tracing::{info, warn};
use webhook::dns::{NoAddress, SystemDns};

use crate::admission::Apps;

/// Requests that are passed on at once; one more is answered 503. An operator that answers does so within milliseconds.
const MAX_FORWARDS: usize = 64;
/// Longest wait for the operator's whole answer: longer than the 15 s after which it gives up on a body and its store.
const DEADLINE: Duration = Duration::from_secs(20);
/// Of that, for a connection: it is near, and a lost first packet is sent again after 1 s.
const CONNECT: Duration = Duration::from_secs(5);
/// Most bytes of an answer; a longer one is answered 502. A broadcast takes 2 KB.
const MAX_ANSWER: usize = 1 << 20;
/// When somebody who was answered 503 may ask again, in seconds.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// What concerns one connection and not the message (RFC 9110 §7.6.1), beside what `Connection` names.
const OF_THE_CONNECTION: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The routes for users; none without an upstream. They must be served with the peer's address.
pub(crate) fn routes(upstream: Option<Upstream>, apps: Apps, registry: &mut Registry) -> Router {
    let Some(upstream) = upstream else { return Router::new() };
    router(Forwarder::new(upstream, apps, registry))
}

fn router(forwarder: Forwarder) -> Router {
    Router::new().route("/{app}/rest/{*path}", any(forward)).with_state(Arc::new(forwarder))
}

async fn forward(
    State(forwarder): State<Arc<Forwarder>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let answer = forwarder.forward(request, peer.ip().to_canonical()).await;
    forwarder.note(&answer);
    answer.unwrap_or_else(Failure::into_response)
}

struct Forwarder {
    upstream: Upstream,
    names: SystemDns,
    apps: Apps,
    room: Semaphore,
    deadline: Duration,
    forwards: Family<OutcomeLabel, Counter>,
    /// Whether the last request failed at the upstream.
    is_failing: AtomicBool,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Outcome {
    /// By the operator, whatever it said.
    Answered,
    /// Here, before it was passed on.
    Refused,
    /// Too many were under way.
    TooMany,
    Unreachable,
    /// The operator's answer broke off, or is none that can be passed on.
    BadAnswer,
    NoAnswer,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

impl Forwarder {
    fn new(upstream: Upstream, apps: Apps, registry: &mut Registry) -> Self {
        let forwards = Family::default();
        registry.register("rest_forwards", "REST requests of users, by what became of them", forwards.clone());
        Self {
            upstream,
            names: SystemDns::default(),
            apps,
            room: Semaphore::new(MAX_FORWARDS),
            deadline: DEADLINE,
            forwards,
            is_failing: AtomicBool::new(false),
        }
    }

    async fn forward(&self, request: Request, peer: IpAddr) -> Result<Response, Failure> {
        let (parts, body) = request.into_parts();
        let target = self.target(&parts.uri)?;
        let host = host(&parts.uri, &parts.headers).ok_or(Failure::Host)?;
        let body = read_body(body).await.map_err(Failure::Body)?;
        let _place = self.room.try_acquire().map_err(|_none_left| Failure::TooMany)?;
        let mut request = hyper::Request::new(Full::new(body));
        *request.method_mut() = parts.method;
        *request.uri_mut() = target;
        *request.headers_mut() = passed_on(parts.headers, host, peer);
        let answer = timeout(self.deadline, self.ask(request)).await.unwrap_or(Err(Error::NoAnswer));
        let (mut parts, body) = answer.map_err(Failure::Upstream)?.into_parts();
        drop_of_the_connection(&mut parts.headers);
        Ok(Response::from_parts(parts, Body::from(body)))
    }

    /// The path and query, as they came, when the path is one below `/{app}/rest/` of this node's applications. It has only
    /// what no server on the way can read as another path: no escapes, and no empty or dotted segments.
    fn target(&self, uri: &Uri) -> Result<Uri, Failure> {
        let mut segments = uri.path().split('/').skip(1);
        let app = segments.next().filter(|app| self.apps.pool(app).is_some());
        app.ok_or(Failure::UnknownApplication)?;
        let is_rest = segments.next() == Some("rest");
        let path_and_query = uri.path_and_query().filter(|_| is_rest && segments.all(is_plain));
        path_and_query.cloned().map(Uri::from).ok_or(Failure::Path)
    }

    async fn ask(&self, request: hyper::Request<Full<Bytes>>) -> Result<hyper::Response<Bytes>, Error> {
        let socket = timeout(CONNECT, self.connect()).await.map_err(|_elapsed| Error::ConnectTimeout)??;
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(Error::Broken)?;
        let asked = async move {
            let (parts, body) = sender.send_request(request).await.map_err(Error::Broken)?.into_parts();
            if parts.status.is_informational() {
                return Err(Error::Informational);
            }
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(Error::Body)?;
            Ok(hyper::Response::from_parts(parts, body.to_bytes()))
        };
        // what breaks the connection shows in the answer
        let (asked, _closed) = tokio::join!(asked, connection);
        asked
    }

    async fn connect(&self) -> Result<TcpStream, Error> {
        let (host, port) = (self.upstream.host(), self.upstream.port());
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_name) => self.names.lookup(host.to_owned()).await.map_err(Error::Name)?,
        };
        let addresses: Vec<_> = addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
        let socket = TcpStream::connect(&addresses[..]).await.map_err(Error::Connect)?;
        socket.set_nodelay(true).map_err(Error::Connect)?;
        Ok(socket)
    }

    /// Counts a request, and logs when the upstream begins to fail and when it answers again.
    fn note(&self, answer: &Result<Response, Failure>) {
        let outcome = match answer {
            Ok(_) => Outcome::Answered,
            Err(failure) => failure.outcome(),
        };
        self.forwards.get_or_create(&OutcomeLabel { outcome }).inc();
        match answer {
            Ok(_) if self.is_failing.swap(false, Ordering::Relaxed) => {
                info!(upstream = %self.upstream, "REST answers again")
            }
            Err(Failure::Upstream(error)) if !self.is_failing.swap(true, Ordering::Relaxed) => {
                let source = error.source().map(ToString::to_string).unwrap_or_default();
                warn!(upstream = %self.upstream, %error, source, "REST cannot be passed on; it is tried anew with each request");
            }
            Ok(_) | Err(_) => {}
        }
    }
}

/// Letters, digits, `-`, `.`, `_` and `~`, which are all that REST's paths need, and which nobody escapes (RFC 3986 §2.3).
fn is_plain(segment: &str) -> bool {
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    !matches!(segment, "" | "." | "..") && segment.bytes().all(is_unreserved)
}

/// The host that the client called. A target with a host wins over the header (RFC 9112 §3.2.2), of which there must be one.
fn host(uri: &Uri, headers: &HeaderMap) -> Option<HeaderValue> {
    if let Some(authority) = uri.authority() {
        return Some(authority.as_str()).filter(|authority| !authority.contains('@'))?.parse().ok();
    }
    let mut named = headers.get_all(HOST).iter();
    let host = named.next().cloned();
    host.filter(|_| named.next().is_none())
}

/// The headers as the operator gets them.
fn passed_on(mut headers: HeaderMap, host: HeaderValue, peer: IpAddr) -> HeaderMap {
    drop_of_the_connection(&mut headers);
    // the body is here: its length is known, and nobody waits to be told to send it
    headers.remove(CONTENT_LENGTH);
    headers.remove(EXPECT);
    headers.insert(HOST, host);
    let element = match peer {
        IpAddr::V4(peer) => format!("for={peer};proto=http"),
        IpAddr::V6(peer) => format!("for=\"[{peer}]\";proto=http"),
    };
    // after what proxies before this node have said (RFC 9110 §5.3: another line goes on with the list)
    for (name, value) in [(FORWARDED_FOR, peer.to_string()), (FORWARDED, element)] {
        if let Ok(value) = value.parse() {
            headers.append(name, value);
        }
    }
    headers
}

fn drop_of_the_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in OF_THE_CONNECTION.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Why the upstream's answer is not passed on.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("failed to find its address")]
    Name(#[source] NoAddress),
    #[error("failed to connect")]
    Connect(#[source] io::Error),
    #[error("no connection within {CONNECT:?}")]
    ConnectTimeout,
    #[error("the connection broke before the answer")]
    Broken(#[source] hyper::Error),
    #[error("the answer broke off, or has more than {MAX_ANSWER} bytes")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer is none, but something between")]
    Informational,
    #[error("no answer in time")]
    NoAnswer,
}

/// Why a request has no answer of the operator's.
#[derive(Debug)]
enum Failure {
    Path,
    UnknownApplication,
    Host,
    Body(Unread),
    TooMany,
    Upstream(Error),
}

impl Failure {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Path | Self::UnknownApplication | Self::Host | Self::Body(_) => Outcome::Refused,
            Self::TooMany => Outcome::TooMany,
            Self::Upstream(Error::Name(_) | Error::Connect(_) | Error::ConnectTimeout) => Outcome::Unreachable,
            Self::Upstream(Error::Broken(_) | Error::Body(_) | Error::Informational) => Outcome::BadAnswer,
            Self::Upstream(Error::NoAnswer) => Outcome::NoAnswer,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let outcome = self.outcome();
        match self {
            Self::Path => fail(
                StatusCode::BAD_REQUEST,
                "the path must be /{app}/rest/…, with letters, digits and -._~ between its slashes, and no . or .. alone",
            ),
            Self::UnknownApplication => {
                fail(StatusCode::NOT_FOUND, "no application of this media node has that name; ask the operator's REST")
            }
            Self::Host => fail(StatusCode::BAD_REQUEST, "the request must name its host, once"),
            Self::Body(unread) => unread.into_response(),
            Self::TooMany => {
                let busy = fail(StatusCode::SERVICE_UNAVAILABLE, "too many requests are under way; try again");
                ([(RETRY_AFTER, RETRY_SECONDS)], busy).into_response()
            }
            Self::Upstream(Error::NoAnswer) => {
                fail(StatusCode::GATEWAY_TIMEOUT, "REST did not answer in time; what was asked for may have been done")
            }
            Self::Upstream(_) if outcome == Outcome::Unreachable => {
                fail(StatusCode::BAD_GATEWAY, "REST cannot be reached; try again")
            }
            Self::Upstream(_) => {
                fail(StatusCode::BAD_GATEWAY, "REST broke off its answer; what was asked for may have been done")
            }
        }
    }
}

#[cfg(test)]
mod tests;
