//! The routes: access, body, store, answer.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use jiff::Timestamp;
use ledger::{Error, Key, Recordings, Store};
use tallylight_crds::{Broadcast, StreamId};
use uuid::Uuid;

use crate::{
    access::{Access, Refusal},
    create,
    input::{self, Create},
    result::{Unread, fail, read_body},
    view::View,
    vod,
};

/// Longest wait for the store; then the answer is a 503.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// Port of RTMP that a URL need not name.
const RTMP_PORT: u16 = 1935;

/// An application: a MediaPool, as far as REST needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    pub namespace: String,
    /// The MediaPool's name.
    pub pool: String,
    /// The MediaPool's default, shown for Broadcasts without one of their own.
    pub listener_hook_url: Option<String>,
}

/// Finds the application of a path's first segment, as it is now.
pub type FindApplication = dyn Fn(&str) -> Option<Application> + Send + Sync;

/// Where publishers reach RTMP, for `rtmpURL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtmpAddress {
    /// Public host; the host that the client called when `None`.
    pub host: Option<String>,
    pub port: u16,
}

/// What the routes need.
pub struct Config<S> {
    pub store: S,
    pub applications: Box<FindApplication>,
    pub rtmp: RtmpAddress,
    pub access: Access,
}

/// Makes the routes below `/{app}/rest`. With [`Access::LoopbackOnly`] they must be served with the peer's address
/// (`into_make_service_with_connect_info::<SocketAddr>`): a peer that is not known is refused.
pub fn router<S: Store + Recordings>(config: Config<S>) -> Router {
    let shared = Arc::new(config);
    Router::new()
        .route("/{app}/rest/broadcast/create", post(create_v1))
        .route("/{app}/rest/v2/broadcasts/create", post(create_v2))
        .route("/{app}/rest/v2/broadcasts/{id}", get(show))
        .route("/{app}/rest/v2/broadcasts/{id}/recording/{wanted}", put(vod::record))
        .route("/{app}/rest/v2/vods/list/{offset}/{size}", get(vod::list))
        .route("/{app}/rest/v2/vods/count", get(vod::count))
        .route("/{app}/rest/v2/vods/count/{search}", get(vod::count_of))
        .route("/{app}/rest/v2/vods", delete(vod::delete_many))
        .route("/{app}/rest/v2/vods/", delete(vod::delete_many))
        .route("/{app}/rest/v2/vods/{id}", get(vod::show).delete(vod::delete))
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

pub(crate) type Shared<S> = State<Arc<Config<S>>>;

async fn guard<S: Store>(State(config): Shared<S>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    match config.access.check(peer, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal @ (Refusal::NotLocal | Refusal::FromAPage)) => fail(StatusCode::FORBIDDEN, refusal.message()),
        Err(refusal @ Refusal::NoToken) => {
            let mut answer = fail(StatusCode::UNAUTHORIZED, refusal.message());
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            answer
        }
    }
}

async fn no_route() -> Response {
    fail(
        StatusCode::NOT_FOUND,
        "no such resource; below /{app}/rest/v2 this API has POST broadcasts/create, GET broadcasts/{id}, \
         PUT broadcasts/{id}/recording/{true|false}, GET vods/list/{offset}/{size}, GET vods/count[/{search}], DELETE vods?ids= and GET or DELETE vods/{id}",
    )
}

/// Axum puts the methods that there are into `Allow`.
async fn wrong_method() -> Response {
    fail(StatusCode::METHOD_NOT_ALLOWED, "the resource does not have this method; the header Allow names those it has")
}

/// A path's parameters, or why they cannot be read: a `%` that escapes no UTF-8.
pub(crate) type Segments<T> = Result<Path<T>, PathRejection>;

pub(crate) fn segments<T>(path: Segments<T>) -> Result<T, Failure> {
    path.map(|Path(found)| found).map_err(|_undecodable| Failure::Path)
}

/// Ant Media Server 1: a client's id is ignored.
async fn create_v1<S: Store>(config: Shared<S>, app: Segments<String>, request: Request) -> Response {
    let answer = create(config, app, request, |request| Create { stream_id: None, ..request }).await;
    answer.unwrap_or_else(Failure::into_response)
}

async fn create_v2<S: Store>(config: Shared<S>, app: Segments<String>, request: Request) -> Response {
    create(config, app, request, |request| request).await.unwrap_or_else(Failure::into_response)
}

async fn create<S: Store>(
    State(config): Shared<S>,
    app_name: Segments<String>,
    request: Request,
    adjust: impl FnOnce(Create) -> Create,
) -> Result<Response, Failure> {
    let app_name = segments(app_name)?;
    let app = (config.applications)(&app_name).ok_or(Failure::UnknownApplication)?;
    let (parts, body) = request.into_parts();
    let body = read(&parts.headers, body).await?;
    let request = adjust(input::parse(&body).map_err(Failure::Input)?);
    let wanted = create::broadcast(request, &new_stream_id(), &app).map_err(Failure::Create)?;
    let made = within(config.store.create(&wanted)).await?;
    tracing::info!(broadcast = %Key::of(&made), app = app_name, "broadcast.created");
    Ok(show_as(&made, &app_name, &app, &config.rtmp, &parts.headers))
}

