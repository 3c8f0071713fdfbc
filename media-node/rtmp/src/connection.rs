//! What both sides share: the handshake, the chunk layer, the protocol's own messages (§5.4, §7.1.7) and the output.

use bytes::{BufMut, Bytes, BytesMut};

use crate::amf0::{self, Value};
use crate::chunk::reader::{Raw, Reader};
use crate::chunk::{self, Limits, OUTGOING_CHUNK_SIZE, message_type};
use crate::handshake::Handshake;
use crate::{Error, Kind, Message};

/// The message stream that every server hands out first, and ours as the only one.
pub(crate) const MESSAGE_STREAM: u32 = 1;

/// The acknowledgement window that we announce and use, in bytes: what nginx-rtmp and FMS say.
pub(crate) const WINDOW_ACK_SIZE: u32 = 2_500_000;

/// A peer's window below this is taken as this, so that acknowledgements stay far below what they acknowledge.
const MIN_WINDOW_ACK_SIZE: u32 = 16 << 10;

/// Most bytes of our own answers that wait to be taken. A handshake is 3 KiB and the answers to a connect are under
/// 1 KiB; more means that the peer asks (for pings, say) and does not read.
const MAX_OUTPUT: usize = 256 << 10;

/// Longest command message. `connect` is under 1 KiB; its values are held as a tree.
const MAX_COMMAND_BYTES: usize = 16 << 10;

/// A message that is not of the chunk layer's own kinds.
#[derive(Debug)]
pub(crate) enum Incoming {
    Media(Message),
    Command(Command),
    UserControl(UserControl),
}

/// A command (§7.1.1).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command {
    pub(crate) name: String,
    pub(crate) transaction: f64,
    /// The command object.
    pub(crate) object: Value,
    pub(crate) arguments: Vec<Value>,
}

/// The user control events (§7.1.7) that somebody here acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UserControl {
    StreamEof,
}

#[derive(Debug)]
pub(crate) struct Connection {
    handshake: Handshake,
    reader: Reader,
    limits: Limits,
    output: BytesMut,
    /// Bytes left for the peer until it has an accepted stream; `None` once it has.
    allowance: Option<u32>,
    /// Bytes received in all, as acknowledgements count them: modulo 2^32.
    received: u32,
    acknowledged: u32,
    window: u32,
    aggregate: Option<Aggregate>,
    dropped: u64,
}

/// The rest of an aggregate message (§7.1.6).
#[derive(Debug)]
struct Aggregate {
    rest: Bytes,
    /// Added to each part's time: the message's time less the first part's.
    offset: Option<u32>,
    timestamp: u32,
}

impl Connection {
    pub(crate) fn server(limits: Limits) -> Self {
        Self::new(limits, Handshake::server(), BytesMut::new())
    }

    pub(crate) fn client(limits: Limits) -> Self {
        let mut output = BytesMut::new();
        let handshake = Handshake::client(&mut output);
        let mut connection = Self::new(limits, handshake, output);
        connection.lift_limits();
        connection
    }

    fn new(limits: Limits, handshake: Handshake, output: BytesMut) -> Self {
        let mut connection = Self {
            handshake,
            reader: Reader::new(limits.clone()),
            limits,
            output,
            allowance: None,
            received: 0,
            acknowledged: 0,
            window: WINDOW_ACK_SIZE,
            aggregate: None,
            dropped: 0,
        };
        connection.impose_limits();
        connection
    }

    /// From now on the peer may send only what leads to an accepted stream.
    pub(crate) fn impose_limits(&mut self) {
        self.allowance = Some(self.limits.bytes_before_accept);
        self.reader.set_message_limit(self.limits.bytes_before_accept as usize);
    }

    /// From now on the peer may send as much as it likes, in small messages.
    pub(crate) fn lift_allowance(&mut self) {
        self.allowance = None;
    }

    /// From now on the peer may send media.
    pub(crate) fn lift_limits(&mut self) {
        self.allowance = None;
        self.reader.set_message_limit(self.limits.message_bytes);
    }

    pub(crate) fn handshake_done(&self) -> bool {
        self.handshake == Handshake::Done
    }

    /// Bytes that wait to be taken.
    pub(crate) fn check_output(&self) -> Result<(), Error> {
        if self.output.len() > MAX_OUTPUT { Err(Error::TooMuchOutput { limit: MAX_OUTPUT }) } else { Ok(()) }
    }

