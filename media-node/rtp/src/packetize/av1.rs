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
const MOST_ELEMENTS: usize = 3;

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
    let mut sender =
        Sender { first: if keyframe { NEW_SEQUENCE } else { 0 }, room: max - AGGREGATION_HEADER, payloads: Vec::new() };
    let mut small = Vec::new();
    for unit in units {
        if small.len() == MOST_ELEMENTS || sender.together(&small, &unit) > sender.room {
            sender.aggregate(&small);
            small.clear();
        }
        if unit.len() > sender.room { sender.fragment(&unit) } else { small.push(unit) }
    }
    sender.aggregate(&small);
    sender.payloads
}

/// What is sent of a frame.
fn units(mut frame: Bytes) -> Vec<Obu> {
    let units = std::iter::from_fn(|| Obu::split_from(&mut frame));
    units.filter(|unit| unit.role() != Role::Filler).collect()
}

struct Sender {
    /// Bits of the next aggregation header.
    first: u8,
    room: usize,
    payloads: Vec<Payload>,
}

impl Sender {
    /// Bytes of some units and one more in one payload, at most.
    fn together(&self, units: &[Obu], next: &Obu) -> usize {
        /// Of a length below the size of a payload.
        const LENGTH: usize = 3;
        units.iter().map(|unit| LENGTH + unit.len()).sum::<usize>() + next.len()
    }

    fn header(&mut self, elements: usize, flags: u8) -> u8 {
        let count = u8::try_from(elements).expect("at most three") << 4;
        std::mem::take(&mut self.first) | count | flags
    }

    fn aggregate(&mut self, units: &[Obu]) {
        match units {
            [] => {}
            [unit] => {
                let mut head = Head::of(&[self.header(1, 0)]);
                unit.header(Size::LeftOut).for_each(|byte| head.push(byte));
                self.payloads.push(Payload::new(head, unit.body.clone()));
            }
            [all @ .., last] => {
                let mut payload = vec![self.header(units.len(), 0)];
                for unit in all {
                    obu::write_leb128(unit.len(), &mut payload);
                    put(unit, &mut payload);
                }
                put(last, &mut payload);
                self.payloads.push(Payload::new(Head::default(), payload.into()));
            }
        }
    }

    fn fragment(&mut self, unit: &Obu) {
        let mut rest = unit.body.clone();
        let mut header = Some(unit.header(Size::LeftOut));
        while !rest.is_empty() {
            let begins = header.take();
            let mut flags = if begins.is_some() { 0 } else { CONTINUES };
            let own: Vec<u8> = begins.into_iter().flatten().collect();
            let fragment = rest.split_to(rest.len().min(self.room - own.len()));
            if !rest.is_empty() {
                flags |= CONTINUED;
            }
            let mut head = Head::of(&[self.header(1, flags)]);
            own.into_iter().for_each(|byte| head.push(byte));
            self.payloads.push(Payload::new(head, fragment));
        }
    }
}

fn put(unit: &Obu, payload: &mut Vec<u8>) {
    payload.extend(unit.header(Size::LeftOut));
    payload.put_slice(&unit.body);
}
