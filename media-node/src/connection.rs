//! One RTMP connection: moves bytes between a socket and `rtmp::server::Session`, and knows nothing of streams.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::atomic::AtomicU64,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use prometheus_client::metrics::counter::Counter;
use rtmp::server::{Event, Session};
use tokio::{
    io::AsyncReadExt,
    time::{Instant, timeout},
};

use crate::{
    metrics::{Direction, Metrics, Protocol},
    socket::Io,
};

/// Room for a read before a publisher is accepted: a handshake is 3 KiB, and thousands of connections may be at it.
const SMALL_READ: usize = 4 << 10;
/// Room for a publisher's reads: 200 ms at 600 kbit/s. A read that fills all of it doubles the next, up to [`LARGE_READ`].
const MEDIA_READ: usize = 16 << 10;
const LARGE_READ: usize = 256 << 10;

/// Slices of one write. A batch of a viewer has about 40 packets.
const SLICES: usize = 64;

/// Longest wait for a peer to take the last words before its connection is closed.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// The peer closed its side.
    #[error("the peer closed the connection")]
    Eof,
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    #[error("the peer broke the protocol")]
    Protocol(#[source] rtmp::Error),
}

/// Whether the reactor wakes the task of a connection for bytes that arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    Yes,
    No,
}

/// What a look at a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// There may be more to read.
    More,
    /// There is nothing more for now.
    Enough,
}

/// A connection.
#[derive(Debug)]
pub struct Connection<I> {
    io: I,
    session: Session,
    input: BytesMut,
    read_size: usize,
    output: VecDeque<Bytes>,
    needs_flush: bool,
    last_progress: Instant,
    received: Counter<u64, AtomicU64>,
    sent: Counter<u64, AtomicU64>,
    /// Where the peer is.
    pub peer: SocketAddr,
    pub protocol: Protocol,
}

impl<I: Io> Connection<I> {
    /// Takes over a socket that was just accepted.
    pub fn new(io: I, peer: SocketAddr, protocol: Protocol, metrics: &Metrics) -> Self {
        Self {
            io,
            session: Session::new(rtmp::server::Config::default()),
            input: BytesMut::new(),
            read_size: SMALL_READ,
            output: VecDeque::new(),
            needs_flush: false,
            last_progress: Instant::now(),
            received: metrics.bytes(protocol, Direction::In),
            sent: metrics.bytes(protocol, Direction::Out),
            peer,
            protocol,
        }
    }

    /// The protocol's side, to answer its events.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Reads in large steps from now on: the peer sends media.
    pub fn expect_media(&mut self) {
        self.read_size = MEDIA_READ;
    }

    /// The next event in what was read; `None` when more must be read.
    ///
    /// # Errors
    /// When the peer breaks the protocol.
    pub fn take_event(&mut self) -> Result<Option<Event>, Closed> {
        self.session.receive(&mut self.input).map_err(Closed::Protocol)
    }

    /// The next event. Dropping it loses nothing.
    ///
    /// # Errors
    /// When the connection is over.
    pub async fn next_event(&mut self) -> Result<Event, Closed> {
        loop {
            if let Some(event) = self.take_event()? {
                return Ok(event);
            }
            self.transfer().await?;
        }
    }

    /// Queues bytes for the peer, after the session's own.
    pub fn send(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.output.push_back(bytes);
        }
    }

    /// Whether the peer has been given all there is for it.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty() && !self.needs_flush && !self.session.has_output()
    }

    /// When the peer last took bytes that were queued for it.
    #[must_use]
    pub fn last_progress(&self) -> Instant {
        self.last_progress
    }

    /// Reads and writes until something was read, or all that was queued is written. Dropping it loses nothing.
    ///
    /// # Errors
    /// When the connection is over.
    pub async fn transfer(&mut self) -> Result<(), Closed> {
        poll_fn(|cx| self.poll_transfer(cx)).await
    }

    /// Takes the socket off the reactor, or puts it back. Off it nobody is woken: [`Self::look`] at it.
    ///
    /// # Errors
    /// When the connection is lost over it.
    pub fn set_watched(&mut self, watched: Watched) -> Result<(), Closed> {
        let socket = self.io.socket();
        match watched {
            Watched::Yes => socket.watch(),
            Watched::No => socket.unwatch(),
        }
        .map_err(Closed::Broken)
    }

    /// Reads and writes what can be done at once.
    ///
    /// # Errors
    /// When the connection is over.
    pub async fn look(&mut self) -> Result<Looked, Closed> {
        self.write_some().await?;
        poll_fn(|cx| {
            Poll::Ready(match self.poll_read(cx) {
                Poll::Pending => Ok(Looked::Enough),
                Poll::Ready(Ok(0)) => Err(Closed::Eof),
                Poll::Ready(Ok(read)) if I::HOLDS_BYTES || self.is_full() || read >= MEDIA_READ => Ok(Looked::More),
                Poll::Ready(Ok(_)) => Ok(Looked::Enough),
                Poll::Ready(Err(error)) => Err(Closed::Broken(error)),
            })
        })
        .await
    }

    /// Writes what is queued as far as the peer takes it at once.
    ///
    /// # Errors
    /// When the connection is over.
    pub async fn write_some(&mut self) -> Result<(), Closed> {
        poll_fn(|cx| match self.poll_write(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(Closed::Broken(error))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        })
        .await
    }

    /// Gives the peer the last words and closes.
    pub async fn close(mut self) {
        let farewell = async {
            poll_fn(|cx| self.poll_write(cx)).await?;
            poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await?;
            // What the peer has sent meanwhile is read: else the kernel answers with a reset, and the last words are lost.
            loop {
                self.input.clear();
                self.input.reserve(SMALL_READ);
                if self.io.read_buf(&mut self.input).await? == 0 {
                    return io::Result::Ok(());
                }
            }
        };
        // A peer that does not take them, or is gone, has none.
        let _said = timeout(FAREWELL, farewell).await;
    }

    fn poll_transfer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        if !self.is_flushed()
            && let Poll::Ready(written) = self.poll_write(cx)
        {
            return Poll::Ready(written.map_err(Closed::Broken));
        }
        match ready!(self.poll_read(cx)) {
            Ok(0) => Poll::Ready(Err(Closed::Eof)),
            Ok(_) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(Closed::Broken(error))),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() - self.input.len() < self.read_size / 4 {
            self.input.reserve(self.read_size);
        }
        let room = self.input.capacity() - self.input.len();
        let read = ready!(pin!(self.io.read_buf(&mut self.input)).poll(cx))?;
        // the end of a buffer is filled by any read
        if read == room && room >= self.read_size && self.read_size >= MEDIA_READ {
            self.read_size = (self.read_size * 2).min(LARGE_READ);
        }
        self.received.inc_by(read as u64);
        Poll::Ready(Ok(read))
    }

    fn is_full(&self) -> bool {
        self.input.len() == self.input.capacity()
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.session.has_output() {
            let answers = self.session.take_output();
            // before media of a play that was accepted just now
            self.output.push_back(answers);
        }
        while !self.output.is_empty() {
            let written = {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let mut count = 0;
                for (slice, bytes) in slices.iter_mut().zip(&self.output) {
                    *slice = IoSlice::new(bytes);
                    count += 1;
                }
                let slices = slices.get(..count).unwrap_or(&[]);
                ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.needs_flush = true;
            self.advance(written);
        }
        if self.needs_flush {
            // TLS holds back what the socket did not take
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.last_progress = Instant::now();
        self.sent.inc_by(written as u64);
        while let Some(front) = self.output.front_mut() {
            if front.len() > written {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.output.pop_front();
        }
    }
}
