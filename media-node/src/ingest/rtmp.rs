//! An RTMP publisher: drives `media_core::broadcast::Lifecycle` with what its connection brings.

use std::{
    future::Future,
    pin::{Pin, pin},
    time::Duration,
};

use jiff::Timestamp;
use ledger::{Key, Store};
use media_core::broadcast::{Action, Cause, Denied, Input, Leave, Lifecycle, Timeouts};
use rtmp::{
    Message,
    server::{Event, Request},
    status::Refusal,
};
use tallylight_crds::{Broadcast, Protocol, Reason};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tracing::{debug, info};

use crate::{
    admission::{self, Admission, Admitted},
    claim::{Claims, Control, Farewell, OnAir},
    connection::{Closed, Connection, Looked, Watched},
    hub::{Hub, Place},
    metrics::{ConnectionState, Metrics, RefusalReason},
    recording::Arrival,
    relay::Relays,
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
/// How long the connection of a publisher that is to come back elsewhere is kept until the store knows. Without an answer it is
/// let go all the same, and refused until there is one.
const PARKING: Duration = Duration::from_secs(2);

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
            node.packagers.published(admitted.place.name());
            Publisher::new(connection, admitted, node).run().await
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

type Claiming = Pin<Box<dyn Future<Output = Result<OnAir, Denied>> + Send>>;

/// One publisher, accepted.
struct Publisher<I, S> {
    connection: Connection<I>,
    lifecycle: Lifecycle,
    tags: Tags,
    place: Place,
    broadcast: Broadcast,
    admission: Admission<S>,
    claims: Claims<S>,
    claiming: Option<Claiming>,
    session: Option<OnAir>,
    control: (mpsc::Sender<Control>, mpsc::Receiver<Control>),
    hub: Hub,
    relays: Option<Relays<S>>,
    arrival: Option<Arrival>,
    farewell: Farewell,
    metrics: Metrics,
    shutdown: tokio_util::sync::CancellationToken,
    watched: Watched,
    /// The connection still brings media.
    open: bool,
    /// The publisher has said that it is done, on a connection that it keeps.
    in_due_form: bool,
}

/// What the publisher's task was woken for.
enum Woken {
    Transferred(Result<(), Closed>),
    Answered(Result<OnAir, Denied>),
    Controlled(Control),
    Timer,
    /// An unwatched connection is to be looked at.
    Paced,
    Shutdown,
}

impl<I: Io, S: Store> Publisher<I, S> {
    fn new(connection: Connection<I>, admitted: Admitted, node: &Node<S>) -> Self {
        let timeouts = Timeouts { silence: node.publisher_timeout, claim: admission::DEADLINE };
        let recorder = node.recorder.as_ref();
        let arrival = recorder.map(|recorder| recorder.arrive(admitted.place.name(), &admitted.broadcast));
        Self {
            connection,
            lifecycle: Lifecycle::new(timeouts, std::time::Instant::now()),
            tags: Tags::default(),
            place: admitted.place,
            broadcast: admitted.broadcast,
            admission: node.admission.clone(),
            claims: node.claims.clone(),
            claiming: None,
            session: None,
            control: mpsc::channel(1),
            hub: node.hub.clone(),
            relays: node.relays.clone(),
            arrival,
            farewell: Farewell::Ended,
            metrics: node.metrics.clone(),
            shutdown: node.shutdown.clone(),
            watched: Watched::Yes,
            open: true,
            in_due_form: false,
        }
    }

    async fn run(mut self) -> Option<Connection<I>> {
        let mut timer = pin!(sleep_until(self.deadline()));
        let mut pace = pin!(sleep_until(Instant::now()));
        let mut shutdown = pin!(self.shutdown.clone().cancelled_owned());
        let mut stopping = false;
        self.take_events();
        while !self.lifecycle.is_over() {
            let woken = self.wait(timer.as_mut(), pace.as_mut(), shutdown.as_mut(), stopping).await;
            match woken {
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
                Woken::Answered(answer) => self.claimed(answer),
                Woken::Controlled(Control::Fenced) => self.input(Input::Fenced),
                Woken::Controlled(Control::Stopped) => self.input(Input::Stopped),
                Woken::Controlled(Control::Leave) => self.input(Input::Left(Cause::Shutdown)),
                Woken::Timer => self.input(Input::Tick),
                Woken::Shutdown => {
                    stopping = true;
                    self.input(Input::Left(Cause::Shutdown));
                }
            }
            // a timer that is too early costs one tick; media only ever moves the deadline away
            if timer.is_elapsed() || self.deadline() < timer.deadline() {
                timer.as_mut().reset(self.deadline());
            }
        }
        self.finish().await
    }

    async fn wait(
        &mut self,
        timer: Pin<&mut Sleep>,
        pace: Pin<&mut Sleep>,
        shutdown: Pin<&mut WaitForCancellationFutureOwned>,
        stopping: bool,
    ) -> Woken {
        let claiming = self.claiming.is_some();
        let answer = async {
            match self.claiming.as_mut() {
                Some(claim) => claim.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown, if !stopping => Woken::Shutdown,
            answer = answer, if claiming => Woken::Answered(answer),
            Some(control) = self.control.1.recv() => Woken::Controlled(control),
            () = timer => Woken::Timer,
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
            Watched::Yes if many && self.lifecycle.is_live() => Watched::No,
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

    fn deadline(&self) -> Instant {
        let (deadline, _) = self.lifecycle.poll_timeout().unwrap_or_else(|| (std::time::Instant::now(), "over"));
        deadline.into()
    }

    fn take_events(&mut self) {
        while self.open && !self.lifecycle.is_over() {
            match self.connection.take_event() {
                Ok(None) => return,
                Ok(Some(Event::Media(message))) => self.media(message),
                Ok(Some(Event::Unpublish)) => {
                    self.open = false;
                    self.in_due_form = true;
                    self.input(Input::Left(Cause::Closed));
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
        self.place.push(packet);
        if content == Content::Frame {
            self.input(Input::Media);
        }
    }

    fn lost(&mut self, closed: &Closed) {
        debug!(peer = %self.connection.peer, error = closed as &dyn std::error::Error, "the publisher's connection is over");
        if matches!(closed, Closed::Protocol(_)) {
            self.metrics.refused(RefusalReason::Protocol);
        }
        self.open = false;
        self.input(Input::Left(Cause::Lost));
    }

    fn claimed(&mut self, answer: Result<OnAir, Denied>) {
        self.claiming = None;
        match answer {
            Ok(session) => {
                info!(
                    stream = %self.place.name().id, app = self.place.name().app, peer = %self.connection.peer,
                    session = session.ordinal(), protocol = ?self.connection.protocol, "session.started"
                );
                self.broadcast = session.broadcast().clone();
                if let Some(arrival) = &self.arrival {
                    arrival.on_air(&session);
                }
                self.session = Some(session);
                self.input(Input::Claimed);
            }
            Err(denied) => self.input(Input::ClaimDenied(denied)),
        }
    }

    fn input(&mut self, input: Input) {
        match self.lifecycle.handle(input, std::time::Instant::now()) {
            None => {}
            Some(Action::Claim) => self.claim(),
            Some(Action::End(cause)) => self.end(cause),
            Some(Action::Leave(leave)) => self.leave(leave),
            Some(Action::Abandon) => {
                // dropping the claim has it looked up, and ended if it was made
                self.claiming = None;
                self.refuse(RefusalReason::StoreUnavailable);
            }
        }
    }

    fn claim(&mut self) {
        if let Some(lost) = self.session.take() {
            self.claims.forget(lost);
        }
        let (claims, broadcast, control) = (self.claims.clone(), self.broadcast.clone(), self.control.0.clone());
        let time = Timestamp::now();
        let (admission, name) = (self.admission.clone(), self.place.name().clone());
        self.claiming = Some(Box::pin(async move {
            match claims.claim(&broadcast, Protocol::Rtmp, time, control.clone()).await {
                Err(Denied::Gone) if broadcast.is_ephemeral() => {
                    let broadcast = admission.find_anew(&name).await.map_err(|_refused| Denied::Gone)?;
                    claims.claim(&broadcast, Protocol::Rtmp, time, control).await
                }
                answer => answer,
            }
        }));
    }

    fn end(&mut self, cause: Cause) {
        if let Some(session) = self.session.take() {
            let reason = match cause {
                Cause::Closed => Reason::PublisherClosed,
                Cause::Lost => Reason::PublisherLost,
                Cause::Timeout => Reason::PublisherTimeout,
                Cause::Shutdown => Reason::NodeShutdown,
            };
            self.farewell = self.claims.end(session, reason, Timestamp::now());
        }
        if self.open {
            self.connection.session().reject(Refusal::Unavailable);
        }
    }

    fn leave(&mut self, leave: Leave) {
        if let Some(session) = self.session.take() {
            self.claims.forget(session);
        }
        match leave {
            Leave::BeforeMedia(Cause::Closed | Cause::Lost) => {
                debug!(peer = %self.connection.peer, "publisher left before any media");
            }
            Leave::BeforeMedia(Cause::Timeout) => self.refuse(RefusalReason::NoMedia),
            Leave::BeforeMedia(Cause::Shutdown) => self.refuse(RefusalReason::ShuttingDown),
            Leave::Denied(Denied::OnAir) => self.refuse(RefusalReason::AlreadyLive),
            Leave::Denied(Denied::Gone) | Leave::Stopped => self.refuse(RefusalReason::Stopped),
            Leave::Denied(Denied::LedgerFull) => self.refuse(RefusalReason::LedgerFull),
            Leave::Denied(Denied::Unavailable) => self.refuse(RefusalReason::StoreUnavailable),
        }
    }

    fn refuse(&mut self, reason: RefusalReason) {
        self.metrics.refused(reason);
        let name = self.place.name();
        info!(peer = %self.connection.peer, app = name.app, stream = %name.id, ?reason, "publisher refused");
        if self.open {
            self.connection.session().reject(refusal(reason));
        }
    }

    async fn finish(self) -> Option<Connection<I>> {
        let Self { mut connection, place, in_due_form, relays, farewell, claims, broadcast, arrival, .. } = self;
        if farewell == Farewell::Parked {
            place.park();
        }
        match relays.filter(|_| farewell == Farewell::Parked) {
            Some(relays) => relays.adopt(place),
            // viewers see the end now, not after the farewell
            None => drop(place),
        }
        drop(arrival);
        if farewell == Farewell::Parked {
            // it comes back as soon as it is let go, and must not find its own session in the way
            let _durable = timeout(PARKING, claims.settled(&Key::of(&broadcast))).await;
        }
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
