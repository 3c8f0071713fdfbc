//! Sessions of WebRTC between nodes. The address of a session names its node, and what a client asks of it (DELETE, PATCH) may reach
//! another: that passes it on over the relay's port, and returns the answer. The owner answers from its own sessions alone, so
//! nothing is passed on twice.

use std::{error::Error as StdError, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{
        AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, HOST, HeaderName, IF_MATCH, IF_NONE_MATCH, RETRY_AFTER,
    },
    service::Service as _,
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use jiff::Timestamp;
use ledger::Store;
use tokio::{sync::Semaphore, time::timeout};
use tracing::debug;

use super::{
    client,
    metrics::{Metrics, Outcome, Refusal},
    peers::{Peer, Peers},
    server::Server,
    token::{Errand, LIFETIME_SECONDS, PoolKey},
};
use crate::webrtc::{WebRtc, resource};

/// What asks for a session, before its address; another form takes another number.
const PREFIX: &str = "/sessions/v1";

/// Requests that are passed on at once; more are refused. Each is a connection for some milliseconds.
const MAX_PASSED: usize = 256;
/// Nodes that are looked up at once; more wait. Whoever makes names up costs the API server no more than this.
const MAX_LOOK_UPS: usize = 8;
/// Longest time for one: the owner answers from memory, and an encoder that stops does not wait for longer.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest body of an answer, which is a part of an SDP.
const MAX_ANSWER: usize = 64 << 10;

/// What of a request concerns the session.
const ASKED: [HeaderName; 3] = [CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH];
/// And of its answer.
const ANSWERED: [HeaderName; 4] = [CACHE_CONTROL, CONTENT_TYPE, ETAG, RETRY_AFTER];

/// Sessions on other nodes. Clones share it.
#[derive(Clone, Debug)]
pub struct Elsewhere(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: String,
    key: Arc<PoolKey>,
    peers: Peers,
    metrics: Metrics,
    room: Semaphore,
    look_ups: Semaphore,
}

/// What a client asks of a session of another node.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// The node that has it.
    pub(crate) owner: &'a str,
    pub(crate) method: &'a Method,
    /// The address of the session.
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: String,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    /// Too many are passed on.
    Busy,
    /// The node is gone for good, and its sessions with it.
    Gone,
    /// The node cannot be reached, refuses, or it is not known where it is.
    Away,
    Silent,
}

impl Elsewhere {
    /// Passes on as the node of that name.
    pub(super) fn new(node: String, key: Arc<PoolKey>, peers: Peers, metrics: Metrics) -> Self {
        let (room, look_ups) = (Semaphore::new(MAX_PASSED), Semaphore::new(MAX_LOOK_UPS));
        Self(Arc::new(Inner { node, key, peers, metrics, room, look_ups }))
    }

    /// Asks the node that has a session, and returns its answer.
    pub(crate) async fn pass(&self, asked: Asked<'_>) -> Response {
        let owner = asked.owner;
        let answer = match self.0.room.try_acquire() {
            Ok(_place) => timeout(DEADLINE, self.ask(asked)).await.unwrap_or(Err(Failed::Silent)),
            Err(_none_left) => Err(Failed::Busy),
        };
        self.0.metrics.passed_on(match &answer {
            Ok(_) => Outcome::Answered,
            Err(Failed::Busy) => Outcome::TooMany,
            Err(Failed::Gone) => Outcome::NodeGone,
            Err(Failed::Away) => Outcome::NodeAway,
            Err(Failed::Silent) => Outcome::NoAnswer,
        });
        match answer {
            Ok(answer) => answer,
            Err(failed) => {
                debug!(owner, ?failed, "a request for a session of another node has no answer");
                if matches!(failed, Failed::Away | Failed::Silent) {
                    self.0.peers.forget(owner).await;
                }
                failed.into_response()
            }
        }
    }

