//! To which track and encoding a sender's packets belong: the offer names it by its source, or its packets do by a section's name,
//! an encoding's, or their payload type (RFC 8843 §9.2, RFC 8852).

use super::Layer;
use crate::rtp::Header;
use crate::sdp::{Leg, Offer, Sending};

/// What the packets of a source are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Media,
    /// Packets of another source, sent again.
    Resent,
}

/// What is known of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) layer: Layer,
    pub(super) purpose: Purpose,
    pub(super) payload_type: u8,
    /// Ticks a second.
    pub(super) clock: u32,
    /// The extension that numbers its packets for the sake of congestion control.
    pub(super) congestion: Option<u8>,
}

/// How the sources of an offer are found.
#[derive(Debug)]
pub(super) struct Routes(Vec<Lane>);

/// An accepted section.
#[derive(Debug)]
struct Lane {
    track: usize,
    mid: String,
    payload_type: u8,
    resent: Option<u8>,
    clock: u32,
    sending: Sending,
}

impl Routes {
    pub(super) fn new(offer: &Offer, legs: &[Leg]) -> Self {
        let lane = |(track, leg): (usize, &Leg)| {
            let section = offer.sections.get(leg.section)?;
            Some(Lane {
                track,
                mid: section.mid.clone(),
                payload_type: leg.format.payload_type,
                resent: leg.format.rtx,
                clock: leg.format.codec.clock(),
                sending: section.sending.clone(),
            })
        };
        Self(legs.iter().enumerate().filter_map(lane).collect())
    }

    /// What a source's packet says of it; `None` if that is nothing that was agreed on.
    pub(super) fn find(&self, header: &Header, packet: &[u8]) -> Option<Route> {
        let named = self.0.iter().find_map(|lane| Some((lane, lane.sending.layer_of(header.ssrc)?)));
        let lane = named.map(|(lane, _)| lane).or_else(|| self.lane(header, packet))?;
        let purpose = lane.purpose(header.payload_type)?;
        let layer = if lane.sending.layers().next().is_some() {
            lane.encoding(purpose, header, packet)?
        } else {
            named.map_or(0, |(_, layer)| layer)
        };
        Some(Route {
            layer: Layer { track: lane.track, layer },
            purpose,
            payload_type: header.payload_type,
            clock: lane.clock,
            congestion: lane.sending.extensions.congestion,
        })
    }

    /// The section that a packet names, or the only one that has its payload type.
    fn lane(&self, header: &Header, packet: &[u8]) -> Option<&Lane> {
        let is_named = |lane: &&Lane| {
            let id = lane.sending.extensions.mid;
            id.is_some_and(|id| header.extension(packet, id) == Some(lane.mid.as_bytes()))
        };
        self.0.iter().find(is_named).or_else(|| {
            let mut fitting = self.0.iter().filter(|lane| lane.purpose(header.payload_type).is_some());
            fitting.next().filter(|_| fitting.next().is_none())
        })
    }
}

impl Lane {
    fn purpose(&self, payload_type: u8) -> Option<Purpose> {
        if payload_type == self.payload_type {
            Some(Purpose::Media)
        } else {
            (Some(payload_type) == self.resent).then_some(Purpose::Resent)
        }
    }

    /// The encoding that a packet names.
    fn encoding(&self, purpose: Purpose, header: &Header, packet: &[u8]) -> Option<usize> {
        let id = match purpose {
            Purpose::Media => self.sending.extensions.rid,
            Purpose::Resent => self.sending.extensions.repaired_rid,
        };
        let rid = header.extension(packet, id?)?;
        self.sending.layers().position(|layer| layer.as_bytes() == rid)
    }
}
