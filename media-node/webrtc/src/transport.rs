//! The way to one peer, from its first check to its end: checks, the handshake, the keys, consent and the session's deadlines.
//! What is sent and received over it is for [`crate::viewer`] and [`crate::publisher`] to say.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::{Batch, Sink};
use crate::demux::Class;
use crate::dtls::{self, Association, Identity, Progress};
use crate::ice::{Agent, Checked, Credentials};
use crate::path::Path;
use crate::publisher;
use crate::sdp::Offer;
use crate::source::Layer;
use crate::srtp;
use crate::viewer::{Counters, Quality};

/// A peer that is not connected by then never will be; browsers themselves give up after 15 s.
pub const ESTABLISH: Duration = Duration::from_secs(15);

/// What ends a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    #[error("the peer did not connect within 15 s")]
    NeverConnected,
    #[error("the peer has not consented for 30 s")]
    ConsentExpired,
    #[error(transparent)]
    Dtls(dtls::Error),
    #[error("the peer closed the session")]
    PeerClosed,
    #[error("the session was closed")]
    Closed,
}

/// What the driver must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer has proved to be at this path: its other datagrams come from there too.
    Path(Path),
    /// The peer has checked with the credentials of a restart: those before are good no more.
    Restarted,
    Connected,
    /// The viewer cannot decode before a keyframe of this encoding.
    KeyframeWanted(Layer),
    /// What a viewer says of a track, about once a second.
    Reported(Quality),
    /// What was counted of a viewer since this was told before: at least with each sender report, and before the end. The driver makes
    /// it of [`crate::viewer::Viewer::counters`].
    Counted(Counters),
    /// As [`Self::Counted`], of a publisher.
    Received(publisher::Counters),
    /// The last event.
    Closed(Cause),
}

/// What a datagram is, once the transport has taken its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// Nothing for the session.
    Nothing,
    /// The handshake is over: the session begins.
    Connected,
    /// It is sealed RTP, of a peer that is connected.
    Rtp,
    /// As [`Self::Rtp`].
    Rtcp,
    /// A peer that is connected has come back, after its connection was lost.
    Back,
}

/// Whether there is a path to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    There,
    Nowhere,
}

/// The transport of one session.
pub(crate) struct Connection {
    agent: Agent,
    association: Association,
    state: State,
    events: VecDeque<Event>,
    /// Checks with a wrong name or password, or malformed.
    pub(crate) checks_refused: u64,
    /// Datagrams that were not genuine, or of no use.
    pub(crate) datagrams_ignored: u64,
}

enum State {
    /// Waits for checks and the handshake.
    Opening {
        until: Instant,
    },
    Open(Box<srtp::Session>),
    Closed,
}

impl Connection {
    pub(crate) fn new(offer: &Offer, credentials: &Credentials, identity: Arc<Identity>, now: Instant) -> Self {
        Self {
            agent: Agent::new(credentials, offer.ice_ufrag.clone()),
            association: Association::new(identity, offer.role, offer.fingerprint),
            state: State::Opening { until: now + ESTABLISH },
            events: VecDeque::new(),
            checks_refused: 0,
            datagrams_ignored: 0,
        }
    }

