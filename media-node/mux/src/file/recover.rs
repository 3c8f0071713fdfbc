//! Reads a file that was cut off anywhere, and goes on with what is whole.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    ops::Range,
    time::Duration,
};

use mp4_atom::{Atom as _, FourCC, Ftyp, Mdat, Moof, Moov, Mvhd};

use super::{BOX_HEADER, FREE, PATCH, Writer};
use crate::{fragment, init::MOVIE_TIMESCALE, timeline};

/// The boxes that are read whole are smaller: a live `moov` is below 2 kB and a decoder configuration, a `moof` below 70 kB.
const MAX_READ: u64 = 256 << 10;
/// More tracks than a muxer makes.
const MAX_TRACKS: usize = 8;
/// Fragments at the end whose media is looked at: more than a recorder writes between two syncs. What was not synced when power failed
/// may be there in name only.
const TAIL: usize = 16;
/// So many zeros in media are a block that never reached the disk: no codec writes them.
const HOLE: usize = 4_096;
/// So many at its end are the begin of one.
const HOLE_AT_END: usize = 512;

/// What a file that was not closed is.
#[derive(Debug)]
pub enum Recovered {
    /// It was finished all the same.
    Finished {
        /// How long it is.
        duration: Duration,
    },
    /// Cut it to `writer.len()` bytes and finish it, or go on appending.
    Unfinished {
        /// The index of what is whole.
        writer: Box<Writer>,
    },
}

/// Why nothing can be made of a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damaged {
    /// It was cut off before the first fragment could be written, or another program wrote it.
    #[error("the file does not begin as a recording does")]
    Head,
    /// It could not be read.
    #[error("failed to read the file")]
    Read(#[source] io::Error),
}

/// Rebuilds the index of a file that [`Writer`] began. It reads the heads of the fragments and passes over the media but for that of the
/// last ones, which a loss of power may have left with holes.
///
/// # Errors
/// The file's head is not whole, or not ours; or it cannot be read.
pub fn recover<R: Read + Seek>(file: &mut R) -> Result<Recovered, Damaged> {
    let mut file = Boxes::new(file).map_err(Damaged::Read)?;
    let head = file.next()?.filter(|found| found.kind == Ftyp::KIND).ok_or(Damaged::Head)?;
    let free = head.end;
    let mark = file.bytes_at(free, FREE.len() as u64)?.ok_or(Damaged::Head)?;
    // a crash may have left any part of the patch there
    let mut kinds = mark.iter().zip(FREE.iter().zip(&PATCH)).take(8);
    if !kinds.all(|(byte, (live, finished))| byte == live || byte == finished) {
        return Err(Damaged::Head);
    }
    if let Some(duration) = finished(&mut file, free, &mark)? {
        return Ok(Recovered::Finished { duration });
    }
    file.at = free + FREE.len() as u64;
    let moov: Moov = file.read()?.ok_or(Damaged::Head)?;
    let is_ours = moov.mvex.is_some()
        && moov.mvhd.timescale == MOVIE_TIMESCALE
        && (1..=MAX_TRACKS).contains(&moov.trak.len())
        && moov.trak.iter().all(|trak| trak.mdia.mdhd.timescale > 0);
    if !is_ours {
        return Err(Damaged::Head);
    }
    let mut writer = Writer::begun(moov, free, file.at);
    let mut tail = VecDeque::new();
    while let Some(found) = fragment(&mut file)? {
        tail.push_back(found);
        if tail.len() > TAIL
            && let Some(found) = tail.pop_front()
            && !found.goes_on(&mut writer)
        {
            tail.clear();
            break;
        }
    }
    for found in tail {
        if file.has_hole(found.media.clone())? || !found.goes_on(&mut writer) {
            break;
        }
    }
    Ok(Recovered::Unfinished { writer: Box::new(writer) })
}

/// A fragment of which all is there, as far as boxes tell.
struct Fragment {
    runs: Vec<fragment::Run>,
    media: Range<u64>,
}

impl Fragment {
    /// Goes on with it, if it goes on with the tracks of the file.
    fn goes_on(&self, writer: &mut Writer) -> bool {
        let fits = self.runs.iter().all(|run| writer.fits(run));
        if fits {
            self.runs.iter().for_each(|run| writer.note(run));
            writer.len = self.media.end;
        }
        fits
    }
}

