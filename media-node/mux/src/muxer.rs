//! Decides what the output's tracks are, and when it begins anew.
//!
//! The tracks are fixed when each kind has shown its configuration and a frame, or when the other has not come within
//! [`MAX_WAIT_MILLIS`]. A track that comes later, or one that changes, ends the output so far and begins the next.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use media_core::Packet;

use crate::{
    Fragment, Init,
    codec::{Config, Unsupported},
    run::{Numbers, Run},
    sample::{Demuxer, Media, Sample, Unit},
};

/// How much of one track is held back until the other comes, in milliseconds. Encoders send both within a few frames;
/// a broadcast with one track alone starts later by this.
const MAX_WAIT_MILLIS: u64 = 1_000;
/// How long a change of audio waits for the next keyframe of video, in milliseconds: a new output that begins between
/// two keyframes would lose the pictures up to the second. Audio is left out meanwhile.
const MAX_SWITCH_MILLIS: u64 = 10_000;
/// What is held back at most. When it is full, the output begins with the tracks that are there.
const MAX_WAITING_SAMPLES: usize = 512;
const MAX_WAITING_BYTES: usize = 8 << 20;

/// How long parts and segments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    part: Duration,
    segment: Duration,
    max_segment: Duration,
}

/// Lengths that do not fit each other, or the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "parts last from 200 to 500 ms, segments from 1 s to 10 s, and the greatest segment at least as long as the least"
)]
pub struct InvalidPolicy;

impl Policy {
    /// Makes a policy. Parts last no longer than `part`; a segment ends with the first keyframe after `segment`, or without
    /// one at `max_segment`.
    ///
    /// # Errors
    /// Parts outside 200 to 500 ms, segments outside 1 to 10 s, a `max_segment` that is less than `segment`.
    pub fn new(part: Duration, segment: Duration, max_segment: Duration) -> Result<Self, InvalidPolicy> {
        let parts = Duration::from_millis(200)..=Duration::from_millis(500);
        let segments = Duration::from_secs(1)..=Duration::from_secs(10);
        let fits = parts.contains(&part)
            && segments.contains(&segment)
            && segments.contains(&max_segment)
            && segment <= max_segment;
        if fits { Ok(Self { part, segment, max_segment }) } else { Err(InvalidPolicy) }
    }

    /// The longest part.
    #[must_use]
    pub fn part(&self) -> Duration {
        self.part
    }

    /// From here on a segment ends with the next keyframe.
    #[must_use]
    pub fn segment(&self) -> Duration {
        self.segment
    }

    /// A segment ends here though there is no keyframe.
    #[must_use]
    pub fn max_segment(&self) -> Duration {
        self.max_segment
    }
}

impl Default for Policy {
    /// Parts of 300 ms, segments of 2 to 4 s.
    fn default() -> Self {
        Self { part: Duration::from_millis(300), segment: Duration::from_secs(2), max_segment: Duration::from_secs(4) }
    }
}

/// What a muxer gives, in order: an init, then parts, each segment's end after its last part. After a discontinuity comes
/// a new init if the tracks change; else the tracks and their times go on.
#[derive(Clone, Debug)]
pub enum Event {
    /// The tracks of what follows. Times begin again at zero: a file ends here, and the next begins.
    Init(Arc<Init>),
    /// The next part.
    Part(Part),
    /// The segment of the last part is complete.
    SegmentEnd(Segment),
    /// What follows does not go on where the last segment ended.
    Discontinuity(Discontinuity),
    /// A track is left out, and why. Once for each codec and configuration.
    Unsupported(Unsupported),
}

/// Why an output does not go on where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discontinuity {
    /// A codec, a picture size or another part of a configuration has changed. An init follows.
    Configuration,
    /// A track has come. An init follows.
    Tracks,
    /// The publisher sent nothing for some seconds. Times go on with the gap.
    Gap,
    /// The publisher's clock has jumped. Times go on without a gap.
    Clock,
}

