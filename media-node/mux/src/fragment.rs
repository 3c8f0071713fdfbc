//! A part as it is written: a header, and the payloads as they came.

use bytes::Bytes;
use mp4_atom::{Mfhd, Moof, Tfdt, Tfhd, Traf, Trun, TrunEntry};

use crate::init::encode;

/// ISO/IEC 14496-12 §8.8.3.1: others depend on it, it depends on none.
const KEY: u32 = 0x0200_0000;
/// It depends on others, and is no place to start.
const DEPENDENT: u32 = 0x0101_0000;
const MDAT_HEADER: usize = 8;

/// A `moof` and its `mdat`: one header made here, and the packets' payloads, which are shared and not copied.
#[derive(Debug)]
pub struct Fragment {
    header: Bytes,
    payloads: Vec<Bytes>,
    runs: Vec<Run>,
    len: u64,
}

/// The samples of one track in a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) track: u32,
    /// Of the first sample, in ticks of the track.
    pub(crate) decode_time: u64,
    /// Of the first sample's bytes, from the begin of the fragment.
    pub(crate) offset: u64,
    pub(crate) samples: Vec<Entry>,
}

/// What a table says of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) duration: u32,
    pub(crate) size: u32,
    pub(crate) composition: i32,
    pub(crate) key: bool,
}

impl Fragment {
    /// Makes a fragment of runs, whose `offset` it sets, and the payloads of their samples in the same order.
    pub(crate) fn new(sequence: u32, mut runs: Vec<Run>, payloads: Vec<Bytes>) -> Self {
        let mut moof = encode(&moof(sequence, &runs)).len();
        moof += MDAT_HEADER;
        let mut offset = u64::try_from(moof).expect("a length fits");
        for run in &mut runs {
            run.offset = offset;
            offset += run.bytes();
        }
        let mut header = encode(&self::moof(sequence, &runs));
        let mdat = offset - u64::try_from(header.len()).expect("a length fits");
        header.extend(u32::try_from(mdat).expect("a part is bounded far below").to_be_bytes());
        header.extend(b"mdat");
        Self { header: header.into(), payloads, runs, len: offset }
    }

    /// Length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it has a header at least")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The bytes in order, for a vectored write.
    pub fn chunks(&self) -> impl Iterator<Item = &Bytes> + Clone {
        std::iter::once(&self.header).chain(&self.payloads)
    }

    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }
}

impl Run {
    fn bytes(&self) -> u64 {
        self.samples.iter().map(|sample| u64::from(sample.size)).sum()
    }
}

fn moof(sequence: u32, runs: &[Run]) -> Moof {
    Moof { mfhd: Mfhd { sequence_number: sequence }, traf: runs.iter().map(traf).collect() }
}

fn traf(run: &Run) -> Traf {
    let composes = run.samples.iter().any(|sample| sample.composition != 0);
    let all_key = run.samples.iter().all(|sample| sample.key);
    let entry = |sample: &Entry| TrunEntry {
        duration: Some(sample.duration),
        size: Some(sample.size),
        flags: (!all_key).then_some(if sample.key { KEY } else { DEPENDENT }),
        cts: composes.then_some(sample.composition.into()),
    };
    Traf {
        tfhd: Tfhd {
            track_id: run.track,
            default_sample_flags: all_key.then_some(KEY),
            default_base_is_moof: true,
            ..Tfhd::default()
        },
        tfdt: Some(Tfdt { base_media_decode_time: run.decode_time }),
        trun: vec![Trun {
            data_offset: Some(i32::try_from(run.offset).expect("a part is bounded far below")),
            samples: run.samples.iter().map(entry).collect::<Vec<_>>().into(),
        }],
        ..Traf::default()
    }
}

/// Reads the runs of a `moof` as this crate writes it. `None` for one that says something else.
pub(crate) fn runs(moof: &Moof) -> Option<Vec<Run>> {
    moof.traf.iter().map(read_run).collect()
}

fn read_run(traf: &Traf) -> Option<Run> {
    let [trun] = &traf.trun[..] else { return None };
    let flags = traf.tfhd.default_sample_flags;
    let entry = |sample: TrunEntry| {
        Some(Entry {
            duration: sample.duration?,
            size: sample.size?,
            composition: i32::try_from(sample.cts.unwrap_or(0)).ok()?,
            key: sample.flags.or(flags)? == KEY,
        })
    };
    // a run that only counts its samples has none of these fields, and is not ours
    let mp4_atom::TrunSamples::Explicit(samples) = &trun.samples else { return None };
    Some(Run {
        track: traf.tfhd.track_id,
        decode_time: traf.tfdt.as_ref()?.base_media_decode_time,
        offset: trun.data_offset?.try_into().ok()?,
        samples: samples.iter().copied().map(entry).collect::<Option<_>>()?,
    })
}
