use std::collections::BTreeMap;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::http;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

/// A node in front of an upstream that takes one request a connection.
struct Stage {
    address: SocketAddr,
    forwards: Family<OutcomeLabel, Counter>,
    seen: mpsc::Receiver<String>,
    _tasks: JoinSet<()>,
}

impl Stage {
    /// The upstream answers with these bytes and closes, or is silent when there are none.
    async fn new(answer: &str) -> Self {
        Self::with(answer, |_| {}).await
    }

    async fn with(answer: &str, change: impl FnOnce(&mut Forwarder)) -> Self {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", upstream.local_addr().unwrap());
        let (sender, seen) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        tasks.spawn(answer_all(upstream, answer.to_owned(), sender));
        Self::before(&url, seen, tasks, change).await
    }

    async fn before(
        url: &str,
        seen: mpsc::Receiver<String>,
        mut tasks: JoinSet<()>,
        change: impl FnOnce(&mut Forwarder),
    ) -> Self {
        let apps = Apps::default();
        apps.set(BTreeMap::from([("LiveApp".to_owned(), "live".to_owned())]));
        let mut forwarder = Forwarder::new(url.parse().unwrap(), apps, &mut Registry::default());
        change(&mut forwarder);
        let forwards = forwarder.forwards.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn(http::serve(listener, router(forwarder), CancellationToken::new()));
        Self { address, forwards, seen, _tasks: tasks }
    }

    /// Sends these bytes, and returns all that comes back.
    async fn send(&self, request: &str) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // what was sent may be more than what was read, and then the connection is reset behind the answer
        let _reset = socket.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn get(&self, target: &str) -> String {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: live.example.com\r\nConnection: close\r\n\r\n")).await
    }

    fn counted(&self, outcome: Outcome) -> u64 {
        self.forwards.get_or_create(&OutcomeLabel { outcome }).get()
    }
}

async fn answer_all(upstream: TcpListener, answer: String, seen: mpsc::Sender<String>) {
    let mut held = Vec::new();
    while let Ok((mut socket, _)) = upstream.accept().await {
        seen.send(read_request(&mut socket).await).await.unwrap();
        match answer.as_str() {
            "" => held.push(socket),
            // it may have been read as far as anybody wanted
            answer => drop(socket.write_all(answer.as_bytes()).await),
        }
    }
}

