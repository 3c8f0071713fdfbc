//! H.264 (RFC 6184: single units, STAP-A, FU-A) and H.265 (RFC 7798: single units, AP, FU): units with their lengths before
//! them, as FLV has them, and their parameter sets in the configuration.

use bytes::{Buf as _, BufMut as _, Bytes};

use super::{assemble::Malformed, tag::Frame};
use crate::nal::{self, LENGTH, Role, Set, Standard};

/// No encoder has as many; further ones are passed over.
const MAX_SETS: usize = 16;
/// A longer one does not fit into a configuration.
const MAX_SET_BYTES: usize = u16::MAX as usize;

/// The units of one track.
#[derive(Debug)]
pub(super) struct Units {
    standard: Standard,
    /// Parameter sets that the configuration has.
    known: Vec<Bytes>,
    /// Those that have come since the last frame.
    new: Vec<Bytes>,
    /// Where a unit begins whose end is not there yet.
    fragment: Option<usize>,
}

/// What a payload is.
enum Shape {
    Single,
    Aggregate,
    Fragment,
}

impl Units {
    pub(super) fn new(standard: Standard) -> Self {
        Self { standard, known: Vec::new(), new: Vec::new(), fragment: None }
    }

    /// Parameter sets come before a keyframe's slices; where there are none, the first slice says that it is.
    pub(super) fn begins_keyframe(&self, payload: &[u8]) -> bool {
        let header = self.standard.header();
        let first = |unit: &[u8]| match self.standard.role(unit) {
            Role::ParameterSet(_) => true,
            Role::KeySlice => unit.get(header).is_some_and(|first| first & 0x80 != 0),
            Role::Other | Role::Filler | Role::Reserved => false,
        };
        match self.shape(payload) {
            Ok(Shape::Single) => first(payload),
            Ok(Shape::Aggregate) => {
                nal::units(Bytes::copy_from_slice(payload).slice(header..), 2).any(|unit| first(&unit))
            }
            Ok(Shape::Fragment) => self.fragment_header(payload).is_some_and(|(flags, unit)| {
                let begin = payload.get(header + 1..header + 3).unwrap_or_default();
                flags & nal::START != 0 && first(&[&unit, begin].concat())
            }),
            Err(Malformed) => false,
        }
    }

    /// Forgets the frame that is open.
    pub(super) fn abandon(&mut self) {
        self.fragment = None;
        self.new.clear();
    }

    fn shape(&self, payload: &[u8]) -> Result<Shape, Malformed> {
        let header = self.standard.header();
        if payload.len() <= header {
            return Err(Malformed);
        }
        let first = payload.first().copied().unwrap_or_default();
        match (self.standard, self.standard.number(first)) {
            (Standard::H264, nal::STAP_A) | (Standard::H265, nal::AP) => Ok(Shape::Aggregate),
            (Standard::H264, nal::FU_A) | (Standard::H265, nal::FU) => Ok(Shape::Fragment),
            (Standard::H264, 1..=23) | (Standard::H265, 0..=47) => Ok(Shape::Single),
            (Standard::H264 | Standard::H265, _) => Err(Malformed),
        }
    }

    pub(super) fn append(&mut self, mut payload: Bytes, frame: &mut Frame) -> Result<(), Malformed> {
        let shape = self.shape(&payload)?;
        if self.fragment.is_some() && !matches!(shape, Shape::Fragment) {
            return Err(Malformed);
        }
        match shape {
            Shape::Single => self.unit(&payload, frame),
            Shape::Aggregate => {
                payload.advance(self.standard.header());
                let mut left = payload.len();
                for unit in nal::units(payload, 2) {
                    left -= 2 + unit.len();
                    self.unit(&unit, frame);
                }
                if left > 0 {
                    return Err(Malformed);
                }
            }
            Shape::Fragment => self.fragment(payload, frame)?,
        }
        Ok(())
    }

    /// Takes a whole unit.
    fn unit(&mut self, unit: &[u8], frame: &mut Frame) {
        if self.admit(unit, frame) {
            frame.data().put_u32(u32::try_from(unit.len()).expect("a payload is shorter"));
            frame.data().put_slice(unit);
        }
    }

