use bytes::Bytes;
use media_core::{Kind, MediaTime, Packet, Role, Timescale, Track};
use tallylight_crds::StreamId;

use super::*;
use crate::hub::Place;

/// AAC-LC, 48 kHz, stereo.
const AAC: &[u8] = &[0xAF, 0, 0x11, 0x90];
const FRAME: &[u8] = b"\xaf\x01sound";

struct Rig {
    hub: Hub,
    packagers: Packagers,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Rig {
    fn new(begin: Begin) -> Self {
        let (hub, tasks, shutdown) = (Hub::default(), TaskTracker::new(), CancellationToken::new());
        let settings = Settings { begin, policy: Policy::default(), window: Duration::ZERO };
        let packagers = Packagers::new(hub.clone(), settings, tasks.clone(), shutdown.clone());
        Self { hub, packagers, shutdown, tasks }
    }

    fn publish(&self) -> Place {
        let place = self.hub.publish(name(), 0).unwrap();
        let time = MediaTime::new(0, Timescale::MILLIS);
        place.push(Packet::new(Track::first(Kind::Audio), time, Role::Header, Bytes::from_static(AAC)));
        place.push(packet(0, FRAME));
        self.packagers.published(&name());
        place
    }

    /// The muxing, once it has found the first frame: of sound alone a reader takes the newest.
    async fn packaged(&self) -> Arc<Packaged> {
        let packaged = self.packagers.of(&name()).unwrap();
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        packaged
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        timeout(Duration::from_secs(5), self.tasks.wait()).await.unwrap();
    }
}

fn playlist(packaged: &Packaged) -> String {
    String::from_utf8(packaged.text(Delta::Full).plain.to_vec()).unwrap()
}

fn name() -> Name {
    Name { app: "LiveApp".to_owned(), id: StreamId::parse("show").unwrap() }
}

fn packet(millis: i64, payload: &'static [u8]) -> Packet {
    let time = MediaTime::new(millis, Timescale::MILLIS);
    Packet::new(Track::first(Kind::Audio), time, Role::Key, Bytes::from_static(payload))
}

/// Sends sound from one second to another.
fn play(place: &Place, seconds: std::ops::Range<i64>) {
    for frame in seconds.start * 3_000 / 64 + 1..=seconds.end * 3_000 / 64 {
        place.push(packet(frame * 64 / 3, FRAME));
    }
}

/// The events up to one that is wanted, in words.
async fn until(follower: &mut Follower, wanted: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let read = async {
        loop {
            let fed = match follower.next().await {
                Fed::Event(Event::Init(_)) => "init".to_owned(),
                Fed::Event(Event::Part(part)) => format!("part {}", part.index),
                Fed::Event(Event::SegmentEnd(_)) => "segment".to_owned(),
                Fed::Event(event) => format!("{event:?}"),
                Fed::Lost { .. } => "lost".to_owned(),
                Fed::Parked => "parked".to_owned(),
                Fed::Ended => "ended".to_owned(),
            };
            seen.push(fed.clone());
            if fed == wanted {
                return;
            }
        }
    };
    timeout(Duration::from_secs(5), read).await.unwrap_or_else(|_| panic!("{wanted} after {seen:?}"));
    seen
}

#[tokio::test]
async fn there_is_one_muxing_of_a_stream_and_none_of_what_nobody_publishes() {
    let rig = Rig::new(Begin::OnDemand);
    assert!(rig.packagers.of(&name()).is_none());
    let _place = rig.publish();

    let (one, two) = (rig.packagers.of(&name()).unwrap(), rig.packagers.of(&name()).unwrap());

    assert!(Arc::ptr_eq(&one, &two));
    assert_eq!((rig.hub.viewers(), rig.tasks.len()), (0, 1));
    drop(_place);
    rig.stop().await;
}

#[tokio::test]
async fn a_follower_gets_all_of_it_from_the_init_to_the_end() {
    let rig = Rig::new(Begin::OnDemand);
    let place = rig.publish();
    let packaged = rig.packaged().await;
    let mut follower = packaged.follow(1 << 20);
    play(&place, 0..3);
    drop(place);

    let seen = until(&mut follower, "ended").await;

    assert_eq!(seen.first().map(String::as_str), Some("init"));
    assert_eq!(seen.iter().filter(|event| *event == "segment").count(), 2, "{seen:?}");
    assert!(matches!(follower.next().await, Fed::Ended));
    assert_eq!(packaged.state(), State::Ended);
    assert!(playlist(&packaged).ends_with("#EXT-X-ENDLIST\n"));
    assert!(rig.packagers.ended(&name()).is_some() && rig.packagers.of(&name()).is_none());
    rig.stop().await;
}

#[tokio::test]
async fn who_comes_later_begins_with_an_init_and_a_segment() {
    let rig = Rig::new(Begin::OnDemand);
    let place = rig.publish();
    let packaged = rig.packaged().await;
    let mut first = packaged.follow(1 << 20);
    play(&place, 0..2);
    until(&mut first, "part 1").await;

    let mut follower = packaged.follow(1 << 20);
    play(&place, 2..5);
    drop(place);

    let seen = until(&mut follower, "ended").await;
    assert_eq!(seen[..2], ["init", "part 0"], "{seen:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_follower_that_lags_is_told_what_it_lost_and_goes_on_with_a_whole_segment() {
    let rig = Rig::new(Begin::OnDemand);
    let place = rig.publish();
    let packaged = rig.packaged().await;
    let (mut quick, mut slow) = (packaged.follow(1 << 20), packaged.follow(8_000));
    for second in [0, 3, 6] {
        play(&place, second..second + 3);
        until(&mut quick, "segment").await;
    }

    drop(place);

    let seen = until(&mut slow, "ended").await;
    let lost = seen.iter().position(|event| event == "lost").unwrap();
    assert_eq!(seen[0], "init", "{seen:?}");
    assert_eq!(seen[lost + 1..lost + 3], ["init", "part 0"], "{seen:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_publisher_that_comes_back_goes_on_in_the_same_playlist() {
    let rig = Rig::new(Begin::OnDemand);
    let place = rig.publish();
    let packaged = rig.packaged().await;
    let mut follower = packaged.follow(1 << 20);
    play(&place, 0..3);
    place.park();
    drop(place);
    assert_eq!(timeout(Duration::from_secs(5), rig.packagers.parked()).await.unwrap(), [name()]);
    assert!(Arc::ptr_eq(&packaged, &rig.packagers.of(&name()).unwrap()), "players go on to read it");

    let place = rig.publish();
    rig.packaged().await;
    play(&place, 0..3);
    drop(place);

    let seen = until(&mut follower, "ended").await;
    let ends: Vec<_> = seen.iter().filter(|event| ["init", "parked", "ended"].contains(&event.as_str())).collect();
    assert_eq!(ends, ["init", "parked", "init", "ended"], "{seen:?}");
    let parked = seen.iter().position(|event| event == "parked").unwrap();
    assert_eq!(seen[parked - 1], "segment", "all of the first publisher comes before");
    let text = playlist(&packaged);
    assert_eq!(text.matches("#EXT-X-DISCONTINUITY\n").count(), 1, "{text}");
    rig.stop().await;
}

#[tokio::test]
async fn what_becomes_of_a_publisher_that_is_away_ends_the_muxing() {
    for (verdict, remains) in [(State::Ended, true), (State::GivenUp, false)] {
        let rig = Rig::new(Begin::AtPublish);
        let place = rig.publish();
        let packaged = rig.packaged().await;
        let mut follower = packaged.follow(1 << 20);
        play(&place, 0..3);
        place.park();
        drop(place);
        timeout(Duration::from_secs(5), rig.packagers.parked()).await.unwrap();

        rig.packagers.settle(&name(), verdict);

        until(&mut follower, "ended").await;
        assert_eq!(packaged.state(), verdict);
        assert_eq!(rig.packagers.ended(&name()).is_some(), remains);
        rig.stop().await;
    }
}

#[tokio::test]
async fn numbers_of_a_later_muxing_are_greater() {
    let rig = Rig::new(Begin::OnDemand);
    let mut last = 0;
    for _ in 0..2 {
        let place = rig.publish();
        let packaged = rig.packaged().await;
        let mut follower = packaged.follow(1 << 20);
        play(&place, 0..5);
        drop(place);
        let (first, mut newest) = (packaged.first, 0);
        while let Fed::Event(event) = follower.next().await {
            if let Event::Part(part) = event {
                newest = part.segment;
            }
        }

        assert!(u64::from(first) > last && newest >= u64::from(first), "{first} after {last}");
        last = newest;
    }
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_muxing_that_was_given_up_is_followed_by_one_that_does_not_go_on_with_it() {
    let rig = Rig::new(Begin::OnDemand);
    let place = rig.publish();
    let mut last = None;
    for round in 0..3 {
        let packaged = rig.packaged().await;
        play(&place, round * 5..round * 5 + 5);
        let given_up = async {
            loop {
                let changed = packaged.changed();
                if packaged.state() == State::GivenUp {
                    return;
                }
                changed.await;
            }
        };
        timeout(IDLE * 4, given_up).await.unwrap();
        let text = playlist(&packaged);
        let (head, _) = text.split_once("#EXT-X-MAP").unwrap();
        assert_eq!(head.ends_with("#EXT-X-DISCONTINUITY\n"), last.is_some(), "{text}");
        let now = packaged.look(Window::discontinuities);
        assert!(last.is_none_or(|last| now > last), "{now} after {last:?}");
        last = Some(now);
    }
    drop(place);
    rig.stop().await;
}
