//! Recordings that are there, to players: `/{app}/streams/{file}`, where LL-HLS has its playlists too. A file of a folder is
//! served from it, with ranges and conditions; one that is on another node's disk is served through that node; for one in a bucket
//! the player is sent there, by a URL that is good for some hours. A playlist is served from here also then: what it lists is beside it.
//!
//! What is served is decided by the Recording. A name has no `/` and no leading dot, so none leads out of the storage, nor to a
//! file that grows. The segments of a recording that is a playlist are in a folder of its name: `/{app}/streams/{name}/{segment}`.

use std::{
    io::{self, ErrorKind},
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG,
            IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE, RETRY_AFTER,
        },
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::any,
};
use jiff::Timestamp;
use ledger::Recordings;
use moka::future::Cache;
use tallylight_crds::{LOCAL_STORAGE, Recording, RecordingState};
use tokio::{sync::Semaphore, time::timeout};
use tower_http::services::ServeFile;
use tracing::{debug, warn};

use super::hls::answer::{MEDIA, PLAYLIST, has};
use crate::{
    admission::Apps,
    relay::{Others, Unavailable, Wanted},
    storage::{Bucket, Storage, Storages, playlist::Playlist, trouble::Trouble},
};

/// Longest wait for the store.
const LOOK_UP: Duration = Duration::from_secs(3);
/// How long it is believed what a Recording is, or that there is none: a player asks for many ranges of a file.
const BELIEVED: Duration = Duration::from_secs(2);
/// Recordings that are known; of more, those that were asked for least are looked up again.
const MAX_KNOWN: u64 = 4_096;
/// Look-ups at once; more are refused, since each costs the store a request and strangers choose the names.
const MAX_LOOK_UPS: usize = 16;
/// One read of a file.
const READ: usize = 256 << 10;

/// Playlists of buckets that are kept, in bytes: those of 600 hours. Of more, those that were asked for least are fetched again.
const MAX_PLAYLISTS: u64 = 64 << 20;
/// How long they are kept: they never change, but may be deleted.
const PLAYLIST_KEPT: Duration = Duration::from_secs(60);
/// Playlists that are fetched at once; more are refused.
const MAX_FETCHES: usize = 16;

/// A name of a file is never taken again; but a file may be deleted.
const KEPT: HeaderValue = HeaderValue::from_static("public, max-age=3600");
/// When a file that is being recorded may be there, in seconds.
const SOON: HeaderValue = HeaderValue::from_static("5");
/// A bucket is in trouble.
const NOT_NOW: &str = "the recording's storage cannot be used now\n";
/// What a player in a page may read of an answer.
const EXPOSED: HeaderValue = HeaderValue::from_static("Accept-Ranges, Content-Length, Content-Range, ETag");

/// Serves recordings of the applications of a node. Clones share it.
#[derive(Debug)]
pub struct Vods<S>(Arc<Inner<S>>);

impl<S> Clone for Vods<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Inner<S> {
    store: S,
    namespace: String,
    apps: Apps,
    storages: Arc<Storages>,
    others: Option<Others>,
    known: Cache<(String, String), Option<Arc<Recording>>>,
    room: Semaphore,
    /// By their locations.
    playlists: Cache<String, Playlist>,
    fetches: Semaphore,
}

/// What a request asks for.
struct Asked {
    app: String,
    named: Named,
    method: Method,
    headers: HeaderMap,
}

impl Asked {
    /// `None` for a path that is none of a file.
    fn of(request: &Request) -> Option<Self> {
        let (app, path) = request.uri().path().strip_prefix('/')?.split_once("/streams/")?;
        Some(Self {
            app: app.to_owned(),
            named: Named::parse(path)?,
            method: request.method().clone(),
            headers: request.headers().clone(),
        })
    }
}

/// A file of a recording.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Name of the recording's file: for a segment, its playlist.
    file: String,
    /// The file itself, in the storage.
    path: String,
}

impl Named {
    /// Takes a path in a storage; `None` for one that is none of a recording.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let file = match path.split_once('/') {
            None => path.to_owned(),
            // a segment is in a folder that is named as its playlist
            Some((stem, segment)) if is_plain(segment) => format!("{stem}.m3u8"),
            Some(_) => return None,
        };
        let is_recording =
            Path::new(&file).extension().is_some_and(|extension| extension == "mp4" || extension == "m3u8");
        (is_plain(&file) && is_recording).then(|| Self { file, path: path.to_owned() })
    }

    fn is_playlist(&self) -> bool {
        self.path == self.file && self.file.ends_with(".m3u8")
    }
}

