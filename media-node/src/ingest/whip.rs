//! WHIP (RFC 9725): a publisher offers, is admitted and answered, and sends over WebRTC. It takes the same way as one of RTMP:
//! the same keys, claims and timeouts, and packets of the same kind.
//!
//! `POST /{app}/whip/{streamID}`, with the stream key as bearer token or `?key=`. What follows is `webrtc/resource.rs`'.

mod media;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Path, RawQuery, State},
    http::HeaderMap,
    middleware::map_response,
    response::{IntoResponse as _, Response},
    routing::post,
};
use ledger::Store;
use media_webrtc::{
    demux::Full,
    pool::NewPublisher,
    sdp::{Answer, Direction, Offer},
};
use tallylight_crds::Protocol;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tracing::info;

use self::media::{Publishing, Tracks};
use super::publisher::{Origin, Publisher};
use crate::{
    admission::{self, Admitted},
    metrics::{Protocol as Transport, RefusalReason},
    server::Node,
    webrtc::{
        WebRtc, resource,
        sessions::{Kind, Role, Session},
        signalling::{self, Problem, Secrets},
    },
};

/// The routes for publishers. What they send is taken by tasks of `tasks`.
pub(crate) fn routes<S: Store>(node: &Arc<Node<S>>, tasks: &TaskTracker) -> Router {
    let whip = Arc::new(Whip { node: Arc::clone(node), tasks: tasks.clone() });
    let endpoint = Router::new().route("/{app}/whip/{id}", post(offered::<S>).options(preflight::<S>)).with_state(whip);
    let sessions = node.webrtc.clone().map(|webrtc| resource::routes(webrtc, Kind::Whip));
    endpoint
        .merge(sessions.unwrap_or_default())
        .layer(map_response(async |response: Response| signalling::open_to_pages(response)))
}

struct Whip<S> {
    node: Arc<Node<S>>,
    tasks: TaskTracker,
}

async fn preflight<S: Store>(State(whip): State<Arc<Whip<S>>>) -> Response {
    signalling::preflight(whip.node.webrtc.as_ref())
}

async fn offered<S: Store>(
    State(whip): State<Arc<Whip<S>>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((app, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Some(webrtc) = &whip.node.webrtc else { return Problem::TurnedOff.into_response() };
    let key = signalling::key(&headers, query.as_deref());
    let asked = Asked { peer, app, id, key };
    let answered = match signalling::offer(&headers, body).await {
        Ok(offer) => whip.answer(webrtc, &asked, offer).await,
        Err(problem) => Err(problem),
    };
    answered.unwrap_or_else(|problem| {
        webrtc.metrics().refused(problem.label());
        problem.into_response()
    })
}

/// What a publisher asks for.
struct Asked {
    peer: SocketAddr,
    app: String,
    id: String,
    key: Option<String>,
}

impl<S: Store> Whip<S> {
    async fn answer(&self, webrtc: &WebRtc, asked: &Asked, offer: Offer) -> Result<Response, Problem> {
        let legs = offer.accept()?;
        let Secrets { token, credentials, seed, sdp, ssrcs: _ } = Secrets::draw()?;
        let admitted = self.admit(asked).await?;
        let answer = Answer {
            offer: &offer,
            legs: &legs,
            direction: Direction::Receive,
            session_id: sdp,
            credentials: &credentials,
            fingerprint: webrtc.identity().fingerprint(),
            candidates: &webrtc.candidates(),
            cname: "",
        };
        let answer = answer.to_string();
        let (name, ufrag) = (admitted.place.name().clone(), credentials.ufrag.clone());
        let location = signalling::location(Kind::Whip, &name, webrtc.node(), &token);
        let (line, ended) = mpsc::channel(1);
        let session = Session { name, token, ufrag: ufrag.clone(), role: Role::Publisher(line) };
        let ((inlet, outlet), tracks, now) = (media::channel(), Tracks::new(&offer, &legs), Instant::now());
        let id = webrtc.sessions().add(session);
        let publisher = NewPublisher { id, offer, legs, credentials, seed, inlet };
        if let Err(full) = webrtc.pool().add_publisher(publisher, now) {
            webrtc.sessions().remove(id);
            return Err(refused(full));
        }
        let origin = Origin { peer: asked.peer, protocol: Protocol::WebRTC, transport: Transport::WebRtc };
        let publisher = Publisher::new(admitted, origin, &self.node);
        let (webrtc_of, group) = (webrtc.clone(), self.node.packagers.segment());
        let session = media::Session { webrtc: webrtc_of, id, tracks, outlet, ended, group };
        self.tasks.spawn(Publishing::new(publisher, session, now).run());
        Ok(signalling::created(webrtc, &location, &ufrag, answer))
    }

    async fn admit(&self, asked: &Asked) -> Result<Admitted, Problem> {
        let Asked { peer, app, id, key } = asked;
        let request = admission::Request { app, id, key: key.as_deref() };
        let admitted = tokio::select! {
            biased;
            () = self.node.draining.cancelled() => Err(RefusalReason::ShuttingDown),
            admitted = self.node.admission.admit(request) => admitted,
        };
        admitted.map_err(|reason| {
            self.node.metrics.refused(reason);
            info!(%peer, app, stream = id, ?reason, "publisher refused");
            problem(reason, key.is_some())
        })
    }
}

/// How a refusal is said to the publisher.
fn problem(reason: RefusalReason, has_key: bool) -> Problem {
    match reason {
        RefusalReason::UnknownApp => Problem::NotFound("there is no such application"),
        RefusalReason::UnknownStream | RefusalReason::NotLive => Problem::NotFound("there is no such stream"),
        RefusalReason::WrongKey if has_key => Problem::WrongKey,
        RefusalReason::WrongKey => Problem::NoKey,
        RefusalReason::AlreadyLive => Problem::Conflict("the stream has a publisher"),
        RefusalReason::Stopped => Problem::Conflict("the stream has been stopped"),
        RefusalReason::KeyNotReady => Problem::Unavailable("the stream's key is not ready yet"),
        RefusalReason::LedgerFull => Problem::Unavailable("too many of the stream's events wait for their receiver"),
        RefusalReason::ShuttingDown => Problem::Unavailable("this node shuts down"),
        RefusalReason::StoreUnavailable
        | RefusalReason::NotRelayed
        | RefusalReason::Protocol
        | RefusalReason::HandshakeTimeout
        | RefusalReason::RequestTimeout
        | RefusalReason::TooManyPending
        | RefusalReason::Stalled
        | RefusalReason::NoMedia => Problem::Unavailable("this node cannot take the stream now"),
    }
}

fn refused(full: Full) -> Problem {
    info!(%full, "a publisher was refused");
    Problem::Full(match full {
        Full::Sessions => "this node has as many sessions as it may".into(),
        Full::HalfOpen => "too many peers are connecting".into(),
        Full::Name => "the session's name is taken".into(),
    })
}
