//! Health and metrics over HTTP, and how any routes are served: connections are bounded, and none waits for long.

use std::{
    fmt,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::{ConnectInfo, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
    service::TowerToHyperService,
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use crate::listener;

mod stall;
mod users;

pub(crate) use stall::Stall;
pub(crate) use users::serve as serve_users;

/// Connections of one listener at once: those of balancers, scrapers and probes, and of users who ask by themselves. More wait
/// in the kernel until one ends.
const MAX_CONNECTIONS: usize = 512;
/// Longest wait for the header of a request, and for the next request of a connection: longer than balancers keep idle ones.
const HEADER: Duration = Duration::from_secs(75);
/// Most bytes of a request's header; a longer one is answered 431.
const MAX_HEADER: usize = 32 << 10;

/// Whether publishers should come here. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readiness(Arc<AtomicBool>);

impl Readiness {
    pub(crate) fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Routes of health and metrics.
pub(crate) fn routes(registry: Registry, readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready).with_state(readiness))
        .route("/metrics", get(scrape).with_state(Arc::new(registry)))
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, &'static str) {
    if readiness.get() { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}

async fn scrape(State(registry): State<Arc<Registry>>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let mut text = String::new();
    match text::encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_failed) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Serves until the token is cancelled, and then until the requests under way are answered.
pub(crate) async fn serve(listener: TcpListener, routes: Router, until: CancellationToken) {
    accept(listener, MAX_CONNECTIONS, &until, |socket, peer| {
        serve_connection(socket, peer, routes.clone(), until.clone())
    })
    .await;
}

/// Accepts until the token is cancelled, no more than `most` at once, and then waits for those that are there.
async fn accept<F>(
    listener: TcpListener,
    most: usize,
    until: &CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let (room, connections) = (Arc::new(Semaphore::new(most)), TaskTracker::new());
    let next = async || {
        let place = Arc::clone(&room).acquire_owned().await;
        (place, listener::accept(&listener).await)
    };
    while let Some((place, (socket, peer))) = until.run_until_cancelled(next()).await {
        if let Err(error) = socket.set_nodelay(true) {
            debug!(%peer, %error, "the connection was gone at once");
            continue;
        }
        let connection = serve(socket, peer);
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn serve_connection(socket: TcpStream, peer: SocketAddr, routes: Router, until: CancellationToken) {
    let service = TowerToHyperService::new(routes.layer(Extension(ConnectInfo(peer))));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER).max_buf_size(MAX_HEADER);
    let connection = pin!(http.serve_connection(TokioIo::new(socket), service));
    until_over(connection, peer, until.cancelled()).await;
}

/// Serves until it is time to end, and then until the requests under way are answered.
async fn until_over<C>(mut connection: Pin<&mut C>, peer: SocketAddr, end: impl Future<Output = ()>)
where
    C: GracefulConnection<Error: fmt::Display>,
{
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = end => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        debug!(%peer, %error, "an HTTP connection broke");
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::mpsc,
        task::JoinSet,
        time::timeout,
    };

    use super::*;

    #[tokio::test]
    async fn a_server_that_stops_answers_what_is_under_way_and_waits_for_nothing_else() {
        let (started, mut starts) = mpsc::channel(1);
        let (finish, until) = (CancellationToken::new(), CancellationToken::new());
        let finished = finish.clone();
        let slow = get(async move || {
            started.send(()).await.unwrap();
            finished.cancelled().await;
            "done"
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Router::new().route("/", slow), until.clone()));
        let mut idle = TcpStream::connect(address).await.unwrap();
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        starts.recv().await.unwrap();

        until.cancel();
        let mut answer = String::new();
        idle.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "", "who says nothing is let go");
        finish.cancel();
        asking.read_to_string(&mut answer).await.unwrap();

        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("done"), "{answer}");
        timeout(HEADER / 2, server.join_next()).await.unwrap().unwrap().unwrap();
    }
}
