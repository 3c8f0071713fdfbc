//! One viewer: its transport from the first check to its end, and the tracks that it is sent.
//!
//! The driver gives each datagram to [`Viewer::receive`], calls [`Viewer::handle_timeout`] when [`Viewer::poll_timeout`] says,
//! has each frame sent by [`Viewer::send`], and takes what happened from [`Viewer::poll_event`]. What is to be sent goes into the
//! driver's [`Batch`].

mod leg;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::{Batch, Sink};
use crate::demux::Class;
use crate::dtls::{self, Association, Identity, Progress};
use crate::ice::{Agent, Credentials};
use crate::path::Path;
use crate::rtcp::{self, Feedback};
use crate::sdp::{Leg as Chosen, Offer};
use crate::source::{Pushed, Source};
use crate::srtp;
use leg::Leg;
pub use leg::Quality;

/// A peer that is not connected by then never will be; browsers themselves give up after 15 s.
pub const ESTABLISH: Duration = Duration::from_secs(15);

/// A receiver keeps tracks in step by sender reports; clocks do not part noticeably in between.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

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
    Connected,
    /// The viewer cannot decode before a keyframe.
    KeyframeWanted,
    /// The last event.
    Closed(Cause),
}

/// What a viewer was sent and what was dropped on the way, each for its reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub packets: u64,
    pub bytes: u64,
    /// Sent again on request.
    pub resent: u64,
    /// Asked for when no longer kept.
    pub resend_too_old: u64,
    /// Asked for beyond what a viewer may have sent again.
    pub resend_over_budget: u64,
    /// Frames that were left out while waiting for a keyframe.
    pub frames_skipped: u64,
    /// Packets that the socket had no room for.
    pub packets_refused: u64,
    /// Packets that no datagram holds.
    pub packets_oversize: u64,
    pub keyframe_requests: u64,
    /// Checks with a wrong name or password, or malformed.
    pub checks_refused: u64,
    /// Datagrams that were not genuine, or of no use.
    pub datagrams_ignored: u64,
}

/// What a session needs to know.
pub struct Config<'a> {
    pub offer: &'a Offer,
    /// As [`Offer::choose`] gave them for the tracks of the viewer's [`Source`].
    pub legs: &'a [Chosen],
    pub credentials: &'a Credentials,
    pub cname: Arc<str>,
    pub identity: Arc<Identity>,
    /// Random: where the legs' sequence numbers begin.
    pub seed: u64,
}

/// One viewer's session.
pub struct Viewer {
    agent: Agent,
    association: Association,
    srtp: Option<srtp::Session>,
    legs: Vec<Leg>,
    cname: Arc<str>,
    state: State,
    events: VecDeque<Event>,
    counters: Counters,
}

enum State {
    /// Waits for checks and the handshake.
    Opening {
        until: Instant,
    },
    Live {
        next_report: Instant,
    },
    Closed,
}

