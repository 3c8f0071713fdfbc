//! Whoever connects: probes, garbage, slowness and floods cost bounded memory, no spinning, and no event.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::{service::Service, wait};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::standalone::{SOON, Standalone};

/// Connections at once that have said nothing.
const HALF_OPEN: usize = 10_000;
/// Kilobytes that one of them may cost the server: a socket's task and buffers that are not filled.
const KILOBYTES_EACH: u64 = 16;

#[tokio::test]
async fn probes_and_garbage_are_closed_and_make_no_event() -> Result<()> {
    let server = Standalone::new("garbage").await?;
    let address = server.service.address("rtmp")?.to_owned();

    for bytes in
        [&b""[..], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &[0xff; 4096], &[3; 1537 + 1536 + 4096], &[0; 100_000]]
    {
        let mut stream = TcpStream::connect(&address).await?;
        // The server may leave first.
        drop(stream.write_all(bytes).await);
        drop(stream.shutdown().await);
        let mut answer = Vec::new();
        drop(tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.context("it is left open")?);
    }

    let mut client = server.publish("show").await?;
    client.send_video(0, 1_000).await?;
    server.receiver.wait_for(1, SOON).await?;
    assert_eq!(server.receiver.requests().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_client_that_sends_a_byte_a_second_is_let_go() -> Result<()> {
    let server = Standalone::new("slow").await?;
    let mut stream = TcpStream::connect(server.service.address("rtmp")?).await?;
    let mut second = tokio::time::interval(Duration::from_secs(1));

    let left = tokio::time::timeout(Duration::from_secs(120), async {
        loop {
            second.tick().await;
            if stream.write_all(&[3]).await.is_err() || matches!(stream.try_read(&mut [0; 64]), Ok(0)) {
                return;
            }
        }
    });

    left.await.context("it may stay for ever")?;
    Ok(())
}

#[tokio::test]
async fn ten_thousand_half_open_connections_are_borne() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let server = Standalone::new("half-open").await?;
    let address = server.service.address("rtmp")?.to_owned();
    let before = resident_kilobytes(&server.service)?;

    let mut connections = Vec::new();
    for _ in 0..HALF_OPEN {
        connections.push(TcpStream::connect(&address).await?);
    }
    let mut client = server.publish("show").await?;
    client.send_video(0, 1_000).await?;
    server.receiver.wait_for(1, SOON).await?;

    let grown = resident_kilobytes(&server.service)?.saturating_sub(before);
    let bound = KILOBYTES_EACH * u64::try_from(HALF_OPEN)?;
    assert!(grown < bound, "{grown} kB for {HALF_OPEN} connections");
    let begin = cpu_ticks(&server.service)?;
    wait::throughout("they are open", Duration::from_secs(2), async || Ok(())).await?;
    let spent = cpu_ticks(&server.service)? - begin;
    assert!(spent < 100, "half a core is spent on connections that say nothing: {spent} ticks in 2 s");
    drop(connections);
    Ok(())
}

fn resident_kilobytes(service: &Service) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", service.process.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Hundredths of a second that the process has run, in user and kernel.
fn cpu_ticks(service: &Service) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", service.process.id()))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().context("no stat")?.split(' ').collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}
