//! One publisher: its transport from the first check to its end, and what it sends.
//!
//! The driver gives each datagram to [`Publisher::receive`], calls [`Publisher::handle_timeout`] when [`Publisher::poll_timeout`]
//! says, takes what came from [`Publisher::take_received`], and what happened from [`Publisher::poll_event`]. Packets come out as
//! they came in, opened and named: putting them in order and together is for who takes them.

mod congestion;
mod missing;
mod reception;
mod route;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::batch::{Batch, Sink};
use crate::bytes::be16;
use crate::demux::Class;
use crate::dtls::Identity;
use crate::ice::Credentials;
use crate::keyframe::Requests;
use crate::path::Path;
use crate::rtcp::{self, Feedback};
use crate::rtp;
use crate::sdp::{Leg, Offer};
use crate::transport::{Came, Connection, Event, put};
use congestion::Congestion;
pub use missing::GIVE_UP;
use missing::Missing;
use reception::Reception;
use route::{Purpose, Route, Routes};

/// A sender learns of loss and its round trip by these; RFC 3550 §6.2 has them every 5 s, and browsers send them each second.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// As many sources as SRTP listens to.
const MAX_SOURCES: usize = 32;

/// What is taken at most between two turns of the driver: a keyframe of 2 MB. What is beyond is dropped and counted.
const MAX_RECEIVED: usize = 2_048;

/// One encoding of one track: of several, a publisher sends all at once (simulcast).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Layer {
    /// The index of its [`Leg`].
    pub track: usize,
    /// Below [`crate::sdp::Section::layers`], in the peer's order; 0 if there is but one.
    pub layer: usize,
}

/// What came of a publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    Packet(Packet),
    Report(Report),
}

/// An RTP packet, as first sent: what was sent again looks the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub layer: Layer,
    pub came: Instant,
    pub sequence: u16,
    pub timestamp: u32,
    pub marker: bool,
    /// Without extensions and padding; empty if it was all padding.
    pub payload: Bytes,
}

/// What a sender says of its clock: the same instant in NTP's 64 bits and on the encoding's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub layer: Layer,
    pub ntp: u64,
    pub timestamp: u32,
}

/// What a publisher sent, what was asked of it, and what was dropped, each for its reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub packets: u64,
    /// Of datagrams with media.
    pub bytes: u64,
    /// Packets that were asked for again.
    pub asked: u64,
    /// Packets that came when they had been asked for.
    pub recovered: u64,
    /// Packets that never came.
    pub lost: u64,
    pub keyframe_requests: u64,
    /// Packets that belong to no track that was agreed on.
    pub unrouted: u64,
    /// Packets that more came before than anybody takes.
    pub dropped: u64,
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
            asked: self.asked - before.asked,
            recovered: self.recovered - before.recovered,
            lost: self.lost - before.lost,
            keyframe_requests: self.keyframe_requests - before.keyframe_requests,
            unrouted: self.unrouted - before.unrouted,
            dropped: self.dropped - before.dropped,
            checks_refused: self.checks_refused - before.checks_refused,
            datagrams_ignored: self.datagrams_ignored - before.datagrams_ignored,
        }
    }
}

/// What a session needs to know.
pub struct Config<'a> {
    pub offer: &'a Offer,
    /// As [`Offer::accept`] gave them.
    pub legs: &'a [Leg],
    pub credentials: &'a Credentials,
    pub identity: Arc<Identity>,
    /// Random: our name in what we report.
    pub seed: u64,
}

/// One publisher's session.
pub struct Publisher {
    connection: Connection,
    routes: Routes,
    sources: Vec<Source>,
    congestion: Congestion,
    received: Vec<Received>,
    /// Ours.
    ssrc: u32,
    /// Once it is connected.
    next_report: Option<Instant>,
    counters: Counters,
}

/// A sender of the peer.
struct Source {
    ssrc: u32,
    route: Route,
    kind: Kind,
}

