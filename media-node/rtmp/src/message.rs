//! One media message, as both sessions hand it out and as the chunk writer takes it.

use bytes::Bytes;

/// One audio, video or data message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What the payload is.
    pub kind: Kind,
    /// Milliseconds since a start that the sender chose. It wraps at 2^32 (about 49.7 days), so compare with
    /// `wrapping_sub`.
    pub timestamp_ms: u32,
    /// The body of an FLV tag. It may be a slice of the buffer that it arrived in and keep that whole buffer alive:
    /// copy what is kept for long, as a sequence header is.
    pub payload: Bytes,
}

/// What a [`Message`] carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An FLV audio tag body: see [`crate::tag::AudioTag`].
    Audio,
    /// An FLV video tag body: see [`crate::tag::VideoTag`].
    Video,
    /// AMF0 values, the first a string that names them, mostly `onMetaData`. The server has taken off a publisher's
    /// leading `@setDataFrame`, so the payload is what a player expects.
    Data,
}
