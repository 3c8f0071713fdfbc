//! What a receiver makes of a track's packets: their order, whole frames, what is missing, and how long the picture stood.
//! Knows no socket and no clock.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// So long a gap is waited for. Then video goes on at a keyframe, and sound at once.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two requests for the same packet.
const ASK_AGAIN: Duration = Duration::from_millis(40);
/// Requests for one packet.
const MOST_REQUESTS: u32 = 10;
/// About 15 s of 4 Mbit/s behind a gap; then the track begins anew.
const MOST_WAITING: usize = 8_192;
/// Frames over which the usual pause between two is taken, as W3C's freezeCount has it.
const USUAL: usize = 30;

/// What came of a track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Track {
    /// Different packets, and the bytes of their payloads.
    pub packets: u64,
    pub bytes: u64,
    /// Whole frames in order that could be decoded; of sound each packet is one.
    pub frames: u64,
    pub keyframes: u64,
    /// Packets that came after a later one: sent again, or overtaken.
    pub recovered: u64,
    pub duplicates: u64,
    /// Packets that were given up.
    pub lost: u64,
    /// Packets that were asked for again, each time counted.
    pub nacked: u64,
    /// Keyframes that were asked for.
    pub keyframe_requests: u64,
    /// Pauses that a viewer sees: at least three times the usual one, and 150 ms longer.
    pub freezes: u64,
    pub frozen: Duration,
    pub first_frame: Option<Instant>,
    pub last_frame: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Audio,
    Video,
}

/// One packet, as its header and payload say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) marker: bool,
    /// A keyframe begins in it.
    pub(super) keyframe: bool,
}

/// The packets of one track.
#[derive(Debug)]
pub(super) struct Assembler {
    kind: Kind,
    track: Track,
    /// The next number in order; numbers are counted on through wraps.
    next: Option<u64>,
    highest: u64,
    waiting: BTreeMap<u64, Piece>,
    /// Since when the next one is missing.
    gap: Option<Instant>,
    asked: BTreeMap<u64, (Instant, u32)>,
    keyframe_asked: Option<Instant>,
    is_open: bool,
    open_keyframe: bool,
    /// A keyframe came, and nothing was left out since.
    decodable: bool,
    pauses: VecDeque<Duration>,
}

