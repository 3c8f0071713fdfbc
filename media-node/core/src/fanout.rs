//! One ring a broadcast: a publisher that never waits, and readers with a cursor each.
//!
//! The ring keeps the packets from the latest keyframe on, so that a reader starts with a picture at once, and while
//! there are readers also a few seconds before it, so that a keyframe takes nothing from those that are a little behind.
//! A reader that the ring has left behind goes on at the newest keyframe, and what it lost is counted.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{Kind, MediaTime, Packet, Role, Track};

/// What a ring may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes of packets. When it is full the oldest go; readers without a keyframe left wait for the next one.
    pub bytes: usize,
    /// Most packets, with the same consequence.
    pub packets: usize,
    /// While there are readers: how much before the latest keyframe is kept, in milliseconds. A reader further behind
    /// skips.
    pub behind_millis: u64,
}

impl Default for Limits {
    /// 32 MiB are 10 s between keyframes at 25 Mbit/s; 8,192 packets are 60 s of 60 frames and 47 audio packets a second.
    /// 4 s are the time that a player's own buffer bridges.
    fn default() -> Self {
        Self { bytes: 32 << 20, packets: 8_192, behind_millis: 4_000 }
    }
}

/// The publisher's side. Clones are handles to the same ring.
#[derive(Clone, Debug)]
pub struct Fanout(Arc<Mutex<Ring>>);

/// One reader.
#[derive(Debug)]
pub struct Subscriber {
    ring: Arc<Mutex<Ring>>,
    cursor: Cursor,
    skipped: u64,
}

#[derive(Clone, Copy, Debug)]
enum Cursor {
    /// At the latest keyframe, once there is one.
    AtKeyframe,
    /// At the packet with this number.
    At(u64),
}

/// A packet for a reader, with the time that it is to have there: a header that is sent again takes the time of the
/// packet that it prepares, and metadata the time zero.
#[derive(Clone, Debug)]
pub struct Item {
    pub packet: Arc<Packet>,
    pub time: MediaTime,
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Packets were added.
    Some,
    /// The reader has all there is.
    UpToDate,
    /// The publisher is gone and the reader has all there was.
    Ended,
}

/// How much one read takes.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    pub packets: usize,
    /// Stops after the packet that reaches it.
    pub bytes: usize,
}

#[derive(Debug)]
struct Ring {
    limits: Limits,
    packets: VecDeque<Arc<Packet>>,
    /// Number of the first packet in `packets`.
    first: u64,
    bytes: usize,
    /// By track; a decoder's configuration before what else describes it.
    headers: BTreeMap<(Track, Describes), Numbered>,
    start: Option<Start>,
    /// Whether readers start at video keyframes; without video any audio will do.
    has_video: bool,
    subscribers: usize,
    ended: bool,
}

/// Where a reader starts: a keyframe, and the headers that held there.
#[derive(Debug)]
struct Start {
    number: u64,
    headers: Vec<Numbered>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Describes {
    Decoder,
    Rest,
}

#[derive(Clone, Debug)]
struct Numbered {
    number: u64,
    packet: Arc<Packet>,
}

impl Fanout {
    /// Makes an empty ring.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Mutex::new(Ring::new(limits))))
    }

    /// Appends a packet. It never waits for a reader.
    pub fn push(&self, packet: Packet) {
        lock(&self.0).push(packet);
    }

    /// Lets readers take what is there and then tells them that it was all.
    pub fn end(&self) {
        lock(&self.0).ended = true;
    }

    /// Adds a reader, which starts at the latest keyframe.
    #[must_use]
    pub fn subscribe(&self) -> Subscriber {
        lock(&self.0).subscribers += 1;
        Subscriber { ring: Arc::clone(&self.0), cursor: Cursor::AtKeyframe, skipped: 0 }
    }

    /// Readers at present.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        lock(&self.0).subscribers
    }

    /// Bytes that the ring holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        lock(&self.0).bytes
    }
}

impl Subscriber {
    /// Appends what is new to `items`, headers first where the reader starts or skips.
    pub fn read(&mut self, batch: Batch, items: &mut Vec<Item>) -> Read {
        let ring = lock(&self.ring);
        let before = items.len();
        let number = match self.cursor {
            Cursor::At(number) if number >= ring.first => number,
            Cursor::At(number) => match ring.start_again(number, items) {
                Some(start) => {
                    self.skipped += start - number;
                    start
                }
                None => return ring.nothing(),
            },
            Cursor::AtKeyframe => match ring.start_again(0, items) {
                Some(start) => start,
                None => return ring.nothing(),
            },
        };
        let next = ring.take(number, batch, items);
        self.cursor = Cursor::At(next);
        if items.len() == before { ring.nothing() } else { Read::Some }
    }

