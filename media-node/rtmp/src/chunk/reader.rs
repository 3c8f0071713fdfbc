//! Puts messages together from chunks, within limits.

use bytes::{Buf, Bytes, BytesMut};

use super::INITIAL_CHUNK_SIZE;
use crate::Error;

/// What a peer may make one session hold or do. Going over one is an [`Error`] that ends the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest message, in bytes. 16 MiB is all that the length field can say, and holds any keyframe.
    pub message_bytes: usize,
    /// Most chunk streams in use. Clients use three to eight; each costs about 100 bytes here.
    pub chunk_streams: usize,
    /// Most bytes of incomplete messages of all chunk streams together: one of the longest and some beside it.
    pub incomplete_bytes: usize,
    /// Most bytes that may come while no stream is accepted, and longest message then. A handshake, a connect and what
    /// goes with it are under 8 KiB.
    pub bytes_before_accept: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes: 16 << 20, chunk_streams: 64, incomplete_bytes: 20 << 20, bytes_before_accept: 64 << 10 }
    }
}

/// A timestamp field with this value says that the extended field has it (§5.3.1.3).
const EXTENDED_TIMESTAMP: u32 = 0x00FF_FFFF;

/// The least that an assembly buffer grows by, in bytes: a header may claim 16 MiB, memory follows what really came.
const ASSEMBLY_STEP: usize = 4 << 10;

/// One message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) message_type: u8,
    pub(crate) message_stream: u32,
    pub(crate) timestamp: u32,
    pub(crate) payload: Bytes,
}

/// The state of the chunk layer of one direction.
#[derive(Debug)]
pub(crate) struct Reader {
    limits: Limits,
    message_limit: usize,
    chunk_size: usize,
    streams: Vec<ChunkStream>,
    incomplete: usize,
    /// The chunk whose payload is being read: its stream's place in `streams`, and the bytes that it still lacks.
    open: Option<(usize, usize)>,
}

#[derive(Debug, Default)]
struct ChunkStream {
    id: u32,
    message_type: u8,
    message_stream: u32,
    /// Of the message that is being read, else of the last one.
    timestamp: u32,
    delta: u32,
    /// The value of the extended field, when the last full header had one.
    extended: Option<u32>,
    length: usize,
    /// What has come of a message that needs more than one piece.
    assembly: Vec<u8>,
    /// A message has begun and is not complete.
    begun: bool,
}

/// A chunk header: where it belongs, what it changes and how long it is.
struct Header {
    id: u32,
    slot: Option<usize>,
    format: u8,
    /// The timestamp or delta, extended or not; for format 3 unused.
    time: u32,
    extended: Option<u32>,
    length: usize,
    message_type: u8,
    message_stream: u32,
    bytes: usize,
}

impl Reader {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            message_limit: limits.message_bytes,
            limits,
            chunk_size: INITIAL_CHUNK_SIZE,
            streams: Vec::new(),
            incomplete: 0,
            open: None,
        }
    }

    /// Takes the peer's Set Chunk Size (§5.4.1).
    pub(crate) fn set_chunk_size(&mut self, size: u32) -> Result<(), Error> {
        if size == 0 || size > 0x7FFF_FFFF {
            return Err(Error::ChunkSize { size });
        }
        // no message is longer than 0xFFFFFF, so a larger chunk size means the same
        self.chunk_size = size.min(EXTENDED_TIMESTAMP) as usize;
        Ok(())
    }

    /// Lowers or restores the longest message that is taken, in bytes.
    pub(crate) fn set_message_limit(&mut self, limit: usize) {
        self.message_limit = limit.min(self.limits.message_bytes);
    }

    /// Takes the peer's Abort (§5.4.2): forgets the incomplete message of a chunk stream.
    pub(crate) fn abort(&mut self, chunk_stream: u32) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == chunk_stream) {
            self.incomplete = self.incomplete.saturating_sub(stream.assembly.len());
            stream.assembly = Vec::new();
            stream.begun = false;
        }
    }

    /// Takes chunks off `input` until a message is complete. What stays in `input` on `None` is at most an incomplete
    /// chunk header.
    pub(crate) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Raw>, Error> {
        loop {
            let (slot, missing) = match self.open {
                Some(open) => open,
                None => {
                    let Some(header) = self.parse(input)? else {
                        return Ok(None);
                    };
                    input.advance(header.bytes);
                    let slot = self.begin(&header)?;
                    let Some(stream) = self.streams.get_mut(slot) else {
                        return Ok(None);
                    };
                    let left = stream.length.saturating_sub(stream.assembly.len());
                    if stream.assembly.is_empty() && left <= self.chunk_size && left <= input.len() {
                        stream.begun = false;
                        return Ok(Some(stream.raw(input.split_to(left).freeze())));
                    }
                    (slot, left.min(self.chunk_size))
                }
            };
            let Some(stream) = self.streams.get_mut(slot) else {
                return Ok(None);
            };
            let take = missing.min(input.len());
            self.incomplete = self.incomplete.saturating_add(take);
            if self.incomplete > self.limits.incomplete_bytes {
                return Err(Error::TooMuchIncomplete { limit: self.limits.incomplete_bytes });
            }
            stream.append(input.get(..take).unwrap_or_default());
            input.advance(take);
            let missing = missing.saturating_sub(take);
            if missing > 0 {
                self.open = Some((slot, missing));
                return Ok(None);
            }
            self.open = None;
            if stream.assembly.len() >= stream.length {
                stream.begun = false;
                self.incomplete = self.incomplete.saturating_sub(stream.assembly.len());
                let payload = Bytes::from(std::mem::take(&mut stream.assembly));
                return Ok(Some(stream.raw(payload)));
            }
        }
    }

    /// Reads a chunk header (§5.3.1) without taking it. `None` while it is incomplete.
    fn parse(&self, input: &[u8]) -> Result<Option<Header>, Error> {
        let Some((&first, rest)) = input.split_first() else {
            return Ok(None);
        };
        let format = first >> 6;
        let (id, basic) = match (first & 0x3F, rest) {
            (0, [low, ..]) => (u32::from(*low).saturating_add(64), 2),
            (1, [low, high, ..]) => (u32::from(u16::from_le_bytes([*low, *high])).saturating_add(64), 3),
            (0 | 1, _) => return Ok(None),
            (id, _) => (u32::from(id), 1_usize),
        };
        let slot = self.streams.iter().position(|stream| stream.id == id);
        let stream = slot.and_then(|slot| self.streams.get(slot));
        let fields = input.get(basic..).unwrap_or_default();
        if format == 3 {
            return match stream {
                Some(stream) => Ok(stream.continuation(fields, basic, slot)),
                None => Err(Error::NoHeader { chunk_stream: id }),
            };
        }
        match stream {
            // librtmp on phones opens chunk stream 2 with format 1
            None if format == 2 => return Err(Error::NoHeader { chunk_stream: id }),
            Some(stream) if stream.begun => return Err(Error::Interrupted { chunk_stream: id }),
            None | Some(_) => {}
        }
        Ok(full(fields, format, stream).map(|(header, bytes)| Header {
            id,
            slot,
            bytes: basic.saturating_add(bytes),
            ..header
        }))
    }

    /// Applies a header; returns the place of its chunk stream.
    fn begin(&mut self, header: &Header) -> Result<usize, Error> {
        let slot = match header.slot {
            Some(slot) => slot,
            None => {
                if self.streams.len() >= self.limits.chunk_streams {
                    return Err(Error::TooManyChunkStreams { limit: self.limits.chunk_streams });
                }
                self.streams.push(ChunkStream { id: header.id, ..ChunkStream::default() });
                self.streams.len().saturating_sub(1)
            }
        };
        let Some(stream) = self.streams.get_mut(slot) else {
            return Ok(slot);
        };
        if stream.begun {
            return Ok(slot);
        }
        if header.length > self.message_limit {
            return Err(Error::MessageTooLong { length: header.length, limit: self.message_limit });
        }
        stream.begun = true;
        stream.timestamp = if header.format == 0 { header.time } else { stream.timestamp.wrapping_add(header.time) };
        stream.delta = header.time;
        stream.extended = header.extended;
        stream.length = header.length;
        stream.message_type = header.message_type;
        stream.message_stream = header.message_stream;
        Ok(slot)
    }
}

