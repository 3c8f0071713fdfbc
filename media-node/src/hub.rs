//! Which streams have a publisher on this node: the one map that publishers and viewers share.

use std::{
    collections::HashMap,
    collections::hash_map::Entry,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use media_core::{Packet, fanout};
use tallylight_crds::StreamId;
use tokio::sync::Notify;

/// Streams with a publisher here. Clones share the map.
#[derive(Clone, Debug, Default)]
pub struct Hub(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    streams: Mutex<HashMap<Name, Arc<Stream>>>,
    viewers: AtomicUsize,
    publishers: AtomicUsize,
    /// A stream has got a publisher.
    arrival: Notify,
}

/// A stream's address: application and id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    pub app: String,
    pub id: StreamId,
}

/// A stream's packets, from wherever they come, and how its readers are woken.
#[derive(Debug)]
pub struct Stream {
    fanout: fanout::Fanout,
    more: Notify,
    /// Whether they come from a publisher of this node.
    published: AtomicBool,
    /// Whether that publisher is awaited when it has left.
    parked: AtomicBool,
    /// How many discontinuities its playlists have had, at most, before it is muxed next.
    discontinuities: AtomicU64,
    viewers: AtomicUsize,
    /// A viewer has left.
    left: Notify,
    /// A viewer cannot decode before a keyframe.
    keyframe_wanted: Notify,
}

/// A publisher's place in the hub; given back when it is dropped, and then its readers see the end.
#[derive(Debug)]
pub struct Place {
    hub: Hub,
    name: Name,
    stream: Arc<Stream>,
    handed_over: bool,
}

/// A viewer of a stream.
#[derive(Debug)]
pub struct Viewer {
    hub: Hub,
    pub stream: Arc<Stream>,
    pub packets: fanout::Subscriber,
}

