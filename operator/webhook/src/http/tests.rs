use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tallylight_crds::HookUrlSource;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
    time::Instant,
};

use super::{
    receiver::{Answer, Receiver},
    *,
};

const OK: Outcome = Outcome::Answered { status: 200, retry_after: None };

fn endpoint(url: &str) -> Endpoint {
    Endpoint::parse(url, HookUrlSource::Secret).unwrap()
}

async fn post(client: &Client, url: &str) -> Outcome {
    post_within(Duration::from_millis(500), client, url).await
}

async fn post_within(timeout: Duration, client: &Client, url: &str) -> Outcome {
    let request = Request {
        endpoint: &endpoint(url),
        body: Body { content_type: "application/json; charset=UTF-8", text: "{}".into() },
        id: Uuid::from_u128(7),
        timestamp: "2026-01-01T00:00:00Z".parse().unwrap(),
        timeout,
    };
    client.post(request).await
}

#[tokio::test]
async fn a_request_says_who_and_which_event_it_is() {
    let receiver = Receiver::start([]).await;
    let url = receiver.url.replace("http://", "http://me:s3cret@");

    assert_eq!(post(&Client::new(&[]).unwrap(), &url).await, OK);

    let got = receiver.got().remove(0);
    assert_eq!(got.text, "{}");
    assert_eq!(got.header("content-type"), "application/json; charset=UTF-8");
    assert_eq!(got.header("webhook-id"), "00000000-0000-0000-0000-000000000007");
    assert_eq!(got.header("webhook-timestamp"), "1767225600");
    assert_eq!(got.header("user-agent"), USER_AGENT);
    assert_eq!(got.header("authorization"), "Basic bWU6czNjcmV0");
    assert_eq!(got.header("accept-encoding"), "", "an answer is not to be unpacked");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Receiver::start([]).await;
    let receiver = Receiver::start([Answer::Redirect(elsewhere.url.clone())]).await;

    let outcome = post(&Client::new(&[]).unwrap(), &receiver.url).await;

    assert_eq!(outcome, Outcome::Answered { status: 302, retry_after: None });
    assert_eq!(elsewhere.got().len(), 0);
}

#[tokio::test]
async fn a_receiver_that_never_answers_costs_no_more_than_the_deadline() {
    let receiver = Receiver::start([Answer::Never, Answer::Stalled]).await;
    let client = Client::new(&[]).unwrap();
    let started = Instant::now();
    assert_eq!(post(&client, &receiver.url).await, Outcome::Failed(Failure::Timeout));
    assert_eq!(post(&client, &receiver.url).await, OK, "it said success, whatever it says next");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn no_more_than_a_little_of_an_endless_answer_is_read() {
    let receiver = Receiver::start([Answer::Endless]).await;
    let (client, started) = (Client::new(&[]).unwrap(), Instant::now());
    assert_eq!(post_within(Duration::from_secs(30), &client, &receiver.url).await, OK);
    assert!(started.elapsed() < Duration::from_secs(15), "it was read until the deadline");
    // What the kernel's and the client's buffers take, and no more.
    assert!(receiver.chunks() < 32 * 1024, "{} KiB", receiver.chunks());
}

#[tokio::test]
async fn a_retry_after_is_passed_on() {
    let receiver = Receiver::start([Answer::RetryAfter(503, "7"), Answer::RetryAfter(429, "soon")]).await;
    let client = Client::new(&[]).unwrap();
    let seven = Some(jiff::SignedDuration::from_secs(7));
    assert_eq!(post(&client, &receiver.url).await, Outcome::Answered { status: 503, retry_after: seven });
    assert_eq!(post(&client, &receiver.url).await, Outcome::Answered { status: 429, retry_after: None });
}

#[tokio::test]
async fn each_kind_of_failure_has_its_class() {
    let client = Client::new(&[]).unwrap();
    let (closed, plain, rude) = (unused().await, Receiver::start([]).await, rude().await);
    let no_such_host = format!("http://{}/", "a".repeat(64));
    for (url, failure) in [
        (closed.as_str(), Failure::Connect),
        (&plain.url.replace("http://", "https://"), Failure::Tls),
        (&rude.0, Failure::Reset),
        (&no_such_host, Failure::Dns),
    ] {
        assert_eq!(post(&client, url).await, Outcome::Failed(failure), "{url}");
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_only_when_it_was_given() {
    let (url, authority, _server) = tls().await;
    assert_eq!(post(&Client::new(&[]).unwrap(), &url).await, Outcome::Failed(Failure::Tls));
    assert_eq!(post(&Client::new(authority.as_bytes()).unwrap(), &url).await, OK);
    let other_name = url.replace("localhost", "127.0.0.1");
    let refused = post(&Client::new(authority.as_bytes()).unwrap(), &other_name).await;
    assert_eq!(refused, Outcome::Failed(Failure::Tls));
}

#[test]
fn a_bundle_without_a_certificate_is_refused() {
    for text in ["nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        let error = Client::new(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("no certificate"), "{error}");
    }
}

#[tokio::test]
async fn a_connection_that_died_in_the_pool_costs_nothing() {
    let (url, _server) = closing().await;
    let client = Client::new(&[]).unwrap();
    for _ in 0..20 {
        assert_eq!(post(&client, &url).await, OK);
    }
}

async fn unused() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}/", listener.local_addr().unwrap())
}

/// Reads a little and hangs up.
async fn rude() -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut server = JoinSet::new();
    server.spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.read_u8().await.unwrap();
        }
    });
    (url, server)
}

/// Answers and hangs up, without a word about it in the answer.
async fn closing() -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut server = JoinSet::new();
    server.spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            answer(socket).await;
        }
    });
    (url, server)
}

async fn answer<T: AsyncReadExt + AsyncWriteExt + Unpin>(mut socket: T) {
    let mut request = [0; 4096];
    let _read = socket.read(&mut request).await;
    let _sent = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let _closed = socket.shutdown().await;
}

async fn tls() -> (String, String, JoinSet<()>) {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let authority = key.cert.pem();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let mut server = JoinSet::new();
    server.spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            if let Ok(socket) = acceptor.accept(socket).await {
                answer(socket).await;
            }
        }
    });
    (url, authority, server)
}
