//! One timed payload.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::{MediaTime, Track};

/// What a reader needs to know of a packet to start and to skip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A decoder's configuration, or a stream's metadata: a reader gets the latest of each track before all else.
    Header,
    /// What describes a track beside its decoder configuration, as HDR metadata: kept and sent like a header.
    Annotation,
    /// Decodes by itself: a video keyframe, any audio.
    Key,
    /// Needs packets before it.
    Dependent,
}

/// One timed payload of one track. Shared by all readers, never copied.
#[derive(Debug)]
pub struct Packet {
    pub track: Track,
    pub time: MediaTime,
    pub role: Role,
    /// The FLV tag body, as it came.
    pub payload: Bytes,
    wire: OnceLock<Bytes>,
}

impl Packet {
    /// Makes a packet.
    #[must_use]
    pub fn new(track: Track, time: MediaTime, role: Role, payload: Bytes) -> Self {
        Self { track, time, role, payload, wire: OnceLock::new() }
    }

    /// The packet as one transport sends it: made by the first reader that asks, shared by the others. All callers of one
    /// broadcast give the same function.
    pub fn wire(&self, make: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.wire.get_or_init(|| make(self))
    }

    /// What the packet weighs in a ring's budget: its payload and about as much as its entry takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.payload.len() + size_of::<Self>()
    }
}
