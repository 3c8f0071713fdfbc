//! A TCP socket that can be taken off the reactor: its owner then looks at it when it likes, and no byte that arrives
//! wakes anybody. With hundreds of publishers the wake-ups would cost more than the reading.

use std::{
    cell::RefCell,
    io::{self, IoSlice, Read, Write},
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// Most bytes of one read off the reactor.
const SCRATCH_BYTES: usize = 64 << 10;

thread_local! {
    /// Where they are read: what follows is a copy of what came, where clearing a connection's own buffer for each read would
    /// touch all of it.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// The socket of a connection.
#[derive(Debug)]
pub struct Socket(State);

#[derive(Debug)]
enum State {
    /// On the reactor: a poll that returns `Pending` wakes its task when there is more to do.
    Watched(TcpStream),
    /// Off it: a poll does what can be done at once, and nobody is woken.
    Unwatched(std::net::TcpStream),
    /// It could not be put back.
    Lost,
}

/// What carries a connection: TCP, or TLS over it.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether it may hold bytes that have left the socket: then one read says nothing about the next.
    const HOLDS_BYTES: bool;

    /// The socket below.
    fn socket(&mut self) -> &mut Socket;
}

impl Io for Socket {
    const HOLDS_BYTES: bool = false;

    fn socket(&mut self) -> &mut Socket {
        self
    }
}

impl Io for TlsStream<Socket> {
    const HOLDS_BYTES: bool = true;

    fn socket(&mut self) -> &mut Socket {
        self.get_mut().0
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self(State::Watched(stream))
    }
}

impl Socket {
    /// Takes the socket off the reactor.
    ///
    /// # Errors
    /// When the reactor fails; the socket is lost then.
    pub fn unwatch(&mut self) -> io::Result<()> {
        self.0 = match std::mem::replace(&mut self.0, State::Lost) {
            State::Watched(stream) => State::Unwatched(stream.into_std()?),
            other @ (State::Unwatched(_) | State::Lost) => other,
        };
        Ok(())
    }

    /// Puts the socket back on the reactor.
    ///
    /// # Errors
    /// As [`Socket::unwatch`].
    pub fn watch(&mut self) -> io::Result<()> {
        self.0 = match std::mem::replace(&mut self.0, State::Lost) {
            State::Unwatched(stream) => State::Watched(TcpStream::from_std(stream)?),
            other @ (State::Watched(_) | State::Lost) => other,
        };
        Ok(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            State::Watched(stream) => Pin::new(stream).poll_read(cx, buffer),
            State::Unwatched(stream) => SCRATCH.with_borrow_mut(|scratch| {
                let room = buffer.remaining().min(scratch.len());
                let space = scratch.get_mut(..room).unwrap_or_default();
                at_once(stream.read(space)).map_ok(|read| buffer.put_slice(space.get(..read).unwrap_or_default()))
            }),
            State::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            State::Watched(stream) => Pin::new(stream).poll_write(cx, bytes),
            State::Unwatched(stream) => at_once(stream.write(bytes)),
            State::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            State::Watched(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            State::Unwatched(stream) => at_once(stream.write_vectored(slices)),
            State::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            State::Watched(stream) => Pin::new(stream).poll_shutdown(cx),
            State::Unwatched(stream) => Poll::Ready(stream.shutdown(Shutdown::Write)),
            State::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

/// What a call on a non-blocking socket came to.
fn at_once(done: io::Result<usize>) -> Poll<io::Result<usize>> {
    match done {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Poll::Pending,
        done => Poll::Ready(done),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (peer, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (accepted.unwrap().0.into(), peer.unwrap())
    }

    /// One look at the socket: what was read, or `None` when there was nothing.
    async fn look(socket: &mut Socket) -> Option<Vec<u8>> {
        let mut bytes = [0; 16];
        let mut buffer = ReadBuf::new(&mut bytes);
        let found = poll_fn(|cx| Poll::Ready(Pin::new(&mut *socket).poll_read(cx, &mut buffer))).await;
        found.map(|read| read.unwrap()).is_ready().then(|| buffer.filled().to_vec())
    }

    #[tokio::test]
    async fn an_unwatched_socket_is_read_and_written_at_once() {
        let (mut socket, mut peer) = pair().await;
        socket.unwatch().unwrap();
        assert_eq!(look(&mut socket).await, None);

        peer.write_all(b"media").await.unwrap();
        // loopback: what was written is there
        assert_eq!(look(&mut socket).await.unwrap(), b"media");
        socket.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        peer.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");

        drop(peer);
        assert_eq!(look(&mut socket).await.unwrap(), b"", "the end is seen");
    }

    #[tokio::test]
    async fn a_socket_that_is_watched_again_wakes_its_task() {
        let (mut socket, mut peer) = pair().await;
        socket.unwatch().unwrap();
        peer.write_all(b"be").await.unwrap();
        socket.watch().unwrap();

        let mut bytes = [0; 6];
        let (read, written) = tokio::join!(socket.read_exact(&mut bytes), peer.write_all(b"fore"));

        written.unwrap();
        assert_eq!((read.unwrap(), &bytes), (6, b"before"));
    }
}
