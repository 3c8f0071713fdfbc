//! What is published: pictures of H264 from a clip, and silence.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rtmp::tag::{Part, VideoCodec, VideoTag};

const START_CODE: [u8; 4] = [0, 0, 0, 1];
/// A frame of Opus that says: silence.
const SILENCE: &[u8] = &[0xf8, 0xff, 0xfe];
pub(super) const SILENCE_LENGTH: Duration = Duration::from_millis(20);

/// A clip, which is repeated for as long as it is published.
#[derive(Clone, Debug)]
pub struct Clip {
    pub(super) pictures: Vec<Picture>,
    pub(super) length: Duration,
}

/// One picture, with a start code before each of its units.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub(super) at: Duration,
    pub(super) data: Bytes,
}

impl Clip {
    /// Reads the pictures of an FLV file; those of B-frames are not for WebRTC.
    ///
    /// # Errors
    /// When it cannot be read, or has no H264.
    pub fn flv(file: &Path) -> Result<Self> {
        let bytes = fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
        ensure!(bytes.starts_with(b"FLV"), "{} is no FLV file", file.display());
        let (mut pictures, mut parameters) = (Vec::new(), Vec::new());
        for message in rtmp::flv::messages(bytes.into()) {
            let (rtmp::Kind::Video, Ok(tag)) = (message.kind, VideoTag::parse(&message.payload)) else { continue };
            ensure!(tag.codec == Some(VideoCodec::Avc), "{} has pictures that are not H264", file.display());
            let data = message.payload.slice(tag.data_offset..);
            match tag.part {
                Part::SequenceHeader => parameters = sets(&data).context("a configuration of H264 is cut off")?,
                Part::Coded => {
                    let mut picture = if tag.keyframe { parameters.clone() } else { Vec::new() };
                    units(&data, 4, &mut picture);
                    let at = Duration::from_millis(message.timestamp_ms.into());
                    pictures.push(Picture { at, data: picture.into() });
                }
                _ => {}
            }
        }
        Self::new(pictures).with_context(|| format!("{} has no pictures", file.display()))
    }

    /// Takes a stream of H264 with start codes, each of whose pictures is shown so long.
    ///
    /// # Errors
    /// When there is no picture in it.
    pub fn annex_b(stream: &[u8], each: Duration) -> Result<Self> {
        let (mut pictures, mut open, mut has_slice) = (Vec::new(), Vec::new(), false);
        for unit in after_start_codes(stream) {
            let [header, first, ..] = unit else { continue };
            let is_slice = matches!(header & 0x1f, 1 | 5);
            // the first macroblock of a picture is number 0, which is written as a single bit
            if has_slice && (!is_slice || first & 0x80 != 0) {
                let at = each * u32::try_from(pictures.len())?;
                pictures.push(Picture { at, data: std::mem::take(&mut open).into() });
                has_slice = false;
            }
            has_slice |= is_slice;
            open.extend(START_CODE);
            open.extend(unit);
        }
        if has_slice {
            let at = each * u32::try_from(pictures.len())?;
            pictures.push(Picture { at, data: open.into() });
        }
        Self::new(pictures)
    }

    fn new(mut pictures: Vec<Picture>) -> Result<Self> {
        let first = pictures.first().context("no pictures")?.at;
        pictures.iter_mut().for_each(|picture| picture.at = picture.at.saturating_sub(first));
        let last = pictures.last().map_or(Duration::ZERO, |picture| picture.at);
        // the last one lasts as long as one of 25 in a second
        Ok(Self { pictures, length: last + Duration::from_millis(40) })
    }

    /// The sound of each 20 ms.
    pub(super) fn silence() -> Bytes {
        Bytes::from_static(SILENCE)
    }
}

/// The parameter sets of a configuration record, with start codes.
fn sets(record: &[u8]) -> Option<Vec<u8>> {
    let mut rest = record.get(5..)?;
    let mut sets = Vec::new();
    for mask in [0x1f, 0xff] {
        let (count, after) = rest.split_first()?;
        rest = after;
        for _ in 0..count & mask {
            let (length, after) = rest.split_first_chunk()?;
            let (set, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
            sets.extend(START_CODE);
            sets.extend(set);
            rest = after;
        }
    }
    Some(sets)
}

/// Units after lengths of so many bytes, as units after start codes.
fn units(mut data: &[u8], length: usize, out: &mut Vec<u8>) {
    while let Some((size, rest)) = data.split_at_checked(length) {
        let size = size.iter().fold(0_usize, |size, byte| size << 8 | usize::from(*byte));
        let Some((unit, rest)) = rest.split_at_checked(size) else { return };
        out.extend(START_CODE);
        out.extend(unit);
        data = rest;
    }
}

fn after_start_codes(stream: &[u8]) -> Vec<&[u8]> {
    let codes: Vec<_> =
        stream.windows(3).enumerate().filter(|(_, code)| *code == [0, 0, 1]).map(|(at, _)| at).collect();
    let ends = codes.iter().skip(1).copied().chain([stream.len()]);
    let unit = |(at, end): (&usize, usize)| stream.get(at + 3..end).unwrap_or_default();
    // a start code may have a fourth byte, before the other three
    codes.iter().zip(ends).map(unit).map(|unit| unit.strip_suffix(&[0]).unwrap_or(unit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_with_start_codes_is_cut_into_pictures() -> Result<()> {
        let key = [&[0, 0, 0, 1, 0x67, 1, 2][..], &[0, 0, 0, 1, 0x68, 3], &[0, 0, 1, 0x65, 0x88, 4]].concat();
        let second = [&[0, 0, 0, 1, 0x41, 0x9a, 5][..], &[0, 0, 1, 0x41, 0x1a, 6]].concat();
        let clip = Clip::annex_b(&[key, second].concat(), Duration::from_millis(40))?;
        let pictures: Vec<_> =
            clip.pictures.iter().map(|picture| (picture.at.as_millis(), picture.data.to_vec())).collect();
        let whole =
            |units: &[&[u8]]| units.iter().flat_map(|unit| [&START_CODE[..], unit].concat()).collect::<Vec<_>>();
        assert_eq!(
            pictures,
            [
                (0, whole(&[&[0x67, 1, 2], &[0x68, 3], &[0x65, 0x88, 4]])),
                (40, whole(&[&[0x41, 0x9a, 5], &[0x41, 0x1a, 6]]))
            ]
        );
        assert_eq!(clip.length, Duration::from_millis(80));
        Ok(())
    }
}
