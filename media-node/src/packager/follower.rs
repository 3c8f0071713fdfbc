//! One who follows a muxing, as a recorder does: a queue of its events that is bounded in bytes. Who lags too much loses whole
//! segments, is told how much, and goes on at a keyframe.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use mux::{Event, Init};
use tokio::sync::Notify;

/// What an event takes in a queue beside its media, in bytes: about that of its structures.
const EVENT: u64 = 256;

/// What a follower gets.
#[derive(Clone, Debug)]
pub enum Fed {
    Event(Event),
    /// It lagged: so many bytes of media are not there. What follows begins with an `Init`.
    Lost {
        bytes: u64,
    },
    /// Its publisher has left, and this was the last of it. What the next one sends follows, if one comes, with an `Init` first.
    Parked,
    /// Nothing follows.
    Ended,
}

/// Reads a muxing's events. Dropping it ends the following.
#[derive(Debug)]
pub struct Follower(Arc<Queue>);

impl Follower {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self(queue)
    }

    /// The next event; [`Fed::Ended`] for ever after the last. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Fed {
        loop {
            if let Some(fed) = self.0.pop() {
                return fed;
            }
            self.0.more.notified().await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.is_followed.store(false, Ordering::Release);
    }
}

/// The events that a follower has not taken.
#[derive(Debug)]
pub(super) struct Queue {
    limit: u64,
    waiting: Mutex<Waiting>,
    more: Notify,
    is_followed: AtomicBool,
}

#[derive(Debug)]
struct Waiting {
    fed: VecDeque<Fed>,
    bytes: u64,
    phase: Phase,
    init: Option<Arc<Init>>,
    ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Following,
    /// Waits for the next independent segment.
    Joining,
    /// As [`Joining`](Self::Joining), after so many bytes that were lost.
    Lagging {
        lost: u64,
    },
}

impl Queue {
    /// `init` is what the muxing has begun with, if it has.
    pub(super) fn new(limit: usize, init: Option<Arc<Init>>) -> Self {
        let phase = if init.is_some() { Phase::Joining } else { Phase::Following };
        let waiting = Waiting { fed: VecDeque::new(), bytes: 0, phase, init, ended: false };
        Self {
            limit: u64::try_from(limit).unwrap_or(u64::MAX),
            waiting: Mutex::new(waiting),
            more: Notify::new(),
            is_followed: AtomicBool::new(true),
        }
    }

    pub(super) fn is_followed(&self) -> bool {
        self.is_followed.load(Ordering::Acquire)
    }

    pub(super) fn push(&self, event: Event) {
        self.waiting().push(event, self.limit);
        self.more.notify_one();
    }

    pub(super) fn park(&self) {
        let mut waiting = self.waiting();
        waiting.tell_loss();
        // of publishers that come and go, and send nothing, one is enough
        if !matches!(waiting.fed.back(), Some(Fed::Parked)) {
            waiting.put(Fed::Parked);
        }
        drop(waiting);
        self.more.notify_one();
    }

    pub(super) fn end(&self) {
        let mut waiting = self.waiting();
        waiting.tell_loss();
        waiting.ended = true;
        drop(waiting);
        self.more.notify_one();
    }