/// The duration of a file whose patch and index are there.
fn finished<R: Read + Seek>(file: &mut Boxes<'_, R>, free: u64, mark: &[u8]) -> Result<Option<Duration>, Damaged> {
    let size = match mark.split_at_checked(8) {
        Some((kind, size)) if kind == &PATCH[..8] => size.try_into().map_or(0, u64::from_be_bytes),
        _ => return Ok(None),
    };
    let Some(end) = free.checked_add(size).filter(|end| *end > free) else { return Ok(None) };
    file.at = end;
    let index = file.next()?.filter(|found| found.kind == Moov::KIND && found.end == file.len);
    let Some(index) = index else { return Ok(None) };
    file.at = index.body;
    let Some(mvhd) = file.read::<Mvhd>()? else { return Ok(None) };
    Ok(Some(timeline::duration(mvhd.duration, mvhd.timescale)))
}

/// The next fragment, if it is whole.
fn fragment<R: Read + Seek>(file: &mut Boxes<'_, R>) -> Result<Option<Fragment>, Damaged> {
    let begin = file.at;
    let Some(runs) = file.read::<Moof>()?.as_ref().and_then(fragment::runs) else { return Ok(None) };
    let Some(mdat) = file.next()?.filter(|found| found.kind == Mdat::KIND) else { return Ok(None) };
    let mut next = mdat.body - begin;
    let mut tracks = Vec::new();
    for run in &runs {
        let bytes: u64 = run.samples.iter().map(|sample| u64::from(sample.size)).sum();
        // as they are written: each track once, one after the other
        if run.offset != next || run.samples.is_empty() || tracks.contains(&run.track) {
            return Ok(None);
        }
        tracks.push(run.track);
        next += bytes;
    }
    Ok((begin + next == mdat.end).then_some(Fragment { runs, media: mdat.body..mdat.end }))
}

/// The boxes of a file, one after the other.
struct Boxes<'a, R> {
    file: &'a mut R,
    at: u64,
    len: u64,
}

/// A box that is there from begin to end.
struct Found {
    kind: FourCC,
    body: u64,
    end: u64,
}

impl<'a, R: Read + Seek> Boxes<'a, R> {
    fn new(file: &'a mut R) -> io::Result<Self> {
        let len = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, at: 0, len })
    }

    /// Passes over a box; `None` when there is none, or not all of it.
    fn next(&mut self) -> Result<Option<Found>, Damaged> {
        let Some(header) = self.bytes_at(self.at, BOX_HEADER)? else { return Ok(None) };
        let Some((size, kind)) = header.split_first_chunk::<4>() else { return Ok(None) };
        let Ok(kind) = <[u8; 4]>::try_from(kind) else { return Ok(None) };
        let size = u64::from(u32::from_be_bytes(*size));
        let found = Found { kind: kind.into(), body: self.at + BOX_HEADER, end: self.at + size };
        if size < BOX_HEADER || found.end > self.len {
            return Ok(None);
        }
        self.at = found.end;
        Ok(Some(found))
    }

    /// Reads the next box if it is one of these, and whole.
    fn read<A: mp4_atom::Atom>(&mut self) -> Result<Option<A>, Damaged> {
        let Some(found) = self.next()?.filter(|found| found.kind == A::KIND) else { return Ok(None) };
        let Some(body) = self.bytes_at(found.body, found.end - found.body)? else { return Ok(None) };
        Ok(A::decode_body(&mut &body[..]).ok())
    }

    /// Whether blocks of it were never written.
    fn has_hole(&mut self, media: Range<u64>) -> Result<bool, Damaged> {
        let (mut at, mut zeros) = (media.start, 0);
        while at < media.end {
            let count = (media.end - at).min(MAX_READ);
            let Some(bytes) = self.bytes_at(at, count)? else { return Ok(true) };
            for byte in bytes {
                zeros = if byte == 0 { zeros + 1 } else { 0 };
                if zeros >= HOLE {
                    return Ok(true);
                }
            }
            at += count;
        }
        Ok(zeros >= HOLE_AT_END)
    }

    /// Bytes of the file; `None` for more than there are, or than is ever read at once.
    fn bytes_at(&mut self, at: u64, count: u64) -> Result<Option<Vec<u8>>, Damaged> {
        if count > MAX_READ || at.checked_add(count).is_none_or(|end| end > self.len) {
            return Ok(None);
        }
        self.file.seek(SeekFrom::Start(at)).map_err(Damaged::Read)?;
        let mut bytes = vec![0; usize::try_from(count).unwrap_or_default()];
        match self.file.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(bytes)),
            // someone has cut it since
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(Damaged::Read(error)),
        }
    }
}
