//! What the machine needs of a store: reads by name, and patches that hold all or nothing.

use std::{fmt, future::Future};

use json_patch::Patch;
use tallylight_crds::{Broadcast, MediaPool, Recording, StreamId, object_name};

/// Where an object is: namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    /// The place of a stream's Broadcast.
    #[must_use]
    pub fn of_stream(namespace: &str, id: &StreamId) -> Self {
        Self { namespace: namespace.to_owned(), name: object_name(id) }
    }

    /// The place of an object that came from a store.
    #[must_use]
    pub fn of(broadcast: &Broadcast) -> Self {
        Self {
            namespace: broadcast.metadata.namespace.clone().unwrap_or_default(),
            name: broadcast.metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl Key {
    /// The place of a Recording that came from a store, or is about to be made.
    #[must_use]
    pub fn of_recording(recording: &Recording) -> Self {
        Self {
            namespace: recording.metadata.namespace.clone().unwrap_or_default(),
            name: recording.metadata.name.clone().unwrap_or_default(),
        }
    }

    /// The place of the Broadcast that was recorded.
    #[must_use]
    pub fn of_recorded(recording: &Recording) -> Self {
        Self {
            namespace: recording.metadata.namespace.clone().unwrap_or_default(),
            name: recording.spec.broadcast.name.clone(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Keeps Broadcasts. Every call is one request, is not retried here, and is cancelled by dropping its future; a write whose
/// reply is lost may still have happened.
pub trait Store: Clone + Send + Sync + 'static {
    /// Reads one Broadcast; its `status` is never `None`.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<Broadcast>, Error>> + Send;

    /// Creates a Broadcast. The status in it is ignored: a new Broadcast has the default one.
    fn create(&self, broadcast: &Broadcast) -> impl Future<Output = Result<Broadcast, Error>> + Send;

    /// Applies a patch with paths below `/status` to the Broadcast of that UID: all of it, or nothing. A `test` that fails
    /// is [`Error::Conflict`].
    fn patch_status(
        &self,
        key: &Key,
        uid: &str,
        patch: &Patch,
    ) -> impl Future<Output = Result<Broadcast, Error>> + Send;

    /// Asks for deletion: at once, or when the last finalizer is gone.
    fn delete(&self, key: &Key, uid: &str) -> impl Future<Output = Result<(), Error>> + Send;

    /// As [`Store::delete`], but only while the Broadcast is what `known` says: [`Error::Conflict`] when it has changed, as when
    /// a publisher has claimed it.
    fn delete_unchanged(&self, known: &Broadcast) -> impl Future<Output = Result<(), Error>> + Send;

    /// Takes our finalizer from a Broadcast that is still what `known` says: [`Error::Conflict`] when it has changed, because a
    /// claim that came in between has appended an event that is not settled. One that is gone is released.
    fn release(&self, known: &Broadcast) -> impl Future<Output = Result<(), Error>> + Send;

    /// Reads all Broadcasts whose latest session is, or was, on that node.
    fn sessions_of(&self, namespace: &str, node: &str) -> impl Future<Output = Result<Vec<Broadcast>, Error>> + Send;

    /// Reads one MediaPool.
    fn pool(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Option<MediaPool>, Error>> + Send;
}

/// Why a store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no such object")]
    NotFound,
    #[error("an object of that name exists")]
    AlreadyExists,
    /// The object has changed since it was read: read it again and decide anew.
    #[error("the object has changed")]
    Conflict,
    /// The store's rules refuse the object or the patch; asking again does not help.
    #[error("refused: {message}")]
    Invalid { message: String },
    #[error("forbidden: {message}")]
    Forbidden { message: String },
    /// No answer, or none that decides: it may have happened, and may be asked again.
    #[error("the store does not answer")]
    Unavailable {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
