//! How a storage that is a folder is laid out. A file grows under `.recording/FILE/`, beside what its Recording is, and moves
//! to its own name when it is whole; no file is ever overwritten. It blocks.
//!
//! ```text
//! .recording/show-20260314-150926-1.mp4/recording.json   the Recording as it was begun
//!                                      /media.mp4        the file, while it grows
//!                                      /upload.mp4       the same file, for its upload to a bucket, and beside it what was sent
//!                                      /fetched.mp4      what comes from a bucket, until it is here and becomes media.mp4
//!                                      /whole.json       its status once the file is whole
//! show-20260314-150926-1.mp4                             the file, once it is whole
//!
//! .recording/show-20260314-150926-1.m3u8/                HLS: the same, with the playlist and a folder of its segments,
//! show-20260314-150926-1.m3u8                            which are whole here
//! show-20260314-150926-1/segment-1.m4s
//!
//! .recording/show-20260314-150926-1.m3u8/sent.json       for a bucket: what it has, and is not here any more. The rest stays here
//!                                       /fetched/        segments that come from a bucket, until all are here
//! ```

use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with, statvfs},
    io::Errno,
};
use serde::{Serialize, de::DeserializeOwned};
use tallylight_crds::{Recording, RecordingFormat, RecordingStatus};

use super::growing::sync_names;
use crate::storage::{Storage, playlist};

/// Where files grow.
const GROWING: &str = ".recording";
/// Where files are kept of which nothing can be made.
const DAMAGED: &str = ".damaged";
const SIDECAR: &str = "recording.json";
const MEDIA: &str = "media.mp4";
const UPLOAD: &str = "upload.mp4";
const FETCHED: &str = "fetched.mp4";
const SEGMENTS: &str = "fetched";
const WHOLE: &str = "whole.json";

/// Room that a file begins with, in bytes: enough for the indexes of the files that are open, so that a disk that fills up does
/// not leave all of them unfinished. Of a small disk it is the sixteenth part.
const ROOM: u64 = 64 << 20;

/// A folder that keeps recordings.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    path: PathBuf,
    home: Home,
}

/// Where files are once they are whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    Here,
    Bucket,
}

/// The place of one file in it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    root: PathBuf,
    home: Home,
    file_name: String,
}

impl Folder {
    /// The folder of a storage.
    pub(super) fn of(storage: &Storage) -> Self {
        match storage {
            Storage::Volume(path) => Self { path: path.clone(), home: Home::Here },
            Storage::Bucket { spool, .. } => Self { path: spool.clone(), home: Home::Bucket },
        }
    }

    /// The place of a file; `None` for a name that is none of a file in this folder.
    pub(super) fn place(&self, file_name: &str) -> Option<Place> {
        let is_plain = !file_name.is_empty()
            && !file_name.starts_with('.')
            && file_name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        is_plain.then(|| Place { root: self.path.clone(), home: self.home, file_name: file_name.to_owned() })
    }

    /// Whether a file may be begun.
    pub(super) fn has_room(&self) -> io::Result<()> {
        if !self.path.join(GROWING).exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(self.path.join(GROWING))?;
            sync_names(&self.path)?;
        }
        let found = statvfs(&self.path)?;
        let (free, all) =
            (found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize));
        if free < ROOM.min(all / 16) { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// The places of files that grow, or were left growing, and what their Recordings are. What cannot be read is left alone.
    pub(super) fn growing(&self) -> io::Result<Vec<(Place, Recording)>> {
        let entries = match fs::read_dir(self.path.join(GROWING)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Some(place) = entry.file_name().to_str().and_then(|name| self.place(name)) else { continue };
            match place.sidecar() {
                Ok(recording) => found.push((place, recording)),
                Err(error) => place.forget_if_empty(&error),
            }
        }
        Ok(found)
    }
}

