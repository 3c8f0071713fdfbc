//! The workers of a process: one thread and one socket each, all on one port. This side opens streams, gives them frames, and
//! adds and ends sessions; which worker serves a session is for the kernel to say (see [`crate::worker`]).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock::Wallclock;
use crate::demux::{Full, Limits};
use crate::dtls::Identity;
use crate::history::Frame;
use crate::ice::Credentials;
use crate::path::Path;
use crate::publisher::Received;
use crate::sdp::{Leg, Offer};
use crate::source::{Layer, Track};
use crate::transport::{Cause, ESTABLISH, Event};
use crate::worker::{self, Worker};

/// What waits for a worker. It empties this at each turn, which takes far less than the second that 1,024 frames of ten
/// streams are; when it is full, frames are dropped and the worker's viewers go on at a keyframe.
const COMMANDS: usize = 1_024;

/// Connections that the system holds until they are accepted, at each worker's turn.
const BACKLOG: i32 = 256;

/// A port that is free for UDP is hardly ever taken for TCP; twenty that are, are a fault.
const PORT_TRIES: u32 = 20;

/// A second of 30 Mbit/s each way, of which the system gives what it is configured for.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Where all workers listen; port 0 lets the system choose one.
    pub address: SocketAddr,
    pub workers: usize,
    /// For all workers together.
    pub limits: Limits,
}

/// A viewer that was answered and is awaited.
pub struct NewSession {
    pub id: SessionId,
    pub stream: StreamId,
    pub offer: Offer,
    pub legs: Vec<Leg>,
    pub credentials: Credentials,
    pub cname: Arc<str>,
    /// Random: where the numbers of its packets begin.
    pub seed: u64,
}

/// A publisher that was answered and is awaited.
pub struct NewPublisher {
    pub id: SessionId,
    pub offer: Offer,
    pub legs: Vec<Leg>,
    pub credentials: Credentials,
    /// Random: our name in what it is told.
    pub seed: u64,
    pub inlet: Inlet,
}

/// Takes what came of a publisher, from a worker's thread: it must not wait. What it has no room for it drops, and says so.
pub type Inlet = Box<dyn FnMut(Vec<Received>) -> Taken + Send>;

/// What became of what was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Yes,
    /// There was no room.
    Dropped,
}

/// Told of each session's events, from a worker's thread: it must not wait. Paths and restarts are not told.
pub type Notify = Box<dyn Fn(SessionId, Event) + Send + Sync>;

/// Why there are no workers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to listen on {address} for WebRTC")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("failed to listen on {address} for WebRTC over TCP")]
    ListenTcp { address: SocketAddr, source: io::Error },
    #[error("failed to start a worker for WebRTC")]
    Start { source: io::Error },
}

/// The workers; [`Self::stop`] awaits them.
pub struct Pool {
    shared: Arc<Shared>,
    address: SocketAddr,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Binds the sockets and starts the threads.
    ///
    /// # Errors
    /// [`Error::Listen`] if the address cannot be had, [`Error::Start`] if the system has no thread or descriptor left.
    pub fn start(options: &Options, identity: Arc<Identity>, notify: Notify) -> Result<Self, Error> {
        let first = listen(options.address)?;
        // the others listen on the port that the first was given
        let address = first.0.local_addr().map_err(|source| Error::Listen { address: options.address, source })?;
        let mut sockets = vec![first];
        for _ in 1..options.workers.max(1) {
            sockets.push(listen(address)?);
        }
        let start = |source: io::Error| Error::Start { source };
        let (doors, inboxes): (Vec<_>, Vec<_>) =
            sockets.iter().map(|_| Door::new().map_err(start)).collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let shared = Arc::new(Shared {
            identity,
            notify,
            limits: options.limits,
            doors,
            places: Mutex::new(Places::default()),
            counters: worker::Counters::default(),
        });
        let pool = Self { shared, address, threads: Mutex::default() };
        for (index, (socket, inbox)) in sockets.into_iter().zip(inboxes).enumerate() {
            let worker = Worker::new(index, pool.shared.clone(), socket, inbox).map_err(start)?;
            let thread = std::thread::Builder::new().name(format!("webrtc-{index}")).spawn(move || worker.run());
            pool.threads().push(thread.map_err(start)?);
        }
        Ok(pool)
    }

