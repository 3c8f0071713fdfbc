//! NAL units of H.264 and H.265: what their headers say, and how they lie in a frame (ISO/IEC 14496-15).

use bytes::{Buf, BufMut as _, Bytes};
use media_core::codec::{h264, h265, sei};

/// Numbers of RTP's own: units together, and fragments.
pub(crate) const STAP_A: u8 = 24;
pub(crate) const FU_A: u8 = 28;
pub(crate) const AP: u8 = 48;
pub(crate) const FU: u8 = 49;
/// Flags of a fragment.
pub(crate) const START: u8 = 0x80;
pub(crate) const END: u8 = 0x40;
/// Bytes of a unit's length in the frames that we make.
pub(crate) const LENGTH: usize = 4;

/// Which of the two standards a unit is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standard {
    H264,
    H265,
}

/// What a bridge does with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// VPS, SPS or PPS.
    ParameterSet(Set),
    /// A slice of a picture that decodes by itself.
    KeySlice,
    /// Another slice, or supplemental information.
    Other,
    /// Delimits or fills; RTP and FLV have no use for it.
    Filler,
    /// A number that RTP gives another meaning, or that nobody may use.
    Reserved,
}

/// The kinds of parameter sets, in the order in which a decoder is given them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Set {
    Video,
    Sequence,
    Picture,
}

impl Standard {
    /// Bytes of a unit's header.
    pub(crate) const fn header(self) -> usize {
        match self {
            Self::H264 => 1,
            Self::H265 => 2,
        }
    }

    /// A unit's number, by its first byte.
    pub(crate) const fn number(self, first: u8) -> u8 {
        match self {
            Self::H264 => first & 0x1F,
            Self::H265 => first >> 1 & 0x3F,
        }
    }

    /// Whether a unit is supplemental information that times the buffer of a model decoder alone. Encoders of a constant bitrate put it
    /// before each picture, and to viewers it is a short packet before long ones: a system call more a frame for each of them.
    pub(crate) fn times_a_model(self, unit: &[u8]) -> bool {
        let number = unit.first().map(|first| self.number(*first));
        let is_supplemental = match self {
            Self::H264 => number == Some(6),
            Self::H265 => number == Some(39),
        };
        is_supplemental && sei::times_a_model(unit.get(self.header()..).unwrap_or_default())
    }

    pub(crate) fn role(self, unit: &[u8]) -> Role {
        match (self, unit) {
            (Self::H264, [first, _, ..]) => role_in_h264(self.number(*first)),
            (Self::H265, [first, _, _, ..]) => role_in_h265(self.number(*first)),
            (Self::H264 | Self::H265, _) => Role::Reserved,
        }
    }
}

fn role_in_h264(number: u8) -> Role {
    match number {
        1..=4 | 6 | 14 | 15 | 19..=21 => Role::Other,
        5 => Role::KeySlice,
        7 => Role::ParameterSet(Set::Sequence),
        8 => Role::ParameterSet(Set::Picture),
        9..=13 => Role::Filler,
        _ => Role::Reserved,
    }
}

fn role_in_h265(number: u8) -> Role {
    match number {
        0..=9 | 39 | 40 => Role::Other,
        16..=21 => Role::KeySlice,
        32 => Role::ParameterSet(Set::Video),
        33 => Role::ParameterSet(Set::Sequence),
        34 => Role::ParameterSet(Set::Picture),
        35..=38 => Role::Filler,
        _ => Role::Reserved,
    }
}

/// A decoder configuration record as far as RTP needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Bytes of the length before each unit of a frame.
    pub(crate) length_size: usize,
    pub(crate) sets: Vec<Bytes>,
}

impl Record {
    /// Reads an AVCDecoderConfigurationRecord or an HEVCDecoderConfigurationRecord.
    pub(crate) fn read(standard: Standard, record: Bytes) -> Option<Self> {
        match standard {
            Standard::H264 => avc_record(record),
            Standard::H265 => hevc_record(record),
        }
    }
}

