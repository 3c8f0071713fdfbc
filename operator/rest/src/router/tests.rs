use axum::{body::to_bytes, http::Method};
use ledger::{
    Claim, Input, Owner, SqliteStore, commit,
    conformance::{at, recording_spec},
};
use serde_json::{Value, json};
use tallylight_crds::{
    HOOKS_FINALIZER, MediaPool, MediaPoolSpec, Protocol, Reason, Recording, RecordingMode, RecordingPolicy,
    RecordingSpec,
};
use tower::ServiceExt;

use super::*;
use crate::Token;

struct Server {
    store: SqliteStore,
    router: Router,
    _directory: tempfile::TempDir,
}

struct Got {
    status: StatusCode,
    text: String,
    body: Value,
}

impl Server {
    fn new(access: Access) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&directory.path().join("ledger.db")).unwrap();
        let applications = |app: &str| {
            let pool = match app {
                "LiveApp" => "main",
                "Other" => "other",
                _ => return None,
            };
            let listener_hook_url = Some("http://default.example/hook".to_owned());
            Some(Application { namespace: "default".into(), pool: pool.into(), listener_hook_url })
        };
        let router = router(Config {
            store: store.clone(),
            applications: Box::new(applications),
            rtmp: RtmpAddress { host: None, port: RTMP_PORT },
            access,
        });
        Self { store, router, _directory: directory }
    }

    fn local() -> Self {
        Self::new(Access::LoopbackOnly)
    }

    async fn send(&self, mut request: Request) -> Got {
        let peer: SocketAddr = "127.0.0.1:9".parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        Got { status, text, body }
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Got {
        let request = Request::builder().method(Method::POST).uri(path).header("content-type", "application/json");
        self.send(request.header("host", "localhost:5080").body(body.into()).unwrap()).await
    }

    async fn get(&self, path: &str) -> Got {
        self.send(Request::builder().uri(path).header("host", "localhost:5080").body(Body::empty()).unwrap()).await
    }

    async fn read(&self, name: &str) -> Broadcast {
        let key = Key { namespace: "default".into(), name: name.into() };
        self.store.get(&key).await.unwrap().unwrap()
    }
}

impl Got {
    fn id(&self) -> String {
        self.body["streamId"].as_str().unwrap_or_default().to_owned()
    }

    /// Status and body, a field a line, with date and generated id replaced.
    fn stable(&self) -> String {
        let mut text = self.text.replace(",\"", ",\n\"");
        if let Some(date) = self.body.get("date") {
            text = text.replace(&date.to_string(), "DATE");
        }
        if self.id().len() == 25 {
            text = text.replace(&self.id(), "ID");
        }
        format!("{}\n{text}", self.status)
    }

    fn message(&self) -> (u16, &str) {
        assert_eq!(self.body["success"], json!(false), "{}", self.body);
        (self.status.as_u16(), self.body["message"].as_str().unwrap())
    }
}

#[tokio::test]
async fn what_the_router_itself_refuses_is_answered_in_the_same_form() {
    let server = Server::local();

    let wrong_method = server.get("/LiveApp/rest/v2/broadcasts/create").await;
    let show = server.post("/LiveApp/rest/v2/broadcasts/studio", "{}").await;

    assert_eq!((wrong_method.message().0, show.message().0), (405, 405));
    for path in ["/LiveApp/rest/v2/broadcasts/%ff", "/%ff/rest/v2/broadcasts/a"] {
        let got = server.get(path).await;
        let message = "the path must be UTF-8 after its %-escapes are decoded";
        assert_eq!(got.message(), (400, message), "{path}");
    }
    for path in ["/%ff/rest/broadcast/create", "/%ff/rest/v2/broadcasts/create"] {
        assert_eq!(server.post(path, "{}").await.message().0, 400, "{path}");
    }
}

