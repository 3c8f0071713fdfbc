//! What every connection of a node shares, and the sockets that the node serves.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use axum::Router;
use ledger::Store;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::{Admission, Apps},
    claim::Claims,
    cli::NodeArgs,
    http,
    hub::Hub,
    listener::{self, Pending},
    metrics::{Metrics, Protocol},
    packager::Packagers,
    recording::Recorder,
    relay::{Others, Relays},
    tls::Certificate,
    webrtc::WebRtc,
};

/// What every connection of a node shares.
#[derive(Debug)]
pub struct Node<S> {
    pub admission: Admission<S>,
    pub claims: Claims<S>,
    pub hub: Hub,
    pub metrics: Metrics,
    pub pending: Pending,
    /// Muxings of the streams that are published here.
    pub packagers: Packagers,
    /// Records what is published here; none in tests of other things.
    pub recorder: Option<Recorder>,
    /// Streams of other nodes; none without a relay.
    pub relays: Option<Relays<S>>,
    /// Recordings on the disks of other nodes; none without a relay.
    pub others: Option<Others>,
    /// None where it is turned off.
    pub webrtc: Option<WebRtc>,
    pub publisher_timeout: Duration,
    /// Cancelled when the node takes no more publishers; its viewers stay.
    pub draining: CancellationToken,
    /// Cancelled when the node begins to shut down.
    pub shutdown: CancellationToken,
}

impl<S: Store> Node<S> {
    /// Puts a node together. What it does for streams are tasks of `tasks`, until it shuts down.
    #[must_use]
    pub fn new(
        apps: Apps,
        claims: Claims<S>,
        metrics: Metrics,
        args: &NodeArgs,
        shutdown: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let hub = Hub::default();
        let (store, namespace) = (claims.store().clone(), claims.identity().namespace.clone());
        let admission = Admission::new(store, namespace, apps, hub.clone(), claims.clone(), metrics.clone());
        let publisher_timeout = args.publisher_timeout();
        // a node that shuts down drains
        let draining = shutdown.child_token();
        let packagers = Packagers::new(hub.clone(), args.packaging(), tasks.clone(), shutdown.clone());
        Self {
            admission,
            claims,
            hub,
            metrics,
            pending: Pending::default(),
            packagers,
            recorder: None,
            relays: None,
            others: None,
            webrtc: None,
            publisher_timeout,
            draining,
            shutdown,
        }
    }
}

/// The bound sockets of a node.
#[derive(Debug)]
pub struct Sockets {
    pub(crate) http: TcpListener,
    /// HTTP for users; without TLS only where it is not to be served beside health and metrics.
    pub(crate) users: UserSockets,
    pub(crate) media: MediaSockets,
}

/// Those of them that carry media.
pub struct MediaSockets {
    rtmp: TcpListener,
    rtmps: Option<(TcpListener, TlsAcceptor)>,
    /// Of all that is served over TLS.
    certificate: Option<Certificate>,
}

impl std::fmt::Debug for MediaSockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MediaSockets").field("rtmp", &self.rtmp).finish_non_exhaustive()
    }
}

/// Where a node is served, as in the ready file.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Addresses {
    pub http: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_http: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_https: Option<SocketAddr>,
    pub rtmp: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtmps: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<SocketAddr>,
    /// Over UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webrtc: Option<SocketAddr>,
}

impl Addresses {
    /// Where users' HTTP is served by a node that serves it in any case.
    pub(crate) fn user_http(&self) -> SocketAddr {
        self.public_http.unwrap_or(self.http)
    }
}

