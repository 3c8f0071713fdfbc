//! Files that were cut off anywhere are finished with all that was whole.

use std::{fs, io::Cursor, time::Duration};

use anyhow::Result;
use mux::file::{Damaged, Recovered, recover};
use tests::repository;

use crate::{
    clips::{self, AAC, H264, TONE, VIDEO},
    tools::{self, Live},
};

const CUTS: usize = 200;
/// Of those, which a player counts and decodes to the end; the others are read again here.
const PLAYED: usize = 40;

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

/// Places all over a file, the same in each run.
fn spread(from: usize, to: usize) -> impl Iterator<Item = usize> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    (0..CUTS).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        from + usize::try_from(state >> 33).unwrap() % (to - from)
    })
}
