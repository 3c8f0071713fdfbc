//! Streams of other nodes: whatever players ask for is fetched from the owner once, however many ask, and kept for those who ask
//! next. So the whole cluster has one muxing of a stream, and a player may change nodes in mid-stream.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, ETAG, RETRY_AFTER},
};
use ledger::Store;
use moka::{Expiry, future::Cache, policy::EvictionPolicy};
use tokio::{sync::Semaphore, time::sleep};
use tracing::debug;

use super::{
    Asked, MEDIA_PLAYLIST, MULTIVARIANT_PLAYLIST,
    answer::{Media, Refusal},
};
use crate::{
    hub::Name,
    packager::Text,
    relay::{Fetched, Owner, Relays, Whereabouts},
};

/// Bytes of playlists and media of other nodes: 16 s of 30 streams at 4 Mbit/s. When it is full, what was asked for longest ago goes.
const MAX_BYTES: u64 = 256 << 20;
/// Streams whose owners are known; of more, those that were asked for longest ago are looked for again.
const MAX_PLACES: u64 = 4_096;
/// Requests to other nodes at once; more are refused. A stream takes two, which wait for its next part.
const MAX_FETCHES: usize = 1_024;

/// How long an owner is believed to be it, unless it says otherwise or does not answer.
const OWNED: Duration = Duration::from_secs(30);
/// How long it is believed that a stream is nowhere, so that players which try again at once cost the store little.
const ABSENCE: Duration = Duration::from_secs(1);
/// How long a playlist is kept that may change at any time: less than a part.
const A_MOMENT: Duration = Duration::from_millis(150);
/// How long the rest is kept.
const LONG: Duration = Duration::from_secs(60);
/// Between two looks for a stream that changes its node, and for how long a request waits for that.
const PAUSE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(10);

/// A playlist or file of another node.
#[derive(Clone, Debug)]
pub(super) enum File {
    Playlist(Arc<Text>, HeaderValue),
    Media(Media),
}

impl File {
    fn weight(&self) -> u32 {
        let bytes = match self {
            Self::Playlist(text, _) => text.plain.len() + text.gzip.len(),
            Self::Media(media) => media.chunks.iter().map(bytes::Bytes::len).sum(),
        };
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

/// Why a file was not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    Refused(Refusal),
    /// By this owner: it may be another by now.
    NotThere,
}

/// A stream's session, and what is asked of it.
type Key = (Name, String, String);

/// See the module.
pub(super) struct Elsewhere<S> {
    relays: Relays<S>,
    places: Cache<Name, Whereabouts>,
    files: Cache<Key, File>,
    room: Semaphore,
}

impl<S: Store> Elsewhere<S> {
    pub(super) fn new(relays: Relays<S>) -> Self {
        let files = Cache::builder()
            .max_capacity(MAX_BYTES)
            .weigher(|key: &Key, file: &File| {
                file.weight().saturating_add(u32::try_from(key.2.len()).unwrap_or(0) + 512)
            })
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(Keep)
            .build();
        let places = Cache::builder()
            .max_capacity(MAX_PLACES)
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(Believe)
            .build();
        Self { relays, places, files, room: Semaphore::new(MAX_FETCHES) }
    }

    /// Fetches what is asked for, wherever the stream is.
    pub(super) async fn get(&self, name: &Name, asked: &Asked) -> Result<File, Refusal> {
        let file = path(asked);
        let started = tokio::time::Instant::now();
        loop {
            let place = self.places.get_with(name.clone(), self.relays.locate(name)).await;
            match place {
                Whereabouts::Nowhere => return Err(Refusal::NotLive),
                Whereabouts::Elsewhere(owner) => match self.get_from(&owner, name, &file, asked).await {
                    Ok(file) => return Ok(file),
                    Err(Failed::Refused(refusal)) => return Err(refusal),
                    Err(Failed::NotThere) => self.forget(name, &owner).await,
                },
                // it is about to be: this node has its publisher, but not yet its packets
                Whereabouts::Here | Whereabouts::Unknown => {}
            }
            if started.elapsed() >= PATIENCE {
                return Err(Refusal::Unreachable);
            }
            sleep(PAUSE).await;
        }
    }

    async fn get_from(&self, owner: &Owner, name: &Name, file: &str, asked: &Asked) -> Result<File, Failed> {
        let key = (name.clone(), owner.tag(), file.to_owned());
        self.files.try_get_with(key, self.fetch(owner, name, file, asked)).await.map_err(|failed| *failed)
    }

