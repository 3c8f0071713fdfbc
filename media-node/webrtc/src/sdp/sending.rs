//! What a section says of the packets that the peer sends in it: their extensions, encodings and sources.

use std::fmt::{self, Write};

/// Encodings of a track that are taken; browsers send three at most.
pub const MAX_LAYERS: usize = 8;

/// As many sources as are listened to.
const MAX_SOURCES: usize = 32;

/// RFC 8852 §3.1: letters, digits, and no more than a packet's extension holds.
const MAX_RID: usize = 16;

const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
const REPAIRED_RID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";
const CONGESTION: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// The identifiers of those extensions of packets that we read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    /// The section's name.
    pub(crate) mid: Option<u8>,
    /// The encoding's name.
    pub(crate) rid: Option<u8>,
    /// The name of the encoding whose packets are sent again.
    pub(crate) repaired_rid: Option<u8>,
    /// A number of the packet among all that are sent.
    pub(crate) congestion: Option<u8>,
}

impl Extensions {
    fn each(&self) -> [(Option<u8>, &'static str); 4] {
        [(self.mid, MID), (self.rid, RID), (self.repaired_rid, REPAIRED_RID), (self.congestion, CONGESTION)]
    }

    fn read(&mut self, value: &str) {
        let mut words = value.split_ascii_whitespace();
        let (Some(id), Some(uri)) = (words.next(), words.next()) else { return };
        // after a slash is which way it is sent
        let id = id.split('/').next().and_then(|id| id.parse().ok()).filter(|id| (1..=255).contains(id));
        let field = match uri {
            MID => &mut self.mid,
            RID => &mut self.rid,
            REPAIRED_RID => &mut self.repaired_rid,
            CONGESTION => &mut self.congestion,
            _ => return,
        };
        *field = field.or(id);
    }
}

/// What is sent in a section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sending {
    pub(crate) extensions: Extensions,
    rids: Vec<String>,
    simulcast: Vec<String>,
    /// Sources that are named, each with the encoding that it is of.
    sources: Vec<(u32, usize)>,
    /// Sources of encodings that have no names, in order.
    group: Vec<u32>,
    /// A source, and the one by which its packets are sent again.
    repairs: Vec<(u32, u32)>,
}

impl Sending {
    pub(super) fn attribute(&mut self, name: &str, value: &str) {
        match name {
            "extmap" => self.extensions.read(value),
            "rid" => self.rid(value),
            "simulcast" if self.simulcast.is_empty() => self.simulcast = encodings(value),
            "ssrc" => {
                let ssrc = value.split_ascii_whitespace().next().and_then(|ssrc| ssrc.parse().ok());
                ssrc.into_iter().for_each(|ssrc| self.source(ssrc));
            }
            "ssrc-group" => self.group(value),
            _ => {}
        }
    }

    fn rid(&mut self, value: &str) {
        let mut words = value.split_ascii_whitespace();
        let (Some(rid), Some("send")) = (words.next(), words.next()) else { return };
        // it is written into the answer
        let is_valid = rid.len() <= MAX_RID && rid.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if is_valid && self.rids.len() < MAX_LAYERS && !self.rids.iter().any(|other| other == rid) {
            self.rids.push(rid.to_owned());
        }
    }

    fn source(&mut self, ssrc: u32) {
        if self.sources.len() < MAX_SOURCES && !self.sources.iter().any(|(other, _)| *other == ssrc) {
            self.sources.push((ssrc, 0));
        }
    }

    fn group(&mut self, value: &str) {
        let mut words = value.split_ascii_whitespace();
        let semantics = words.next();
        let ssrcs: Vec<u32> = words.filter_map(|word| word.parse().ok()).take(MAX_LAYERS).collect();
        match (semantics, ssrcs.as_slice()) {
            (Some("FID"), [of, by]) if self.repairs.len() < MAX_LAYERS => self.repairs.push((*of, *by)),
            (Some("SIM"), [_, ..]) if self.group.is_empty() => self.group = ssrcs,
            (Some(_) | None, _) => {}
        }
    }

