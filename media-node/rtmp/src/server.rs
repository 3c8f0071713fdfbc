//! The server's side of one connection.

mod answer;
mod command;

use bytes::{Bytes, BytesMut};

use crate::connection::{Connection, Incoming, UserControl};
use crate::name::{Key, Name, Query};
use crate::status::{self, Refusal};
use crate::{Error, Kind, Message, chunk};

/// What a server session is told at its start.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// What a peer may make the session hold.
    pub limits: chunk::Limits,
}

/// A client's request to connect to an application. Answer it with [`Session::accept`] or [`Session::reject`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The application, decoded, without slashes around it and without its query.
    pub app: String,
    /// The query of the application.
    pub query: Query,
    /// What the client says it is, mostly `FMLE/3.0 (compatible; …)`; at most 64 characters, none of them a control.
    pub flash_version: String,
}

/// A client's request to publish or play. Answer it with [`Session::accept`] or [`Session::reject`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The application of the connection.
    pub app: String,
    /// The stream's id.
    pub id: String,
    /// `key` of the stream name, else of the application.
    pub key: Option<Key>,
    /// All parameters of the stream name.
    pub query: Query,
}

/// What happened on the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The handshake is done and the client wants an application.
    Connect(Connect),
    /// The client wants to publish.
    Publish(Request),
    /// The client wants to play.
    Play(Request),
    /// A message of the accepted publish.
    Media(Message),
    /// The publisher ended the stream in due form. The connection stays open for another request.
    Unpublish,
    /// The player ended the play in due form. The connection stays open for another request.
    StopPlay,
}

/// One connection from a publisher or player.
///
/// At most one stream is published or played on it at a time. After [`Event::Connect`], [`Event::Publish`] and
/// [`Event::Play`] nothing more is read until the request is answered: `receive` leaves `input` alone and returns
/// `None`. So a driver that does not read on while it decides is protected by TCP's own flow control.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    state: State,
    app: Name,
    /// The client sent FCPublish and so expects `onFCPublish`.
    fc_publish: bool,
}

#[derive(Debug)]
enum State {
    /// Nothing but the handshake has come.
    New,
    /// The driver has to answer.
    Undecided(Undecided),
    /// Connected, with no stream.
    Idle,
    Publishing,
    Playing,
    /// The connect was refused; nothing more is read.
    Refused,
}

#[derive(Debug)]
enum Undecided {
    Connect { transaction: f64, object_encoding: f64 },
    Publish,
    Play,
}

impl Session {
    /// Starts a session for a connection that was just accepted.
    pub fn new(config: Config) -> Self {
        Self {
            connection: Connection::server(config.limits),
            state: State::New,
            app: Name::default(),
            fc_publish: false,
        }
    }

    /// Takes bytes off `input` up to the next event. Call it again until it returns `None`; then append more to what was
    /// left in `input` (at most 3 KiB unless a request is undecided).
    ///
    /// # Errors
    /// The peer broke the protocol or a limit: close the connection.
    pub fn receive(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Error> {
        self.connection.check_output()?;
        loop {
            match self.state {
                State::Undecided(_) | State::Refused => return Ok(None),
                State::New | State::Idle | State::Publishing | State::Playing => {}
            }
            let Some(incoming) = self.connection.receive(input)? else {
                return Ok(None);
            };
            let event = match incoming {
                Incoming::Media(message) => self.media(message),
                Incoming::Command(command) => self.command(&command)?,
                Incoming::UserControl(UserControl::StreamEof) => None,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// The bytes to send to the client, empty when there are none. Send them before any media of a play.
    pub fn take_output(&mut self) -> Bytes {
        self.connection.take_output()
    }

    /// Whether [`Self::take_output`] would return any bytes.
    pub fn has_output(&self) -> bool {
        self.connection.has_output()
    }

    /// Whether the handshake is over: what came so far is RTMP.
    pub fn handshake_done(&self) -> bool {
        self.connection.handshake_done()
    }

    /// Messages that were passed over: media without an accepted publish, and kinds that RTMP servers do not serve.
    pub fn dropped_messages(&self) -> u64 {
        self.connection.dropped()
    }

    /// Grants the request of the last event. Without one it does nothing.
    pub fn accept(&mut self) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Undecided(Undecided::Connect { transaction, object_encoding }) => {
                self.answer_connect(transaction, object_encoding);
            }
            State::Undecided(Undecided::Publish) => {
                self.connection.lift_limits();
                self.answer_publish();
                self.state = State::Publishing;
            }
            State::Undecided(Undecided::Play) => {
                self.connection.lift_allowance();
                self.answer_play();
                self.state = State::Playing;
            }
            other @ (State::New | State::Idle | State::Publishing | State::Playing | State::Refused) => {
                self.state = other;
            }
        }
    }

    /// Refuses the request of the last event, or ends an accepted publish or play for the reason given. Send the output
    /// and close the connection; after a refused publish or play it may also be kept for another try.
    pub fn reject(&mut self, refusal: Refusal) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Undecided(Undecided::Connect { transaction, .. }) => {
                self.answer_error(transaction, refusal.code(status::Request::Connect), refusal.description());
                self.state = State::Refused;
            }
            State::Undecided(Undecided::Publish) => self.refuse(status::Request::Publish, refusal),
            State::Undecided(Undecided::Play) => self.refuse(status::Request::Play, refusal),
            State::Publishing => {
                self.connection.impose_limits();
                self.refuse(status::Request::Publish, refusal);
            }
            State::Playing => {
                self.connection.impose_limits();
                self.refuse(status::Request::Play, refusal);
            }
            other @ (State::New | State::Idle | State::Refused) => self.state = other,
        }
    }

    /// Tells a player that the stream it plays has ended. Without a play it does nothing.
    pub fn end_play(&mut self) {
        if matches!(self.state, State::Playing) {
            self.state = State::Idle;
            self.connection.impose_limits();
            self.answer_play_ended();
        }
    }

    fn media(&mut self, mut message: Message) -> Option<Event> {
        if !matches!(self.state, State::Publishing) {
            self.connection.count_dropped();
            return None;
        }
        if message.kind == Kind::Data
            && let Some(rest) = message.payload.strip_prefix(SET_DATA_FRAME)
        {
            message.payload = message.payload.slice_ref(rest);
        }
        Some(Event::Media(message))
    }
}

/// The AMF 0 string `@setDataFrame`, which publishers put before metadata.
const SET_DATA_FRAME: &[u8] = b"\x02\x00\x0d@setDataFrame";
