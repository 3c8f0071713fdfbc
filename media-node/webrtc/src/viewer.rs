//! One viewer: its transport from the first check to its end, and the tracks that it is sent.
//!
//! The driver gives each datagram to [`Viewer::receive`], calls [`Viewer::handle_timeout`] when [`Viewer::poll_timeout`] says,
//! has each frame sent by [`Viewer::send`], and takes what happened from [`Viewer::poll_event`]. What is to be sent goes into the
//! driver's [`Batch`].

mod choice;
mod leg;
mod picture;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::{Batch, Sink};
use crate::dtls::Identity;
use crate::ice::Credentials;
use crate::path::Path;
use crate::rtcp::{self, Feedback};
use crate::sdp::{Leg as Chosen, Offer};
use crate::source::{Pushed, Source};
use crate::transport::{Came, Connection, Event, Reach, put};
use leg::Leg;
pub use leg::Quality;

/// A receiver keeps tracks in step by sender reports; clocks do not part noticeably in between.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

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

impl Counters {
    /// What was counted after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            packets: self.packets - before.packets,
            bytes: self.bytes - before.bytes,
            resent: self.resent - before.resent,
            resend_too_old: self.resend_too_old - before.resend_too_old,
            resend_over_budget: self.resend_over_budget - before.resend_over_budget,
            frames_skipped: self.frames_skipped - before.frames_skipped,
            packets_refused: self.packets_refused - before.packets_refused,
            packets_oversize: self.packets_oversize - before.packets_oversize,
            keyframe_requests: self.keyframe_requests - before.keyframe_requests,
            checks_refused: self.checks_refused - before.checks_refused,
            datagrams_ignored: self.datagrams_ignored - before.datagrams_ignored,
        }
    }
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
    connection: Connection,
    legs: Vec<Leg>,
    cname: Arc<str>,
    /// Once it is connected.
    next_report: Option<Instant>,
    counters: Counters,
}

impl Viewer {
    #[must_use]
    pub fn new(config: &Config<'_>, now: Instant) -> Self {
        let Config { offer, legs, credentials, cname, identity, seed } = config;
        // each leg begins its numbers with other bits
        let leg = |(at, chosen): (u32, &Chosen)| Leg::new(chosen, seed.rotate_right(16 * (at % 4)));
        Self {
            connection: Connection::new(offer, credentials, identity.clone(), now),
            legs: (0..).zip(*legs).map(leg).collect(),
            cname: cname.clone(),
            next_report: None,
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
        match self.connection.receive(path, datagram, batch, now) {
            Came::Nothing => {}
            Came::Connected => self.connected(source, batch, now),
            // what was pushed meanwhile was not sent
            Came::Back => {
                self.legs.iter().filter_map(Leg::wanted).for_each(|layer| {
                    self.connection.tell(Event::KeyframeWanted(layer));
                });
            }
            Came::Rtcp => self.feedback(datagram, source, batch, now),
            // it has nothing to send
            Came::Rtp => self.connection.datagrams_ignored += 1,
        }
        batch.flush();
    }

    /// Sends a frame that the source was given.
    pub fn send<S: Sink>(&mut self, pushed: &Pushed, source: &Source, batch: &mut Batch<S>, now: Instant) {
        let Some((path, srtp)) = self.connection.open() else { return };
        let Some(leg) = self.legs.iter_mut().find(|leg| leg.track() == pushed.layer.track) else { return };
        leg.send(pushed, source, &mut leg::Wire { path, srtp, batch, counters: &mut self.counters }, now);
        settle(leg, batch, &mut self.counters);
        self.report_first(source, batch, now);
    }

    /// Does what is due.
    pub fn handle_timeout<S: Sink>(&mut self, source: &Source, batch: &mut Batch<S>, now: Instant) {
        self.connection.handle_timeout(batch, now);
        if self.connection.is_open() && self.next_report.is_some_and(|due| due <= now) {
            self.report(source, batch, now);
        }
        self.spread(source, batch, now);
        batch.flush();
    }

    /// Sends the next part of frames that are too large to be sent at once.
    fn spread<S: Sink>(&mut self, source: &Source, batch: &mut Batch<S>, now: Instant) {
        let Some((path, srtp)) = self.connection.open() else { return };
        for leg in self.legs.iter_mut().filter(|leg| leg.due().is_some_and(|due| due <= now)) {
            batch.flush();
            leg.step(source, &mut leg::Wire { path, srtp, batch, counters: &mut self.counters }, now);
            settle(leg, batch, &mut self.counters);
        }
    }

    /// Reports whether a frame is still to be sent.
    #[must_use]
    pub fn is_spreading(&self) -> bool {
        self.legs.iter().any(|leg| leg.due().is_some())
    }

    /// When [`Self::handle_timeout`] is due next, and what for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let report = self.next_report.filter(|_| self.connection.is_open());
        let report = report.map(|due| (due, "a sender report is due"));
        let step = self.legs.iter().filter_map(Leg::due).min().filter(|_| self.connection.is_open());
        let step = step.map(|due| (due, "a frame is still to be sent"));
        [report, step, self.connection.poll_timeout()].into_iter().flatten().min_by_key(|(due, _)| *due)
    }

