//! What WHIP and WHEP (RFC 9725, draft-ietf-wish-whep) have in common over HTTP: offers, answers, headers and errors.

use std::{borrow::Cow, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG,
            LINK, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
        },
    },
    response::{IntoResponse, Response},
};
use media_webrtc::{
    ice::Credentials,
    sdp::{self, MAX_OFFER, Offer},
};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::timeout;

use super::{
    WebRtc,
    ice_server::IceServer,
    metrics::Refusal,
    sessions::{Kind, Token},
};
use crate::hub::Name;

pub(crate) const SDP: &str = "application/sdp";
pub(crate) const SDP_FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// Longest wait for a body, which is one or two packets.
const BODY: Duration = Duration::from_secs(10);
/// When somebody who found nothing may ask again.
const SOON: Duration = Duration::from_secs(2);
/// When there may be room.
const LATER: Duration = Duration::from_secs(5);

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The offer, or another part of the request, cannot be read.
    Malformed(Cow<'static, str>),
    NoKey,
    WrongKey,
    NotFound(&'static str),
    /// It may be found later.
    NotLive,
    /// The offer has no codec that the stream has, or the stream none that WebRTC has.
    Unacceptable(Refusal, String),
    /// Somebody else publishes.
    Conflict(&'static str),
    /// `If-Match` names another ICE session than there is.
    Outdated,
    TooLarge,
    ContentType(&'static str),
    /// As many as may be are there.
    Full(Cow<'static, str>),
    Unavailable(&'static str),
    TurnedOff,
}

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::NoKey => StatusCode::UNAUTHORIZED,
            Self::WrongKey => StatusCode::FORBIDDEN,
            Self::NotFound(_) | Self::NotLive => StatusCode::NOT_FOUND,
            Self::Unacceptable(..) => StatusCode::NOT_ACCEPTABLE,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Outdated => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ContentType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Full(_) | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::TurnedOff => StatusCode::NOT_IMPLEMENTED,
        }
    }

    /// As it is counted.
    pub(crate) fn label(&self) -> Refusal {
        match self {
            Self::Malformed(_) => Refusal::BadOffer,
            Self::NoKey | Self::WrongKey => Refusal::WrongKey,
            Self::NotFound(_) | Self::Outdated => Refusal::NoSuchSession,
            Self::NotLive => Refusal::NotLive,
            Self::Unacceptable(label, _) => *label,
            Self::Conflict(_) => Refusal::Conflict,
            Self::TooLarge => Refusal::TooLarge,
            Self::ContentType(_) => Refusal::ContentType,
            Self::Full(_) => Refusal::Full,
            Self::Unavailable(_) => Refusal::Unavailable,
            Self::TurnedOff => Refusal::TurnedOff,
        }
    }

    fn text(&self) -> Cow<'static, str> {
        match self {
            Self::Malformed(text) | Self::Full(text) => text.clone(),
            Self::Unacceptable(_, text) => text.clone().into(),
            Self::NotFound(text) | Self::Conflict(text) | Self::Unavailable(text) => (*text).into(),
            Self::NoKey => "a key is needed: as bearer token, or as ?key=".into(),
            Self::WrongKey => "the key is not the stream's".into(),
            Self::NotLive => "the stream is not live".into(),
            Self::Outdated => "If-Match names another ICE session than there is".into(),
            Self::TooLarge => "the body is longer than 64 KiB".into(),
            Self::ContentType(wanted) => format!("the body must be {wanted}").into(),
            Self::TurnedOff => "WebRTC is turned off on this node".into(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NotLive => Some(SOON),
            Self::Full(_) | Self::Unavailable(_) => Some(LATER),
            Self::Malformed(_)
            | Self::NoKey
            | Self::WrongKey
            | Self::NotFound(_)
            | Self::Unacceptable(..)
            | Self::Conflict(_)
            | Self::Outdated
            | Self::TooLarge
            | Self::ContentType(_)
            | Self::TurnedOff => None,
        }
    }
}

impl From<sdp::Error> for Problem {
    fn from(error: sdp::Error) -> Self {
        match error {
            sdp::Error::Malformed(_) | sdp::Error::NoMedia => Self::Malformed(error.to_string().into()),
            sdp::Error::CodecMissing(_) => Self::Unacceptable(Refusal::CodecMissing, error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let text = format!("{}\n", self.text());
        let mut response = (self.status(), [(CACHE_CONTROL, "no-store")], text).into_response();
        if let Some(after) = self.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, after.as_secs().into());
        }
        if self == Self::NoKey {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Reads the offer of a POST.
///
/// # Errors
/// When it is none, with the reason.
pub(crate) async fn offer(headers: &HeaderMap, body: Body) -> Result<Offer, Problem> {
    Ok(Offer::parse(&text(SDP, headers, body).await?)?)
}

/// Reads a body of the type that it must have.
///
/// # Errors
/// When it has another, is too long, or no text.
pub(crate) async fn text(wanted: &'static str, headers: &HeaderMap, body: Body) -> Result<String, Problem> {
    let is_wanted = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(wanted))
    });
    if !is_wanted {
        return Err(Problem::ContentType(wanted));
    }
    match timeout(BODY, to_bytes(body, MAX_OFFER)).await {
        Ok(Ok(bytes)) => {
            String::from_utf8(bytes.into()).map_err(|_binary| Problem::Malformed("the body is no text".into()))
        }
        Ok(Err(_too_long)) => Err(Problem::TooLarge),
        Err(_elapsed) => Err(Problem::Malformed("the body did not come in time".into())),
    }
}

/// The key that a request shows: its bearer token, or `key` of its query.
pub(crate) fn key(headers: &HeaderMap, query: Option<&str>) -> Option<String> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    });
    bearer.or_else(|| parameter(query, "key"))
}