    /// Where the workers listen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes a stream known, with its tracks.
    pub fn open(&self, stream: StreamId, tracks: &[Track], clock: Wallclock) {
        self.shared.tell_all(|| Command::Open { stream, tracks: tracks.to_vec(), clock });
    }

    /// Gives all workers a frame of a stream; none of them is waited for.
    pub fn push(&self, stream: StreamId, layer: Layer, frame: &Arc<Frame>) {
        for door in &self.shared.doors {
            if !door.offer(Command::Frame { stream, layer, frame: frame.clone() }) {
                door.lagged.store(true, Ordering::Relaxed);
                self.shared.counters.frames_dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Ends a stream and its sessions.
    pub fn close(&self, stream: StreamId) {
        self.shared.tell_all(|| Command::Close { stream });
    }

    /// Awaits a session's first check for 15 s.
    ///
    /// # Errors
    /// [`Full`] says which bound is met.
    pub fn add(&self, session: NewSession, now: Instant) -> Result<(), Full> {
        self.await_session(Awaited::Viewer(session), now)
    }

    /// As [`Self::add`], of a publisher.
    ///
    /// # Errors
    /// [`Full`] says which bound is met.
    pub fn add_publisher(&self, publisher: NewPublisher, now: Instant) -> Result<(), Full> {
        self.await_session(Awaited::Publisher(publisher), now)
    }

    fn await_session(&self, session: Awaited, now: Instant) -> Result<(), Full> {
        self.shared.await_session(session, now)?;
        // it may have slept without a deadline
        if let Some(door) = self.shared.doors.first() {
            door.ring();
        }
        Ok(())
    }

    /// Gives a session new credentials while it goes on (RFC 8839 §4.4.1): `remote_ufrag` is the peer's new name. Those before are good
    /// until the peer checks with the new ones, and either name is the session's until then. False if it is over.
    #[must_use]
    pub fn restart(&self, ufrag: &str, remote_ufrag: &str, credentials: Credentials) -> bool {
        let Some(place) = self.shared.restart(ufrag, remote_ufrag, &credentials) else { return false };
        if let Some(worker) = place {
            let (ufrag, remote_ufrag) = (ufrag.to_owned(), remote_ufrag.to_owned());
            self.shared.tell(worker, Command::Restart { ufrag, remote_ufrag, credentials });
        }
        true
    }

    /// Somebody cannot decode a publisher's track before a keyframe. A worker that is too busy to hear it counts it: who still
    /// waits says so again.
    pub fn want_keyframe(&self, ufrag: &str, track: usize) {
        let Some(door) = self.shared.place_of(ufrag).and_then(|worker| self.shared.doors.get(worker)) else { return };
        if !door.offer(Command::Keyframe { ufrag: ufrag.to_owned(), track }) {
            self.shared.counters.requests_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends a session, wherever it is.
    pub fn end(&self, ufrag: &str) {
        match self.shared.place_of(ufrag) {
            Some(worker) => self.shared.tell(worker, Command::End { ufrag: ufrag.to_owned() }),
            None => {
                if let Some(session) = self.shared.forget(ufrag) {
                    (self.shared.notify)(session, Event::Closed(Cause::Closed));
                }
            }
        }
    }

    /// What the workers have counted so far.
    #[must_use]
    pub fn counted(&self) -> worker::Counted {
        self.shared.counters.read()
    }

    /// Ends all sessions and awaits the threads. Nothing is served afterwards.
    pub fn stop(&self) {
        self.shared.tell_all(|| Command::Stop);
        let threads = std::mem::take(&mut *self.threads());
        for thread in threads {
            // a panic of a worker has been printed by its hook, and the others are still to be awaited
            let _panicked = thread.join();
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One port for both; where the system chooses it for UDP, another process may have it for TCP.
fn listen(address: SocketAddr) -> Result<(UdpSocket, TcpListener), Error> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        let socket = listen_udp(address).map_err(|source| Error::Listen { address, source })?;
        let chosen = socket.local_addr().map_err(|source| Error::Listen { address, source })?;
        tries -= 1;
        match listen_tcp(chosen) {
            Ok(listener) => return Ok((socket, listener)),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(source) => return Err(Error::ListenTcp { address: chosen, source }),
        }
    }
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    // the connections of a process before may linger
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn listen_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

pub(crate) enum Command {
    Open {
        stream: StreamId,
        tracks: Vec<Track>,
        clock: Wallclock,
    },
    Frame {
        stream: StreamId,
        layer: Layer,
        frame: Arc<Frame>,
    },
    Close {
        stream: StreamId,
    },
    End {
        ufrag: String,
    },
    Restart {
        ufrag: String,
        remote_ufrag: String,
        credentials: Credentials,
    },
    Keyframe {
        ufrag: String,
        track: usize,
    },
    /// Of a session here, that came to another worker.
    Datagram {
        path: Path,
        bytes: Vec<u8>,
    },
    /// The same of a connection.
    Connection(worker::Moving),
    Stop,
}

/// How one worker is reached.
pub(crate) struct Door {
    commands: SyncSender<Command>,
    bell: OwnedFd,
    /// Frames were dropped since the worker last looked.
    pub(crate) lagged: AtomicBool,
}

/// The other side of a door, which waits at a bell of its own.
pub(crate) struct Inbox {
    pub(crate) commands: Receiver<Command>,
    pub(crate) bell: OwnedFd,
}

impl Door {
    fn new() -> io::Result<(Self, Inbox)> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (sender, receiver) = sync_channel(COMMANDS);
        let inbox = Inbox { commands: receiver, bell: bell.try_clone()? };
        Ok((Self { commands: sender, bell, lagged: AtomicBool::new(false) }, inbox))
    }

    /// Hands a command over unless too many wait.
    pub(crate) fn offer(&self, command: Command) -> bool {
        match self.commands.try_send(command) {
            Ok(()) => {
                self.ring();
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    pub(crate) fn ring(&self) {
        // it fails only when it has rung 2^64 times unheard
        let _rung = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

/// What the workers share.
pub(crate) struct Shared {
    pub(crate) identity: Arc<Identity>,
    pub(crate) notify: Notify,
    pub(crate) limits: Limits,
    pub(crate) doors: Vec<Door>,
    pub(crate) counters: worker::Counters,
    places: Mutex<Places>,
}

/// Where each session is. A worker asks for names that it does not know: one look-up a check of a stranger.
#[derive(Default)]
struct Places {
    by_name: HashMap<String, Place>,
    /// When the wait for a session ends, in order.
    waiting: VecDeque<(Instant, String)>,
    half_open: usize,
    /// Names of sessions that have another one too.
    aliases: usize,
}

/// Who was answered.
pub(crate) enum Awaited {
    Viewer(NewSession),
    Publisher(NewPublisher),
}

impl Awaited {
    pub(crate) fn id(&self) -> SessionId {
        match self {
            Self::Viewer(NewSession { id, .. }) | Self::Publisher(NewPublisher { id, .. }) => *id,
        }
    }

    fn restart(&mut self, remote_ufrag: &str, new: &Credentials) {
        match self {
            Self::Viewer(NewSession { offer, credentials, .. })
            | Self::Publisher(NewPublisher { offer, credentials, .. }) => {
                remote_ufrag.clone_into(&mut offer.ice_ufrag);
                credentials.clone_from(new);
            }
        }
    }

    pub(crate) fn ufrag(&self) -> &str {
        match self {
            Self::Viewer(NewSession { credentials, .. }) | Self::Publisher(NewPublisher { credentials, .. }) => {
                &credentials.ufrag
            }
        }
    }
}

enum Place {
    Awaited(Box<Awaited>),
    Opening(usize),
    Open(usize),
    /// The name that a session will have.
    Alias(usize),
}

/// What a worker is told of a name.
pub(crate) enum Found {
    /// It is the one that adopts it.
    Yours(Box<Awaited>),
    At(usize),
    Nobody,
}

impl Shared {
    fn tell(&self, worker: usize, command: Command) {
        let Some(door) = self.doors.get(worker) else { return };
        // it waits behind 1,024 commands at most; a worker that is gone has no sessions
        let _gone = door.commands.send(command);
        door.ring();
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        (0..self.doors.len()).for_each(|worker| self.tell(worker, command()));
    }

    /// Nothing panics while it is held, and what it guards is whole after each line.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn await_session(&self, session: Awaited, now: Instant) -> Result<(), Full> {
        let (mut places, name) = (self.places(), session.ufrag().to_owned());
        if places.by_name.len() - places.aliases >= self.limits.sessions {
            return Err(Full::Sessions);
        }
        // who comes and goes at once leaves a name behind, until its 15 s are over
        if places.half_open >= self.limits.half_open || places.waiting.len() >= 2 * self.limits.sessions {
            return Err(Full::HalfOpen);
        }
        if places.by_name.contains_key(&name) {
            return Err(Full::Name);
        }
        places.half_open += 1;
        places.waiting.push_back((now + ESTABLISH, name.clone()));
        places.by_name.insert(name, Place::Awaited(Box::new(session)));
        Ok(())
    }

    /// Says whose a session is; one that is awaited becomes the asking worker's.
    pub(crate) fn find(&self, ufrag: &str, worker: usize) -> Found {
        let mut places = self.places();
        let Some(place) = places.by_name.get_mut(ufrag) else { return Found::Nobody };
        match std::mem::replace(place, Place::Opening(worker)) {
            Place::Awaited(session) => Found::Yours(session),
            Place::Opening(other) => {
                *place = Place::Opening(other);
                Found::At(other)
            }
            Place::Open(other) => {
                *place = Place::Open(other);
                Found::At(other)
            }
            Place::Alias(other) => {
                *place = Place::Alias(other);
                Found::At(other)
            }
        }
    }

    fn place_of(&self, ufrag: &str) -> Option<usize> {
        match self.places().by_name.get(ufrag)? {
            Place::Awaited(_) => None,
            Place::Opening(worker) | Place::Open(worker) | Place::Alias(worker) => Some(*worker),
        }
    }

    /// Makes a new name known: of a session that nobody came for yet it is the only one, and otherwise its worker is to be told.
    fn restart(&self, ufrag: &str, remote_ufrag: &str, credentials: &Credentials) -> Option<Option<usize>> {
        let (mut places, name) = (self.places(), credentials.ufrag.clone());
        if places.by_name.contains_key(&name) {
            return None;
        }
        let worker = match places.by_name.get(ufrag)? {
            Place::Opening(worker) | Place::Open(worker) | Place::Alias(worker) => *worker,
            Place::Awaited(_) => {
                let Some(Place::Awaited(mut session)) = places.by_name.remove(ufrag) else { return None };
                session.restart(remote_ufrag, credentials);
                if let Some((_, waiting)) = places.waiting.iter_mut().find(|(_, waiting)| waiting == ufrag) {
                    waiting.clone_from(&name);
                }
                places.by_name.insert(name, Place::Awaited(session));
                return Some(None);
            }
        };
        places.by_name.insert(name, Place::Alias(worker));
        places.aliases += 1;
        Some(Some(worker))
    }

    /// A session has its second name alone.
    pub(crate) fn rename(&self, ufrag: &str, other: &str) {
        let mut places = self.places();
        let Some(place) = places.by_name.remove(ufrag) else { return };
        if matches!(places.by_name.insert(other.to_owned(), place), Some(Place::Alias(_))) {
            places.aliases -= 1;
        }
    }

    /// A second name is of no use any more.
    pub(crate) fn forget_alias(&self, ufrag: &str) {
        let mut places = self.places();
        if matches!(places.by_name.get(ufrag), Some(Place::Alias(_))) {
            places.by_name.remove(ufrag);
            places.aliases -= 1;
        }
    }

    /// A session is connected.
    pub(crate) fn opened(&self, ufrag: &str, worker: usize) {
        let mut places = self.places();
        if let Some(place) = places.by_name.get_mut(ufrag) {
            *place = Place::Open(worker);
            places.half_open -= 1;
        }
    }

    /// A session is over; if nobody came for it, its id is returned.
    pub(crate) fn forget(&self, ufrag: &str) -> Option<SessionId> {
        let mut places = self.places();
        let place = places.by_name.remove(ufrag)?;
        places.half_open -= usize::from(matches!(place, Place::Awaited(_) | Place::Opening(_)));
        match place {
            Place::Awaited(session) => Some(session.id()),
            Place::Opening(_) | Place::Open(_) | Place::Alias(_) => None,
        }
    }

    /// Forgets the sessions that nobody came for, and returns when the next is due.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        loop {
            let name = {
                let mut places = self.places();
                let (due, _) = places.waiting.front()?;
                if *due > now {
                    return Some(*due);
                }
                let (_, name) = places.waiting.pop_front()?;
                if !matches!(places.by_name.get(&name), Some(Place::Awaited(_))) {
                    continue;
                }
                name
            };
            if let Some(session) = self.forget(&name) {
                (self.notify)(session, Event::Closed(Cause::NeverConnected));
            }
        }
    }
}
