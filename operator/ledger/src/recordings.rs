//! What is needed of a store that keeps recordings.

use std::future::Future;

use json_patch::Patch;
use tallylight_crds::{Broadcast, Recording};

use crate::{Error, Key};

/// Keeps Recordings. As with [`Store`](crate::Store), every call is one request and is not retried here.
pub trait Recordings: Clone + Send + Sync + 'static {
    /// Reads one Recording; its `status` is never `None`.
    fn recording(&self, key: &Key) -> impl Future<Output = Result<Option<Recording>, Error>> + Send;

    /// Creates a Recording. The status in it is ignored: a new one has the default.
    fn create_recording(&self, recording: &Recording) -> impl Future<Output = Result<Recording, Error>> + Send;

    /// Applies a patch with paths below `/status` to the Recording of that UID: all of it, or nothing. A `test` that fails is
    /// [`Error::Conflict`].
    fn patch_recording(
        &self,
        key: &Key,
        uid: &str,
        patch: &Patch,
    ) -> impl Future<Output = Result<Recording, Error>> + Send;

    /// Makes another node responsible for a Recording that is still what `known` says: [`Error::Conflict`] when it has changed.
    fn assign_recording(&self, known: &Recording, node: &str) -> impl Future<Output = Result<Recording, Error>> + Send;

    /// Reads all Recordings that a node is responsible for.
    fn recordings_of_node(
        &self,
        namespace: &str,
        node: &str,
    ) -> impl Future<Output = Result<Vec<Recording>, Error>> + Send;

    /// Reads the Recording of a file of the pool.
    fn recording_of_file(
        &self,
        namespace: &str,
        pool: &str,
        file_name: &str,
    ) -> impl Future<Output = Result<Option<Recording>, Error>> + Send;

    /// Reads all Recordings of the Broadcasts that have, or had, that object name; of all Broadcasts without one.
    fn recordings_of(
        &self,
        namespace: &str,
        broadcast: Option<&str>,
    ) -> impl Future<Output = Result<Vec<Recording>, Error>> + Send;

    /// Asks for deletion: the responsible node deletes the file, and releases the Recording.
    fn delete_recording(&self, key: &Key, uid: &str) -> impl Future<Output = Result<(), Error>> + Send;

    /// Takes our finalizer from a Recording: its file is gone. One that is gone is released.
    fn release_recording(&self, known: &Recording) -> impl Future<Output = Result<(), Error>> + Send;

    /// Sets an annotation of a Broadcast, or takes it away: [`Error::Conflict`] when it is another one than `known` by now, or
    /// its annotations have changed in a way that matters.
    fn annotate(
        &self,
        known: &Broadcast,
        name: &str,
        value: Option<&str>,
    ) -> impl Future<Output = Result<Broadcast, Error>> + Send;
}