impl Place {
    /// Takes the place for a Recording; [`ErrorKind::AlreadyExists`] when another has it.
    pub(super) fn take(&self, recording: &Recording) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(self.growing())?;
        let is_there = |path: PathBuf| path.symlink_metadata().is_ok();
        if is_there(self.path()) || self.segments().is_some_and(is_there) {
            fs::remove_dir(self.growing())?;
            return Err(ErrorKind::AlreadyExists.into());
        }
        let written =
            write(&self.growing().join(SIDECAR), recording).and_then(|()| sync_names(&self.root.join(GROWING)));
        if written.is_err() {
            let _removed = fs::remove_dir_all(self.growing()); // the first error is the one to tell
        }
        written
    }

    /// Takes the place for a Recording of which nothing is here yet, or goes on with it.
    pub(super) fn take_over(&self, recording: &Recording) -> io::Result<()> {
        match self.sidecar() {
            Ok(known) if known.metadata.name == recording.metadata.name => return Ok(()),
            Ok(_another) => return Err(ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        DirBuilder::new().recursive(true).mode(0o700).create(self.growing())?;
        write(&self.growing().join(SIDECAR), recording)?;
        sync_names(&self.root.join(GROWING))
    }

    /// The file while it comes from its bucket.
    pub(super) fn fetched(&self) -> PathBuf {
        self.growing().join(FETCHED)
    }

    /// Makes what came from the bucket the file that has grown here. Returns its size.
    pub(super) fn keep_fetched(&self) -> io::Result<u64> {
        let bytes = self.fetched().metadata()?.len();
        fs::rename(self.fetched(), self.media())?;
        sync_names(&self.growing())?;
        Ok(bytes)
    }

    /// The segments of a playlist while they come from its bucket.
    pub(super) fn fetched_segments(&self) -> PathBuf {
        self.growing().join(SEGMENTS)
    }

    /// Makes them those that have grown here.
    pub(super) fn keep_fetched_segments(&self) -> io::Result<()> {
        fs::rename(self.fetched_segments(), self.media())?;
        sync_names(&self.growing())
    }

    /// What kind of file it is, by its name.
    pub(super) fn format(&self) -> RecordingFormat {
        if self.file_name.ends_with(".m3u8") { RecordingFormat::Hls } else { RecordingFormat::Mp4 }
    }

    pub(super) fn file_name(&self) -> &str {
        &self.file_name
    }

    /// The file's name without its extension.
    pub(super) fn stem(&self) -> &str {
        playlist::stem(&self.file_name)
    }

    /// The file while it grows; for a playlist the folder of its segments.
    pub(super) fn media(&self) -> PathBuf {
        match self.format() {
            RecordingFormat::Mp4 => self.growing().join(MEDIA),
            RecordingFormat::Hls => self.growing().join(self.stem()),
        }
    }

    /// A name of the file that stays when it moves, for its upload.
    pub(super) fn upload(&self) -> PathBuf {
        self.growing().join(UPLOAD)
    }

    /// Gives the file that name, if it has not got it. A playlist does not move.
    pub(super) fn link_upload(&self) -> io::Result<()> {
        if self.format() == RecordingFormat::Hls {
            return Ok(());
        }
        let from = if self.media().exists() { self.media() } else { self.path() };
        match fs::hard_link(from, self.upload()) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    }

    /// A playlist while it grows.
    pub(super) fn growing_playlist(&self) -> PathBuf {
        self.growing().join(&self.file_name)
    }

    /// The folder of a playlist's segments, once they are whole; `None` for a file that is one.
    fn segments(&self) -> Option<PathBuf> {
        match self.format() {
            RecordingFormat::Mp4 => None,
            RecordingFormat::Hls => Some(self.root.join(self.stem())),
        }
    }

    /// The file once it is whole.
    pub(super) fn path(&self) -> PathBuf {
        self.root.join(&self.file_name)
    }

    /// Where it is then, as a Recording's status says it.
    pub(super) fn location(&self) -> String {
        let path = std::path::absolute(self.path()).unwrap_or_else(|_| self.path());
        url::Url::from_file_path(&path).map_or_else(|()| format!("file://{}", path.display()), String::from)
    }

    /// Whether its files leave this folder one by one.
    pub(super) fn is_sent_in_pieces(&self) -> bool {
        self.home == Home::Bucket && self.format() == RecordingFormat::Hls
    }

    /// Moves the whole file to its name, and makes sure that it is there. What leaves in pieces leaves from where it is.
    pub(super) fn publish(&self, status: &RecordingStatus) -> io::Result<()> {
        write(&self.growing().join(WHOLE), status)?;
        if self.is_sent_in_pieces() {
            return Ok(());
        }
        let moves = match self.segments() {
            None => vec![(self.media(), self.path())],
            // the playlist last: what it lists is there
            Some(segments) => vec![(self.media(), segments), (self.growing_playlist(), self.path())],
        };
        for (from, to) in moves {
            match rename(&from, &to) {
                // it was moved before a crash
                Err(error) if error.kind() == ErrorKind::NotFound && to.exists() => {}
                moved => moved?,
            }
        }
        sync_names(&self.root)?;
        let found = self.published_bytes()?;
        if Some(found) == status.bytes.and_then(|bytes| u64::try_from(bytes).ok()) {
            return Ok(());
        }
        Err(io::Error::other(format!("{} has {found} bytes, not those that were written", self.path().display())))
    }

    /// The status of a file that is whole and moved; `None` when it is not.
    pub(super) fn published(&self) -> Option<RecordingStatus> {
        let status: RecordingStatus = read(&self.growing().join(WHOLE)).ok()?;
        if self.is_sent_in_pieces() {
            return Some(status);
        }
        let found = self.published_bytes().ok()?;
        (!self.media().exists() && status.bytes == i64::try_from(found).ok()).then_some(status)
    }

    /// Size of what can be fetched, which is opened for that.
    fn published_bytes(&self) -> io::Result<u64> {
        let mut bytes = File::open(self.path())?.metadata()?.len();
        if let Some(segments) = self.segments() {
            for entry in fs::read_dir(segments)? {
                bytes += entry?.metadata()?.len();
            }
        }
        Ok(bytes)
    }

    /// Whether there is anything of the file.
    pub(super) fn is_there(&self) -> bool {
        self.media().exists() || self.path().exists()
    }

    /// Gives the place back: its Recording says where the file is.
    pub(super) fn forget(&self) -> io::Result<()> {
        gone(fs::remove_dir_all(self.growing()))
    }

    /// Puts a file aside of which nothing can be made, for a person to look at.
    pub(super) fn put_aside(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(self.root.join(DAMAGED))?;
        gone(fs::rename(self.growing(), self.root.join(DAMAGED).join(&self.file_name)))
    }

    /// Deletes the file, whatever state it is in.
    pub(super) fn delete(&self) -> io::Result<()> {
        gone(fs::remove_file(self.path()))?;
        if let Some(segments) = self.segments() {
            gone(fs::remove_dir_all(segments))?;
        }
        gone(fs::remove_dir_all(self.growing()))?;
        gone(fs::remove_dir_all(self.root.join(DAMAGED).join(&self.file_name)))?;
        sync_names(&self.root).or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
    }

    /// Where it grows.
    pub(super) fn growing(&self) -> PathBuf {
        self.root.join(GROWING).join(&self.file_name)
    }

    /// What the Recording was when its file was begun.
    pub(super) fn sidecar(&self) -> io::Result<Recording> {
        read(&self.growing().join(SIDECAR))
    }

    /// A crash may have left a place that was not yet taken.
    fn forget_if_empty(&self, error: &io::Error) {
        if self.media().exists() {
            tracing::warn!(folder = %self.growing().display(), %error, "what a file is cannot be read; it is left alone");
        } else if let Err(error) = self.forget() {
            tracing::warn!(folder = %self.growing().display(), %error, "failed to remove an empty folder");
        }
    }
}

fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_all()
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Moves a file to a name that nobody has.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // a file system that cannot: the place is ours, so nobody of us has the name
        Err(Errno::INVAL | Errno::NOSYS) if !to.exists() => fs::rename(from, to),
        moved => Ok(moved?),
    }
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
