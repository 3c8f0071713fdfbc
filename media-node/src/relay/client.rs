//! The puller's side: asks the owner by HTTP, and reads records. Every wait has a deadline.

use std::{sync::atomic::AtomicU64, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::Empty;
use hyper::{
    Request, StatusCode,
    client::conn::http1,
    header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue, UPGRADE},
};
use hyper_util::rt::TokioIo;
use media_core::wire::{self, Record};
use prometheus_client::metrics::counter::Counter;
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use super::{
    metrics::{Failure, Metrics},
    server::{PROTOCOL, path},
};
use crate::{hub::Name, metrics::Direction};

/// Longest wait for a connection: nodes are near each other, and a lost first packet is sent again after 1 s.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest wait from there to the answer: the owner decides from memory.
const ANSWER: Duration = Duration::from_secs(3);
/// Longest silence of an owner, which says every 5 s that it is there.
pub(super) const SILENCE: Duration = Duration::from_secs(15);

/// Room for reads: 100 ms at 20 Mbit/s. Packets keep what was read into it.
const READ_AHEAD: usize = 256 << 10;
/// With less room left than this, new room is made.
const LEAST_READ: usize = 4 << 10;

/// Why a pull did not begin, or broke.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("failed to connect")]
    Connect(#[source] std::io::Error),
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    #[error("the owner refuses with status {0}")]
    Refused(StatusCode),
    #[error("not a stream of packets")]
    Protocol(#[source] wire::Error),
    #[error("the connection broke before the answer")]
    Http(#[source] hyper::Error),
    #[error("the connection broke")]
    Broken(#[source] std::io::Error),
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
            Self::Http(_) | Self::Broken(_) | Self::Cut => Failure::Broken,
            Self::Silent => Failure::Silent,
        }
    }
}

/// Connects to the node at `address` (host:port).
///
/// # Errors
/// When it cannot be reached in time.
pub(super) async fn connect(address: &str) -> Result<TcpStream, Error> {
    let connected = timeout(CONNECT, TcpStream::connect(address)).await.map_err(|_elapsed| Error::NoAnswer(CONNECT))?;
    let socket = connected.map_err(Error::Connect)?;
    socket.set_nodelay(true).map_err(Error::Connect)?;
    Ok(socket)
}

/// A stream that another node sends. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Pull {
    socket: TcpStream,
    input: BytesMut,
    received: Counter<u64, AtomicU64>,
}

impl Pull {
    /// Asks the node at `address` (host:port) for a stream.
    ///
    /// # Errors
    /// When it cannot be reached, does not answer in time, or refuses.
    pub(super) async fn open(address: &str, name: &Name, token: &str, metrics: &Metrics) -> Result<Self, Error> {
        let socket = connect(address).await?;
        timeout(ANSWER, Self::ask(socket, address, name, token, metrics))
            .await
            .map_err(|_elapsed| Error::NoAnswer(ANSWER))?
    }

    async fn ask(socket: TcpStream, address: &str, name: &Name, token: &str, metrics: &Metrics) -> Result<Self, Error> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(Error::Http)?;
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = path(name);
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        request.headers_mut().insert(UPGRADE, PROTOCOL);
        let headers = [(HOST, address.to_owned()), (AUTHORIZATION, format!("Bearer {token}"))];
        for (header, value) in headers {
            // an address with bytes that no header may have is no address; without it the owner refuses
            if let Ok(value) = value.parse() {
                request.headers_mut().insert(header, value);
            }
        }
        let asked = async {
            let answer = sender.send_request(request).await.map_err(Error::Http)?;
            if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Err(Error::Refused(answer.status()));
            }
            hyper::upgrade::on(answer).await.map_err(Error::Http)
        };
        // what breaks the connection shows in the answer
        let (asked, _moved) = tokio::join!(asked, connection.with_upgrades());
        let upgraded = asked?.downcast::<TokioIo<TcpStream>>().map_err(|_other| Error::Cut)?;
        let input = BytesMut::from(&upgraded.read_buf[..]);
        let received = metrics.bytes(Direction::In);
        received.inc_by(input.len() as u64);
        Ok(Self { socket: upgraded.io.into_inner(), input, received })
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
            if self.input.capacity() - self.input.len() < LEAST_READ {
                self.input.reserve(READ_AHEAD);
            }
            let read = timeout(SILENCE, self.socket.read_buf(&mut self.input)).await;
            match read.map_err(|_elapsed| Error::Silent)?.map_err(Error::Broken)? {
                0 => return Err(Error::Cut),
                count => _ = self.received.inc_by(count as u64),
            }
        }
    }
}
