//! HLS between nodes: a node that has no publisher of a stream asks the one that has for its playlists and files, over the relay's
//! port. A request is a connection of its own, as REST that is passed on: none is lost because the owner has just closed it.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    HeaderMap, Request, Response, StatusCode, Uri,
    body::Incoming,
    client::conn::http1,
    header::{AUTHORIZATION, HOST},
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use ledger::{Key, Store};
use tallylight_crds::StreamId;
use tokio::time::timeout;

use super::{
    Relays, client,
    follow::{Found, Session},
    metrics::Refusal,
    server::Server,
    token::{Grant, LIFETIME_SECONDS},
};
use crate::{hub::Name, metrics::Direction, playback::hls};

/// What asks for files; another form takes another number.
const PREFIX: &str = "/hls/v1/";
/// Longest wait for an answer, whole: the owner lets a request wait for three target durations, and then sends a segment.
const ANSWER: Duration = Duration::from_secs(40);
/// Most bytes of an answer: a segment's bound, and the part that reaches it.
const MAX_ANSWER: usize = 96 << 20;

/// Where the playlist of a stream can be had.
#[derive(Clone, Debug)]
pub(crate) enum Whereabouts {
    /// It is on air nowhere.
    Nowhere,
    /// Its publisher is away, or the store does not say.
    Unknown,
    /// On this node.
    Here,
    Elsewhere(Owner),
}

/// The node that has a stream's publisher.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    session: Session,
    address: String,
}

impl Owner {
    /// Tells this session, at this node, from others.
    pub(crate) fn tag(&self) -> String {
        let Session { uid, owner, node } = &self.session;
        format!("{uid}/{}/{}/{node}", owner.ordinal, owner.epoch)
    }
}

/// An answer of the owner, read whole.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl<S: Store> Relays<S> {
    /// Asks the store where a stream is.
    pub(crate) async fn locate(&self, name: &Name) -> Whereabouts {
        if self.0.key.is_none() {
            return Whereabouts::Nowhere; // there are no other nodes
        }
        match self.look_up(name).await {
            Found::Nowhere => Whereabouts::Nowhere,
            Found::Here(_) => Whereabouts::Here,
            Found::Away | Found::Unknown => Whereabouts::Unknown,
            Found::Elsewhere(session, address) => Whereabouts::Elsewhere(Owner { session, address }),
        }
    }

    /// Asks a stream's owner for a file of its playlist; `file` may have a query.
    ///
    /// # Errors
    /// When it does not answer in time, or not in due form.
    pub(crate) async fn fetch(&self, owner: &Owner, name: &Name, file: &str) -> Result<Fetched, client::Error> {
        let key = self.0.key.as_ref().ok_or(client::Error::Cut)?;
        let grant = Grant {
            uid: owner.session.uid.clone(),
            session: owner.session.owner,
            node: self.0.place.node.clone(),
            expires: Timestamp::now().as_second() + LIFETIME_SECONDS,
        };
        let mut request = Request::new(Empty::<Bytes>::new());
        // names hold nothing but letters, digits, `.`, `-` and `_`, and the rest is ours
        *request.uri_mut() = format!("{PREFIX}{}/{}/{file}", name.app, name.id).parse().unwrap_or_default();
        for (header, value) in [(HOST, owner.address.clone()), (AUTHORIZATION, format!("Bearer {}", key.sign(&grant)))]
        {
            if let Ok(value) = value.parse() {
                request.headers_mut().insert(header, value);
            }
        }
        self.0.metrics.fetching();
        let fetched = timeout(ANSWER, ask(&owner.address, request)).await;
        let fetched = fetched.unwrap_or(Err(client::Error::NoAnswer(ANSWER)));
        match &fetched {
            Ok(fetched) => _ = self.0.metrics.bytes(Direction::In).inc_by(fetched.body.len() as u64),
            Err(error) => self.0.metrics.failed(error.failure()),
        }
        fetched
    }
}

async fn ask(address: &str, request: Request<Empty<Bytes>>) -> Result<Fetched, client::Error> {
    let socket = client::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(client::Error::Http)?;
    let read = async {
        let (parts, body) = sender.send_request(request).await.map_err(client::Error::Http)?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|_broken_or_large| client::Error::Cut)?;
        Ok(Fetched { status: parts.status, headers: parts.headers, body: body.to_bytes() })
    };
    let mut read = std::pin::pin!(read);
    tokio::select! {
        fetched = read.as_mut() => fetched,
        // what breaks the connection shows in the answer
        _over = connection => read.await,
    }
}

impl<S: Store> Server<S> {
    /// Answers another node that asks for a playlist or a file; `None` when the request is for something else.
    pub(super) async fn answer_files(&self, request: &Request<Incoming>) -> Option<Response<Body>> {
        let (name, file) = name_of(request.uri())?;
        let found = self.granted(request).and_then(|grant: Grant| {
            // the session of a publisher that is away, or gone for good, is nobody's
            let on_air = self.claims.on_air(&Key::of_stream(&self.namespace, &name.id));
            if on_air.is_some_and(|(uid, session)| (uid, session) != (grant.uid, grant.session)) {
                return Err(Refusal::OtherSession);
            }
            self.packagers.of(&name).or_else(|| self.packagers.ended(&name)).ok_or(Refusal::NotHere)
        });
        Some(match found {
            Ok(packaged) => {
                let sent = self.metrics.bytes(Direction::Out);
                hls::answer_node(&packaged, file, request.uri().query(), &self.shutdown, &sent).await
            }
            Err(refusal) => self.refuse(refusal),
        })
    }
}

fn name_of(uri: &Uri) -> Option<(Name, &str)> {
    let mut parts = uri.path().strip_prefix(PREFIX)?.splitn(3, '/');
    let (app, id, file) = (parts.next()?, parts.next()?, parts.next()?);
    Some((Name { app: app.to_owned(), id: StreamId::parse(id).ok()? }, file))
}
