//! The client's side of one connection: it publishes or plays one stream.

mod target;

use bytes::{Bytes, BytesMut};

use crate::amf0::Value;
use crate::chunk::{Limits, write_message};
use crate::connection::{Command, Connection, Incoming, UserControl};
use crate::status::code;
use crate::{Error, Message};

pub use target::{Target, TargetError};

/// What the client wants of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Publish,
    Play,
}

/// What happened on the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server took the request: media may be sent, or follows.
    Started,
    /// The server refused the request, with its status code and what it says about it. Close the connection.
    Refused {
        /// As `NetStream.Publish.BadName`; see [`crate::status::code`].
        code: String,
        /// The server's words, at most 256 characters.
        description: String,
    },
    /// A message of the played stream.
    Media(Message),
    /// The server ended the started stream, with its status code, or an empty one for the end of the data alone.
    Ended {
        /// As `NetStream.Play.UnpublishNotify`.
        code: String,
    },
}

/// One connection to a server.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    target: Target,
    purpose: Purpose,
    state: State,
    message_stream: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Handshake,
    Connecting,
    Creating,
    Requested,
    Started,
    Over,
}

/// Transaction ids of the calls that we wait for.
const CONNECT: f64 = 1.0;
const CREATE_STREAM: f64 = 4.0;

impl Session {
    /// Starts a connection that publishes to `target`.
    pub fn publish(target: Target) -> Self {
        Self::new(target, Purpose::Publish)
    }

    /// Starts a connection that plays `target`.
    pub fn play(target: Target) -> Self {
        Self::new(target, Purpose::Play)
    }

    fn new(target: Target, purpose: Purpose) -> Self {
        Self {
            connection: Connection::client(Limits::default()),
            target,
            purpose,
            state: State::Handshake,
            message_stream: 1,
        }
    }

