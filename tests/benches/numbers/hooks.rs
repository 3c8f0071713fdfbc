//! From the first media byte to the hook, one publish after the other.

use anyhow::Result;
use serde_json::{Value, json};
use tests::ports;

use crate::{
    api::Cluster,
    load::{self, number},
    say,
    server::{Kind, Server},
};

const COUNT: &str = "300";

pub(crate) async fn measure() -> Result<()> {
    say(&format!(
        "\n### Publish to hook\n\n{COUNT} publishes one after the other; ms\n\n\
         | | first media → start p50 | p99 | publish → start p50 | p99 | close → end p50 | p99 |\n\
         | --- | --- | --- | --- | --- | --- | --- |"
    ));
    for kind in Kind::BOTH {
        let listen = format!("127.0.0.1:{}", ports::free()?);
        let server = Server::start(kind, Some(&format!("http://{listen}/hook"))).await?;
        let report = run(&server.folder, &server.url, &listen, "1").await?;
        row(&format!("{}{}", kind.name(), if kind == Kind::Tallylight { ", SQLite" } else { "" }), &report);
    }
    let cluster = Cluster::start("hooks").await?;
    let listen = format!("127.0.0.1:{}", ports::free()?);
    // a few in turn, as broadcasts come again and again
    const BROADCASTS: usize = 10;
    for index in 0..BROADCASTS {
        let spec = json!({"listenerHookURL": format!("http://{listen}/hook")});
        cluster.tenant.broadcast(&format!("load-{index}"), &spec).await?;
    }
    let report = run(&cluster.folder, &cluster.url()?, &listen, &BROADCASTS.to_string()).await?;
    row("Tallylight, Kubernetes", &report);
    Ok(())
}

async fn run(folder: &tempfile::TempDir, url: &str, listen: &str, streams: &str) -> Result<Value> {
    let arguments = ["hooks", "--url", url, "--listen", listen, "--count", COUNT, "--streams", streams];
    load::run(folder.path(), &arguments).await
}

fn row(name: &str, report: &Value) {
    let mut cells = Vec::new();
    for step in ["first_media_to_start_ms", "publish_to_start_ms", "close_to_end_ms"] {
        for percentile in ["p50", "p99"] {
            let value = number(report, &format!("/{step}/{percentile}"));
            // nginx tells its start before there is media
            cells.push(value.map_or_else(|_| "–".to_owned(), |value| format!("{value:.2}")));
        }
    }
    say(&format!("| {name} | {} |", cells.join(" | ")));
}