    /// The names of a track's encodings, the one that the peer likes best first; none if it has but one.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &str> {
        self.simulcast.iter().filter(|rid| self.rids.contains(rid)).map(String::as_str)
    }

    /// How many encodings there are.
    pub(crate) fn layer_count(&self) -> usize {
        self.layers().count().max(self.group.len()).max(1)
    }

    /// The encoding that a source is of, if it is named.
    pub(crate) fn layer_of(&self, ssrc: u32) -> Option<usize> {
        let original = self.repairs.iter().find(|(_, by)| *by == ssrc).map_or(ssrc, |(of, _)| *of);
        let in_group = self.group.iter().position(|other| *other == original);
        in_group.or_else(|| self.sources.iter().find(|(other, _)| *other == original).map(|(_, layer)| *layer))
    }

    /// The lines of an answer that accept it.
    pub(super) fn accept(&self, f: &mut impl Write) -> fmt::Result {
        for (id, uri) in self.extensions.each() {
            if let Some(id) = id {
                write!(f, "a=extmap:{id} {uri}\r\n")?;
            }
        }
        let layers: Vec<_> = self.layers().collect();
        for layer in &layers {
            write!(f, "a=rid:{layer} recv\r\n")?;
        }
        if layers.is_empty() { Ok(()) } else { write!(f, "a=simulcast:recv {}\r\n", layers.join(";")) }
    }
}

/// RFC 8853 §5.1: of alternatives the first, and those that are paused as well.
fn encodings(value: &str) -> Vec<String> {
    let mut words = value.split_ascii_whitespace().skip_while(|word| *word != "send").skip(1);
    let list = words.next().unwrap_or_default();
    let first = list.split(';').filter_map(|alternatives| alternatives.split(',').next());
    first.map(|rid| rid.trim_start_matches('~').to_owned()).filter(|rid| !rid.is_empty()).take(MAX_LAYERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sending(lines: &[(&str, &str)]) -> Sending {
        let mut sending = Sending::default();
        lines.iter().for_each(|(name, value)| sending.attribute(name, value));
        sending
    }

    #[test]
    fn encodings_are_those_that_are_described_and_listed() {
        let sending = sending(&[
            ("rid", "f send"),
            ("rid", "h send max-width=640"),
            ("rid", "q send"),
            ("rid", "x recv"),
            ("rid", "a-b send"),
            ("simulcast", "recv x send f;~h,q;a-b;none;q"),
        ]);
        assert_eq!(sending.layers().collect::<Vec<_>>(), ["f", "h", "q"]);
        assert_eq!(sending.layer_count(), 3);
        let mut answer = String::new();
        sending.accept(&mut answer).unwrap();
        assert_eq!(answer, "a=rid:f recv\r\na=rid:h recv\r\na=rid:q recv\r\na=simulcast:recv f;h;q\r\n");
    }

    #[test]
    fn sources_are_of_the_encoding_that_their_group_says() {
        let sending = sending(&[
            ("ssrc-group", "FID 1 11"),
            ("ssrc-group", "FID 2 12"),
            ("ssrc-group", "SIM 1 2"),
            ("ssrc", "1 cname:x"),
            ("ssrc", "7 cname:x"),
        ]);
        let layers = [1, 2, 11, 12, 7, 8].map(|ssrc| sending.layer_of(ssrc));
        assert_eq!(layers, [Some(0), Some(1), Some(0), Some(1), Some(0), None]);
        assert_eq!(sending.layer_count(), 2);
    }

    #[test]
    fn extensions_that_we_read_are_accepted_under_their_numbers() {
        let sending = sending(&[
            ("extmap", "1 urn:ietf:params:rtp-hdrext:toffset"),
            ("extmap", &format!("4/sendonly {MID}")),
            ("extmap", &format!("0 {RID}")),
            ("extmap", &format!("300 {REPAIRED_RID}")),
            ("extmap", &format!("3 {CONGESTION}")),
        ]);
        let mut answer = String::new();
        sending.accept(&mut answer).unwrap();
        assert_eq!(answer, format!("a=extmap:4 {MID}\r\na=extmap:3 {CONGESTION}\r\n"));
    }
}