impl Assembler {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            track: Track::default(),
            next: None,
            highest: 0,
            waiting: BTreeMap::new(),
            gap: None,
            asked: BTreeMap::new(),
            keyframe_asked: None,
            is_open: false,
            open_keyframe: false,
            decodable: kind == Kind::Audio,
            pauses: VecDeque::new(),
        }
    }

    pub(super) fn track(&self) -> Track {
        self.track
    }

    pub(super) fn asks_for_keyframe(&mut self) {
        self.track.keyframe_requests += 1;
    }

    pub(super) fn take(&mut self, sequence: u16, bytes: usize, piece: Piece, now: Instant) {
        let number = self.counted_on(sequence);
        let next = *self.next.get_or_insert(number);
        if number < next || self.waiting.contains_key(&number) {
            self.track.duplicates += 1;
            return;
        }
        self.track.packets += 1;
        self.track.bytes += bytes as u64;
        self.track.recovered += u64::from(number < self.highest);
        self.highest = self.highest.max(number);
        self.asked.remove(&number);
        self.waiting.insert(number, piece);
        self.advance(now);
        if self.waiting.len() > MOST_WAITING {
            self.begin_anew();
        }
    }

    /// Gives up what was waited for too long.
    pub(super) fn give_up(&mut self, now: Instant) {
        let (Some(next), Some(since)) = (self.next, self.gap) else { return };
        if now.duration_since(since) < PATIENCE {
            return;
        }
        let is_begin = |piece: &Piece| self.kind == Kind::Audio || piece.keyframe;
        let Some(begin) = self.waiting.iter().find(|(_, piece)| is_begin(piece)).map(|(number, _)| *number) else {
            return;
        };
        let kept = self.waiting.split_off(&begin);
        self.track.lost += begin - next - self.waiting.len() as u64;
        self.waiting = kept;
        self.asked = self.asked.split_off(&begin);
        self.next = Some(begin);
        (self.is_open, self.open_keyframe) = (false, false);
        self.gap = None;
        self.advance(now);
    }

    /// The numbers that are to be asked for now.
    pub(super) fn missing(&mut self, now: Instant) -> Vec<u16> {
        let (Some(next), true) = (self.next, self.gap.is_some()) else { return Vec::new() };
        let mut numbers = Vec::new();
        for number in next..self.highest {
            if self.waiting.contains_key(&number) {
                continue;
            }
            let (at, times) = self.asked.entry(number).or_insert((now, 0));
            if *times < MOST_REQUESTS && (*times == 0 || now.duration_since(*at) >= ASK_AGAIN) {
                (*at, *times) = (now, *times + 1);
                numbers.push(low(number));
            }
        }
        self.track.nacked += numbers.len() as u64;
        numbers
    }

    /// Whether a keyframe is to be asked for now: nothing else brings the picture back.
    pub(super) fn wants_keyframe(&mut self, now: Instant) -> bool {
        let is_stuck = self.gap.is_some_and(|since| now.duration_since(since) >= PATIENCE);
        let is_due = self.keyframe_asked.is_none_or(|at| now.duration_since(at) >= PATIENCE);
        let wants = self.kind == Kind::Video && is_stuck && is_due;
        if wants {
            self.keyframe_asked = Some(now);
            self.track.keyframe_requests += 1;
        }
        wants
    }

    fn counted_on(&self, sequence: u16) -> u64 {
        if self.next.is_none() {
            // far from zero, so that what came before the first is not below it
            return (1 << 32) | u64::from(sequence);
        }
        let ahead = i64::from(sequence.wrapping_sub(low(self.highest)).cast_signed());
        self.highest.saturating_add_signed(ahead)
    }

    fn advance(&mut self, now: Instant) {
        while let (Some(next), Some(entry)) = (self.next, self.waiting.first_entry()) {
            if *entry.key() != next {
                self.gap.get_or_insert(now);
                return;
            }
            let piece = entry.remove();
            self.next = Some(next + 1);
            self.gap = None;
            self.add(piece, now);
        }
    }

    fn add(&mut self, piece: Piece, now: Instant) {
        if !self.is_open {
            (self.is_open, self.open_keyframe) = (true, false);
        }
        self.open_keyframe |= piece.keyframe;
        if self.kind == Kind::Video && !piece.marker {
            return;
        }
        self.is_open = false;
        self.decodable |= self.open_keyframe;
        if self.decodable {
            self.track.keyframes += u64::from(self.open_keyframe);
            self.frame(now);
        }
    }

    fn frame(&mut self, now: Instant) {
        self.track.frames += 1;
        self.track.first_frame.get_or_insert(now);
        let Some(last) = self.track.last_frame.replace(now) else { return };
        let pause = now.duration_since(last);
        if self.pauses.len() == USUAL {
            let usual = self.pauses.iter().sum::<Duration>() / 30;
            if pause >= (usual * 3).max(usual + Duration::from_millis(150)) {
                self.track.freezes += 1;
                self.track.frozen += pause;
            }
            self.pauses.pop_front();
        }
        self.pauses.push_back(pause);
    }

    fn begin_anew(&mut self) {
        self.track.lost += self.waiting.len() as u64;
        self.waiting.clear();
        self.asked.clear();
        (self.next, self.gap, self.is_open) = (None, None, false);
        self.decodable = self.kind == Kind::Audio;
    }
}

/// A number as it is sent.
fn low(number: u64) -> u16 {
    let [.., a, b] = number.to_be_bytes();
    u16::from_be_bytes([a, b])
}

/// Whether a keyframe begins in a payload; the name of the codec is that of its MIME type.
pub(super) fn begins_keyframe(codec: &str, payload: &[u8]) -> bool {
    match codec {
        "video/h264" => h264(payload),
        "video/h265" => h265(payload),
        "video/vp8" => vp8(payload).unwrap_or_default(),
        // neither predicted, nor in the middle of a frame
        "video/vp9" => payload.first().is_some_and(|flags| flags & 0x48 == 0x08),
        // a new coded video sequence, whose first unit begins here
        "video/av1" => payload.first().is_some_and(|flags| flags & 0x88 == 0x08),
        _ => false,
    }
}

fn h264(payload: &[u8]) -> bool {
    let is_key = |header: u8| matches!(header & 0x1f, 5 | 7);
    match payload {
        [header, units @ ..] if header & 0x1f == 24 => {
            aggregated(units).any(|unit| unit.first().is_some_and(|h| is_key(*h)))
        }
        [header, fragment, ..] if header & 0x1f == 28 => fragment & 0x80 != 0 && is_key(*fragment),
        [header, ..] => is_key(*header),
        [] => false,
    }
}

fn h265(payload: &[u8]) -> bool {
    let is_key = |kind: u8| matches!(kind, 16..=21 | 32 | 33);
    let of_header = |header: u8| is_key((header >> 1) & 0x3f);
    match payload {
        [header, _, units @ ..] if (header >> 1) & 0x3f == 48 => {
            aggregated(units).any(|unit| unit.first().is_some_and(|h| of_header(*h)))
        }
        [header, _, fragment, ..] if (header >> 1) & 0x3f == 49 => fragment & 0x80 != 0 && is_key(fragment & 0x3f),
        [header, ..] => of_header(*header),
        [] => false,
    }
}

/// Units, each after its length.
fn aggregated(mut units: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = units.split_first_chunk()?;
        let (unit, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        units = rest;
        Some(unit)
    })
}