    /// Whether a unit belongs into the frame. A parameter set is kept beside it.
    fn admit(&mut self, unit: &[u8], frame: &mut Frame) -> bool {
        match self.standard.role(unit) {
            Role::KeySlice => {
                frame.keyframe = true;
                true
            }
            Role::Other => true,
            Role::ParameterSet(_) => {
                let has_room = self.new.len() < MAX_SETS && unit.len() <= MAX_SET_BYTES;
                if has_room && !self.new.iter().any(|set| set == unit) {
                    self.new.push(Bytes::copy_from_slice(unit));
                }
                false
            }
            Role::Filler | Role::Reserved => false,
        }
    }

    fn fragment(&mut self, mut payload: Bytes, frame: &mut Frame) -> Result<(), Malformed> {
        let (flags, header) = self.fragment_header(&payload).ok_or(Malformed)?;
        payload.advance(self.standard.header() + 1);
        if (flags & nal::START != 0) != self.fragment.is_none() {
            return Err(Malformed);
        }
        let begin = *self.fragment.get_or_insert_with(|| {
            let begin = frame.len();
            frame.data().put_u32(0);
            frame.data().put_slice(&header);
            begin
        });
        frame.data().put_slice(&payload);
        if flags & nal::END != 0 {
            self.fragment = None;
            let unit = frame.data().split_off(begin);
            let body = unit.get(LENGTH..).unwrap_or_default();
            let length = u32::try_from(body.len()).map_err(|_too_long| Malformed)?;
            if self.admit(body, frame) {
                frame.data().unsplit(unit);
                let place = frame.data().get_mut(begin..begin + LENGTH).ok_or(Malformed)?;
                place.copy_from_slice(&length.to_be_bytes());
            }
        }
        Ok(())
    }

    /// A fragment's flags, and the header of its unit.
    fn fragment_header(&self, payload: &[u8]) -> Option<(u8, Vec<u8>)> {
        match (self.standard, payload) {
            (Standard::H264, [first, second, ..]) => Some((*second, vec![first & 0xE0 | second & 0x1F])),
            (Standard::H265, [first, second, third, ..]) => {
                Some((*third, vec![first & 0x81 | (third & 0x3F) << 1, *second]))
            }
            (Standard::H264 | Standard::H265, _) => None,
        }
    }

    /// Ends a frame; gives its configuration record if it is a keyframe with new parameter sets.
    pub(super) fn finish(&mut self, frame: &mut Frame) -> Result<Option<Bytes>, Malformed> {
        if self.fragment.take().is_some() {
            return Err(Malformed);
        }
        // sets that come alone are for the frame after them
        if frame.is_empty() || self.new.is_empty() {
            return Ok(None);
        }
        let new = std::mem::take(&mut self.new);
        if frame.keyframe {
            return self.describe(new).ok_or(Malformed).map(Some);
        }
        // a change within a group stays where it is
        let changed = new.iter().filter(|set| !self.known.contains(set));
        let sets: Vec<u8> = changed.flat_map(lengthed).collect();
        if !sets.is_empty() {
            frame.prepend(&sets);
        }
        Ok(None)
    }

    /// The record of a keyframe's parameter sets; those of a kind that it does not bring stay.
    fn describe(&mut self, mut sets: Vec<Bytes>) -> Option<Bytes> {
        let brings = |sets: &[Bytes], kind| sets.iter().any(|set| self.kind(set) == kind);
        if !brings(&sets, Some(Set::Sequence)) {
            let kept: Vec<_> = self.known.iter().filter(|set| !brings(&sets, self.kind(set))).cloned().collect();
            sets.extend(kept);
        }
        sets.sort_by_key(|set| self.kind(set));
        let record = nal::write_record(self.standard, &sets)?;
        self.known = sets;
        Some(record)
    }

    fn kind(&self, set: &[u8]) -> Option<Set> {
        match self.standard.role(set) {
            Role::ParameterSet(kind) => Some(kind),
            Role::KeySlice | Role::Other | Role::Filler | Role::Reserved => None,
        }
    }
}

/// A set as it lies in a frame.
fn lengthed(set: &Bytes) -> impl Iterator<Item = u8> {
    let length = u32::try_from(set.len()).expect("a set is no longer than its bound");
    length.to_be_bytes().into_iter().chain(set.iter().copied())
}
