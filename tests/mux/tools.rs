//! ffmpeg and ffprobe, which write clips and read what the muxer made.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use media_core::Packet;
use mux::{Event, Muxer, Policy, file};

/// Writes a file. Arguments are split at blanks.
pub(crate) fn ffmpeg(arguments: &[&str], output: &Path) -> Result<()> {
    let output = Command::new("ffmpeg")
        .args("-hide_banner -nostats -nostdin -y -loglevel error".split(' '))
        .args(arguments.iter().flat_map(|words| words.split_whitespace()))
        .arg(output)
        .stdin(Stdio::null())
        .output()
        .context("failed to run ffmpeg; run: tests/setup.sh")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ffmpeg failed: {errors}");
    Ok(())
}

/// Decodes all of a file, or playlist.
///
/// # Errors
/// When ffmpeg has anything to say.
pub(crate) fn decodes(file: &Path) -> Result<()> {
    let output = Command::new("ffmpeg")
        .args("-hide_banner -nostats -nostdin -loglevel warning".split(' '))
        .arg("-i")
        .arg(file)
        .args("-map 0 -f null -".split(' '))
        .stdin(Stdio::null())
        .output()
        .context("failed to run ffmpeg; run: tests/setup.sh")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && errors.is_empty(), "{} does not decode clean: {errors}", file.display());
    Ok(())
}

/// One stream by ffprobe.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stream {
    pub(crate) codec: String,
    pub(crate) packets: usize,
    /// Of what is shown or heard first, in seconds.
    pub(crate) start: f64,
    /// From then to the end of the last one, in seconds.
    pub(crate) length: f64,
}

/// The streams of a file, in order: video first.
pub(crate) fn probe(file: &Path) -> Result<Vec<Stream>> {
    let mut streams = Vec::new();
    for (selector, kind) in [("v", "video"), ("a", "audio")] {
        let entries = "stream=codec_name:packet=pts_time,duration_time";
        let text = ffprobe(file, selector, entries).with_context(|| format!("failed to look at {kind}"))?;
        let Some(codec) = text.lines().find_map(|line| line.strip_prefix("stream,")) else { continue };
        let times: Vec<(f64, f64)> = text
            .lines()
            .filter_map(|line| line.strip_prefix("packet,")?.split_once(','))
            .filter_map(|(time, lasts)| Some((time.parse().ok()?, lasts.trim_end_matches(',').parse().unwrap_or(0.0))))
            .collect();
        let start = times.iter().map(|(time, _)| *time).fold(f64::INFINITY, f64::min);
        let end = times.iter().map(|(time, lasts)| time + lasts).fold(0.0, f64::max);
        streams.push(Stream { codec: codec.to_owned(), packets: times.len(), start, length: end - start });
    }
    Ok(streams)
}

/// How many packets of video a file has.
pub(crate) fn frames(file: &Path) -> Result<usize> {
    let text = ffprobe(file, "v", "packet=flags")?;
    Ok(text.lines().count())
}

fn ffprobe(file: &Path, selector: &str, entries: &str) -> Result<String> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", selector, "-show_entries", entries, "-of", "csv"])
        .arg(file)
        .output()
        .context("failed to run ffprobe; run: tests/setup.sh")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && errors.is_empty(), "ffprobe says of {}: {errors}", file.display());
    Ok(String::from_utf8(output.stdout)?)
}

/// All events of a stream.
pub(crate) fn events(packets: &[Packet]) -> Vec<Event> {
    let (mut muxer, mut events) = (Muxer::new(Policy::default()), Vec::new());
    for packet in packets {
        muxer.push(packet, &mut events);
    }
    muxer.end(&mut events);
    events
}

/// A file as a recorder writes it, before it is finished.
pub(crate) struct Live {
    pub(crate) writer: file::Writer,
    pub(crate) bytes: Vec<u8>,
}

/// The recordings of a stream: a new one with each init.
pub(crate) fn record(events: &[Event]) -> Vec<Live> {
    let mut files: Vec<Live> = Vec::new();
    for event in events {
        match event {
            Event::Init(init) => {
                let (writer, head) = file::Writer::new(init);
                files.push(Live { writer, bytes: head.to_vec() });
            }
            Event::Part(part) => {
                let live = files.last_mut().expect("an init comes first");
                live.writer.append(&part.fragment);
                part.fragment.chunks().for_each(|chunk| live.bytes.extend_from_slice(chunk));
                assert_eq!(live.writer.len(), live.bytes.len() as u64);
            }
            Event::SegmentEnd(_) | Event::Discontinuity(_) | Event::Unsupported(_) => {}
        }
    }
    files
}

impl Live {
    /// Writes the file as it is.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        let path = folder.join(name);
        fs::write(&path, &self.bytes)?;
        Ok(path)
    }

    /// Finishes it as a recorder does.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        let Self { writer, mut bytes } = self;
        let end = writer.finish()?;
        bytes.extend_from_slice(&end.append);
        let at = usize::try_from(end.patch_at)?;
        bytes[at..at + end.patch.len()].copy_from_slice(&end.patch);
        assert_eq!(end.len, bytes.len() as u64);
        Ok(bytes)
    }
}
