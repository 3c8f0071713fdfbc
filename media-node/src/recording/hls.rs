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

const INIT: &str = "init.mp4";
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
        create(&files.folder.join(INIT), init.bytes())?;
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

impl Listed {
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
        Self { folder: place.media(), stem: place.stem().to_owned(), head: playlist.with_extension("head"), playlist }
    }

    fn segment(&self, number: usize) -> PathBuf {
        self.folder.join(format!("segment-{number}.m4s"))
    }

    /// Ends the playlist, and makes sure that all is on the disk.
    fn end(&self, listed: &Listed) -> Result<Whole, Error> {
        if listed.complete.is_empty() {
            return Err(Error::empty());
        }
        sync_names(&self.folder)?;
        self.list(listed, Ended::Yes)?;
        File::open(&self.playlist)?.sync_all()?;
        let mut bytes = self.playlist.metadata()?.len();
        for entry in fs::read_dir(&self.folder)? {
            bytes += entry?.metadata()?.len();
        }
        Ok(Whole { duration: listed.duration(), bytes, checksum: None })
    }

    /// Replaces the playlist.
    fn list(&self, listed: &Listed, ended: Ended) -> io::Result<()> {
        let next = self.playlist.with_extension("next");
        fs::write(&next, self.text(listed, ended))?;
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
             #EXT-X-PLAYLIST-TYPE:{kind}\n#EXT-X-MAP:URI=\"{stem}/{INIT}\"\n"
        );
        for (number, Complete { duration, after_break }) in (1..).zip(complete) {
            if *after_break {
                let _written = writeln!(text, "{BREAK}"); // a String takes whatever is written
            }
            let seconds = duration.as_secs_f64();
            let _written = writeln!(text, "#EXTINF:{seconds:.6},\n{stem}/segment-{number}.m4s"); // as above
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
        let text = match fs::read_to_string(&self.playlist) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Listed::default()),
            Err(error) => return Err(error),
        };
        let mut listed = Listed::default();
        for line in text.lines() {
            let seconds = line.strip_prefix("#EXTINF:").and_then(|line| line.trim_end_matches(',').parse().ok());
            if let Some(duration) = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
                listed.push(duration);
            }
            listed.breaks |= line == BREAK;
        }
        Ok(listed)
    }
}

fn create(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}