    /// Takes bytes off `input` up to the next event. Call it again until it returns `None`; then append more to what was
    /// left in `input`. After each call there may be output to send.
    ///
    /// # Errors
    /// The server broke the protocol or a limit: close the connection.
    pub fn receive(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Error> {
        loop {
            let incoming = self.connection.receive(input)?;
            if self.state == State::Handshake && self.connection.handshake_done() {
                self.connect();
            }
            let event = match incoming {
                None => return Ok(None),
                Some(Incoming::Media(message)) => self.media(message),
                Some(Incoming::Command(command)) => self.command(&command),
                Some(Incoming::UserControl(UserControl::StreamEof)) => self.end(String::new()),
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// The bytes to send to the server, empty when there are none.
    pub fn take_output(&mut self) -> Bytes {
        self.connection.take_output()
    }

    /// Whether [`Self::take_output`] would return any bytes.
    pub fn has_output(&self) -> bool {
        self.connection.has_output()
    }

    /// Whether the server took the request and has not ended it.
    pub fn is_started(&self) -> bool {
        self.state == State::Started
    }

    /// Adds a message of a started publish to the output; otherwise does nothing. A sender of the same bytes over many
    /// connections uses [`crate::chunk::write_message`] instead.
    pub fn send(&mut self, message: &Message) {
        if self.purpose == Purpose::Publish && self.state == State::Started {
            let chunks = write_message(message, self.message_stream);
            self.connection.write_chunks(&chunks);
        }
    }

    /// Ends the stream in due form: send the output, then close the connection.
    pub fn finish(&mut self) {
        if !matches!(self.state, State::Requested | State::Started) {
            return;
        }
        self.state = State::Over;
        if self.purpose == Purpose::Publish {
            let name = Value::from(self.target.stream());
            self.connection.write_command(0, "FCUnpublish", 6.0, &[Value::Null, name]);
        }
        let stream = Value::from(f64::from(self.message_stream));
        self.connection.write_command(0, "deleteStream", 7.0, &[Value::Null, stream]);
    }

    fn connect(&mut self) {
        self.state = State::Connecting;
        self.connection.write_chunk_size();
        let mut properties = vec![
            ("app".to_owned(), Value::from(self.target.app())),
            ("flashVer".to_owned(), Value::from("FMLE/3.0 (compatible; tallylight)")),
            ("tcUrl".to_owned(), Value::String(self.target.tc_url())),
            ("fourCcList".to_owned(), Value::StrictArray(vec![Value::from("*")])),
        ];
        match self.purpose {
            Purpose::Publish => properties.push(("type".to_owned(), Value::from("nonprivate"))),
            Purpose::Play => properties.push(("fpad".to_owned(), Value::Boolean(false))),
        }
        self.connection.write_command(0, "connect", CONNECT, &[Value::Object(properties)]);
    }

    fn command(&mut self, command: &Command) -> Option<Event> {
        match command.name.as_str() {
            "_result" if command.transaction == CONNECT && self.state == State::Connecting => {
                self.create_stream();
                None
            }
            "_result" if command.transaction == CREATE_STREAM && self.state == State::Creating => {
                self.request(command);
                None
            }
            "_error" if command.transaction == CONNECT || command.transaction == CREATE_STREAM => {
                Some(self.refused(command))
            }
            "onStatus" => self.status(command),
            "close" => self.end(String::new()),
            _ => None,
        }
    }

    fn create_stream(&mut self) {
        self.state = State::Creating;
        if self.purpose == Purpose::Publish {
            let name = Value::from(self.target.stream());
            self.connection.write_command(0, "releaseStream", 2.0, &[Value::Null, name.clone()]);
            self.connection.write_command(0, "FCPublish", 3.0, &[Value::Null, name]);
        }
        self.connection.write_command(0, "createStream", CREATE_STREAM, &[Value::Null]);
    }

    fn request(&mut self, command: &Command) {
        self.state = State::Requested;
        let id = command.arguments.first().and_then(Value::as_number).unwrap_or(1.0);
        // saturating: what is no stream id becomes one that the server refuses
        self.message_stream = id as u32;
        let name = Value::from(self.target.stream());
        match self.purpose {
            Purpose::Publish => {
                let values = [Value::Null, name, Value::from("live")];
                self.connection.write_command(self.message_stream, "publish", 5.0, &values);
            }
            Purpose::Play => {
                // a live stream, else a recorded one (§7.2.2.1)
                let values = [Value::Null, name, Value::from(-2000.0)];
                self.connection.write_command(self.message_stream, "play", 5.0, &values);
            }
        }
    }

    fn status(&mut self, command: &Command) -> Option<Event> {
        let code = command.information("code");
        let is_error = command.information("level") == "error";
        match self.state {
            State::Requested if is_error => Some(self.refused(command)),
            State::Requested if code == code::PUBLISH_START || code == code::PLAY_START => {
                self.state = State::Started;
                Some(Event::Started)
            }
            State::Started if is_error || ENDINGS.contains(&code.as_str()) => self.end(code),
            State::Handshake
            | State::Connecting
            | State::Creating
            | State::Requested
            | State::Started
            | State::Over => None,
        }
    }

    fn refused(&mut self, command: &Command) -> Event {
        self.state = State::Over;
        Event::Refused { code: command.information("code"), description: command.information("description") }
    }

    fn end(&mut self, code: String) -> Option<Event> {
        if self.state != State::Started {
            return None;
        }
        self.state = State::Over;
        Some(Event::Ended { code })
    }

    fn media(&mut self, message: Message) -> Option<Event> {
        if self.purpose == Purpose::Play && self.state == State::Started {
            return Some(Event::Media(message));
        }
        self.connection.count_dropped();
        None
    }
}

/// Status codes that end a started stream.
const ENDINGS: [&str; 3] = [code::PLAY_UNPUBLISH_NOTIFY, code::PLAY_STOP, code::UNPUBLISH_SUCCESS];

impl Command {
    /// A text of the information object of an answer or status, at most 256 characters.
    fn information(&self, name: &str) -> String {
        let text = self.arguments.first().and_then(|information| information.get(name)).and_then(Value::as_str);
        text.unwrap_or_default().chars().take(256).collect()
    }
}
