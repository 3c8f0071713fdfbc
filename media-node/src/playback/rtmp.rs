//! An RTMP viewer: a cursor in a stream's ring, written out in batches.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use ledger::Store;
use media_core::fanout::{Batch, Item, Read};
use rtmp::{
    chunk::{PLAYER_STREAM, write_message},
    server::{Event, Request},
};
use tallylight_crds::StreamId;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

use super::Streams;
use crate::{
    connection::{Closed, Connection},
    hub::{Name, Viewer},
    ingest::rtmp::{message, refusal},
    metrics::{ConnectionState, RefusalReason},
    server::Node,
    socket::Io,
};

/// One read of the ring: a keyframe interval of some seconds in a few steps, so that a viewer which joins does not hold
/// megabytes at once.
const BATCH: Batch = Batch { packets: 512, bytes: 512 << 10 };

/// Pause between two writes to a viewer for each viewer on the node beyond [`FEW_VIEWERS`]: a few get each packet at once,
/// and hundreds cost few writes.
const PAUSE_PER_VIEWER: Duration = Duration::from_millis(1);
const FEW_VIEWERS: usize = 32;
/// Longest such pause, from 112 viewers on: two frames at 25 fps, little beside the second and more that players buffer.
const LONGEST_PAUSE: Duration = Duration::from_millis(80);

/// A viewer that takes nothing for this long is gone.
const STALL: Duration = Duration::from_secs(30);

/// Serves a play command until the viewer or the stream ends. Returns the connection when the viewer stopped in due form.
pub async fn play<S: Store, I: Io>(
    mut connection: Connection<I>,
    request: &Request,
    node: &Node<S>,
) -> Option<Connection<I>> {
    let viewer = match find(request, node).await {
        Ok(viewer) => viewer,
        Err(reason) => {
            node.metrics.refused(reason);
            info!(peer = %connection.peer, app = request.app, stream = request.id, ?reason, "player refused");
            connection.session().reject(refusal(reason));
            connection.close().await;
            return None;
        }
    };
    connection.session().accept();
    let _counted = node.metrics.connection(ConnectionState::Playing, connection.protocol);
    let mut playing = Playing { connection, viewer, items: Vec::new(), node };
    match playing.run().await {
        Ok(Over::Stopped) => return Some(playing.connection),
        Ok(Over::Ended) => {}
        Ok(Over::Stalled) => node.metrics.refused(RefusalReason::Stalled),
        Err(closed) => {
            let error = &closed as &dyn std::error::Error;
            debug!(peer = %playing.connection.peer, error, "the viewer's connection is over");
            return None;
        }
    }
    playing.connection.close().await;
    None
}

async fn find<S: Store>(request: &Request, node: &Node<S>) -> Result<Viewer, RefusalReason> {
    if node.admission.apps().pool(&request.app).is_none() {
        return Err(RefusalReason::UnknownApp);
    }
    let id = StreamId::parse(&request.id).map_err(|_invalid| RefusalReason::UnknownStream)?;
    let name = Name { app: request.app.clone(), id };
    Streams::of(node).view(&name).await
}

/// Why a play is over while its connection is not.
enum Over {
    /// The viewer stopped.
    Stopped,
    /// The stream or the node.
    Ended,
    /// The viewer takes nothing.
    Stalled,
}

struct Playing<'a, I, S> {
    connection: Connection<I>,
    viewer: Viewer,
    items: Vec<Item>,
    node: &'a Node<S>,
}

impl<I: Io, S: Store> Playing<'_, I, S> {
    async fn run(&mut self) -> Result<Over, Closed> {
        let mut pause = pin!(sleep_until(Instant::now()));
        let mut stall = pin!(sleep_until(Instant::now() + STALL));
        let mut pausing = false;
        self.connection.write_some().await?;
        loop {
            while let Some(event) = self.connection.take_event()? {
                match event {
                    Event::StopPlay => return Ok(Over::Stopped),
                    Event::Connect(_) | Event::Publish(_) | Event::Play(_) | Event::Media(_) | Event::Unpublish => {}
                }
            }
            let stream = std::sync::Arc::clone(&self.viewer.stream);
            let mut more = pin!(stream.more().notified());
            let mut waiting = false;
            if !pausing && self.connection.is_flushed() {
                let mut read = self.read();
                if read == Read::UpToDate {
                    // first in line for the next packet, then a last look
                    more.as_mut().enable();
                    read = self.read();
                }
                match read {
                    Read::Some => {
                        let length = pause_for(self.node.hub.viewers());
                        self.connection.write_some().await?;
                        if !length.is_zero() {
                            pause.as_mut().reset(Instant::now() + length);
                            pausing = true;
                        } else if self.connection.is_flushed() {
                            continue;
                        }
                    }
                    Read::Ended => {
                        self.connection.session().end_play();
                        return Ok(Over::Ended);
                    }
                    Read::UpToDate => waiting = true,
                }
            }
            tokio::select! {
                biased;
                () = self.node.shutdown.cancelled() => {
                    self.connection.session().end_play();
                    return Ok(Over::Ended);
                }
                () = pause.as_mut(), if pausing => pausing = false,
                done = self.connection.transfer() => done?,
                () = more, if waiting => {}
                () = stall.as_mut() => {
                    let since = if self.connection.is_flushed() { Instant::now() } else { self.connection.last_progress() };
                    if since.elapsed() >= STALL {
                        return Ok(Over::Stalled);
                    }
                    stall.as_mut().reset(since + STALL);
                }
            }
        }
    }

    /// Queues what is new in the ring.
    fn read(&mut self) -> Read {
        let read = self.viewer.packets.read(BATCH, &mut self.items);
        for item in self.items.drain(..) {
            self.connection.send(wire(&item));
        }
        let skipped = self.viewer.packets.take_skipped();
        if skipped > 0 {
            self.node.metrics.skipped(skipped);
        }
        read
    }
}

/// The bytes of a packet for players: made once, unless its time is another here.
fn wire(item: &Item) -> Bytes {
    if item.time == item.packet.time {
        item.packet.wire(|p| write_message(&message(p, p.time), PLAYER_STREAM)).clone()
    } else {
        write_message(&message(&item.packet, item.time), PLAYER_STREAM)
    }
}

fn pause_for(viewers: usize) -> Duration {
    let many = u32::try_from(viewers.saturating_sub(FEW_VIEWERS)).unwrap_or(u32::MAX);
    PAUSE_PER_VIEWER.saturating_mul(many).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_viewers_get_each_packet_at_once_and_many_get_batches() {
        assert_eq!(pause_for(1), Duration::ZERO);
        assert_eq!(pause_for(32), Duration::ZERO);
        assert_eq!(pause_for(72), Duration::from_millis(40));
        assert_eq!(pause_for(7_000), LONGEST_PAUSE);
    }
}