    pub(crate) fn take_output(&mut self) -> Bytes {
        // what stays is the unused rest of the buffer, so an idle connection holds none
        std::mem::take(&mut self.output).freeze()
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    pub(crate) fn count_dropped(&mut self) {
        self.dropped = self.dropped.saturating_add(1);
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes bytes off `input` until there is something for the session.
    pub(crate) fn receive(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, Error> {
        loop {
            if let Some(aggregate) = &mut self.aggregate {
                match aggregate.next()? {
                    Some(message) => return Ok(Some(Incoming::Media(message))),
                    None => self.aggregate = None,
                }
            }
            let before = input.len();
            let raw = self.next_raw(input);
            self.count_received(before.saturating_sub(input.len()))?;
            let Some(raw) = raw? else { return Ok(None) };
            if let Some(incoming) = self.sort(raw)? {
                return Ok(Some(incoming));
            }
        }
    }

    fn next_raw(&mut self, input: &mut BytesMut) -> Result<Option<Raw>, Error> {
        if self.handshake != Handshake::Done && !self.handshake.advance(input, &mut self.output)? {
            return Ok(None);
        }
        self.reader.next(input)
    }

    fn count_received(&mut self, bytes: usize) -> Result<(), Error> {
        // a driver's buffer is far below 4 GiB
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.received = self.received.wrapping_add(bytes);
        if let Some(allowance) = &mut self.allowance {
            *allowance = allowance
                .checked_sub(bytes)
                .ok_or(Error::TooMuchBeforeAccept { limit: self.limits.bytes_before_accept })?;
        }
        if self.received.wrapping_sub(self.acknowledged) >= self.window {
            self.acknowledged = self.received;
            self.write_control(message_type::ACKNOWLEDGEMENT, self.received);
        }
        Ok(())
    }

    /// Acts on the protocol's own messages; hands on the others.
    fn sort(&mut self, raw: Raw) -> Result<Option<Incoming>, Error> {
        match raw.message_type {
            message_type::AUDIO => Ok(Some(raw.media(Kind::Audio))),
            message_type::VIDEO => Ok(Some(raw.media(Kind::Video))),
            message_type::DATA_AMF0 => Ok(Some(raw.media(Kind::Data))),
            message_type::DATA_AMF3 => {
                Ok(Some(Raw { payload: without_amf3_marker(raw.payload), ..raw }.media(Kind::Data)))
            }
            message_type::COMMAND_AMF0 => Command::parse(&raw.payload).map(|command| Some(Incoming::Command(command))),
            message_type::COMMAND_AMF3 => {
                Command::parse(&without_amf3_marker(raw.payload)).map(|command| Some(Incoming::Command(command)))
            }
            message_type::AGGREGATE => {
                self.aggregate = Some(Aggregate { rest: raw.payload, offset: None, timestamp: raw.timestamp });
                Ok(None)
            }
            message_type::SET_CHUNK_SIZE => {
                let size = raw.control()?;
                self.reader.set_chunk_size(size)?;
                Ok(None)
            }
            message_type::ABORT => {
                self.reader.abort(raw.control()?);
                Ok(None)
            }
            message_type::WINDOW_ACK_SIZE => {
                self.window = raw.control()?.max(MIN_WINDOW_ACK_SIZE);
                Ok(None)
            }
            message_type::SET_PEER_BANDWIDTH => {
                raw.control()?;
                self.write_control(message_type::WINDOW_ACK_SIZE, WINDOW_ACK_SIZE);
                Ok(None)
            }
            message_type::USER_CONTROL => self.user_control(&raw),
            message_type::ACKNOWLEDGEMENT => Ok(None),
            _ => {
                // shared objects and what nobody has defined
                self.count_dropped();
                Ok(None)
            }
        }
    }

    fn user_control(&mut self, raw: &Raw) -> Result<Option<Incoming>, Error> {
        const STREAM_EOF: u16 = 1;
        const PING_REQUEST: u16 = 6;
        const PING_RESPONSE: u16 = 7;

        let event = raw.payload.first_chunk().map(|bytes| u16::from_be_bytes(*bytes)).ok_or_else(|| raw.too_short())?;
        match event {
            STREAM_EOF => Ok(Some(Incoming::UserControl(UserControl::StreamEof))),
            PING_REQUEST => {
                let sent: [u8; 4] =
                    raw.payload.get(2..).and_then(|rest| rest.first_chunk()).copied().ok_or_else(|| raw.too_short())?;
                self.write_user_control(PING_RESPONSE, u32::from_be_bytes(sent));
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Announces the chunk size of all that follows.
    pub(crate) fn write_chunk_size(&mut self) {
        self.write_control(message_type::SET_CHUNK_SIZE, OUTGOING_CHUNK_SIZE as u32);
    }

    /// Announces the windows of both directions.
    pub(crate) fn write_windows(&mut self) {
        const DYNAMIC: u8 = 2;

        self.write_control(message_type::WINDOW_ACK_SIZE, WINDOW_ACK_SIZE);
        let [a, b, c, d] = WINDOW_ACK_SIZE.to_be_bytes();
        let header = chunk::control(message_type::SET_PEER_BANDWIDTH);
        chunk::write(&mut self.output, header, &[a, b, c, d, DYNAMIC], OUTGOING_CHUNK_SIZE);
    }

    fn write_control(&mut self, message_type: u8, value: u32) {
        chunk::write(&mut self.output, chunk::control(message_type), &value.to_be_bytes(), OUTGOING_CHUNK_SIZE);
    }

    /// Writes a user control event (§7.1.7) with one number.
    pub(crate) fn write_user_control(&mut self, event: u16, value: u32) {
        let mut payload = [0; 6];
        let (first, second) = payload.split_at_mut(2);
        first.copy_from_slice(&event.to_be_bytes());
        second.copy_from_slice(&value.to_be_bytes());
        chunk::write(&mut self.output, chunk::control(message_type::USER_CONTROL), &payload, OUTGOING_CHUNK_SIZE);
    }

    /// Writes a command or, on the connection's own message stream 0, an answer.
    pub(crate) fn write_command(&mut self, message_stream: u32, name: &str, transaction: f64, values: &[Value]) {
        let mut payload = BytesMut::new();
        Value::from(name).encode(&mut payload);
        Value::from(transaction).encode(&mut payload);
        values.iter().for_each(|value| value.encode(&mut payload));
        let header =
            chunk::Header { chunk_stream: 3, message_type: message_type::COMMAND_AMF0, message_stream, timestamp: 0 };
        chunk::write(&mut self.output, header, &payload, OUTGOING_CHUNK_SIZE);
    }

    /// Appends bytes that are already chunks.
    pub(crate) fn write_chunks(&mut self, chunks: &[u8]) {
        self.output.put_slice(chunks);
    }
}

/// AMF 3 messages that encoders send are AMF 0 after a byte that says so.
fn without_amf3_marker(payload: Bytes) -> Bytes {
    match payload.first() {
        Some(0) => payload.slice(1..),
        Some(_) | None => payload,
    }
}

impl Raw {
    fn media(self, kind: Kind) -> Incoming {
        Incoming::Media(Message { kind, timestamp_ms: self.timestamp, payload: self.payload })
    }

    /// The number that most control messages consist of.
    fn control(&self) -> Result<u32, Error> {
        self.payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)).ok_or_else(|| self.too_short())
    }

    fn too_short(&self) -> Error {
        Error::ControlTooShort { message_type: self.message_type, length: self.payload.len() }
    }
}

impl Command {
    fn parse(payload: &[u8]) -> Result<Self, Error> {
        if payload.len() > MAX_COMMAND_BYTES {
            return Err(Error::MessageTooLong { length: payload.len(), limit: MAX_COMMAND_BYTES });
        }
        let mut values = amf0::decode(payload).map_err(|source| Error::Command { source })?.into_iter();
        let Some(Value::String(name)) = values.next() else {
            return Err(Error::UnnamedCommand);
        };
        let transaction = values.next().and_then(|value| value.as_number()).unwrap_or(0.0);
        let object = values.next().unwrap_or(Value::Null);
        Ok(Self { name, transaction, object, arguments: values.collect() })
    }

    /// The text of an argument.
    pub(crate) fn text(&self, index: usize) -> Option<&str> {
        self.arguments.get(index).and_then(Value::as_str)
    }
}

impl Aggregate {
    /// The next part: an FLV tag with the time of the first one shifted to the message's time. Parts that are neither
    /// audio, video nor data are passed over.
    fn next(&mut self) -> Result<Option<Message>, Error> {
        loop {
            if self.rest.is_empty() {
                return Ok(None);
            }
            let &[message_type, a, b, c, low2, low1, low0, high, _, _, _] =
                self.rest.first_chunk::<11>().ok_or(Error::Aggregate)?;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            let time = u32::from_be_bytes([high, low2, low1, low0]);
            // the last part's back pointer is sometimes left out
            let _header = self.rest.split_to(11);
            if self.rest.len() < length {
                return Err(Error::Aggregate);
            }
            let payload = self.rest.split_to(length);
            let _back_pointer = self.rest.split_to(self.rest.len().min(4));
            let offset = *self.offset.get_or_insert_with(|| self.timestamp.wrapping_sub(time));
            let kind = match message_type {
                message_type::AUDIO => Kind::Audio,
                message_type::VIDEO => Kind::Video,
                message_type::DATA_AMF0 => Kind::Data,
                _ => continue,
            };
            return Ok(Some(Message { kind, timestamp_ms: time.wrapping_add(offset), payload }));
        }
    }
}
