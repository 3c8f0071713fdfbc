//! A hook receiver that records every request to the byte, and answers, delays or hangs up as the test says.
//!
//! It speaks HTTP/1.1 by hand: a library would tidy up the head, and could not leave in the middle of an answer.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{ports, wait};

/// More than any hook has; a longer one is cut, and its record says so by being short of its Content-Length.
const MAX_BODY: usize = 1 << 20;
/// No head of ours has this many lines.
const MAX_HEADERS: usize = 100;

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub time: Timestamp,
    pub method: String,
    /// Path and query.
    pub target: String,
    /// In order, names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// What the receiver answered.
    pub reply: Reply,
}

/// What the receiver does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// This status and an empty body.
    Status(u16),
    /// This status, with `Retry-After` in seconds.
    RetryAfter(u16, u32),
    /// Waits, then answers 200.
    Delay(Duration),
    /// Closes the connection without an answer.
    HangUp,
    /// A redirect to this location.
    Redirect(String),
}

impl Reply {
    fn accepts(&self) -> bool {
        match self {
            Self::Status(status) => (200..300).contains(status),
            Self::Delay(_) => true,
            Self::RetryAfter(..) | Self::HangUp | Self::Redirect(_) => false,
        }
    }
}

type Script = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

struct Shared {
    requests: Mutex<Vec<Request>>,
    script: Mutex<Script>,
}

/// A receiver on a loopback port. Dropping it closes the port and every connection.
pub struct Receiver {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// The serving task, with what ends it; aborted when dropped.
    running: Option<(CancellationToken, JoinSet<()>)>,
}

impl Receiver {
    /// Listens on a port that stays the same through [`Receiver::stop`] and [`Receiver::restart`], and accepts everything.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST).await
    }

    /// As [`Receiver::start`], on an address of a network that the caller has entered.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start_on(host: Ipv4Addr) -> Result<Self> {
        let script: Script = Arc::new(|_: &Request| Reply::Status(200));
        let shared = Arc::new(Shared { requests: Mutex::default(), script: Mutex::new(script) });
        let address = SocketAddr::from((host, ports::free()?));
        let mut receiver = Self { shared, address, running: None };
        receiver.restart().await?;
        Ok(receiver)
    }

    /// Returns `http://<address>:<port>/<path>`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Says how requests are answered from now on.
    pub fn script(&self, script: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        *lock(&self.shared.script) = Arc::new(script);
    }

    /// Answers every request like this from now on.
    pub fn always(&self, reply: Reply) {
        self.script(move |_| reply.clone());
    }

    /// Closes the port and every connection: the receiver is down.
    pub async fn stop(&mut self) {
        if let Some((token, tasks)) = self.running.take() {
            token.cancel();
            tasks.join_all().await;
        }
    }

    /// Listens again on the same port.
    ///
    /// # Errors
    /// When somebody else has taken the port.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await;
        let listener =
            TcpListener::bind(self.address).await.with_context(|| format!("failed to listen on {}", self.address))?;
        let token = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&self.shared), token.clone()));
        self.running = Some((token, tasks));
        Ok(())
    }

    /// Returns what came so far, in order of arrival, refused ones too.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// Counts what came so far, refused and repeated ones too.
    #[must_use]
    pub fn received(&self) -> usize {
        lock(&self.shared.requests).len()
    }

    /// Forgets what came so far.
    pub fn clear(&self) {
        lock(&self.shared.requests).clear();
    }

    /// Waits until `count` requests were accepted, and returns them, repeated ones left out.
    ///
    /// # Errors
    /// At the deadline, with what came instead.
    pub async fn wait_for(&self, count: usize, deadline: Duration) -> Result<Vec<Request>> {
        wait::until(format!("{count} accepted hooks"), deadline, async || {
            let accepted = self.accepted();
            if accepted.len() >= count { Ok(accepted) } else { Err(summary(&self.requests())) }
        })
        .await
    }

    /// Returns the accepted requests, each event once, in order of arrival.
    #[must_use]
    pub fn accepted(&self) -> Vec<Request> {
        let mut seen = std::collections::BTreeSet::new();
        self.requests()
            .into_iter()
            .filter(|request| request.reply.accepts() && seen.insert(request.event_id()))
            .collect()
    }

    /// Checks what a receiver is promised, over everything that came: for each Broadcast the accepted events have no gap and
    /// are in order, starts and ends alternate, and what came again came byte for byte under the id that was seen.
    ///
    /// # Errors
    /// Names the promise that was broken, and prints what came.
    pub fn check_promises(&self) -> Result<()> {
        let requests = self.requests();
        check_repeats(&requests)?;
        let mut by_broadcast: BTreeMap<String, Vec<Request>> = BTreeMap::new();
        for request in self.accepted() {
            // Of the same stream id a Broadcast may have been before, with a log of its own.
            let broadcast = request.field("broadcastUID").or_else(|| request.field("id"));
            by_broadcast.entry(broadcast.unwrap_or_default()).or_default().push(request);
        }
        for (broadcast, accepted) in by_broadcast {
            check_order(&accepted).with_context(|| format!("broadcast {broadcast}: {}", summary(&requests)))?;
        }
        Ok(())
    }
}