fn is_plain(name: &str) -> bool {
    !name.starts_with('.') && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Lets what `live` does not have be answered from recordings. Without `live`, there are recordings alone.
pub(crate) fn behind<S: Recordings>(live: Option<Router>, vods: Vods<S>) -> Router {
    match live {
        Some(live) => live.layer(from_fn_with_state(vods.clone(), unless_live)).merge(segments(vods)),
        None => routes(vods),
    }
}

/// Routes of recordings alone.
pub fn routes<S: Recordings>(vods: Vods<S>) -> Router {
    Router::new().route("/{app}/streams/{file}", any(alone::<S>)).with_state(vods.clone()).merge(segments(vods))
}

/// Those of a recording that is a playlist.
fn segments<S: Recordings>(vods: Vods<S>) -> Router {
    Router::new().route("/{app}/streams/{playlist}/{segment}", any(alone::<S>)).with_state(vods)
}

async fn unless_live<S: Recordings>(State(vods): State<Vods<S>>, request: Request, next: Next) -> Response {
    let asked = Asked::of(&request);
    let live = next.run(request).await;
    match asked {
        Some(asked) if live.status() == StatusCode::NOT_FOUND => vods.answer(&asked).await.unwrap_or(live),
        Some(_) | None => live,
    }
}

async fn alone<S: Recordings>(State(vods): State<Vods<S>>, request: Request) -> Response {
    let answer = match Asked::of(&request) {
        Some(asked) => vods.answer(&asked).await,
        None => None,
    };
    answer.unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}

impl<S: Recordings> Vods<S> {
    #[must_use]
    pub fn new(store: S, namespace: String, apps: Apps, storages: Arc<Storages>, others: Option<Others>) -> Self {
        let known = Cache::builder().max_capacity(MAX_KNOWN).time_to_live(BELIEVED).build();
        let weight =
            |location: &String, found: &Playlist| u32::try_from(location.len() + found.text.len()).unwrap_or(u32::MAX);
        let playlists =
            Cache::builder().max_capacity(MAX_PLAYLISTS).weigher(weight).time_to_live(PLAYLIST_KEPT).build();
        let (room, fetches) = (Semaphore::new(MAX_LOOK_UPS), Semaphore::new(MAX_FETCHES));
        Self(Arc::new(Inner { store, namespace, apps, storages, others, known, room, playlists, fetches }))
    }

    /// Answers with a recording; `None` when there is none of that name.
    async fn answer(&self, asked: &Asked) -> Option<Response> {
        let pool = self.0.apps.pool(&asked.app)?;
        let mut response = match self.look_up(pool, asked.named.file.clone()).await {
            Ok(None) => return None,
            Ok(Some(recording)) => self.serve(&recording, asked).await,
            Err(Away) => refusal(StatusCode::SERVICE_UNAVAILABLE, "the recordings cannot be looked up now\n", true),
        };
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        response.headers_mut().insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        Some(response)
    }

    async fn look_up(&self, pool: String, file: String) -> Result<Option<Arc<Recording>>, Away> {
        let find = async {
            let Ok(_place) = self.0.room.try_acquire() else { return Err(Away) };
            let found = self.0.store.recording_of_file(&self.0.namespace, &pool, &file);
            match timeout(LOOK_UP, found).await {
                Ok(Ok(found)) => Ok(found.map(Arc::new)),
                Ok(Err(error)) => {
                    debug!(file, error = &error as &dyn std::error::Error, "failed to look a recording up");
                    Err(Away)
                }
                Err(_elapsed) => Err(Away),
            }
        };
        let key = (pool.clone(), file.clone());
        let found = self.0.known.try_get_with(key.clone(), find).await.map_err(|_away| Away)?;
        if found.as_ref().is_some_and(|recording| recording.state() != RecordingState::Ready) {
            // whoever is told that it is ready finds it so at once
            self.0.known.invalidate(&key).await;
        }
        Ok(found)
    }

    async fn serve(&self, recording: &Recording, asked: &Asked) -> Response {
        if !matches!(asked.method, Method::GET | Method::HEAD) {
            let allowed = [(ALLOW, HeaderValue::from_static("GET, HEAD"))];
            return (StatusCode::METHOD_NOT_ALLOWED, allowed).into_response();
        }
        let state = recording.status.as_ref().map(|status| status.state).unwrap_or_default();
        let is_deleted = recording.metadata.deletion_timestamp.is_some();
        match state {
            RecordingState::Recording | RecordingState::Finalizing | RecordingState::Uploading if !is_deleted => {
                refusal(StatusCode::NOT_FOUND, "the recording is not there yet\n", true)
            }
            RecordingState::Ready if !is_deleted => match self.0.storages.get(&recording.spec.storage) {
                Some(Storage::Volume(folder)) => self.serve_volume(folder, recording, asked).await,
                Some(Storage::Bucket { bucket, .. }) if asked.named.is_playlist() => {
                    self.serve_playlist(bucket, asked).await
                }
                Some(Storage::Bucket { bucket, .. }) => from_bucket(bucket, &asked.named.path).await,
                None => refusal(StatusCode::NOT_FOUND, "this node does not have the recording's storage\n", false),
            },
            RecordingState::Recording
            | RecordingState::Finalizing
            | RecordingState::Uploading
            | RecordingState::Ready
            | RecordingState::Failed => refusal(StatusCode::NOT_FOUND, "there is no such recording\n", false),
        }
    }

    async fn serve_volume(&self, folder: &Path, recording: &Recording, asked: &Asked) -> Response {
        let Asked { named, method, headers, .. } = asked;
        let (owner, storage) = (&recording.spec.node, &recording.spec.storage);
        let elsewhere = self.0.others.as_ref().filter(|others| !others.is_me(owner));
        // what nodes share any of them serves; in its own folder a node may have another file of that name
        if (elsewhere.is_none() || storage != LOCAL_STORAGE)
            && let Some(found) = from_folder(folder, named, method, headers).await
        {
            return found;
        }
        let Some(others) = elsewhere else { return unavailable(Unavailable::NoFile) };
        let wanted = Wanted { owner, storage, path: &named.path, method, headers };
        others.pass(&wanted).await.unwrap_or_else(unavailable)
    }

    async fn serve_playlist(&self, bucket: &Bucket, asked: &Asked) -> Response {
        let file = &asked.named.file;
        let fetch = async {
            let Ok(_place) = self.0.fetches.try_acquire() else { return Err(NoPlaylist::Busy) };
            bucket.playlist(file).await.map_err(NoPlaylist::Trouble)?.ok_or(NoPlaylist::Gone)
        };
        match self.0.playlists.try_get_with(bucket.location(file), fetch).await {
            Ok(found) => playlist(&found, &asked.headers),
            Err(why) => match &*why {
                NoPlaylist::Busy => {
                    refusal(StatusCode::SERVICE_UNAVAILABLE, "too many playlists are fetched; try again\n", true)
                }
                NoPlaylist::Gone => unavailable(Unavailable::NoFile),
                NoPlaylist::Trouble(trouble) => {
                    warn!(file, %trouble, "failed to fetch a playlist from its bucket");
                    refusal(StatusCode::SERVICE_UNAVAILABLE, NOT_NOW, true)
                }
            },
        }
    }
}

/// Why a playlist of a bucket is not served.
#[derive(Debug)]
enum NoPlaylist {
    Busy,
    Gone,
    Trouble(Trouble),
}

/// The store does not say.
#[derive(Clone, Copy, Debug)]
struct Away;

fn unavailable(why: Unavailable) -> Response {
    const AWAY: &str = "the node that has the recording on its disk does not answer now\n";
    const BUSY: &str = "too many recordings of other nodes are being sent; try again\n";
    const GONE: &str = "the recording was on the disk of a node that is gone\n";
    // a segment that is none, or a file that somebody else has removed
    const NO_FILE: &str = "there is no such file\n";
    match why {
        Unavailable::Away => refusal(StatusCode::SERVICE_UNAVAILABLE, AWAY, true),
        Unavailable::Busy => refusal(StatusCode::SERVICE_UNAVAILABLE, BUSY, true),
        Unavailable::Gone => refusal(StatusCode::GONE, GONE, false),
        Unavailable::NoFile => refusal(StatusCode::NOT_FOUND, NO_FILE, false),
    }
}

/// Answers with a file of a folder; `None` when it is not there.
pub(crate) async fn from_folder(
    folder: &Path,
    named: &Named,
    method: &Method,
    headers: &HeaderMap,
) -> Option<Response> {
    match read(folder, named, method, headers).await {
        Ok(response) if response.status() == StatusCode::NOT_FOUND => None,
        Ok(mut response) => {
            response.headers_mut().insert(CACHE_CONTROL, KEPT);
            if let Some(kind) = response.headers_mut().get_mut(CONTENT_TYPE) {
                *kind = if named.is_playlist() { PLAYLIST } else { MEDIA };
            }
            Some(response)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => {
            warn!(file = named.path, %error, "failed to read a recording");
            Some(refusal(StatusCode::SERVICE_UNAVAILABLE, "the recording cannot be read now\n", true))
        }
    }
}

async fn read(folder: &Path, named: &Named, method: &Method, headers: &HeaderMap) -> io::Result<Response> {
    if named.path != named.file {
        // a folder without a playlist is none of a recording
        tokio::fs::metadata(folder.join(&named.file)).await?;
    }
    let file = folder.join(&named.path);
    let mut headers = headers.clone();
    if let Some(condition) = headers.remove(IF_RANGE)
        && headers.contains_key(RANGE)
        && !holds(&condition, open(&file, &Method::HEAD, HeaderMap::new()).await?.headers())
    {
        headers.remove(RANGE);
    }
    open(&file, method, headers).await
}

/// Whether what a player has begun with is what is there (RFC 9110 §13.1.5).
fn holds(condition: &HeaderValue, now: &HeaderMap) -> bool {
    // a tag that is weak equals none, and ours are not
    [ETAG, LAST_MODIFIED].iter().any(|validator| now.get(validator) == Some(condition))
}

async fn open(file: &Path, method: &Method, headers: HeaderMap) -> io::Result<Response> {
    let mut request = Request::new(Body::empty());
    request.method_mut().clone_from(method);
    *request.headers_mut() = headers;
    let response = ServeFile::new(file).with_buf_chunk_size(READ).try_call(request).await?;
    Ok(response.map(Body::new))
}

/// A playlist, or that the player has it. It is small: ranges of it are not served.
fn playlist(found: &Playlist, asked: &HeaderMap) -> Response {
    let Playlist { text, etag, modified } = found;
    let date = Timestamp::from_second(*modified).map(|time| time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
    let date = date.ok().and_then(|date| HeaderValue::try_from(date).ok());
    // RFC 9110 §13.2.2: a date counts where no tag is asked for
    let is_known = match etag {
        Some(tag) if asked.contains_key(IF_NONE_MATCH) => has(asked, tag),
        Some(_) | None => date.is_some() && asked.get(IF_MODIFIED_SINCE) == date.as_ref(),
    };
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(CONTENT_TYPE, PLAYLIST)], text.clone()).into_response()
    };
    let tag = etag.as_ref().and_then(|tag| HeaderValue::try_from(tag).ok());
    let headers = [(CACHE_CONTROL, Some(KEPT)), (ETAG, tag), (LAST_MODIFIED, date)];
    response.headers_mut().extend(headers.into_iter().filter_map(|(name, value)| Some((name, value?))));
    response
}

async fn from_bucket(bucket: &Bucket, path: &str) -> Response {
    match bucket.presigned(path).await {
        Ok(url) => {
            let location = HeaderValue::from_str(url.as_str()).unwrap_or(HeaderValue::from_static("/"));
            let headers = [(LOCATION, location), (CACHE_CONTROL, HeaderValue::from_static("no-store"))];
            (StatusCode::FOUND, headers).into_response()
        }
        Err(trouble) => {
            warn!(file = path, %trouble, "failed to sign the URL of a recording");
            refusal(StatusCode::SERVICE_UNAVAILABLE, NOT_NOW, true)
        }
    }
}

fn refusal(status: StatusCode, text: &'static str, may_come: bool) -> Response {
    let mut response = (status, [(CACHE_CONTROL, HeaderValue::from_static("no-store"))], text).into_response();
    if may_come {
        response.headers_mut().insert(RETRY_AFTER, SOON);
    }
    response
}