async fn show<S: Store>(State(config): Shared<S>, path: Segments<(String, String)>, headers: HeaderMap) -> Response {
    let (app_name, id) = match segments(path) {
        Ok(found) => found,
        Err(failure) => return failure.into_response(),
    };
    let Some(app) = (config.applications)(&app_name) else {
        return Failure::UnknownApplication.into_response();
    };
    match find(&config.store, &app, &id).await {
        Ok(Some(broadcast)) => show_as(&broadcast, &app_name, &app, &config.rtmp, &headers),
        // Ant Media Server answers without a body.
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(failure) => failure.into_response(),
    }
}

pub(crate) async fn find<S: Store>(store: &S, app: &Application, id: &str) -> Result<Option<Broadcast>, Failure> {
    let Ok(id) = StreamId::parse(id) else {
        return Ok(None);
    };
    let found = within(store.get(&Key::of_stream(&app.namespace, &id))).await?;
    Ok(found.filter(|broadcast| broadcast.carries(&id) && broadcast.spec.pool == app.pool))
}

fn show_as(
    broadcast: &Broadcast,
    app_name: &str,
    app: &Application,
    rtmp: &RtmpAddress,
    headers: &HeaderMap,
) -> Response {
    let rtmp = rtmp.as_seen_by(headers);
    Json(View::of(broadcast, app_name, app, &rtmp, Timestamp::now())).into_response()
}

impl RtmpAddress {
    /// `host` or `host:port` for a client: the configured host, or the one that it called.
    fn as_seen_by(&self, headers: &HeaderMap) -> String {
        let called = || {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
            host.and_then(|host| host.parse::<Authority>().ok()).map(|authority| authority.host().to_owned())
        };
        let host = self.host.clone().or_else(called).unwrap_or_else(|| "localhost".to_owned());
        if self.port == RTMP_PORT { host } else { format!("{host}:{}", self.port) }
    }
}

/// Reads a body that is JSON, or empty. Another type is refused, since a web page may send it without being asked about it
/// (CORS-safelisted types, Fetch standard).
async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Failure> {
    let body = read_body(body).await.map_err(Failure::Body)?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if body.is_empty() || essence.eq_ignore_ascii_case("application/json") { Ok(body) } else { Err(Failure::NotJson) }
}

pub(crate) async fn within<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    let answer = tokio::time::timeout(STORE_TIMEOUT, call).await;
    answer.map_err(|_elapsed| Failure::StoreSilent)?.map_err(Failure::Store)
}

/// Makes an id of 25 digits and lower-case letters: random, and a DNS label, so that the Broadcast's name is the same.
fn new_stream_id() -> String {
    const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut left = Uuid::new_v4().as_u128();
    let digit = |_| {
        let digit = usize::try_from(left % 36).unwrap_or(0);
        left /= 36;
        char::from(ALPHABET.get(digit).copied().unwrap_or(b'0'))
    };
    (0..25).map(digit).collect()
}

/// Why a request is not answered as asked.
#[derive(Debug)]
pub(crate) enum Failure {
    Path,
    /// Offset, size or the query of a list.
    Page,
    /// Which VoDs are to be deleted.
    Ids,
    UnknownApplication,
    NotJson,
    Body(Unread),
    Input(input::Invalid),
    Create(create::Error),
    Store(Error),
    StoreSilent,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::UnknownApplication => fail(
                StatusCode::NOT_FOUND,
                "no application has that name; the first segment of the path must be a MediaPool's spec.app",
            ),
            Self::Path => fail(StatusCode::BAD_REQUEST, "the path must be UTF-8 after its %-escapes are decoded"),
            Self::Page => fail(
                StatusCode::BAD_REQUEST,
                "offset and size must be whole numbers, sort_by name or date, order_by asc or desc, and the query UTF-8",
            ),
            Self::Ids => fail(StatusCode::BAD_REQUEST, "ids must be 1 to 50 ids of VoDs, joined by commas"),
            Self::NotJson => fail(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json"),
            Self::Body(unread) => unread.into_response(),
            Self::Input(invalid) => fail(StatusCode::BAD_REQUEST, &invalid.to_string()),
            Self::Create(error) => fail(StatusCode::BAD_REQUEST, &error.to_string()),
            Self::StoreSilent => unavailable(),
            Self::Store(error) => store_failed(&error),
        }
    }
}

fn store_failed(error: &Error) -> Response {
    match error {
        // Ant Media Server's own words.
        Error::AlreadyExists => {
            fail(StatusCode::BAD_REQUEST, "Stream id is already being used. Please change stream id or keep it empty")
        }
        Error::Invalid { message } => fail(StatusCode::BAD_REQUEST, message),
        Error::Forbidden { .. } => {
            tracing::warn!(error = error as &dyn std::error::Error, "REST may not do what it is for");
            fail(StatusCode::FORBIDDEN, "the cluster does not permit it; see the operator's log")
        }
        Error::NotFound => fail(StatusCode::NOT_FOUND, "the application's namespace does not exist"),
        Error::Conflict | Error::Unavailable { .. } => {
            tracing::warn!(error = error as &dyn std::error::Error, "the store did not answer REST");
            unavailable()
        }
    }
}

fn unavailable() -> Response {
    fail(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer; try again")
}

#[cfg(test)]
mod tests;
