//! Runs the viewers on this thread, and measures the server meanwhile.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    event::{Timespec, epoll},
    fd::OwnedFd,
};
use serde_json::{Value, json};

use crate::{
    Signalling, ViewArguments,
    http::rest,
    janus,
    peer::{Making, Peer, Seen},
    server::Usage,
};

/// How often sockets are read. Viewers are not woken by each datagram: on a machine that serves and plays, that would load the
/// server with waking them, which is no part of serving viewers elsewhere.
const TICK: Duration = Duration::from_millis(5);
/// Offers that are under way at once: enough when each takes less than 50 ms.
const JOINING: usize = 16;
/// With `--light`, one in so many decrypts.
const FULL: usize = 20;
/// So long the last viewer is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
const DATAGRAM: usize = 2_048;

/// Plays as asked, and returns the report.
pub(crate) fn run(arguments: &ViewArguments) -> Result<Value> {
    let making =
        Making { crypto: Arc::new(str0m::crypto::from_feature_flags()), ip: arguments.ip, sound: arguments.sound };
    let (began, next) = (Instant::now(), AtomicUsize::new(0));
    let (joined, incoming) = sync_channel(JOINING);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..JOINING)
            .map(|_| {
                let (joined, making, next) = (joined.clone(), &making, &next);
                scope.spawn(move || join(arguments, making, began, next, &joined))
            })
            .collect();
        drop(joined);
        let report = Viewers::new(arguments, incoming).and_then(Viewers::run);
        for thread in threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => bail!("a joining thread panicked"),
            }
        }
        report
    })
}

/// Joins one viewer after the other, each at its time.
fn join(
    arguments: &ViewArguments,
    making: &Making,
    began: Instant,
    next: &AtomicUsize,
    joined: &SyncSender<Peer>,
) -> Result<()> {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= arguments.viewers {
            return Ok(());
        }
        let due = began + Duration::from_secs_f64(number as f64 / arguments.rate);
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            rest(left);
        }
        let light = arguments.light && !number.is_multiple_of(FULL);
        let peer = match arguments.signalling {
            Signalling::Whep => Peer::whep(making, &arguments.url, light),
            Signalling::Janus => janus::join(making, &arguments.url, light),
        };
        if joined.send(peer.with_context(|| format!("viewer {number}"))?).is_err() {
            return Ok(());
        }
    }
}

struct Viewers<'a> {
    arguments: &'a ViewArguments,
    incoming: Receiver<Peer>,
    peers: Vec<Peer>,
    ready: OwnedFd,
    deadlines: BTreeSet<(Instant, usize)>,
    /// How many had no media yet, when it was looked last.
    seen: Seen,
    buffer: Vec<u8>,
}

/// How far the run is.
enum Phase {
    Joining { until: Option<Instant> },
    WarmUp(Instant),
    Measuring(Box<Measured>),
}

struct Measured {
    since: Instant,
    seen: Seen,
    server: Usage,
    client: Usage,
}

impl<'a> Viewers<'a> {
    fn new(arguments: &'a ViewArguments, incoming: Receiver<Peer>) -> Result<Self> {
        Ok(Self {
            arguments,
            incoming,
            peers: Vec::new(),
            ready: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            deadlines: BTreeSet::new(),
            seen: Seen::default(),
            buffer: vec![0; DATAGRAM],
        })
    }

    fn run(mut self) -> Result<Value> {
        let before = Usage::of(&self.arguments.pid)?;
        let mut phase = Phase::Joining { until: None };
        let mut tick = Instant::now();
        loop {
            let now = Instant::now();
            if now < tick {
                rest(tick - now);
                continue;
            }
            tick = now + TICK;
            self.take_joined()?;
            self.read(now)?;
            self.timeouts(now)?;
            match &mut phase {
                Phase::Joining { until } => {
                    let all = self.peers.len() == self.arguments.viewers;
                    let waiting = self.peers.iter().filter(|peer| peer.first.is_none()).count();
                    if all && waiting == 0 {
                        phase = Phase::WarmUp(now + Duration::from_secs(self.arguments.warm_up));
                    } else if all && now > *until.get_or_insert(now + PATIENCE) {
                        bail!("{waiting} of {} viewers have seen nothing", self.arguments.viewers);
                    }
                }
                Phase::WarmUp(until) if now >= *until => {
                    let (server, client) = self.usage()?;
                    phase = Phase::Measuring(Box::new(Measured { since: now, seen: self.seen, server, client }));
                }
                Phase::Measuring(measured) if now >= measured.since + Duration::from_secs(self.arguments.seconds) => {
                    return self.report(measured, before, now);
                }
                Phase::WarmUp(_) | Phase::Measuring(_) => {}
            }
        }
    }

