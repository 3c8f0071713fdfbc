//! One player: counts bytes, and when it is an observer also takes the messages apart and notes how late they are.

use std::{
    io::{ErrorKind, Read, Write},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rtmp::client::Event;

use crate::{clip::FIRST_TIMESTAMP, connection::Connection, latency::Latencies};

/// Bytes between two acknowledgements: the window that servers announce.
const WINDOW: u64 = 2_500_000;

#[derive(Debug)]
pub(crate) struct Player {
    pub(crate) connection: Connection,
    role: Role,
    received: u64,
    acknowledged: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// Counts bytes only.
    Counter,
    /// Knows when the stream's first frame was due.
    Observer { begin: Instant },
}

/// What players saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) bytes: u64,
    pub(crate) reads: u64,
    /// Messages that observers saw, and how long after their due time each was read.
    pub(crate) lags: Latencies,
}

impl Player {
    pub(crate) fn new(connection: Connection, role: Role) -> Result<Self> {
        connection.socket.set_nonblocking(true)?;
        Ok(Self { connection, role, received: 0, acknowledged: 0 })
    }

    /// Reads once.
    pub(crate) fn read(&mut self, buffer: &mut [u8], now: Instant, seen: &mut Seen) -> Result<()> {
        let bytes = match self.connection.socket.read(buffer) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        ensure!(bytes > 0, "the server closed the connection");
        seen.bytes += bytes as u64;
        seen.reads += 1;
        self.received += bytes as u64;
        match self.role {
            Role::Counter => self.acknowledge(),
            Role::Observer { begin } => self.observe(buffer.get(..bytes).unwrap_or_default(), begin, now, seen),
        }
    }

    fn observe(&mut self, piece: &[u8], begin: Instant, now: Instant, seen: &mut Seen) -> Result<()> {
        self.connection.input.extend_from_slice(piece);
        while let Some(event) = self.connection.session.receive(&mut self.connection.input)? {
            match event {
                Event::Media(message) if message.timestamp_ms >= FIRST_TIMESTAMP => {
                    let due = begin + Duration::from_millis(u64::from(message.timestamp_ms - FIRST_TIMESTAMP));
                    seen.lags.add(now.saturating_duration_since(due));
                }
                Event::Started | Event::Media(_) => {}
                Event::Refused { .. } | Event::Ended { .. } => anyhow::bail!("the server ended the stream: {event:?}"),
            }
        }
        let output = self.connection.session.take_output();
        if !output.is_empty() {
            self.connection.socket.write_all(&output)?;
        }
        Ok(())
    }

    fn acknowledge(&mut self) -> Result<()> {
        if self.received - self.acknowledged < WINDOW {
            return Ok(());
        }
        self.acknowledged = self.received;
        let count = u32::try_from(self.received % (1 << 32))?;
        let mut message = vec![2, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0];
        message.extend(count.to_be_bytes());
        self.connection.socket.write_all(&message)?;
        Ok(())
    }
}
