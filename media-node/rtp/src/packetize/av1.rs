//! AV1 (RTP Payload Format For AV1, version 1.0): units without their sizes; small ones share a payload, large ones are split.

use bytes::{BufMut as _, Bytes};

use crate::{
    Payload,
    obu::{self, Obu, Role, Size},
    payload::Head,
};

const AGGREGATION_HEADER: usize = 1;
/// The first element goes on from the payload before.
const CONTINUES: u8 = 0x80;
/// The last element goes on in the next payload.
const CONTINUED: u8 = 0x40;
/// A new coded video sequence begins.
const NEW_SEQUENCE: u8 = 0x08;
/// With up to three elements their number is said, and the last has no length.
const COUNTED_ELEMENTS: usize = 3;
/// Of a length below the size of a payload.
const LENGTH: usize = 3;
/// A unit is begun in a payload that has this much room: its header, and some of it.
const BEGINNING: usize = 8;

/// The units in an AV1CodecConfigurationRecord; `None` for what is none.
pub(super) fn configuration(record: &Bytes) -> Option<Bytes> {
    const BEFORE_UNITS: usize = 4;
    const VERSION: u8 = 0x81;

    (record.len() >= BEFORE_UNITS && record.first() == Some(&VERSION)).then(|| record.slice(BEFORE_UNITS..))
}

pub(super) fn payloads(configuration: &Bytes, frame: Bytes, keyframe: bool, max: usize) -> Vec<Payload> {
    let mut units = units(frame);
    if units.is_empty() {
        return Vec::new();
    }
    if keyframe && !units.iter().any(|unit| unit.role() == Role::SequenceHeader) {
        units.splice(0..0, self::units(configuration.clone()));
    }
    let mut sender = Sender {
        first: if keyframe { NEW_SEQUENCE } else { 0 },
        room: max - AGGREGATION_HEADER,
        elements: Vec::new(),
        used: 0,
        payloads: Vec::new(),
    };
    let mut units = units.into_iter().peekable();
    while let Some(unit) = units.next() {
        sender.put(&unit, units.peek().is_none());
    }
    sender.close(0);
    sender.payloads
}

/// What is sent of a frame.
fn units(mut frame: Bytes) -> Vec<Obu> {
    let units = std::iter::from_fn(|| Obu::split_from(&mut frame));
    units.filter(|unit| unit.role() != Role::Filler).collect()
}

/// Packs units so that each payload but a frame's first goes on in the middle of one: without the dependency descriptor, browsers take a
/// payload that begins with a unit for the begin of a frame.
struct Sender {
    /// Bits of the next aggregation header.
    first: u8,
    room: usize,
    /// What the payload has so far: of each element the unit's header, if it begins here, and a part of its body.
    elements: Vec<(Vec<u8>, Bytes)>,
    used: usize,
    payloads: Vec<Payload>,
}

impl Sender {
    fn put(&mut self, unit: &Obu, is_last: bool) {
        let mut header: Vec<u8> = unit.header(Size::LeftOut).collect();
        let mut rest = unit.body.clone();
        loop {
            let own_length = if self.elements.len() < COUNTED_ELEMENTS { 0 } else { LENGTH };
            let room = self.room.saturating_sub(self.used + own_length);
            let whole = header.len() + rest.len();
            let kept = if is_last { 0 } else { LENGTH + LENGTH + BEGINNING };
            if whole + kept <= room {
                return self.push(header, rest);
            }
            let most = room.min(whole.saturating_sub(1));
            if most <= header.len() {
                // too small to be cut, which only a unit of a few bytes is
                self.push(header, rest);
                return self.close(0);
            }
            let part = rest.split_to(most - header.len());
            self.push(std::mem::take(&mut header), part);
            self.close(CONTINUED);
        }
    }

    fn push(&mut self, header: Vec<u8>, body: Bytes) {
        self.used += LENGTH + header.len() + body.len();
        self.elements.push((header, body));
    }

    fn close(&mut self, flags: u8) {
        self.used = 0;
        let mut elements = std::mem::take(&mut self.elements);
        let is_counted = elements.len() <= COUNTED_ELEMENTS;
        let count = if is_counted { u8::try_from(elements.len()).expect("at most three") << 4 } else { 0 };
        let Some((header, body)) = elements.pop() else { return };
        let first =
            std::mem::replace(&mut self.first, if flags & CONTINUED == 0 { 0 } else { CONTINUES }) | count | flags;
        if elements.is_empty() {
            let mut head = Head::of(&[first]);
            header.into_iter().for_each(|byte| head.push(byte));
            return self.payloads.push(Payload::new(head, body));
        }
        let mut payload = vec![first];
        for (header, body) in &elements {
            put(header, body, true, &mut payload);
        }
        put(&header, &body, !is_counted, &mut payload);
        self.payloads.push(Payload::new(Head::default(), payload.into()));
    }
}

fn put(header: &[u8], body: &Bytes, has_length: bool, payload: &mut Vec<u8>) {
    if has_length {
        obu::write_leb128(header.len() + body.len(), payload);
    }
    payload.extend(header);
    payload.put_slice(body);
}