    /// Takes a datagram that the directory found to be this session's.
    pub(crate) fn receive<S: Sink>(&mut self, path: Path, datagram: &[u8], batch: &mut Batch<S>, now: Instant) -> Came {
        match (Class::of(datagram), &self.state) {
            (_, State::Closed) => Came::Nothing,
            (Class::Stun, State::Opening { .. } | State::Open(_)) => {
                let was_away = self.agent.path().is_none();
                self.check(path, datagram, batch, now);
                if was_away && self.open().is_some() { Came::Back } else { Came::Nothing }
            }
            (Class::Dtls, State::Opening { .. } | State::Open(_)) => self.handshake(datagram, batch, now),
            (Class::Rtp, State::Open(_)) => Came::Rtp,
            (Class::Rtcp, State::Open(_)) => Came::Rtcp,
            (Class::Rtp | Class::Rtcp, State::Opening { .. })
            | (Class::Other, State::Opening { .. } | State::Open(_)) => {
                self.datagrams_ignored += 1;
                Came::Nothing
            }
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout<S: Sink>(&mut self, batch: &mut Batch<S>, now: Instant) {
        if self.agent.expires().is_some_and(|due| due <= now) {
            return self.end(Cause::ConsentExpired);
        }
        match self.state {
            State::Opening { until } if until <= now => self.end(Cause::NeverConnected),
            State::Opening { .. } => {
                let result = self.association.handle_timeout(now);
                self.send_handshake(batch);
                if let Err(error) = result {
                    self.end(Cause::Dtls(error));
                }
            }
            State::Open(_) | State::Closed => {}
        }
    }

    /// When [`Self::handle_timeout`] is due next, and what for.
    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let establish = match self.state {
            State::Opening { until } => Some((until, "the session is to be connected")),
            State::Open(_) => None,
            State::Closed => return None,
        };
        let consent = self.agent.expires().map(|due| (due, "consent expires"));
        let flight = self.association.poll_timeout().map(|due| (due, "a DTLS flight is due again"));
        [establish, consent, flight].into_iter().flatten().min_by_key(|(due, _)| *due)
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(crate) fn restart(&mut self, credentials: &Credentials, remote_ufrag: String) {
        self.agent.restart(credentials, remote_ufrag);
    }

    /// A connection is no more. A peer that was reached by it is reached again from its next check on.
    pub(crate) fn lost(&mut self, path: &Path) -> Reach {
        self.agent.lost(path);
        if self.agent.path().is_some() { Reach::There } else { Reach::Nowhere }
    }

    /// Ends the session and tells the peer.
    pub(crate) fn close<S: Sink>(&mut self, batch: &mut Batch<S>, now: Instant) {
        if matches!(self.state, State::Closed) {
            return;
        }
        self.association.close(now);
        self.send_handshake(batch);
        batch.flush();
        self.end(Cause::Closed);
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Where to send, and the keys, while the peer is connected.
    pub(crate) fn open(&mut self) -> Option<(Path, &mut srtp::Session)> {
        let path = self.agent.path()?;
        match &mut self.state {
            State::Open(srtp) => Some((path, srtp)),
            State::Opening { .. } | State::Closed => None,
        }
    }

    /// The peer has sent media that is genuine: some encoders check once, and never again.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.agent.heard(now);
    }

    /// Opens what the peer has sealed.
    pub(crate) fn open_rtcp(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let opened = self.open().and_then(|(_, srtp)| srtp.open_rtcp(datagram).ok());
        self.datagrams_ignored += u64::from(opened.is_none());
        opened
    }

    fn end(&mut self, cause: Cause) {
        if !matches!(self.state, State::Closed) {
            self.state = State::Closed;
            self.events.push_back(Event::Closed(cause));
        }
    }

    fn check<S: Sink>(&mut self, path: Path, datagram: &[u8], batch: &mut Batch<S>, now: Instant) {
        let is_first = self.agent.expires().is_none();
        let Ok(Checked { response, restarted }) = self.agent.check(path, datagram, now) else {
            self.checks_refused += 1;
            return;
        };
        if restarted {
            self.events.push_back(Event::Restarted);
        }
        self.events.push_back(Event::Path(path));
        put(path, &response, batch);
        if is_first {
            match self.association.start(now) {
                Ok(()) => self.send_handshake(batch),
                Err(error) => self.end(Cause::Dtls(error)),
            }
        }
    }

    fn handshake<S: Sink>(&mut self, datagram: &[u8], batch: &mut Batch<S>, now: Instant) -> Came {
        let progress = self.association.receive(datagram, now);
        if matches!(progress, Err(dtls::Error::Fingerprint | dtls::Error::NoProfile)) {
            self.association.close(now);
        }
        self.send_handshake(batch);
        match progress {
            Ok(Progress::None) => {}
            Ok(Progress::Connected(srtp)) => {
                self.state = State::Open(srtp);
                self.events.push_back(Event::Connected);
                return Came::Connected;
            }
            Ok(Progress::PeerClosed) => self.end(Cause::PeerClosed),
            Err(error) => self.end(Cause::Dtls(error)),
        }
        Came::Nothing
    }

    fn send_handshake<S: Sink>(&mut self, batch: &mut Batch<S>) {
        while let Some(datagram) = self.association.poll_transmit() {
            if let Some(path) = self.agent.path() {
                put(path, &datagram, batch);
                // one datagram a flight's part: they are not of one size
                batch.flush();
            }
        }
    }
}

/// Sends a datagram as it is.
pub(crate) fn put<S: Sink>(path: Path, datagram: &[u8], batch: &mut Batch<S>) {
    let written = batch.push(path, datagram.len(), |room| {
        room.copy_from_slice(datagram);
        Ok::<_, std::convert::Infallible>(())
    });
    match written {
        Ok(()) => {}
        Err(never) => match never {},
    }
}