enum Kind {
    Media {
        reception: Reception,
        missing: Missing,
        keyframes: Requests,
    },
    /// Of the packets of another source, which are sent again.
    Resent,
    /// The peer sends the encoding by another source now.
    Replaced,
}

impl Publisher {
    #[must_use]
    pub fn new(config: &Config<'_>, now: Instant) -> Self {
        let Config { offer, legs, credentials, identity, seed } = config;
        let [.., a, b, c, d] = seed.to_be_bytes();
        Self {
            connection: Connection::new(offer, credentials, identity.clone(), now),
            routes: Routes::new(offer, legs),
            sources: Vec::new(),
            congestion: Congestion::new(now),
            received: Vec::new(),
            ssrc: u32::from_be_bytes([a, b, c, d]),
            next_report: None,
            counters: Counters::default(),
        }
    }

    /// Takes a datagram that the directory found to be this session's.
    pub fn receive<S: Sink>(&mut self, path: Path, datagram: &[u8], batch: &mut Batch<S>, now: Instant) {
        match self.connection.receive(path, datagram, batch, now) {
            // what was to be sent meanwhile is asked for again
            Came::Nothing | Came::Back => {}
            Came::Connected => self.next_report = Some(now + REPORT_INTERVAL),
            Came::Rtp => self.media(datagram, now),
            Came::Rtcp => {
                if let Some(compound) = self.connection.open_rtcp(datagram) {
                    self.reports(&compound, now);
                }
            }
        }
        batch.flush();
    }

    /// Takes what came since the last call.
    pub fn take_received(&mut self) -> Vec<Received> {
        std::mem::take(&mut self.received)
    }

    /// Reports whether there is something to take.
    #[must_use]
    pub fn has_received(&self) -> bool {
        !self.received.is_empty()
    }

