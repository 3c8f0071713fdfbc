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
        "\n### Publish to hook\n\n{COUNT} publishes one after the other; ms from the first media (nginx: from the publish command) \
         to the start's hook, and from the close to the end's\n\n\
         | | start p50 | p90 | p99 | max | end p50 | p90 | p99 | max |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    ));
    for kind in Kind::BOTH {
        let listen = format!("127.0.0.1:{}", ports::free()?);
        let server = Server::start(kind, Some(&format!("http://{listen}/hook"))).await?;
        let report = run(&server.folder, &server.url, &listen, COUNT).await?;
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
    let of_media = report["first_media_to_start_ms"]["count"].as_u64() > Some(0);
    // nginx tells its start before there is media
    for step in [if of_media { "first_media_to_start_ms" } else { "publish_to_start_ms" }, "close_to_end_ms"] {
        for part in ["p50", "p90", "p99", "max"] {
            let value = number(report, &format!("/{step}/{part}"));
            cells.push(value.map_or_else(|_| "–".to_owned(), |value| format!("{value:.2}")));
        }
    }
    say(&format!("| {name} | {} |", cells.join(" | ")));
}
