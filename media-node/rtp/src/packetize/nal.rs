//! H.264 (RFC 6184, packetization mode 1) and H.265 (RFC 7798): a unit is a payload, fragments of it are, and the parameter
//! sets together are one, before each keyframe.

use bytes::{BufMut as _, Bytes};

use crate::{
    Payload,
    nal::{self, Record, Role, Standard},
    payload::Head,
};

pub(super) fn payloads(standard: Standard, record: &Record, frame: Bytes, keyframe: bool, max: usize) -> Vec<Payload> {
    let mut payloads = Vec::with_capacity(frame.len() / max + 3);
    let (sets, units): (Vec<_>, Vec<_>) = nal::units(frame, record.length_size)
        .filter(|unit| !matches!(standard.role(unit), Role::Filler | Role::Reserved) && !standard.times_a_model(unit))
        .partition(|unit| matches!(standard.role(unit), Role::ParameterSet(_)));
    if units.is_empty() {
        return payloads;
    }
    // sets in the frame are newer than those of the record
    match (&sets[..], keyframe) {
        ([], true) => parameter_sets(standard, &record.sets, max, &mut payloads),
        (sets, _) => parameter_sets(standard, sets, max, &mut payloads),
    }
    units.into_iter().for_each(|unit| push_unit(standard, unit, max, &mut payloads));
    payloads
}

fn parameter_sets(standard: Standard, sets: &[Bytes], max: usize, payloads: &mut Vec<Payload>) {
    const LENGTH: usize = 2;
    /// As important as what is in it.
    const STAP_A: &[u8] = &[0x60 | nal::STAP_A];
    /// Of layer 0.
    const AP: &[u8] = &[nal::AP << 1, 1];

    let header = match standard {
        Standard::H264 => STAP_A,
        Standard::H265 => AP,
    };
    let together = header.len() + sets.iter().map(|set| LENGTH + set.len()).sum::<usize>();
    if sets.len() < 2 || together > max {
        sets.iter().for_each(|set| push_unit(standard, set.clone(), max, payloads));
        return;
    }
    let mut payload = Vec::with_capacity(together);
    payload.extend_from_slice(header);
    for set in sets {
        payload.put_u16(u16::try_from(set.len()).expect("less than a payload"));
        payload.extend_from_slice(set);
    }
    payloads.push(Payload::new(Head::default(), payload.into()));
}

/// A unit as one payload, or in fragments (FU-A, FU).
fn push_unit(standard: Standard, unit: Bytes, max: usize, payloads: &mut Vec<Payload>) {
    if unit.len() <= max {
        payloads.push(Payload::new(Head::default(), unit));
        return;
    }
    let header = standard.header();
    let mut rest = unit.slice(header..);
    let mut flags = nal::START;
    while !rest.is_empty() {
        let fragment = rest.split_to(rest.len().min(max - header - 1));
        if rest.is_empty() {
            flags |= nal::END;
        }
        payloads.push(Payload::new(fragment_head(standard, &unit, flags), fragment));
        flags = 0;
    }
}

/// The unit's header with a fragment's number in place of its own, which follows in the fragment's header.
fn fragment_head(standard: Standard, unit: &[u8], flags: u8) -> Head {
    match (standard, unit) {
        (Standard::H264, [first, ..]) => Head::of(&[first & 0xE0 | nal::FU_A, flags | first & 0x1F]),
        (Standard::H265, [first, second, ..]) => {
            Head::of(&[first & 0x81 | nal::FU << 1, *second, flags | first >> 1 & 0x3F])
        }
        (Standard::H264 | Standard::H265, _) => Head::default(),
    }
}