    /// Packets that the reader lost because it was too far behind, since the last call.
    pub fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        lock(&self.ring).subscribers -= 1;
    }
}

impl Ring {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            packets: VecDeque::new(),
            first: 0,
            bytes: 0,
            headers: BTreeMap::new(),
            start: None,
            has_video: false,
            subscribers: 0,
            ended: false,
        }
    }

    fn push(&mut self, packet: Packet) {
        let packet = Arc::new(packet);
        let number = self.next_number();
        match packet.role {
            Role::Header => self.describe(Describes::Decoder, number, &packet),
            Role::Annotation => self.describe(Describes::Rest, number, &packet),
            Role::Key => self.keyframe(packet.track.kind, number),
            Role::Dependent => {}
        }
        self.bytes += packet.weight();
        self.packets.push_back(packet);
        self.trim();
    }

    fn describe(&mut self, what: Describes, number: u64, packet: &Arc<Packet>) {
        self.headers.insert((packet.track, what), Numbered { number, packet: Arc::clone(packet) });
    }

    fn keyframe(&mut self, kind: Kind, number: u64) {
        let starts = match kind {
            Kind::Video => true,
            Kind::Audio => !self.has_video,
            Kind::Data => false,
        };
        if starts {
            self.has_video |= kind == Kind::Video;
            // as the tracks are ordered: metadata, video, audio
            let headers = self.headers.values().cloned().collect();
            self.start = Some(Start { number, headers });
        }
    }

    fn next_number(&self) -> u64 {
        self.first + self.packets.len() as u64
    }

    fn trim(&mut self) {
        let newest = self.packets.back().map(|packet| packet.time);
        while let Some(oldest) = self.packets.front() {
            let full = self.bytes > self.limits.bytes || self.packets.len() > self.limits.packets;
            let before_start = self.start.as_ref().is_some_and(|start| self.first < start.number);
            let old = newest.is_some_and(|newest| newest.distance_millis(oldest.time) > self.limits.behind_millis);
            let unneeded = before_start && (self.subscribers == 0 || old);
            if !(full || unneeded) {
                return;
            }
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.packets.pop_front() {
            self.first += 1;
            self.bytes -= oldest.weight();
        }
        if self.start.as_ref().is_some_and(|start| start.number < self.first) {
            self.start = None;
            // a publisher whose video has stopped is heard, also by new readers
            self.has_video = self.packets.iter().any(|packet| packet.track.kind == Kind::Video);
        }
    }

    /// Where a reader at `number` goes on; appends the headers that it has not had.
    fn start_again(&self, number: u64, items: &mut Vec<Item>) -> Option<u64> {
        let start = self.start.as_ref()?;
        let time = self.packet(start.number)?.time;
        // metadata speaks of the whole stream; players take it for a subtitle when it has a time of its own
        let time_of = |track: Track| if track.kind == Kind::Data { MediaTime::new(0, time.timescale()) } else { time };
        let unseen = start.headers.iter().filter(|header| header.number >= number);
        // a header that still is in the ring behind the start comes by itself
        items.extend(
            unseen
                .filter(|header| header.number < start.number)
                .map(|header| Item { packet: Arc::clone(&header.packet), time: time_of(header.packet.track) }),
        );
        Some(start.number)
    }

    fn packet(&self, number: u64) -> Option<&Arc<Packet>> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.packets.get(index)
    }

    /// Appends packets from `number` on; returns the number after the last.
    fn take(&self, number: u64, batch: Batch, items: &mut Vec<Item>) -> u64 {
        let mut bytes = 0;
        let mut next = number;
        while bytes < batch.bytes
            && next - number < batch.packets as u64
            && let Some(packet) = self.packet(next)
        {
            bytes += packet.weight();
            next += 1;
            items.push(Item { packet: Arc::clone(packet), time: packet.time });
        }
        next
    }

    fn nothing(&self) -> Read {
        if self.ended { Read::Ended } else { Read::UpToDate }
    }
}

/// A panic elsewhere leaves a ring that is whole: every change to it is.
fn lock(ring: &Mutex<Ring>) -> MutexGuard<'_, Ring> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
