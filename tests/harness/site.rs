//! Serves a folder to browsers, with ranges.

use std::{
    net::SocketAddr,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{
        HeaderMap, StatusCode, Uri,
        header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, RANGE},
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use tokio::{net::TcpListener, task::JoinSet};

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Site {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Site {
    /// Serves a folder.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn of(folder: &Path) -> Result<Self> {
        let folder = Arc::new(folder.to_owned());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let routes = Router::new().fallback(answer).with_state(folder);
            drop(axum::serve(listener, routes).await);
        });
        Ok(Self { address, _tasks: tasks })
    }

    /// Returns the address of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn answer(State(folder): State<Arc<PathBuf>>, uri: Uri, headers: HeaderMap) -> Response {
    let path = Path::new(uri.path().trim_start_matches('/'));
    let is_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    match tokio::fs::read(folder.join(path)).await {
        Ok(file) if is_inside => part(&headers, path, file.into()),
        Ok(_) | Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

fn part(asked: &HeaderMap, path: &Path, file: Bytes) -> Response {
    let kind = match path.extension().and_then(|extension| extension.to_str()) {
        Some("mp4") => "video/mp4",
        Some("html") => "text/html; charset=utf-8",
        Some(_) | None => "application/octet-stream",
    };
    let range = asked.get(RANGE).and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
    let Some((from, to)) = range else {
        return ([(CONTENT_TYPE, kind), (ACCEPT_RANGES, "bytes")], Body::from(file)).into_response();
    };
    let from: usize = from.parse().unwrap_or(0).min(file.len());
    let to = to.parse().map_or(file.len(), |last: usize| last.saturating_add(1)).clamp(from, file.len());
    let range = format!("bytes {from}-{}/{}", to.saturating_sub(1), file.len());
    let headers = [(CONTENT_TYPE, kind.to_owned()), (CONTENT_RANGE, range)];
    (StatusCode::PARTIAL_CONTENT, headers, Body::from(file.slice(from..to))).into_response()
}
