//! An RTMP publisher: what its connection brings, and what its encoder is told.

use std::{
    pin::{Pin, pin},
    time::Duration,
};

use ledger::Store;
use media_core::broadcast::Cause;
use rtmp::{
    Message,
    server::{Event, Request},
    status::Refusal,
};
use tallylight_crds::Protocol;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{debug, info};

use super::publisher::{Goodbye, Origin, Publisher, Turn};
use crate::{
    admission::{self, Admitted},
    connection::{Closed, Connection, Looked, Watched},
    hub::Hub,
    metrics::{ConnectionState, Metrics, RefusalReason},
    server::Node,
    socket::Io,
};

mod tags;
pub(crate) use tags::message;
use tags::{Content, Tags};

/// Up to so many publishers on the node each is read as soon as anything arrives. Beyond, each is looked at every [`PACE`],
/// so that hundreds cost few reads and no wake-ups.
const FEW_PUBLISHERS: usize = 100;
/// Two frames at 25 fps. A look costs several times what the reading of a message does.
const PACE: Duration = Duration::from_millis(80);
/// Most reads of one look. They hold a keyframe of a megabyte; what is left waits in the socket for the next look.
const READS: usize = 16;
/// Serves a publish command from its admission to its end. Returns the connection when the publisher ended the stream in due
/// form and may ask for another.
pub async fn publish<S: Store, I: Io>(
    mut connection: Connection<I>,
    request: &Request,
    node: &Node<S>,
) -> Option<Connection<I>> {
    let asked = admission::Request {
        app: &request.app,
        id: &request.id,
        key: request.key.as_ref().map(rtmp::name::Key::expose),
    };
    // as long as it is not admitted it may lose its place to newer ones
    let waiting = node.pending.enter(&node.metrics, connection.protocol);
    let admitted = tokio::select! {
        biased;
        () = node.draining.cancelled() => Err(RefusalReason::ShuttingDown),
        () = waiting.evicted() => Err(RefusalReason::TooManyPending),
        admitted = node.admission.admit(asked) => admitted,
    };
    drop(waiting);
    match admitted {
        Ok(admitted) => {
            connection.session().accept();
            connection.expect_media();
            let _counted = node.metrics.connection(ConnectionState::Publishing, connection.protocol);
            Publishing::new(connection, admitted, node).run().await
        }
        Err(reason) => {
            node.metrics.refused(reason);
            info!(peer = %connection.peer, app = request.app, stream = request.id, ?reason, "publisher refused");
            connection.session().reject(refusal(reason));
            connection.close().await;
            None
        }
    }
}

/// How a refusal is said to the encoder.
pub(crate) fn refusal(reason: RefusalReason) -> Refusal {
    match reason {
        RefusalReason::UnknownApp => Refusal::UnknownApp,
        RefusalReason::UnknownStream | RefusalReason::NotLive => Refusal::UnknownStream,
        RefusalReason::WrongKey => Refusal::Denied,
        RefusalReason::AlreadyLive => Refusal::AlreadyPublishing,
        RefusalReason::Stopped => Refusal::Stopped,
        RefusalReason::KeyNotReady
        | RefusalReason::LedgerFull
        | RefusalReason::StoreUnavailable
        | RefusalReason::NotRelayed
        | RefusalReason::ShuttingDown
        | RefusalReason::Protocol
        | RefusalReason::HandshakeTimeout
        | RefusalReason::RequestTimeout
        | RefusalReason::TooManyPending
        | RefusalReason::Stalled
        | RefusalReason::NoMedia => Refusal::Unavailable,
    }
}

/// One publisher's connection.
struct Publishing<I, S> {
    connection: Connection<I>,
    publisher: Publisher<S>,
    tags: Tags,
    hub: Hub,
    metrics: Metrics,
    watched: Watched,
    /// The connection still brings media.
    open: bool,
    /// The publisher has said that it is done, on a connection that it keeps.
    in_due_form: bool,
}

/// What the publisher's task was woken for.
enum Woken {
    Transferred(Result<(), Closed>),
    /// An unwatched connection is to be looked at.
    Paced,
    Turn(Turn),
}

impl<I: Io, S: Store> Publishing<I, S> {
    fn new(connection: Connection<I>, admitted: Admitted, node: &Node<S>) -> Self {
        let origin = Origin { peer: connection.peer, protocol: Protocol::Rtmp, transport: connection.protocol };
        let publisher = Publisher::new(admitted, origin, node);
        let (tags, hub, metrics) = (Tags::default(), node.hub.clone(), node.metrics.clone());
        Self { connection, publisher, tags, hub, metrics, watched: Watched::Yes, open: true, in_due_form: false }
    }

