//! Publishes one stream after the other, and measures the time to each hook.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    HookArguments,
    clip::Clip,
    connection::{Connection, Purpose},
    latency::Latencies,
    publisher::{Publisher, Turn},
};

/// A hook that takes longer has failed.
const HOOK: Duration = Duration::from_secs(20);
/// No hook's body is longer.
const MAX_BODY: u64 = 64 << 10;

struct Hook {
    at: Instant,
    body: String,
}

/// Publishes as asked, and returns the report.
pub(crate) fn run(arguments: &HookArguments) -> Result<Value> {
    let clip = Clip::read(&arguments.source.clip, arguments.source.chunk_size)?;
    let listener =
        TcpListener::bind(arguments.listen).with_context(|| format!("failed to listen on {}", arguments.listen))?;
    // never more than two hooks are under way
    let (sender, hooks) = sync_channel(16);
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let sender = sender.clone();
            thread::spawn(move || serve(socket, &sender));
        }
    });
    let (mut requested, mut first_media, mut closed) =
        (Latencies::default(), Latencies::default(), Latencies::default());
    for index in 0..arguments.count {
        let stream = format!("load-{}", index % arguments.streams.max(1));
        let times = publish(arguments, &clip, &stream, &hooks).with_context(|| format!("publish {index}"))?;
        requested.add(times.start.saturating_duration_since(times.requested));
        if let Some(first) = times.first_media {
            first_media.add(times.start.saturating_duration_since(first));
        }
        closed.add(times.end.saturating_duration_since(times.closed));
    }
    Ok(json!({
        "count": arguments.count,
        "publish_to_start_ms": requested.report(),
        "first_media_to_start_ms": first_media.report(),
        "close_to_end_ms": closed.report(),
    }))
}

struct Times {
    requested: Instant,
    /// When the start came after it; nginx tells its start before it has media.
    first_media: Option<Instant>,
    start: Instant,
    closed: Instant,
    end: Instant,
}

fn publish(arguments: &HookArguments, clip: &Clip, stream: &str, hooks: &Receiver<Hook>) -> Result<Times> {
    let connection = Connection::open(&arguments.source.url, stream, Purpose::Publish)?;
    let requested = connection.requested;
    // a moment after the chunk size was announced; the headers count as media, they are its first bytes
    let before = Instant::now() + Duration::from_millis(20);
    let mut publisher = Publisher::new(connection, clip, before)?;
    let start = loop {
        let now = Instant::now();
        ensure!(now - before < HOOK, "no hook of the start within {HOOK:?}");
        let mut due = publisher.due(clip);
        while due <= now {
            due = publisher.send(clip, now, &mut Turn::default())?;
        }
        match hooks.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(hook) if is(&hook.body, &["liveStreamStarted", "call=publish"]) => break hook.at,
            Ok(hook) => bail!("expected a start, got {}", hook.body),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("the receiver is gone"),
        }
    };
    publisher.connection.session.finish();
    publisher.connection.socket.set_nonblocking(false)?;
    publisher.connection.socket.write_all(&publisher.connection.session.take_output())?;
    let closed = Instant::now();
    drop(publisher);
    let hook = hooks.recv_timeout(HOOK).context("no hook of the end")?;
    ensure!(is(&hook.body, &["liveStreamEnded", "call=publish_done"]), "expected an end, got {}", hook.body);
    Ok(Times { requested, first_media: (start > before).then_some(before), start, closed, end: hook.at })
}

fn is(body: &str, names: &[&str]) -> bool {
    names.iter().any(|name| body.split(['&', '"']).any(|part| part.trim_start_matches("action=") == *name))
}

/// Answers 200 to every request on a connection.
fn serve(socket: TcpStream, hooks: &SyncSender<Hook>) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut writer = socket.try_clone()?;
    let mut reader = BufReader::new(socket);
    loop {
        let (mut length, mut closes) = (0, false);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            // nginx waits for the end of the connection
            closes |= line == "connection: close";
            if line.is_empty() {
                break;
            }
        }
        ensure!(length <= MAX_BODY, "a body of {length} bytes");
        let mut body = String::new();
        reader.by_ref().take(length).read_to_string(&mut body)?;
        let at = Instant::now();
        writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        hooks.send(Hook { at, body })?;
        if closes {
            return Ok(());
        }
    }
}