/// Writes the record that [`Record::read`] reads, of sets in their order; `None` when the SPS is missing or cannot be read.
pub(crate) fn write_record(standard: Standard, sets: &[Bytes]) -> Option<Bytes> {
    let of = |wanted| sets.iter().filter(move |set| standard.role(set) == Role::ParameterSet(wanted));
    let sps = of(Set::Sequence).next()?;
    let mut record = Vec::with_capacity(128);
    match standard {
        Standard::H264 => {
            let h264::Sequence { profile, compatibility, level, formats } = h264::Sequence::read(sps)?;
            record.extend([1, profile, compatibility, level, 0xFC | LENGTH_SIZE_LESS_ONE]);
            write_sets(0xE0, of(Set::Sequence).collect(), &mut record)?;
            write_sets(0, of(Set::Picture).collect(), &mut record)?;
            if let Some([chroma, luma_depth, chroma_depth]) = formats {
                record.extend([0xFC | chroma, 0xF8 | luma_depth, 0xF8 | chroma_depth, 0]);
            }
        }
        Standard::H265 => {
            let sequence = h265::Sequence::read(sps)?;
            let low = |value: u32, mask: u8| u8::try_from(value).ok().filter(|value| value & mask == *value);
            record.push(1);
            record.extend(sequence.profile_tier_level);
            record.extend([0xF0, 0, 0xFC, 0xFC | low(sequence.chroma_format, 0x03)?]);
            record.extend([0xF8 | low(sequence.luma_depth, 0x07)?, 0xF8 | low(sequence.chroma_depth, 0x07)?, 0, 0]);
            let layers = (sequence.sub_layers + 1) << 3 | u8::from(sequence.temporal_id_nested) << 2;
            record.extend([layers | LENGTH_SIZE_LESS_ONE, 3]);
            for (number, set) in [(32, Set::Video), (33, Set::Sequence), (34, Set::Picture)] {
                record.extend([0x80 | number, 0]);
                write_sets(0, of(set).collect(), &mut record)?;
            }
        }
    }
    Some(record.into())
}

const LENGTH_SIZE_LESS_ONE: u8 = 3;

/// Writes how many there are, and each with its length.
fn write_sets(flags: u8, sets: Vec<&Bytes>, record: &mut Vec<u8>) -> Option<()> {
    record.push(flags | u8::try_from(sets.len()).ok()?);
    for set in sets {
        record.put_u16(u16::try_from(set.len()).ok()?);
        record.extend_from_slice(set);
    }
    Some(())
}

fn avc_record(mut record: Bytes) -> Option<Record> {
    const BEFORE_LENGTH_SIZE: usize = 4;

    if record.len() < BEFORE_LENGTH_SIZE + 2 {
        return None;
    }
    record.advance(BEFORE_LENGTH_SIZE);
    let length_size = usize::from(record.get_u8() & 0x03) + 1;
    let mut sets = Vec::new();
    for mask in [0x1F, 0xFF] {
        if record.is_empty() {
            return None;
        }
        for _ in 0..record.get_u8() & mask {
            sets.push(split_unit(&mut record, 2)?);
        }
    }
    Some(Record { length_size, sets })
}

fn hevc_record(mut record: Bytes) -> Option<Record> {
    const BEFORE_LENGTH_SIZE: usize = 21;

    if record.len() < BEFORE_LENGTH_SIZE + 2 {
        return None;
    }
    record.advance(BEFORE_LENGTH_SIZE);
    let length_size = usize::from(record.get_u8() & 0x03) + 1;
    let mut sets = Vec::new();
    for _ in 0..record.get_u8() {
        if record.len() < 3 {
            return None;
        }
        record.advance(1);
        for _ in 0..record.get_u16() {
            sets.push(split_unit(&mut record, 2)?);
        }
    }
    // further arrays hold what is no parameter set, as SEI
    sets.retain(|set| matches!(Standard::H265.role(set), Role::ParameterSet(_)));
    Some(Record { length_size, sets })
}

/// A frame's units, up to its end or to what is cut off.
pub(crate) fn units(mut frame: Bytes, length_size: usize) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || split_unit(&mut frame, length_size))
}

/// Takes a unit from the front that is preceded by its length.
fn split_unit(bytes: &mut Bytes, length_size: usize) -> Option<Bytes> {
    if bytes.len() < length_size {
        return None;
    }
    let length = usize::try_from(bytes.get_uint(length_size)).ok()?;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}
