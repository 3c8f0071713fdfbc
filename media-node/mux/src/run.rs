//! One output, from its init on: gives samples their times and cuts them into parts and segments.
//!
//! Video decides where to cut, or audio where there is no video. Each track holds its newest sample back: how long it
//! lasts is known when the next one comes.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    Discontinuity, Event, Fragment, Init, Part, Policy, Segment,
    codec::Format,
    fragment::{self, Entry},
    muxer::Tracks,
    sample::{Media, Sample},
    timeline::{self, Place, Timeline},
};

/// Ticks a second of the times at which is cut.
const TIMESCALE: u32 = 90_000;
const TICKS_PER_MILLI: i64 = 90;
/// Longer silence than this is a discontinuity, not one long frame: parts and segments could not keep their lengths.
const MAX_SILENCE_MILLIS: i64 = 2_000;
/// From here on audio decides where to cut, though there is video: it pauses, as when an encoder has no room on the line.
const MAX_VIDEO_PAUSE: u64 = TIMESCALE as u64;
/// Audio is counted in samples, and set to the publisher's clock when it is this far from it.
const MAX_DRIFT_MILLIS: i64 = 50;
/// A keyframe this much too early ends a segment all the same: times are rounded to milliseconds.
const EARLY: u64 = MAX_VIDEO_PAUSE / 20;
/// Bounds for a publisher whose times do not go on. A part or segment that reaches one ends at once.
const MAX_PART_BYTES: usize = 16 << 20;
const MAX_PART_SAMPLES: usize = 4_096;
const MAX_SEGMENT_BYTES: u64 = 64 << 20;
const MAX_SEGMENT_PARTS: u32 = 256;

/// What goes on from one output to the next.
#[derive(Debug)]
pub(crate) struct Numbers {
    segment: u64,
    fragment: u32,
}

