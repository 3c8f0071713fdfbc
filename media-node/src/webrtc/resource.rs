//! The address of a session, `/{app}/whep|whip/{streamID}/{node}/{session}`: by it a client ends the session (DELETE), and tells of
//! its own addresses or begins its connection anew (PATCH).

use std::borrow::Cow;

use axum::{
    Router,
    extract::{Path, Request, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{CONTENT_TYPE, ETAG, IF_MATCH},
    },
    response::{IntoResponse, Response},
    routing::delete,
};
use media_webrtc::sdp::{Fragment, Restarted};
use serde::Deserialize;
use tallylight_crds::StreamId;

use super::{
    WebRtc,
    sessions::{Found, Kind, Token},
    signalling::{self, Problem, SDP_FRAGMENT, Secrets},
};
use crate::{hub::Name, relay::Asked};

const GONE: Problem = Problem::NotFound("there is no such session, or no longer");

/// What is in the path.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Resource {
    app: String,
    id: String,
    node: String,
    session: String,
}

/// The routes of sessions of a kind, of this node and of others.
pub(crate) fn routes(webrtc: WebRtc, kind: Kind) -> Router {
    routes_to(Reach::Anywhere, webrtc, kind)
}

/// The routes of all sessions of this node alone: for other nodes, which pass on what was asked of them.
pub(crate) fn own(webrtc: &WebRtc) -> Router {
    let [whep, whip] = [Kind::Whep, Kind::Whip].map(|kind| routes_to(Reach::ThisNode, webrtc.clone(), kind));
    whep.merge(whip)
}

fn routes_to(reach: Reach, webrtc: WebRtc, kind: Kind) -> Router {
    let path = format!("/{{app}}/{}/{{id}}/{{node}}/{{session}}", kind.path());
    let methods = delete(end).patch(change).options(preflight);
    Router::new().route(&path, methods).with_state(Resources { webrtc, kind, reach })
}

#[derive(Clone)]
struct Resources {
    webrtc: WebRtc,
    kind: Kind,
    reach: Reach,
}

/// Whose sessions are answered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    ThisNode,
    Anywhere,
}

impl Resources {
    fn find(&self, resource: &Resource) -> Result<Found, Problem> {
        let id = StreamId::parse(&resource.id).map_err(|_invalid| GONE)?;
        let name = Name { app: resource.app.clone(), id };
        self.webrtc.sessions().find(self.kind, &name, &Token::of(&resource.session)).ok_or(GONE)
    }

    /// Answers for a session of another node, as that does.
    async fn elsewhere(&self, resource: &Resource, request: Request) -> Result<Response, Problem> {
        let elsewhere = self.webrtc.elsewhere().filter(|_| self.reach == Reach::Anywhere);
        let elsewhere = elsewhere.ok_or(Problem::NotFound("the session is on another node"))?;
        let (head, body) = request.into_parts();
        let body = match head.method {
            Method::PATCH => signalling::text(SDP_FRAGMENT, &head.headers, body).await?,
            _ => String::new(),
        };
        let (owner, path) = (resource.node.as_str(), head.uri.path());
        Ok(elsewhere.pass(Asked { owner, method: &head.method, path, headers: &head.headers, body }).await)
    }

    fn counted(&self, answer: Result<Response, Problem>) -> Response {
        answer.unwrap_or_else(|problem| {
            self.webrtc.metrics().refused(problem.label());
            problem.into_response()
        })
    }
}

async fn preflight() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert("accept-patch", HeaderValue::from_static(SDP_FRAGMENT));
    response
}

async fn end(State(resources): State<Resources>, Path(resource): Path<Resource>, request: Request) -> Response {
    if resource.node != resources.webrtc.node() {
        return resources.counted(resources.elsewhere(&resource, request).await);
    }
    let answer = resources.find(&resource).map(|session| {
        resources.webrtc.pool().end(&session.ufrag);
        StatusCode::OK.into_response()
    });
    resources.counted(answer)
}

async fn change(State(resources): State<Resources>, Path(resource): Path<Resource>, request: Request) -> Response {
    if resource.node != resources.webrtc.node() {
        return resources.counted(resources.elsewhere(&resource, request).await);
    }
    let answer = changed(&resources, &resource, request).await;
    resources.counted(answer)
}

async fn changed(resources: &Resources, resource: &Resource, request: Request) -> Result<Response, Problem> {
    let session = resources.find(resource)?;
    let (head, body) = request.into_parts();
    let fragment = Fragment::parse(&signalling::text(SDP_FRAGMENT, &head.headers, body).await?)?;
    let tag = signalling::tag(&session.ufrag);
    match wanted(&head.headers) {
        // a client's addresses are not needed: it checks ours, and is answered where it comes from
        Wanted::Addresses(named) if named.as_deref().is_none_or(|named| named == tag) => {
            Ok((StatusCode::NO_CONTENT, [(ETAG, tag)]).into_response())
        }
        Wanted::Addresses(_) => Err(Problem::Outdated),
        Wanted::Restart => restarted(&resources.webrtc, &session, &fragment),
    }
}

/// Gives a session new credentials, while it goes on with those that it has.
fn restarted(webrtc: &WebRtc, session: &Found, fragment: &Fragment) -> Result<Response, Problem> {
    const NAMELESS: Problem = Problem::Malformed(Cow::Borrowed("a restart needs a=ice-ufrag and a=ice-pwd"));
    let remote = fragment.ice_ufrag.as_deref().ok_or(NAMELESS)?;
    let Secrets { credentials, .. } = Secrets::draw()?;
    if !webrtc.pool().restart(&session.ufrag, remote, credentials.clone()) {
        return Err(GONE);
    }
    webrtc.sessions().rename(session.id, &credentials.ufrag);
    let answer = Restarted { fragment, credentials: &credentials, candidates: &webrtc.candidates() }.to_string();
    let headers = [(CONTENT_TYPE, SDP_FRAGMENT.to_owned()), (ETAG, signalling::tag(&credentials.ufrag))];
    Ok((StatusCode::OK, headers, answer).into_response())
}

/// What a PATCH is for, as RFC 9725 §4.3 tells them apart.
enum Wanted {
    /// It tells of the client's addresses, in the ICE session with this tag.
    Addresses(Option<String>),
    Restart,
}

fn wanted(headers: &HeaderMap) -> Wanted {
    match headers.get(IF_MATCH).and_then(|value| value.to_str().ok()) {
        Some("*") => Wanted::Restart,
        named => Wanted::Addresses(named.map(str::to_owned)),
    }
}
