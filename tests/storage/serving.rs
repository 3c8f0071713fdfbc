//! Recordings as players fetch them.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use axum::Router;
use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, LOCATION, RANGE, RETRY_AFTER},
};
use json_patch::Patch;
use ledger::{Key, Recordings, SqliteStore};
use reqwest::{Client, Method, RequestBuilder, Response, redirect};
use serde_json::json;
use tallylight_crds::Recording;
use tallylight_media_node::{
    admission::Apps,
    playback::vod::{self, Vods},
    storage::{Storages, url::NamedStorage},
};
use tempfile::TempDir;
use tests::s3::S3;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    growing::{Rig, bucket},
    playlists::Show,
};

struct Server {
    url: String,
    client: Client,
    store: SqliteStore,
    folder: TempDir,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn new(archive: Option<(&S3, &Path)>) -> Self {
        // fails when another test was here first
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("ledger.sqlite")).unwrap();
        let apps = Apps::default();
        apps.set(BTreeMap::from([("LiveApp".to_owned(), "default".to_owned())]));
        let archive = archive.map(|(s3, keys)| {
            let url = format!("archive=s3://vods/live?endpoint={}&credentials-dir={}", s3.url(), keys.display());
            url.parse::<NamedStorage>().unwrap()
        });
        let storages = Storages::new(None, archive.as_slice(), folder.path()).unwrap();
        let vods = Vods::new(store.clone(), "default".to_owned(), apps, Arc::new(storages), None);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/LiveApp/streams", listener.local_addr().unwrap());
        let routes: Router = vod::routes(vods);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let client = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
        Self { url, client, store, folder, _tasks: tasks }
    }

    /// A Recording of a file, in that state.
    async fn record(&self, file: &str, storage: &str, state: &str) -> Recording {
        let name = file.split('.').next().unwrap();
        let recording = json!({
            "apiVersion": "tallylight.dev/v1alpha1", "kind": "Recording",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "pool": "default", "streamID": "show", "broadcast": {"name": "show", "uid": "u"}, "session": 1, "epoch": 1,
                "part": 1, "startTime": "2026-03-14T15:09:26Z", "format": "MP4", "fileName": file, "storage": storage,
                "node": "node-1",
            },
        });
        let recording: Recording = serde_json::from_value(recording).unwrap();
        let recording = self.store.create_recording(&recording).await.unwrap();
        self.set(&recording, state).await;
        recording
    }

    async fn set(&self, recording: &Recording, state: &str) {
        let patch: Patch =
            serde_json::from_value(json!([{"op": "replace", "path": "/status/state", "value": state}])).unwrap();
        let uid = recording.metadata.uid.as_deref().unwrap();
        self.store.patch_recording(&Key::of_recording(recording), uid, &patch).await.unwrap();
    }

    fn ask(&self, file: &str) -> RequestBuilder {
        self.client.get(format!("{}/{file}", self.url))
    }

    async fn get(&self, file: &str) -> Response {
        self.ask(file).send().await.unwrap()
    }
}

async fn text(response: Response) -> String {
    response.text().await.unwrap()
}