impl Numbers {
    /// Segments count from `first`.
    pub(crate) fn from(first: u32) -> Self {
        Self { segment: first.into(), fragment: 0 }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Run {
    policy: Policy,
    timeline: Timeline,
    video: Option<Track>,
    audio: Option<Track>,
    segment: Open,
    /// When the open part begins.
    part: u64,
}

/// The open segment.
#[derive(Clone, Copy, Debug)]
struct Open {
    start: u64,
    /// It has begun with a keyframe, or needs none.
    independent: bool,
    parts: u32,
    bytes: u64,
    frames: u32,
}

impl Open {
    fn at(start: u64, independent: bool) -> Self {
        Self { start, independent, parts: 0, bytes: 0, frames: 0 }
    }
}

#[derive(Debug)]
struct Track {
    id: u32,
    timescale: u32,
    /// The newest sample.
    held: Option<Timed>,
    ready: VecDeque<Timed>,
    bytes: usize,
    /// How long the last sample was: an estimate for the newest.
    usual: u32,
    /// The next sample is decoded no earlier, in ticks of the track.
    least: u64,
}

#[derive(Debug)]
struct Timed {
    /// In ticks of the track.
    decode_time: u64,
    entry: Entry,
    payload: Bytes,
}

impl Run {
    pub(crate) fn new(policy: Policy, init: &Init, origin: i64) -> Self {
        let track = |wanted: Media| {
            init.tracks().iter().find_map(|track| {
                let (media, usual) = match track.config().format() {
                    Format::Video { .. } => (Media::Video, track.config().timescale() / 30),
                    Format::Audio { frame, .. } => (Media::Audio, frame),
                };
                (media == wanted).then(|| Track::new(track.id, track.config().timescale(), usual))
            })
        };
        let (video, audio) = (track(Media::Video), track(Media::Audio));
        Self { policy, timeline: Timeline::new(origin), video, audio, segment: Open::at(0, true), part: 0 }
    }

    pub(crate) fn tracks(&self) -> Tracks {
        Tracks { video: self.video.is_some(), audio: self.audio.is_some() }
    }

    pub(crate) fn push(&mut self, sample: Sample, numbers: &mut Numbers, events: &mut Vec<Event>) {
        let newest = self.timeline.newest();
        let (millis, broken) = match self.timeline.place(sample.media, sample.millis) {
            Place::AfterJump(millis) => (millis, Some(Discontinuity::Clock)),
            Place::At(millis) if millis - newest > MAX_SILENCE_MILLIS => (millis, Some(Discontinuity::Gap)),
            Place::At(millis) => (millis, None),
        };
        if let Some(reason) = broken {
            self.break_off(millis, reason, numbers, events);
        }
        let decides = sample.media == Media::Video || self.video.is_none();
        let key = sample.key;
        let Some(track) = self.track(sample.media) else { return };
        let decode_time = match sample.media {
            Media::Video => track.hold_video(sample, millis),
            Media::Audio => track.hold_audio(sample, millis),
        };
        let at = track.at(decode_time);
        let lasts = track.at(track.usual.into());
        if decides {
            self.cut_before(at, lasts, key, numbers, events);
        } else {
            self.cut_in_pause(at, numbers, events);
        }
        self.keep_bounds(at, numbers, events);
    }

    /// Ends the open part and segment. Nothing may follow.
    pub(crate) fn finish(&mut self, numbers: &mut Numbers, events: &mut Vec<Event>) {
        let tracks = [self.video.as_mut(), self.audio.as_mut()];
        let end = tracks.into_iter().flatten().map(Track::let_go).max().unwrap_or(0);
        let is_ready = self.tracks_mut().any(|track| !track.ready.is_empty());
        let end = end.max(self.part + u64::from(is_ready));
        self.cut_parts(end, u64::MAX, numbers, events);
        // what was left may have been no part: a segment is its parts, also in its length
        self.end_segment(self.part, true, numbers, events);
    }

    fn track(&mut self, media: Media) -> Option<&mut Track> {
        match media {
            Media::Video => self.video.as_mut(),
            Media::Audio => self.audio.as_mut(),
        }
    }

    fn tracks_mut(&mut self) -> impl Iterator<Item = &mut Track> {
        self.video.iter_mut().chain(&mut self.audio)
    }

    /// Ends what is open and goes on `millis` after the begin of the output.
    fn break_off(&mut self, millis: i64, reason: Discontinuity, numbers: &mut Numbers, events: &mut Vec<Event>) {
        self.finish(numbers, events);
        events.push(Event::Discontinuity(reason));
        let start = (millis * TICKS_PER_MILLI).unsigned_abs().max(self.part);
        self.part = start;
        self.segment = Open::at(start, self.video.is_none());
    }

    /// Cuts before a sample at `at` of the track that decides, where a part or segment must end.
    fn cut_before(&mut self, at: u64, lasts: u64, key: bool, numbers: &mut Numbers, events: &mut Vec<Event>) {
        // a keyframe that comes late, after audio has cut
        let at = at.max(self.part);
        let is_first = self.segment.parts == 0 && self.video.as_ref().is_some_and(|video| video.ready.is_empty());
        if is_first && key {
            self.segment.independent = true;
            return;
        }
        let length = at - self.segment.start;
        let full = length + lasts > ticks(self.policy.max_segment());
        let long_enough = length + EARLY >= ticks(self.policy.segment());
        // a segment that has begun without a keyframe ends with the first one
        let ends =
            full || if self.video.is_some() { key && (long_enough || !self.segment.independent) } else { long_enough };
        if ends && length > 0 {
            self.cut_parts(at, at, numbers, events);
            self.end_segment(at, key, numbers, events);
        } else if at + lasts > self.part + ticks(self.policy.part()) {
            self.cut_parts(at, at, numbers, events);
        }
    }

    /// Cuts at a sample of audio, where video has paused.
    fn cut_in_pause(&mut self, at: u64, numbers: &mut Numbers, events: &mut Vec<Event>) {
        let newest = self.video.as_ref().and_then(|video| Some(video.at(video.held.as_ref()?.decode_time)));
        if at.saturating_sub(newest.unwrap_or(0)) < MAX_VIDEO_PAUSE {
            return;
        }
        let part = ticks(self.policy.part());
        while self.part + part <= at {
            let end = self.part + part;
            self.cut_parts(end, end, numbers, events);
            if end + part > self.segment.start + ticks(self.policy.max_segment()) {
                self.end_segment(end, false, numbers, events);
            }
            self.part = end;
        }
    }

    fn keep_bounds(&mut self, at: u64, numbers: &mut Numbers, events: &mut Vec<Event>) {
        let (bytes, samples) = self
            .tracks_mut()
            .fold((0, 0), |(bytes, samples), track| (bytes + track.bytes, samples + track.ready.len()));
        let at = at.max(self.part + 1);
        if bytes > MAX_PART_BYTES || samples > MAX_PART_SAMPLES {
            self.cut_part(at, u64::MAX, numbers, events);
        }
        if self.segment.bytes > MAX_SEGMENT_BYTES || self.segment.parts > MAX_SEGMENT_PARTS {
            self.end_segment(at, false, numbers, events);
        }
    }

    /// Makes parts of what is ready before `until`, none longer than the policy says, up to `end`.
    fn cut_parts(&mut self, end: u64, until: u64, numbers: &mut Numbers, events: &mut Vec<Event>) {
        let part = ticks(self.policy.part());
        let mut next = self.part + part;
        while next < end {
            self.cut_part(next, next, numbers, events);
            next += part;
        }
        self.cut_part(end, until, numbers, events);
    }

    /// Makes a part, up to `end`, of what is ready before `until`. Nothing is made of nothing.
    fn cut_part(&mut self, end: u64, until: u64, numbers: &mut Numbers, events: &mut Vec<Event>) {
        if end <= self.part {
            return;
        }
        let (mut runs, mut payloads) = (Vec::new(), Vec::new());
        let has_video = self.video.is_some();
        let mut independent = !has_video;
        if let Some(run) = self.video.as_mut().and_then(|track| track.run_until(until, &mut payloads)) {
            independent = run.samples.iter().any(|sample| sample.key);
            self.segment.frames += u32::try_from(run.samples.len()).unwrap_or(u32::MAX);
            runs.push(run);
        }
        if let Some(run) = self.audio.as_mut().and_then(|track| track.run_until(until, &mut payloads)) {
            runs.push(run);
        }
        if runs.is_empty() {
            return;
        }
        numbers.fragment = numbers.fragment.wrapping_add(1);
        let fragment = Arc::new(Fragment::new(numbers.fragment, runs, payloads));
        self.segment.bytes += fragment.len();
        events.push(Event::Part(Part {
            segment: numbers.segment,
            index: self.segment.parts,
            start: duration(self.part),
            duration: duration(end - self.part),
            independent,
            fragment,
        }));
        self.segment.parts += 1;
        self.part = end;
    }

    /// Ends the segment, unless nothing is in it, and begins the next.
    fn end_segment(&mut self, end: u64, key: bool, numbers: &mut Numbers, events: &mut Vec<Event>) {
        let Open { start, independent, parts, bytes, frames } = self.segment;
        if parts > 0 {
            let length = duration(end.saturating_sub(start));
            let (number, start) = (numbers.segment, duration(start));
            events.push(Event::SegmentEnd(Segment {
                number,
                start,
                duration: length,
                independent,
                parts,
                bytes,
                frames,
            }));
            numbers.segment += 1;
        }
        self.segment = Open::at(end, key || self.video.is_none());
        self.part = self.part.max(end);
    }
}

impl Track {
    fn new(id: u32, timescale: u32, usual: u32) -> Self {
        Self { id, timescale, held: None, ready: VecDeque::new(), bytes: 0, usual, least: 0 }
    }

    /// A time of this track in [`TIMESCALE`].
    fn at(&self, ticks: u64) -> u64 {
        let scaled = u128::from(ticks) * u128::from(TIMESCALE) / u128::from(self.timescale);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    fn hold_video(&mut self, sample: Sample, millis: i64) -> u64 {
        let ideal = u64::try_from(millis * TICKS_PER_MILLI).unwrap_or(0);
        let decode_time = ideal.max(self.least);
        let shown = i128::from(ideal) + i128::from(sample.composition_millis) * i128::from(TICKS_PER_MILLI);
        // a frame that is decoded later than it said is shown when it said
        let composition = shown - i128::from(decode_time);
        self.hold(decode_time, i32::try_from(composition).unwrap_or(0), sample)
    }

    fn hold_audio(&mut self, sample: Sample, millis: i64) -> u64 {
        let ideal = millis.saturating_mul(self.timescale.into()) / 1_000;
        let counted = self.held.as_ref().map(|held| held.decode_time + u64::from(held.entry.duration));
        let drift = i64::from(self.timescale) * MAX_DRIFT_MILLIS / 1_000;
        let ideal = u64::try_from(ideal).unwrap_or(0);
        let decode_time = match counted {
            Some(counted) if counted.abs_diff(ideal) <= drift.unsigned_abs() => counted,
            _ => ideal.max(self.least),
        };
        self.hold(decode_time, 0, sample)
    }

    /// Holds a sample back, and lets the one before it go, whose length is known now.
    fn hold(&mut self, decode_time: u64, composition: i32, sample: Sample) -> u64 {
        self.release(|held| decode_time - held.decode_time);
        let entry = Entry {
            // of audio: of video the next frame says it
            duration: sample.ticks,
            size: u32::try_from(sample.payload.len()).unwrap_or(u32::MAX),
            composition,
            key: sample.key,
        };
        self.held = Some(Timed { decode_time, entry, payload: sample.payload });
        self.least = decode_time + 1;
        decode_time
    }

    fn release(&mut self, lasts: impl FnOnce(&Timed) -> u64) {
        let Some(mut held) = self.held.take() else { return };
        held.entry.duration = u32::try_from(lasts(&held)).unwrap_or(u32::MAX);
        // what follows a pause lasts no longer than what went before it
        if self.at(held.entry.duration.into()) < MAX_VIDEO_PAUSE {
            self.usual = held.entry.duration;
        }
        self.bytes += held.payload.len();
        self.ready.push_back(held);
    }

    /// Lets the newest sample go with its usual length. Returns when it ends, in [`TIMESCALE`].
    fn let_go(&mut self) -> u64 {
        let usual = self.usual.max(1);
        self.release(|held| if held.entry.duration > 0 { held.entry.duration.into() } else { usual.into() });
        let Some(last) = self.ready.back() else { return 0 };
        self.least = last.decode_time + u64::from(last.entry.duration);
        self.at(self.least)
    }

    /// Takes what begins before `until`, in [`TIMESCALE`].
    fn run_until(&mut self, until: u64, payloads: &mut Vec<Bytes>) -> Option<fragment::Run> {
        let count = self.ready.iter().take_while(|timed| self.at(timed.decode_time) < until).count();
        let decode_time = self.ready.front()?.decode_time;
        if count == 0 {
            return None;
        }
        let mut samples = Vec::with_capacity(count);
        for timed in self.ready.drain(..count) {
            self.bytes -= timed.payload.len();
            samples.push(timed.entry);
            payloads.push(timed.payload);
        }
        Some(fragment::Run { track: self.id, decode_time, offset: 0, samples })
    }
}

fn ticks(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros() * u128::from(TIMESCALE) / 1_000_000).unwrap_or(u64::MAX)
}

fn duration(ticks: u64) -> Duration {
    timeline::duration(ticks, TIMESCALE)
}
