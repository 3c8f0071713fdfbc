//! Runs publishers and players on this thread, and measures the server meanwhile.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    event::{Timespec, epoll},
    fd::OwnedFd,
};
use serde_json::{Value, json};

use crate::{
    LoadArguments,
    clip::Clip,
    connection::{Connection, Purpose},
    player::{Player, Role, Seen},
    publisher::{Publisher, Turn},
    server::Usage,
};

/// How often players are read. They are not woken by each message: on a machine that serves and plays, that would load the
/// server with waking them, which is no part of serving viewers elsewhere.
const PLAYER_TICK: Duration = Duration::from_millis(5);
/// Publishers begin anywhere in this time: two of the clip's groups of pictures, so that keyframes are spread evenly.
const PHASES: Duration = Duration::from_secs(4);
/// Players come this long after the publishers: every stream has a keyframe by then.
const PLAYERS_AFTER: Duration = Duration::from_secs(7);
/// Players whose messages are looked at.
const OBSERVERS: usize = 10;
const READ_BUFFER: usize = 256 << 10;
/// How long anything may be late before the run is void.
const OVERLOADED: Duration = Duration::from_secs(2);

/// Publishes and plays as asked, and returns the report.
pub(crate) fn run(arguments: &LoadArguments) -> Result<Value> {
    let clip = Clip::read(&arguments.source.clip, arguments.source.chunk_size)?;
    // a few, so that a slow loop slows the connecting down
    let (opened, incoming) = sync_channel(8);
    let (play, may_play) = sync_channel(1);
    thread::scope(|scope| {
        let connecting = scope.spawn(move || connect(arguments, &opened, &may_play));
        let report = Load::new(arguments, clip, incoming, play).and_then(Load::run);
        match connecting.join() {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) => report,
            Err(_) => bail!("the connecting thread panicked"),
        }
    })
}