/// A moment of the stream: what LL-HLS sends, and what a recorder writes.
#[derive(Clone, Debug)]
pub struct Part {
    /// Number of its segment; it counts up for as long as the muxer lives.
    pub segment: u64,
    /// Number within its segment, from 0.
    pub index: u32,
    /// When it begins, since the output's last init.
    pub start: Duration,
    pub duration: Duration,
    /// A decoder can begin in it: it has a keyframe, or there is no video.
    pub independent: bool,
    pub fragment: Arc<Fragment>,
}

/// A complete segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub number: u64,
    /// When it begins, since the output's last init.
    pub start: Duration,
    pub duration: Duration,
    /// It begins with a keyframe, or there is no video.
    pub independent: bool,
    pub parts: u32,
    pub bytes: u64,
    /// Pictures in it.
    pub frames: u32,
}

/// Packets that are not in the output, since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Of tracks beyond the first of a kind, and messages that hold several: the output has one video and one audio.
    pub further_tracks: u64,
    /// Frames without a configuration before them, or of a codec that is left out, and what is no tag.
    pub unusable: u64,
    /// Video before its first keyframe, and audio that has changed before the next one of video.
    pub before_keyframe: u64,
}

/// Packets in, events out.
#[derive(Debug)]
pub struct Muxer {
    policy: Policy,
    demuxer: Demuxer,
    video: Slot,
    audio: Slot,
    state: State,
    inits: u32,
    numbers: Numbers,
    skipped: Skipped,
}

#[derive(Debug, Default)]
struct Slot {
    config: Option<Config>,
    unsupported: Option<Unsupported>,
}

#[derive(Debug)]
enum State {
    Waiting(Waiting),
    /// With the change, if there is one, that is due at the next keyframe.
    Running(Box<Run>, Option<Switch>),
}

/// A change of the audio track, put off.
#[derive(Clone, Copy, Debug)]
struct Switch {
    /// The tracks after it.
    tracks: Tracks,
    reason: Discontinuity,
    /// The publisher's time of the first sample that was left out for it, in milliseconds.
    since: Option<i64>,
}

/// Before the tracks are fixed.
#[derive(Debug, Default)]
struct Waiting {
    samples: VecDeque<Sample>,
    bytes: usize,
    /// The tracks without which the output need not begin; all there can be when it is the first.
    expected: Option<Tracks>,
}

/// Which kinds of track there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tracks {
    pub(crate) video: bool,
    pub(crate) audio: bool,
}

impl Tracks {
    fn with(mut self, media: Media) -> Self {
        match media {
            Media::Video => self.video = true,
            Media::Audio => self.audio = true,
        }
        self
    }

    fn without(mut self, media: Media) -> Self {
        match media {
            Media::Video => self.video = false,
            Media::Audio => self.audio = false,
        }
        self
    }

    fn has(self, media: Media) -> bool {
        match media {
            Media::Video => self.video,
            Media::Audio => self.audio,
        }
    }
}

impl Switch {
    /// What is to be done with this sample, if it is time.
    fn is_due(&mut self, sample: &Sample) -> Option<(Tracks, Discontinuity)> {
        let since = *self.since.get_or_insert(sample.millis);
        let is_due = match sample.media {
            Media::Video => sample.key,
            Media::Audio => sample.millis.abs_diff(since) >= MAX_SWITCH_MILLIS,
        };
        is_due.then_some((self.tracks, self.reason))
    }
}

