//! Where each sample of a track lies and how long it lasts, in a few bytes a sample, and the tables made of it.

use mp4_atom::{
    Co64, Ctts, CttsEntry, Edts, Elst, ElstEntry, Moov, Stbl, Stsc, StscEntry, Stss, Stsz, StszSamples, Stts,
    SttsEntry, Trak,
};

use crate::{
    fragment::{Entry, Run},
    init::MOVIE_TIMESCALE,
};

/// One track's samples. In `log` a sample is its size, then what has changed of its duration and composition since the
/// sample before, as numbers of one byte where they are small; a chunk is the distance from the one before and its samples.
#[derive(Debug, Default)]
pub(super) struct Index {
    log: Vec<u8>,
    chunks: Vec<u8>,
    last_chunk: u64,
    /// Numbers of the keyframes, from 1; `None` while every sample is one, as in sound.
    keys: Option<Vec<u32>>,
    /// Written to the log; one more is in `open`.
    logged: u32,
    previous: Previous,
    /// The newest sample: how long it lasts is known when the next run comes, which may leave a gap.
    open: Option<Entry>,
    first: u64,
    /// When the newest sample begins and ends.
    newest: u64,
    end: u64,
    /// Least presentation time of a sample, relative to `first`.
    earliest: Option<i64>,
}

/// Bytes that a log grows by at least.
const LEAST_ROOM: usize = 1_024;

#[derive(Clone, Copy, Debug, Default)]
struct Previous {
    duration: u32,
    composition: i32,
}

impl Index {
    /// Adds a run whose first sample is at `at` in the file.
    pub(super) fn push(&mut self, at: u64, run: &Run) {
        if run.samples.is_empty() {
            return;
        }
        if self.open.is_none() {
            self.first = run.decode_time;
        }
        let mut decode_time = run.decode_time;
        for sample in &run.samples {
            self.log_open(decode_time);
            let shown = i128::from(decode_time.saturating_sub(self.first)) + i128::from(sample.composition);
            let shown = i64::try_from(shown).unwrap_or(i64::MAX);
            self.earliest = Some(self.earliest.map_or(shown, |earliest| earliest.min(shown)));
            self.note_key(sample.key);
            self.open = Some(*sample);
            self.newest = decode_time;
            decode_time = decode_time.saturating_add(sample.duration.into());
        }
        self.end = decode_time;
        put(&mut self.chunks, at - self.last_chunk);
        put(&mut self.chunks, run.samples.len() as u64);
        self.last_chunk = at;
    }

    /// Whether a run may begin then: time never runs back in a file.
    pub(super) fn goes_on(&self, decode_time: u64) -> bool {
        self.open.is_none() || (self.newest..=self.newest.saturating_add(u32::MAX.into())).contains(&decode_time)
    }

    /// In ticks of the track, from the first sample's begin to the last one's end.
    pub(super) fn length(&self) -> u64 {
        self.end.saturating_sub(self.first)
    }

    pub(super) fn bytes(&self) -> usize {
        self.log.capacity() + self.chunks.capacity() + self.keys.as_ref().map_or(0, Vec::capacity) * size_of::<u32>()
    }

    /// Notes whether the next sample is a keyframe.
    fn note_key(&mut self, key: bool) {
        let number = self.logged.saturating_add(1);
        match &mut self.keys {
            Some(keys) if key => keys.push(number),
            None if !key => self.keys = Some((1..number).collect()),
            Some(_) | None => {}
        }
    }

    /// Writes the newest sample to the log; the next begins then.
    fn log_open(&mut self, next: u64) {
        let Some(open) = self.open.take() else { return };
        let entry = Entry { duration: u32::try_from(next.saturating_sub(self.newest)).unwrap_or(u32::MAX), ..open };
        self.previous.put(&mut self.log, &entry);
        self.logged = self.logged.saturating_add(1);
    }

    fn samples(&self) -> impl Iterator<Item = Entry> {
        let mut previous = Previous::default();
        let mut log = &self.log[..];
        std::iter::from_fn(move || previous.take(&mut log)).chain(self.open)
    }

    fn chunks(&self) -> impl Iterator<Item = (u64, u32)> {
        let (mut log, mut at) = (&self.chunks[..], 0);
        std::iter::from_fn(move || {
            at += take(&mut log)?;
            let samples = take(&mut log)?;
            Some((at, u32::try_from(samples).unwrap_or(u32::MAX)))
        })
    }
}

impl Previous {
    fn put(&mut self, log: &mut Vec<u8>, entry: &Entry) {
        put(log, entry.size.into());
        put_signed(log, i64::from(entry.duration) - i64::from(self.duration));
        put_signed(log, i64::from(entry.composition) - i64::from(self.composition));
        *self = Self { duration: entry.duration, composition: entry.composition };
    }

    fn take(&mut self, log: &mut &[u8]) -> Option<Entry> {
        let size = u32::try_from(take(log)?).ok()?;
        let duration = u32::try_from(i64::from(self.duration) + take_signed(log)?).ok()?;
        let composition = i32::try_from(i64::from(self.composition) + take_signed(log)?).ok()?;
        *self = Self { duration, composition };
        Some(Entry { duration, size, composition, key: false })
    }
}

