//! One codec's stream within a broadcast.

/// What a track carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Metadata and timed data.
    Data,
    Video,
    Audio,
}

/// Names a track within a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Track {
    pub kind: Kind,
    /// Index among the tracks of this kind; 0 but for multitrack publishers. [`Track::SEVERAL`] stands for a packet that
    /// holds more than one.
    pub index: u8,
}

impl Track {
    /// Index of packets that hold several tracks at once.
    pub const SEVERAL: u8 = u8::MAX;

    /// The first track of a kind.
    #[must_use]
    pub const fn first(kind: Kind) -> Self {
        Self { kind, index: 0 }
    }
}
