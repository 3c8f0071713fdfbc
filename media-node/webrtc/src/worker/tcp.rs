//! A worker's connections (ICE-TCP, RFC 6544: ours are passive candidates). Peers that no datagram reaches come this way.
//!
//! A connection is a stranger's until a check on it was in order. It belongs to that session from then on, and ends with it.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use socket2::SockRef;

use crate::batch::{Sent, Transmit};
use crate::framing::Queue;
use crate::path::{Path, Transport};
use crate::pool::{SessionId, Shared};
use crate::worker::count;

/// Peers check as soon as they are connected; some time for packets that are lost.
const PROVE: Duration = Duration::from_secs(10);

/// Strangers are at most so small a part of a worker's connections. When there are more the oldest goes, since a genuine peer is no
/// stranger for long.
const STRANGERS: usize = 4;

/// Connections of one session. A browser opens one for each address of ours from each of its own, also where it is reached by
/// datagrams.
const OF_A_SESSION: usize = 8;

/// What is longer than checks and their answers: media, or the handshake before it.
const MEDIA: usize = 512;

/// What the system has under way of one connection: as much as 10 Mbit/s need over 200 ms. With the larger buffers that it would take
/// by itself a viewer would lag by seconds before it is seen to.
const SOCKET_BUFFER: usize = 256 * 1024;

/// What one read takes. The system tells again of what is left, after others had their turn.
const READ: usize = 32 * 1024;

/// Connections that are accepted before others have their turn.
const ACCEPTS_A_TURN: usize = 64;

/// How long none is accepted where the process has no descriptor left.
const REST: Duration = Duration::from_secs(1);

const LISTENER: u64 = 0;

pub(super) struct Tcp {
    listener: TcpListener,
    epoll: OwnedFd,
    shared: Arc<Shared>,
    connections: HashMap<u64, Connection>,
    paths: HashMap<Path, u64>,
    /// The oldest first.
    strangers: VecDeque<(Instant, u64)>,
    last: u64,
    /// When it listens again.
    rests: Option<Instant>,
    lost: Vec<(Path, SessionId)>,
}

struct Connection {
    socket: TcpStream,
    path: Path,
    /// The begin of a frame.
    partial: Vec<u8>,
    queue: Queue,
    /// The system is to say when there is room.
    is_full: bool,
    session: Option<SessionId>,
    /// Media goes this way, or did.
    is_used: bool,
}

/// A connection that comes, be it from another worker with what was read there.
pub(crate) struct Moving {
    socket: TcpStream,
    path: Path,
    bytes: Vec<u8>,
    /// When its stranger must have proved itself.
    until: Instant,
}

impl Tcp {
    pub(super) fn new(listener: TcpListener, shared: Arc<Shared>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        Ok(Self {
            listener,
            epoll,
            shared,
            connections: HashMap::new(),
            paths: HashMap::new(),
            strangers: VecDeque::new(),
            last: LISTENER,
            rests: None,
            lost: Vec::new(),
        })
    }

