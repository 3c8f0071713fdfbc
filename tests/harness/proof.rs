//! The parts do what the suites rely on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends here, with the reason")]

use std::{process::Command, time::Duration};

use anyhow::Result;
use reqwest::Method;
use tests::{
    http, media,
    process::Process,
    receiver::{Receiver, Reply},
    repository, wait,
};

const SOON: Duration = Duration::from_secs(20);

fn hook(sequence: u64, action: &str) -> String {
    format!(r#"{{"id":"show","action":"{action}","sequence":{sequence},"eventId":"e{sequence}"}}"#)
}

async fn send(receiver: &Receiver, body: &str) -> Result<u16> {
    let address = receiver.url("").trim_start_matches("http://").trim_end_matches('/').to_owned();
    Ok(http::request(Method::POST, &address, "/hook?a=b", Some(body)).await?.status)
}

#[tokio::test]
async fn the_receiver_records_a_request_to_the_byte() -> Result<()> {
    let receiver = Receiver::start().await?;
    let body = hook(1, "liveStreamStarted");

    let status = send(&receiver, &body).await?;

    let requests = receiver.wait_for(1, SOON).await?;
    assert_eq!(status, 200);
    assert_eq!(requests[0].body, body);
    assert_eq!(requests[0].target, "/hook?a=b");
    assert_eq!(requests[0].header("content-type"), Some("application/json"));
    assert_eq!(requests[0].sequence(), Some(1));
    Ok(())
}

#[tokio::test]
async fn the_receiver_answers_as_it_is_told() -> Result<()> {
    let mut receiver = Receiver::start().await?;
    let body = hook(1, "liveStreamStarted");

    receiver.always(Reply::Status(503));
    assert_eq!(send(&receiver, &body).await?, 503);
    receiver.always(Reply::HangUp);
    assert!(send(&receiver, &body).await.is_err());
    receiver.stop().await;
    assert!(send(&receiver, &body).await.is_err());
    receiver.restart().await?;
    receiver.always(Reply::Delay(Duration::from_millis(1)));
    assert_eq!(send(&receiver, &body).await?, 200);

    assert_eq!(receiver.requests().len(), 3, "the one to the closed port did not come");
    assert_eq!(receiver.accepted().len(), 1);
    receiver.check_promises()
}

#[tokio::test]
async fn broken_promises_are_seen() -> Result<()> {
    for (broken, bodies) in [
        ("a gap", vec![hook(1, "liveStreamStarted"), hook(3, "liveStreamEnded")]),
        ("an end before its start", vec![hook(1, "liveStreamEnded")]),
        ("two starts", vec![hook(1, "liveStreamStarted"), hook(2, "liveStreamStarted")]),
        ("a repeat with another body", vec![hook(1, "liveStreamStarted"), hook(1, "liveStreamEnded")]),
    ] {
        let receiver = Receiver::start().await?;
        for body in &bodies {
            send(&receiver, body).await?;
        }
        assert!(receiver.check_promises().is_err(), "{broken} was not seen");
    }
    Ok(())
}

#[tokio::test]
async fn a_child_is_gone_when_its_handle_is_dropped() -> Result<()> {
    let folder = repository::folder("child")?;
    let mut command = Command::new("sleep");
    command.arg("1000");
    let mut child = Process::spawn("sleep", folder.path(), command)?;
    let id = child.id();
    child.must_run()?;

    drop(child);

    wait::until("the child to be gone", SOON, async || {
        if std::path::Path::new(&format!("/proc/{id}")).exists() { Err("it is there") } else { Ok(()) }
    })
    .await
}

/// Run by the test below in a process of its own, which then aborts.
#[test]
fn a_child_is_gone_when_the_test_process_dies() -> Result<()> {
    const CHILD: &str = "TALLYLIGHT_TEST_ABORTS";
    if let Some(file) = std::env::var_os(CHILD) {
        let folder = repository::folder("abort")?;
        let mut command = Command::new("sleep");
        command.arg("1000");
        let child = Process::spawn("sleep", folder.path(), command)?;
        std::fs::write(file, format!("{}\n{}", child.id(), folder.path().display()))?;
        std::process::abort();
    }
    let folder = repository::folder("aborts")?;
    let file = folder.path().join("left");
    let status = Command::new(std::env::current_exe()?)
        .args(["a_child_is_gone_when_the_test_process_dies", "--exact", "--nocapture"])
        .env(CHILD, &file)
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status()?;
    assert!(!status.success());
    let left = std::fs::read_to_string(&file)?;
    let (id, left) = left.split_once('\n').unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(wait::until("the child and its folder to be gone", SOON, async || {
        // Nobody may be there to reap it: a zombie has ended.
        let runs = std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        if runs || std::path::Path::new(left).exists() { Err(format!("process runs: {runs}")) } else { Ok(()) }
    }))
}

#[tokio::test]
async fn the_clip_is_h264_and_aac() -> Result<()> {
    let folder = repository::folder("play")?;
    let played = media::play_with_ffmpeg(folder.path(), "clip", media::clip().await?.to_str().unwrap()).await?;

    assert_eq!(played.codecs, ["aac", "h264"]);
    assert!(played.frames >= 45, "{played:?}");
    Ok(())
}
