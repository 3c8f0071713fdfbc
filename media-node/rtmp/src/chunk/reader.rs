//! Puts messages together from chunks, within limits.

use bytes::{Buf, Bytes, BytesMut};

use super::{
    INITIAL_CHUNK_SIZE,
    assembly::{Assembly, Came},
};
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
    came: Came,
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
    assembly: Assembly,
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
            came: Came::default(),
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
            stream.assembly = Assembly::default();
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
                        let piece = input.split_to(left);
                        self.came.add(left, 0);
                        if self.came.is_mostly_whole() {
                            return Ok(Some(stream.raw(piece.freeze())));
                        }
                        // a slice would keep all that was read with it, which is there a second time by now
                        stream.assembly.append(&piece, left);
                        let payload = stream.assembly.take();
                        return Ok(Some(stream.raw(payload)));
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
            stream.assembly.append(input.get(..take).unwrap_or_default(), stream.length);
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
                self.came.add(0, stream.assembly.len());
                let payload = stream.assembly.take();
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

    fn raw(&self, payload: Bytes) -> Raw {
        Raw { message_type: self.message_type, message_stream: self.message_stream, timestamp: self.timestamp, payload }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chunk::{
        assembly::{STEP, block},
        writer,
    };

    #[test]
    fn a_message_in_one_chunk_is_a_slice_of_the_input() {
        let mut input = BytesMut::from(&[4, 0, 0, 9, 0, 0, 2, 8, 1, 0, 0, 0, 0xAF, 1, 0x42][..]);
        let place = input.as_ptr().wrapping_add(12);

        let message = reader().next(&mut input).unwrap().unwrap();

        assert_eq!(message, raw(8, 1, 9, &[0xAF, 1]));
        assert_eq!(message.payload.as_ptr(), place);
        assert_eq!(input, &[0x42][..], "what follows is left");
    }

    #[test]
    fn a_short_message_among_long_ones_keeps_no_block_of_the_input() {
        let long = [&[6, 0, 0, 9, 0, 0, 200, 9, 1, 0, 0, 0][..], &[7; 128], &[0xC6], &[7; 72]].concat();
        let short = [4, 0, 0, 9, 0, 0, 2, 8, 1, 0, 0, 0, 0xAF, 1];
        let (mut reader, mut input) = (reader(), BytesMut::from(&[&long[..], &short].concat()[..]));
        let block = input.as_ptr_range();

        let read = collect(&mut reader, &mut input, Vec::new()).unwrap();

        assert_eq!(read, [raw(9, 1, 9, &[7; 200]), raw(8, 1, 9, &[0xAF, 1])]);
        assert!(read.iter().all(|message| !block.contains(&message.payload.as_ptr())));
    }

    #[test]
    fn messages_that_are_put_together_share_blocks_and_lie_one_after_the_other() {
        let bytes: Vec<u8> = (0..20)
            .flat_map(|_| [&[6, 0, 0, 9, 0, 0, 200, 9, 1, 0, 0, 0][..], &[7; 128], &[0xC6], &[7; 72]].concat())
            .collect();

        let read = read_all(&bytes);

        let follows = |two: &&[Raw]| two[0].payload.as_ptr_range().end == two[1].payload.as_ptr();
        let (first, rest) = read.split_first().unwrap();
        assert_eq!((first.payload.len(), rest.len()), (200, 19));
        assert_eq!(rest.windows(2).filter(follows).count(), 18, "3800 bytes are in a block of 4096");
    }

    #[test]
    fn types_1_2_and_3_take_over_what_they_leave_out() {
        let bytes = [
            [&[5, 0, 0, 10, 0, 0, 1, 9, 7, 0, 0, 0][..], &[b'a'][..]].concat(),
            [&[0x45, 0, 0, 5, 0, 0, 2, 8][..], b"bc"].concat(),
            [&[0x85, 0, 0, 7][..], b"de"].concat(),
            [&[0xC5][..], b"fg"].concat(),
        ];
        assert_eq!(
            read_all(&bytes.concat()),
            [raw(9, 7, 10, b"a"), raw(8, 7, 15, b"bc"), raw(8, 7, 22, b"de"), raw(8, 7, 29, b"fg")]
        );
    }

    #[test]
    fn type_3_after_type_0_adds_its_timestamp_again() {
        let bytes = [5, 0, 0, 10, 0, 0, 1, 9, 1, 0, 0, 0, 1, 0xC5, 2];
        assert_eq!(read_all(&bytes), [raw(9, 1, 10, &[1]), raw(9, 1, 20, &[2])]);
    }

    #[test]
    fn basic_headers_of_two_and_three_bytes_name_their_chunk_stream() {
        let fields = [0, 0, 0, 0, 0, 1, 8, 0, 0, 0, 0, 1];
        let mut reader = reader();
        for (basic, id) in [(&[0, 255][..], 319), (&[1, 0, 1][..], 320), (&[1, 255, 255][..], 65_599)] {
            let mut input = BytesMut::from(&[basic, &fields].concat()[..]);
            assert!(reader.next(&mut input).unwrap().is_some());
            assert_eq!(reader.streams.last().unwrap().id, id);
        }
    }

    #[test]
    fn an_extended_timestamp_may_or_may_not_be_repeated() {
        let head = [4, 0xFF, 0xFF, 0xFF, 0, 0, 130, 8, 1, 0, 0, 0, 1, 0, 0, 0];
        let (first, second) = ([7; 128], [8, 9]);
        let repeated = [&head[..], &first, &[0xC4, 1, 0, 0, 0], &second].concat();
        let left_out = [&head[..], &first, &[0xC4], &second, &[4, 0, 0]].concat();

        let expected = raw(8, 1, 0x0100_0000, &[&first[..], &second].concat());
        assert_eq!(read_all(&repeated), std::slice::from_ref(&expected));
        assert_eq!(read_all(&left_out), [expected]);
    }

    #[test]
    fn an_extended_delta_may_be_repeated_as_the_timestamp_itself() {
        let start = [4, 0, 0, 5, 0, 0, 0, 8, 1, 0, 0, 0];
        let head = [0x44, 0xFF, 0xFF, 0xFF, 0, 0, 130, 8, 1, 0, 0, 0];
        let bytes = [&start[..], &head, &[7; 128], &[0xC4, 1, 0, 0, 5], &[8, 9]].concat();

        let messages = read_all(&bytes);

        assert_eq!(messages[1], raw(8, 1, 0x0100_0005, &[&[7; 128][..], &[8, 9]].concat()));
    }

    #[test]
    fn timestamps_wrap() {
        let bytes =
            [&[4, 0xFF, 0xFF, 0xFF, 0, 0, 1, 8, 1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFE, 1][..], &[0x84, 0, 0, 3, 2]];
        assert_eq!(read_all(&bytes.concat()), [raw(8, 1, u32::MAX - 1, &[1]), raw(8, 1, 1, &[2])]);
    }

    #[test]
    fn messages_on_several_chunk_streams_interleave() {
        let (video, audio) = (vec![1; 130], vec![2; 129]);
        let bytes = [
            &[6, 0, 0, 0, 0, 0, 130, 9, 1, 0, 0, 0][..],
            &video[..128],
            &[4, 0, 0, 0, 0, 0, 129, 8, 1, 0, 0, 0],
            &audio[..128],
            &[0xC6],
            &video[128..],
            &[0xC4],
            &audio[128..],
        ];
        assert_eq!(read_all(&bytes.concat()), [raw(9, 1, 0, &video), raw(8, 1, 0, &audio)]);
    }

    #[test]
    fn an_aborted_message_is_forgotten() {
        let mut reader = reader();
        let mut input = BytesMut::from(&[&[6, 0, 0, 0, 0, 1, 0, 9, 1, 0, 0, 0][..], &[1; 128]].concat()[..]);
        assert_eq!(reader.next(&mut input), Ok(None));
        assert_eq!(reader.incomplete, 128);

        reader.abort(6);
        input.extend_from_slice(&[6, 0, 0, 0, 0, 0, 1, 9, 1, 0, 0, 0, 5]);

        assert_eq!(reader.next(&mut input), Ok(Some(raw(9, 1, 0, &[5]))));
        assert_eq!((reader.incomplete, held(&reader)), (0, 0));
    }

    #[test]
    fn a_header_inside_a_message_and_one_without_a_predecessor_are_errors() {
        let begun = [&[6, 0, 0, 0, 0, 0, 200, 9, 1, 0, 0, 0][..], &[1; 128], &[6]].concat();
        assert_eq!(fail(&begun), Error::Interrupted { chunk_stream: 6 });
        assert_eq!(fail(&[0xC7]), Error::NoHeader { chunk_stream: 7 });
        assert_eq!(fail(&[0x87]), Error::NoHeader { chunk_stream: 7 });
    }

    #[test]
    fn chunk_streams_messages_and_incomplete_bytes_are_limited() {
        let limits = Limits { message_bytes: 300, chunk_streams: 2, incomplete_bytes: 300, ..Limits::default() };
        let begun = |id: u8| [&[id, 0, 0, 0, 0, 1, 0, 9, 1, 0, 0, 0][..], &[1; 128]].concat();
        let fail = |bytes: &[u8]| drain(&mut Reader::new(limits.clone()), bytes).unwrap_err();

        assert_eq!(fail(&[3, 0, 0, 0, 0, 1, 45, 9, 1, 0, 0, 0]), Error::MessageTooLong { length: 301, limit: 300 });
        assert_eq!(fail(&[begun(3), begun(4), begun(5)].concat()), Error::TooManyChunkStreams { limit: 2 });
        let more = [&[0xC4][..], &[1; 128]].concat();
        assert_eq!(fail(&[begun(3), begun(4), more].concat()), Error::TooMuchIncomplete { limit: 300 });
    }

    #[test]
    fn memory_follows_the_bytes_that_came_and_not_the_length_that_was_claimed() {
        let mut reader = reader();
        reader.set_chunk_size(0x7FFF_FFFF).unwrap();
        let mut input = BytesMut::from(&[6, 0, 0, 0, 0xFF, 0xFF, 0xFF, 9, 1, 0, 0, 0, 1][..]);

        assert_eq!(reader.next(&mut input), Ok(None));
        assert!(held(&reader) <= STEP);
    }

    #[test]
    fn a_chunk_size_of_zero_or_with_the_first_bit_is_an_error() {
        for size in [0, 0x8000_0000, u32::MAX] {
            assert_eq!(reader().set_chunk_size(size), Err(Error::ChunkSize { size }));
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_however_it_is_cut_and_split(
            messages in prop::collection::vec(message(), 1..8),
            chunk_size in prop_oneof![1_usize..300, Just(4096), Just(65_536), Just(0xFF_FFFF)],
            compress in any::<bool>(),
            repeat_extended in any::<bool>(),
            splits in prop::collection::vec(1_usize..200, 1..20),
        ) {
            let mut encoder = Encoder { compress, repeat_extended, ..Encoder::new(chunk_size) };
            messages.iter().for_each(|(id, message)| encoder.write(*id, message));
            // without the repeated field the last bytes wait for what follows
            encoder.write(2, &raw(3, 0, 0, &[0, 0, 0, 0]));

            let mut reader = reader();
            reader.set_chunk_size(chunk_size as u32).unwrap();
            let (mut input, mut read) = (BytesMut::new(), Vec::new());
            let mut rest = &encoder.bytes[..];
            for split in splits.iter().cycle() {
                let (piece, after) = rest.split_at((*split).min(rest.len()));
                input.extend_from_slice(piece);
                while let Some(message) = reader.next(&mut input).unwrap() {
                    read.push(message);
                }
                prop_assert!(input.len() < 18, "only an incomplete header is left");
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }

            read.pop();
            prop_assert_eq!(read, messages.into_iter().map(|(_, message)| message).collect::<Vec<_>>());
            prop_assert_eq!(reader.incomplete, 0);
            prop_assert!(held(&reader) <= reader.streams.len() * block(700), "room for messages like the last ones");
        }

        #[test]
        fn what_the_writer_writes_is_read(
            (_, message) in message(),
            chunk_size in 1_usize..300,
        ) {
            let mut output = BytesMut::new();
            let header = writer::Header {
                chunk_stream: 6,
                message_type: message.message_type,
                message_stream: message.message_stream,
                timestamp: message.timestamp,
            };
            writer::write(&mut output, header, &message.payload, chunk_size);
            let mut reader = reader();
            reader.set_chunk_size(chunk_size as u32).unwrap();

            prop_assert_eq!(drain(&mut reader, &output), Ok(vec![message]));
        }

        #[test]
        fn any_bytes_are_read_the_same_way_in_any_pieces_and_within_the_limits(
            bytes in prop::collection::vec(any::<u8>(), 0..4000),
            piece in 1_usize..100,
            chunk_size in 1_u32..2000,
        ) {
            let limits = Limits { message_bytes: 100_000, chunk_streams: 8, incomplete_bytes: 2000, ..Limits::default() };
            let (mut whole, mut pieces) = (Reader::new(limits.clone()), Reader::new(limits));
            whole.set_chunk_size(chunk_size).unwrap();
            pieces.set_chunk_size(chunk_size).unwrap();

            let mut input = BytesMut::new();
            let mut read = Ok(Vec::new());
            for piece in bytes.chunks(piece) {
                input.extend_from_slice(piece);
                read = read.and_then(|read| collect(&mut pieces, &mut input, read));
                prop_assert!(held(&pieces) <= 2 * 2000 + 8 * (STEP + block(2000)));
            }

            // a piece may reach a limit before the whole is seen to be complete, never the other way round
            match (drain(&mut whole, &bytes), read) {
                (Ok(whole), Ok(pieces)) => prop_assert_eq!(whole, pieces),
                (Err(_), Err(_)) | (Ok(_), Err(Error::TooMuchIncomplete { .. })) => {}
                (whole, pieces) => prop_assert!(false, "{whole:?} but {pieces:?}"),
            }
        }
    }

    fn message() -> impl Strategy<Value = (u32, Raw)> {
        let id = prop_oneof![2_u32..6, Just(63), Just(64), Just(319), Just(320), Just(65_599)];
        let timestamp =
            prop_oneof![0_u32..2000, 0x00FF_FFF0_u32..0x0100_0010, (u32::MAX - 16)..=u32::MAX, any::<u32>()];
        let payload = prop::collection::vec(any::<u8>(), 0..700);
        (id, any::<u8>(), 0_u32..3, timestamp, payload).prop_map(
            |(id, message_type, message_stream, timestamp, payload)| {
                (id, raw(message_type, message_stream, timestamp, &payload))
            },
        )
    }

    /// An encoder that uses all that the specification allows, and what some do beside it.
    struct Encoder {
        chunk_size: usize,
        /// Use types 1 to 3 where they are possible.
        compress: bool,
        repeat_extended: bool,
        last: Vec<(u32, Raw, u32)>,
        bytes: Vec<u8>,
    }

    impl Encoder {
        fn new(chunk_size: usize) -> Self {
            Self { chunk_size, compress: true, repeat_extended: true, last: Vec::new(), bytes: Vec::new() }
        }

        fn write(&mut self, id: u32, message: &Raw) {
            let last = self.last.iter().position(|(last, ..)| *last == id).map(|place| self.last.remove(place));
            let (format, time) = match last.filter(|_| self.compress) {
                Some((_, last, delta)) if last.message_stream == message.message_stream => {
                    let time = message.timestamp.wrapping_sub(last.timestamp);
                    let same = last.message_type == message.message_type && last.payload.len() == message.payload.len();
                    // an extended field that may be left out is told from payload by its value: keep to one that repeats
                    (
                        if !same {
                            1
                        } else if time != delta {
                            2
                        } else {
                            3
                        },
                        time,
                    )
                }
                Some(_) | None => (0, message.timestamp),
            };
            self.basic(format, id);
            let extended = (time >= 0xFF_FFFF).then_some(time);
            if format < 3 {
                self.bytes.extend(&time.min(0xFF_FFFF).to_be_bytes()[1..]);
            }
            if format < 2 {
                self.bytes.extend(&(message.payload.len() as u32).to_be_bytes()[1..]);
                self.bytes.push(message.message_type);
            }
            if format == 0 {
                self.bytes.extend(message.message_stream.to_le_bytes());
            }
            if let Some(extended) = extended.filter(|_| format < 3 || self.repeat_extended) {
                self.bytes.extend(extended.to_be_bytes());
            }
            for (index, chunk) in message.payload.chunks(self.chunk_size).enumerate() {
                if index > 0 {
                    self.basic(3, id);
                    if let Some(extended) = extended.filter(|_| self.repeat_extended) {
                        self.bytes.extend(extended.to_be_bytes());
                    }
                }
                self.bytes.extend(chunk);
            }
            self.last.push((id, message.clone(), time));
        }

        fn basic(&mut self, format: u8, id: u32) {
            match id {
                2..=63 => self.bytes.push(format << 6 | id as u8),
                64..=319 => self.bytes.extend([format << 6, (id - 64) as u8]),
                _ => self.bytes.extend([format << 6 | 1, (id - 64) as u8, ((id - 64) >> 8) as u8]),
            }
        }
    }

    fn reader() -> Reader {
        Reader::new(Limits::default())
    }

    fn raw(message_type: u8, message_stream: u32, timestamp: u32, payload: &[u8]) -> Raw {
        Raw { message_type, message_stream, timestamp, payload: Bytes::copy_from_slice(payload) }
    }

    /// Bytes of memory for incomplete messages, and the next ones.
    fn held(reader: &Reader) -> usize {
        reader.streams.iter().map(|stream| stream.assembly.capacity()).sum()
    }

    fn collect(reader: &mut Reader, input: &mut BytesMut, mut read: Vec<Raw>) -> Result<Vec<Raw>, Error> {
        while let Some(message) = reader.next(input)? {
            read.push(message);
        }
        Ok(read)
    }

    fn drain(reader: &mut Reader, bytes: &[u8]) -> Result<Vec<Raw>, Error> {
        collect(reader, &mut BytesMut::from(bytes), Vec::new())
    }

    fn read_all(bytes: &[u8]) -> Vec<Raw> {
        drain(&mut reader(), bytes).unwrap()
    }

    fn fail(bytes: &[u8]) -> Error {
        drain(&mut reader(), bytes).unwrap_err()
    }
}
