//! What players and other nodes ask of a muxing of this node. Whoever asks for what comes soon waits for it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use mux::playlist::{Delta, Wait, Window, uri::Resource};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    answer::{Kept, Media, Refusal},
    query::{Awaited, Reload},
};
use crate::packager::{Packaged, State, Text};

/// The multivariant playlist, once there is a whole segment.
pub(crate) async fn multivariant(
    packaged: &Packaged,
    uri: &str,
    shutdown: &CancellationToken,
) -> Result<(Arc<Text>, Kept), Refusal> {
    let is_whole = |window: &Window| if window.variant(String::new()).is_some() { Wait::Ready } else { Wait::Soon };
    until(packaged, shutdown, is_whole).await?;
    let text = packaged.multivariant(uri).ok_or(Refusal::Late)?;
    Ok((text, Kept::Briefly(target(packaged))))
}

/// The media playlist, once it has what is awaited.
pub(crate) async fn media(
    packaged: &Packaged,
    reload: Reload,
    shutdown: &CancellationToken,
) -> Result<(Arc<Text>, Kept), Refusal> {
    until(packaged, shutdown, |window| match reload.awaited {
        // the numbers of an earlier muxing: the answer is what there is of this one, once there is something
        _ if window.newest().is_none() && !window.is_ended() => Wait::Soon,
        Some(Awaited { segment, part }) => window.wait(segment, part),
        None => Wait::Ready,
    })
    .await?;
    let target = target(packaged);
    let kept = if reload.awaited.is_some() { Kept::Long(target) } else { Kept::Briefly(target) };
    // who awaits what the window no longer has, or another node's muxing had, has nothing to leave out
    let has_it = reload.awaited.is_none_or(|awaited| awaited.segment >= packaged.look(Window::oldest));
    let delta = if has_it { reload.delta } else { Delta::Full };
    Ok((packaged.text(delta), kept))
}

/// A file that the playlist names, or hints at.
pub(crate) async fn file(
    packaged: &Packaged,
    resource: Resource,
    shutdown: &CancellationToken,
) -> Result<Media, Refusal> {
    if let Resource::Part(position) = resource {
        let comes = |window: &Window| window.wait(position.segment, Some(position.part));
        until(packaged, shutdown, comes).await.map_err(|refusal| match refusal {
            Refusal::TooFar => Refusal::NoSuchFile,
            other => other,
        })?;
    }
    let chunks = packaged.look(|window| chunks(window, resource)).ok_or(Refusal::NoSuchFile)?;
    Ok(Media { tag: resource.to_string(), chunks })
}

fn chunks(window: &Window, resource: Resource) -> Option<Arc<[Bytes]>> {
    match resource {
        Resource::Init(number) => Some([window.init(number)?.bytes().clone()].into()),
        Resource::Segment(number) => {
            Some(window.segment(number)?.flat_map(|fragment| fragment.chunks()).cloned().collect())
        }
        Resource::Part(position) => Some(window.part(position)?.chunks().cloned().collect()),
    }
}

fn target(packaged: &Packaged) -> Duration {
    Duration::from_secs(packaged.look(Window::target_duration))
}

