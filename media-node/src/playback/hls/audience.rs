//! Who watches over HLS. Players only ever ask for files, so a viewer is one who has asked for a playlist a moment ago: an
//! address and what the player says of itself, or its session when it names one as Apple's do. No cookie and nothing in the
//! addresses of playlists, which a CDN would take for as many playlists. Viewers behind one CDN count as few.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::http::{HeaderMap, HeaderName, header::USER_AGENT};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    hub::Name,
    metrics::{Counted, Metrics, Protocol},
};

/// Who asks for no playlist for this long has left: longer than any blocking reload waits.
const LEFT: Duration = Duration::from_secs(20);
/// How often those who left are looked for.
const LOOK: Duration = Duration::from_secs(2);
/// Viewers that are counted. More are served, and not counted: a count is not worth more memory.
const MAX_VIEWERS: usize = 65_536;

/// What Apple's players send with all requests of one playback.
const SESSION: HeaderName = HeaderName::from_static("x-playback-session-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The viewers of a node.
#[derive(Debug)]
pub(crate) struct Audience {
    metrics: Metrics,
    keys: RandomState,
    viewers: Mutex<HashMap<u64, Viewer>>,
}

#[derive(Debug)]
struct Viewer {
    last: Instant,
    _counted: Counted,
}

impl Audience {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { metrics, keys: RandomState::new(), viewers: Mutex::default() }
    }

    /// Takes note of a request for a playlist.
    pub(crate) fn note(&self, name: &Name, peer: IpAddr, asked: &HeaderMap) {
        let viewer = match asked.get(SESSION) {
            Some(session) => (Some(session), None, None, None),
            None => (None, Some(peer), asked.get(FORWARDED_FOR), asked.get(USER_AGENT)),
        };
        let key = self.keys.hash_one((name, viewer));
        let mut viewers = self.viewers.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = viewers.len() < MAX_VIEWERS;
        if let Some(viewer) = viewers.get_mut(&key) {
            viewer.last = Instant::now();
        } else if has_room {
            let viewer = Viewer { last: Instant::now(), _counted: self.metrics.viewer(Protocol::Hls) };
            viewers.insert(key, viewer);
        }
    }

    /// Forgets those who left, until cancelled.
    pub(crate) async fn run(&self, cancel: &CancellationToken) {
        let mut looks = tokio::time::interval(LOOK);
        while cancel.run_until_cancelled(looks.tick()).await.is_some() {
            let mut viewers = self.viewers.lock().unwrap_or_else(PoisonError::into_inner);
            viewers.retain(|_, viewer| viewer.last.elapsed() < LEFT);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use tallylight_crds::StreamId;

    use super::*;

    fn count(audience: &Audience) -> usize {
        audience.viewers.lock().unwrap().len()
    }

    fn headers(all: &[(HeaderName, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_viewer_is_one_however_often_it_asks_until_it_leaves() {
        let audience = Audience::new(Metrics::new(&mut Registry::default()));
        let name = Name { app: "LiveApp".to_owned(), id: StreamId::parse("show").unwrap() };
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let player = headers(&[(USER_AGENT, "player")]);
        let apple = headers(&[(USER_AGENT, "AppleCoreMedia"), (SESSION, "0B3F")]);

        for _ in 0..3 {
            audience.note(&name, one, &player);
            audience.note(&name, one, &apple);
            audience.note(&name, other, &apple);
        }
        assert_eq!(count(&audience), 2, "one session may change its address");
        audience.note(&name, other, &player);
        assert_eq!(count(&audience), 3);

        let cancel = CancellationToken::new();
        let looks = audience.run(&cancel);
        let leave = async {
            tokio::time::sleep(LEFT + LOOK).await;
            cancel.cancel();
        };
        tokio::join!(looks, leave);
        assert_eq!(count(&audience), 0);
    }
}
