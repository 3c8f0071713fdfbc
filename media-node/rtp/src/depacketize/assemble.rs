//! From packets in order to frames, each whole.

use bytes::{BufMut as _, Bytes};

use super::{Rtp, av1, nal, tag::Frame, tag::Kind, vp8, vp9};
use crate::{Codec, nal::Standard};

/// A payload that does not follow its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Puts the frames of one track together.
#[derive(Debug)]
pub(super) struct Assembler {
    kind: Kind,
    format: Format,
    state: State,
    /// What comes is left out until there is one.
    needs_keyframe: bool,
    /// The configuration that was given last.
    configuration: Bytes,
    /// About how long a frame is.
    expected: usize,
}

#[derive(Debug)]
enum Format {
    Nal(nal::Units),
    Vp8,
    Vp9,
    Av1(av1::Units),
    Opus,
}

#[derive(Debug)]
enum State {
    /// Frames are left out until a keyframe begins.
    Waiting,
    /// Between two frames.
    Between,
    Open(Frame),
    /// A frame that cannot be read: the rest of it is passed over.
    Broken {
        timestamp: u32,
    },
}

/// What came of a frame's end.
#[derive(Debug)]
pub(super) enum Assembled {
    Nothing,
    /// It was not whole, or it needs a keyframe that was not there.
    LeftOut,
    Frame {
        /// If it is not the last one.
        configuration: Option<Bytes>,
        frame: Frame,
    },
}

impl Assembler {
    pub(super) fn new(kind: Kind) -> Self {
        let format = match kind.codec {
            Codec::H264 => Format::Nal(nal::Units::new(Standard::H264)),
            Codec::H265 => Format::Nal(nal::Units::new(Standard::H265)),
            Codec::Vp8 => Format::Vp8,
            Codec::Vp9 => Format::Vp9,
            Codec::Av1 => Format::Av1(av1::Units::default()),
            Codec::Opus => Format::Opus,
        };
        let mut assembler = Self {
            kind,
            format,
            state: State::Between,
            needs_keyframe: false,
            configuration: Bytes::new(),
            expected: 0,
        };
        assembler.lose();
        assembler
    }

    /// Takes note that packets are missing; whether a keyframe is needed now.
    pub(super) fn lose(&mut self) -> bool {
        self.needs_keyframe = self.kind.codec.is_video();
        self.state = self.next();
        self.format.abandon();
        self.needs_keyframe
    }

    /// What is before the next frame.
    fn next(&self) -> State {
        if self.needs_keyframe { State::Waiting } else { State::Between }
    }

    /// Ends the frame that is open if it is of another time.
    pub(super) fn finish_before(&mut self, timestamp: u32) -> Assembled {
        match &self.state {
            State::Open(frame) if frame.timestamp != timestamp => self.finish(),
            State::Broken { timestamp: of } if *of != timestamp => self.finish(),
            State::Open(_) | State::Broken { .. } | State::Waiting | State::Between => Assembled::Nothing,
        }
    }

    pub(super) fn append(&mut self, rtp: Rtp) {
        let Rtp { timestamp, payload, .. } = rtp;
        let state = std::mem::replace(&mut self.state, State::Waiting);
        let mut frame = match state {
            State::Waiting if !self.format.begins_keyframe(&payload) => return,
            State::Waiting | State::Between => Frame::new(self.kind, timestamp, self.expected),
            State::Open(frame) => frame,
            State::Broken { timestamp } => {
                self.state = State::Broken { timestamp };
                return;
            }
        };
        let fits = frame.has_room(payload.len());
        self.state = match self.format.append(payload, &mut frame) {
            Ok(()) if fits => State::Open(frame),
            Ok(()) | Err(Malformed) => State::Broken { timestamp },
        };
    }

    /// Ends the frame that is open.
    pub(super) fn finish(&mut self) -> Assembled {
        let next = self.next();
        let mut frame = match std::mem::replace(&mut self.state, next) {
            State::Open(frame) => frame,
            State::Between => return Assembled::Nothing,
            State::Waiting | State::Broken { .. } => return self.leave_out(),
        };
        let Ok(record) = self.format.finish(&mut frame) else { return self.leave_out() };
        let configuration = record.map(|record| self.kind.configuration(&record));
        let configuration = configuration.filter(|configuration| *configuration != self.configuration);
        if frame.is_empty() {
            return Assembled::Nothing;
        }
        // without a configuration nobody can decode it, nor what needs what is not there
        let is_described = configuration.is_some() || !self.configuration.is_empty();
        if !is_described || (self.needs_keyframe && !frame.keyframe) {
            return self.leave_out();
        }
        if let Some(configuration) = &configuration {
            self.configuration = configuration.clone();
        }
        self.expected = frame.len();
        self.needs_keyframe = false;
        self.state = State::Between;
        Assembled::Frame { configuration, frame }
    }

    fn leave_out(&mut self) -> Assembled {
        if self.lose() { Assembled::LeftOut } else { Assembled::Nothing }
    }
}

impl Format {
    /// Whether a payload is surely the first of a keyframe.
    fn begins_keyframe(&self, payload: &[u8]) -> bool {
        match self {
            Self::Nal(units) => units.begins_keyframe(payload),
            Self::Vp8 => vp8::begins_keyframe(payload),
            Self::Vp9 => vp9::begins_keyframe(payload),
            Self::Av1(_) => av1::begins_keyframe(payload),
            Self::Opus => true,
        }
    }

    fn append(&mut self, payload: Bytes, frame: &mut Frame) -> Result<(), Malformed> {
        match self {
            Self::Nal(units) => units.append(payload, frame),
            Self::Vp8 => vp8::append(payload, frame),
            Self::Vp9 => vp9::append(payload, frame),
            Self::Av1(units) => units.append(payload, frame),
            Self::Opus => {
                frame.keyframe = true;
                frame.data().put_slice(&payload);
                Ok(())
            }
        }
    }

    /// Forgets the frame that is open.
    fn abandon(&mut self) {
        match self {
            Self::Nal(units) => units.abandon(),
            Self::Av1(units) => units.abandon(),
            Self::Vp8 | Self::Vp9 | Self::Opus => {}
        }
    }

    /// Ends a frame; gives the record that describes it, if it brings one.
    fn finish(&mut self, frame: &mut Frame) -> Result<Option<Bytes>, Malformed> {
        match self {
            Self::Nal(units) => units.finish(frame),
            Self::Vp8 => Ok(frame.keyframe.then_some(vp8::RECORD)),
            Self::Vp9 => Ok(vp9::record(frame)),
            Self::Av1(units) => units.finish(frame),
            Self::Opus => Ok(Some(OPUS_HEAD)),
        }
    }
}

/// Two channels at 48 kHz, as RTP has it whatever was sampled (RFC 7845 §5.1, RFC 7587 §4).
const OPUS_HEAD: Bytes = Bytes::from_static(b"OpusHead\x01\x02\0\0\x80\xBB\0\0\0\0\0");
