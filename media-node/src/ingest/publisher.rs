//! A publisher of whatever protocol: its place in the hub, its claim, its recording and its end, as
//! `media_core::broadcast::Lifecycle` decides. What its connection brings is the protocol's.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use ledger::{Key, Store};
use media_core::{
    Packet,
    broadcast::{Action, Cause, Denied, Input, Leave, Lifecycle, Timeouts},
};
use media_rtp::packetize::BFrames;
use tallylight_crds::{Broadcast, FrameOrder, Protocol, Reason};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tracing::{debug, info};

use crate::{
    admission::{self, Admission, Admitted},
    claim::{Claims, Control, Farewell, OnAir},
    hub::{Place, Stream},
    metrics::{Metrics, Protocol as Transport, RefusalReason},
    recording::Arrival,
    relay::Relays,
    server::Node,
};

/// How long the connection of a publisher that is to come back elsewhere is kept until the store knows. Without an answer it is
/// let go all the same, and refused until there is one.
const PARKING: Duration = Duration::from_secs(2);

type Claiming = Pin<Box<dyn Future<Output = Result<OnAir, Denied>> + Send>>;

/// Where a publisher comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) peer: SocketAddr,
    /// What its session says.
    pub(super) protocol: Protocol,
    /// What the log says.
    pub(super) transport: Transport,
}

/// One publisher, admitted.
pub(super) struct Publisher<S> {
    lifecycle: Lifecycle,
    place: Place,
    origin: Origin,
    broadcast: Broadcast,
    admission: Admission<S>,
    claims: Claims<S>,
    claiming: Option<Claiming>,
    session: Option<OnAir>,
    control: (mpsc::Sender<Control>, mpsc::Receiver<Control>),
    relays: Option<Relays<S>>,
    arrival: Option<Arrival>,
    farewell: Farewell,
    metrics: Metrics,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    stopping: bool,
    timer: Pin<Box<Sleep>>,
    goodbye: Option<Goodbye>,
    b_frames: BFrames,
    frames: Seen,
}

/// What was seen of a publisher's pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    InOrder,
    /// It has B-frames, and its session does not say so yet.
    Reordered,
    /// Its session says so, or will.
    Noted,
}

/// What a publisher was woken for, besides its connection.
pub(super) enum Turn {
    Answered(Result<OnAir, Denied>),
    Controlled(Control),
    Timer,
    Shutdown,
}

/// What the connection has to tell the encoder before it is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goodbye {
    Refused(RefusalReason),
    /// The session is over, by no fault of the encoder's.
    Ended,
}

