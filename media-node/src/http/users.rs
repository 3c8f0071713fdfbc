//! HTTP for users: players in their thousands, each with a request that waits, over HTTP/1.1 and HTTP/2, with TLS or without.

use std::{net::SocketAddr, pin::pin, time::Duration};

use axum::{Extension, Router, extract::ConnectInfo};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{HEADER, MAX_HEADER, accept, stall::Stall, until_over};

/// Connections at once: players of HTTP/1.1 have two or three. One that waits takes 30 KiB, all of them 1 GiB with TLS. More wait
/// in the kernel until one ends.
const MAX_CONNECTIONS: usize = 32_768;
/// Requests of one connection at once: a player has three, and a page some players.
const MAX_STREAMS: u32 = 64;
/// Longest wait for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often it is asked whether the other side of an HTTP/2 connection is still there, and the longest wait for its answer.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);
/// A connection is asked to end when it is this old, and cut a minute later: who takes nothing holds media no longer.
const OLD: Duration = Duration::from_secs(15 * 60);
const TOO_OLD: Duration = Duration::from_secs(60);

/// Serves until the token is cancelled, and then until the requests under way are answered.
pub(crate) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, routes: Router, until: CancellationToken) {
    accept(listener, MAX_CONNECTIONS, &until, |socket, peer| {
        serve_socket(socket, peer, tls.clone(), routes.clone(), until.clone())
    })
    .await;
}

async fn serve_socket(
    socket: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    routes: Router,
    until: CancellationToken,
) {
    let socket = Stall::new(socket);
    let Some(tls) = tls else { return serve_connection(socket, peer, routes, until).await };
    let shaken = until.run_until_cancelled(timeout(HANDSHAKE, tls.accept(socket))).await;
    match shaken {
        Some(Ok(Ok(socket))) => Box::pin(serve_connection(socket, peer, routes, until)).await,
        Some(Ok(Err(error))) => debug!(%peer, %error, "a TLS handshake failed"),
        Some(Err(_elapsed)) => debug!(%peer, "a TLS handshake took too long"),
        None => {}
    }
}

async fn serve_connection(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    routes: Router,
    until: CancellationToken,
) {
    let service = TowerToHyperService::new(routes.layer(Extension(ConnectInfo(peer))));
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER).max_buf_size(MAX_HEADER);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADER).unwrap_or(u32::MAX));
    let connection = pin!(http.serve_connection(TokioIo::new(socket), service));
    let end = async { drop(timeout(OLD, until.cancelled()).await) };
    tokio::select! {
        () = until_over(connection, peer, end) => {}
        () = sleep(OLD + TOO_OLD) => {
            debug!(%peer, "a connection did not end in time; it is cut");
        }
    }
}