    async fn fetch(&self, owner: &Owner, name: &Name, file: &str, asked: &Asked) -> Result<File, Failed> {
        let Ok(_place) = self.room.try_acquire() else { return Err(Failed::Refused(Refusal::Busy)) };
        match self.relays.fetch(owner, name, file).await {
            Ok(fetched) => read(fetched, asked),
            Err(error) => {
                debug!(app = name.app, stream = %name.id, error = &error as &dyn std::error::Error, "failed to fetch");
                Err(Failed::NotThere)
            }
        }
    }

    /// Looks for a stream anew, unless somebody has found another owner by now.
    async fn forget(&self, name: &Name, owner: &Owner) {
        let known = self.places.get(name).await;
        if matches!(known, Some(Whereabouts::Elsewhere(known)) if known.tag() == owner.tag()) {
            self.places.invalidate(name).await;
        }
    }
}

fn read(fetched: Fetched, asked: &Asked) -> Result<File, Failed> {
    let Fetched { status, headers, body } = fetched;
    match status {
        StatusCode::OK => {}
        StatusCode::BAD_REQUEST => return Err(Failed::Refused(Refusal::TooFar)),
        StatusCode::NOT_FOUND if !headers.contains_key(RETRY_AFTER) => {
            return Err(Failed::Refused(Refusal::NoSuchFile));
        }
        StatusCode::SERVICE_UNAVAILABLE if headers.contains_key(RETRY_AFTER) => {
            return Err(Failed::Refused(Refusal::Late));
        }
        _ => return Err(Failed::NotThere),
    }
    let tag = text(&headers, ETAG).trim_matches('"').to_owned();
    Ok(match asked {
        Asked::Multivariant(uri) => {
            let playlist = String::from_utf8_lossy(&body).replace(MEDIA_PLAYLIST, uri);
            File::Playlist(Text::new(playlist, tag), kept(&headers))
        }
        Asked::Media(_) => File::Playlist(Text::new(body, tag), kept(&headers)),
        Asked::File(_) => File::Media(Media { tag, chunks: [body].into() }),
    })
}

fn kept(headers: &HeaderMap) -> HeaderValue {
    headers.get(CACHE_CONTROL).cloned().unwrap_or(HeaderValue::from_static("no-store"))
}

fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// What the owner is asked for. The two addresses of the multivariant playlist are two files: they differ in what they name.
fn path(asked: &Asked) -> String {
    match asked {
        Asked::Multivariant(uri) if uri == MEDIA_PLAYLIST => MULTIVARIANT_PLAYLIST.to_owned(),
        Asked::Multivariant(_) => format!("{MULTIVARIANT_PLAYLIST}?by=id"),
        Asked::Media(reload) => format!("{MEDIA_PLAYLIST}?{}", reload.query()),
        Asked::File(resource) => resource.to_string(),
    }
}

/// How long files are kept.
struct Keep;

impl Expiry<Key, File> for Keep {
    fn expire_after_create(&self, key: &Key, file: &File, _created: Instant) -> Option<Duration> {
        let was_awaited = key.2.contains("_HLS_msn");
        Some(match file {
            File::Playlist(..) if !was_awaited => A_MOMENT,
            File::Playlist(..) | File::Media(_) => LONG,
        })
    }
}

/// How long it is believed where a stream is.
struct Believe;

impl Expiry<Name, Whereabouts> for Believe {
    fn expire_after_create(&self, _name: &Name, place: &Whereabouts, _created: Instant) -> Option<Duration> {
        Some(match place {
            Whereabouts::Nowhere => ABSENCE,
            Whereabouts::Here | Whereabouts::Unknown => PAUSE / 2,
            Whereabouts::Elsewhere(_) => OWNED,
        })
    }

    fn expire_after_read(
        &self,
        _name: &Name,
        place: &Whereabouts,
        _read: Instant,
        left: Option<Duration>,
        _modified: Instant,
    ) -> Option<Duration> {
        match place {
            // for as long as it answers: players finish what there is when the stream has ended
            Whereabouts::Elsewhere(_) => Some(OWNED),
            Whereabouts::Nowhere | Whereabouts::Here | Whereabouts::Unknown => left,
        }
    }
}
