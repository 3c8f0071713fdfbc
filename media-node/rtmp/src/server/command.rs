//! What the server does with each command (§7.2).

use super::{Connect, Event, Request, Session, State, Undecided};
use crate::amf0::Value;
use crate::connection::{Command, MESSAGE_STREAM};
use crate::name::Name;
use crate::status::{self, Refusal, code};
use crate::{Error, name};

impl Session {
    pub(super) fn command(&mut self, command: &Command) -> Result<Option<Event>, Error> {
        if matches!(self.state, State::New) {
            return match command.name.as_str() {
                "connect" => Ok(self.connect(command)),
                _ => Err(Error::NotConnected),
            };
        }
        match command.name.as_str() {
            "connect" => return Err(Error::ConnectedTwice),
            "createStream" => self.answer_result(command.transaction, Value::from(f64::from(MESSAGE_STREAM))),
            "releaseStream" => self.answer_result(command.transaction, Value::Undefined),
            "FCPublish" => {
                self.fc_publish = true;
                self.answer_result(command.transaction, Value::Undefined);
            }
            "FCSubscribe" => self.answer_fc("onFCSubscribe", code::PLAY_START, "subscribed"),
            "publish" => return Ok(self.publish(command)),
            "play" => return Ok(self.play(command)),
            "FCUnpublish" => {
                self.answer_fc("onFCUnpublish", code::UNPUBLISH_SUCCESS, "the stream has ended");
                self.answer_result(command.transaction, Value::Undefined);
                return Ok(self.end_publish());
            }
            "deleteStream" | "closeStream" => {
                return Ok(self.end_publish().or_else(|| self.stop_play()));
            }
            "getStreamLength" => self.answer_result(command.transaction, Value::from(0.0)),
            "play2" => self.answer_status("error", code::PLAY_FAILED, "play2 is not supported; use play"),
            // nothing to do on a live stream, and answers to what we never asked
            "pause" | "seek" | "receiveAudio" | "receiveVideo" | "_result" | "_error" | "onStatus" => {}
            _ if command.transaction != 0.0 => {
                self.answer_error(command.transaction, code::CALL_FAILED, "no such command");
            }
            _ => {}
        }
        Ok(None)
    }

    fn connect(&mut self, command: &Command) -> Option<Event> {
        // longer messages than 128 bytes follow, also when the answer is no
        self.connection.write_windows();
        self.connection.write_chunk_size();
        let text = |name| command.object.get(name).and_then(Value::as_str);
        let Some(app) = text("app").and_then(Name::parse) else {
            self.answer_error(command.transaction, code::CONNECT_REJECTED, "app is missing or too long");
            self.state = State::Refused;
            return None;
        };
        let mut query = app.query;
        if query == name::Query::default() {
            // some clients strip the query from the application and leave it in the URL
            query = text("tcUrl").and_then(Name::parse).map(|url| url.query).unwrap_or_default();
        }
        self.app = Name { name: app.name.clone(), query: query.clone() };
        self.state = State::Undecided(Undecided::Connect {
            transaction: command.transaction,
            object_encoding: command.object.get("objectEncoding").and_then(Value::as_number).unwrap_or(0.0),
        });
        let flash_version = text("flashVer").unwrap_or_default().chars().filter(|c| !c.is_control()).take(64).collect();
        Some(Event::Connect(Connect { app: app.name, query, flash_version }))
    }

    fn publish(&mut self, command: &Command) -> Option<Event> {
        let request = self.request(command, status::Request::Publish)?;
        self.state = State::Undecided(Undecided::Publish);
        Some(Event::Publish(request))
    }

    fn play(&mut self, command: &Command) -> Option<Event> {
        let request = self.request(command, status::Request::Play)?;
        self.state = State::Undecided(Undecided::Play);
        Some(Event::Play(request))
    }

    /// What a publish or play asks for; when that cannot be granted it is refused here.
    fn request(&mut self, command: &Command, request: status::Request) -> Option<Request> {
        match self.state {
            State::Idle => {}
            State::New | State::Undecided(_) | State::Publishing | State::Playing | State::Refused => {
                self.refuse(request, Refusal::Unavailable);
                return None;
            }
        }
        let name = command.text(0).and_then(Name::parse).filter(|name| !name.name.is_empty());
        let Some(name) = name else {
            self.refuse(request, Refusal::UnknownStream);
            return None;
        };
        Some(Request {
            app: self.app.name.clone(),
            id: name.name,
            key: name.query.key().or_else(|| self.app.query.key()),
            query: name.query,
        })
    }

    fn end_publish(&mut self) -> Option<Event> {
        if !matches!(self.state, State::Publishing) {
            return None;
        }
        self.state = State::Idle;
        self.connection.impose_limits();
        self.answer_status("status", code::UNPUBLISH_SUCCESS, "the stream has ended");
        Some(Event::Unpublish)
    }

    fn stop_play(&mut self) -> Option<Event> {
        if !matches!(self.state, State::Playing) {
            return None;
        }
        self.state = State::Idle;
        self.connection.impose_limits();
        self.answer_status("status", code::PLAY_STOP, "the stream has stopped");
        Some(Event::StopPlay)
    }
}
