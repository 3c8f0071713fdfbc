//! Gathers a viewer's packets in one buffer, so that a frame is one system call (UDP segmentation offload).
//!
//! The kernel cuts a buffer into datagrams of one size, of which the last may be shorter. So a batch ends with a shorter
//! packet, before a longer one, and where the path changes.

use crate::path::Path;

/// The most of a UDP datagram's payload, which is also the most of a buffer that is cut.
const MAX_BYTES: usize = 65_507 - 64;

/// Linux cuts a buffer into 64 at most (`UDP_MAX_SEGMENTS` before 6.9).
const MAX_SEGMENTS: usize = 64;

/// What to send: the contents as they are, or cut into datagrams of `segment_size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit<'a> {
    pub path: Path,
    pub contents: &'a [u8],
    pub segment_size: Option<usize>,
}

impl<'a> Transmit<'a> {
    /// The datagrams one by one.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        self.contents.chunks(self.segment_size.unwrap_or(self.contents.len()).max(1))
    }
}

/// What became of a transmit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Taken,
    /// There was no room. It is lost, and the viewer goes on at a keyframe.
    Refused,
}

/// Where batches go: a socket, or a test.
pub trait Sink {
    fn send(&mut self, transmit: Transmit<'_>) -> Sent;
}

/// The buffer of one worker.
#[derive(Debug)]
pub struct Batch<S> {
    sink: S,
    buffer: Vec<u8>,
    open: Option<Open>,
    refused: u64,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    path: Path,
    segment_size: usize,
    segments: usize,
}

impl<S: Sink> Batch<S> {
    pub fn new(sink: S) -> Self {
        Self { sink, buffer: Vec::with_capacity(MAX_BYTES), open: None, refused: 0 }
    }

    /// Appends a packet of `length` bytes, which `write` fills in; what it refuses is not sent.
    pub(crate) fn push<E>(
        &mut self,
        path: Path,
        length: usize,
        write: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let fits = |open: &Open| {
            open.path == path
                && length <= open.segment_size
                && open.segments < MAX_SEGMENTS
                && self.buffer.len() + length <= MAX_BYTES
        };
        if !self.open.as_ref().is_some_and(fits) {
            self.flush();
        }
        let at = self.buffer.len();
        self.buffer.resize(at + length, 0);
        if let Err(error) = write(self.buffer.get_mut(at..).unwrap_or_default()) {
            self.buffer.truncate(at);
            return Err(error);
        }
        let open = self.open.get_or_insert(Open { path, segment_size: length, segments: 0 });
        open.segments += 1;
        if length < open.segment_size {
            self.flush();
        }
        Ok(())
    }

    /// Sends what is gathered.
    pub fn flush(&mut self) {
        let Some(Open { path, segment_size, segments }) = self.open.take() else { return };
        let segment_size = (segments > 1).then_some(segment_size);
        if self.sink.send(Transmit { path, contents: &self.buffer, segment_size }) == Sent::Refused {
            // no loss: at most 64
            self.refused += segments as u64;
        }
        self.buffer.clear();
    }

    /// How many packets were refused since the last call.
    pub(crate) fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    pub fn sink(&self) -> &S {
        &self.sink
    }

    pub fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }
}

#[cfg(test)]
mod tests;