/// Seven bits a byte, least first; the top bit says that more follow.
fn put(log: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        push(log, value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    push(log, value.to_le_bytes()[0]);
}

/// Makes room by an eighth, where a vector would double.
fn push(log: &mut Vec<u8>, byte: u8) {
    if log.len() == log.capacity() {
        log.reserve_exact(LEAST_ROOM.max(log.len() / 8));
    }
    log.push(byte);
}

fn take(log: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = log.split_first()?;
        *log = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_signed(log: &mut Vec<u8>, value: i64) {
    put(log, (value << 1 ^ value >> 63).cast_unsigned());
}

fn take_signed(log: &mut &[u8]) -> Option<i64> {
    let value = take(log)?;
    Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
}

/// The `moov` of a finished file: that of the live one with full tables. Tracks without a sample are left out.
pub(super) fn moov(live: &Moov, indexes: &[&Index]) -> Moov {
    let mut moov = Moov { mvex: None, ..live.clone() };
    moov.trak = placed(live, indexes).iter().map(Placed::full).collect();
    moov.mvhd.duration = duration(live, indexes);
    moov
}

/// How long the movie is, in its ticks.
pub(super) fn duration(live: &Moov, indexes: &[&Index]) -> u64 {
    placed(live, indexes).iter().map(Placed::end).max().unwrap_or(0)
}

/// Where a track lies in the movie, in its ticks.
struct Placed<'a> {
    trak: &'a Trak,
    index: &'a Index,
    begin: u64,
    length: u64,
}

/// The tracks, moved so that what is shown first is shown at zero.
fn placed<'a>(live: &'a Moov, indexes: &[&'a Index]) -> Vec<Placed<'a>> {
    let tracks = live.trak.iter().zip(indexes).filter(|(_, index)| index.open.is_some());
    let begins: Vec<_> = tracks
        .map(|(trak, index)| {
            let shown = i128::from(index.first) + i128::from(index.earliest.unwrap_or(0));
            (trak, *index, scaled(shown, trak.mdia.mdhd.timescale))
        })
        .collect();
    let zero = begins.iter().map(|(_, _, begin)| *begin).min().unwrap_or(0);
    let place = |(trak, index, begin): (&'a Trak, &'a Index, i128)| {
        let length = scaled(index.length().into(), trak.mdia.mdhd.timescale);
        let ticks = |ticks: i128| u64::try_from(ticks).unwrap_or(u64::MAX);
        Placed { trak, index, begin: ticks(begin - zero), length: ticks(length) }
    };
    begins.into_iter().map(place).collect()
}

impl Placed<'_> {
    fn end(&self) -> u64 {
        self.begin.saturating_add(self.length)
    }

    fn full(&self) -> Trak {
        let Self { index, begin, length, .. } = *self;
        let mut trak = self.trak.clone();
        let earliest = index.earliest.unwrap_or(0);
        // an edit list cannot say that something is shown before it is decoded, so all are shown later
        let later = (-earliest).max(0);
        let media_time = u64::try_from(earliest + later).unwrap_or(0);
        let empty = ElstEntry { segment_duration: begin, media_time: None, media_rate: 1.into() };
        let media = ElstEntry { segment_duration: length, media_time: Some(media_time), media_rate: 1.into() };
        let entries = if begin > 0 { vec![empty, media] } else { vec![media] };
        trak.edts = Some(Edts { elst: Some(Elst { entries }) });
        trak.tkhd.duration = self.end();
        trak.mdia.mdhd.duration = index.length();
        let stsd = std::mem::take(&mut trak.mdia.minf.stbl.stsd);
        trak.mdia.minf.stbl = tables(stsd, index, later);
        trak
    }
}

fn tables(stsd: mp4_atom::Stsd, index: &Index, later: i64) -> Stbl {
    let (mut stts, mut ctts, mut sizes) = (Vec::<SttsEntry>::new(), Vec::<CttsEntry>::new(), Vec::new());
    for sample in index.samples() {
        match stts.last_mut().filter(|last| last.sample_delta == sample.duration) {
            Some(last) => last.sample_count += 1,
            None => stts.push(SttsEntry { sample_count: 1, sample_delta: sample.duration }),
        }
        let offset = i64::from(sample.composition) + later;
        match ctts.last_mut().filter(|last| last.sample_offset == offset) {
            Some(last) => last.sample_count += 1,
            None => ctts.push(CttsEntry { sample_count: 1, sample_offset: offset }),
        }
        sizes.push(sample.size);
    }
    let has_offsets = ctts.iter().any(|entry| entry.sample_offset != 0);
    let (mut stsc, mut offsets) = (Vec::<StscEntry>::new(), Vec::new());
    for (number, (at, samples)) in (1..).zip(index.chunks()) {
        if stsc.last().is_none_or(|last| last.samples_per_chunk != samples) {
            stsc.push(StscEntry { first_chunk: number, samples_per_chunk: samples, sample_description_index: 1 });
        }
        offsets.push(at);
    }
    Stbl {
        stsd,
        stts: Stts { entries: stts },
        ctts: has_offsets.then_some(Ctts { entries: ctts }),
        stss: index.keys.clone().map(|entries| Stss { entries }),
        stsc: Stsc { entries: stsc },
        stsz: Stsz { samples: StszSamples::Different { sizes } },
        co64: Some(Co64 { entries: offsets }),
        ..Stbl::default()
    }
}

/// Ticks of a track in the movie's.
fn scaled(ticks: i128, timescale: u32) -> i128 {
    ticks * i128::from(MOVIE_TIMESCALE) / i128::from(timescale.max(1))
}
