//! One publisher: sends each message of the clip when its time has come.

use std::{
    io::{ErrorKind, Read, Write},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{clip::Clip, connection::Connection};

/// When a socket takes no more, the rest is tried again after this time.
const RETRY: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) connection: Connection,
    /// When the present repetition of the clip began.
    begin: Instant,
    /// The next message, and how much of the body was sent.
    frame: usize,
    sent: usize,
    headers: Headers,
}

#[derive(Debug, PartialEq, Eq)]
enum Headers {
    Due,
    Sent,
}

/// What one turn did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turn {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) blocked: u64,
}

impl Publisher {
    /// Announces the chunk size; the first frame is due at `begin`.
    pub(crate) fn new(mut connection: Connection, clip: &Clip, begin: Instant) -> Result<Self> {
        connection.socket.set_nonblocking(true)?;
        connection.socket.write_all(&clip.chunk_size)?;
        Ok(Self { connection, begin, frame: 0, sent: 0, headers: Headers::Due })
    }

    /// When the next message is due.
    pub(crate) fn due(&self, clip: &Clip) -> Instant {
        let millis = clip.frames.get(self.frame).map_or(clip.duration_millis, |frame| frame.millis);
        self.begin + Duration::from_millis(u64::from(millis))
    }

    /// Sends the message that is due, and says when the next one is.
    pub(crate) fn send(&mut self, clip: &Clip, now: Instant, turn: &mut Turn) -> Result<Instant> {
        if self.headers == Headers::Due {
            // a new connection takes it at once
            self.connection.socket.write_all(&clip.headers)?;
            self.headers = Headers::Sent;
        }
        let end = clip.frames.get(self.frame).map_or(self.sent, |frame| frame.end);
        let piece = clip.body.get(self.sent..end).unwrap_or_default();
        match self.connection.socket.write(piece) {
            Ok(bytes) => {
                self.sent += bytes;
                turn.bytes += bytes as u64;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if self.sent < end {
            turn.blocked += 1;
            return Ok(now + RETRY);
        }
        turn.messages += 1;
        self.frame += 1;
        if self.frame == clip.frames.len() {
            self.begin += Duration::from_millis(u64::from(clip.duration_millis));
            (self.frame, self.sent) = (0, 0);
        }
        Ok(self.due(clip))
    }

    /// Reads what the server says and answers it between two messages.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<()> {
        let bytes = match self.connection.socket.read(buffer) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        ensure!(bytes > 0, "the server closed the connection");
        self.connection.input.extend_from_slice(buffer.get(..bytes).unwrap_or_default());
        while let Some(event) = self.connection.session.receive(&mut self.connection.input)? {
            ensure!(self.connection.session.is_started(), "the server ended the stream: {event:?}");
        }
        let output = self.connection.session.take_output();
        if !output.is_empty() {
            self.connection.socket.write_all(&output)?;
        }
        Ok(())
    }
}
