//! A proxy in front of the API server, by which a test lets it be slow, busy, forgetful or broken, and sees what it is asked.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    response::Response,
};
use futures::stream;
use http::{
    HeaderMap, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER, TRANSFER_ENCODING},
};
use reqwest::Certificate;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{apiserver::ControlPlane, http as client};

/// Larger than any request of ours.
const MAX_BODY: usize = 4 << 20;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is passed on.
    None,
    /// It is answered with this status, as the API server words it.
    Status(u16),
    /// It is answered with this status, and asked to come back after so many seconds.
    RetryAfter(u16, u64),
    /// A watch is answered with 200 and an event that says 410 Gone.
    GoneEvent,
    /// It is passed on after this time.
    Delay(Duration),
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Ask {
    pub at: Instant,
    pub method: String,
    pub path: String,
    pub is_watch: bool,
    pub fault: Fault,
    /// Whether the API server itself answered a watch with 410, as a status or an event.
    pub is_gone: bool,
}

impl Ask {
    /// Whether it is about a Lease, which is not put off.
    #[must_use]
    pub fn is_lease(&self) -> bool {
        self.path.contains("/leases")
    }
}

type Script = dyn Fn(&Ask) -> Fault + Send + Sync;

/// Dropping it ends it for new connections.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    upstream: String,
    client: reqwest::Client,
    script: Mutex<Arc<Script>>,
    asked: Mutex<Vec<Ask>>,
    cuts: watch::Sender<u64>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Begins to listen, and passes everything on.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(plane: &ControlPlane) -> Result<Self> {
        client::install_crypto();
        let authority = Certificate::from_pem(plane.authority().as_bytes())?;
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared {
            upstream: plane.url(),
            client,
            script: Mutex::new(Arc::new(|_: &Ask| Fault::None)),
            asked: Mutex::default(),
            cuts: watch::Sender::new(0),
        });
        let router = Router::new().fallback(forward).with_state(Arc::clone(&shared));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // It ends with its owner, or not at all.
            drop(axum::serve(listener, router).await);
        });
        Ok(Self { url, shared, _tasks: tasks })
    }

    /// Writes a copy of a kubeconfig file that leads here.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn kubeconfig(&self, direct: &Path) -> Result<PathBuf> {
        let path = direct.with_extension("proxied");
        fs::write(&path, fs::read_to_string(direct)?.replace(&self.shared.upstream, &self.url))?;
        Ok(path)
    }

    /// Says what becomes of requests from now on, and cuts the watches that run.
    pub fn script(&self, script: impl Fn(&Ask) -> Fault + Send + Sync + 'static) {
        *lock(&self.shared.script) = Arc::new(script);
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Passes everything on from now on.
    pub fn heal(&self) {
        *lock(&self.shared.script) = Arc::new(|_: &Ask| Fault::None);
    }

    /// Returns what was asked so far, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<Ask> {
        lock(&self.shared.asked).clone()
    }
}

impl Shared {
    /// Takes note of a request, and returns its number and its fate.
    fn note(&self, request: &Request) -> (usize, Fault) {
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch="));
        let mut ask = Ask {
            at: Instant::now(),
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            is_watch,
            fault: Fault::None,
            is_gone: false,
        };
        let script = Arc::clone(&lock(&self.script));
        ask.fault = script(&ask);
        let mut asked = lock(&self.asked);
        let fault = ask.fault;
        asked.push(ask);
        (asked.len() - 1, fault)
    }

    fn note_gone(&self, number: usize) {
        if let Some(ask) = lock(&self.asked).get_mut(number) {
            ask.is_gone = ask.is_watch;
        }
    }
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (number, fault) = shared.note(&request);
    match fault {
        Fault::None => {}
        Fault::Status(status) => return refusal(status, None),
        Fault::RetryAfter(status, seconds) => return refusal(status, Some(seconds)),
        Fault::GoneEvent => return gone(),
        Fault::Delay(delay) => sleep_until(Instant::now() + delay).await,
    }
    match pass_on(&shared, request, number).await {
        Ok(answer) => answer,
        // as a load balancer says that nobody is behind it
        Err(_) => refusal(502, None),
    }
}

async fn pass_on(shared: &Arc<Shared>, request: Request, number: usize) -> Result<Response> {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().context("a request without a path")?;
    let mut headers = head.headers;
    for hop in [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        headers.remove(hop);
    }
    let body = axum::body::to_bytes(body, MAX_BODY).await?;
    let url = format!("{}{target}", shared.upstream);
    let cuts = shared.cuts.subscribe();
    let answer = shared.client.request(head.method, url).headers(headers).body(body).send().await?;
    if answer.status() == StatusCode::GONE {
        shared.note_gone(number);
    }
    let (status, headers) = (answer.status(), kept(answer.headers()));
    let passage = Passage { answer, cuts, shared: Arc::clone(shared), number };
    let mut passed = Response::new(Body::from_stream(stream::unfold(passage, Passage::next)));
    *passed.status_mut() = status;
    *passed.headers_mut() = headers;
    Ok(passed)
}

fn kept(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    for hop in [CONNECTION, TRANSFER_ENCODING] {
        kept.remove(hop);
    }
    kept
}

/// An answer on its way back.
struct Passage {
    answer: reqwest::Response,
    cuts: watch::Receiver<u64>,
    shared: Arc<Shared>,
    number: usize,
}

impl Passage {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        let chunk = tokio::select! {
            chunk = self.answer.chunk() => chunk.map_err(io::Error::other),
            Ok(()) = self.cuts.changed() => Err(io::ErrorKind::ConnectionReset.into()),
        };
        let chunk = chunk.transpose()?;
        if let Ok(bytes) = &chunk
            && is_gone(bytes)
        {
            self.shared.note_gone(self.number);
        }
        Some((chunk, self))
    }
}

fn is_gone(chunk: &[u8]) -> bool {
    std::str::from_utf8(chunk).is_ok_and(|text| text.contains("\"type\":\"ERROR\"") && text.contains("\"code\":410"))
}

/// What the API server answers when it refuses.
fn refusal(code: u16, retry_after: Option<u64>) -> Response {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let text = status_object(code, "told to").to_string();
    let mut answer = json(text);
    *answer.status_mut() = status;
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    answer
}

fn gone() -> Response {
    json(format!(
        "{}\n",
        serde_json::json!({"type": "ERROR", "object": status_object(410, "too old resource version")})
    ))
}

fn status_object(code: u16, message: &str) -> serde_json::Value {
    serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": "Told",
        "code": code,
    })
}

fn json(text: String) -> Response {
    let mut answer = Response::new(Body::from(text));
    answer.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    answer
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