/// Opens all connections, one after the other: the publishers, and when there is something to play the players.
fn connect(arguments: &LoadArguments, opened: &SyncSender<Opened>, may_play: &Receiver<()>) -> Result<()> {
    for index in 0..arguments.publishers {
        let connection = Connection::open(&arguments.source.url, &format!("load-{index}"), Purpose::Publish)?;
        if opened.send(Opened::Publisher(connection)).is_err() {
            return Ok(());
        }
    }
    if arguments.players == 0 || may_play.recv().is_err() {
        return Ok(());
    }
    for index in 0..arguments.players {
        let stream = index % arguments.publishers;
        let connection = Connection::open(&arguments.source.url, &format!("load-{stream}"), Purpose::Play)?;
        if opened.send(Opened::Player { connection, stream }).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

enum Opened {
    Publisher(Connection),
    Player { connection: Connection, stream: usize },
}

struct Load<'a> {
    arguments: &'a LoadArguments,
    clip: Clip,
    incoming: Receiver<Opened>,
    /// Tells that players may come; gone when it was told.
    play: Option<SyncSender<()>>,
    publishers: Vec<Publisher>,
    begins: Vec<Instant>,
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    publishing: OwnedFd,
    players: Vec<Player>,
    playing: OwnedFd,
    turn: Turn,
    latest: Duration,
    seen: Seen,
    buffer: Vec<u8>,
}

/// How far the run is.
#[derive(Clone, Copy)]
enum Phase {
    Connecting,
    /// All publishers are there; players come at this time.
    Publishing(Instant),
    /// The measurement begins at this time.
    WarmUp(Instant),
    Measuring {
        since: Instant,
        server: Usage,
        client: Usage,
    },
}

impl<'a> Load<'a> {
    fn new(arguments: &'a LoadArguments, clip: Clip, incoming: Receiver<Opened>, play: SyncSender<()>) -> Result<Self> {
        Ok(Self {
            arguments,
            clip,
            incoming,
            play: Some(play),
            publishers: Vec::new(),
            begins: Vec::new(),
            due: BinaryHeap::new(),
            publishing: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            players: Vec::new(),
            playing: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            turn: Turn::default(),
            latest: Duration::ZERO,
            seen: Seen::default(),
            buffer: vec![0; READ_BUFFER],
        })
    }

    fn run(mut self) -> Result<Value> {
        let mut phase = Phase::Connecting;
        let mut tick = Instant::now();
        loop {
            let now = Instant::now();
            if let Some(report) = self.advance(&mut phase, now)? {
                return Ok(report);
            }
            let next = self.send_due(now)?;
            if now >= tick {
                self.read_players(now)?;
                tick = now + PLAYER_TICK;
            }
            self.wait(next.map_or(tick, |next| next.min(tick)))?;
        }
    }

    /// Goes to the next phase when its time has come; returns the report after the last.
    fn advance(&mut self, phase: &mut Phase, now: Instant) -> Result<Option<Value>> {
        let warm_up = Duration::from_secs(self.arguments.warm_up);
        match *phase {
            Phase::Connecting => {
                self.take_opened(now)?;
                if self.publishers.len() == self.arguments.publishers {
                    *phase = Phase::Publishing(now + PLAYERS_AFTER);
                }
            }
            Phase::Publishing(until) if self.arguments.players == 0 => *phase = Phase::WarmUp(until + warm_up),
            Phase::Publishing(until) if now >= until => {
                if let Some(play) = self.play.take() {
                    play.send(()).context("the connecting thread is gone")?;
                }
                self.take_opened(now)?;
                if self.players.len() == self.arguments.players {
                    *phase = Phase::WarmUp(now + warm_up);
                }
            }
            Phase::WarmUp(until) if now >= until => {
                (self.turn, self.latest) = (Turn::default(), Duration::ZERO);
                (self.seen.bytes, self.seen.reads) = (0, 0);
                self.seen.lags.clear();
                *phase =
                    Phase::Measuring { since: now, server: self.server()?, client: Usage::of(&[std::process::id()])? };
            }
            Phase::Measuring { since, server, client }
                if now >= since + Duration::from_secs(self.arguments.seconds) =>
            {
                return self.report(now - since, server, client).map(Some);
            }
            Phase::Publishing(_) | Phase::WarmUp(_) | Phase::Measuring { .. } => {}
        }
        Ok(None)
    }

    fn server(&self) -> Result<Usage> {
        Usage::of(&self.arguments.pid)
    }

    fn take_opened(&mut self, now: Instant) -> Result<()> {
        loop {
            match self.incoming.try_recv() {
                Ok(Opened::Publisher(connection)) => self.add_publisher(connection, now)?,
                Ok(Opened::Player { connection, stream }) => self.add_player(connection, stream)?,
                Err(TryRecvError::Empty) => return Ok(()),
                // the error is the connecting thread's to report
                Err(TryRecvError::Disconnected) if self.is_complete() => return Ok(()),
                Err(TryRecvError::Disconnected) => bail!("not all could connect"),
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.publishers.len() == self.arguments.publishers
            && (self.players.is_empty() || self.players.len() == self.arguments.players)
    }

    fn add_publisher(&mut self, connection: Connection, now: Instant) -> Result<()> {
        let index = self.publishers.len();
        // a moment after the chunk size was announced; the golden ratio spreads any number evenly
        let phase = Duration::from_millis(50) + PHASES.mul_f64((index as f64 * 0.618_033_988_749_895).fract());
        register(&self.publishing, &connection, index)?;
        let publisher = Publisher::new(connection, &self.clip, now + phase)?;
        self.begins.push(now + phase);
        self.due.push(Reverse((publisher.due(&self.clip), index)));
        self.publishers.push(publisher);
        Ok(())
    }

    fn add_player(&mut self, connection: Connection, stream: usize) -> Result<()> {
        let index = self.players.len();
        register(&self.playing, &connection, index)?;
        let observers = self.arguments.players.div_ceil(OBSERVERS);
        let role = match self.begins.get(stream) {
            Some(begin) if index.is_multiple_of(observers) => Role::Observer { begin: *begin },
            Some(_) | None => Role::Counter,
        };
        self.players.push(Player::new(connection, role)?);
        Ok(())
    }

    /// Sends what is due, and says when the next is.
    fn send_due(&mut self, now: Instant) -> Result<Option<Instant>> {
        while let Some(&Reverse((due, index))) = self.due.peek() {
            if due > now {
                return Ok(Some(due));
            }
            self.due.pop();
            self.latest = self.latest.max(now - due);
            if now - due > OVERLOADED {
                bail!("a message is {:?} late: the load client or the server is overloaded", now - due);
            }
            let Some(publisher) = self.publishers.get_mut(index) else { continue };
            let next = publisher.send(&self.clip, now, &mut self.turn).with_context(|| format!("publisher {index}"))?;
            self.due.push(Reverse((next, index)));
        }
        Ok(None)
    }

    fn read_players(&mut self, now: Instant) -> Result<()> {
        if self.players.is_empty() {
            return Ok(());
        }
        let mut events = Vec::with_capacity(self.players.len());
        epoll::wait(&self.playing, rustix::buffer::spare_capacity(&mut events), Some(&Timespec::default()))?;
        for event in events {
            let index = usize::try_from(event.data.u64())?;
            let Some(player) = self.players.get_mut(index) else { continue };
            player.read(&mut self.buffer, now, &mut self.seen).with_context(|| format!("player {index}"))?;
        }
        Ok(())
    }

    /// Waits until `until`, or until the server says something to a publisher.
    fn wait(&mut self, until: Instant) -> Result<()> {
        let mut events = Vec::with_capacity(64);
        let timeout = Timespec::try_from(until.saturating_duration_since(Instant::now()))?;
        match epoll::wait(&self.publishing, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let index = usize::try_from(event.data.u64())?;
            let Some(publisher) = self.publishers.get_mut(index) else { continue };
            publisher.read(&mut self.buffer).with_context(|| format!("publisher {index}"))?;
        }
        Ok(())
    }

    fn report(&self, time: Duration, server: Usage, client: Usage) -> Result<Value> {
        let seconds = time.as_secs_f64();
        let (server_now, client_now) = (self.server()?, Usage::of(&[std::process::id()])?);
        Ok(json!({
            "publishers": self.publishers.len(),
            "players": self.players.len(),
            "seconds": seconds,
            "server_cores": (server_now.cpu_seconds - server.cpu_seconds) / seconds,
            "server_resident_kib": server_now.resident_kib,
            "client_cores": (client_now.cpu_seconds - client.cpu_seconds) / seconds,
            "sent": {
                "messages_per_second": self.turn.messages as f64 / seconds,
                "bits_per_second": self.turn.bytes as f64 * 8.0 / seconds,
                "blocked": self.turn.blocked,
                "latest_ms": self.latest.as_secs_f64() * 1e3,
            },
            "received": {
                "bits_per_second": self.seen.bytes as f64 * 8.0 / seconds,
                "reads_per_second": self.seen.reads as f64 / seconds,
                "lag_ms": self.seen.lags.report(),
            },
        }))
    }
}

fn register(epoll: &OwnedFd, connection: &Connection, index: usize) -> Result<()> {
    let data = epoll::EventData::new_u64(index as u64);
    epoll::add(epoll, &connection.socket, data, epoll::EventFlags::IN).context("failed to watch a connection")
}
