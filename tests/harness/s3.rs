//! S3 in this process, over plain files: signatures are checked, and a test lets it be away, busy, slow or broken, and sees what
//! it is asked.

use std::{
    collections::{HashMap, HashSet},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use http::{HeaderMap, Method, Request, Response, StatusCode, header::CONTENT_LENGTH};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use s3s::{
    Body, S3Result,
    auth::{S3Auth, SecretKey},
    s3_error,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is served.
    None,
    /// It is answered with this status and code.
    Status(u16, &'static str),
    /// Its connection is closed.
    Reset,
    /// It is served, and its connection is closed in place of the answer.
    Lost,
    /// It is served once this is notified.
    Held(Arc<Notify>),
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    /// Size of its body.
    pub bytes: u64,
}

impl Ask {
    /// Whether it sends a part.
    #[must_use]
    pub fn is_part(&self) -> bool {
        self.method == Method::PUT && self.target.contains("partNumber=")
    }

    /// Whether it begins an upload.
    #[must_use]
    pub fn is_begin(&self) -> bool {
        self.method == Method::POST && self.target.contains("uploads")
    }

    /// Whether it asks for the uploads under way.
    #[must_use]
    pub fn is_list(&self) -> bool {
        self.method == Method::GET && self.target.contains("?uploads")
    }

    fn upload_id(&self) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|part| part.strip_prefix("uploadId="))
    }

    /// Bucket and key.
    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default().trim_matches('/')
    }

    /// Whether it makes an object of parts.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.method == Method::POST && self.target.contains("uploadId=")
    }
}

type Script = dyn Fn(&Ask) -> Fault + Send + Sync;

struct Shared {
    keys: Mutex<HashMap<String, String>>,
    script: Mutex<Arc<Script>>,
    asks: Mutex<Vec<Ask>>,
    /// Uploads under way, by their keys.
    begun: Mutex<Vec<(String, String)>>,
    /// Uploads that are over: S3 does not know them any more, while the files' store calls them forbidden.
    over: Mutex<HashSet<String>>,
    root: PathBuf,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Dropping it ends it.
pub struct S3 {
    address: SocketAddr,
    root: TempDir,
    shared: Arc<Shared>,
    service: S3Service,
    tasks: JoinSet<()>,
}

/// The key that is good from the begin.
pub const KEY_ID: &str = "tallylight";
pub const SECRET: &str = "correct-horse";

#[derive(Clone)]
struct Keys(Arc<Shared>);

#[async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, key_id: &str) -> S3Result<SecretKey> {
        let secret = lock(&self.0.keys).get(key_id).cloned();
        secret.map(SecretKey::from).ok_or_else(|| s3_error!(InvalidAccessKeyId))
    }
}