/// RFC 7741 §4.2: the first part of a frame that is not predicted.
fn vp8(payload: &[u8]) -> Option<bool> {
    let (flags, mut rest) = payload.split_first()?;
    if flags & 0x80 != 0 {
        let (extension, after) = rest.split_first()?;
        rest = after;
        if extension & 0x80 != 0 {
            rest = rest.get(if rest.first()? & 0x80 != 0 { 2 } else { 1 }..)?;
        }
        rest = rest.get(usize::from(extension & 0x40 != 0) + usize::from(extension & 0x30 != 0)..)?;
    }
    Some(flags & 0x17 == 0x10 && rest.first()? & 1 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Duration = Duration::from_millis(33);
    const PIECE: Piece = Piece { marker: false, keyframe: false };

    /// Frames of two packets, every tenth a keyframe; those are kept from it that `leave_out` names.
    fn receive(assembler: &mut Assembler, numbers: std::ops::Range<u16>, start: Instant, leave_out: &[u16]) {
        for number in numbers.filter(|number| !leave_out.contains(number)) {
            let piece = Piece { marker: number % 2 == 1, keyframe: number % 20 == 0 };
            assembler.take(number, 100, piece, start + FRAME * u32::from(number / 2));
        }
    }

    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_packet_that_comes_again_closes_its_gap() {
        let (mut assembler, start) = (Assembler::new(Kind::Video), start());
        receive(&mut assembler, 0..10, start, &[3]);
        assert_eq!(assembler.track().frames, 1, "the second waits");
        assert_eq!(assembler.missing(start + FRAME * 5), [3]);
        assert_eq!(assembler.missing(start + FRAME * 5), [0; 0], "it is not asked for twice at once");

        assembler.take(3, 100, Piece { marker: true, ..PIECE }, start + FRAME * 6);
        assembler.take(3, 100, Piece { marker: true, ..PIECE }, start + FRAME * 6);
        let Track { packets, frames, keyframes, recovered, duplicates, lost, nacked, .. } = assembler.track();
        assert_eq!((packets, frames, keyframes, recovered, duplicates, lost, nacked), (10, 5, 1, 1, 1, 0, 1));
    }

    #[test]
    fn what_does_not_come_is_given_up_at_the_next_keyframe() {
        let (mut assembler, start) = (Assembler::new(Kind::Video), start());
        receive(&mut assembler, 0..18, start, &[3]);
        let late = start + FRAME * 9 + PATIENCE;
        assembler.give_up(late);
        assert!(assembler.wants_keyframe(late) && !assembler.wants_keyframe(late), "asked for once");
        assert_eq!(assembler.track().frames, 1);

        receive(&mut assembler, 18..24, start, &[]);
        assembler.give_up(late);
        let Track { frames, keyframes, lost, keyframe_requests, .. } = assembler.track();
        assert_eq!((frames, keyframes, lost, keyframe_requests), (3, 2, 1, 1));
    }

    #[test]
    fn numbers_are_counted_through_a_wrap() {
        let (mut assembler, now) = (Assembler::new(Kind::Audio), start());
        for number in [65_534, 65_535, 1, 0, 2] {
            assembler.take(number, 100, PIECE, now);
        }
        let Track { frames, recovered, .. } = assembler.track();
        assert_eq!((frames, recovered), (5, 1));
    }

    #[test]
    fn a_pause_is_a_freeze_when_it_is_much_longer_than_usual() {
        let (mut assembler, start) = (Assembler::new(Kind::Video), start());
        receive(&mut assembler, 0..80, start, &[]);
        assert_eq!(assembler.track().freezes, 0);
        receive(&mut assembler, 80..84, start + Duration::from_millis(167), &[]);
        let Track { freezes, frozen, .. } = assembler.track();
        assert_eq!((freezes, frozen), (1, Duration::from_millis(200)));
    }

    #[test]
    fn keyframes_are_known_by_their_payloads() {
        for (codec, key, other) in [
            ("video/h264", &[0x67, 0x42][..], &[0x41, 0x9a][..]),
            ("video/h264", &[0x78, 0, 1, 0x67, 0, 1, 0x68], &[0x78, 0, 1, 0x68]),
            ("video/h264", &[0x7c, 0x85, 0], &[0x7c, 0x05, 0]),
            ("video/h265", &[0x40, 1], &[0x02, 1]),
            ("video/h265", &[0x62, 1, 0x93], &[0x62, 1, 0x13]),
            ("video/vp8", &[0x90, 0x80, 0x81, 0x02, 0x10], &[0x90, 0x80, 0x81, 0x02, 0x11]),
            ("video/vp9", &[0x8c, 0x81], &[0xcc, 0x81]),
            ("video/av1", &[0x18, 0x0a], &[0x10, 0x32]),
        ] {
            assert!(begins_keyframe(codec, key), "{codec} {key:02x?}");
            assert!(!begins_keyframe(codec, other), "{codec} {other:02x?}");
            assert!(!begins_keyframe(codec, &[]));
        }
    }
}
