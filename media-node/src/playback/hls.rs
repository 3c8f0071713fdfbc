//! LL-HLS to players (RFC 8216bis): playlists that wait for what comes next, and the media that they name. A stream of this
//! node is served from its muxing.
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
    response::Response,
    routing::get,
};
use ledger::Store;
use mux::playlist::uri::Resource;
use prometheus_client::metrics::counter::Counter;
use tallylight_crds::StreamId;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Apps,
    hub::Name,
    metrics::{Direction, Protocol},
    packager::{Packaged, Packagers},
    server::Node,
};

mod answer;
mod audience;
mod here;
mod query;

use answer::Refusal;
use audience::Audience;
use query::Reload;

/// The media playlist, beside its files.
const MEDIA_PLAYLIST: &str = "media.m3u8";
const MULTIVARIANT_PLAYLIST: &str = "index.m3u8";

/// The routes for players. They must be served with the peer's address. Viewers are counted by a task of `tasks`.
pub(crate) fn routes<S: Store>(node: &Node<S>, tasks: &TaskTracker) -> Router {
    let hls = Arc::new(Hls {
        apps: node.admission.apps().clone(),
        packagers: node.packagers.clone(),
        audience: Audience::new(node.metrics.clone()),
        sent: node.metrics.bytes(Protocol::Hls, Direction::Out),
        shutdown: node.shutdown.clone(),
    });
    let counting = Arc::clone(&hls);
    tasks.spawn(async move { counting.audience.run(&counting.shutdown).await });
    Router::new()
        .route("/{app}/streams/{file}", get(named).options(answer::preflight))
        .route("/{app}/hls/{id}/{file}", get(file).options(answer::preflight))
        .layer(map_response(async |response: Response| answer::open_to_pages(response)))
        .with_state(hls)
}

/// What a request asks for.
enum Asked {
    /// With the media playlist at this address.
    Multivariant(String),
    Media(Reload),
    File(Resource),
}

async fn named(
    State(hls): State<Arc<Hls>>,
    Path((app, file)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let id = file.strip_suffix(".m3u8").ok_or(Refusal::NoSuchFile)?;
    let name = hls.name(app, id)?;
    let uri = format!("../hls/{}/{MEDIA_PLAYLIST}", name.id);
    hls.answer(&name, &Asked::Multivariant(uri), &headers).await
}

async fn file(
    State(hls): State<Arc<Hls>>,
    Path((app, id, file)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let name = hls.name(app, &id)?;
    let asked = match file.as_str() {
        MULTIVARIANT_PLAYLIST => Asked::Multivariant(MEDIA_PLAYLIST.to_owned()),
        MEDIA_PLAYLIST => Asked::Media(Reload::parse(query.as_deref().unwrap_or_default()).map_err(Refusal::Query)?),
        other => Asked::File(Resource::parse(other).ok_or(Refusal::NoSuchFile)?),
    };
    let answer = hls.answer(&name, &asked, &headers).await?;
    if matches!(asked, Asked::Media(_)) {
        hls.audience.note(&name, peer.ip().to_canonical(), &headers);
    }
    Ok(answer)
}

struct Hls {
    apps: Apps,
    packagers: Packagers,
    audience: Audience,
    sent: Counter<u64, AtomicU64>,
    shutdown: CancellationToken,
}

impl Hls {
    fn name(&self, app: String, id: &str) -> Result<Name, Refusal> {
        self.apps.pool(&app).ok_or(Refusal::NotLive)?;
        let id = StreamId::parse(id).map_err(|_invalid| Refusal::NotLive)?;
        Ok(Name { app, id })
    }

    async fn answer(&self, name: &Name, asked: &Asked, headers: &HeaderMap) -> Result<Response, Refusal> {
        let here = self.packagers.of(name).or_else(|| self.packagers.ended(name));
        let packaged = here.ok_or(Refusal::NotLive)?;
        self.answer_from_here(&packaged, asked, headers).await
    }

    async fn answer_from_here(
        &self,
        packaged: &Packaged,
        asked: &Asked,
        headers: &HeaderMap,
    ) -> Result<Response, Refusal> {
        match asked {
            Asked::Multivariant(uri) => {
                let (text, kept) = here::multivariant(packaged, uri, &self.shutdown).await?;
                Ok(answer::playlist(&text, kept, headers, &self.sent))
            }
            Asked::Media(reload) => {
                let (text, kept) = here::media(packaged, *reload, &self.shutdown).await?;
                Ok(answer::playlist(&text, kept, headers, &self.sent))
            }
            Asked::File(resource) => {
                let media = here::file(packaged, *resource, &self.shutdown).await?;
                Ok(answer::media(&media, headers, &self.sent))
            }
        }
    }
}