    async fn ask(&self, asked: Asked<'_>) -> Result<Response, Failed> {
        let address = self.find(asked.owner).await?;
        let away = |error: &(dyn StdError + 'static)| {
            debug!(address, error, "failed to ask for a session of another node");
            Failed::Away
        };
        let request = self.request(asked, &address);
        let socket = client::connect(&address).await.map_err(|error| away(&error))?;
        let handshake = http1::Builder::new().handshake(TokioIo::new(socket)).await;
        let (mut sender, connection) = handshake.map_err(|error| away(&error))?;
        let answered = async {
            let (parts, body) = sender.send_request(request).await.map_err(|error| away(&error))?.into_parts();
            if parts.status == StatusCode::UNAUTHORIZED {
                debug!(address, "another node does not take this one's token");
                return Err(Failed::Away);
            }
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| away(&*error))?;
            // the connection ends with it
            drop(sender);
            let mut answer = Response::new(Body::from(body.to_bytes()));
            *answer.status_mut() = parts.status;
            *answer.headers_mut() = super::recordings::only(&ANSWERED, &parts.headers);
            Ok(answer)
        };
        // what breaks the connection shows in the answer
        let (answer, _over) = tokio::join!(answered, connection);
        answer
    }

    async fn find(&self, node: &str) -> Result<String, Failed> {
        if !is_node(node) {
            return Err(Failed::Gone);
        }
        let _turn = self.0.look_ups.acquire().await.map_err(|_never_closed| Failed::Busy)?;
        match self.0.peers.find(node).await {
            Peer::At(address) => Ok(address),
            Peer::Gone => Err(Failed::Gone),
            Peer::Unknown => Err(Failed::Away),
        }
    }

    fn request(&self, asked: Asked<'_>, address: &str) -> Request<Full<Bytes>> {
        let errand = Errand {
            path: asked.path.to_owned(),
            node: self.0.node.clone(),
            expires: Timestamp::now().as_second() + LIFETIME_SECONDS,
        };
        let mut request = Request::new(Full::from(asked.body));
        request.method_mut().clone_from(asked.method);
        // it was a path already
        *request.uri_mut() = format!("{PREFIX}{}", asked.path).parse().unwrap_or_default();
        *request.headers_mut() = super::recordings::only(&ASKED, asked.headers);
        let ours = [(HOST, address.to_owned()), (AUTHORIZATION, format!("Bearer {}", self.0.key.sign(&errand)))];
        for (header, value) in ours {
            // an address with bytes that no header may have is no address; without it the owner refuses
            if let Ok(value) = value.parse() {
                request.headers_mut().insert(header, value);
            }
        }
        request
    }
}

/// Whether the text may be a node's name, which is a pod's: anything else is not looked for.
fn is_node(name: &str) -> bool {
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.first().is_some_and(is_alphanumeric)
        && bytes.len() <= 253
        && bytes.iter().all(|byte| is_alphanumeric(byte) || matches!(byte, b'-' | b'.'))
}

impl Failed {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "too many requests go to other nodes; try again\n"),
            Self::Gone => (StatusCode::NOT_FOUND, "the node of the session is gone, and the session with it\n"),
            Self::Away => (StatusCode::BAD_GATEWAY, "the node of the session cannot be reached\n"),
            Self::Silent => (StatusCode::GATEWAY_TIMEOUT, "the node of the session does not answer\n"),
        };
        let mut response = (status, [(CACHE_CONTROL, "no-store")], text).into_response();
        if self == Self::Busy {
            response.headers_mut().insert(RETRY_AFTER, 1.into());
        }
        response
    }
}

/// The owner's side: the sessions of this node, by their addresses.
pub(super) type Sessions = TowerToHyperService<Router>;

pub(super) fn sessions(webrtc: &WebRtc) -> Sessions {
    TowerToHyperService::new(resource::own(webrtc))
}

impl<S: Store> Server<S> {
    /// Answers another node that passes a request for a session on.
    pub(super) async fn answer_errand(&self, mut request: Request<Incoming>) -> Result<Response, Request<Incoming>> {
        let Some(sessions) = &self.sessions else { return Err(request) };
        let Some(path) = request.uri().path().strip_prefix(PREFIX) else { return Err(request) };
        match self.granted::<Errand>(&request) {
            Ok(errand) if errand.path == path => debug!(node = errand.node, "a node asks for a session"),
            Ok(_other) => return Ok(self.refuse(Refusal::WrongToken)),
            Err(refusal) => return Ok(self.refuse(refusal)),
        }
        // its prefix is one of what was a path
        *request.uri_mut() = path.parse().unwrap_or_default();
        let Ok(answer) = sessions.call(request).await;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_a_node_is_looked_for() {
        for name in ["media-live-abcde", "a.b", "7"] {
            assert!(is_node(name), "{name}");
        }
        for other in ["", "../secrets/x", "a/b", "A", "a?b", "-a", ".", &"a".repeat(254)] {
            assert!(!is_node(other), "{other}");
        }
    }
}
