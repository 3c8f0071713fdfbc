//! Recordings of a server whose storage is a bucket: where they are, when the hook says so, and how a player gets them.

use std::fs;

use anyhow::Result;
use reqwest::{Client, StatusCode, redirect};
use tests::{
    http,
    media::Publisher,
    probe,
    receiver::Request,
    s3::{KEY_ID, S3, SECRET},
    wait,
};

use crate::standalone::{SOON, Standalone};

const CLIP: [&str; 4] = [
    "-f lavfi -i testsrc2=size=320x180:rate=25",
    "-t 4",
    "-pix_fmt yuv420p -c:v libx264 -preset ultrafast -g 25",
    "-an",
];

#[tokio::test]
async fn a_recording_is_told_of_when_its_bucket_has_it_and_players_are_sent_there() -> Result<()> {
    let s3 = S3::start(&[]).await?;
    let keys = tempfile::tempdir()?;
    fs::write(keys.path().join("access-key-id"), KEY_ID)?;
    fs::write(keys.path().join("secret-access-key"), SECRET)?;
    let url = format!("--storage-url=s3://vods/live?endpoint={}&credentials-dir={}", s3.url(), keys.path().display());
    let server = Standalone::with("record-s3", &["--recording=On", "--recording-name=show", &url]).await?;
    let mut publisher = Publisher::encoding(server.folder.path(), "publisher", &server.rtmp("show"), &CLIP)?;
    publisher.process.wait(SOON).await?;
    let page = format!("http://{}/LiveApp/streams/show.mp4", server.service.address("http")?);
    let client = Client::builder().redirect(redirect::Policy::none()).build()?;
    wait::until("the upload to wait for its bucket", SOON, async || {
        if server.service.process.log().contains("BucketMissing") { Ok(()) } else { Err(server.service.process.log()) }
    })
    .await?;
    assert_eq!(client.get(&page).send().await?.status(), StatusCode::NOT_FOUND, "it cannot be fetched yet");
    assert!(!server.receiver.accepted().iter().any(|request| request.action() == "vodReady"), "so nobody is told");

    s3.make_bucket("vods")?;
    wait::until("vodReady", SOON * 2, async || {
        let seen = server.receiver.accepted();
        let is_told = seen.iter().any(|request| request.action() == "vodReady");
        if is_told { Ok(()) } else { Err(format!("{:?}", seen.iter().map(Request::action).collect::<Vec<_>>())) }
    })
    .await?;

    probe::decodes(&s3.file("vods", "live/show.mp4"))?;
    let sent = client.get(&page).send().await?;
    assert_eq!(sent.status(), StatusCode::FOUND);
    let there = client.get(sent.headers()["location"].to_str()?).send().await?;
    assert_eq!(there.status(), StatusCode::OK);
    let spool = server.folder.path().join("data/uploads/default/show.mp4");
    wait::until("the node to let go of its copy", SOON, async || if spool.exists() { Err("there") } else { Ok(()) })
        .await?;

    let vods = http::get(server.service.address("http")?, "/LiveApp/rest/v2/vods/list/0/50").await?.json()?;
    let id = vods[0]["vodId"].as_str().unwrap_or_default().to_owned();
    client.delete(format!("http://{}/LiveApp/rest/v2/vods/{id}", server.service.address("http")?)).send().await?;
    wait::until("the object to be deleted", SOON, async || {
        if s3.file("vods", "live/show.mp4").exists() { Err(server.service.process.log()) } else { Ok(()) }
    })
    .await?;
    server.receiver.check_promises()
}