#[tokio::test]
async fn the_pages_sample_creates_a_broadcast() {
    let server = Server::local();
    let sample = r#"{"name":"test_video", "listenerHookURL":"http://www.example.com/webhook"}"#;

    let got = server.post("/LiveApp/rest/broadcast/create", sample).await;

    insta::assert_snapshot!("created_v1", got.stable());
    let made = server.read(&got.id()).await;
    assert_eq!((made.spec.pool.as_str(), made.spec.name.as_deref()), ("main", Some("test_video")));
    assert_eq!(made.spec.listener_hook_url.as_deref(), Some("http://www.example.com/webhook"));
    assert_eq!(made.metadata.finalizers, Some(vec![HOOKS_FINALIZER.to_owned()]));
    assert_eq!(made.spec.stream_id, None, "a generated id is a name");
}

#[tokio::test]
async fn a_body_is_not_needed_and_the_applications_url_is_shown() {
    let server = Server::local();
    for body in ["", "null", "{}"] {
        let got = server.post("/LiveApp/rest/broadcast/create", body).await;
        assert_eq!(got.status, StatusCode::OK, "{body}");
        assert_eq!(got.body["name"], Value::Null);
        assert_eq!(got.body["listenerHookURL"], "http://default.example/hook");
        assert_eq!(server.read(&got.id()).await.spec.listener_hook_url, None, "it is looked up at delivery");
    }
}

#[tokio::test]
async fn version_1_ignores_an_id_and_version_2_takes_it() {
    let server = Server::local();
    let body = r#"{"streamId":"Studio_1","metaData":"{\"room\":\"7\"}","category":"news"}"#;
    let ignored = server.post("/LiveApp/rest/broadcast/create", body).await;
    assert_ne!(ignored.id(), "Studio_1");

    let got = server.post("/LiveApp/rest/v2/broadcasts/create?autoStart=false", body).await;

    insta::assert_snapshot!("created_v2", got.stable());
    let id = StreamId::parse("Studio_1").unwrap();
    let made = server.store.get(&Key::of_stream("default", &id)).await.unwrap().unwrap();
    assert!(made.carries(&id));
    let again = server.post("/LiveApp/rest/v2/broadcasts/create", body).await;
    let taken = "Stream id is already being used. Please change stream id or keep it empty";
    assert_eq!(again.message(), (400, taken));
}

#[tokio::test]
async fn a_broadcast_is_shown_through_its_life() {
    let server = Server::local();
    let body = r#"{"streamId":"studio"}"#;
    let made = server.post("/LiveApp/rest/v2/broadcasts/create", body).await;
    let path = "/LiveApp/rest/v2/broadcasts/studio";
    assert_eq!(made.body["status"], "created");
    assert_eq!(server.get(path).await.body, made.body, "it is shown as it was created");
    let (start, end) = ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-01T00:01:00Z".parse().unwrap());
    let address = Some("10.0.0.7".to_owned());
    let claim = Claim { id: "c".into(), node: "n".into(), address, protocol: Protocol::Rtmp, time: start };
    commit(&server.store, &server.read("studio").await, &Input::Claim(claim)).await.unwrap();
    let live = server.get(path).await.body;
    assert_eq!((&live["status"], &live["publishType"]), (&json!("broadcasting"), &json!("RTMP")));
    let broadcast = server.read("studio").await;
    let owner = Owner::of(&broadcast.status.as_ref().unwrap().session);
    let end = Input::End { owner, reason: Reason::PublisherClosed, time: end };
    commit(&server.store, &broadcast, &end).await.unwrap();
    insta::assert_snapshot!("finished", server.get(path).await.stable());
}

