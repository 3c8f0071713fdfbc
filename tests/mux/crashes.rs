//! Files that were cut off anywhere are finished with all that was whole.

use std::{fs, io::Cursor, time::Duration};

use anyhow::{Context as _, Result};
use mux::file::{Damaged, Recovered, recover};
use tests::repository;

use crate::{
    clips::{self, AAC, H264, TONE, VIDEO},
    tools::{self, Live},
};

const CUTS: usize = 200;
/// Of those, which a player counts and decodes to the end; the others are read again here.
const PLAYED: usize = 40;
/// What a file system writes at once.
const BLOCK: usize = 4_096;

#[test]
fn a_file_that_is_cut_off_anywhere_is_finished() -> Result<()> {
    let folder = repository::folder("mux-cuts")?;
    let clip = clips::flv(folder.path(), &[VIDEO, TONE, H264, AAC])?;
    let live = tools::record(&tools::events(&clip.packets)).remove(0);
    let head = head(&live.bytes);
    let fragments = fragments(&live.bytes, head);
    let path = folder.path().join("cut.mp4");
    for (number, cut) in spread(head, live.bytes.len()).enumerate() {
        let kept = fragments.iter().rev().find(|end| **end <= cut).copied().unwrap_or(head);

        let bytes = recovered(&live.bytes[..cut])?;

        assert_eq!(bytes[head..kept], live.bytes[head..kept], "cut at {cut}");
        let whole = recover(&mut Cursor::new(&bytes))?;
        assert!(matches!(whole, Recovered::Finished { .. }), "cut at {cut}: {whole:?}");
        if kept > head && number.is_multiple_of(CUTS / PLAYED) {
            fs::write(&path, &bytes)?;
            let frames = tools::frames(&path)?;
            let expected = 125 * (kept - head) / (live.bytes.len() - head);
            assert!(frames.abs_diff(expected) < 25, "cut at {cut}: {frames} frames");
            tools::decodes(&path)?;
        }
    }
    Ok(())
}

#[test]
fn a_file_whose_head_is_cut_off_is_told_apart() -> Result<()> {
    let folder = repository::folder("mux-heads")?;
    let clip = clips::flv(folder.path(), &[VIDEO, H264])?;
    let live = tools::record(&tools::events(&clip.packets)).remove(0);

    for cut in 0..head(&live.bytes) {
        let recovered = recover(&mut Cursor::new(&live.bytes[..cut]));
        assert!(matches!(recovered, Err(Damaged::Head)), "cut at {cut}: {recovered:?}");
    }
    Ok(())
}

#[test]
fn a_crash_while_a_file_is_finished_changes_nothing() -> Result<()> {
    let folder = repository::folder("mux-finish")?;
    let clip = clips::flv(folder.path(), &[VIDEO, TONE, H264, AAC])?;
    let live = tools::record(&tools::events(&clip.packets)).remove(0);
    let (len, before) = (live.bytes.len(), live.bytes.clone());
    let finished = live.finish()?;
    let patch = 28..44;
    assert_ne!(before[patch.clone()], finished[patch.clone()], "here is the patch");

    for cut in (len..finished.len()).step_by(97) {
        let mut cut_off = finished[..cut].to_vec();
        cut_off[patch.clone()].copy_from_slice(&before[patch.clone()]);
        assert!(recovered(&cut_off)? == finished, "the index is cut off at {cut}");
    }
    for torn in 0..patch.len() {
        let mut cut_off = finished.clone();
        cut_off[patch.start + torn..patch.end].copy_from_slice(&before[patch.start + torn..patch.end]);
        let is_torn = cut_off != finished;
        match recover(&mut Cursor::new(&cut_off))? {
            Recovered::Finished { .. } => assert!(!is_torn, "{torn} bytes of the patch were written"),
            Recovered::Unfinished { writer } => assert_eq!(writer.len(), len as u64),
        }
    }
    let Recovered::Finished { duration } = recover(&mut Cursor::new(&finished))? else { panic!("it was finished") };
    assert!(duration.abs_diff(Duration::from_secs(5)) < Duration::from_millis(200), "{duration:?}");
    Ok(())
}