    async fn run(mut self) -> Option<Connection<I>> {
        let mut pace = pin!(sleep_until(Instant::now()));
        self.take_events();
        while !self.publisher.is_over() {
            match self.wait(pace.as_mut()).await {
                Woken::Transferred(Ok(())) => {
                    self.take_events();
                    self.choose_watched();
                    pace.as_mut().reset(Instant::now() + PACE);
                }
                Woken::Paced => {
                    self.look().await;
                    self.choose_watched();
                    pace.as_mut().reset(Instant::now() + PACE);
                }
                Woken::Transferred(Err(closed)) => self.lost(&closed),
                Woken::Turn(turn) => {
                    self.publisher.take(turn);
                    self.say_goodbye();
                }
            }
        }
        self.finish().await
    }

    async fn wait(&mut self, pace: Pin<&mut Sleep>) -> Woken {
        tokio::select! {
            biased;
            turn = self.publisher.next() => Woken::Turn(turn),
            done = self.connection.transfer(), if self.open && self.watched == Watched::Yes => Woken::Transferred(done),
            () = pace, if self.open && self.watched == Watched::No => Woken::Paced,
        }
    }

    /// Reads what has arrived since the last look.
    async fn look(&mut self) {
        for _ in 0..READS {
            match self.connection.look().await {
                Ok(looked) => {
                    self.take_events();
                    if looked == Looked::Enough || !self.open {
                        return;
                    }
                }
                Err(closed) => return self.lost(&closed),
            }
        }
    }

    /// Takes the socket off the reactor while many publish, and puts it back when few do.
    fn choose_watched(&mut self) {
        let many = self.hub.publishers() > FEW_PUBLISHERS;
        let watched = match self.watched {
            // until it is on air it is waited for
            Watched::Yes if many && self.publisher.is_live() => Watched::No,
            Watched::No if many => Watched::No,
            Watched::Yes | Watched::No => Watched::Yes,
        };
        if watched != self.watched && self.open {
            self.watched = watched;
            if let Err(closed) = self.connection.set_watched(watched) {
                self.lost(&closed);
            }
        }
    }

    fn take_events(&mut self) {
        while self.open && !self.publisher.is_over() {
            match self.connection.take_event() {
                Ok(None) => return,
                Ok(Some(Event::Media(message))) => self.media(message),
                Ok(Some(Event::Unpublish)) => {
                    self.open = false;
                    self.in_due_form = true;
                    self.left(Cause::Closed);
                }
                Ok(Some(Event::Connect(_) | Event::Publish(_) | Event::Play(_) | Event::StopPlay)) => {
                    debug!(peer = %self.connection.peer, "a request out of place is left alone");
                }
                Err(closed) => self.lost(&closed),
            }
        }
    }

    fn media(&mut self, message: Message) {
        let Some((packet, content)) = self.tags.packet(message) else { return };
        self.publisher.push(packet, content == Content::Frame);
        self.say_goodbye();
    }

    fn lost(&mut self, closed: &Closed) {
        debug!(peer = %self.connection.peer, error = closed as &dyn std::error::Error, "the publisher's connection is over");
        if matches!(closed, Closed::Protocol(_)) {
            self.metrics.refused(RefusalReason::Protocol);
        }
        self.open = false;
        self.left(Cause::Lost);
    }

    fn left(&mut self, cause: Cause) {
        self.publisher.left(cause);
        self.say_goodbye();
    }

    fn say_goodbye(&mut self) {
        let refusal = match self.publisher.take_goodbye() {
            Some(Goodbye::Refused(reason)) => refusal(reason),
            Some(Goodbye::Ended) => Refusal::Unavailable,
            None => return,
        };
        if self.open {
            self.connection.session().reject(refusal);
        }
    }

    async fn finish(self) -> Option<Connection<I>> {
        let Self { mut connection, publisher, in_due_form, .. } = self;
        publisher.finish().await;
        if let Err(closed) = connection.set_watched(Watched::Yes) {
            debug!(peer = %connection.peer, error = &closed as &dyn std::error::Error, "no farewell");
            return None;
        }
        if in_due_form {
            return Some(connection);
        }
        connection.close().await;
        None
    }
}