async fn read_request(socket: &mut TcpStream) -> String {
    let (mut text, mut byte) = (String::new(), [0]);
    while !text.ends_with("\r\n\r\n") && socket.read_exact(&mut byte).await.is_ok() {
        text.push(char::from(byte[0]));
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.unwrap();
    text + std::str::from_utf8(&body).unwrap()
}

fn is_result(answer: &str, status: u16) -> bool {
    answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(r#"{"success":false,"message":""#)
}

#[tokio::test]
async fn a_request_is_passed_on_and_what_concerns_the_connection_is_not() {
    let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
                  Content-Length: 12\r\n\r\nits own text";
    let mut stage = Stage::new(answer).await;

    let answer = stage
        .send(
            "POST /LiveApp/rest/v2/broadcasts/create?a=%2e%2E&b= HTTP/1.1\r\nHost: live.example.com:8080\r\n\
             Authorization: Bearer 0123456789abcdef\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\
             Connection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nUpgrade: h2c\r\n\
             Proxy-Authorization: Basic eA==\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\n\r\n{\"a\": 11}",
        )
        .await;

    let seen = stage.seen.recv().await.unwrap();
    let mut lines: Vec<_> = seen.lines().collect();
    lines[1..].sort_unstable();
    assert_eq!(
        lines,
        [
            "POST /LiveApp/rest/v2/broadcasts/create?a=%2e%2E&b= HTTP/1.1",
            "",
            "authorization: Bearer 0123456789abcdef",
            "content-length: 9",
            "content-type: application/json",
            "forwarded: for=127.0.0.1;proto=http",
            "forwarded: for=192.0.2.1",
            "host: live.example.com:8080",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-for: 192.0.2.1",
            "{\"a\": 11}",
        ]
    );
    assert!(
        answer.starts_with("HTTP/1.1 401 Unauthorized\r\n") && answer.ends_with("\r\n\r\nits own text"),
        "{answer}"
    );
    assert!(answer.contains("www-authenticate: Bearer") && !answer.contains("x-hop"), "{answer}");
    assert_eq!(stage.counted(Outcome::Answered), 1);
}

#[tokio::test]
async fn nothing_but_rest_of_the_nodes_application_is_reached() {
    let mut stage = Stage::new(OK).await;
    for (target, status) in [
        ("/LiveApp/rest/../metrics", 400),
        ("/LiveApp/rest/v2/../../../metrics", 400),
        ("/LiveApp/rest/%2e%2e/%2e%2e/metrics", 400),
        ("/LiveApp/rest/.%2E/metrics", 400),
        ("/LiveApp/rest/%252e%252e/metrics", 400),
        ("/LiveApp/rest/..%2fmetrics", 400),
        ("/LiveApp/rest/..;/metrics", 400),
        ("/LiveApp/rest/.", 400),
        ("/LiveApp/rest//v2", 400),
        ("/LiveApp/rest/v2/", 400),
        ("/LiveApp/rest/%00", 400),
        ("/Other/rest/v2/broadcasts/a", 404),
        ("/%4CiveApp/rest/v2/broadcasts/a", 404),
        ("/../rest/v2", 404),
    ] {
        let answer = stage.get(target).await;
        assert!(is_result(&answer, status), "{target}: {answer}");
    }
    for target in [
        "/",
        "/metrics",
        "/healthz",
        "/LiveApp/rest",
        "/LiveApp/rest/",
        "/LiveApp//rest/v2",
        "//LiveApp/rest/v2",
        "/LiveApp/REST/v2",
        "/LiveApp/rest%2fv2",
        "http://operator/metrics",
    ] {
        let answer = stage.get(target).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{target}: {answer}");
    }
    for request in ["CONNECT operator:5080 HTTP/1.1", "OPTIONS * HTTP/1.1"] {
        let answer = stage.send(&format!("{request}\r\nHost: operator\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{request}: {answer}");
    }
    assert!(stage.seen.try_recv().is_err(), "the upstream has heard of it");
    assert_eq!(stage.counted(Outcome::Refused), 14);
}

#[tokio::test]
async fn a_request_is_read_as_one_by_everybody() {
    let mut stage = Stage::new(OK).await;
    const POST: &str = "POST /LiveApp/rest/v2/broadcasts/create HTTP/1.1\r\nConnection: close\r\n";

    for headers in
        ["", "Host: a\r\nHost: b\r\n", "Host: a\r\n b\r\n", "Host: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n"]
    {
        let answer = stage.send(&format!("{POST}{headers}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{headers:?}: {answer}");
    }
    assert!(stage.seen.try_recv().is_err(), "the upstream has heard of it");
    let both = "Host: a\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nGET /LiveApp/rest/x HTTP/1.1\r\n\r\n";
    stage.send(&format!("{POST}{both}")).await;

    let seen = stage.seen.recv().await.unwrap();
    assert!(seen.ends_with("\r\n\r\n{}") && seen.contains("content-length: 2\r\n"), "{seen}");
    assert!(!seen.contains("transfer-encoding"), "{seen}");
    assert!(stage.seen.try_recv().is_err(), "what follows a request does not go with it");
}

#[tokio::test]
async fn a_target_with_a_host_says_which_host_was_called() {
    let mut stage = Stage::new(OK).await;

    stage.get("http://other.example.com/LiveApp/rest/v2/broadcasts/a?b").await;

    let seen = stage.seen.recv().await.unwrap();
    assert!(seen.starts_with("GET /LiveApp/rest/v2/broadcasts/a?b HTTP/1.1\r\nhost: other.example.com\r\n"), "{seen}");
    assert!(is_result(&stage.get("http://user:pass@operator/LiveApp/rest/v2").await, 400));
}

#[tokio::test]
async fn a_large_body_is_refused_before_it_is_passed_on() {
    let mut stage = Stage::new(OK).await;
    let post = |headers: &str, body: &str| {
        format!(
            "POST /LiveApp/rest/v2/broadcasts/create HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n\r\n{body}"
        )
    };
    let (most, more) = ("a".repeat(64 << 10), "a".repeat((64 << 10) + 1));

    let by_length = stage.send(&post("Content-Length: 65537", &more)).await;
    let in_pieces = stage.send(&post("Transfer-Encoding: chunked", &format!("10001\r\n{more}\r\n0\r\n\r\n"))).await;
    assert!(is_result(&by_length, 413) && is_result(&in_pieces, 413), "{by_length} {in_pieces}");
    assert!(stage.seen.try_recv().is_err(), "the upstream has heard of it");

    let fits = stage.send(&post("Content-Length: 65536", &most)).await;
    assert!(fits.starts_with("HTTP/1.1 200 "), "{fits}");
    assert!(stage.seen.recv().await.unwrap().ends_with(&most));
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_well_is_told_apart() {
    const PATH: &str = "/LiveApp/rest/v2/broadcasts/a";
    let silent = Stage::with("", |forwarder| forwarder.deadline = Duration::from_millis(100)).await;
    assert!(is_result(&silent.get(PATH).await, 504));
    assert_eq!(silent.counted(Outcome::NoAnswer), 1);

    for url in ["http://127.0.0.1:1", "http://no-such-host.invalid"] {
        let away = Stage::before(url, mpsc::channel(1).1, JoinSet::new(), |_| {}).await;
        assert!(is_result(&away.get(PATH).await, 502), "{url}");
        assert_eq!(away.counted(Outcome::Unreachable), 1, "{url}");
    }

    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", MAX_ANSWER + 1, " ".repeat(MAX_ANSWER + 1));
    for answer in
        ["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "not HTTP\r\n\r\n", "HTTP/1.1 101 Go\r\n\r\n", long.as_str()]
    {
        let broken = Stage::new(answer).await;
        assert!(is_result(&broken.get(PATH).await, 502), "{answer:.40}");
        assert_eq!(broken.counted(Outcome::BadAnswer), 1, "{answer:.40}");
    }
}

#[tokio::test]
async fn when_too_many_are_under_way_one_more_is_told_to_come_back() {
    let mut stage = Stage::with(OK, |forwarder| forwarder.room = Semaphore::new(0)).await;

    let answer = stage.get("/LiveApp/rest/v2/broadcasts/a").await;

    assert!(is_result(&answer, 503) && answer.contains("retry-after: 1\r\n"), "{answer}");
    assert_eq!(stage.counted(Outcome::TooMany), 1);
    assert!(stage.seen.try_recv().is_err());
}

#[test]
fn an_address_of_the_sixth_version_is_quoted() {
    let headers = passed_on(HeaderMap::new(), HeaderValue::from_static("a"), "2001:db8::1".parse().unwrap());

    assert_eq!(headers[FORWARDED_FOR], "2001:db8::1");
    assert_eq!(headers[FORWARDED], "for=\"[2001:db8::1]\";proto=http");
}
