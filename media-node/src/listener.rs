//! Accepts RTMP connections, and lets none wait for long or without bound before it publishes or plays.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ledger::Store;
use rtmp::{
    server::{Event, Request},
    status::Refusal,
};
use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::{
    connection::{Closed, Connection},
    ingest,
    metrics::{ConnectionState, Metrics, Protocol, RefusalReason},
    playback,
    server::Node,
    socket::{self, Io},
};

/// Connections that neither publish nor play yet. Each holds about 8 KiB; a burst of a few thousand viewers passes through
/// in less than a second. When there are more, or as many as half the file descriptors, the oldest is cut, so that a flood of
/// idle ones keeps nobody out.
const MAX_PENDING: usize = 4_096;

/// Longest time from accept to the connect command, TLS and handshake in it: a few round trips.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Longest time from there to publish or play. Encoders ask at once.
const REQUEST: Duration = Duration::from_secs(20);

/// Connections that the kernel holds until they are accepted; it lowers this to its own limit.
const BACKLOG: i32 = 4_096;

/// Pause after an accept that failed, as it does without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Of the file descriptors, those for connections without a stream: the rest is for publishers and viewers.
fn max_pending() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let half = limit.map_or(usize::MAX, |limit| usize::try_from(limit / 2).unwrap_or(usize::MAX));
    MAX_PENDING.min(half)
}

/// Lets this process have as many file descriptors as it may: each connection is one, and many shells give 1,024.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        warn!(%error, current = limit.current, "failed to raise the limit of open files");
    }
}

/// Binds a socket for listening.
///
/// # Errors
/// When the address is taken or not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // a restart must not wait for the old connections' TIME_WAIT
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections until the node shuts down; each is a task of `tasks`.
pub async fn serve<S: Store>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    protocol: Protocol,
    node: Arc<Node<S>>,
    tasks: TaskTracker,
) {
    while let Some((stream, peer)) = node.shutdown.run_until_cancelled(accept(&listener)).await {
        node.metrics.accepted(protocol);
        tasks.spawn(serve_stream(stream, peer, tls.clone(), protocol, Arc::clone(&node)));
    }
}

/// Accepts the next connection, whatever it takes: an accept fails for as long as there are no free file descriptors.
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                // one line for each time that it begins: it lasts until somebody leaves
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "failed to accept a connection; it is tried again until it succeeds");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_stream<S: Store>(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    protocol: Protocol,
    node: Arc<Node<S>>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, %error, "the connection was gone at once");
        return;
    }
    let stream = socket::Socket::from(stream);
    let Some(tls) = tls else {
        return serve_connection(Connection::new(stream, peer, protocol, &node.metrics), &node).await;
    };
    let handshake = async {
        let waiting = node.pending.enter(&node.metrics, protocol);
        tokio::select! {
            done = timeout(HANDSHAKE, tls.accept(stream)) => done.ok(),
            () = waiting.evicted() => None,
            () = node.shutdown.cancelled() => None,
        }
    };
    match handshake.await {
        Some(Ok(stream)) => serve_connection(Connection::new(stream, peer, protocol, &node.metrics), &node).await,
        Some(Err(error)) => {
            debug!(%peer, %error, "TLS handshake failed");
            node.metrics.refused(RefusalReason::Protocol);
        }
        None => node.metrics.refused(RefusalReason::HandshakeTimeout),
    }
}

async fn serve_connection<S: Store, I: Io>(mut connection: Connection<I>, node: &Arc<Node<S>>) {
    while let Some(wanted) = until_request(&mut connection, node).await {
        // boxed: what waits for a request, by the thousand, is small
        let after = match wanted {
            Wanted::Publish(request) => Box::pin(ingest::rtmp::publish(connection, &request, node)).await,
            Wanted::Play(request) => Box::pin(playback::rtmp::play(connection, &request, node)).await,
            Wanted::Nothing => return connection.close().await,
        };
        match after {
            Some(open) => connection = open,
            None => return,
        }
    }
}

/// What a connection is for.
enum Wanted {
    Publish(Box<Request>),
    Play(Box<Request>),
    /// It was told why it gets nothing.
    Nothing,
}

/// Waits for a request; `None` when the connection is over.
async fn until_request<S: Store, I: Io>(connection: &mut Connection<I>, node: &Node<S>) -> Option<Wanted> {
    let waiting = node.pending.enter(&node.metrics, connection.protocol);
    let peer = connection.peer;
    let wanted = tokio::select! {
        wanted = request(connection, node) => wanted,
        () = waiting.evicted() => Err(RefusalReason::TooManyPending),
        () = node.shutdown.cancelled() => return None,
    };
    match wanted {
        Ok(wanted) => wanted,
        Err(reason) => {
            debug!(%peer, ?reason, "connection cut");
            node.metrics.refused(reason);
            None
        }
    }
}

