//! Opens a connection and takes it to the point where media may flow.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use rtmp::client::{Event, Session, Target};
use rustix::net::sockopt::set_tcp_quickack;

/// A server that takes longer to accept is not in a state to be measured.
const ACCEPT: Duration = Duration::from_secs(10);

/// A started publish or play.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: TcpStream,
    pub(crate) session: Session,
    /// What came behind the start.
    pub(crate) input: BytesMut,
    /// When the request for the stream was written.
    pub(crate) requested: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Publish,
    Play,
}

impl Connection {
    /// Connects and waits for the server's consent.
    pub(crate) fn open(url: &str, stream: &str, purpose: Purpose) -> Result<Self> {
        let target = Target::parse(&format!("{}/{stream}", url.trim_end_matches('/')))?;
        let address = (target.host().to_owned(), target.port());
        let socket = TcpStream::connect(address).with_context(|| format!("failed to connect to {url}"))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(ACCEPT))?;
        let session = match purpose {
            Purpose::Publish => Session::publish(target),
            Purpose::Play => Session::play(target),
        };
        let mut connection = Self { socket, session, input: BytesMut::new(), requested: Instant::now() };
        connection.start().with_context(|| format!("{purpose:?} of {stream} failed"))?;
        Ok(connection)
    }

    fn start(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let output = self.session.take_output();
            if !output.is_empty() {
                self.requested = Instant::now();
                self.socket.write_all(&output)?;
            }
            match self.session.receive(&mut self.input)? {
                Some(Event::Started) => return Ok(()),
                Some(Event::Refused { code, description }) => bail!("refused: {code}: {description}"),
                Some(Event::Ended { code }) => bail!("ended: {code}"),
                Some(Event::Media(_)) => {}
                None if self.session.has_output() => {}
                None => {
                    // a server that writes its answer in pieces waits for us to acknowledge the first
                    set_tcp_quickack(&self.socket, true)?;
                    match self.socket.read(&mut buffer) {
                        Ok(0) => bail!("the server closed the connection"),
                        Ok(bytes) => self.input.extend_from_slice(buffer.get(..bytes).unwrap_or_default()),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("no answer within {ACCEPT:?}"),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
    }
}
