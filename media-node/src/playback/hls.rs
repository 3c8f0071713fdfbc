//! LL-HLS to players (RFC 8216bis): playlists that wait for what comes next, and the media that they name. A stream of this
//! node is served from its muxing, one of another node from there.
//!
//! `/{app}/streams/{id}.m3u8`, as in Ant Media Server, and `/{app}/hls/{id}/index.m3u8` are the same multivariant playlist; its
//! media playlist and all files are below `/{app}/hls/{id}/`.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};

use axum::{
    Router,
    extract::{ConnectInfo, Path, RawQuery, State},
    http::HeaderMap,
    middleware::map_response,
    response::{IntoResponse as _, Response},
    routing::get,
};
use ledger::Store;
use mux::playlist::uri::Resource;
use prometheus_client::metrics::counter::Counter;
use tallylight_crds::StreamId;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Apps,
    cli::Hls as Mode,
    hub::Name,
    metrics::{Direction, Metrics, Protocol},
    packager::{Packaged, Packagers},
    server::Node,
};

pub(super) mod answer;
mod audience;
mod elsewhere;
mod here;
mod query;

use answer::Refusal;
use audience::Audience;
use elsewhere::{Elsewhere, File};
use query::Reload;

/// The media playlist, beside its files.
const MEDIA_PLAYLIST: &str = "media.m3u8";
const MULTIVARIANT_PLAYLIST: &str = "index.m3u8";

/// The routes for players; none when it is off. They must be served with the peer's address. Viewers are counted by a task of
/// `tasks`.
pub(crate) fn routes<S: Store>(node: &Node<S>, mode: Mode, tasks: &TaskTracker) -> Option<Router> {
    match mode {
        Mode::Off => return None,
        Mode::OnDemand | Mode::Always => {}
    }
    let hls = Arc::new(Hls {
        apps: node.admission.apps().clone(),
        packagers: node.packagers.clone(),
        audience: Audience::new(node.metrics.clone()),
        sent: node.metrics.bytes(Protocol::Hls, Direction::Out),
        metrics: node.metrics.clone(),
        elsewhere: node.relays.clone().map(Elsewhere::new),
        shutdown: node.shutdown.clone(),
    });
    let counting = Arc::clone(&hls);
    tasks.spawn(async move { counting.audience.run(&counting.shutdown).await });
    let routes = Router::new()
        .route("/{app}/streams/{file}", get(named::<S>).options(answer::preflight))
        .route("/{app}/hls/{id}/{file}", get(file::<S>).options(answer::preflight))
        .layer(map_response(async |response: Response| answer::open_to_pages(response)))
        .with_state(hls);
    Some(routes)
}

/// What a request asks for.
enum Asked {
    /// With the media playlist at this address.
    Multivariant(String),
    Media(Reload),
    File(Resource),
}

impl Asked {
    /// Reads the name of a file beside the media playlist, and its query.
    fn parse(file: &str, query: &str) -> Result<Self, Refusal> {
        Ok(match file {
            MULTIVARIANT_PLAYLIST => Self::Multivariant(MEDIA_PLAYLIST.to_owned()),
            MEDIA_PLAYLIST => Self::Media(Reload::parse(query).map_err(Refusal::Query)?),
            other => Self::File(Resource::parse(other).ok_or(Refusal::NoSuchFile)?),
        })
    }
}

async fn named<S: Store>(
    State(hls): State<Arc<Hls<S>>>,
    Path((app, file)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let answer = async {
        let id = file.strip_suffix(".m3u8").ok_or(Refusal::NoSuchFile)?;
        let name = hls.name(app, id)?;
        let uri = format!("../hls/{}/{MEDIA_PLAYLIST}", name.id);
        hls.answer(&name, &Asked::Multivariant(uri), &headers).await
    };
    answer.await.inspect_err(|refusal| hls.metrics.hls_refused(refusal.label()))
}

async fn file<S: Store>(
    State(hls): State<Arc<Hls<S>>>,
    Path((app, id, file)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let answer = async {
        let name = hls.name(app, &id)?;
        let asked = Asked::parse(&file, query.as_deref().unwrap_or_default())?;
        let answer = hls.answer(&name, &asked, &headers).await?;
        if matches!(asked, Asked::Media(_)) {
            hls.audience.note(&name, peer.ip().to_canonical(), &headers);
        }
        Ok(answer)
    };
    answer.await.inspect_err(|refusal: &Refusal| hls.metrics.hls_refused(refusal.label()))
}

struct Hls<S> {
    apps: Apps,
    packagers: Packagers,
    audience: Audience,
    sent: Counter<u64, AtomicU64>,
    metrics: Metrics,
    /// None in tests of a node without relays.
    elsewhere: Option<Elsewhere<S>>,
    shutdown: CancellationToken,
}

impl<S: Store> Hls<S> {
    fn name(&self, app: String, id: &str) -> Result<Name, Refusal> {
        self.apps.pool(&app).ok_or(Refusal::NotLive)?;
        let id = StreamId::parse(id).map_err(|_invalid| Refusal::NotLive)?;
        Ok(Name { app, id })
    }

    async fn answer(&self, name: &Name, asked: &Asked, headers: &HeaderMap) -> Result<Response, Refusal> {
        if let Some(packaged) = self.packagers.of(name) {
            match answer_from_here(&packaged, asked, headers, &self.shutdown, &self.sent).await {
                // its publisher went to another node meanwhile
                Err(Refusal::NotLive) => {}
                answer => return answer,
            }
        }
        let found = match &self.elsewhere {
            Some(elsewhere) => tokio::select! {
                found = elsewhere.get(name, asked) => found,
                () = self.shutdown.cancelled() => Err(Refusal::Late),
            },
            None => Err(Refusal::NotLive),
        };
        match (found, self.packagers.ended(name)) {
            (Ok(File::Playlist(text, kept)), _) => Ok(answer::playlist(&text, kept, headers, &self.sent)),
            (Ok(File::Media(media)), _) => Ok(answer::media(&media, headers, &self.sent)),
            (Err(Refusal::NotLive), Some(ended)) => {
                answer_from_here(&ended, asked, headers, &self.shutdown, &self.sent).await
            }
            (Err(refusal), _) => Err(refusal),
        }
    }
}

/// Answers another node, which keeps what it gets for its own players.
pub(crate) async fn answer_node(
    packaged: &Packaged,
    file: &str,
    query: Option<&str>,
    shutdown: &CancellationToken,
    sent: &Counter<u64, AtomicU64>,
) -> Response {
    let answer = async {
        let asked = Asked::parse(file, query.unwrap_or_default())?;
        answer_from_here(packaged, &asked, &HeaderMap::new(), shutdown, sent).await
    };
    answer.await.unwrap_or_else(Refusal::into_response)
}

async fn answer_from_here(
    packaged: &Packaged,
    asked: &Asked,
    headers: &HeaderMap,
    shutdown: &CancellationToken,
    sent: &Counter<u64, AtomicU64>,
) -> Result<Response, Refusal> {
    match asked {
        Asked::Multivariant(uri) => {
            let (text, kept) = here::multivariant(packaged, uri, shutdown).await?;
            Ok(answer::playlist(&text, kept.header(), headers, sent))
        }
        Asked::Media(reload) => {
            let (text, kept) = here::media(packaged, *reload, shutdown).await?;
            Ok(answer::playlist(&text, kept.header(), headers, sent))
        }
        Asked::File(resource) => {
            let media = here::file(packaged, *resource, shutdown).await?;
            Ok(answer::media(&media, headers, sent))
        }
    }
}