    /// Takes new credentials for its checks, beside those that it has until the peer checks with them.
    pub fn restart(&mut self, credentials: &Credentials, remote_ufrag: String) {
        self.connection.restart(credentials, remote_ufrag);
    }

    /// A connection is no more. If the viewer was reached by it, what it is sent waits for its next check and a keyframe.
    pub fn lost(&mut self, path: &Path) {
        if self.connection.lost(path) == Reach::Nowhere {
            self.pause();
        }
    }

    /// Leaves out what comes before the next keyframe.
    pub fn pause(&mut self) {
        self.legs.iter_mut().for_each(Leg::pause);
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.connection.poll_event()
    }

    /// Ends the session and tells the peer.
    pub fn close<S: Sink>(&mut self, batch: &mut Batch<S>, now: Instant) {
        self.connection.close(batch, now);
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        let Connection { checks_refused, datagrams_ignored, .. } = self.connection;
        Counters { checks_refused, datagrams_ignored, ..self.counters }
    }

    /// What the viewer reported of a track, once it has.
    #[must_use]
    pub fn quality(&self, track: usize) -> Option<Quality> {
        self.legs.iter().find(|leg| leg.track() == track).and_then(Leg::quality)
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connection.is_open()
    }

    /// Sends the current group at once, so that the picture is there with the first frames; without one, asks for it.
    fn connected<S: Sink>(&mut self, source: &Source, batch: &mut Batch<S>, now: Instant) {
        self.next_report = Some(now + REPORT_INTERVAL);
        let Some((path, srtp)) = self.connection.open() else { return };
        let mut wire = leg::Wire { path, srtp, batch, counters: &mut self.counters };
        let mut waiting = Vec::new();
        for leg in &mut self.legs {
            if leg.join(source, &mut wire, now) == leg::Joined::Waits {
                waiting.extend(leg.wanted());
            }
        }
        batch.flush();
        let refused = batch.take_refused();
        self.counters.packets_refused += refused;
        if refused > 0 {
            self.legs.iter_mut().for_each(Leg::pause);
            waiting = self.legs.iter().filter_map(Leg::wanted).collect();
        }
        waiting.into_iter().for_each(|layer| self.connection.tell(Event::KeyframeWanted(layer)));
        self.report_first(source, batch, now);
    }

    fn feedback<S: Sink>(&mut self, datagram: &[u8], source: &Source, batch: &mut Batch<S>, now: Instant) {
        let Some(compound) = self.connection.open_rtcp(datagram) else { return };
        let Some((path, srtp)) = self.connection.open() else { return };
        let legs = &mut self.legs;
        let mut wire = leg::Wire { path, srtp, batch, counters: &mut self.counters };
        let (mut wanted, mut qualities) = (Vec::new(), Vec::new());
        let read = rtcp::read(&compound, |feedback| match feedback {
            Feedback::Report(report) => {
                for leg in legs.iter_mut().filter(|leg| leg.ssrc() == report.ssrc) {
                    wanted.extend(leg.reported(&report, source, now));
                    qualities.extend(leg.quality());
                }
            }
            Feedback::Nack { ssrc, sequence } => {
                legs.iter_mut()
                    .filter(|leg| leg.ssrc() == ssrc)
                    .for_each(|leg| leg.resend(sequence, source, &mut wire));
            }
            Feedback::KeyframeWanted { ssrc } => {
                wanted.extend(legs.iter().filter(|leg| leg.ssrc() == ssrc).find_map(Leg::wanted));
            }
            Feedback::Estimate { bits } => legs.iter_mut().for_each(|leg| leg.estimated(bits, now)),
            // it has nothing to send
            Feedback::SenderReport { .. } => {}
        });
        self.connection.datagrams_ignored += u64::from(read.is_err());
        qualities.into_iter().for_each(|quality| self.connection.tell(Event::Reported(quality)));
        // once each, however often one datagram says it
        wanted.sort_unstable();
        wanted.dedup();
        self.counters.keyframe_requests += u64::from(!wanted.is_empty());
        wanted.into_iter().for_each(|layer| self.connection.tell(Event::KeyframeWanted(layer)));
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
        self.next_report = Some(now + REPORT_INTERVAL);
        let Some((path, srtp)) = self.connection.open() else { return };
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

/// Sends what is gathered of a leg, which goes on at a keyframe if it did not fit.
fn settle<S: Sink>(leg: &mut Leg, batch: &mut Batch<S>, counters: &mut Counters) {
    batch.flush();
    let refused = batch.take_refused();
    if refused > 0 {
        counters.packets_refused += refused;
        leg.pause();
    }
}
