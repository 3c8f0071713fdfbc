//! AV1 (RTP Payload Format For AV1, version 1.0): puts units together again, with their sizes, as files have them.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use media_core::codec::av1::Sequence;

use super::{assemble::Malformed, tag::Frame};
use crate::obu::{self, Obu, Role, Size};

const CONTINUES: u8 = 0x80;
const CONTINUED: u8 = 0x40;
const NEW_SEQUENCE: u8 = 0x08;

pub(super) fn begins_keyframe(payload: &[u8]) -> bool {
    payload.first().is_some_and(|first| first & NEW_SEQUENCE != 0 && first & CONTINUES == 0)
}

/// The units of one track.
#[derive(Debug, Default)]
pub(super) struct Units {
    /// A unit whose end is not there yet.
    partial: Option<BytesMut>,
    /// The sequence header of this frame.
    sequence: Option<Obu>,
    has_frame: bool,
}

impl Units {
    pub(super) fn append(&mut self, mut payload: Bytes, frame: &mut Frame) -> Result<(), Malformed> {
        let header = payload.try_get_u8().map_err(|_cut_off| Malformed)?;
        if (header & CONTINUES != 0) != self.partial.is_some() {
            return Err(Malformed);
        }
        let count = header >> 4 & 0x03;
        let mut index = 0;
        while !payload.is_empty() {
            index += 1;
            let length = if index == count { payload.len() } else { obu::leb128(&mut payload).ok_or(Malformed)? };
            if length > payload.len() {
                return Err(Malformed);
            }
            let element = payload.split_to(length);
            let goes_on = payload.is_empty() && header & CONTINUED != 0;
            self.element(element, goes_on, frame)?;
        }
        Ok(())
    }

    fn element(&mut self, element: Bytes, goes_on: bool, frame: &mut Frame) -> Result<(), Malformed> {
        let held = self.partial.as_ref().map_or(0, BytesMut::len);
        if !frame.has_room(held + element.len()) {
            return Err(Malformed);
        }
        if goes_on {
            self.partial.get_or_insert_default().put_slice(&element);
            return Ok(());
        }
        let unit = match self.partial.take() {
            None => element,
            Some(mut partial) => {
                partial.put_slice(&element);
                partial.freeze()
            }
        };
        self.unit(unit, frame)
    }

    fn unit(&mut self, mut unit: Bytes, frame: &mut Frame) -> Result<(), Malformed> {
        let unit = Obu::split_from(&mut unit).ok_or(Malformed)?;
        match unit.role() {
            Role::Filler => return Ok(()),
            Role::SequenceHeader => self.sequence = Some(unit.clone()),
            Role::Frame if !self.has_frame => {
                self.has_frame = true;
                frame.keyframe = is_key(&unit.body) && self.sequence.is_some();
            }
            Role::Frame | Role::Other => {}
        }
        write(&unit, frame.data());
        Ok(())
    }

    /// Forgets the frame that is open.
    pub(super) fn abandon(&mut self) {
        *self = Self::default();
    }

    /// Ends a frame; gives its AV1CodecConfigurationRecord if it is a keyframe.
    pub(super) fn finish(&mut self, frame: &mut Frame) -> Result<Option<Bytes>, Malformed> {
        let Self { partial, sequence, .. } = std::mem::take(self);
        if partial.is_some() {
            return Err(Malformed);
        }
        Ok(sequence.filter(|_| frame.keyframe).and_then(|sequence| record(&sequence)))
    }
}

/// A frame header's first bits: shown anew or not, then its type.
fn is_key(header: &[u8]) -> bool {
    header.first().is_some_and(|first| first & 0xE0 == 0)
}

fn record(header: &Obu) -> Option<Bytes> {
    const VERSION: u8 = 0x81;

    let Sequence { profile, level, high_tier, color, .. } = Sequence::read(&header.body)?;
    let flags = [
        high_tier,
        color.bit_depth > 8,
        color.bit_depth > 10,
        color.monochrome,
        color.subsampling.0,
        color.subsampling.1,
    ];
    let flags = flags.into_iter().fold(0, |flags, flag| flags << 1 | u8::from(flag));
    let mut record = BytesMut::from(&[VERSION, profile << 5 | level, flags << 2 | color.sample_position, 0][..]);
    write(header, &mut record);
    Some(record.freeze())
}

fn write(unit: &Obu, data: &mut BytesMut) {
    data.extend(unit.header(Size::Follows));
    obu::write_leb128(unit.body.len(), data);
    data.put_slice(&unit.body);
}