/// Waits until what a request needs is there: three target durations at most (RFC 8216bis §6.2.5.2).
async fn until(
    packaged: &Packaged,
    shutdown: &CancellationToken,
    mut judge: impl FnMut(&Window) -> Wait,
) -> Result<(), Refusal> {
    let deadline = Instant::now() + target(packaged) * 3;
    loop {
        let changed = packaged.changed();
        match packaged.look(&mut judge) {
            Wait::Ready => return Ok(()),
            Wait::TooFar => return Err(Refusal::TooFar),
            Wait::Soon if packaged.state() == State::GivenUp => return Err(Refusal::NotLive),
            Wait::Soon if packaged.state() == State::Ended && packaged.look(Window::is_ended) => {
                return Err(Refusal::Late);
            }
            Wait::Soon => {}
        }
        tokio::select! {
            biased;
            changed = timeout_at(deadline, changed) => changed.map_err(|_elapsed| Refusal::Late)?,
            () = shutdown.cancelled() => return Err(Refusal::Late),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        ops::RangeFrom,
        sync::Mutex,
        task::{Context, Poll, Wake, Waker},
    };

    use media_core::{Kind, MediaTime, Packet, Role, Timescale, Track};
    use mux::Policy;
    use tallylight_crds::StreamId;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::{
        hub::{Hub, Name, Place},
        packager::{Begin, Packagers, Settings},
    };

    /// AAC-LC, 48 kHz, stereo.
    const AAC: &[u8] = &[0xAF, 0, 0x11, 0x90];

    /// A player that takes note of each time that it is woken.
    struct Player {
        number: usize,
        woken: Arc<Mutex<Vec<usize>>>,
    }

    impl Wake for Player {
        fn wake(self: Arc<Self>) {
            self.woken.lock().unwrap().push(self.number);
        }
    }

    /// A stream of sound alone that goes on when it is told.
    struct Show {
        place: Place,
        packaged: Arc<Packaged>,
        frames: RangeFrom<i64>,
    }

    impl Show {
        fn begin(packagers: &Packagers, hub: &Hub) -> Self {
            let name = Name { app: "LiveApp".to_owned(), id: StreamId::parse("show").unwrap() };
            let place = hub.publish(name.clone(), 0).unwrap();
            let time = MediaTime::new(0, Timescale::MILLIS);
            place.push(Packet::new(Track::first(Kind::Audio), time, Role::Header, Bytes::from_static(AAC)));
            Self { place, packaged: packagers.of(&name).unwrap(), frames: 0.. }
        }

        /// Sends sound until there is what is wanted, and no frame more.
        async fn goes_on_until(&mut self, is_there: impl Fn(&Window) -> bool) {
            while !self.packaged.look(&is_there) {
                let frame = self.frames.next().unwrap();
                assert!(frame < 1_000, "it never comes");
                let time = MediaTime::new(frame * 64 / 3, Timescale::MILLIS);
                let sound = Bytes::from_static(b"\xaf\x01sound");
                self.place.push(Packet::new(Track::first(Kind::Audio), time, Role::Key, sound));
                // the muxing is a task of this thread
                for _ in 0..8 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    #[tokio::test]
    async fn all_who_wait_for_a_part_get_it_by_one_wake_up_each_in_the_order_in_which_they_asked() {
        const PLAYERS: usize = 500;
        let (hub, tasks, shutdown) = (Hub::default(), TaskTracker::new(), CancellationToken::new());
        let settings = Settings { begin: Begin::OnDemand, policy: Policy::default(), window: Duration::from_secs(12) };
        let packagers = Packagers::new(hub.clone(), settings, tasks.clone(), shutdown.clone());
        let mut show = Show::begin(&packagers, &hub);
        show.goes_on_until(|window| window.newest().is_some()).await;
        let packaged = Arc::clone(&show.packaged);
        let newest = packaged.look(Window::newest).unwrap();
        let (segment, part) = (newest.segment, Some(newest.part + 1));
        let reload = Reload { awaited: Some(Awaited { segment, part }), delta: Delta::Full };
        let woken = Arc::new(Mutex::new(Vec::new()));
        let player = |number| Waker::from(Arc::new(Player { number, woken: Arc::clone(&woken) }));
        let mut players: Vec<_> =
            (0..PLAYERS).map(|number| (player(number), Box::pin(media(&packaged, reload, &shutdown)))).collect();

        for (player, answer) in &mut players {
            assert!(answer.as_mut().poll(&mut Context::from_waker(player)).is_pending());
        }
        show.goes_on_until(|window| {
            let is_there = window.wait(segment, part) == Wait::Ready;
            assert!(is_there || woken.lock().unwrap().is_empty(), "a frame that ends no part wakes nobody");
            is_there
        })
        .await;

        assert_eq!(*woken.lock().unwrap(), (0..PLAYERS).collect::<Vec<_>>());
        let newest = packaged.text(Delta::Full);
        for (player, answer) in &mut players {
            let Poll::Ready(Ok((text, _))) = answer.as_mut().poll(&mut Context::from_waker(player)) else {
                panic!("it was woken for nothing");
            };
            assert!(Arc::ptr_eq(&text, &newest), "one text is made for all");
        }
        drop(show);
        shutdown.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