impl S3 {
    /// Begins to serve, with a bucket for each name.
    ///
    /// # Errors
    /// When there is no room, or no port.
    pub async fn start(buckets: &[&str]) -> Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST, buckets).await
    }

    /// As [`S3::start`], on an address of a network that the caller has entered.
    ///
    /// # Errors
    /// As [`S3::start`].
    pub async fn start_on(host: Ipv4Addr, buckets: &[&str]) -> Result<Self> {
        // for the clients of the test; fails when there is one already, and then that one serves
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let root = tempfile::tempdir()?;
        for bucket in buckets {
            std::fs::create_dir(root.path().join(bucket))?;
        }
        let shared = Arc::new(Shared {
            keys: Mutex::new(HashMap::from([(KEY_ID.to_owned(), SECRET.to_owned())])),
            script: Mutex::new(Arc::new(|_ask: &Ask| Fault::None)),
            asks: Mutex::default(),
            begun: Mutex::default(),
            over: Mutex::default(),
            root: root.path().to_owned(),
        });
        let files =
            FileSystem::new(root.path()).map_err(|error| anyhow::anyhow!("failed to open the store: {error:?}"))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(Keys(Arc::clone(&shared)));
        let listener = TcpListener::bind((host, 0)).await?;
        let address = listener.local_addr()?;
        let mut s3 = Self { address, root, shared, service: builder.build(), tasks: JoinSet::new() };
        s3.serve(listener);
        Ok(s3)
    }

    /// URL of the service.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The file that a key is.
    #[must_use]
    pub fn file(&self, bucket: &str, key: &str) -> PathBuf {
        self.root.path().join(bucket).join(key)
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_bucket(&self, name: &str) -> Result<()> {
        std::fs::create_dir(self.root.path().join(name)).context("failed to make a bucket")
    }

    /// The folder of buckets.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Lets these keys alone be good.
    pub fn set_key(&self, key_id: &str, secret: &str) {
        *lock(&self.shared.keys) = HashMap::from([(key_id.to_owned(), secret.to_owned())]);
    }

    /// Decides what becomes of each request from now on.
    pub fn script(&self, script: impl Fn(&Ask) -> Fault + Send + Sync + 'static) {
        *lock(&self.shared.script) = Arc::new(script);
    }

    /// The requests that came so far.
    #[must_use]
    pub fn asks(&self) -> Vec<Ask> {
        lock(&self.shared.asks).clone()
    }

    /// The keys of uploads under way, with their buckets.
    #[must_use]
    pub fn uploads(&self) -> Vec<String> {
        lock(&self.shared.begun).iter().map(|(key, _)| key.clone()).collect()
    }

    /// Closes the port and every connection.
    pub async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Serves again, at the same port.
    ///
    /// # Errors
    /// When it is taken.
    pub async fn start_again(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).await.context("failed to take the port again")?;
        self.serve(listener);
        Ok(())
    }

    fn serve(&mut self, listener: TcpListener) {
        let (shared, service) = (Arc::clone(&self.shared), self.service.clone());
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _peer)) = listener.accept().await {
                let (shared, service) = (Arc::clone(&shared), service.clone());
                connections.spawn(async move {
                    let answer = service_fn(move |request| answer(Arc::clone(&shared), service.clone(), request));
                    // a connection that a fault closes ends so
                    let _closed = http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
    }
}

impl Shared {
    /// Takes note of an upload that is begun.
    async fn begun(&self, ask: &Ask, response: Response<Body>) -> Result<Response<Body>, Closed> {
        let (parts, body) = response.into_parts();
        let text = body.collect().await.map_err(|_broken| Closed)?.to_bytes();
        let document = String::from_utf8_lossy(&text).into_owned();
        let id = document.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once("</UploadId>"));
        lock(&self.begun).extend(id.map(|(id, _)| (ask.path().to_owned(), id.to_owned())));
        Ok(Response::from_parts(parts, Body::from(document)))
    }

    /// The uploads under way of a bucket.
    fn list(&self, ask: &Ask) -> String {
        let begun = lock(&self.begun);
        let of_bucket = begun.iter().filter_map(|(path, id)| {
            let key = path.strip_prefix(ask.path())?.strip_prefix('/')?;
            Some(format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId></Upload>"))
        });
        let uploads: String = of_bucket.collect();
        format!("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{uploads}</ListMultipartUploadsResult>")
    }

    /// What S3 refuses and the files' store does not, or with another code.
    fn refuses(&self, ask: &Ask) -> Fault {
        let bucket = ask.target.trim_start_matches('/').split(['/', '?']).next().unwrap_or_default();
        if !self.root.join(bucket).is_dir() {
            return Fault::Status(404, "NoSuchBucket");
        }
        let is_over = ask.upload_id().is_some_and(|id| lock(&self.over).contains(id));
        if is_over { Fault::Status(404, "NoSuchUpload") } else { Fault::None }
    }
}

/// Closes the connection.
#[derive(Debug)]
struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("closed by the test")
    }
}

impl std::error::Error for Closed {}

async fn answer(shared: Arc<Shared>, service: S3Service, request: Request<Incoming>) -> Result<Response<Body>, Closed> {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let ask = Ask {
        method: request.method().clone(),
        target: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: request.headers().clone(),
        bytes: length.unwrap_or_default(),
    };
    let script = Arc::clone(&lock(&shared.script));
    let fault = match script(&ask) {
        Fault::None => shared.refuses(&ask),
        fault => fault,
    };
    lock(&shared.asks).push(ask.clone());
    let serve = async || {
        let response = service.call(request.map(Body::from)).await.map_err(|_broken| Closed)?;
        let status = response.status();
        if status.is_success() && (ask.is_complete() || ask.method == Method::DELETE) {
            lock(&shared.over).extend(ask.upload_id().map(str::to_owned));
            lock(&shared.begun).retain(|(_, id)| Some(id.as_str()) != ask.upload_id());
        }
        if status.is_success() && ask.is_begin() {
            return shared.begun(&ask, response).await;
        }
        // the files' store has no such list; the signature was checked before
        if ask.is_list() && status == StatusCode::NOT_IMPLEMENTED {
            return Ok(Response::new(Body::from(shared.list(&ask))));
        }
        Ok(response)
    };
    match fault {
        Fault::None => serve().await,
        Fault::Status(status, code) => {
            let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
            let mut response = Response::new(Body::from(text));
            *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Ok(response)
        }
        Fault::Reset => Err(Closed),
        Fault::Lost => {
            let _served = serve().await?;
            Err(Closed)
        }
        Fault::Held(until) => {
            until.notified().await;
            serve().await
        }
    }
}