impl<S: Store> Publisher<S> {
    pub(super) fn new(admitted: Admitted, origin: Origin, node: &Node<S>) -> Self {
        let timeouts = Timeouts { silence: node.publisher_timeout, claim: admission::DEADLINE };
        node.packagers.published(admitted.place.name());
        let recorder = node.recorder.as_ref();
        let arrival = recorder.map(|recorder| recorder.arrive(admitted.place.name(), &admitted.broadcast));
        let lifecycle = Lifecycle::new(timeouts, std::time::Instant::now());
        let timer = Box::pin(sleep_until(deadline(&lifecycle)));
        Self {
            lifecycle,
            place: admitted.place,
            origin,
            broadcast: admitted.broadcast,
            admission: node.admission.clone(),
            claims: node.claims.clone(),
            claiming: None,
            session: None,
            control: mpsc::channel(1),
            relays: node.relays.clone(),
            arrival,
            farewell: Farewell::Ended,
            metrics: node.metrics.clone(),
            shutdown: Box::pin(node.shutdown.clone().cancelled_owned()),
            stopping: false,
            timer,
            goodbye: None,
            b_frames: BFrames::default(),
            frames: Seen::InOrder,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.lifecycle.is_over()
    }

    pub(super) fn is_live(&self) -> bool {
        self.lifecycle.is_live()
    }

    /// What its readers read.
    pub(super) fn stream(&self) -> &Arc<Stream> {
        self.place.stream()
    }

    /// Hands a packet to all readers. `is_frame`: it shows that the publisher sends media, and not only what describes it.
    pub(super) fn push(&mut self, packet: Packet, is_frame: bool) {
        if self.b_frames.show_in(&packet) {
            self.has_b_frames();
        }
        self.place.push(packet);
        if is_frame {
            self.input(Input::Media);
        }
    }

    /// The connection brings nothing more.
    pub(super) fn left(&mut self, cause: Cause) {
        self.input(Input::Left(cause));
    }

    /// Waits for what is not the connection's. Dropping it loses nothing.
    pub(super) async fn next(&mut self) -> Turn {
        let deadline = deadline(&self.lifecycle);
        // a timer that is too early costs one tick; media only ever moves the deadline away
        if self.timer.is_elapsed() || deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        let claiming = self.claiming.is_some();
        let answer = async {
            match self.claiming.as_mut() {
                Some(claim) => claim.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.shutdown.as_mut(), if !self.stopping => Turn::Shutdown,
            answer = answer, if claiming => Turn::Answered(answer),
            Some(control) = self.control.1.recv() => Turn::Controlled(control),
            () = self.timer.as_mut() => Turn::Timer,
        }
    }

    /// Does what it was woken for.
    pub(super) fn take(&mut self, turn: Turn) {
        match turn {
            Turn::Answered(answer) => self.claimed(answer),
            Turn::Controlled(Control::Fenced) => self.input(Input::Fenced),
            Turn::Controlled(Control::Stopped) => self.input(Input::Stopped),
            Turn::Controlled(Control::Leave) => self.input(Input::Left(Cause::Shutdown)),
            Turn::Timer => self.input(Input::Tick),
            Turn::Shutdown => {
                self.stopping = true;
                self.input(Input::Left(Cause::Shutdown));
            }
        }
    }

    /// What the encoder is to be told, once.
    pub(super) fn take_goodbye(&mut self) -> Option<Goodbye> {
        self.goodbye.take()
    }

    /// Gives its place back. Returns when its connection may be let go.
    pub(super) async fn finish(self) {
        let Self { place, relays, farewell, claims, broadcast, arrival, .. } = self;
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
    }

    /// Says what viewers over WebRTC will miss, whether or not there are some.
    fn has_b_frames(&mut self) {
        self.metrics.b_frames();
        if self.frames == Seen::InOrder {
            self.frames = Seen::Reordered;
            self.note();
        }
        let (name, peer) = (self.place.name(), self.origin.peer);
        info!(
            app = name.app, stream = %name.id, %peer,
            "the stream has B-frames, so viewers over WebRTC are refused; set bframes=0 or tune zerolatency in OBS' advanced output"
        );
    }

    /// Says of the session, once there is one, what was seen of its pictures.
    fn note(&mut self) {
        if let Some(session) = self.session.as_ref().filter(|_| self.frames == Seen::Reordered) {
            self.claims.note(session, FrameOrder::Reordered);
            self.frames = Seen::Noted;
        }
    }

    fn claimed(&mut self, answer: Result<OnAir, Denied>) {
        self.claiming = None;
        match answer {
            Ok(session) => {
                info!(
                    stream = %self.place.name().id, app = self.place.name().app, peer = %self.origin.peer,
                    session = session.ordinal(), protocol = ?self.origin.transport, "session.started"
                );
                self.broadcast = session.broadcast().clone();
                if let Some(arrival) = &self.arrival {
                    arrival.on_air(&session);
                }
                self.session = Some(session);
                if self.frames == Seen::Noted {
                    // of a session before this one
                    self.frames = Seen::Reordered;
                }
                self.note();
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
        let (time, protocol) = (Timestamp::now(), self.origin.protocol);
        let (admission, name) = (self.admission.clone(), self.place.name().clone());
        self.claiming = Some(Box::pin(async move {
            match claims.claim(&broadcast, protocol, time, control.clone()).await {
                Err(Denied::Gone) if broadcast.is_ephemeral() => {
                    let broadcast = admission.find_anew(&name).await.map_err(|_refused| Denied::Gone)?;
                    claims.claim(&broadcast, protocol, time, control).await
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
        self.goodbye = Some(Goodbye::Ended);
    }

    fn leave(&mut self, leave: Leave) {
        if let Some(session) = self.session.take() {
            self.claims.forget(session);
        }
        match leave {
            Leave::BeforeMedia(Cause::Closed | Cause::Lost) => {
                debug!(peer = %self.origin.peer, "publisher left before any media");
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
        info!(peer = %self.origin.peer, app = name.app, stream = %name.id, ?reason, "publisher refused");
        self.goodbye = Some(Goodbye::Refused(reason));
    }
}

fn deadline(lifecycle: &Lifecycle) -> Instant {
    let (deadline, _) = lifecycle.poll_timeout().unwrap_or_else(|| (std::time::Instant::now(), "over"));
    deadline.into()
}