impl Sockets {
    /// Binds all addresses of the flags.
    ///
    /// # Errors
    /// When one cannot be bound, with its flag; when the certificate cannot be read.
    pub fn bind(args: &NodeArgs) -> anyhow::Result<Self> {
        let http = bind("--http-address", args.http_address)?;
        let public_http = args.public_http_address.map(|address| bind("--public-http-address", address)).transpose()?;
        let rtmp = bind("--rtmp-address", args.rtmp_address)?;
        let public_https =
            args.public_https_address.map(|address| bind("--public-https-address", address)).transpose()?;
        let rtmps = args.rtmps_address.map(|address| bind("--rtmps-address", address)).transpose()?;
        let is_needed = rtmps.is_some() || public_https.is_some();
        let certificate = match (&args.tls_cert, &args.tls_key) {
            (Some(cert), Some(key)) if is_needed => Some(Certificate::read(cert, key)?),
            (Some(_) | None, _) => None, // the command line allows no TLS without it
        };
        let acceptor = |protocols| certificate.as_ref().map(|certificate| certificate.acceptor(protocols));
        let users = UserSockets { plain: public_http, tls: public_https.zip(acceptor(&[b"h2", b"http/1.1"])) };
        let rtmps = rtmps.zip(acceptor(&[]));
        Ok(Self { http, users, media: MediaSockets { rtmp, rtmps, certificate } })
    }

    /// The addresses that were bound.
    ///
    /// # Errors
    /// When the system does not know them.
    pub fn addresses(&self) -> io::Result<Addresses> {
        let rtmps = self.media.rtmps.as_ref().map(|(listener, _)| listener.local_addr()).transpose()?;
        let public_http = self.users.plain.as_ref().map(TcpListener::local_addr).transpose()?;
        let public_https = self.users.tls.as_ref().map(|(listener, _)| listener.local_addr()).transpose()?;
        let (http, rtmp) = (self.http.local_addr()?, self.media.rtmp.local_addr()?);
        Ok(Addresses { http, public_http, public_https, rtmp, rtmps, relay: None, webrtc: None })
    }
}

impl MediaSockets {
    /// Serves them until the node shuts down, and follows the certificate; connections are tasks of `tasks`.
    pub fn serve<S: Store>(self, node: &Arc<Node<S>>, tasks: &TaskTracker) {
        let Self { rtmp, rtmps, certificate } = self;
        tasks.spawn(listener::serve(rtmp, None, Protocol::Rtmp, Arc::clone(node), tasks.clone()));
        if let Some((rtmps, acceptor)) = rtmps {
            tasks.spawn(listener::serve(rtmps, Some(acceptor), Protocol::Rtmps, Arc::clone(node), tasks.clone()));
        }
        if let Some(certificate) = certificate {
            tasks.spawn(certificate.follow(node.metrics.clone(), node.shutdown.clone()));
        }
    }
}

/// Users' HTTP: with TLS, without, or both.
pub(crate) struct UserSockets {
    pub(crate) plain: Option<TcpListener>,
    pub(crate) tls: Option<(TcpListener, TlsAcceptor)>,
}

impl std::fmt::Debug for UserSockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserSockets")
    }
}

impl UserSockets {
    /// Serves `routes` until `until` is cancelled; connections are tasks of `tasks`.
    pub(crate) fn serve(self, routes: &Router, until: &CancellationToken, tasks: &TaskTracker) {
        if let Some(plain) = self.plain {
            tasks.spawn(http::serve_users(plain, None, routes.clone(), until.clone()));
        }
        if let Some((listener, acceptor)) = self.tls {
            tasks.spawn(http::serve_users(listener, Some(acceptor), routes.clone(), until.clone()));
        }
    }
}

fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    listener::bind(address)
        .with_context(|| format!("failed to listen on {address}; choose another address with {flag}"))
}

/// Writes the ready file, if there is to be one: readers see nothing or all of it.
///
/// # Errors
/// When it cannot be written.
pub fn write_ready_file(path: Option<&Path>, addresses: &Addresses) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let write = || -> io::Result<()> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = path.with_file_name(name);
        let mut file = fs::File::create(&new)?;
        serde_json::to_writer(&mut file, addresses)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("failed to write --ready-file {}", path.display()))
}
