//! Makes one stream of what several sources send one after the other, so that its readers need not know.
//!
//! A source that is asked again for the same session starts at its latest keyframe: what was there before is left out. Another
//! session has a timeline of its own, which is moved behind what was there; so time never runs back at a reader.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

use crate::{MediaTime, Packet, Role, Timescale, Track};

/// A packet that is further than this before the last one of its track is no repetition: the publisher has set its clock. A
/// ring holds less.
const REPEATED: Duration = Duration::from_secs(120);

/// Least time between the last packet of one session and the first of the next: a frame.
const STEP: Duration = Duration::from_millis(20);

/// What begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The session that was there before, from an earlier point.
    Same,
    /// Another one.
    Other,
}

/// One stream of several sources.
#[derive(Debug, Default)]
pub struct Splice {
    /// Milliseconds that are added to a source's times; unknown until its first frame.
    offset: Option<i64>,
    /// How long nothing came before this source, in milliseconds.
    gap: i64,
    /// Time of the latest packet.
    newest: Option<i64>,
    /// By track, times of this source, before the offset.
    last: BTreeMap<Track, MediaTime>,
    /// Tracks of which packets may be repetitions.
    repeating: BTreeSet<Track>,
    headers: BTreeMap<(Track, Describes), Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Describes {
    Decoder,
    Rest,
}

impl Splice {
    /// A source begins, `gap` after the last packet of the one before.
    pub fn begin(&mut self, source: Source, gap: Duration) {
        match source {
            Source::Same => self.repeating = self.last.keys().copied().collect(),
            Source::Other => {
                self.offset = self.newest.is_none().then_some(0);
                self.gap = millis(gap.max(STEP));
                self.last.clear();
                self.repeating.clear();
            }
        }
    }

    /// The packet as readers get it; `None` when they have it already.
    pub fn place(&mut self, packet: Packet) -> Option<Packet> {
        let describes = match packet.role {
            Role::Header => Some(Describes::Decoder),
            Role::Annotation => Some(Describes::Rest),
            Role::Key | Role::Dependent => None,
        };
        match describes {
            Some(describes) => self.header(describes, packet),
            None => self.frame(packet),
        }
    }

    fn header(&mut self, describes: Describes, packet: Packet) -> Option<Packet> {
        let known = self.headers.insert((packet.track, describes), packet.payload.clone());
        if known.as_ref() == Some(&packet.payload) {
            return None;
        }
        // it prepares what comes next, and metadata has the time zero
        let time = self.offset.map(|offset| packet.time.as_millis().saturating_add(offset)).max(self.newest);
        Some(at(time.unwrap_or_else(|| packet.time.as_millis()), packet))
    }

