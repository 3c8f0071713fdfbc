//! What becomes of sessions when their node stops: how long they last, where they go on, and what receivers and viewers notice.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use serde_json::json;
use tallylight_crds::BroadcastState;
use tests::{http, rtmp, wait};

use crate::{
    cluster::{Cluster, is, node},
    standalone::SOON,
};

#[tokio::test]
async fn a_stopped_node_lets_publishers_go_on_until_its_drain_time_is_over() -> Result<()> {
    let mut cluster = Cluster::new("drain", json!({})).await?;
    let launch = node(&cluster.tenant, &cluster.folder, "media-live-2").await?.args(["--drain-seconds=12"]);
    cluster.node = launch.start().await?;
    cluster.broadcast("show").await?;
    let mut publisher = cluster.ffmpeg("show").await?;
    cluster.receiver.wait_for(1, SOON).await?;

    cluster.node.process.signal(Signal::TERM)?;
    let http = cluster.node.address("http")?;
    wait::until("the node not to be ready", SOON, async || match http::get(http, "/readyz").await {
        Ok(answer) if answer.status == 503 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    let refused = rtmp::publish(&cluster.node.rtmp("LiveApp", "other")?).await?.refused()?;
    let mut viewer = rtmp::play(&cluster.node.rtmp("LiveApp", "show")?).await?.started()?;
    wait::throughout("the node drains", Duration::from_secs(2), async || publisher.process.must_run()).await?;
    let served = viewer.next().await?;
    assert_eq!(cluster.receiver.requests().len(), 1, "it is on air");
    let status = cluster.node.process.wait(SOON).await?;

    assert_eq!(refused, "NetStream.Publish.Failed");
    assert!(served.is_some(), "viewers are served");
    assert!(status.success(), "{status}");
    let ended =
        cluster.tenant.until("show", "to have ended", Duration::from_secs(1), is(BroadcastState::Ended)).await?;
    assert_eq!(ended.status_or_default().session.epoch, 1, "by the node itself");
    let requests = cluster.receiver.wait_for(2, SOON).await?;
    assert_eq!(requests[1].field("reason").as_deref(), Some("NodeShutdown"));
    Ok(())
}

#[tokio::test]
async fn a_stopped_node_exits_when_its_last_publisher_has_left() -> Result<()> {
    let mut cluster = Cluster::new("drain-left", json!({})).await?;
    let launch = node(&cluster.tenant, &cluster.folder, "media-live-2").await?.args(["--drain-seconds=3600"]);
    cluster.node = launch.start().await?;
    cluster.broadcast("show").await?;
    let publisher = cluster.ffmpeg("show").await?;
    cluster.receiver.wait_for(1, SOON).await?;

    cluster.node.process.signal(Signal::TERM)?;
    publisher.stop().await?;
    let status = cluster.node.process.wait(SOON).await?;

    assert!(status.success(), "{status}");
    let requests = cluster.receiver.wait_for(2, SOON).await?;
    assert_eq!(requests[1].field("reason").as_deref(), Some("PublisherClosed"));
    Ok(())
}
