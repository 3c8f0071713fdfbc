//! A file that grows, in either format. It blocks.

use std::{
    fs::{File, TryLockError},
    io::{self, ErrorKind},
    path::Path,
    time::Duration,
};

use mux::{Init, Part};
use tallylight_crds::RecordingFormat;

use super::{folder::Place, hls, mp4};

/// A file that grows.
#[derive(Debug)]
pub(super) enum Growing {
    Mp4(Box<mp4::Growing>),
    Hls(Box<hls::Growing>),
}

/// A file that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) duration: Duration,
    /// Of all its files.
    pub(super) bytes: u64,
    /// Of a file that is one.
    pub(super) checksum: Option<String>,
}

/// Why a file could not be made whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It may be tried again.
    #[error(transparent)]
    Disk(#[from] io::Error),
    /// Nothing can be made of it.
    #[error("{0}")]
    Hopeless(String),
}

impl Error {
    /// It ended before anything of it was written.
    pub(super) fn empty() -> Self {
        Self::Hopeless("it ended before the first picture or sound was written".to_owned())
    }
}

impl Growing {
    /// Begins a file at a place that was taken for it.
    pub(super) fn begin(place: &Place, init: &Init) -> io::Result<Self> {
        match place.format() {
            RecordingFormat::Mp4 => mp4::Growing::begin(&place.media(), init).map(|file| Self::Mp4(Box::new(file))),
            RecordingFormat::Hls => hls::Growing::begin(place, init).map(|file| Self::Hls(Box::new(file))),
        }
    }

    /// Adds a part: all of it, or nothing.
    pub(super) fn append(&mut self, part: &Part) -> io::Result<()> {
        match self {
            Self::Mp4(file) => file.append(&part.fragment),
            Self::Hls(file) => file.append(part),
        }
    }

    /// What was written so far survives a loss of power.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        match self {
            Self::Mp4(file) => file.sync(),
            Self::Hls(file) => file.sync(),
        }
    }

    pub(super) fn is_synced(&self) -> bool {
        match self {
            Self::Mp4(file) => file.is_synced(),
            Self::Hls(file) => file.is_synced(),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Mp4(file) => file.bytes(),
            Self::Hls(file) => file.bytes(),
        }
    }

    /// Bytes of what does not change any more before the end.
    pub(super) fn whole(&self) -> u64 {
        match self {
            Self::Mp4(file) => file.bytes(),
            Self::Hls(file) => file.listed_bytes(),
        }
    }

    pub(super) fn duration(&self) -> Duration {
        match self {
            Self::Mp4(file) => file.duration(),
            Self::Hls(file) => file.duration(),
        }
    }

    /// Makes it whole. When that fails, [`recover`] does the rest.
    pub(super) fn finish(self) -> Result<Whole, Error> {
        match self {
            Self::Mp4(file) => file.finish(),
            Self::Hls(file) => file.finish(),
        }
    }
}

/// Has a file for this process alone, for as long as it is open. A node that was thought lost, and whose recordings are another's
/// by now, may still write: the other one waits until it lets go. A storage without locks does without.
pub(super) fn hold(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(ErrorKind::ResourceBusy.into()),
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Names in a folder survive a loss of power.
pub(super) fn sync_names(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes a file whole that was cut off anywhere.
pub(super) fn recover(place: &Place) -> Result<Whole, Error> {
    match place.format() {
        RecordingFormat::Mp4 => mp4::recover(&place.media()),
        RecordingFormat::Hls => hls::recover(place),
    }
}
