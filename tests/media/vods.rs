//! A recording on the disk of one pod, to players that have reached another.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use kube::Api;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::json;
use tallylight_crds::{Recording, RecordingState};
use tallylight_media_node::relay::token::{Grant, Loan, PoolKey};
use tempfile::TempDir;
use tests::{
    http, identity,
    install::{self, Tenant},
    media::Publisher,
    probe, relaying, repository,
    service::{Launch, Service},
    wait,
};

use crate::standalone::SOON;

const VIDEO: &str = "-f lavfi -i testsrc2=size=320x180:rate=25 -f lavfi -i sine=frequency=440:sample_rate=48000 -t 4 \
                     -pix_fmt yuv420p -c:v libx264 -preset ultrafast -g 25 -c:a aac";
/// Of an answer, beside its status.
const HEADERS: [&str; 9] = [
    "accept-ranges",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "cache-control",
    "content-length",
    "content-range",
    "content-type",
    "etag",
    "last-modified",
];

/// Two pods that record on their own disks, and players.
struct Pair {
    // Dropped in this order: who writes goes first.
    one: Service,
    two: Service,
    _operator: Service,
    tenant: Tenant,
    key: PoolKey,
    client: Client,
    folder: TempDir,
}

impl Pair {
    async fn new(name: &str) -> Result<Self> {
        http::install_crypto();
        let (tenant, folder) = (install::tenant(name).await?, repository::folder(name)?);
        tenant.pool(&json!({"recording": {"mode": "On", "nameTemplate": "{streamID}-{session}"}})).await?;
        let kubeconfig = tenant.operator_kubeconfig(folder.path()).await?;
        let operator = Launch::operator(folder.path(), &kubeconfig, &tenant.namespace).start().await?;
        let key_file = relaying::key_file(&tenant, folder.path()).await?;
        let one = relaying::node(&tenant, folder.path(), "media-live-1", &key_file).await?;
        let two = relaying::node(&tenant, folder.path(), "media-live-2", &key_file).await?;
        let key = PoolKey::read(Path::new(&key_file))?;
        let client = Client::builder().no_proxy().timeout(SOON).build()?;
        Ok(Self { one, two, _operator: operator, tenant, key, client, folder })
    }

    /// Has the first pod record four seconds; returns the name of the file, which is then ready.
    async fn record(&self, stream: &str, format: &str) -> Result<String> {
        self.tenant.broadcast(stream, &json!({"recording": {"format": format}})).await?;
        let url = self.one.rtmp("LiveApp", stream)?;
        let mut publisher = Publisher::encoding(self.folder.path(), stream, &url, &[VIDEO])?;
        publisher.process.wait(SOON).await?;
        let api: Api<Recording> = Api::namespaced(self.tenant.admin.clone(), &self.tenant.namespace);
        wait::until(format!("the recording of {stream}"), SOON, async || {
            let all = api.list(&kube::api::ListParams::default()).await.map_err(|error| error.to_string())?.items;
            let ready = all.iter().find(|it| it.spec.stream_id == stream && it.state() == RecordingState::Ready);
            let name = ready.map(|recording| recording.spec.file_name.clone());
            name.ok_or_else(|| format!("{all:?}; {}", self.one.process.log()))
        })
        .await
    }

    /// On the first pod's disk.
    fn disk(&self) -> std::path::PathBuf {
        self.folder.path().join("media-live-1/recordings")
    }

    fn url(node: &Service, path: &str) -> Result<String> {
        Ok(format!("http://{}/LiveApp/streams/{path}", node.address("publicHttp")?))
    }

    async fn ask(&self, node: &Service, method: &Method, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
        let mut request = self.client.request(method.clone(), Self::url(node, path)?);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Ok(request.send().await?)
    }

