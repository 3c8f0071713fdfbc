//! The puller's side of one HTTP stream: asks the owner, and reads records. Every wait has a deadline.

use std::{sync::atomic::AtomicU64, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{AUTHORIZATION, HOST},
};
use hyper_util::rt::TokioIo;
use media_core::wire::{self, Record};
use prometheus_client::metrics::counter::Counter;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use super::{
    metrics::{Failure, Metrics},
    server::path,
};
use crate::{hub::Name, metrics::Direction};

/// Longest wait for a connection: nodes are near each other, and a lost first packet is sent again after 1 s.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest wait from there to the answer: the owner decides from memory.
const ANSWER: Duration = Duration::from_secs(3);
/// Longest silence of an owner, which says every 5 s that it is there.
pub(super) const SILENCE: Duration = Duration::from_secs(15);

/// What may be read ahead of what was taken, in bytes: 200 ms at 10 Mbit/s.
const READ_AHEAD: usize = 256 << 10;

/// Why a pull did not begin, or broke.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("failed to connect")]
    Connect(#[source] std::io::Error),
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    #[error("the owner refuses with status {0}")]
    Refused(StatusCode),
    #[error("not a stream of packets")]
    Protocol(#[source] wire::Error),
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    #[error("the connection ended before the stream")]
    Cut,
    #[error("nothing came for {SILENCE:?}")]
    Silent,
}

impl Error {
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Connect(_) => Failure::Connect,
            Self::NoAnswer(_) => Failure::NoAnswer,
            Self::Refused(_) => Failure::Refused,
            Self::Protocol(_) => Failure::Protocol,
            Self::Broken(_) | Self::Cut => Failure::Broken,
            Self::Silent => Failure::Silent,
        }
    }
}

/// A stream that another node sends. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Pull {
    body: Incoming,
    input: BytesMut,
    received: Counter<u64, AtomicU64>,
    /// Moves the connection's bytes.
    _connection: JoinSet<()>,
}

impl Pull {
    /// Asks the node at `address` (host:port) for a stream.
    ///
    /// # Errors
    /// When it cannot be reached, does not answer in time, or refuses.
    pub(super) async fn open(address: &str, name: &Name, token: &str, metrics: &Metrics) -> Result<Self, Error> {
        let connected =
            timeout(CONNECT, TcpStream::connect(address)).await.map_err(|_elapsed| Error::NoAnswer(CONNECT))?;
        let socket = connected.map_err(Error::Connect)?;
        socket.set_nodelay(true).map_err(Error::Connect)?;
        timeout(ANSWER, Self::ask(socket, address, name, token, metrics))
            .await
            .map_err(|_elapsed| Error::NoAnswer(ANSWER))?
    }

    async fn ask(socket: TcpStream, address: &str, name: &Name, token: &str, metrics: &Metrics) -> Result<Self, Error> {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(READ_AHEAD)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(Error::Broken)?;
        let mut driver = JoinSet::new();
        // what breaks it shows in the body
        driver.spawn(async move { drop(connection.await) });
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = path(name);
        let headers = [(HOST, address.to_owned()), (AUTHORIZATION, format!("Bearer {token}"))];
        for (header, value) in headers {
            // an address with bytes that no header may have is no address; without it the owner refuses
            if let Ok(value) = value.parse() {
                request.headers_mut().insert(header, value);
            }
        }
        let answer = sender.send_request(request).await.map_err(Error::Broken)?;
        if answer.status() != StatusCode::OK {
            return Err(Error::Refused(answer.status()));
        }
        let received = metrics.bytes(Direction::In);
        Ok(Self { body: answer.into_body(), input: BytesMut::new(), received, _connection: driver })
    }

    /// The next record. Dropping it loses nothing.
    ///
    /// # Errors
    /// When the stream broke; it is over then.
    pub(super) async fn next(&mut self) -> Result<Record, Error> {
        loop {
            if let Some(record) = wire::decode(&mut self.input).map_err(Error::Protocol)? {
                return Ok(record);
            }
            let frame = timeout(SILENCE, self.body.frame()).await.map_err(|_elapsed| Error::Silent)?;
            let frame = frame.ok_or(Error::Cut)?.map_err(Error::Broken)?;
            if let Ok(bytes) = frame.into_data() {
                self.received.inc_by(bytes.len() as u64);
                self.input.extend_from_slice(&bytes);
            }
        }
    }
}
