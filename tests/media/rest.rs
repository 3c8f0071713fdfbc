//! One host and port for users: REST at a media node, which passes it on to the operator.

use anyhow::Result;
use reqwest::Method;
use serde_json::json;
use tallylight_crds::BroadcastState;
use tempfile::TempDir;
use tests::{
    http::{self, Answer},
    install::{self, Tenant},
    repository, rtmp,
    service::{Launch, Service},
};

use crate::{
    cluster::{is, node},
    standalone::SOON,
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const BROADCASTS: &str = "/LiveApp/rest/v2/broadcasts";

struct Stage {
    // Dropped in this order: who writes goes first.
    node: Service,
    operator: Service,
    tenant: Tenant,
    _folder: TempDir,
}

impl Stage {
    async fn new(name: &str) -> Result<Self> {
        let (tenant, folder) = (install::tenant(name).await?, repository::folder(name)?);
        tenant.pool(&json!({})).await?;
        let token = folder.path().join("rest-token");
        std::fs::write(&token, TOKEN)?;
        let kubeconfig = tenant.operator_kubeconfig(folder.path()).await?;
        let operator = Launch::operator(folder.path(), &kubeconfig, &tenant.namespace)
            .args([format!("--rest-token-file={}", token.display()).as_str()])
            .start()
            .await?;
        let upstream = format!("--rest-upstream=http://{}", operator.address("rest")?);
        let node = node(&tenant, &folder, "media-live-1").await?;
        let node = node.args(["--public-http-address=127.0.0.1:0", &upstream]).start().await?;
        Ok(Self { node, operator, tenant, _folder: folder })
    }

    async fn ask(&self, token: Option<&str>, method: Method, path: &str, body: Option<&str>) -> Result<Answer> {
        http::request_as(token, method, self.node.address("publicHttp")?, path, body).await
    }

    /// Asks the node and the operator itself.
    async fn ask_both(&self, token: Option<&str>, method: Method, path: &str) -> Result<[(u16, String); 2]> {
        let through = self.ask(token, method.clone(), path, None).await?;
        let direct = http::request_as(token, method, self.operator.address("rest")?, path, None).await?;
        Ok([through, direct].map(|answer| (answer.status, answer.body)))
    }

    async fn forwards(&self, outcome: &str) -> Result<Option<f64>> {
        let scraped = http::get(self.node.address("http")?, "/metrics").await?.body;
        let lines = scraped.lines().filter(|line| line.contains(outcome)).collect::<Vec<_>>().join("\n");
        Ok(http::metric(&lines, "tallylight_rest_forwards_total"))
    }
}

#[tokio::test]
async fn a_broadcast_is_made_looked_at_and_published_at_one_media_node() -> Result<()> {
    let stage = Stage::new("rest-node").await?;

    let created = stage
        .ask(Some(TOKEN), Method::POST, &format!("{BROADCASTS}/create"), Some(r#"{"streamId":"show","name":"Über"}"#))
        .await?;
    let mut publisher = rtmp::publish(&stage.node.rtmp("LiveApp", "show")?).await?.started()?;
    publisher.send_video(0, 1_000).await?;
    stage.tenant.until("show", "to be live", SOON, is(BroadcastState::Live)).await?;
    let live = stage.ask(Some(TOKEN), Method::GET, &format!("{BROADCASTS}/show"), None).await?;
    publisher.finish().await?;

    assert_eq!(created.status, 200, "{}", created.body);
    assert_eq!(created.json()?["name"], "Über");
    assert_eq!(created.json()?["rtmpURL"], "rtmp://127.0.0.1/LiveApp/show", "of the host that was called");
    assert_eq!(live.json()?["status"], "broadcasting", "{}", live.body);
    assert_eq!(stage.forwards("Answered").await?, Some(2.0));
    for log in [stage.node.process.log(), stage.operator.process.log()] {
        assert!(!log.contains(TOKEN), "a log shows the token");
    }
    Ok(())
}

#[tokio::test]
async fn what_the_operator_refuses_is_refused_in_its_words() -> Result<()> {
    let stage = Stage::new("rest-refused").await?;
    let (show, token) = (format!("{BROADCASTS}/show"), Some(TOKEN));
    for (token, method, path, status) in [
        (None, Method::GET, show.as_str(), 401),
        (Some("fedcba9876543210fedcba9876543210"), Method::GET, &show, 401),
        (token, Method::GET, &show, 404),
        (token, Method::PATCH, &show, 405),
        (token, Method::GET, "/LiveApp/rest/v2/nothing", 404),
    ] {
        let [through, direct] = stage.ask_both(token, method.clone(), path).await?;
        assert_eq!(through, direct, "{method} {path}");
        assert_eq!(through.0, status, "{method} {path}");
    }
    Ok(())
}

#[tokio::test]
async fn users_reach_rest_alone_and_it_is_not_where_metrics_are() -> Result<()> {
    let stage = Stage::new("rest-ports").await?;
    let show = format!("{BROADCASTS}/show");

    for path in ["/metrics", "/healthz", "/readyz", "/Other/rest/v2/broadcasts/show"] {
        assert_eq!(stage.ask(Some(TOKEN), Method::GET, path, None).await?.status, 404, "{path}");
    }
    let scraped = http::request_as(Some(TOKEN), Method::GET, stage.node.address("http")?, &show, None).await?;
    let large =
        stage.ask(Some(TOKEN), Method::POST, &format!("{BROADCASTS}/create"), Some(&" ".repeat(70_000))).await?;

    assert_eq!(scraped.status, 404, "{}", scraped.body);
    assert_eq!((large.status, large.json()?["success"].clone()), (413, json!(false)));
    assert_eq!(stage.forwards("Refused").await?, Some(2.0), "another application's, and too large");
    Ok(())
}

#[tokio::test]
async fn without_an_operator_a_media_node_says_that_rest_cannot_be_reached() -> Result<()> {
    let Stage { node, operator, .. } = Stage::new("rest-away").await?;
    operator.stop().await?;

    let show = format!("{BROADCASTS}/show");
    let away = http::request_as(Some(TOKEN), Method::GET, node.address("publicHttp")?, &show, None).await?;

    assert_eq!((away.status, away.json()?["message"].clone()), (502, json!("REST cannot be reached; try again")));
    Ok(())
}
