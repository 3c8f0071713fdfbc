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
    let mut changes = packaged.changes();
    loop {
        changes.mark_unchanged();
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
            changed = timeout_at(deadline, changes.changed()) => match changed {
                Ok(_changed_or_over) => {}
                Err(_elapsed) => return Err(Refusal::Late),
            },
            () = shutdown.cancelled() => return Err(Refusal::Late),
        }
    }
}