fn check_repeats(requests: &[Request]) -> Result<()> {
    let mut bodies = BTreeMap::new();
    for request in requests {
        let id = request.event_id();
        ensure!(!id.is_empty(), "a request without an event id: {request:?}");
        let first = bodies.entry(id).or_insert_with(|| request.body.clone());
        ensure!(*first == request.body, "an event came with two bodies: {first} and {}", request.body);
    }
    Ok(())
}

fn check_order(accepted: &[Request]) -> Result<()> {
    let mut expected = None;
    let mut live = false;
    for request in accepted {
        let sequence = request.sequence().with_context(|| format!("no sequence in {}", request.body))?;
        if let Some(expected) = expected {
            ensure!(sequence == expected, "sequence {sequence} came where {expected} was due");
        }
        expected = Some(sequence + 1);
        match request.action().as_str() {
            "liveStreamStarted" => {
                ensure!(!live, "a start came while the stream was live");
                live = true;
            }
            "liveStreamEnded" => {
                ensure!(live, "an end came while the stream was not live");
                live = false;
            }
            _ => {}
        }
    }
    Ok(())
}

fn summary(requests: &[Request]) -> String {
    let lines = requests.iter().map(|request| format!("{:?} <- {}", request.reply, request.body));
    format!("{} requests:\n{}", requests.len(), lines.collect::<Vec<_>>().join("\n"))
}

impl Request {
    /// Returns a header by its lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the decoded fields of the body in order, form or JSON by its content type; JSON values that are no strings as JSON text.
    #[must_use]
    pub fn fields(&self) -> Vec<(String, String)> {
        if self.header("content-type").is_some_and(|value| value.starts_with("application/json")) {
            let Ok(Value::Object(object)) = serde_json::from_str(&self.body) else { return Vec::new() };
            let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            object.into_iter().map(|(key, value)| (key, text(value))).collect()
        } else {
            form_urlencoded::parse(self.body.as_bytes()).into_owned().collect()
        }
    }

    /// Returns a decoded field of the body.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<String> {
        self.fields().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Returns the `action`, empty when there is none.
    #[must_use]
    pub fn action(&self) -> String {
        self.field("action").unwrap_or_default()
    }

    /// Returns the id under which a receiver drops repeats.
    #[must_use]
    pub fn event_id(&self) -> String {
        self.field("eventId").unwrap_or_default()
    }

    /// Returns the event's place in its Broadcast's log.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.field("sequence")?.parse().ok()
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, token: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = token.cancelled() => break,
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let shared = Arc::clone(&shared);
                    // What goes wrong here is the client's to see.
                    connections.spawn(async move { drop(converse(stream, &shared).await) });
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
    connections.shutdown().await;
}

async fn converse(stream: TcpStream, shared: &Shared) -> Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(mut request) = read(&mut stream).await? {
        let script = Arc::clone(&lock(&shared.script));
        request.reply = script(&request);
        let reply = request.reply.clone();
        if !matches!(reply, Reply::Delay(_)) {
            lock(&shared.requests).push(request.clone());
        }
        let head = match &reply {
            Reply::HangUp => return Ok(()),
            Reply::Status(status) => format!("HTTP/1.1 {status} Scripted\r\n"),
            Reply::RetryAfter(status, seconds) => format!("HTTP/1.1 {status} Scripted\r\nRetry-After: {seconds}\r\n"),
            Reply::Redirect(location) => format!("HTTP/1.1 302 Scripted\r\nLocation: {location}\r\n"),
            Reply::Delay(delay) => {
                // Ends early when the client leaves: a request is accepted only when its answer was written.
                if let Ok(left) = timeout(*delay, stream.fill_buf()).await {
                    ensure!(!left?.is_empty(), "the client left before the answer");
                }
                lock(&shared.requests).push(request);
                "HTTP/1.1 200 Scripted\r\n".to_owned()
            }
        };
        stream.get_mut().write_all(format!("{head}Content-Length: 0\r\n\r\n").as_bytes()).await?;
    }
    Ok(())
}

async fn read(stream: &mut BufReader<TcpStream>) -> Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { bail!("not a request line: {line}") };
    let (method, target) = (method.to_owned(), target.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line).await? > 0, "the head was cut");
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        ensure!(headers.len() <= MAX_HEADERS, "too many headers");
    }
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map_or(Ok(0), |(_, value)| value.parse::<usize>())?;
    let mut body = vec![0; length.min(MAX_BODY)];
    stream.read_exact(&mut body).await?;
    let body = String::from_utf8(body).context("the body is not UTF-8")?;
    Ok(Some(Request { time: Timestamp::now(), method, target, headers, body, reply: Reply::Status(200) }))
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
