//! WHEP (draft-ietf-wish-whep): a player offers, is answered at once, and gets the stream over WebRTC from this node, whichever node
//! it is published to.
//!
//! `POST /{app}/whep/{streamID}`, and with `?wait=SECONDS` for a stream that is yet to come. What follows is
//! `webrtc/resource.rs`'.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, RawQuery, State},
    http::HeaderMap,
    middleware::map_response,
    response::{IntoResponse as _, Response},
    routing::post,
};
use ledger::Store;
use media_webrtc::{
    demux::Full,
    pool::NewSession,
    sdp::{Answer, Direction},
};
use tallylight_crds::StreamId;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::info;

use super::Streams;
use crate::{
    hub::{Name, Viewer},
    metrics::RefusalReason,
    server::Node,
    webrtc::{
        WebRtc,
        feed::{Offering, Refused, Seat},
        metrics::Refusal,
        resource,
        sessions::{Kind, Role, Session},
        signalling::{self, Problem, Secrets},
        tracks::Obstacle,
    },
};

/// Longest `?wait=`: what balancers let a request take.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How often it is asked whether a stream has come that may be on another node; one of this node is seen at once.
const LOOK: Duration = Duration::from_secs(1);

/// What the tracks of a stream say that they are of, so that a player keeps them in step: one name, since a session has one stream.
const CNAME: &str = "tallylight";

/// The routes for players.
pub(super) fn routes<S: Store>(node: &Node<S>) -> Router {
    let whep = Arc::new(Whep { streams: Streams::of(node), webrtc: node.webrtc.clone() });
    let endpoint = Router::new().route("/{app}/whep/{id}", post(offered::<S>).options(preflight::<S>)).with_state(whep);
    let sessions = node.webrtc.clone().map(|webrtc| resource::routes(webrtc, Kind::Whep));
    endpoint
        .merge(sessions.unwrap_or_default())
        .layer(map_response(async |response: Response| signalling::open_to_pages(response)))
}

struct Whep<S> {
    streams: Streams<S>,
    /// None where it is turned off.
    webrtc: Option<WebRtc>,
}

async fn preflight<S: Store>(State(whep): State<Arc<Whep<S>>>) -> Response {
    signalling::preflight(whep.webrtc.as_ref())
}

async fn offered<S: Store>(
    State(whep): State<Arc<Whep<S>>>,
    Path((app, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Some(webrtc) = &whep.webrtc else { return Problem::TurnedOff.into_response() };
    let asked = Asked { app, id, query, headers };
    match whep.answer(webrtc, asked, body).await {
        Ok(response) => response,
        Err(problem) => {
            webrtc.metrics().refused(problem.label());
            problem.into_response()
        }
    }
}

/// What a player asks for.
struct Asked {
    app: String,
    id: String,
    query: Option<String>,
    headers: HeaderMap,
}

impl<S: Store> Whep<S> {
    async fn answer(&self, webrtc: &WebRtc, asked: Asked, body: Body) -> Result<Response, Problem> {
        let Asked { app, id, query, headers } = asked;
        let wait = wait(query.as_deref())?;
        let offer = signalling::offer(&headers, body).await?;
        if self.streams.apps.pool(&app).is_none() {
            return Err(Problem::NotFound("there is no such application"));
        }
        let id = StreamId::parse(&id).map_err(|_invalid| Problem::NotFound("that is no id of a stream"))?;
        let name = Name { app, id };
        let (seat, offering) = self.seat(webrtc, &name, Instant::now() + wait).await?;
        let Secrets { token, credentials, seed, sdp, mut ssrcs } = Secrets::draw()?;
        let legs = offer.choose(&offering.codecs(), || ssrcs.draw())?;
        let answer = Answer {
            offer: &offer,
            legs: &legs,
            direction: Direction::Send,
            session_id: sdp,
            credentials: &credentials,
            fingerprint: webrtc.identity().fingerprint(),
            candidates: &webrtc.candidates(),
            cname: CNAME,
        };
        let answer = answer.to_string();
        let (ufrag, location) =
            (credentials.ufrag.clone(), signalling::location(Kind::Whep, &name, webrtc.node(), &token));
        let session = Session { name, token, ufrag: ufrag.clone(), role: Role::Viewer(seat) };
        let session_id = webrtc.sessions().add(session);
        let new =
            NewSession { id: session_id, stream: offering.stream, offer, legs, credentials, cname: CNAME.into(), seed };
        if let Err(full) = webrtc.pool().add(new, std::time::Instant::now()) {
            webrtc.sessions().remove(session_id);
            return Err(self.full(full));
        }
        Ok(signalling::created(webrtc, &location, &ufrag, answer))
    }

    fn full(&self, full: Full) -> Problem {
        info!(%full, viewers = self.streams.hub.viewers(), "a player was refused");
        Problem::Full(match full {
            Full::Sessions => "this node has as many sessions as it may".into(),
            Full::HalfOpen => "too many players are connecting".into(),
            Full::Name => "the session's name is taken".into(),
        })
    }

    /// A place at a stream, as soon as it can be sent.
    async fn seat(&self, webrtc: &WebRtc, name: &Name, until: Instant) -> Result<(Seat, Offering), Problem> {
        loop {
            let problem = match self.find(name, until).await {
                Ok(viewer) => {
                    let seat = webrtc.feeds().seat(name, viewer);
                    match seat.offering().await {
                        Ok(offering) => return Ok((seat, offering)),
                        Err(Refused::Obstacle(obstacle)) => return Err(unacceptable(obstacle)),
                        Err(Refused::NoMedia) => Problem::NotLive,
                    }
                }
                Err(problem) => return Err(problem),
            };
            if Instant::now() >= until || self.streams.shutdown.is_cancelled() {
                return Err(problem);
            }
        }
    }

    /// The stream, as soon as it is live.
    async fn find(&self, name: &Name, until: Instant) -> Result<Viewer, Problem> {
        loop {
            let mut arrival = std::pin::pin!(self.streams.hub.arrival().notified());
            arrival.as_mut().enable();
            let reason = match self.streams.view(name).await {
                Ok(viewer) => return Ok(viewer),
                Err(reason) => reason,
            };
            if reason == RefusalReason::ShuttingDown {
                return Err(Problem::Unavailable("this node shuts down"));
            }
            if Instant::now() >= until {
                return Err(match reason {
                    RefusalReason::NotRelayed => Problem::Unavailable("the stream cannot be had from its node"),
                    _ => Problem::NotLive,
                });
            }
            let again = async {
                tokio::select! {
                    () = arrival => {}
                    () = sleep(LOOK) => {}
                    () = self.streams.shutdown.cancelled() => {}
                }
            };
            let _elapsed = timeout_at(until, again).await;
        }
    }
}

fn unacceptable(obstacle: Obstacle) -> Problem {
    let label = match obstacle {
        Obstacle::BFrames => Refusal::Reordered,
        Obstacle::Video(_) | Obstacle::Audio(_) => Refusal::Unsupported,
    };
    Problem::Unacceptable(label, obstacle.to_string())
}

fn wait(query: Option<&str>) -> Result<Duration, Problem> {
    let Some(text) = signalling::parameter(query, "wait") else { return Ok(Duration::ZERO) };
    let seconds: u64 = text.parse().map_err(|_no_number| Problem::Malformed("wait is a number of seconds".into()))?;
    Ok(Duration::from_secs(seconds).min(MAX_WAIT))
}
