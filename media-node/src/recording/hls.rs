//! A recording as a playlist and its segments: begun, grown by parts, ended; or ended after a crash. It blocks.
//!
//! Its segments are files of their own that are never written again once the next one is begun. The playlist is replaced when
//! a segment is complete, so a reader always finds one that is whole.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Cursor, ErrorKind, Seek, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use mux::{
    Init, Part,
    file::{self, Recovered},
};

use super::{
    folder::Place,
    growing::{Error, Whole, hold, sync_names},
    mp4,
};
use crate::storage::playlist::{self, Sent};

/// Seconds that no segment is longer than, whatever the node's policy: the playlist of what grows must not change it.
const LONGEST: u64 = 10;
/// Times that go on this much later do not go on: the muxer calls a silence of two seconds a gap, and rounds to frames.
const GAP: Duration = Duration::from_secs(1);
const BREAK: &str = "#EXT-X-DISCONTINUITY";

/// A recording that grows.
#[derive(Debug)]
pub(super) struct Growing {
    files: Files,
    open: Option<Segment>,
    listed: Listed,
    /// When the last part ends, on the clock of the output.
    end: Duration,
    bytes: u64,
    is_synced: bool,
    /// Held for as long as it grows.
    _head: File,
}

/// The segments that are complete.
#[derive(Debug, Default)]
struct Listed {
    complete: Vec<Complete>,
    /// The next one does not go on where the last one ends.
    breaks: bool,
}

#[derive(Clone, Copy, Debug)]
struct Complete {
    duration: Duration,
    /// It does not go on where the one before it ends.
    after_break: bool,
}

/// Where its files are.
#[derive(Debug)]
struct Files {
    folder: PathBuf,
    playlist: PathBuf,
    stem: String,
    /// What an MP4 file of these tracks begins with: so a segment can be read as one.
    head: PathBuf,
    /// Segments leave once they are listed: so what lists them has to survive a loss of power.
    sync_lists: bool,
}

#[derive(Debug)]
struct Segment {
    /// The muxer's number of it.
    number: u64,
    file: File,
    bytes: u64,
    duration: Duration,
}

/// Whether more segments follow.
#[derive(Clone, Copy, PartialEq)]
enum Ended {
    Yes,
    No,
}

impl Growing {
    pub(super) fn begin(place: &Place, init: &Init) -> io::Result<Self> {
        let files = Files::of(place);
        fs::create_dir(&files.folder)?;
        let (_, head) = file::Writer::new(init);
        let held = create(&files.head, &head)?;
        hold(&held)?;
        create(&files.segment(0), init.bytes())?;
        sync_names(&files.folder)?;
        files.playlist.parent().map_or(Ok(()), sync_names)?;
        let bytes = init.bytes().len() as u64;
        let (listed, end) = (Listed::default(), Duration::ZERO);
        Ok(Self { files, open: None, listed, end, bytes, is_synced: true, _head: held })
    }

    pub(super) fn append(&mut self, part: &Part) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|open| open.number != part.segment) {
            self.end_segment()?;
            self.listed.breaks = part.start.saturating_sub(self.end) > GAP;
            self.files.list(&self.listed, Ended::No)?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let path = self.files.segment(self.listed.complete.len() + 1);
                let file = OpenOptions::new().write(true).create_new(true).open(path)?;
                sync_names(&self.files.folder)?;
                self.open.insert(Segment { number: part.segment, file, bytes: 0, duration: Duration::ZERO })
            }
        };
        if let Err(error) = mp4::write_all(&mut open.file, &part.fragment) {
            open.file.set_len(open.bytes)?;
            open.file.seek(SeekFrom::Start(open.bytes))?;
            return Err(error);
        }
        open.bytes += part.fragment.len();
        open.duration += part.duration;
        self.end = part.start + part.duration;
        self.bytes += part.fragment.len();
        self.is_synced = false;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        if let Some(open) = &self.open {
            open.file.sync_data()?;
        }
        self.is_synced = true;
        Ok(())
    }

    pub(super) fn is_synced(&self) -> bool {
        self.is_synced
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Of segments that the playlist lists.
    pub(super) fn listed_bytes(&self) -> u64 {
        self.bytes - self.open.as_ref().map_or(0, |open| open.bytes)
    }

    pub(super) fn duration(&self) -> Duration {
        let open = self.open.as_ref().map_or(Duration::ZERO, |open| open.duration);
        self.listed.duration() + open
    }

    pub(super) fn finish(mut self) -> Result<Whole, Error> {
        self.end_segment()?;
        self.files.end(&self.listed)
    }

    fn end_segment(&mut self) -> io::Result<()> {
        if let Some(open) = &self.open {
            open.file.sync_all()?;
            self.listed.push(open.duration);
            self.open = None;
        }
        Ok(())
    }
}

/// Ends a recording that was cut off anywhere.
pub(super) fn recover(place: &Place) -> Result<Whole, Error> {
    let files = Files::of(place);
    let held = OpenOptions::new().read(true).write(true).open(&files.head)?;
    hold(&held)?;
    let mut listed = files.listed()?;
    let head = fs::read(&files.head)?;
    loop {
        let path = files.segment(listed.complete.len() + 1);
        let mut bytes = head.clone();
        match fs::read(&path) {
            Ok(segment) => bytes.extend(segment),
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return Err(error.into()),
        }
        let recovered = file::recover(&mut Cursor::new(&bytes)).map_err(|error| Error::Hopeless(error.to_string()))?;
        let Recovered::Unfinished { writer } = recovered else {
            return Err(Error::Hopeless(format!("{} is no segment of it", path.display())));
        };
        if writer.duration().is_zero() {
            fs::remove_file(&path)?;
            break;
        }
        let segment = OpenOptions::new().write(true).open(&path)?;
        segment.set_len(writer.len() - head.len() as u64)?;
        segment.sync_all()?;
        listed.push(writer.duration());
    }
    files.end(&listed)
}