impl Viewer {
    #[must_use]
    pub fn new(config: &Config<'_>, now: Instant) -> Self {
        let Config { offer, legs, credentials, cname, identity, seed } = config;
        // each leg begins its numbers with other bits
        let leg = |(at, chosen): (u32, &Chosen)| Leg::new(chosen, seed.rotate_right(16 * (at % 4)));
        Self {
            agent: Agent::new(credentials, offer.ice_ufrag.clone()),
            association: Association::new(identity.clone(), offer.role, offer.fingerprint),
            srtp: None,
            legs: (0..).zip(*legs).map(leg).collect(),
            cname: cname.clone(),
            state: State::Opening { until: now + ESTABLISH },
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Takes a datagram that the directory found to be this session's.
    pub fn receive<S: Sink>(
        &mut self,
        path: Path,
        datagram: &[u8],
        source: &Source,
        batch: &mut Batch<S>,
        now: Instant,
    ) {
        if matches!(self.state, State::Closed) {
            return;
        }
        match Class::of(datagram) {
            Class::Stun => self.check(path, datagram, batch, now),
            Class::Dtls => self.handshake(datagram, source, batch, now),
            Class::Rtcp => self.feedback(datagram, source, batch, now),
            Class::Rtp | Class::Other => self.counters.datagrams_ignored += 1,
        }
        batch.flush();
    }

    /// Sends a frame that the source was given.
    pub fn send<S: Sink>(&mut self, pushed: &Pushed, source: &Source, batch: &mut Batch<S>, now: Instant) {
        let (State::Live { .. }, Some(path), Some(srtp)) = (&self.state, self.agent.path(), &mut self.srtp) else {
            return;
        };
        let Some(leg) = self.legs.iter_mut().find(|leg| leg.track() == pushed.track) else { return };
        leg.send(pushed, source, &mut leg::Wire { path, srtp, batch, counters: &mut self.counters });
        batch.flush();
        let refused = batch.take_refused();
        if refused > 0 {
            self.counters.packets_refused += refused;
            leg.pause();
        }
        self.report_first(source, batch, now);
    }

    /// Does what is due.
    pub fn handle_timeout<S: Sink>(&mut self, source: &Source, batch: &mut Batch<S>, now: Instant) {
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
            State::Live { next_report } if next_report <= now => self.report(source, batch, now),
            State::Live { .. } | State::Closed => {}
        }
        batch.flush();
    }

    /// When [`Self::handle_timeout`] is due next, and what for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let own = match self.state {
            State::Opening { until } => (until, "the session is to be connected"),
            State::Live { next_report } => (next_report, "a sender report is due"),
            State::Closed => return None,
        };
        let consent = self.agent.expires().map(|due| (due, "consent expires"));
        let flight = self.association.poll_timeout().map(|due| (due, "a DTLS flight is due again"));
        [Some(own), consent, flight].into_iter().flatten().min_by_key(|(due, _)| *due)
    }

    /// Leaves out what comes before the next keyframe.
    pub fn pause(&mut self) {
        self.legs.iter_mut().for_each(Leg::pause);
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Ends the session and tells the peer.
    pub fn close<S: Sink>(&mut self, batch: &mut Batch<S>, now: Instant) {
        if matches!(self.state, State::Closed) {
            return;
        }
        self.association.close(now);
        self.send_handshake(batch);
        batch.flush();
        self.end(Cause::Closed);
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What the viewer reported of a track, once it has.
    #[must_use]
    pub fn quality(&self, track: usize) -> Option<Quality> {
        self.legs.iter().find(|leg| leg.track() == track).and_then(Leg::quality)
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Live { .. })
    }

    fn end(&mut self, cause: Cause) {
        if !matches!(self.state, State::Closed) {
            self.state = State::Closed;
            self.srtp = None;
            self.events.push_back(Event::Closed(cause));
        }
    }

    fn check<S: Sink>(&mut self, path: Path, datagram: &[u8], batch: &mut Batch<S>, now: Instant) {
        let is_first = self.agent.path().is_none();
        let Ok(response) = self.agent.check(path, datagram, now) else {
            self.counters.checks_refused += 1;
            return;
        };
        self.events.push_back(Event::Path(path));
        put(path, &response, batch);
        if is_first {
            match self.association.start(now) {
                Ok(()) => self.send_handshake(batch),
                Err(error) => self.end(Cause::Dtls(error)),
            }
        }
    }

    fn handshake<S: Sink>(&mut self, datagram: &[u8], source: &Source, batch: &mut Batch<S>, now: Instant) {
        let progress = self.association.receive(datagram, now);
        if matches!(progress, Err(dtls::Error::Fingerprint | dtls::Error::NoProfile)) {
            self.association.close(now);
        }
        self.send_handshake(batch);
        match progress {
            Ok(Progress::None) => {}
            Ok(Progress::Connected(srtp)) => self.connected(srtp, source, batch, now),
            Ok(Progress::PeerClosed) => self.end(Cause::PeerClosed),
            Err(error) => self.end(Cause::Dtls(error)),
        }
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

    /// Sends the current group at once, so that the picture is there with the first frames; without one, asks for it.
    fn connected<S: Sink>(&mut self, srtp: srtp::Session, source: &Source, batch: &mut Batch<S>, now: Instant) {
        self.state = State::Live { next_report: now + REPORT_INTERVAL };
        self.events.push_back(Event::Connected);
        let srtp = self.srtp.insert(srtp);
        let Some(path) = self.agent.path() else { return };
        let mut wire = leg::Wire { path, srtp, batch, counters: &mut self.counters };
        let mut is_keyframe_wanted = false;
        for leg in &mut self.legs {
            is_keyframe_wanted |= leg.join(source, &mut wire) == leg::Joined::Waits;
        }
        batch.flush();
        let refused = batch.take_refused();
        self.counters.packets_refused += refused;
        if refused > 0 {
            self.legs.iter_mut().for_each(Leg::pause);
        }
        if is_keyframe_wanted || refused > 0 {
            self.events.push_back(Event::KeyframeWanted);
        }
        self.report_first(source, batch, now);
    }

    fn feedback<S: Sink>(&mut self, datagram: &[u8], source: &Source, batch: &mut Batch<S>, now: Instant) {
        let (Some(srtp), Some(path)) = (&mut self.srtp, self.agent.path()) else {
            self.counters.datagrams_ignored += 1;
            return;
        };
        let Ok(compound) = srtp.open_rtcp(datagram) else {
            self.counters.datagrams_ignored += 1;
            return;
        };
        let (legs, events) = (&mut self.legs, &mut self.events);
        let mut wire = leg::Wire { path, srtp, batch, counters: &mut self.counters };
        let mut is_keyframe_wanted = false;
        let read = rtcp::read(&compound, |feedback| match feedback {
            Feedback::Report(report) => {
                legs.iter_mut()
                    .filter(|leg| leg.ssrc() == report.ssrc)
                    .for_each(|leg| leg.reported(&report, source, now));
            }
            Feedback::Nack { ssrc, sequence } => {
                legs.iter_mut()
                    .filter(|leg| leg.ssrc() == ssrc)
                    .for_each(|leg| leg.resend(sequence, source, &mut wire));
            }
            Feedback::KeyframeWanted { ssrc } => is_keyframe_wanted |= legs.iter().any(|leg| leg.ssrc() == ssrc),
        });
        self.counters.datagrams_ignored += u64::from(read.is_err());
        if is_keyframe_wanted {
            self.counters.keyframe_requests += 1;
            events.push_back(Event::KeyframeWanted);
        }
        batch.flush();
        // what does not fit here is asked for again
        self.counters.packets_refused += batch.take_refused();
    }

    /// Tells a joining viewer at once how the tracks' clocks relate.
    fn report_first<S: Sink>(&mut self, source: &Source, batch: &mut Batch<S>, now: Instant) {
        if self.legs.iter().any(Leg::is_unreported) {
            self.report(source, batch, now);
            batch.flush();
        }
    }

    fn report<S: Sink>(&mut self, source: &Source, batch: &mut Batch<S>, now: Instant) {
        self.state = State::Live { next_report: now + REPORT_INTERVAL };
        let (Some(srtp), Some(path)) = (&mut self.srtp, self.agent.path()) else { return };
        let mut compound = Vec::new();
        for leg in &mut self.legs {
            leg.report(source, now, &self.cname, &mut compound);
        }
        if compound.is_empty() {
            return;
        }
        if let Ok(sealed) = srtp.seal_rtcp(&compound) {
            batch.flush();
            put(path, &sealed, batch);
        }
    }
}

fn put<S: Sink>(path: Path, datagram: &[u8], batch: &mut Batch<S>) {
    let written = batch.push(path, datagram.len(), |room| {
        room.copy_from_slice(datagram);
        Ok::<_, std::convert::Infallible>(())
    });
    match written {
        Ok(()) => {}
        Err(never) => match never {},
    }
}