    fn usage(&self) -> Result<(Usage, Usage)> {
        Ok((Usage::of(&self.arguments.pid)?, Usage::of(&[std::process::id()])?))
    }

    fn take_joined(&mut self) -> Result<()> {
        loop {
            let mut peer = match self.incoming.try_recv() {
                Ok(peer) => peer,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => {
                    // the error is the joining thread's to report
                    ensure!(self.peers.len() == self.arguments.viewers, "not all could join");
                    return Ok(());
                }
            };
            let index = self.peers.len();
            // no loss: an index
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&self.ready, &peer.socket, data, epoll::EventFlags::IN).context("failed to watch a socket")?;
            peer.drive()?;
            self.deadlines.insert((peer.due, index));
            self.peers.push(peer);
        }
    }

    fn read(&mut self, now: Instant) -> Result<()> {
        if self.peers.is_empty() {
            return Ok(());
        }
        let mut events = Vec::with_capacity(self.peers.len());
        epoll::wait(&self.ready, rustix::buffer::spare_capacity(&mut events), Some(&Timespec::default()))?;
        for event in events {
            let index = usize::try_from(event.data.u64())?;
            let Some(peer) = self.peers.get_mut(index) else { continue };
            let before = peer.due;
            peer.read(&mut self.buffer, now, &mut self.seen).with_context(|| format!("viewer {index}"))?;
            if peer.due != before {
                self.deadlines.remove(&(before, index));
                self.deadlines.insert((peer.due, index));
            }
        }
        Ok(())
    }

    fn timeouts(&mut self, now: Instant) -> Result<()> {
        while let Some((due, index)) = self.deadlines.first().copied().filter(|(due, _)| *due <= now) {
            self.deadlines.remove(&(due, index));
            let Some(peer) = self.peers.get_mut(index) else { continue };
            peer.timeout(now).with_context(|| format!("viewer {index}"))?;
            // a deadline that has passed waits for the next tick
            self.deadlines.insert((peer.due.max(now + TICK), index));
        }
        Ok(())
    }

    fn report(&self, measured: &Measured, before: Usage, now: Instant) -> Result<Value> {
        let Measured { since, seen, server, client } = measured;
        let seconds = (now - *since).as_secs_f64();
        let (server_now, client_now) = self.usage()?;
        let packets = self.seen.packets - seen.packets;
        let bits = (self.seen.bytes - seen.bytes) as f64 * 8.0;
        let lost = self.seen.lost - seen.lost;
        let cpu = server_now.cpu_seconds - server.cpu_seconds;
        let mut joins: Vec<f64> =
            self.peers.iter().filter_map(|peer| Some((peer.first? - peer.began).as_secs_f64() * 1e3)).collect();
        joins.sort_by(f64::total_cmp);
        let at = |share: f64| joins.get(((joins.len() - 1) as f64 * share) as usize).copied();
        Ok(json!({
            "viewers": self.peers.len(),
            "seconds": seconds,
            "join_ms": { "p50": at(0.5), "p99": at(0.99), "most": at(1.0) },
            "packets_per_second": packets as f64 / seconds,
            "bits_per_second": bits / seconds,
            "lost": lost as f64 / (packets + lost).max(1) as f64,
            "server_cores": cpu / seconds,
            "server_us_a_packet": cpu * 1e6 / packets.max(1) as f64,
            "server_mbits_a_core": bits / 1e6 / cpu,
            "server_resident_kib_before": before.resident_kib,
            "server_resident_kib": server_now.resident_kib,
            "client_cores": (client_now.cpu_seconds - client.cpu_seconds) / seconds,
        }))
    }
}