/// How many segments a playlist lists.
pub(super) fn count(text: &str) -> usize {
    Listed::parse(text).complete.len()
}

/// Makes what came from a bucket a recording that was cut off here: its playlist, its init segment, and the segments that the
/// playlist does not list yet.
pub(super) fn adopt(place: &Place, text: &str, init: &Path) -> Result<(), Error> {
    let files = Files::of(place);
    let head =
        file::head(&fs::read(init)?).ok_or_else(|| Error::Hopeless("its init segment is not whole".to_owned()))?;
    fs::write(&files.head, &head)?;
    File::open(&files.head)?.sync_all()?;
    files.list(&Listed::parse(text), Ended::No)?;
    fs::remove_file(init)?;
    Ok(place.keep_fetched_segments()?)
}

impl Listed {
    fn parse(text: &str) -> Self {
        let mut listed = Self::default();
        for line in text.lines() {
            let seconds = line.strip_prefix("#EXTINF:").and_then(|line| line.trim_end_matches(',').parse().ok());
            if let Some(duration) = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
                listed.push(duration);
            }
            listed.breaks |= line == BREAK;
        }
        listed
    }

    fn push(&mut self, duration: Duration) {
        let after_break = std::mem::take(&mut self.breaks);
        self.complete.push(Complete { duration, after_break });
    }

    fn duration(&self) -> Duration {
        self.complete.iter().map(|segment| segment.duration).sum()
    }
}

impl Files {
    fn of(place: &Place) -> Self {
        let playlist = place.growing_playlist();
        Self {
            folder: place.media(),
            stem: place.stem().to_owned(),
            head: playlist.with_extension("head"),
            playlist,
            sync_lists: place.is_sent_in_pieces(),
        }
    }

    /// The init segment, for 0.
    fn segment(&self, number: usize) -> PathBuf {
        self.folder.join(playlist::name(number))
    }

    /// Ends the playlist, and makes sure that all is on the disk.
    fn end(&self, listed: &Listed) -> Result<Whole, Error> {
        if listed.complete.is_empty() {
            return Err(Error::empty());
        }
        sync_names(&self.folder)?;
        self.list(listed, Ended::Yes)?;
        File::open(&self.playlist)?.sync_all()?;
        let bytes = self.playlist.metadata()?.len() + self.bytes()?;
        Ok(Whole { duration: listed.duration(), bytes, checksum: None })
    }

    /// Size of all segments, be they here or in a bucket by now.
    fn bytes(&self) -> io::Result<u64> {
        let mut here = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let Some(number) = entry.file_name().to_str().and_then(playlist::number) else { continue };
            match entry.metadata() {
                Ok(found) => here.push((number, found.len())),
                Err(error) if error.kind() == ErrorKind::NotFound => {} // it leaves in this moment, and that is noted
                Err(error) => return Err(error),
            }
        }
        // in this order: it is noted before it leaves
        let sent = self.playlist.parent().map(Sent::noted).unwrap_or_default();
        let left: u64 = here.iter().filter(|(number, _)| *number >= sent.files).map(|(_, bytes)| bytes).sum();
        Ok(sent.bytes + left)
    }

    /// Replaces the playlist.
    fn list(&self, listed: &Listed, ended: Ended) -> io::Result<()> {
        let next = self.playlist.with_extension("next");
        let mut file = File::create(&next)?;
        file.write_all(self.text(listed, ended).as_bytes())?;
        if self.sync_lists {
            file.sync_data()?;
        }
        fs::rename(&next, &self.playlist)
    }

    fn text(&self, listed: &Listed, ended: Ended) -> String {
        let Listed { complete, breaks } = listed;
        let rounded =
            |segment: &Complete| u64::try_from((segment.duration.as_millis() + 500) / 1_000).unwrap_or(u64::MAX);
        let (kind, target) = match ended {
            Ended::Yes => ("VOD", complete.iter().map(rounded).max().unwrap_or(1).max(1)),
            Ended::No => ("EVENT", LONGEST),
        };
        let stem = &self.stem;
        let mut text = format!(
            "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:{target}\n#EXT-X-MEDIA-SEQUENCE:1\n\
             #EXT-X-PLAYLIST-TYPE:{kind}\n#EXT-X-MAP:URI=\"{stem}/{}\"\n",
            playlist::name(0)
        );
        for (number, Complete { duration, after_break }) in (1..).zip(complete) {
            if *after_break {
                let _written = writeln!(text, "{BREAK}"); // a String takes whatever is written
            }
            let seconds = duration.as_secs_f64();
            let _written = writeln!(text, "#EXTINF:{seconds:.6},\n{stem}/{}", playlist::name(number)); // as above
        }
        match ended {
            Ended::Yes => text.push_str("#EXT-X-ENDLIST\n"),
            // of the segment that has begun: whoever goes on with the playlist finds it here
            Ended::No if *breaks => text.extend([BREAK, "\n"]),
            Ended::No => {}
        }
        text
    }

    /// The segments that the playlist lists.
    fn listed(&self) -> io::Result<Listed> {
        match fs::read_to_string(&self.playlist) {
            Ok(text) => Ok(Listed::parse(&text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Listed::default()),
            Err(error) => Err(error),
        }
    }
}

fn create(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}
