//! One thread with one socket and one listener, which serves the sessions whose first check the kernel gave to these.
//!
//! All workers listen on one port; the kernel spreads peers over them by address. When a peer's address changes, its datagrams may
//! come to another worker: that one hands them to the session's own, which sends from its own socket all the while, since the port is
//! the same.

mod socket;
mod tcp;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::batch::Batch;
use crate::demux::{Class, Directory};
use crate::framing;
use crate::history::Frame;
use crate::ice::Credentials;
use crate::path::{Path, Transport};
use crate::pool::{
    Awaited, Command, Found, Inbox, Inlet, NewPublisher, NewSession, SessionId, Shared, StreamId, Taken,
};
use crate::publisher::{self, Publisher};
use crate::source::{Layer, Source};
use crate::stun::Request;
use crate::transport::{Cause, Event};
use crate::viewer::{self, Config, Viewer};
use socket::{Net, Received};
pub(crate) use tcp::Moving;
use tcp::Tcp;

/// Batches of datagrams that are read before frames and timers have their turn.
const READS_A_TURN: usize = 8;

/// Commands that are taken before datagrams have theirs.
const COMMANDS_A_TURN: usize = 256;

/// Paths of other workers' sessions that are remembered. When it is full all are forgotten: the next check brings each back.
const MAX_FOREIGN: usize = 4_096;

