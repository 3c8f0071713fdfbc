//! ffmpeg and ffprobe, which write clips and read what the muxer made.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use media_core::Packet;
use mux::{Event, Muxer, Policy, file};
pub(crate) use tests::{
    media::write as ffmpeg,
    probe::{Stream, decodes, frames, probe},
};

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