impl Muxer {
    /// Makes a muxer for one broadcast, whose numbers count from 0.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self::numbered(policy, 0)
    }

    /// Makes a muxer whose inits and segments count from `first`: what follows another output of the broadcast must not take
    /// its numbers again.
    #[must_use]
    pub fn numbered(policy: Policy, first: u32) -> Self {
        Self {
            policy,
            demuxer: Demuxer::default(),
            video: Slot::default(),
            audio: Slot::default(),
            state: State::Waiting(Waiting::default()),
            inits: first,
            numbers: Numbers::from(first),
            skipped: Skipped::default(),
        }
    }

    /// Takes the next packet of the ring and appends what comes of it.
    pub fn push(&mut self, packet: &Packet, events: &mut Vec<Event>) {
        match self.demuxer.read(packet) {
            Unit::Nothing => {}
            Unit::FurtherTrack => self.skipped.further_tracks += 1,
            Unit::Unusable => self.skipped.unusable += 1,
            Unit::Unsupported(media, unsupported) => self.leave_out(media, unsupported, events),
            Unit::Config(media, config) => self.configure(media, config, events),
            Unit::Changed(config, sample) => {
                self.configure(sample.media, config, events);
                self.take(sample, events);
            }
            Unit::Sample(sample) => self.take(sample, events),
        }
    }

    /// Ends the open part and segment, as when the publisher has gone. A packet may follow, and begins a new output.
    pub fn end(&mut self, events: &mut Vec<Event>) {
        if let State::Waiting(waiting) = &mut self.state {
            let waiting = std::mem::take(waiting);
            self.begin(waiting, events);
        }
        self.stop(events);
        self.state = State::Waiting(Waiting::default());
    }

    /// What was skipped since the last call.
    pub fn take_skipped(&mut self) -> Skipped {
        std::mem::take(&mut self.skipped)
    }

    fn slot(&mut self, media: Media) -> &mut Slot {
        match media {
            Media::Video => &mut self.video,
            Media::Audio => &mut self.audio,
        }
    }

    fn leave_out(&mut self, media: Media, unsupported: Unsupported, events: &mut Vec<Event>) {
        self.skipped.unusable += 1;
        let slot = self.slot(media);
        if slot.unsupported.as_ref() == Some(&unsupported) {
            return;
        }
        slot.config = None;
        slot.unsupported = Some(unsupported.clone());
        events.push(Event::Unsupported(unsupported));
        match &mut self.state {
            State::Running(run, _) if run.tracks().has(media) => {
                let rest = run.tracks().without(media);
                self.change(media, rest, Discontinuity::Configuration, events);
            }
            State::Running(..) => {}
            State::Waiting(waiting) => {
                waiting.forget(media);
                self.begin_if_ready(events);
            }
        }
    }

    fn configure(&mut self, media: Media, config: Config, events: &mut Vec<Event>) {
        let slot = self.slot(media);
        slot.unsupported = None;
        if slot.config.as_ref() == Some(&config) {
            return;
        }
        slot.config = Some(config);
        match &mut self.state {
            State::Running(run, _) if run.tracks().has(media) => {
                let tracks = run.tracks();
                self.change(media, tracks, Discontinuity::Configuration, events);
            }
            State::Running(..) => {}
            // what has been held back of this track does not fit the new configuration
            State::Waiting(waiting) => waiting.forget(media),
        }
    }

    /// Begins anew with these tracks: at once, or at the next keyframe of the video that goes on.
    fn change(&mut self, media: Media, tracks: Tracks, reason: Discontinuity, events: &mut Vec<Event>) {
        match &mut self.state {
            State::Running(run, switch) if media == Media::Audio && run.tracks().video => {
                *switch = Some(Switch { tracks, reason, since: None });
            }
            State::Running(..) | State::Waiting(_) => self.begin_anew(tracks, reason, events),
        }
    }

    fn take(&mut self, sample: Sample, events: &mut Vec<Event>) {
        let media = sample.media;
        if self.slot(media).config.is_none() {
            self.skipped.unusable += 1;
            return;
        }
        let is_new = match &self.state {
            State::Running(run, _) => !run.tracks().has(media),
            State::Waiting(waiting) => !waiting.has(media),
        };
        // a track starts with a keyframe
        if is_new && !sample.key {
            self.skipped.before_keyframe += 1;
            return;
        }
        if let (true, State::Running(run, None)) = (is_new, &self.state) {
            let tracks = run.tracks().with(media);
            self.change(media, tracks, Discontinuity::Tracks, events);
        }
        if let State::Running(_, Some(switch)) = &mut self.state {
            if let Some((tracks, reason)) = switch.is_due(&sample) {
                self.begin_anew(tracks, reason, events);
            } else if media == Media::Audio {
                self.skipped.before_keyframe += 1;
                return;
            }
        }
        match &mut self.state {
            State::Running(run, _) => run.push(sample, &mut self.numbers, events),
            State::Waiting(waiting) => {
                waiting.push(sample);
                self.begin_if_ready(events);
            }
        }
    }

    fn begin_anew(&mut self, expected: Tracks, reason: Discontinuity, events: &mut Vec<Event>) {
        self.stop(events);
        events.push(Event::Discontinuity(reason));
        self.state = State::Waiting(Waiting { expected: Some(expected), ..Waiting::default() });
    }

    fn stop(&mut self, events: &mut Vec<Event>) {
        if let State::Running(run, _) = &mut self.state {
            run.finish(&mut self.numbers, events);
        }
    }

    fn begin_if_ready(&mut self, events: &mut Vec<Event>) {
        let State::Waiting(waiting) = &mut self.state else { return };
        let possible = Tracks { video: self.video.unsupported.is_none(), audio: self.audio.unsupported.is_none() };
        if waiting.is_over(possible) {
            let waiting = std::mem::take(waiting);
            self.begin(waiting, events);
        }
    }

    /// Fixes the tracks and hands on what was held back.
    fn begin(&mut self, waiting: Waiting, events: &mut Vec<Event>) {
        let tracks = Tracks { video: waiting.has(Media::Video), audio: waiting.has(Media::Audio) };
        let video = self.video.config.clone().filter(|_| tracks.video);
        let audio = self.audio.config.clone().filter(|_| tracks.audio);
        let Some(origin) = waiting.origin() else { return };
        let configs: Vec<_> = video.into_iter().chain(audio).collect();
        let init = Arc::new(Init::new(self.inits, &configs));
        self.inits += 1;
        events.push(Event::Init(Arc::clone(&init)));
        let mut run = Run::new(self.policy, &init, origin);
        for sample in waiting.samples {
            run.push(sample, &mut self.numbers, events);
        }
        self.state = State::Running(Box::new(run), None);
    }
}

