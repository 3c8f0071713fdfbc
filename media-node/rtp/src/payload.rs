//! One RTP packet's payload.

use std::fmt;

use bytes::{BufMut, Bytes};

/// The most bytes of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPayload(usize);

impl MaxPayload {
    /// With the headers of RTP, SRTP, UDP and IPv6 it stays below the 1,280 bytes that any path of IPv6 takes, as browsers do it.
    pub const DEFAULT: Self = Self(1_180);
    /// Less would be more headers than media.
    const LEAST: usize = 64;

    /// A limit of so many bytes; `None` when it is too small to be of use.
    #[must_use]
    pub const fn new(bytes: usize) -> Option<Self> {
        if bytes < Self::LEAST { None } else { Some(Self(bytes)) }
    }

    /// The limit in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.0
    }
}

/// What follows the RTP header: a payload format's own few bytes, and a part of a frame that is not copied.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    head: Head,
    body: Bytes,
    /// Whether it is the last of its frame.
    pub marker: bool,
}

impl Payload {
    pub(crate) fn new(head: Head, body: Bytes) -> Self {
        Self { head, body, marker: false }
    }

    /// What is sent, in order; the first part may be empty.
    #[must_use]
    pub fn parts(&self) -> [&[u8]; 2] {
        [self.head.bytes(), &self.body]
    }

    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.bytes().len() + self.body.len()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes all of it, the one copy there is.
    pub fn write_to(&self, buffer: &mut impl BufMut) {
        self.parts().into_iter().for_each(|part| buffer.put_slice(part));
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({:02x?} and {} bytes, marker {})", self.head.bytes(), self.body.len(), self.marker)
    }
}

/// The bytes that a payload format puts before a part of a frame.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Head {
    bytes: [u8; Self::MOST],
    len: u8,
}

impl Head {
    /// VP9's descriptor of a keyframe.
    const MOST: usize = 8;

    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut head = Self::default();
        bytes.iter().for_each(|byte| head.push(*byte));
        head
    }

    pub(crate) fn push(&mut self, byte: u8) {
        let place = self.bytes.get_mut(usize::from(self.len)).expect("no format has a longer head");
        *place = byte;
        self.len += 1;
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).expect("its length is that of what was pushed")
    }
}