/// A parameter of a query, the first of its name.
pub(crate) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let mut all = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    all.find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
}

/// Where a session is: `/{app}/whep/{streamID}/{node}/{session}`.
pub(crate) fn location(kind: Kind, name: &Name, node: &str, token: &Token) -> String {
    format!("/{}/{}/{}/{node}/{}", name.app, kind.path(), name.id, token.as_str())
}

/// The tag of an ICE session: its name in checks, which is another one after a restart.
pub(crate) fn tag(ufrag: &str) -> String {
    format!("\"{ufrag}\"")
}

/// Answers an offer that was taken.
pub(crate) fn created(webrtc: &WebRtc, location: &str, ufrag: &str, answer: String) -> Response {
    let mut response = (StatusCode::CREATED, [(CONTENT_TYPE, SDP)], answer).into_response();
    let mut set = |name: HeaderName, value: &str| {
        // applications, ids and names of nodes are of letters that a header may have
        if let Ok(value) = value.try_into() {
            response.headers_mut().insert(name, value);
        }
    };
    set(LOCATION, location);
    set(ETAG, &tag(ufrag));
    links(webrtc.ice_servers(), response.headers_mut());
    response
}

/// Tells of ICE servers, in answers and before there is an offer (RFC 9725 §4.6).
pub(crate) fn links(servers: &[IceServer], headers: &mut HeaderMap) {
    for server in servers {
        if let Ok(value) = format!("<{server}>; rel=\"ice-server\"").try_into() {
            headers.append(LINK, value); // an ICE server has letters of a header alone
        }
    }
}

/// What a browser asks before it offers.
pub(crate) fn preflight(webrtc: Option<&WebRtc>) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert("accept-post", HeaderValue::from_static(SDP));
    links(webrtc.map(WebRtc::ice_servers).unwrap_or_default(), headers);
    response
}

/// Lets pages of any origin ask and read answers: what a request may do, its key says, and no cookie.
pub(crate) fn open_to_pages(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, PATCH, DELETE, OPTIONS"));
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("Authorization, Content-Type, If-Match, If-None-Match"),
    );
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("Accept-Patch, Accept-Post, ETag, Link, Location, Retry-After"),
    );
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

/// Random bits of one session.
pub(crate) struct Secrets {
    pub(crate) token: Token,
    pub(crate) credentials: Credentials,
    /// Where the numbers of its packets begin.
    pub(crate) seed: u64,
    /// Names it in the answer; 63 bits, as browsers read it as a signed number.
    pub(crate) sdp: u64,
    /// Of its sources, each unlike the others.
    pub(crate) ssrcs: Ssrcs,
}

/// Sources, one after the other from a random one on.
pub(crate) struct Ssrcs(u32);

impl Ssrcs {
    pub(crate) fn draw(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(1);
        self.0
    }
}

impl Secrets {
    /// Draws them.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(crate) fn draw() -> Result<Self, Problem> {
        const NONE: Problem = Problem::Unavailable("this node has no randomness");
        let mut random = [0; 60];
        SystemRandom::new().fill(&mut random).map_err(|_unspecified| NONE)?;
        let (credentials, rest) = random.split_first_chunk::<40>().ok_or(NONE)?;
        let (seed, rest) = rest.split_first_chunk::<8>().ok_or(NONE)?;
        let (sdp, ssrc) = rest.split_first_chunk::<8>().ok_or(NONE)?;
        let ssrc = ssrc.first_chunk::<4>().ok_or(NONE)?;
        Ok(Self {
            token: Token::draw().ok_or(NONE)?,
            credentials: Credentials::new(*credentials),
            seed: u64::from_be_bytes(*seed),
            sdp: u64::from_be_bytes(*sdp) >> 1,
            ssrcs: Ssrcs(u32::from_be_bytes(*ssrc)),
        })
    }
}