    fn frame(&mut self, packet: Packet) -> Option<Packet> {
        let time = packet.time;
        if self.repeating.contains(&packet.track)
            && let Some(last) = self.last.get(&packet.track)
        {
            let before = time.as_millis() <= last.as_millis();
            if before && u128::from(time.distance_millis(*last)) <= REPEATED.as_millis() {
                return None;
            }
            self.repeating.remove(&packet.track);
        }
        self.last.insert(packet.track, time);
        let offset = match self.offset {
            Some(offset) => offset,
            None => {
                let start = self.newest.unwrap_or_default().saturating_add(self.gap);
                start.saturating_sub(time.as_millis())
            }
        };
        self.offset = Some(offset);
        let millis = time.as_millis().saturating_add(offset);
        self.newest = self.newest.max(Some(millis));
        Some(if offset == 0 { packet } else { at(millis, packet) })
    }
}

fn at(millis: i64, packet: Packet) -> Packet {
    if packet.time.as_millis() == millis {
        return packet;
    }
    Packet::new(packet.track, MediaTime::new(millis, Timescale::MILLIS), packet.role, packet.payload)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Kind::{self, Audio, Data, Video};
    use Role::{Dependent, Header, Key};

    fn packet(kind: Kind, role: Role, ms: i64, text: &'static str) -> Packet {
        let time = MediaTime::new(ms, Timescale::MILLIS);
        Packet::new(Track::first(kind), time, role, Bytes::from_static(text.as_bytes()))
    }

    fn placed(splice: &mut Splice, packets: &[(Kind, Role, i64, &'static str)]) -> Vec<(Kind, i64)> {
        let packets = packets.iter().map(|(kind, role, ms, text)| packet(*kind, *role, *ms, text));
        packets.filter_map(|packet| splice.place(packet)).map(|p| (p.track.kind, p.time.as_millis())).collect()
    }

    fn started() -> Splice {
        let mut splice = Splice::default();
        splice.begin(Source::Other, Duration::ZERO);
        let first = placed(
            &mut splice,
            &[
                (Data, Header, 0, "meta"),
                (Video, Header, 5_000, "avc"),
                (Video, Key, 5_000, ""),
                (Audio, Key, 5_010, ""),
                (Video, Dependent, 5_040, ""),
            ],
        );
        assert_eq!(first, [(Data, 0), (Video, 5_000), (Video, 5_000), (Audio, 5_010), (Video, 5_040)]);
        splice
    }

    #[test]
    fn the_same_session_goes_on_where_it_was_cut() {
        let mut splice = started();

        splice.begin(Source::Same, Duration::from_secs(1));

        let again = [
            (Data, Header, 0, "meta"),
            (Video, Header, 5_000, "avc"),
            (Video, Key, 5_000, ""),
            (Audio, Key, 5_010, ""),
            (Video, Dependent, 5_040, ""),
            (Audio, Key, 5_031, ""),
            (Video, Dependent, 5_080, ""),
        ];
        assert_eq!(placed(&mut splice, &again), [(Audio, 5_031), (Video, 5_080)]);
    }

    #[test]
    fn another_session_goes_on_after_the_time_that_nothing_came() {
        let mut splice = started();

        splice.begin(Source::Other, Duration::from_millis(700));

        let other = [
            (Data, Header, 0, "other meta"),
            (Video, Header, 40, "avc"),
            (Video, Key, 40, ""),
            (Audio, Key, 31, ""),
            (Video, Header, 80, "hevc"),
            (Video, Key, 80, ""),
        ];
        let expected = [(Data, 5_040), (Video, 5_740), (Audio, 5_731), (Video, 5_780), (Video, 5_780)];
        assert_eq!(placed(&mut splice, &other), expected);
    }

    #[test]
    fn a_clock_that_the_publisher_sets_back_is_no_repetition() {
        let mut splice = started();
        let far = 10 * 60 * 1_000;
        placed(&mut splice, &[(Video, Key, far, "")]);

        splice.begin(Source::Same, Duration::ZERO);

        assert_eq!(placed(&mut splice, &[(Video, Key, 0, ""), (Video, Dependent, 40, "")]), [(Video, 0), (Video, 40)]);
    }

    proptest! {
        /// However often a stream is cut, and from wherever it is sent again, its readers get each packet once, in order.
        #[test]
        fn cuts_repeat_and_lose_nothing(cuts in prop::collection::vec((1..30_usize, 0..30_usize), 0..10)) {
            let mut splice = Splice::default();
            splice.begin(Source::Other, Duration::ZERO);
            let (mut sent, mut got) = (0, Vec::new());
            for (length, back) in cuts {
                for frame in sent..sent + length {
                    let millis = i64::try_from(frame).unwrap() * 40;
                    got.extend(placed(&mut splice, &[(Video, Dependent, millis, "")]).into_iter().map(|(_, ms)| ms / 40));
                }
                sent = (sent + length).saturating_sub(back);
                splice.begin(Source::Same, Duration::ZERO);
            }
            prop_assert!(got.iter().enumerate().all(|(index, frame)| i64::try_from(index).unwrap() == *frame));
        }

        /// Of sessions one after the other, each begins after the one before.
        #[test]
        fn time_never_runs_back_between_sessions(starts in prop::collection::vec((any::<u32>(), 0..1_000_u64), 1..10)) {
            let (mut splice, mut newest) = (Splice::default(), i64::MIN);
            for (start, gap) in starts {
                splice.begin(Source::Other, Duration::from_millis(gap));
                for (_, time) in placed(&mut splice, &[(Video, Key, start.into(), ""), (Video, Key, i64::from(start) + 40, "")]) {
                    prop_assert!(time > newest);
                    newest = time;
                }
            }
        }
    }
}
