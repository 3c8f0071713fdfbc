//! What a server on a laptop does for its user: streams in, streams out, hooks, REST, files.

use std::{fs, time::Duration};

use anyhow::Result;
use serde_json::json;
use tests::{
    http,
    media::{self, Publisher},
    receiver::Receiver,
    repository,
    service::Launch,
};

use crate::standalone::{SOON, Standalone};

/// The JSON of the Postman sample on Ant Media's page, with the receiver's URL in place of its example.
fn page_json(url: &str) -> String {
    format!(r#"{{"name":"test_video", "listenerHookURL":"{url}"}}"#)
}

#[tokio::test]
async fn a_stream_from_ffmpeg_starts_and_ends_a_broadcast() -> Result<()> {
    let server = Standalone::new("ffmpeg").await?;

    let publisher = server.ffmpeg("show").await?;
    let started = server.receiver.wait_for(1, SOON).await?;
    let address = server.service.address("http")?.to_owned();
    let live = http::get(&address, "/LiveApp/rest/v2/broadcasts/show").await?.json()?;
    publisher.stop().await?;
    let requests = server.receiver.wait_for(2, SOON).await?;

    assert_eq!(started[0].action(), "liveStreamStarted");
    assert_eq!(live["status"], "broadcasting");
    assert_eq!(requests[1].action(), "liveStreamEnded");
    assert_eq!(requests[1].field("reason").as_deref(), Some("PublisherClosed"));
    assert_eq!(server.receiver.requests().len(), 2, "each is sent once");
    server.receiver.check_promises()
}

#[tokio::test]
async fn a_stream_from_gstreamer_starts_and_ends_a_broadcast() -> Result<()> {
    let server = Standalone::new("gstreamer").await?;

    let publisher = Publisher::gstreamer(server.folder.path(), "publisher", &server.rtmp("show"))?;
    server.receiver.wait_for(1, SOON).await?;
    publisher.stop().await?;
    let requests = server.receiver.wait_for(2, SOON).await?;

    assert_eq!(requests[1].field("reason").as_deref(), Some("PublisherClosed"));
    server.receiver.check_promises()
}

#[tokio::test]
async fn what_is_published_is_played_by_ffmpeg_and_gstreamer() -> Result<()> {
    let server = Standalone::new("play").await?;
    let _publisher = server.ffmpeg("show").await?;
    server.receiver.wait_for(1, SOON).await?;
    let (folder, url) = (server.folder.path(), server.rtmp("show"));

    let (ffmpeg, gstreamer) = tokio::try_join!(
        media::play_with_ffmpeg(folder, "player-ffmpeg", &url),
        media::play_with_gstreamer(folder, "player-gstreamer", &url),
    )?;

    for played in [ffmpeg, gstreamer] {
        assert_eq!(played.codecs, ["aac", "h264"]);
        assert!(played.frames >= 40, "{played:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_broadcast_made_by_the_pages_json_sends_its_hooks_to_its_url() -> Result<()> {
    let server = Standalone::new("rest").await?;
    let own = Receiver::start().await?;
    let address = server.service.address("http")?.to_owned();

    let created = http::post(&address, "/LiveApp/rest/broadcast/create", &page_json(&own.url("own"))).await?;
    let broadcast = created.json()?;
    let id = broadcast["streamId"].as_str().unwrap().to_owned();
    let publisher = server.ffmpeg(&id).await?;
    own.wait_for(1, SOON).await?;
    publisher.stop().await?;
    let requests = own.wait_for(2, SOON).await?;

    assert_eq!(created.status, 200);
    assert_eq!(broadcast["status"], "created");
    assert!(broadcast["rtmpURL"].as_str().unwrap().ends_with(&format!("/LiveApp/{id}")), "{broadcast}");
    assert_eq!(requests[0].field("id").as_deref(), Some(id.as_str()));
    assert_eq!(requests[0].field("streamName").as_deref(), Some("test_video"));
    assert!(server.receiver.requests().is_empty(), "the default is not used");
    own.check_promises()
}

#[tokio::test]
async fn a_broadcast_without_a_url_uses_the_applications() -> Result<()> {
    let server = Standalone::new("rest-default").await?;
    let address = server.service.address("http")?.to_owned();

    let created = http::post(&address, "/LiveApp/rest/broadcast/create", r#"{"name":"test_video"}"#).await?.json()?;
    let id = created["streamId"].as_str().unwrap().to_owned();
    server.ffmpeg(&id).await?.stop_after(&server.receiver, 1).await?;

    let requests = server.receiver.wait_for(2, SOON).await?;
    assert_eq!(requests[0].field("id"), Some(id));
    Ok(())
}

#[tokio::test]
async fn broadcasts_in_files_are_read_and_watched() -> Result<()> {
    let folder = repository::folder("manifests")?;
    let manifests = folder.path().join("manifests");
    fs::create_dir(&manifests)?;
    let broadcast = |name: &str, url: &str| {
        json!({
            "apiVersion": "tallylight.dev/v1alpha1", "kind": "Broadcast", "metadata": {"name": name},
            "spec": {"pool": "default", "listenerHookURL": url},
        })
        .to_string()
    };
    let (first, second) = (Receiver::start().await?, Receiver::start().await?);
    fs::write(manifests.join("first.yaml"), broadcast("first", &first.url("hook")))?;
    let service = Launch::standalone(folder.path())
        .args(["--admission=RegisteredOnly", &format!("--manifests={}", manifests.display())])
        .start()
        .await?;

    fs::write(manifests.join("second.yaml"), broadcast("second", &second.url("hook")))?;
    let publishers = [("first", &first), ("second", &second)];
    for (name, receiver) in publishers {
        let url = service.rtmp("LiveApp", name)?;
        let publisher = tests::wait::until(format!("{name} to be taken"), SOON, async || {
            tests::rtmp::publish(&url).await.and_then(tests::rtmp::Answer::started).map(drop)
        });
        publisher.await?;
        let publisher = Publisher::ffmpeg(folder.path(), name, &url).await?;
        receiver.wait_for(1, SOON).await?;
        publisher.stop().await?;
        receiver.wait_for(2, SOON).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_receiver_that_was_down_for_ten_streams_gets_all_in_order() -> Result<()> {
    let mut server = Standalone::new("down").await?;
    server.receiver.stop().await;
    for number in 0..10 {
        let mut client = server.publish("show").await?;
        client.send_video(0, 1_000).await?;
        server.until_status("show", "broadcasting").await?;
        client.finish().await?;
        server.until_status("show", "finished").await?;
        assert!(server.receiver.requests().is_empty(), "stream {number}");
    }

    server.receiver.restart().await?;

    server.receiver.wait_for(20, Duration::from_secs(90)).await?;
    assert_eq!(server.receiver.requests().len(), 20, "nothing is sent twice");
    server.receiver.check_promises()
}

#[tokio::test]
async fn the_demo_shows_its_own_hooks() -> Result<()> {
    let folder = repository::folder("demo")?;
    let mut demo = Launch::standalone(folder.path()).args(["--demo"]).start().await?;

    tests::wait::until("a hook to be printed", SOON, async || {
        let log = demo.process.log();
        if log.contains("liveStreamStarted") { Ok(()) } else { Err(log) }
    })
    .await?;
    assert!(demo.process.stop(SOON).await?.success());
    Ok(())
}