/// What a block that was not synced holds after a loss of power.
#[derive(Clone, Copy, Debug)]
enum Torn {
    /// What was written, or zeros.
    Zeros,
    /// Anything at all, as on a file system that promises nothing.
    Garbage,
}

#[test]
fn what_was_synced_is_kept_whatever_a_loss_of_power_makes_of_the_rest() -> Result<()> {
    let folder = repository::folder("mux-power")?;
    let clip = clips::flv(folder.path(), &["-f lavfi -i testsrc2=size=640x360:rate=25", TONE, H264, AAC])?;
    let live = tools::record(&tools::events(&clip.packets)).remove(0);
    let head = head(&live.bytes);
    let ends = fragments(&live.bytes, head);
    let path = folder.path().join("torn.mp4");
    let mut random = Random::default();
    for number in 0..CUTS {
        let torn = if number.is_multiple_of(2) { Torn::Zeros } else { Torn::Garbage };
        // a second is unsynced at most: three or four parts
        let synced = random.below(ends.len() - 4);
        let (kept, written) = (ends[synced], ends[synced + 4]);
        let cut = kept + random.below(written - kept);
        let left = after_power_was_lost(&live.bytes[..cut], kept, torn, &mut random);

        let bytes = recovered(&left)?;

        assert_eq!(bytes[head..kept], live.bytes[head..kept], "{torn:?} after {kept}, cut at {cut}");
        let whole = recover(&mut Cursor::new(&bytes))?;
        assert!(matches!(whole, Recovered::Finished { .. }), "{torn:?} after {kept}, cut at {cut}: {whole:?}");
        if number.is_multiple_of(CUTS / PLAYED) && matches!(torn, Torn::Zeros) {
            fs::write(&path, &bytes)?;
            let frames = tools::frames(&path)?;
            assert!(frames + 8 >= 125 * synced / ends.len(), "{torn:?} after {kept}, cut at {cut}: {frames} frames");
            tools::decodes(&path).with_context(|| format!("{torn:?} after {kept}, cut at {cut}"))?;
        }
    }
    Ok(())
}

/// What a disk has of a file of which so much was synced.
fn after_power_was_lost(written: &[u8], synced: usize, torn: Torn, random: &mut Random) -> Vec<u8> {
    let mut left = written.to_vec();
    for block in (synced / BLOCK..).map(|block| block * BLOCK).take_while(|block| *block < written.len()) {
        let lost = block.max(synced)..(block + BLOCK).min(written.len());
        if random.below(2) == 0 {
            continue;
        }
        match torn {
            Torn::Zeros => left[lost].fill(0),
            Torn::Garbage => left[lost].fill_with(|| u8::try_from(random.below(256)).unwrap_or(0)),
        }
    }
    left
}

/// Recovers what is left of a file, as a recorder does, and finishes it.
fn recovered(left: &[u8]) -> Result<Vec<u8>> {
    let Recovered::Unfinished { writer } = recover(&mut Cursor::new(left))? else { panic!("it was never finished") };
    let bytes = left[..usize::try_from(writer.len())?].to_vec();
    Live { writer: *writer, bytes }.finish()
}

/// Where the first fragment begins.
fn head(file: &[u8]) -> usize {
    file.windows(4).position(|bytes| bytes == b"moof").unwrap() - 4
}

/// Where each fragment ends.
fn fragments(file: &[u8], mut at: usize) -> Vec<usize> {
    let mut ends = Vec::new();
    while let Some(size) = file.get(at..at + 4) {
        let kind = &file[at + 4..at + 8];
        at += u32::from_be_bytes(size.try_into().unwrap()) as usize;
        if kind == b"mdat" {
            ends.push(at);
        }
    }
    ends
}

/// Places all over a file.
fn spread(from: usize, to: usize) -> impl Iterator<Item = usize> {
    let mut random = Random::default();
    (0..CUTS).map(move |_| from + random.below(to - from))
}

/// The same numbers in each run.
struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }
}

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}