fn header(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> &str {
    headers.get(name).unwrap().to_str().unwrap()
}

#[tokio::test]
async fn a_file_of_a_folder_is_served_in_ranges_and_under_conditions() {
    let server = Server::new(None).await;
    fs::create_dir(server.folder.path().join("recordings")).unwrap();
    fs::write(server.folder.path().join("recordings/show-1.mp4"), "0123456789").unwrap();
    server.record("show-1.mp4", "local", "Ready").await;

    let whole = server.get("show-1.mp4").await;
    let headers = whole.headers().clone();
    assert_eq!((whole.status(), header(&headers, CONTENT_TYPE)), (StatusCode::OK, "video/mp4"));
    assert_eq!((header(&headers, "access-control-allow-origin"), header(&headers, "accept-ranges")), ("*", "bytes"));
    assert_eq!(text(whole).await, "0123456789");

    let range = server.ask("show-1.mp4").header(RANGE, "bytes=2-4").send().await.unwrap();
    assert_eq!(
        (range.status(), header(range.headers(), "content-range")),
        (StatusCode::PARTIAL_CONTENT, "bytes 2-4/10")
    );
    assert_eq!(text(range).await, "234");
    let beyond = server.ask("show-1.mp4").header(RANGE, "bytes=10-").send().await.unwrap();
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);

    for (condition, value) in [(IF_NONE_MATCH, ETAG), (IF_MODIFIED_SINCE, LAST_MODIFIED)] {
        let known = server.ask("show-1.mp4").header(condition, header(&headers, value)).send().await.unwrap();
        assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    }
    let head = server.client.head(format!("{}/show-1.mp4", server.url)).send().await.unwrap();
    assert_eq!((head.status(), header(head.headers(), "content-length")), (StatusCode::OK, "10"));
    let post = server.client.request(Method::POST, format!("{}/show-1.mp4", server.url)).send().await.unwrap();
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_playlist_and_its_segments_are_served() {
    let server = Server::new(None).await;
    let folder = server.folder.path().join("recordings");
    fs::create_dir_all(folder.join("show-2")).unwrap();
    fs::write(folder.join("show-2.m3u8"), "#EXTM3U").unwrap();
    fs::write(folder.join("show-2/0.mp4"), "segment").unwrap();
    server.record("show-2.m3u8", "local", "Ready").await;

    assert_eq!(text(server.get("show-2.m3u8").await).await, "#EXTM3U");
    assert_eq!(text(server.get("show-2/0.mp4").await).await, "segment");
    let kinds = [("show-2.m3u8", "application/vnd.apple.mpegurl"), ("show-2/0.mp4", "video/mp4")];
    for (name, kind) in kinds {
        assert_eq!(header(server.get(name).await.headers(), "content-type"), kind, "RFC 8216 §4: {name}");
    }
    for missing in ["show-2/1.mp4", "show-3/0.mp4", "show-2/..%2f0.mp4", "show-2/0/0.mp4"] {
        assert_eq!(server.get(missing).await.status(), StatusCode::NOT_FOUND, "{missing}");
    }
}

#[tokio::test]
async fn only_recordings_that_are_ready_are_served_and_no_other_file() {
    let server = Server::new(None).await;
    fs::create_dir(server.folder.path().join("recordings")).unwrap();
    for file in ["growing-1.mp4", "failed-1.mp4", "unknown-1.mp4", "deleted-1.mp4"] {
        fs::write(server.folder.path().join("recordings").join(file), "secret").unwrap();
    }
    server.record("growing-1.mp4", "local", "Recording").await;
    server.record("failed-1.mp4", "local", "Failed").await;
    server.record("elsewhere-1.mp4", "nowhere", "Ready").await;
    let deleted = server.record("deleted-1.mp4", "local", "Ready").await;
    let uid = deleted.metadata.uid.as_deref().unwrap();
    server.store.delete_recording(&Key::of_recording(&deleted), uid).await.unwrap();

    let growing = server.get("growing-1.mp4").await;
    assert_eq!((growing.status(), growing.headers().contains_key(RETRY_AFTER)), (StatusCode::NOT_FOUND, true));
    for file in [
        "failed-1.mp4",
        "unknown-1.mp4",
        "elsewhere-1.mp4",
        "deleted-1.mp4",
        "..%2Fledger.sqlite",
        "%2e%2e/ledger.sqlite",
    ] {
        let answer = server.get(file).await;
        assert_eq!(
            (answer.status(), answer.headers().contains_key(RETRY_AFTER)),
            (StatusCode::NOT_FOUND, false),
            "{file}"
        );
    }
}

#[tokio::test]
async fn players_are_sent_to_the_bucket_by_a_url_that_expires() {
    let mut rig = Rig::new("").await;
    rig.grow(1);
    rig.close();
    rig.uploaded().await;
    let server = Server::new(Some((&rig.s3, rig.folder.path()))).await;
    server.record("show-1.mp4", "archive", "Ready").await;

    let sent = server.get("show-1.mp4").await;
    assert_eq!((sent.status(), header(sent.headers(), "cache-control")), (StatusCode::FOUND, "no-store"));
    let there = server.client.get(header(sent.headers(), LOCATION)).header(RANGE, "bytes=4-7").send().await.unwrap();
    assert_eq!((there.status(), text(there).await), (StatusCode::PARTIAL_CONTENT, "ftyp".to_owned()));

    let bucket = bucket(&rig.s3, &rig.folder, "vods", "");
    let short = bucket.presigned_for("show-1.mp4", Duration::from_secs(1)).await.unwrap();
    tests::wait::until("the URL to expire", crate::growing::PATIENCE, async || {
        let answer = server.client.get(short.clone()).send().await.unwrap().status();
        if answer == StatusCode::FORBIDDEN { Ok(()) } else { Err(answer) }
    })
    .await
    .unwrap();
    assert_eq!(bucket.size("show-1.mp4").await, Ok(Some(fs::metadata(&rig.file).unwrap().len())));
    bucket.delete("show-1.mp4").await.unwrap();
    bucket.delete("show-1.mp4").await.unwrap();
    assert_eq!(bucket.size("show-1.mp4").await, Ok(None));
}

#[tokio::test]
async fn a_playlist_in_a_bucket_is_served_and_its_segments_are_redirected_to() {
    let mut show = Show::new("").await;
    show.grow(3_000);
    show.close();
    show.is_whole().await;
    let server = Server::new(Some((&show.s3, show.keys.path()))).await;
    server.record("show-1.m3u8", "archive", "Ready").await;

    let whole = server.get("show-1.m3u8").await;
    let headers = whole.headers().clone();
    assert_eq!((whole.status(), header(&headers, CONTENT_TYPE)), (StatusCode::OK, "application/vnd.apple.mpegurl"));
    assert_eq!(header(&headers, "access-control-allow-origin"), "*");
    assert!(text(whole).await.ends_with("show-1/segment-1.m4s\n#EXT-X-ENDLIST\n"));
    for (condition, value) in [(IF_NONE_MATCH, ETAG), (IF_MODIFIED_SINCE, LAST_MODIFIED)] {
        let known = server.ask("show-1.m3u8").header(condition, header(&headers, &value)).send().await.unwrap();
        assert_eq!(
            (known.status(), header(known.headers(), value.clone())),
            (StatusCode::NOT_MODIFIED, header(&headers, value))
        );
    }
    let other = server.ask("show-1.m3u8").header(IF_NONE_MATCH, "\"other\"").send().await.unwrap();
    assert_eq!(other.status(), StatusCode::OK);
    let head = server.client.head(format!("{}/show-1.m3u8", server.url)).send().await.unwrap();
    assert_eq!(header(head.headers(), "content-length"), header(&headers, "content-length"));
    let fetched = show.s3.asks().iter().filter(|ask| ask.method == Method::GET).count();
    assert_eq!(fetched, 1, "many players cost the bucket one request");

    let sent = server.get("show-1/segment-1.m4s").await;
    assert_eq!((sent.status(), header(sent.headers(), "cache-control")), (StatusCode::FOUND, "no-store"));
    let there = server.client.get(header(sent.headers(), LOCATION)).send().await.unwrap();
    assert_eq!((there.status(), there.bytes().await.unwrap().len()), (StatusCode::OK, 3_000));

    server.record("gone-1.m3u8", "archive", "Ready").await;
    assert_eq!(server.get("gone-1.m3u8").await.status(), StatusCode::NOT_FOUND);
    server.record("away-1.m3u8", "archive", "Ready").await;
    show.s3.stop().await;
    let away = server.get("away-1.m3u8").await;
    assert_eq!((away.status(), away.headers().contains_key(RETRY_AFTER)), (StatusCode::SERVICE_UNAVAILABLE, true));
}