    /// Somebody cannot decode a track before a keyframe. The peer is asked for one every 500 ms at most.
    pub fn want_keyframe(&mut self, track: usize) {
        for source in self.sources.iter_mut().filter(|source| source.route.layer.track == track) {
            if let Kind::Media { keyframes, .. } = &mut source.kind {
                keyframes.want();
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout<S: Sink>(&mut self, batch: &mut Batch<S>, now: Instant) {
        self.connection.handle_timeout(batch, now);
        let mut compound = Vec::new();
        self.ask(&mut compound, now);
        self.congestion.write(self.ssrc, &mut compound, now);
        if self.next_report.is_some_and(|due| due <= now) {
            self.next_report = Some(now + REPORT_INTERVAL);
            // also by itself: a sender that hears nothing from us believes us gone
            self.send(&compound, batch, now);
        } else if !compound.is_empty() {
            self.send(&compound, batch, now);
        }
        batch.flush();
    }

    /// Takes new credentials for its checks, beside those that it has until the peer checks with them.
    pub fn restart(&mut self, credentials: &Credentials, remote_ufrag: String) {
        self.connection.restart(credentials, remote_ufrag);
    }

    /// A connection is no more. If the publisher was reached by it, what it is told waits for its next check.
    pub fn lost(&mut self, path: &Path) {
        self.connection.lost(path);
    }

    /// When [`Self::handle_timeout`] is due next, and what for.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<(Instant, &'static str)> {
        let transport = self.connection.poll_timeout();
        if !self.connection.is_open() {
            return transport;
        }
        let report = self.next_report.map(|due| (due, "a receiver report is due"));
        let sources = self.sources.iter().filter_map(|source| source.poll_timeout(now));
        [transport, report, self.congestion.poll_timeout()]
            .into_iter()
            .flatten()
            .chain(sources)
            .min_by_key(|(due, _)| *due)
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.connection.poll_event()
    }

    /// Ends the session and tells the peer.
    pub fn close<S: Sink>(&mut self, batch: &mut Batch<S>, now: Instant) {
        self.connection.close(batch, now);
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connection.is_open()
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        let Connection { checks_refused, datagrams_ignored, .. } = self.connection;
        Counters { checks_refused, datagrams_ignored, ..self.counters }
    }

    /// Takes a packet that was never sealed: what fuzzing can reach only so.
    #[doc(hidden)]
    pub fn receive_plain(&mut self, packet: &[u8], now: Instant) {
        match Class::of(packet) {
            Class::Rtp => {
                if let Ok(header) = rtp::Header::parse(packet) {
                    self.opened(packet.to_vec(), packet.len(), &header, now);
                }
            }
            Class::Rtcp => self.reports(packet, now),
            Class::Stun | Class::Dtls | Class::Other => {}
        }
    }

    fn media(&mut self, datagram: &[u8], now: Instant) {
        let mut packet = datagram.to_vec();
        let opened = rtp::Header::parse(&packet).ok().filter(|header| {
            self.connection.open().is_some_and(|(_, srtp)| srtp.open_rtp(&mut packet, header).is_ok())
        });
        match opened {
            Some(header) => {
                self.connection.heard(now);
                self.opened(packet, datagram.len(), &header, now);
            }
            None => self.connection.datagrams_ignored += 1,
        }
    }

    /// Takes a packet that is genuine, which does not make it well-formed.
    fn opened(&mut self, packet: Vec<u8>, length: usize, header: &rtp::Header, now: Instant) {
        let Ok(payload) = header.payload(&packet) else {
            self.connection.datagrams_ignored += 1;
            return;
        };
        self.counters.packets += 1;
        // no loss: at most a datagram
        self.counters.bytes += length as u64;
        let Some(at) = self.source(header, &packet) else {
            self.counters.unrouted += 1;
            return;
        };
        let Some(route) = self.sources.get(at).map(|source| source.route) else { return };
        if let Some(number) = route.congestion.and_then(|id| be16(header.extension(&packet, id)?, 0)) {
            self.congestion.arrived(number, header.ssrc, now);
        }
        let payload = Bytes::from(packet).slice(payload);
        let header = Original { sequence: header.sequence, timestamp: header.timestamp, marker: header.marker };
        match self.sources.get_mut(at).map(|source| &mut source.kind) {
            Some(Kind::Media { reception, missing, .. }) => {
                reception.arrived(header.sequence, header.timestamp, now);
                let found = missing.arrived(header.sequence, now);
                self.counters.recovered += u64::from(found);
                self.put(route.layer, header, payload, now);
            }
            Some(Kind::Resent) => self.resent(route.layer, header, &payload, now),
            Some(Kind::Replaced) | None => {}
        }
    }

    /// Which source a packet is of; one that was not known is added, if it can be told what it is.
    fn source(&mut self, header: &rtp::Header, packet: &[u8]) -> Option<usize> {
        if let Some(at) = self.sources.iter().position(|source| source.ssrc == header.ssrc) {
            let is_agreed = self.sources.get(at)?.route.payload_type == header.payload_type;
            return is_agreed.then_some(at);
        }
        if self.sources.len() == MAX_SOURCES {
            return None;
        }
        let route = self.routes.find(header, packet)?;
        let kind = match route.purpose {
            Purpose::Media => Kind::Media {
                reception: Reception::new(route.clock),
                missing: Missing::default(),
                keyframes: Requests::default(),
            },
            Purpose::Resent => Kind::Resent,
        };
        let is_same = |source: &&mut Source| source.route.layer == route.layer && source.route.purpose == route.purpose;
        self.sources.iter_mut().filter(is_same).for_each(|source| source.kind = Kind::Replaced);
        self.sources.push(Source { ssrc: header.ssrc, route, kind });
        Some(self.sources.len() - 1)
    }

    /// Takes a packet that is sent again (RFC 4588 §4): its payload begins with its first number.
    fn resent(&mut self, layer: Layer, header: Original, payload: &Bytes, now: Instant) {
        // what has no more in it measures the path
        let Some(sequence) = be16(payload, 0).filter(|_| payload.len() > 2) else { return };
        let of_layer = |source: &&mut Source| source.route.layer == layer;
        let original = self.sources.iter_mut().filter(of_layer).find_map(|source| match &mut source.kind {
            Kind::Media { missing, .. } => Some(missing),
            Kind::Resent | Kind::Replaced => None,
        });
        // before the first of those that it repeats, nobody waits for it
        let Some(missing) = original else { return };
        if missing.arrived_again(sequence, now) {
            self.counters.recovered += 1;
            self.put(layer, Original { sequence, ..header }, payload.slice(2..), now);
        }
    }

    fn put(&mut self, layer: Layer, header: Original, payload: Bytes, now: Instant) {
        if self.received.len() == MAX_RECEIVED {
            self.counters.dropped += 1;
            return;
        }
        let Original { sequence, timestamp, marker } = header;
        self.received.push(Received::Packet(Packet { layer, came: now, sequence, timestamp, marker, payload }));
    }

    fn reports(&mut self, compound: &[u8], now: Instant) {
        let (sources, received) = (&mut self.sources, &mut self.received);
        let read = rtcp::read(compound, |feedback| match feedback {
            Feedback::SenderReport { ssrc, ntp, rtp } => {
                for source in sources.iter_mut().filter(|source| source.ssrc == ssrc) {
                    if let Kind::Media { reception, .. } = &mut source.kind {
                        reception.reported(ntp, now);
                        if received.len() < MAX_RECEIVED {
                            let layer = source.route.layer;
                            received.push(Received::Report(Report { layer, ntp, timestamp: rtp }));
                        }
                    }
                }
            }
            // we send it nothing
            Feedback::Report(_)
            | Feedback::Nack { .. }
            | Feedback::KeyframeWanted { .. }
            | Feedback::Estimate { .. } => {}
        });
        self.connection.datagrams_ignored += u64::from(read.is_err());
    }

    /// Appends what is asked of the peer: packets again, and keyframes.
    fn ask(&mut self, out: &mut Vec<u8>, now: Instant) {
        for Source { ssrc, kind, .. } in &mut self.sources {
            let Kind::Media { missing, keyframes, .. } = kind else { continue };
            let due = missing.take_due(now);
            self.counters.asked += due.ask.len() as u64;
            self.counters.lost += due.lost;
            rtcp::write_nacks(self.ssrc, *ssrc, &due.ask, out);
            if keyframes.poll(now) {
                self.counters.keyframe_requests += 1;
                rtcp::write_picture_loss(self.ssrc, *ssrc, out);
            }
        }
    }

    /// Sends what is to be told, after a receiver report, with which RFC 3550 §6.1 has each begin.
    fn send<S: Sink>(&mut self, rest: &[u8], batch: &mut Batch<S>, now: Instant) {
        let blocks: Vec<_> = self
            .sources
            .iter_mut()
            .filter_map(|Source { ssrc, kind, .. }| match kind {
                Kind::Media { reception, .. } => reception.block(*ssrc, now),
                Kind::Resent | Kind::Replaced => None,
            })
            .collect();
        let Some((path, srtp)) = self.connection.open() else { return };
        let mut compound = Vec::new();
        rtcp::write_receiver_report(self.ssrc, &blocks, &mut compound);
        compound.extend_from_slice(rest);
        if let Ok(sealed) = srtp.seal_rtcp(&compound) {
            put(path, &sealed, batch);
        }
    }
}

/// What is kept of a packet's header.
#[derive(Clone, Copy)]
struct Original {
    sequence: u16,
    timestamp: u32,
    marker: bool,
}

impl Source {
    fn poll_timeout(&self, now: Instant) -> Option<(Instant, &'static str)> {
        let Kind::Media { missing, keyframes, .. } = &self.kind else { return None };
        let missing = missing.deadline().map(|due| (due, "missing packets are to be asked for"));
        [missing, keyframes.poll_timeout(now)].into_iter().flatten().min_by_key(|(due, _)| *due)
    }
}