macro_rules! counters {
    ($($(#[$text:meta])* $name:ident,)*) => {
        /// What workers count.
        #[derive(Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64,)* }

        /// What the workers of a pool have counted.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counted { $($(#[$text])* pub $name: u64,)* }

        impl Counters {
            pub(crate) fn read(&self) -> Counted {
                Counted { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Sessions that a worker took up at their first check.
    adopted,
    /// Datagrams that came to another worker than their session's.
    handed_over,
    /// Of these, those that it had no room for.
    handovers_dropped,
    /// Checks with a name that nobody has, or that are malformed.
    checks_unknown,
    /// Other datagrams of a path that nobody has.
    datagrams_unknown,
    /// Frames that a worker had no room for.
    frames_dropped,
    /// Datagrams that the socket did not take.
    sends_refused,
    /// Packets of publishers that nobody had room for.
    received_dropped,
    /// Requests for keyframes that a worker had no room for.
    requests_dropped,
    /// Times that a worker woke up.
    turns,
    /// TCP connections that came.
    connections_accepted,
    /// Of these, those that went because there were too many.
    connections_refused,
    /// Of these, those that went because they did not prove to be a session's.
    connections_unproven,
    /// Datagrams that a connection had no room for.
    connection_sends_refused,
}

pub(crate) struct Worker {
    index: usize,
    shared: Arc<Shared>,
    inbox: Inbox,
    batch: Batch<Net>,
    directory: Directory<SessionId>,
    sessions: HashMap<SessionId, Session>,
    streams: HashMap<StreamId, Stream>,
    deadlines: BTreeSet<(Instant, SessionId)>,
    foreign: HashMap<Path, usize>,
    /// Publishers that something came of since the last turn.
    brought: Vec<SessionId>,
    /// What one read of a connection gave.
    read: Vec<u8>,
    /// Viewers that a frame is too large to be sent to at once.
    spreading: Vec<SessionId>,
}

/// For whom a datagram is.
enum Whose {
    Ours,
    Of(usize),
    Nobodys,
}

struct Session {
    role: Role,
    ufrag: String,
    /// The name that it will have, once its peer has checked with the credentials of a restart.
    alias: Option<String>,
    /// What it has among the deadlines.
    due: Option<Instant>,
}

impl Session {
    /// What was counted and is not told yet.
    fn take_counted(&mut self) -> Option<Event> {
        match &mut self.role {
            Role::Viewer { viewer, told, .. } => {
                let counters = viewer.counters();
                let counted = counters.since(&std::mem::replace(told, counters));
                (counted != viewer::Counters::default()).then_some(Event::Counted(counted))
            }
            Role::Publisher { publisher, told, .. } => {
                let counters = publisher.counters();
                let counted = counters.since(&std::mem::replace(told, counters));
                (counted != publisher::Counters::default()).then_some(Event::Received(counted))
            }
        }
    }
}

enum Role {
    Viewer {
        viewer: Viewer,
        stream: StreamId,
        /// What of its counters was told.
        told: viewer::Counters,
    },
    Publisher {
        publisher: Publisher,
        inlet: Inlet,
        told: publisher::Counters,
    },
}

impl Role {
    fn poll_event(&mut self) -> Option<Event> {
        match self {
            Self::Viewer { viewer, .. } => viewer.poll_event(),
            Self::Publisher { publisher, .. } => publisher.poll_event(),
        }
    }

    fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let due = match self {
            Self::Viewer { viewer, .. } => viewer.poll_timeout(),
            Self::Publisher { publisher, .. } => publisher.poll_timeout(now),
        };
        due.map(|(due, _)| due)
    }
}

struct Stream {
    source: Source,
    viewers: Vec<SessionId>,
}

#[derive(PartialEq, Eq)]
enum Turn {
    Continues,
    Stops,
}

impl Worker {
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared>,
        (socket, listener): (UdpSocket, TcpListener),
        inbox: Inbox,
    ) -> io::Result<Self> {
        Ok(Self {
            index,
            batch: Batch::new(Net::new(socket, Tcp::new(listener, shared.clone())?, shared.clone())?),
            directory: Directory::new(shared.limits),
            shared,
            inbox,
            sessions: HashMap::new(),
            streams: HashMap::new(),
            deadlines: BTreeSet::new(),
            foreign: HashMap::new(),
            brought: Vec::new(),
            read: Vec::new(),
            spreading: Vec::new(),
        })
    }

    pub(crate) fn run(mut self) {
        let mut received = Received::new();
        loop {
            self.wait();
            if self.commands() == Turn::Stops {
                break;
            }
            for _ in 0..READS_A_TURN {
                if !self.batch.sink().receive(&mut received) {
                    break;
                }
                let now = now();
                received.datagrams(|path, datagram| {
                    if let Whose::Of(other) = self.datagram(path, datagram, now) {
                        self.hand_over(other, path, datagram);
                    }
                });
            }
            self.connections(now());
            self.bring();
            self.timers(now());
        }
        let all: Vec<_> = self.sessions.keys().copied().collect();
        all.into_iter().for_each(|session| self.end(session));
    }

    /// Sleeps until there is something to do: with no session and no stream, for ever.
    fn wait(&self) {
        let awaited = (self.index == 0).then(|| self.shared.expire(now())).flatten();
        let due = self.deadlines.first().map(|(due, _)| *due).into_iter();
        let due = due.chain(awaited).chain(self.batch.sink().tcp.due()).min();
        let left = due.map(|due| due.saturating_duration_since(now()));
        // a poll that ends by a signal finds nothing to do, and comes again
        let (socket, connections) = self.batch.sink().descriptors();
        let mut descriptors = [
            PollFd::from_borrowed_fd(socket, PollFlags::IN),
            PollFd::from_borrowed_fd(connections, PollFlags::IN),
            PollFd::new(&self.inbox.bell, PollFlags::IN),
        ];
        let _interrupted = poll(&mut descriptors, left.and_then(timespec).as_ref());
        count(&self.shared.counters.turns);
        // it may not have rung
        let _silent = rustix::io::read(&self.inbox.bell, &mut [0_u8; 8]);
    }

    fn commands(&mut self) -> Turn {
        if self.shared.doors.get(self.index).is_some_and(|door| door.lagged.swap(false, Ordering::Relaxed)) {
            self.skip();
        }
        for _ in 0..COMMANDS_A_TURN {
            let Ok(command) = self.inbox.commands.try_recv() else { return Turn::Continues };
            match command {
                Command::Open { stream, tracks, clock } => {
                    let source = Source::new(&tracks, clock);
                    self.streams.entry(stream).or_insert(Stream { source, viewers: Vec::new() });
                }
                Command::Frame { stream, layer, frame } => self.frame(stream, layer, &frame),
                Command::Close { stream } => self.close(stream),
                Command::End { ufrag } => {
                    if let Some(session) = self.directory.named(&ufrag) {
                        self.end(session);
                    }
                }
                Command::Restart { ufrag, remote_ufrag, credentials } => {
                    self.restart(&ufrag, remote_ufrag, &credentials);
                }
                Command::Keyframe { ufrag, track } => self.want_keyframe(&ufrag, track),
                Command::Datagram { path, bytes } => match self.directory.find(&path, &bytes) {
                    Some(session) => self.deliver(session, path, &bytes, now()),
                    None => count(&self.shared.counters.datagrams_unknown),
                },
                Command::Connection(moving) => self.take_over(moving, now()),
                Command::Stop => return Turn::Stops,
            }
        }
        // there are more: the next sleep must not wait for a bell that has rung
        if let Some(door) = self.shared.doors.get(self.index) {
            door.ring();
        }
        Turn::Continues
    }

    /// Frames are missing: all viewers go on at a keyframe.
    fn skip(&mut self) {
        for stream in self.streams.values_mut() {
            stream.source.interrupt();
        }
        for session in self.sessions.values_mut() {
            if let Role::Viewer { viewer, .. } = &mut session.role {
                viewer.pause();
            }
        }
    }

    fn frame(&mut self, stream: StreamId, layer: Layer, frame: &Frame) {
        let now = now();
        let Some(Stream { source, viewers }) = self.streams.get_mut(&stream) else { return };
        let Some(pushed) = source.push(layer, frame, now) else { return };
        for id in viewers {
            if let Some(Session { role: Role::Viewer { viewer, .. }, .. }) = self.sessions.get_mut(id) {
                viewer.send(&pushed, source, &mut self.batch, now);
                if viewer.is_spreading() {
                    self.spreading.push(*id);
                }
            }
        }
        // their next part is due sooner than what they had
        for id in std::mem::take(&mut self.spreading) {
            self.events(id);
        }
    }

    fn close(&mut self, stream: StreamId) {
        let viewers = self.streams.get(&stream).map(|stream| stream.viewers.clone());
        viewers.into_iter().flatten().for_each(|session| self.end(session));
        self.streams.remove(&stream);
    }

    fn end(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        match &mut session.role {
            Role::Viewer { viewer, .. } => viewer.close(&mut self.batch, now()),
            Role::Publisher { publisher, .. } => publisher.close(&mut self.batch, now()),
        }
        self.events(id);
    }

    fn want_keyframe(&mut self, ufrag: &str, track: usize) {
        let Some(id) = self.directory.named(ufrag) else { return };
        if let Some(Session { role: Role::Publisher { publisher, .. }, .. }) = self.sessions.get_mut(&id) {
            publisher.want_keyframe(track);
            self.events(id);
        }
    }

    /// Hands over what came of publishers in this turn.
    fn bring(&mut self) {
        for id in std::mem::take(&mut self.brought) {
            if let Some(Session { role: Role::Publisher { publisher, inlet, .. }, .. }) = self.sessions.get_mut(&id) {
                bring(publisher, inlet, &self.shared);
            }
        }
    }

    fn datagram(&mut self, path: Path, datagram: &[u8], now: Instant) -> Whose {
        if let Some(session) = self.directory.find(&path, datagram) {
            self.deliver(session, path, datagram, now);
            return Whose::Ours;
        }
        let unknown = match (Class::of(datagram), Request::parse(datagram)) {
            (Class::Stun, Ok(request)) => match self.shared.find(request.local_ufrag(), self.index) {
                Found::Yours(session) => {
                    self.adopt(*session, path, datagram, now);
                    return Whose::Ours;
                }
                Found::At(other) if other != self.index => return Whose::Of(other),
                Found::At(_) | Found::Nobody => &self.shared.counters.checks_unknown,
            },
            (Class::Stun, Err(_)) => &self.shared.counters.checks_unknown,
            (Class::Dtls | Class::Rtp | Class::Rtcp, _) => match self.foreign.get(&path) {
                Some(other) => return Whose::Of(*other),
                None => &self.shared.counters.datagrams_unknown,
            },
            (Class::Other, _) => &self.shared.counters.datagrams_unknown,
        };
        count(unknown);
        Whose::Nobodys
    }

    fn connections(&mut self, now: Instant) {
        for token in self.batch.sink_mut().tcp.ready(now) {
            self.read(token, now);
        }
    }

    /// Takes the frames of one read of a connection.
    fn read(&mut self, token: u64, now: Instant) {
        let mut bytes = std::mem::take(&mut self.read);
        if let Some(path) = self.batch.sink_mut().tcp.read(token, &mut bytes) {
            self.frames(token, path, &bytes, now);
        }
        self.read = bytes;
    }

    fn frames(&mut self, token: u64, path: Path, bytes: &[u8], now: Instant) {
        let mut rest = bytes;
        loop {
            let Ok(split) = framing::split(rest) else { return self.batch.sink_mut().tcp.refuse(token) };
            let Some((frame, after)) = split else { break };
            let whose = self.datagram(path, frame, now);
            let tcp = &mut self.batch.sink_mut().tcp;
            match whose {
                Whose::Of(other) if tcp.is_strangers(token) => {
                    if let Some(moving) = tcp.take(token, rest) {
                        self.move_to(other, moving);
                    }
                    return;
                }
                // whoever begins with something else is no peer of ours
                Whose::Nobodys if tcp.is_strangers(token) => return tcp.refuse(token),
                Whose::Of(_) | Whose::Ours | Whose::Nobodys => rest = after,
            }
        }
        self.batch.sink_mut().tcp.keep(token, rest);
    }

    fn move_to(&self, other: usize, moving: Moving) {
        count(&self.shared.counters.handed_over);
        if !self.shared.doors.get(other).is_some_and(|door| door.offer(Command::Connection(moving))) {
            count(&self.shared.counters.handovers_dropped);
        }
    }

    fn restart(&mut self, ufrag: &str, remote_ufrag: String, credentials: &Credentials) {
        let session = self.directory.named(ufrag).and_then(|id| self.sessions.get_mut(&id));
        let Some(session) = session.filter(|_| self.directory.alias(ufrag, credentials.ufrag.clone())) else {
            return self.shared.forget_alias(&credentials.ufrag);
        };
        match &mut session.role {
            Role::Viewer { viewer, .. } => viewer.restart(credentials, remote_ufrag),
            Role::Publisher { publisher, .. } => publisher.restart(credentials, remote_ufrag),
        }
        if let Some(unused) = session.alias.replace(credentials.ufrag.clone()) {
            self.directory.remove(&unused);
            self.shared.forget_alias(&unused);
        }
    }

    /// Takes up a connection of a session here, that came to another worker.
    fn take_over(&mut self, moving: Moving, now: Instant) {
        let tcp = &mut self.batch.sink_mut().tcp;
        let Some(token) = tcp.add(moving, now) else { return };
        if let Some((path, bytes)) = tcp.kept(token) {
            self.frames(token, path, &bytes, now);
        }
    }

    /// Tells sessions of the connections that they have lost.
    fn lost(&mut self) {
        for (path, id) in self.batch.sink_mut().tcp.take_lost() {
            if let Some(session) = self.sessions.get_mut(&id) {
                self.directory.unlearn(&session.ufrag, &path);
                match &mut session.role {
                    Role::Viewer { viewer, .. } => viewer.lost(&path),
                    Role::Publisher { publisher, .. } => publisher.lost(&path),
                }
            }
        }
    }

    fn hand_over(&mut self, other: usize, path: Path, datagram: &[u8]) {
        if self.foreign.get(&path) != Some(&other) {
            if self.foreign.len() >= MAX_FOREIGN {
                self.foreign.clear();
            }
            self.foreign.insert(path, other);
        }
        count(&self.shared.counters.handed_over);
        let command = Command::Datagram { path, bytes: datagram.to_vec() };
        if !self.shared.doors.get(other).is_some_and(|door| door.offer(command)) {
            count(&self.shared.counters.handovers_dropped);
        }
    }

    fn adopt(&mut self, session: Awaited, path: Path, datagram: &[u8], now: Instant) {
        let id = session.id();
        let ufrag = session.ufrag().to_owned();
        let has_stream = match &session {
            Awaited::Viewer(NewSession { stream, .. }) => self.streams.contains_key(stream),
            Awaited::Publisher(_) => true,
        };
        if !has_stream || self.directory.add(ufrag.clone(), id).is_err() {
            self.shared.forget(&ufrag);
            return (self.shared.notify)(id, Event::Closed(Cause::Closed));
        }
        count(&self.shared.counters.adopted);
        let role = match session {
            Awaited::Viewer(session) => self.viewer(&session, now),
            Awaited::Publisher(session) => self.publisher(session, now),
        };
        self.sessions.insert(id, Session { role, ufrag, alias: None, due: None });
        self.deliver(id, path, datagram, now);
    }

    fn viewer(&mut self, session: &NewSession, now: Instant) -> Role {
        let NewSession { id, stream, offer, legs, credentials, cname, seed } = session;
        if let Some(entry) = self.streams.get_mut(stream) {
            entry.viewers.push(*id);
        }
        let identity = self.shared.identity.clone();
        let config = Config { offer, legs, credentials, cname: cname.clone(), identity, seed: *seed };
        Role::Viewer { viewer: Viewer::new(&config, now), stream: *stream, told: viewer::Counters::default() }
    }

    fn publisher(&self, session: NewPublisher, now: Instant) -> Role {
        let NewPublisher { id: _, offer, legs, credentials, seed, inlet } = session;
        let identity = self.shared.identity.clone();
        let config = publisher::Config { offer: &offer, legs: &legs, credentials: &credentials, identity, seed };
        Role::Publisher { publisher: Publisher::new(&config, now), inlet, told: publisher::Counters::default() }
    }

    fn deliver(&mut self, id: SessionId, path: Path, datagram: &[u8], now: Instant) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        match &mut session.role {
            Role::Viewer { viewer, stream, .. } => {
                let Some(stream) = self.streams.get(stream) else { return };
                viewer.receive(path, datagram, &stream.source, &mut self.batch, now);
            }
            Role::Publisher { publisher, .. } => {
                publisher.receive(path, datagram, &mut self.batch, now);
                // one publisher's datagrams come in runs
                if self.brought.last() != Some(&id) && publisher.has_received() {
                    self.brought.push(id);
                }
            }
        }
        self.events(id);
    }

    fn timers(&mut self, now: Instant) {
        self.batch.sink_mut().tcp.expire(now);
        self.lost();
        while let Some((due, id)) = self.deadlines.first().copied().filter(|(due, _)| *due <= now) {
            self.deadlines.remove(&(due, id));
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            session.due = None;
            match &mut session.role {
                Role::Viewer { viewer, stream, .. } => {
                    let Some(stream) = self.streams.get(stream) else { continue };
                    viewer.handle_timeout(&stream.source, &mut self.batch, now);
                }
                Role::Publisher { publisher, .. } => publisher.handle_timeout(&mut self.batch, now),
            }
            if let Some(counted) = session.take_counted() {
                (self.shared.notify)(id, counted);
            }
            self.events(id);
        }
    }

    /// Does what a session's events ask for, and notes its next deadline.
    fn events(&mut self, id: SessionId) {
        while let Some(session) = self.sessions.get_mut(&id) {
            let Some(event) = session.role.poll_event() else { break };
            match &event {
                Event::Path(path) => {
                    self.directory.learn(&session.ufrag, *path);
                    if path.transport == Transport::Tcp {
                        self.batch.sink_mut().tcp.prove(path, id);
                    }
                    continue;
                }
                Event::Restarted => {
                    if let Some(name) = session.alias.take() {
                        self.directory.rename(&session.ufrag, &name);
                        self.shared.rename(&session.ufrag, &name);
                        session.ufrag = name;
                    }
                    continue;
                }
                Event::Connected => {
                    self.directory.open(&session.ufrag);
                    self.shared.opened(&session.ufrag, self.index);
                }
                Event::Closed(_) => self.forget(id),
                Event::KeyframeWanted(_) | Event::Reported(_) | Event::Counted(_) | Event::Received(_) => {}
            }
            (self.shared.notify)(id, event);
        }
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let due = session.role.poll_timeout(now());
        if due != session.due {
            session.due.map(|due| self.deadlines.remove(&(due, id)));
            due.map(|due| self.deadlines.insert((due, id)));
            session.due = due;
        }
    }

    fn forget(&mut self, id: SessionId) {
        let Some(mut session) = self.sessions.remove(&id) else { return };
        if let Some(counted) = session.take_counted() {
            (self.shared.notify)(id, counted);
        }
        let Session { role, ufrag, alias, due } = session;
        due.map(|due| self.deadlines.remove(&(due, id)));
        match role {
            Role::Viewer { stream, .. } => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.viewers.retain(|viewer| *viewer != id);
                }
            }
            // what came before the end counts
            Role::Publisher { mut publisher, mut inlet, .. } => bring(&mut publisher, &mut inlet, &self.shared),
        }
        self.directory.remove(&ufrag);
        if let Some(alias) = alias {
            self.directory.remove(&alias);
            self.shared.forget_alias(&alias);
        }
        self.batch.sink_mut().tcp.end(id);
        self.shared.forget(&ufrag);
    }
}

fn bring(publisher: &mut Publisher, inlet: &mut Inlet, shared: &Shared) {
    let received = publisher.take_received();
    // no loss: some thousands
    let count = received.len() as u64;
    if count > 0 && inlet(received) == Taken::Dropped {
        shared.counters.received_dropped.fetch_add(count, Ordering::Relaxed);
    }
}

#[expect(clippy::disallowed_methods, reason = "drivers have the clock")]
fn now() -> Instant {
    Instant::now()
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// `None`, which waits without end, for what is longer than any deadline.
fn timespec(left: Duration) -> Option<Timespec> {
    Timespec::try_from(left).ok()
}
