//! One MP4 file on disk: begun, grown by fragments, finished in place; or finished after a crash. It blocks.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use mux::{
    Fragment, Init,
    file::{self, Damaged, Finish, Recovered},
};

use super::{
    checksum::Checksum,
    growing::{Error, Whole, hold, sync_names},
};

/// Buffers of one write: what Linux takes at most (IOV_MAX).
const SLICES: usize = 1_024;

/// A file that grows.
#[derive(Debug)]
pub(super) struct Growing {
    file: File,
    writer: file::Writer,
    head: Bytes,
    /// Of what follows the head.
    rest: Checksum,
    is_synced: bool,
}

impl Growing {
    /// Begins a file that is not there.
    pub(super) fn begin(path: &Path, init: &Init) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        hold(&file)?;
        let (writer, head) = file::Writer::new(init);
        file.write_all(&head)?;
        path.parent().map_or(Ok(()), sync_names)?;
        Ok(Self { file, writer, head, rest: Checksum::new(), is_synced: false })
    }

    /// Adds a fragment: all of it, or nothing.
    pub(super) fn append(&mut self, fragment: &Fragment) -> io::Result<()> {
        if let Err(error) = write_all(&mut self.file, fragment) {
            // recovery would pass over what is torn; without it players need not
            self.file.set_len(self.writer.len())?;
            self.file.seek(SeekFrom::Start(self.writer.len()))?;
            return Err(error);
        }
        fragment.chunks().for_each(|chunk| self.rest.update(chunk));
        self.writer.append(fragment);
        self.is_synced = false;
        Ok(())
    }

    /// What was written so far survives a loss of power.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.is_synced = true;
        Ok(())
    }

    pub(super) fn is_synced(&self) -> bool {
        self.is_synced
    }

    pub(super) fn bytes(&self) -> u64 {
        self.writer.len()
    }

    pub(super) fn duration(&self) -> Duration {
        self.writer.duration()
    }

    /// Makes a plain MP4 of it. When it fails, [`recover`] does the rest.
    pub(super) fn finish(self) -> Result<Whole, Error> {
        let Self { file, writer, head, mut rest, .. } = self;
        let finish = writer.finish().map_err(|error| Error::Hopeless(error.to_string()))?;
        write_finish(&file, &finish)?;
        rest.update(&finish.append);
        let mut patched = head.to_vec();
        let at = usize::try_from(finish.patch_at).unwrap_or(usize::MAX);
        if let Some(place) = patched.get_mut(at..at.saturating_add(finish.patch.len())) {
            place.copy_from_slice(&finish.patch);
        }
        let mut checksum = Checksum::new();
        checksum.update(&patched);
        let checksum = Some(checksum.followed_by(&rest).to_text());
        Ok(Whole { duration: finish.duration, bytes: finish.len, checksum })
    }
}

/// Makes a plain MP4 of a file that was cut off anywhere.
pub(super) fn recover(path: &Path) -> Result<Whole, Error> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    hold(&file)?;
    let duration = match file::recover(&mut file) {
        Ok(Recovered::Finished { duration }) => duration,
        Ok(Recovered::Unfinished { writer }) => {
            if writer.duration().is_zero() {
                return Err(Error::empty());
            }
            file.set_len(writer.len())?;
            let finish = writer.finish().map_err(|error| Error::Hopeless(error.to_string()))?;
            write_finish(&file, &finish)?;
            finish.duration
        }
        Err(Damaged::Read(error)) => return Err(error.into()),
        Err(damaged) => return Err(Error::Hopeless(damaged.to_string())),
    };
    file.sync_all()?;
    file.rewind()?;
    let bytes = file.metadata()?.len();
    let checksum = Some(Checksum::read(&mut file)?.to_text());
    Ok(Whole { duration, bytes, checksum })
}

/// First the index must be on the disk, then the head that points at it.
fn write_finish(file: &File, finish: &Finish) -> io::Result<()> {
    let end = finish.len - finish.append.len() as u64;
    file.write_all_at(&finish.append, end)?;
    file.sync_all()?;
    file.write_all_at(&finish.patch, finish.patch_at)?;
    file.sync_all()
}

/// Writes the fragment's own buffers.
pub(super) fn write_all(file: &mut File, fragment: &Fragment) -> io::Result<()> {
    let mut chunks = fragment.chunks().peekable();
    while chunks.peek().is_some() {
        let mut slices: Vec<_> = chunks.by_ref().take(SLICES).map(|chunk| IoSlice::new(chunk)).collect();
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0); // passes over those without a byte
        while !left.is_empty() {
            match file.write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