    fn pop(&self) -> Option<Fed> {
        let mut waiting = self.waiting();
        let ended = waiting.ended.then_some(Fed::Ended);
        let Some(fed) = waiting.fed.pop_front() else { return ended };
        waiting.bytes -= weight(&fed);
        Some(fed)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn push(&mut self, event: Event, limit: u64) {
        if let Event::Init(init) = &event {
            self.init = Some(Arc::clone(init));
        }
        let fed = Fed::Event(event);
        // its loss is told, and an init goes before what follows
        let room = limit.saturating_sub(self.bytes + 2 * EVENT);
        let fits = weight(&fed)
            <= match self.phase {
                Phase::Following | Phase::Joining => room,
                // or the next part would be lost again
                Phase::Lagging { .. } => room.saturating_sub(limit / 2),
            };
        match (&fed, self.phase) {
            (_, Phase::Following) if fits => self.put(fed),
            (_, Phase::Following) => self.lag(&fed),
            (Fed::Event(Event::Init(_)), Phase::Joining | Phase::Lagging { .. }) if fits => {
                self.tell_loss();
                self.put(fed);
                self.phase = Phase::Following;
            }
            (Fed::Event(Event::Part(part)), Phase::Joining | Phase::Lagging { .. })
                if fits && part.index == 0 && part.independent =>
            {
                self.tell_loss();
                if let Some(init) = self.init.clone() {
                    self.put(Fed::Event(Event::Init(init)));
                }
                self.put(fed);
                self.phase = Phase::Following;
            }
            (_, Phase::Lagging { lost }) => self.phase = Phase::Lagging { lost: lost + media(&fed) },
            (_, Phase::Joining) => {}
        }
    }

    /// Drops what there is of the segment that does not fit.
    fn lag(&mut self, fed: &Fed) {
        let mut lost = media(fed);
        if let Fed::Event(Event::Part(part)) = fed {
            while let Some(Fed::Event(Event::Part(last))) = self.fed.back()
                && last.segment == part.segment
            {
                let Some(gone) = self.fed.pop_back() else { break };
                self.bytes -= weight(&gone);
                lost += media(&gone);
            }
        }
        self.phase = Phase::Lagging { lost };
    }

    fn tell_loss(&mut self) {
        if let Phase::Lagging { lost } = self.phase {
            self.put(Fed::Lost { bytes: lost });
            self.phase = Phase::Joining;
        }
    }

    fn put(&mut self, fed: Fed) {
        self.bytes += weight(&fed);
        self.fed.push_back(fed);
    }
}

fn weight(fed: &Fed) -> u64 {
    EVENT + media(fed)
}

fn media(fed: &Fed) -> u64 {
    match fed {
        Fed::Event(Event::Part(part)) => part.fragment.len(),
        Fed::Event(Event::Init(_) | Event::SegmentEnd(_) | Event::Discontinuity(_) | Event::Unsupported(_))
        | Fed::Lost { .. }
        | Fed::Parked
        | Fed::Ended => 0,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use media_core::{Kind, MediaTime, Packet, Role, Timescale, Track};
    use mux::{Muxer, Policy};
    use proptest::prelude::*;

    use super::*;

    /// AAC-LC, 48 kHz, stereo.
    const AAC: &[u8] = &[0xAF, 0, 0x11, 0x90];

    /// The events of sound whose frames have these sizes.
    fn events(sizes: &[usize]) -> Vec<Event> {
        let (mut muxer, mut events) = (Muxer::new(Policy::default()), Vec::new());
        let mut push = |millis, payload: Bytes| {
            let time = MediaTime::new(millis, Timescale::MILLIS);
            muxer.push(&Packet::new(Track::first(Kind::Audio), time, Role::Key, payload), &mut events);
        };
        push(0, Bytes::from_static(AAC));
        for (frame, size) in (0..).zip(sizes) {
            push(frame * 64 / 3, [&[0xAF, 1][..], &vec![7; *size]].concat().into());
        }
        muxer.end(&mut events);
        events
    }

    proptest! {
        #[test]
        fn whoever_lags_is_told_of_each_byte_that_is_lost_and_holds_no_more_than_its_limit(
            sizes in prop::collection::vec(1_usize..3_000, 300..600),
            limit in 20_000_usize..300_000,
            takes in prop::collection::vec(0_usize..4, 1..40),
        ) {
            let queue = Queue::new(limit, None);
            let (mut sent, mut fed, mut takes) = (0, Vec::new(), takes.into_iter().cycle());
            for event in events(&sizes) {
                sent += media(&Fed::Event(event.clone()));
                queue.push(event);
                prop_assert!(queue.waiting().bytes <= u64::try_from(limit).unwrap());
                fed.extend((0..takes.next().unwrap_or(0)).map_while(|_| queue.pop()));
            }
            queue.park();
            queue.end();
            fed.extend(std::iter::from_fn(|| queue.pop().filter(|fed| !matches!(fed, Fed::Ended))));

            let lost = |fed: &Fed| if let Fed::Lost { bytes } = fed { *bytes } else { 0 };
            prop_assert_eq!(fed.iter().map(|fed| media(fed) + lost(fed)).sum::<u64>(), sent);
            for pair in fed.windows(2).filter(|pair| lost(&pair[0]) > 0 && !matches!(pair[1], Fed::Parked)) {
                prop_assert!(matches!(pair[1], Fed::Event(Event::Init(_))), "{:?}", pair);
            }
            let mut follows_init = false;
            for fed in &fed {
                match fed {
                    Fed::Event(Event::Init(_)) => follows_init = true,
                    Fed::Event(Event::Part(part)) => {
                        prop_assert!(!follows_init || part.index == 0, "a file begins with a segment");
                        follows_init = false;
                    }
                    Fed::Event(Event::SegmentEnd(_) | Event::Discontinuity(_) | Event::Unsupported(_))
                    | Fed::Lost { .. }
                    | Fed::Parked
                    | Fed::Ended => {}
                }
            }
            prop_assert!(matches!(fed.last(), Some(Fed::Parked)));
        }
    }
}
