//! An FLV file as the chunks of an endless RTMP stream.
//!
//! Every repetition is the same bytes: after the first headers all messages have deltas for timestamps. So any number of
//! publishers send from one buffer.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use rtmp::chunk::PLAYER_STREAM;

const AUDIO: u8 = 8;
const VIDEO: u8 = 9;
const DATA: u8 = 18;
const TAG_HEADER: usize = 11;
const BACK_POINTER: usize = 4;

/// The timestamp of the first frame, in milliseconds: what goes before it must have an earlier one.
pub(crate) const FIRST_TIMESTAMP: u32 = 1_000;

/// A clip that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Clip {
    /// Announces the size of all chunks that follow. Sent apart from them: nginx resets a connection on which larger chunks
    /// were announced before, when it reads more than one of the new size together with this.
    pub(crate) chunk_size: Vec<u8>,
    /// Metadata and codec headers: sent once.
    pub(crate) headers: Vec<u8>,
    /// The frames: sent again and again.
    pub(crate) body: Vec<u8>,
    pub(crate) frames: Vec<Frame>,
    /// After this time the body begins again.
    pub(crate) duration_millis: u32,
}

/// One message of the body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// When it is due after the begin of the body.
    pub(crate) millis: u32,
    /// Where it ends in the body.
    pub(crate) end: usize,
}

struct Tag<'a> {
    kind: u8,
    millis: u32,
    payload: &'a [u8],
}

impl Clip {
    pub(crate) fn read(path: &Path, chunk_size: usize) -> Result<Self> {
        let file = fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
        let tags = tags(&file).with_context(|| format!("{} is no FLV file", path.display()))?;
        let (headers, frames): (Vec<_>, Vec<_>) = tags.into_iter().partition(Tag::is_header);
        let frames: Vec<_> = frames.into_iter().filter(|tag| matches!(tag.kind, AUDIO | VIDEO)).collect();
        let first = frames.first().context("the clip has no frames")?.millis;
        let last = frames.last().map_or(first, |tag| tag.millis);
        // the last frame lasts as long as a frame of 25 in a second
        let duration_millis = last - first + 40;

        let mut sent_once = Vec::new();
        for tag in &headers {
            let wrap = ends(&frames, tag.kind).map_or(0, |(first, last)| first + duration_millis - last);
            ensure!(wrap <= FIRST_TIMESTAMP, "the clip's tracks do not end together");
            tag.write(&mut sent_once, Some(FIRST_TIMESTAMP - wrap), 0, chunk_size);
        }
        let (mut body, mut due) = (Vec::new(), Vec::new());
        for (index, tag) in frames.iter().enumerate() {
            let earlier = frames.iter().take(index).rev().find(|earlier| earlier.kind == tag.kind);
            let delta = match earlier {
                Some(earlier) => tag.millis - earlier.millis,
                None => ends(&frames, tag.kind).map_or(0, |(first, last)| first + duration_millis - last),
            };
            tag.write(&mut body, None, delta, chunk_size);
            due.push(Frame { millis: tag.millis - first, end: body.len() });
        }
        Ok(Self { chunk_size: set_chunk_size(chunk_size)?, headers: sent_once, body, frames: due, duration_millis })
    }
}

/// The times of the first and the last frame of a kind.
fn ends(frames: &[Tag<'_>], kind: u8) -> Option<(u32, u32)> {
    let mut times = frames.iter().filter(|tag| tag.kind == kind).map(|tag| tag.millis);
    let first = times.next()?;
    Some((first, times.next_back().unwrap_or(first)))
}

fn tags(file: &[u8]) -> Result<Vec<Tag<'_>>> {
    ensure!(file.starts_with(b"FLV"), "it does not begin with FLV");
    let mut rest = file.get(9 + BACK_POINTER..).context("it ends in its header")?;
    let mut tags = Vec::new();
    while let Some(&[kind, a, b, c, low2, low1, low0, high, _, _, _]) = rest.first_chunk::<TAG_HEADER>() {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let payload = rest.get(TAG_HEADER..TAG_HEADER + length).context("it ends in a tag")?;
        tags.push(Tag { kind, millis: u32::from_be_bytes([high, low2, low1, low0]), payload });
        rest = rest.get(TAG_HEADER + length + BACK_POINTER..).unwrap_or_default();
    }
    Ok(tags)
}

impl Tag<'_> {
    /// Whether it goes before the frames: metadata, or a codec's configuration. An end of sequence counts as one, too.
    fn is_header(&self) -> bool {
        match (self.kind, self.payload) {
            (DATA, _) => true,
            (VIDEO, [_, packet, ..]) => *packet != 1,
            (AUDIO, [_, packet, ..]) => *packet == 0,
            _ => false,
        }
    }

    /// Appends the message in chunks: with a full header when it has a timestamp, else with a delta.
    fn write(&self, output: &mut Vec<u8>, timestamp: Option<u32>, delta: u32, chunk_size: usize) {
        // an encoder's metadata is a command to the server
        let prefix: &[u8] = if self.kind == DATA { b"\x02\x00\x0d@setDataFrame" } else { b"" };
        let payload = [prefix, self.payload].concat();
        if self.kind == VIDEO && self.payload.get(1) == Some(&2) {
            return;
        }
        let chunk_stream = match self.kind {
            AUDIO => 4,
            VIDEO => 6,
            _ => 5,
        };
        output.push(if timestamp.is_some() { chunk_stream } else { 0x40 | chunk_stream });
        output.extend(&timestamp.unwrap_or(delta).to_be_bytes()[1..]);
        output.extend(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes()[1..]);
        output.push(self.kind);
        if timestamp.is_some() {
            output.extend(PLAYER_STREAM.to_le_bytes());
        }
        for (index, chunk) in payload.chunks(chunk_size).enumerate() {
            if index > 0 {
                output.push(0xC0 | chunk_stream);
            }
            output.extend(chunk);
        }
    }
}

fn set_chunk_size(size: usize) -> Result<Vec<u8>> {
    ensure!((128..=65_536).contains(&size), "--chunk-size must be from 128 to 65536");
    let mut message = vec![2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0];
    message.extend(u32::try_from(size)?.to_be_bytes());
    Ok(message)
}