#[tokio::test]
async fn what_is_not_there_is_a_404() {
    let server = Server::local();
    server.post("/LiveApp/rest/v2/broadcasts/create", r#"{"streamId":"studio"}"#).await;
    for path in
        ["/LiveApp/rest/v2/broadcasts/nobody", "/LiveApp/rest/v2/broadcasts/a%20b", "/Other/rest/v2/broadcasts/studio"]
    {
        let got = server.get(path).await;
        assert_eq!((got.status, got.body), (StatusCode::NOT_FOUND, Value::Null), "{path}");
    }
    for got in [
        server.get("/Nowhere/rest/v2/broadcasts/studio").await,
        server.post("/Nowhere/rest/broadcast/create", "{}").await,
        server.get("/LiveApp/rest/v2/playlists/studio").await,
    ] {
        assert_eq!(got.message().0, 404);
    }
}

#[tokio::test]
async fn a_mistake_is_a_400_that_names_its_field() {
    let server = Server::local();
    for (body, message) in [
        (r#"{"name":7}"#, "name must be a string"),
        (r#"{"listenerHookURL":"ftp://h/"}"#, "listenerHookURL must have scheme http or https"),
        (r#"{"listenerHookURL":"www.example.com"}"#, "listenerHookURL must be an absolute URL"),
        (
            r#"{"streamId":"a b"}"#,
            "Stream id is not valid. It must be 1 to 253 characters of A-Z, a-z, 0-9, '_', '.' and '-'",
        ),
        ("{", "the body is not JSON: line 1, column 1"),
    ] {
        assert_eq!(server.post("/LiveApp/rest/v2/broadcasts/create", body).await.message(), (400, message));
    }
    let user = r#"{"listenerHookURL":"https://u:s3cret@h/"}"#;
    let refused = server.post("/LiveApp/rest/broadcast/create", user).await;
    assert!(refused.message().1.starts_with("listenerHookURL must not contain a user name"));
    assert!(!refused.body.to_string().contains("s3cret"));
}

#[tokio::test]
async fn a_body_that_is_too_large_or_no_json_is_refused() {
    let server = Server::local();
    let large = server.post("/LiveApp/rest/broadcast/create", vec![b' '; crate::result::MAX_BODY + 1]).await;
    assert_eq!(large.message().0, 413);
    let request = Request::post("/LiveApp/rest/broadcast/create").header("content-type", "text/plain");
    assert_eq!(server.send(request.body("{}".into()).unwrap()).await.message().0, 415);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_a_503() {
    let server = Server::local();
    server.store.close().await;
    assert_eq!(server.get("/LiveApp/rest/v2/broadcasts/x").await.message().0, 503);
    assert_eq!(server.post("/LiveApp/rest/broadcast/create", "{}").await.message().0, 503);
}

#[tokio::test]
async fn who_may_not_call_is_told_what_to_do() {
    let server = Server::new(Access::Tokens(vec![Token::new("0123456789abcdef").unwrap()]));
    let got = server.get("/LiveApp/rest/v2/broadcasts/x").await;
    assert_eq!(got.message(), (401, "the request must carry the REST token: Authorization: Bearer TOKEN"));
    let request = Request::get("/LiveApp/rest/v2/broadcasts/x").header("authorization", "Bearer 0123456789abcdef");
    assert_eq!(server.send(request.body(Body::empty()).unwrap()).await.status, StatusCode::NOT_FOUND);

    let local = Server::local();
    let mut request = Request::get("/LiveApp/rest/v2/broadcasts/x").body(Body::empty()).unwrap();
    let peer: SocketAddr = "192.0.2.1:9".parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(peer));
    assert_eq!(local.router.oneshot(request).await.unwrap().status(), StatusCode::FORBIDDEN);
}

#[test]
fn an_rtmp_url_names_the_host_that_was_called_unless_one_is_configured() {
    let seen = |host: Option<&str>, port, called: &'static str| {
        let headers = [(header::HOST, HeaderValue::from_static(called))].into_iter().collect();
        RtmpAddress { host: host.map(Into::into), port }.as_seen_by(&headers)
    };
    assert_eq!(seen(None, 1935, "media.example:5080"), "media.example");
    assert_eq!(seen(None, 21935, "[::1]:5080"), "[::1]:21935");
    assert_eq!(seen(Some("live.example"), 1935, "media.example"), "live.example");
    assert_eq!(seen(None, 1935, "not a host"), "localhost");
}

#[test]
fn ids_are_random_dns_labels() {
    let (a, b) = (new_stream_id(), new_stream_id());
    assert_ne!(a, b);
    let id = StreamId::parse(&a).unwrap();
    assert_eq!((tallylight_crds::object_name(&id), a.len()), (a, 25));
}

/// A recording of `studio`, as a media node leaves it.
async fn recorded(server: &Server, part: i64, pool: &str) -> Recording {
    let broadcast = server.read("studio").await;
    let spec = RecordingSpec {
        pool: pool.into(),
        start_time: at(part),
        file_name: format!("studio-20270115-080000-{part}.mp4"),
        ..recording_spec(&broadcast, part, "standalone")
    };
    let begun = server.store.create_recording(&Recording::begun("default", spec)).await.unwrap();
    let ready = json!([
        {"op": "replace", "path": "/status/state", "value": "Ready"},
        {"op": "add", "path": "/status/endTime", "value": "2027-01-15T08:01:01Z"},
        {"op": "add", "path": "/status/durationMilliseconds", "value": 61_250},
        {"op": "add", "path": "/status/bytes", "value": 1_234_567},
        {"op": "add", "path": "/status/location", "value": "file:///recordings/x.mp4"},
    ]);
    let uid = begun.metadata.uid.clone().unwrap();
    let patch = serde_json::from_value(ready).unwrap();
    server.store.patch_recording(&Key::of_recording(&begun), &uid, &patch).await.unwrap()
}

fn id(recording: &Recording) -> &str {
    recording.metadata.name.as_deref().unwrap()
}

impl Server {
    async fn ask(&self, method: Method, path: &str) -> Got {
        let request = Request::builder().method(method).uri(path).header("host", "localhost:5080");
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// With `studio`, and a pool that records like this.
    async fn recording(mode: RecordingMode) -> Self {
        let server = Self::local();
        let recording = Some(RecordingPolicy { mode: Some(mode), ..RecordingPolicy::default() });
        let mut pool = MediaPool::new("main", MediaPoolSpec { recording, ..MediaPoolSpec::default() });
        pool.metadata.namespace = Some("default".into());
        server.store.set_pools([pool]);
        server.post("/LiveApp/rest/v2/broadcasts/create", r#"{"streamId":"studio"}"#).await;
        server
    }
}

#[tokio::test]
async fn a_recording_is_shown_as_a_vod() {
    let server = Server::recording(RecordingMode::On).await;
    let vod = recorded(&server, 1, "main").await;

    let got = server.get(&format!("/LiveApp/rest/v2/vods/{}", id(&vod))).await;

    let date = got.body["creationDate"].to_string();
    let text = got.text.replace(",\"", ",\n\"").replace(&date, "DATE").replace(id(&vod), "ID");
    insta::assert_snapshot!("vod", format!("{}\n{text}", got.status));
    for unknown in ["nobody", "a%2Fb", "Studio", "..%2fbroadcasts"] {
        let got = server.get(&format!("/LiveApp/rest/v2/vods/{unknown}")).await;
        assert_eq!((got.status, got.text.as_str()), (StatusCode::NOT_FOUND, ""), "{unknown}");
    }
    assert_eq!(server.get(&format!("/Other/rest/v2/vods/{}", id(&vod))).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn vods_are_listed_page_by_page_the_oldest_first_and_never_more_than_fifty() {
    let server = Server::recording(RecordingMode::On).await;
    for part in (1..=55).rev() {
        recorded(&server, part, if part == 55 { "other" } else { "main" }).await;
    }
    let list = async |path: &str| {
        let got = server.get(&format!("/LiveApp/rest/v2/vods/list/{path}")).await;
        let vods = got.body.as_array().unwrap_or_else(|| panic!("{}", got.text)).clone();
        vods.iter().map(|vod| vod["vodName"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };

    let first = list("0/50").await;
    assert_eq!((first.len(), first[0].as_str()), (50, "studio-20270115-080000-1.mp4"));
    assert_eq!(list("0/9999").await.len(), 50);
    assert_eq!(list("50/50").await.len(), 4, "another application's is not there");
    assert_eq!(list("0/50?streamId=studio").await.len(), 50);
    assert!(list("0/50?streamId=other").await.is_empty() && list("0/50?streamId=a%2Fb").await.is_empty());
    assert_eq!(server.get("/LiveApp/rest/v2/vods/count").await.body, json!({"number": 54}));
    assert_eq!(server.get("/LiveApp/rest/v2/vods/list/0/-1").await.message().0, 400);
    assert_eq!(
        list("0/2?sort_by=date&order_by=desc").await,
        ["studio-20270115-080000-54.mp4", "studio-20270115-080000-53.mp4"]
    );
    assert_eq!(
        list("0/2?sort_by=name&order_by=asc").await,
        ["studio-20270115-080000-1.mp4", "studio-20270115-080000-10.mp4"]
    );
    assert_eq!(list("0/50?sort_by=&order_by=&search=&streamId=").await, first, "as without them");
    assert_eq!(list("0/50?search=STUDIO-20270115-080000-5").await.len(), 6);
    assert_eq!(server.get("/LiveApp/rest/v2/vods/count/080000-5").await.body, json!({"number": 6}));
    assert_eq!(server.get("/LiveApp/rest/v2/vods/count/nothing").await.body, json!({"number": 0}));
    assert!(server.get("/LiveApp/rest/v2/vods/list/0/5?sort_by=size").await.message().1.contains("sort_by"));
}

#[tokio::test]
async fn vods_are_deleted_together() {
    let server = Server::recording(RecordingMode::On).await;
    let (one, two, other) =
        (recorded(&server, 1, "main").await, recorded(&server, 2, "main").await, recorded(&server, 3, "other").await);
    let delete = async |query: String| server.ask(Method::DELETE, &format!("/LiveApp/rest/v2/vods{query}")).await;

    let deleted = delete(format!("?ids={},{}", id(&one), id(&other))).await;
    assert_eq!(deleted.message(), (200, "1 of 2 ids are of no VoD; the others are deleted"));
    assert_eq!(delete(format!("/?ids={}", id(&two))).await.body["success"], json!(true));
    assert_eq!(server.get("/LiveApp/rest/v2/vods/count").await.body, json!({"number": 0}));
    assert!(!server.store.recording(&Key::of_recording(&other)).await.unwrap().unwrap().is_leaving());
    for wrong in [String::new(), "?ids=".into(), format!("?ids={}", "x,".repeat(51))] {
        assert_eq!(delete(wrong).await.message().0, 400);
    }
}

#[tokio::test]
async fn a_vod_is_deleted_once_and_by_its_own_application() {
    let server = Server::recording(RecordingMode::On).await;
    let vod = recorded(&server, 1, "main").await;
    let path = |app: &str| format!("/{app}/rest/v2/vods/{}", id(&vod));

    assert_eq!(server.ask(Method::DELETE, &path("Other")).await.message(), (200, "no VoD has that id"));
    let deleted = server.ask(Method::DELETE, &path("LiveApp")).await;
    assert_eq!((deleted.status, &deleted.body["success"]), (StatusCode::OK, &json!(true)));
    assert!(server.store.recording(&Key::of_recording(&vod)).await.unwrap().unwrap().is_leaving());
    assert_eq!(server.ask(Method::DELETE, &path("LiveApp")).await.message().0, 200, "it is gone for REST");
}

#[tokio::test]
async fn recording_is_asked_for_where_it_is_on_demand() {
    let server = Server::recording(RecordingMode::OnDemand).await;
    let put = async |path: &str| server.ask(Method::PUT, &format!("/LiveApp/rest/v2/broadcasts/{path}")).await;

    insta::assert_snapshot!("recording_asked_for", put("studio/recording/true?recordType=mp4").await.stable());
    assert!(server.read("studio").await.is_asked_to_record());
    assert_eq!(put("studio/recording/false").await.body["success"], json!(true));
    assert!(!server.read("studio").await.is_asked_to_record());

    assert_eq!(put("studio/recording/true?recordType=webm").await.message().0, 200);
    assert_eq!(put("nobody/recording/true").await.message(), (200, "no broadcast has that id"));
    assert_eq!(put("studio/recording/maybe").await.message().0, 404);
    for mode in [RecordingMode::Off, RecordingMode::On] {
        let server = Server::recording(mode).await;
        let got = server.ask(Method::PUT, "/LiveApp/rest/v2/broadcasts/studio/recording/true").await;
        assert!(got.message().1.contains("OnDemand"), "{}", got.text);
    }
}