impl Hub {
    /// Takes the place of the stream's publisher; `None` when there is one. Playlists of the stream, here or elsewhere, have had no
    /// more than so many `discontinuities`.
    #[must_use]
    pub fn publish(&self, name: Name, discontinuities: u64) -> Option<Place> {
        let stream = Arc::new(Stream::new());
        stream.discontinuities.store(discontinuities, Ordering::Release);
        stream.published.store(true, Ordering::Release);
        match self.streams().entry(name.clone()) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(entry) => entry.insert(Arc::clone(&stream)),
        };
        self.0.publishers.fetch_add(1, Ordering::Relaxed);
        self.0.arrival.notify_waiters();
        Some(Place { hub: self.clone(), name, stream, handed_over: false })
    }

    /// Joins a stream as a viewer; `None` when it has no publisher here.
    #[must_use]
    pub fn view(&self, name: &Name) -> Option<Viewer> {
        let stream = Arc::clone(self.streams().get(name)?);
        Some(self.viewer_of(stream))
    }

    /// Reads a stream without being a viewer; `None` when it has no publisher here.
    pub(crate) fn subscribe(&self, name: &Name) -> Option<(Arc<Stream>, fanout::Subscriber)> {
        let stream = Arc::clone(self.streams().get(name)?);
        let packets = stream.subscribe();
        Some((stream, packets))
    }

    /// Adds a viewer of a stream.
    pub(crate) fn viewer_of(&self, stream: Arc<Stream>) -> Viewer {
        let packets = stream.fanout.subscribe();
        self.0.viewers.fetch_add(1, Ordering::Relaxed);
        stream.viewers.fetch_add(1, Ordering::AcqRel);
        Viewer { hub: self.clone(), stream, packets }
    }

    /// Whether the stream has a publisher here.
    #[must_use]
    pub fn has(&self, name: &Name) -> bool {
        self.streams().contains_key(name)
    }

    /// Is notified when a stream gets a publisher here.
    pub(crate) fn arrival(&self) -> &Notify {
        &self.0.arrival
    }

    /// Viewers on this node.
    #[must_use]
    pub fn viewers(&self) -> usize {
        self.0.viewers.load(Ordering::Relaxed)
    }

    /// Publishers on this node.
    #[must_use]
    pub fn publishers(&self) -> usize {
        self.0.publishers.load(Ordering::Relaxed)
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<Name, Arc<Stream>>> {
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Hands a packet to all readers.
    pub fn push(&self, packet: Packet) {
        self.stream.push(packet);
    }

    /// The stream's address.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The stream itself.
    pub(crate) fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Says that the publisher, who leaves, is awaited.
    pub(crate) fn park(&self) {
        self.stream.parked.store(true, Ordering::Release);
    }

    /// Gives the place back, but leaves the stream to its viewers: somebody else feeds it from now on.
    pub(crate) fn hand_over(mut self) {
        self.handed_over = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hub.streams().remove(&self.name);
        self.hub.0.publishers.fetch_sub(1, Ordering::Relaxed);
        self.stream.published.store(false, Ordering::Release);
        if self.handed_over {
            self.stream.more.notify_waiters();
        } else {
            self.stream.end();
        }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.hub.0.viewers.fetch_sub(1, Ordering::Relaxed);
        self.stream.viewers.fetch_sub(1, Ordering::AcqRel);
        self.stream.left.notify_one();
    }
}

impl Stream {
    /// Makes a stream without packets.
    pub(crate) fn new() -> Self {
        Self {
            fanout: fanout::Fanout::new(fanout::Limits::default()),
            more: Notify::new(),
            published: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            discontinuities: AtomicU64::new(0),
            viewers: AtomicUsize::new(0),
            left: Notify::new(),
            keyframe_wanted: Notify::new(),
        }
    }

    /// Whether its packets come from a publisher of this node, and no longer do once that has left.
    pub(crate) fn is_published(&self) -> bool {
        self.published.load(Ordering::Acquire)
    }

    /// Whether the publisher of this node has left, and is awaited.
    pub(crate) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Acquire)
    }

    /// How many discontinuities its playlists have had, at most, before it is muxed next.
    pub(crate) fn discontinuities(&self) -> &AtomicU64 {
        &self.discontinuities
    }

    /// Reads it without being a viewer.
    pub(crate) fn subscribe(&self) -> fanout::Subscriber {
        self.fanout.subscribe()
    }

    /// Hands a packet to all readers.
    pub(crate) fn push(&self, packet: Packet) {
        self.fanout.push(packet);
        self.more.notify_waiters();
    }

    /// Tells readers that they have all there is.
    pub(crate) fn end(&self) {
        self.fanout.end();
        self.more.notify_waiters();
    }

    /// Viewers at present.
    pub(crate) fn viewers(&self) -> usize {
        self.viewers.load(Ordering::Acquire)
    }

    /// Is notified when a viewer leaves. One waits.
    pub(crate) fn left(&self) -> &Notify {
        &self.left
    }

    /// Says that a viewer cannot decode before a keyframe. Publishers that can be asked for one are; all others send theirs in time.
    pub(crate) fn want_keyframe(&self) {
        self.keyframe_wanted.notify_one();
    }

    /// Is notified when a keyframe is wanted, once for all who want one since it was last waited for. One waits: the publisher's
    /// side, which decides how often it asks.
    #[must_use]
    pub fn keyframe_wanted(&self) -> &Notify {
        &self.keyframe_wanted
    }

    /// Is notified of each packet and of the end.
    #[must_use]
    pub fn more(&self) -> &Notify {
        &self.more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(id: &str) -> Name {
        Name { app: "LiveApp".to_owned(), id: StreamId::parse(id).unwrap() }
    }

    #[test]
    fn a_stream_has_one_publisher_at_a_time() {
        let hub = Hub::default();
        let first = hub.publish(name("a"), 0);

        assert!(first.is_some() && hub.publish(name("a"), 0).is_none() && hub.publish(name("b"), 0).is_some());
        drop(first);
        assert!(hub.publish(name("a"), 0).is_some());
    }

    #[test]
    fn viewers_see_the_end_when_the_publisher_leaves() {
        let hub = Hub::default();
        let place = hub.publish(name("a"), 0).unwrap();
        let mut viewer = hub.view(&name("a")).unwrap();
        assert_eq!(hub.viewers(), 1);

        drop(place);

        let batch = fanout::Batch { packets: 1, bytes: 1 };
        assert_eq!(viewer.packets.read(batch, &mut Vec::new()), fanout::Read::Ended);
        assert!(hub.view(&name("a")).is_none());
    }
}