    /// Readable when there is something to do.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Accepts and writes what can be, and names the connections that can be read.
    pub(super) fn ready(&mut self, now: Instant) -> Vec<u64> {
        let (mut events, mut readable) = (Vec::with_capacity(64), Vec::new());
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let waited = epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&at_once));
        if waited.is_err() {
            return readable;
        }
        for event in events {
            let (token, flags) = (event.data.u64(), event.flags);
            if token == LISTENER {
                self.accept(now);
                continue;
            }
            if flags.contains(epoll::EventFlags::OUT) {
                self.write(token);
            }
            if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                readable.push(token);
            }
        }
        readable
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTS_A_TURN {
            match self.listener.accept() {
                Ok((socket, peer)) => {
                    count(&self.shared.counters.connections_accepted);
                    // one that is gone already has no address
                    if let Ok(path) = prepare(&socket, peer) {
                        self.add(Moving { socket, path, bytes: Vec::new(), until: now + PROVE }, now);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(_no_descriptor) => {
                    // the system would tell of it again and again
                    self.listen(epoll::EventFlags::empty());
                    self.rests = Some(now + REST);
                    return;
                }
            }
        }
    }

    fn listen(&self, flags: epoll::EventFlags) {
        // it is there since `new`
        let _listed = epoll::modify(&self.epoll, &self.listener, epoll::EventData::new_u64(LISTENER), flags);
    }

    /// Takes a connection up as a stranger's, unless there are too many.
    pub(super) fn add(&mut self, moving: Moving, now: Instant) -> Option<u64> {
        let Moving { socket, path, bytes, until } = moving;
        let most = (self.shared.limits.connections / self.shared.doors.len().max(1)).max(1);
        if self.strangers.len() >= (most / STRANGERS).max(1)
            && let Some((_, oldest)) = self.strangers.front().copied()
        {
            count(&self.shared.counters.connections_refused);
            self.drop(oldest);
        }
        // those that browsers hold ready beside the path that they use go first
        if self.connections.len() >= most
            && let Some(spare) = self.spare(|_| true)
        {
            count(&self.shared.counters.connections_refused);
            self.drop(spare);
        }
        if self.connections.len() >= most || until <= now {
            count(&self.shared.counters.connections_refused);
            return None;
        }
        self.last += 1;
        let token = self.last;
        if epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(token), epoll::EventFlags::IN).is_err() {
            return None;
        }
        let connection = Connection {
            socket,
            path,
            partial: bytes,
            queue: Queue::default(),
            is_full: false,
            session: None,
            is_used: false,
        };
        self.connections.insert(token, connection);
        self.paths.insert(path, token);
        self.strangers.push_back((until, token));
        Some(token)
    }

    /// Reads once, after what was kept of the read before; `None` if there is nothing, or no connection any more.
    pub(super) fn read(&mut self, token: u64, bytes: &mut Vec<u8>) -> Option<Path> {
        let connection = self.connections.get_mut(&token)?;
        bytes.clear();
        bytes.append(&mut connection.partial);
        let begin = bytes.len();
        bytes.resize(begin + READ, 0);
        match connection.socket.read(bytes.get_mut(begin..).unwrap_or_default()) {
            Ok(length) if length > 0 => {
                bytes.truncate(begin + length);
                connection.is_used |= length > MEDIA;
                Some(connection.path)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                bytes.truncate(begin);
                self.keep(token, bytes);
                None
            }
            Ok(_) | Err(_) => {
                self.drop(token);
                None
            }
        }
    }

    /// Keeps the begin of a frame until the rest is there.
    pub(super) fn keep(&mut self, token: u64, partial: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.partial.clear();
            connection.partial.extend_from_slice(partial);
        }
    }

    /// Takes back what was kept.
    pub(super) fn kept(&mut self, token: u64) -> Option<(Path, Vec<u8>)> {
        let connection = self.connections.get_mut(&token)?;
        Some((connection.path, std::mem::take(&mut connection.partial)))
    }

    pub(super) fn is_strangers(&self, token: u64) -> bool {
        self.connections.get(&token).is_some_and(|connection| connection.session.is_none())
    }

    /// A check that came this way was in order.
    pub(super) fn prove(&mut self, path: &Path, session: SessionId) {
        let Some(token) = self.paths.get(path).copied() else { return };
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if connection.session.replace(session) == Some(session) {
            return;
        }
        self.strangers.retain(|(_, stranger)| *stranger != token);
        let of_session = self.of(session);
        if of_session.len() > OF_A_SESSION {
            let spare = self.spare(|connection| connection.session == Some(session));
            spare.or_else(|| of_session.into_iter().min()).into_iter().for_each(|oldest| self.drop(oldest));
        }
    }

    /// The oldest connection of a session that nothing but checks went by.
    fn spare(&self, is_wanted: impl Fn(&Connection) -> bool) -> Option<u64> {
        let is_spare =
            |connection: &Connection| connection.session.is_some() && !connection.is_used && is_wanted(connection);
        #[expect(clippy::disallowed_methods, reason = "the oldest has the lowest number")]
        let spare = self.connections.iter().filter(|(_, connection)| is_spare(connection));
        spare.map(|(token, _)| *token).min()
    }

    fn of(&self, session: SessionId) -> Vec<u64> {
        let is_its = |(token, connection): (&u64, &Connection)| (connection.session == Some(session)).then_some(*token);
        #[expect(clippy::disallowed_methods, reason = "whoever asks needs no order")]
        self.connections.iter().filter_map(is_its).collect()
    }

    /// Closes what is a session's.
    pub(super) fn end(&mut self, session: SessionId) {
        self.of(session).into_iter().for_each(|token| self.drop(token));
    }

    /// Takes a stranger's connection out, for the worker of the session that it asks for.
    pub(super) fn take(&mut self, token: u64, bytes: &[u8]) -> Option<Moving> {
        let until = self.strangers.iter().find(|(_, stranger)| *stranger == token)?.0;
        let Connection { socket, path, .. } = self.remove(token)?;
        Some(Moving { socket, path, bytes: bytes.to_vec(), until })
    }

    /// Closes a connection, and remembers which session has lost it.
    pub(super) fn drop(&mut self, token: u64) {
        if let Some(Connection { path, session: Some(session), .. }) = self.remove(token) {
            self.lost.push((path, session));
        }
    }

    /// Closes a connection that did not prove to be a session's.
    pub(super) fn refuse(&mut self, token: u64) {
        count(&self.shared.counters.connections_unproven);
        self.drop(token);
    }

    fn remove(&mut self, token: u64) -> Option<Connection> {
        let connection = self.connections.remove(&token)?;
        // a new one may have the path already
        if self.paths.get(&connection.path) == Some(&token) {
            self.paths.remove(&connection.path);
        }
        self.strangers.retain(|(_, stranger)| *stranger != token);
        // it goes with its descriptor otherwise, but one that moves lives on
        let _listed = epoll::delete(&self.epoll, &connection.socket);
        Some(connection)
    }

    /// The paths that sessions have lost since the last call.
    pub(super) fn take_lost(&mut self) -> Vec<(Path, SessionId)> {
        std::mem::take(&mut self.lost)
    }

    /// Does what is due.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.rests.is_some_and(|until| until <= now) {
            self.rests = None;
            self.listen(epoll::EventFlags::IN);
        }
        while let Some((_, token)) = self.strangers.front().copied().filter(|(until, _)| *until <= now) {
            self.refuse(token);
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.strangers.front().map(|(until, _)| *until).into_iter().chain(self.rests).min()
    }

    /// Sends frames, of which those that have no room are refused.
    pub(super) fn send(&mut self, transmit: &Transmit<'_>) -> Sent {
        let Some(token) = self.paths.get(&transmit.path).copied() else { return Sent::Refused };
        let Some(connection) = self.connections.get_mut(&token) else { return Sent::Refused };
        connection.is_used |= transmit.contents.len() > MEDIA;
        if !connection.queue.push(transmit.datagrams()) {
            // no loss: at most 64
            let datagrams = transmit.datagrams().count() as u64;
            self.shared.counters.connection_sends_refused.fetch_add(datagrams, Ordering::Relaxed);
            return Sent::Refused;
        }
        if !connection.is_full {
            self.write(token);
        }
        Sent::Taken
    }

    /// Writes what waits, and has the system say when there is room for the rest.
    fn write(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        while !connection.queue.waiting().is_empty() {
            match connection.socket.write(connection.queue.waiting()) {
                Ok(count) => connection.queue.advance(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return self.drop(token),
            }
        }
        let is_full = !connection.queue.waiting().is_empty();
        if is_full != connection.is_full {
            connection.is_full = is_full;
            let flags = if is_full { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            let data = epoll::EventData::new_u64(token);
            if epoll::modify(&self.epoll, &connection.socket, data, flags).is_err() {
                self.drop(token);
            }
        }
    }
}

fn prepare(socket: &TcpStream, peer: SocketAddr) -> io::Result<Path> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    SockRef::from(socket).set_send_buffer_size(SOCKET_BUFFER)?;
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    Ok(Path { peer, local: Some(socket.local_addr()?.ip().to_canonical()), transport: Transport::Tcp })
}
