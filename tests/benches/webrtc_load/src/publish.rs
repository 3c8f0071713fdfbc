//! Publishes on this thread, and measures the server meanwhile.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use str0m::media::Mid;

use crate::{
    PublishArguments,
    clip::Clip,
    http::rest,
    peer::{Making, Peer, Seen},
    server::Usage,
};

/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(2);
/// Publishers begin anywhere in this time, so that keyframes are spread.
const PHASES: Duration = Duration::from_secs(2);
/// All are connected by then.
const PATIENCE: Duration = Duration::from_secs(20);
/// How late a frame may be before the run is void.
const OVERLOADED: Duration = Duration::from_secs(1);
const DATAGRAM: usize = 2_048;

struct Publisher {
    peer: Peer,
    mid: Mid,
    frame: usize,
    sequence: u64,
    /// Of its first frame, once it is connected.
    begin: Option<Instant>,
}

/// Publishes as asked, and returns the report.
pub(crate) fn run(arguments: &PublishArguments) -> Result<Value> {
    let clip = Clip::read(&arguments.clip)?;
    let crypto = Arc::new(str0m::crypto::from_feature_flags());
    let making = Making { crypto, ip: [127, 0, 0, 1].into(), sound: false };
    let mut publishers = Vec::new();
    for index in 0..arguments.publishers {
        let url = format!("{}/load-{index}", arguments.url);
        let (peer, mid) = Peer::whip(&making, &url).with_context(|| format!("publisher {index}"))?;
        publishers.push(Publisher { peer, mid, frame: 0, sequence: 1, begin: None });
        // those that are there already go on
        turn(&mut publishers, &clip)?;
    }
    let patience = Instant::now() + PATIENCE;
    while publishers.iter().any(|publisher| publisher.begin.is_none()) {
        ensure!(Instant::now() < patience, "not all publishers are connected");
        turn(&mut publishers, &clip)?;
    }
    let warm = Instant::now() + PHASES + Duration::from_secs(arguments.warm_up);
    while Instant::now() < warm {
        turn(&mut publishers, &clip)?;
    }
    let (server, client) = (Usage::of(&arguments.pid)?, Usage::of(&[std::process::id()])?);
    let (since, mut sent, mut latest) = (Instant::now(), 0, Duration::ZERO);
    while since.elapsed() < Duration::from_secs(arguments.seconds) {
        let turned = turn(&mut publishers, &clip)?;
        sent += turned.bytes;
        latest = latest.max(turned.latest);
    }
    let seconds = since.elapsed().as_secs_f64();
    let (server_now, client_now) = (Usage::of(&arguments.pid)?, Usage::of(&[std::process::id()])?);
    let cores = (server_now.cpu_seconds - server.cpu_seconds) / seconds;
    Ok(json!({
        "publishers": publishers.len(),
        "seconds": seconds,
        "sent_bits_per_second": sent as f64 * 8.0 / seconds,
        "latest_ms": latest.as_secs_f64() * 1e3,
        "server_cores": cores,
        "server_streams_a_core": publishers.len() as f64 / cores,
        "server_resident_kib": server_now.resident_kib,
        "client_cores": (client_now.cpu_seconds - client.cpu_seconds) / seconds,
    }))
}

#[derive(Clone, Copy, Default)]
struct Turn {
    bytes: usize,
    latest: Duration,
}

/// Reads what came, sends what is due, and waits a moment.
fn turn(publishers: &mut [Publisher], clip: &Clip) -> Result<Turn> {
    let (mut turn, mut buffer, count) = (Turn::default(), [0; DATAGRAM], publishers.len());
    for (index, publisher) in publishers.iter_mut().enumerate() {
        let Publisher { peer, mid, frame, sequence, begin } = publisher;
        let now = Instant::now();
        peer.read(&mut buffer, now, &mut Seen::default())?;
        if peer.due <= now {
            peer.timeout(now)?;
        }
        if begin.is_none() && peer.is_connected() {
            // the golden ratio spreads any number evenly
            *begin = Some(now + PHASES.mul_f64((index as f64 * 0.618_033_988_749_895).fract()));
        }
        let Some(begin) = *begin else { continue };
        loop {
            let due = clip.due(*frame)?;
            let Some(late) = now.checked_duration_since(begin + due.at) else { break };
            ensure!(late < OVERLOADED, "frame {frame} of {count} publishers is {late:?} late");
            turn.latest = turn.latest.max(late);
            turn.bytes += peer.send(*mid, &due, sequence, now)?;
            *frame += 1;
        }
    }
    rest(TICK);
    Ok(turn)
}