impl Waiting {
    fn push(&mut self, sample: Sample) {
        self.bytes += sample.payload.len();
        self.samples.push_back(sample);
    }

    fn has(&self, media: Media) -> bool {
        self.samples.iter().any(|sample| sample.media == media)
    }

    fn forget(&mut self, media: Media) {
        self.samples.retain(|sample| sample.media != media);
        self.bytes = self.samples.iter().map(|sample| sample.payload.len()).sum();
    }

    fn is_over(&self, possible: Tracks) -> bool {
        let expected = self.expected.unwrap_or(Tracks { video: true, audio: true });
        let lacks = |media| expected.has(media) && possible.has(media) && !self.has(media);
        let times = self.samples.iter().map(|sample| sample.millis);
        let waited =
            times.clone().min().zip(times.max()).is_some_and(|(min, max)| max.abs_diff(min) >= MAX_WAIT_MILLIS);
        let full = self.samples.len() >= MAX_WAITING_SAMPLES || self.bytes >= MAX_WAITING_BYTES;
        !self.samples.is_empty() && (waited || full || !(lacks(Media::Video) || lacks(Media::Audio)))
    }

    /// The earliest time of the publisher that is held back: of those on the clock of the first.
    fn origin(&self) -> Option<i64> {
        let first = self.samples.front()?.millis;
        let near = |millis: &i64| millis.abs_diff(first) <= MAX_WAIT_MILLIS;
        self.samples.iter().map(|sample| sample.millis).filter(near).min()
    }
}

#[cfg(test)]
mod tests;