    /// Asks both for the same, and returns what both have answered.
    async fn ask_both(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Result<(StatusCode, Vec<u8>)> {
        let mut answers = Vec::new();
        for node in [&self.one, &self.two] {
            let answer = self.ask(node, &method, path, headers).await?;
            let told: Vec<_> = HEADERS.iter().map(|name| answer.headers().get(*name).cloned()).collect();
            answers.push((answer.status(), told, answer.bytes().await?.to_vec()));
        }
        let [(status, told, body), through] = &answers[..] else { unreachable!("two were asked") };
        ensure!(
            (status, told, body) == (&through.0, &through.1, &through.2),
            "{method} {path} {headers:?}: {status} {told:?} at its node, {} {:?} through the other; {} and {} bytes",
            through.0,
            through.1,
            body.len(),
            through.2.len()
        );
        Ok((*status, body.clone()))
    }

    async fn metric(&self, name: &str) -> Result<f64> {
        let scraped = http::get(self.two.address("http")?, "/metrics").await?.body;
        let line = scraped.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(Ok(0.0), |value| Ok(value.parse()?))
    }

    async fn until_metric(&self, name: &str, value: f64) -> Result<()> {
        wait::until(format!("{name} to be {value}"), SOON, async || {
            let found = self.metric(name).await.map_err(|error| error.to_string())?;
            if (found - value).abs() < 0.5 { Ok(()) } else { Err(found.to_string()) }
        })
        .await
    }
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[tokio::test]
async fn a_recording_on_one_pods_disk_is_fetched_through_another_as_from_its_own() -> Result<()> {
    let pair = Pair::new("vod-through").await?;
    let file = pair.record("show", "MP4").await?;
    let bytes = fs::read(pair.disk().join(&file))?;
    let head = pair.ask(&pair.one, &Method::HEAD, &file, &[]).await?;
    let (tag, date) = (header(&head, "etag").to_owned(), header(&head, "last-modified").to_owned());
    ensure!(!tag.is_empty() && !date.is_empty(), "{head:?}");

    assert_eq!(pair.ask_both(Method::GET, &file, &[]).await?, (StatusCode::OK, bytes.clone()));
    assert_eq!(pair.ask_both(Method::HEAD, &file, &[]).await?, (StatusCode::OK, Vec::new()));
    for (range, expected) in
        [("bytes=5-1004", &bytes[5..1005]), ("bytes=9000-", &bytes[9000..]), ("bytes=-77", &bytes[bytes.len() - 77..])]
    {
        for condition in [None, Some(("if-range", &*tag)), Some(("if-range", &*date))] {
            let headers: Vec<_> = [Some(("range", range)), condition].into_iter().flatten().collect();
            let answer = pair.ask_both(Method::GET, &file, &headers).await?;
            assert_eq!(answer, (StatusCode::PARTIAL_CONTENT, expected.to_vec()), "{headers:?}");
        }
    }
    for other in ["\"other\"", "W/\"other\"", "Thu, 01 Jan 1970 00:00:00 GMT"] {
        let answer = pair.ask_both(Method::GET, &file, &[("range", "bytes=5-9"), ("if-range", other)]).await?;
        assert_eq!(answer, (StatusCode::OK, bytes.clone()), "the player has another file: {other}");
    }
    for (condition, value, status) in [
        ("if-none-match", &*tag, StatusCode::NOT_MODIFIED),
        ("if-modified-since", &*date, StatusCode::NOT_MODIFIED),
        ("if-match", "\"other\"", StatusCode::PRECONDITION_FAILED),
        ("range", "bytes=999999999-", StatusCode::RANGE_NOT_SATISFIABLE),
    ] {
        assert_eq!(pair.ask_both(Method::GET, &file, &[(condition, value)]).await?.0, status, "{condition}");
    }
    assert_eq!(pair.ask_both(Method::POST, &file, &[]).await?.0, StatusCode::METHOD_NOT_ALLOWED);
    let url = Pair::url(&pair.two, &file)?;
    probe::decodes(Path::new(&url))?;
    assert_eq!(probe::frames(Path::new(&url))?, 100);
    pair.until_metric("tallylight_relay_recordings_open", 0.0).await?;
    assert!(pair.metric("tallylight_relay_recordings_total{outcome=\"Passed\"}").await? >= 18.0);

    let list = pair.record("list", "HLS").await?;
    let playlist = pair.ask_both(Method::GET, &list, &[]).await?.1;
    let segment = fs::read(pair.disk().join("list-1/segment-1.m4s"))?;
    assert_eq!(playlist, fs::read(pair.disk().join(&list))?);
    assert_eq!(pair.ask_both(Method::GET, "list-1/segment-1.m4s", &[]).await?, (StatusCode::OK, segment));
    assert_eq!(pair.ask_both(Method::GET, "list-1/segment-999.m4s", &[]).await?.0, StatusCode::NOT_FOUND);
    let url = Pair::url(&pair.two, &list)?;
    probe::decodes(Path::new(&url))?;
    assert_eq!(probe::frames(Path::new(&url))?, 100);
    let refused: Vec<_> =
        pair.tenant.plane.calls(&pair.tenant.namespace)?.into_iter().filter(|call| call.status == 403).collect();
    assert!(refused.is_empty(), "the chart's roles miss rights: {refused:#?}");
    Ok(())
}

#[tokio::test]
async fn while_a_pod_is_away_its_recordings_are_asked_for_again_and_are_gone_with_it() -> Result<()> {
    let mut pair = Pair::new("vod-away").await?;
    let file = pair.record("show", "MP4").await?;
    // far more than sockets hold
    let path = pair.disk().join(&file);
    fs::File::options().write(true).open(&path)?.set_len(256 << 20)?;
    let mut half = pair.ask(&pair.two, &Method::GET, &file, &[]).await?;
    assert_eq!(half.content_length(), Some(256 << 20));
    half.chunk().await?.context("the begin of the file")?;
    assert!((pair.metric("tallylight_relay_recordings_open").await? - 1.0).abs() < 0.5);

    pair.one.process.kill()?;
    let rest = async {
        while half.chunk().await?.is_some() {}
        anyhow::Ok(())
    };
    assert!(rest.await.is_err(), "what broke off must not look whole");
    let received = pair.metric("tallylight_relay_media_bytes_total{direction=\"In\"}").await?;
    assert!(
        received < f64::from(128 << 20),
        "{received} bytes were fetched for a player that had taken next to nothing"
    );
    pair.until_metric("tallylight_relay_recordings_total{outcome=\"Broken\"}", 1.0).await?;

    let away = pair.ask(&pair.two, &Method::GET, &file, &[]).await?;
    assert_eq!((away.status(), header(&away, "retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "5"));
    assert_eq!(away.text().await?, "the node that has the recording on its disk does not answer now\n");
    identity::delete_pod(&pair.tenant.admin, &pair.tenant.namespace, "media-live-1").await?;
    let gone = wait::until("the pod to be gone for good", SOON, async || {
        let answer = pair.ask(&pair.two, &Method::GET, &file, &[]).await.map_err(|error| error.to_string())?;
        if answer.status() == StatusCode::GONE { Ok(answer) } else { Err(format!("{answer:?}")) }
    })
    .await?;
    assert_eq!(header(&gone, "cache-control"), "no-store");
    assert_eq!(gone.text().await?, "the recording was on the disk of a node that is gone\n");
    Ok(())
}

#[tokio::test]
async fn a_pod_lends_recordings_alone_and_only_to_pods_of_its_pool() -> Result<()> {
    let pair = Pair::new("vod-lent").await?;
    let file = pair.record("show", "MP4").await?;
    let disk = pair.disk();
    fs::create_dir(disk.join("private"))?;
    fs::write(disk.join("private/notes.mp4"), "of somebody else")?;
    fs::write(disk.join("notes.txt"), "of somebody else")?;
    let loan = |storage: &str, path: &str, owner: &str| Loan {
        storage: storage.to_owned(),
        path: path.to_owned(),
        owner: owner.to_owned(),
        node: "media-live-2".to_owned(),
        expires: Timestamp::now().as_second() + 60,
    };
    let ask = async |path: &str, token: &str| -> Result<u16> {
        let url = format!("http://{}/recordings/v1/{path}", pair.one.address("relay")?);
        Ok(pair.client.get(url).bearer_auth(token).send().await?.status().as_u16())
    };

    let good = pair.key.sign(&loan("local", &file, "media-live-1"));
    assert_eq!(ask(&format!("local/{file}"), &good).await?, 200);
    assert_eq!(ask("local/other.mp4", &good).await?, 401, "for another file");
    let moved = pair.key.sign(&loan("local", &file, "media-live-3"));
    assert_eq!(ask(&format!("local/{file}"), &moved).await?, 404, "for another node");
    let stranger = PoolKey::new(&[7; 32])?.sign(&loan("local", &file, "media-live-1"));
    let session = ledger::Owner { ordinal: 1, epoch: 1 };
    let expires = Timestamp::now().as_second() + 60;
    let grant = Grant { uid: "u".to_owned(), session, node: "media-live-2".to_owned(), expires };
    let late = pair.key.sign(&Loan { expires: 0, ..loan("local", &file, "media-live-1") });
    for token in [stranger, pair.key.sign(&grant), late, String::new()] {
        assert_eq!(ask(&format!("local/{file}"), &token).await?, 401, "{token}");
    }
    for (storage, path) in [
        ("local", "notes.txt"),
        ("local", "private/notes.mp4"),
        ("local", ".recording/show-1.mp4"),
        ("local", "..%2f..%2fends.log"),
        ("archive", &*file),
    ] {
        let token = pair.key.sign(&loan(storage, path, "media-live-1"));
        assert_eq!(ask(&format!("{storage}/{path}"), &token).await?, 404, "{storage}/{path}");
    }
    Ok(())
}
