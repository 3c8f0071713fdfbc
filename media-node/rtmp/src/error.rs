//! Why a connection cannot go on.

/// A peer broke the protocol or a limit. The connection is to be closed: what follows on it cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The first byte is not RTMP's version: the peer speaks TLS, HTTP or an encrypted RTMP.
    #[error("handshake: version {version} is not RTMP's 3")]
    Version {
        /// The byte that came.
        version: u8,
    },
    /// A chunk refers to a header that was never sent.
    #[error("chunk stream {chunk_stream}: its first chunk has no full header")]
    NoHeader {
        /// The chunk stream.
        chunk_stream: u32,
    },
    /// A new header came before the message was complete.
    #[error("chunk stream {chunk_stream}: a new message begins inside another")]
    Interrupted {
        /// The chunk stream.
        chunk_stream: u32,
    },
    /// More chunk streams than allowed.
    #[error("more than {limit} chunk streams are in use")]
    TooManyChunkStreams {
        /// The limit that was reached.
        limit: usize,
    },
    /// A message longer than allowed.
    #[error("a message of {length} bytes is longer than the limit of {limit}")]
    MessageTooLong {
        /// What its header says, in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Too many bytes of incomplete messages.
    #[error("incomplete messages hold more than {limit} bytes")]
    TooMuchIncomplete {
        /// The limit in bytes.
        limit: usize,
    },
    /// The peer set a chunk size of zero or with its first bit set (RTMP 1.0 §5.4.1).
    #[error("set chunk size: {size} is not allowed")]
    ChunkSize {
        /// The size that came.
        size: u32,
    },
    /// A control message is shorter than its type needs.
    #[error("a control message of type {message_type} has only {length} bytes")]
    ControlTooShort {
        /// The message type id.
        message_type: u8,
        /// Its length in bytes.
        length: usize,
    },
    /// A command is no valid AMF0 or is beyond its limits.
    #[error("failed to read a command")]
    Command {
        /// What is wrong.
        source: crate::amf0::Error,
    },
    /// A command does not begin with its name.
    #[error("a command does not begin with its name")]
    UnnamedCommand,
    /// The first command is not `connect`.
    #[error("the first command is not connect")]
    NotConnected,
    /// A second `connect`.
    #[error("connect came twice")]
    ConnectedTwice,
    /// An aggregate message does not add up.
    #[error("an aggregate message is cut off")]
    Aggregate,
    /// Too many bytes before a publish or play was accepted.
    #[error("more than {limit} bytes came before a stream was accepted")]
    TooMuchBeforeAccept {
        /// The limit in bytes.
        limit: u32,
    },
    /// The peer asks for more answers than it reads.
    #[error("more than {limit} bytes of answers wait for the peer")]
    TooMuchOutput {
        /// The limit in bytes.
        limit: usize,
    },
}