async fn request<S: Store, I: Io>(
    connection: &mut Connection<I>,
    node: &Node<S>,
) -> Result<Option<Wanted>, RefusalReason> {
    let mut patience = if connection.session().handshake_done() { REQUEST } else { HANDSHAKE };
    loop {
        let timed_out =
            if patience == HANDSHAKE { RefusalReason::HandshakeTimeout } else { RefusalReason::RequestTimeout };
        let event = match timeout(patience, connection.next_event()).await {
            Ok(Ok(event)) => event,
            Ok(Err(closed)) => return over(connection.peer, &closed),
            Err(_elapsed) => return Err(timed_out),
        };
        match event {
            Event::Connect(connect) if node.admission.apps().pool(&connect.app).is_some() => {
                connection.session().accept();
                patience = REQUEST;
            }
            Event::Connect(connect) => {
                let reason = RefusalReason::UnknownApp;
                info!(peer = %connection.peer, app = connect.app, ?reason, "connection refused");
                node.metrics.refused(reason);
                connection.session().reject(Refusal::UnknownApp);
                return Ok(Some(Wanted::Nothing));
            }
            Event::Publish(request) => return Ok(Some(Wanted::Publish(Box::new(request)))),
            Event::Play(request) => return Ok(Some(Wanted::Play(Box::new(request)))),
            Event::Media(_) | Event::Unpublish | Event::StopPlay => {}
        }
    }
}

/// A peer that leaves before it asks is a probe or a port scan: no news. One that speaks something else is counted.
fn over(peer: SocketAddr, closed: &Closed) -> Result<Option<Wanted>, RefusalReason> {
    debug!(%peer, error = closed as &dyn std::error::Error, "connection over before a request");
    match closed {
        Closed::Eof | Closed::Broken(_) => Ok(None),
        Closed::Protocol(_) => Err(RefusalReason::Protocol),
    }
}

/// The connections that neither publish nor play yet, oldest first. Clones share them.
#[derive(Debug, Clone)]
pub struct Pending(Arc<Mutex<Waitlist>>);

#[derive(Debug)]
struct Waitlist {
    max: usize,
    next: u64,
    waiting: BTreeMap<u64, Arc<Notify>>,
}

/// A place among the pending; given back when dropped.
#[derive(Debug)]
pub struct Waiting {
    pending: Pending,
    number: u64,
    evicted: Arc<Notify>,
    _counted: crate::metrics::Counted,
}

impl Default for Pending {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Waitlist { max: max_pending(), next: 0, waiting: BTreeMap::new() })))
    }
}

impl Pending {
    /// Takes a place. If there are too many the oldest loses its.
    #[must_use]
    pub fn enter(&self, metrics: &Metrics, protocol: Protocol) -> Waiting {
        let evicted = Arc::new(Notify::new());
        let mut list = self.list();
        let number = list.next;
        list.next += 1;
        list.waiting.insert(number, Arc::clone(&evicted));
        if list.waiting.len() > list.max
            && let Some((_, oldest)) = list.waiting.pop_first()
        {
            oldest.notify_one();
        }
        drop(list);
        let _counted = metrics.connection(ConnectionState::Pending, protocol);
        Waiting { pending: self.clone(), number, evicted, _counted }
    }

    fn list(&self) -> MutexGuard<'_, Waitlist> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Returns when the place is lost.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pending.list().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use prometheus_client::registry::Registry;

    use super::*;

    #[tokio::test]
    async fn the_oldest_pending_connection_gives_way_to_the_newest() {
        let (pending, metrics) = (Pending::default(), Metrics::new(&mut Registry::default()));
        let oldest = pending.enter(&metrics, Protocol::Rtmp);
        let others: Vec<_> = (1..max_pending()).map(|_| pending.enter(&metrics, Protocol::Rtmp)).collect();
        assert!(oldest.evicted().now_or_never().is_none());

        let newest = pending.enter(&metrics, Protocol::Rtmp);

        assert!(oldest.evicted().now_or_never().is_some());
        assert!(others.iter().chain([&newest]).all(|waiting| waiting.evicted().now_or_never().is_none()));
        drop((oldest, others, newest));
        assert!(pending.list().waiting.is_empty());
    }
}
