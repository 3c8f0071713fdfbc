//! A receiver of hooks for tests: answers as it is told, and keeps what it got.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::JoinSet,
};

/// Far above what anything here takes; a test that fails says so after this.
const DEADLINE: Duration = Duration::from_secs(20);

/// What the receiver answers.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Status(u16),
    /// Answered when the test says so.
    Stopped(u16),
    RetryAfter(u16, &'static str),
    Redirect(String),
    /// The request is read and never answered.
    Never,
    /// Success, and a body that does not end.
    Endless,
    /// Success, and a body that does not come.
    Stalled,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn field(&self, name: &str) -> String {
        let found = form_urlencoded::parse(self.text.as_bytes()).find(|(n, _)| n == name);
        found.map(|(_, value)| value.into_owned()).unwrap_or_default()
    }
}

pub(crate) struct Receiver {
    pub(crate) url: String,
    shared: Arc<Shared>,
    got: watch::Receiver<Vec<Received>>,
    _server: JoinSet<()>,
}

struct Shared {
    answers: Mutex<VecDeque<Answer>>,
    otherwise: Mutex<Answer>,
    got: watch::Sender<Vec<Received>>,
    go_on: Notify,
    chunks: AtomicUsize,
}

impl Receiver {
    /// Answers with these in turn, and then with success.
    pub(crate) async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?x=1", listener.local_addr().unwrap());
        let (sender, got) = watch::channel(Vec::new());
        let shared = Arc::new(Shared {
            answers: Mutex::new(answers.into_iter().collect()),
            otherwise: Mutex::new(Answer::Status(200)),
            got: sender,
            go_on: Notify::new(),
            chunks: AtomicUsize::new(0),
        });
        let router = Router::new().fallback(serve).with_state(shared.clone());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared, got, _server: server }
    }

    /// What is answered from now on.
    pub(crate) fn answer(&self, answer: Answer) {
        self.shared.answers.lock().unwrap().clear();
        *self.shared.otherwise.lock().unwrap() = answer;
    }

    pub(crate) fn got(&self) -> Vec<Received> {
        self.got.borrow().clone()
    }

    /// Waits until that many requests have arrived.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Received> {
        let mut got = self.got.clone();
        let seen = tokio::time::timeout(DEADLINE, got.wait_for(|got| got.len() >= count)).await;
        match seen {
            Ok(got) => got.unwrap().clone(),
            Err(_) => panic!("{count} requests expected, got {:?}", self.got()),
        }
    }

    /// Lets a stopped request be answered.
    pub(crate) fn go_on(&self) {
        self.shared.go_on.notify_one();
    }

    /// Pieces of 1 KiB of endless bodies that were taken off our hands.
    pub(crate) fn chunks(&self) -> usize {
        self.shared.chunks.load(Ordering::Relaxed)
    }
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let scripted = shared.answers.lock().unwrap().pop_front();
    let answer = scripted.unwrap_or_else(|| shared.otherwise.lock().unwrap().clone());
    shared.got.send_modify(|got| got.push(Received { headers: parts.headers, text }));
    match answer {
        Answer::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Answer::RetryAfter(status, value) => {
            (StatusCode::from_u16(status).unwrap(), [(header::RETRY_AFTER, value)]).into_response()
        }
        Answer::Redirect(to) => {
            (StatusCode::FOUND, [(header::LOCATION, HeaderValue::from_str(&to).unwrap())]).into_response()
        }
        Answer::Stopped(status) => {
            shared.go_on.notified().await;
            StatusCode::from_u16(status).unwrap().into_response()
        }
        Answer::Never => std::future::pending().await,
        Answer::Stalled => {
            Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>()).into_response()
        }
        Answer::Endless => {
            let chunks = futures::stream::repeat(Bytes::from_static(&[b'x'; 1024])).map(move |chunk| {
                shared.chunks.fetch_add(1, Ordering::Relaxed);
                Ok::<_, std::io::Error>(chunk)
            });
            Body::from_stream(chunks).into_response()
        }
    }
}
