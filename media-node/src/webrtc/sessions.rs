//! The sessions of this node, from their answer to their end. Workers tell of each from their own threads; what is done here does not
//! wait, and there is no queue in between.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use media_webrtc::{
    pool::SessionId,
    transport::{Cause, Event},
};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::mpsc;
use tracing::debug;

use super::{
    feed::Seat,
    metrics::{Metrics, State},
};
use crate::{hub::Name, metrics::Counted};

/// What a session is called in its address: 128 random bits. Who knows it may end the session.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Token(String);

impl Token {
    /// Draws one; `None` when the system has no randomness.
    pub(crate) fn draw() -> Option<Self> {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).ok()?;
        Some(Self(format!("{:032x}", u128::from_be_bytes(bytes))))
    }

    pub(crate) fn of(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Which way a session's media flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Whep,
    Whip,
}

impl Kind {
    /// Its segment of a path.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Whep => "whep",
            Self::Whip => "whip",
        }
    }
}

/// What a session is to this node.
#[derive(Debug)]
pub(crate) enum Role {
    Viewer(Seat),
    /// Who serves it is told of its end.
    Publisher(mpsc::Sender<Cause>),
}

impl Role {
    fn kind(&self) -> Kind {
        match self {
            Self::Viewer(_) => Kind::Whep,
            Self::Publisher(_) => Kind::Whip,
        }
    }
}

/// A session that was answered.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) name: Name,
    pub(crate) token: Token,
    /// Its name in connectivity checks, by which the workers know it; after a restart it has another.
    pub(crate) ufrag: String,
    pub(crate) role: Role,
}

/// What is said of a session to those who know its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) id: SessionId,
    pub(crate) ufrag: String,
}

/// The sessions of a node.
#[derive(Debug)]
pub(crate) struct Sessions {
    table: Mutex<Table>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    by_id: HashMap<SessionId, Entry>,
    by_token: HashMap<Token, SessionId>,
}

#[derive(Debug)]
struct Entry {
    session: Arc<Session>,
    /// Its name in connectivity checks by now.
    ufrag: String,
    counted: Vec<Counted>,
}

impl Sessions {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { table: Mutex::default(), metrics }
    }

    /// Takes a session that is about to be given to the workers.
    pub(crate) fn add(&self, session: Session) -> SessionId {
        let counted = vec![self.metrics.session(State::Opening)];
        let mut table = self.table();
        table.last += 1;
        let id = SessionId(table.last);
        table.by_token.insert(session.token.clone(), id);
        let ufrag = session.ufrag.clone();
        table.by_id.insert(id, Entry { session: Arc::new(session), ufrag, counted });
        id
    }

    /// Forgets a session that the workers did not take.
    pub(crate) fn remove(&self, id: SessionId) {
        drop(self.take_out(id));
    }

    /// The session of an address.
    pub(crate) fn find(&self, kind: Kind, name: &Name, token: &Token) -> Option<Found> {
        let table = self.table();
        let id = *table.by_token.get(token)?;
        let Entry { session, ufrag, .. } = table.by_id.get(&id)?;
        let is_it = session.role.kind() == kind && session.name == *name;
        is_it.then(|| Found { id, ufrag: ufrag.clone() })
    }

    /// Notes the name that a session has got by a restart.
    pub(crate) fn rename(&self, id: SessionId, ufrag: &str) {
        if let Some(entry) = self.table().by_id.get_mut(&id) {
            ufrag.clone_into(&mut entry.ufrag);
        }
    }

    /// A session's name in connectivity checks, as long as it goes on.
    pub(crate) fn ufrag(&self, id: SessionId) -> Option<String> {
        self.table().by_id.get(&id).map(|entry| entry.ufrag.clone())
    }

    /// Takes what a worker tells.
    pub(super) fn take(&self, id: SessionId, event: Event) {
        match event {
            Event::Connected => self.connected(id),
            Event::KeyframeWanted(_) => {
                let session = self.session(id);
                if let Some(Role::Viewer(seat)) = session.as_deref().map(|session| &session.role) {
                    seat.stream().want_keyframe();
                }
            }
            Event::Reported(quality) => self.metrics.reported(&quality),
            Event::Counted(counters) => self.metrics.counted(&counters),
            Event::Received(counters) => self.metrics.received(&counters),
            Event::Closed(cause) => self.closed(id, &cause),
            Event::Path(_) | Event::Restarted => {}
        }
    }

    fn connected(&self, id: SessionId) {
        let connected = self.metrics.session(State::Connected);
        if let Some(entry) = self.table().by_id.get_mut(&id) {
            let peer = match &entry.session.role {
                Role::Viewer(_) => self.metrics.viewer(),
                Role::Publisher(_) => self.metrics.publisher(),
            };
            entry.counted = vec![connected, peer];
        }
    }

    fn closed(&self, id: SessionId, cause: &Cause) {
        // dropped without the lock: a viewer that leaves wakes others
        if let Some(entry) = self.take_out(id) {
            self.metrics.session_ended(cause);
            let Session { name, role, .. } = &*entry.session;
            if let Role::Publisher(line) = role {
                // there is room: a session ends once; nobody listens who has ended it
                let _unheard = line.try_send(cause.clone());
            }
            debug!(app = name.app, stream = %name.id, kind = entry.session.role.kind().path(), %cause, "webrtc.ended");
        }
    }

    fn session(&self, id: SessionId) -> Option<Arc<Session>> {
        self.table().by_id.get(&id).map(|entry| Arc::clone(&entry.session))
    }

    fn take_out(&self, id: SessionId) -> Option<Entry> {
        let mut table = self.table();
        let entry = table.by_id.remove(&id)?;
        table.by_token.remove(&entry.session.token);
        Some(entry)
    }

    /// Nothing panics while it is held.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