/// Reads the fields of formats 0, 1 and 2 and the extended timestamp, and says how many bytes they are.
fn full(fields: &[u8], format: u8, stream: Option<&ChunkStream>) -> Option<(Header, usize)> {
    let &[a, b, c] = fields.first_chunk::<3>()?;
    let time = u32::from_be_bytes([0, a, b, c]);
    let (mut length, mut message_type, mut message_stream) =
        stream.map_or((0, 0, 0), |stream| (stream.length, stream.message_type, stream.message_stream));
    let mut bytes: usize = 3;
    if format <= 1 {
        let &[_, _, _, a, b, c, kind] = fields.first_chunk::<7>()?;
        length = u32::from_be_bytes([0, a, b, c]) as usize;
        message_type = kind;
        bytes = 7;
    }
    if format == 0 {
        let &[_, _, _, _, _, _, _, a, b, c, d] = fields.first_chunk::<11>()?;
        message_stream = u32::from_le_bytes([a, b, c, d]);
        bytes = 11;
    }
    let mut extended = None;
    if time == EXTENDED_TIMESTAMP {
        extended = Some(u32::from_be_bytes(*fields.get(bytes..)?.first_chunk::<4>()?));
        bytes = bytes.saturating_add(4);
    }
    let time = extended.unwrap_or(time);
    Some((Header { id: 0, slot: None, format, time, extended, length, message_type, message_stream, bytes: 0 }, bytes))
}

impl ChunkStream {
    /// Reads a header of format 3: nothing, or the extended timestamp again.
    ///
    /// §5.3.1.3 says that the field is there when the last full header had it; some encoders leave it out. The field
    /// repeats a known value, so four bytes that differ from it are payload.
    fn continuation(&self, fields: &[u8], basic: usize, slot: Option<usize>) -> Option<Header> {
        let mut bytes = basic;
        if let Some(extended) = self.extended {
            let field = u32::from_be_bytes(*fields.first_chunk::<4>()?);
            if field == extended || field == self.timestamp {
                bytes = bytes.saturating_add(4);
            }
        }
        Some(Header {
            id: self.id,
            slot,
            format: 3,
            time: self.delta,
            extended: self.extended,
            length: self.length,
            message_type: self.message_type,
            message_stream: self.message_stream,
            bytes,
        })
    }

    fn append(&mut self, piece: &[u8]) {
        let have = self.assembly.len();
        if self.assembly.capacity().saturating_sub(have) < piece.len() {
            let step = piece.len().max(have).max(ASSEMBLY_STEP);
            self.assembly.reserve_exact(step.min(self.length.saturating_sub(have)));
        }
        self.assembly.extend_from_slice(piece);
    }

    fn raw(&self, payload: Bytes) -> Raw {
        Raw { message_type: self.message_type, message_stream: self.message_stream, timestamp: self.timestamp, payload }
    }
}
