//! A recording that is a valid fragmented MP4 at every instant, and becomes a plain seekable one without being copied.
//!
//! ```text
//! live      ftyp | free (16 bytes) | moov with mvex | moof mdat | moof mdat | …
//! finished  ftyp | mdat over all of this ........................................ | moov
//! ```
//!
//! [`Writer`] says what to append. At the end it gives a `moov` that points at the samples where they lie, and sixteen
//! bytes that turn the `free` box into the head of one great `mdat`. First the `moov` must be on the disk, then the
//! sixteen bytes: a crash between the two leaves a file that [`recover()`] finishes.

mod index;
mod recover;

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use mp4_atom::Moov;

pub use recover::{Damaged, Recovered, recover};

use crate::{Fragment, Init, fragment, init, timeline};
use index::Index;

const BOX_HEADER: u64 = 8;
/// Room for an `mdat` header with a size of 64 bits.
const FREE: [u8; 16] = *b"\0\0\0\x10free\0\0\0\0\0\0\0\0";
/// What it becomes, but for the size.
const PATCH: [u8; 16] = *b"\0\0\0\x01mdat\0\0\0\0\0\0\0\0";

/// What [`Finish::patch`] overwrites, in any file: the box behind an `ftyp` of ours.
pub const PATCHED: Range<u64> = 28..44;

/// Keeps the index of a file that is being written. An hour of 30 frames a second and AAC takes about 1.5 MB.
#[derive(Debug)]
pub struct Writer {
    /// The live `moov`, whose tables are empty.
    moov: Moov,
    tracks: Vec<(u32, Index)>,
    free: u64,
    len: u64,
}

/// What makes a plain MP4 of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// Append this and sync it, before the patch is written.
    pub append: Bytes,
    /// Where the patch goes.
    pub patch_at: u64,
    /// Overwrites the `free` box.
    pub patch: [u8; 16],
    /// How long it is, from what is shown first to what is shown last.
    pub duration: Duration,
    /// Length of the file, in bytes.
    pub len: u64,
}

/// A file cannot be finished, as one that mixes tracks of others.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the index of the file")]
pub struct NoIndex(#[source] mp4_atom::Error);

/// What a file begins with whose fragments follow this init, as [`Init::bytes`] gave it; `None` when it is none of ours.
#[must_use]
pub fn head(init: &[u8]) -> Option<Bytes> {
    let (size, _) = init.split_first_chunk::<4>()?;
    let (ftyp, moov) = init.split_at_checked(usize::try_from(u32::from_be_bytes(*size)).ok()?)?;
    Some([ftyp, &FREE, moov].concat().into())
}

impl Writer {
    /// Begins a file. Returns what to write first.
    #[must_use]
    pub fn new(init: &Init) -> (Self, Bytes) {
        let mut head = init.ftyp().to_vec();
        let free = head.len();
        head.extend(FREE);
        head.extend(init::encode(init.moov()));
        let writer = Self::begun(init.moov().clone(), free as u64, head.len() as u64);
        (writer, head.into())
    }

    fn begun(moov: Moov, free: u64, len: u64) -> Self {
        let tracks = moov.trak.iter().map(|trak| (trak.tkhd.track_id, Index::default())).collect();
        Self { moov, tracks, free, len }
    }

    /// Takes note of a fragment. The caller appends its bytes.
    pub fn append(&mut self, fragment: &Fragment) {
        for run in fragment.runs() {
            self.note(run);
        }
        self.len += fragment.len();
    }

    /// Length of the file so far, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it has a header at least")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// What the index weighs in memory, in bytes.
    #[must_use]
    pub fn index_bytes(&self) -> usize {
        self.tracks.iter().map(|(_, index)| index.bytes()).sum()
    }

    /// How long it is, from what is shown first to what is shown last.
    #[must_use]
    pub fn duration(&self) -> Duration {
        timeline::duration(index::duration(&self.moov, &self.tables()), init::MOVIE_TIMESCALE)
    }

    fn tables(&self) -> Vec<&Index> {
        self.tracks.iter().map(|(_, index)| index).collect()
    }

    /// Ends the file.
    ///
    /// # Errors
    /// A recovered file whose tables no `moov` can say.
    pub fn finish(self) -> Result<Finish, NoIndex> {
        let duration = self.duration();
        let moov = index::moov(&self.moov, &self.tables());
        let mut append = Vec::new();
        mp4_atom::Encode::encode(&moov, &mut append).map_err(NoIndex)?;
        let mut patch = PATCH;
        patch[8..].copy_from_slice(&(self.len - self.free).to_be_bytes());
        let len = self.len + append.len() as u64;
        Ok(Finish { append: append.into(), patch_at: self.free, patch, duration, len })
    }

    /// Takes a run of a fragment that begins at the end of the file.
    fn note(&mut self, run: &fragment::Run) {
        let at = self.len + run.offset;
        if let Some((_, index)) = self.tracks.iter_mut().find(|(id, _)| *id == run.track) {
            index.push(at, run);
        }
    }

    /// Whether a run of a file that is read again can be one of this file's.
    fn fits(&self, run: &fragment::Run) -> bool {
        self.tracks.iter().any(|(id, index)| *id == run.track && index.goes_on(run.decode_time))
    }
}

#[cfg(test)]
mod tests;
