//! Streams and viewers per core, and memory per stream: rounds of nginx and ours in turn.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{
    load::{self, number},
    machine, say,
    server::{Kind, Server},
    spread::Spread,
};

/// Enough for a median and a spread; each round is about half a minute a server.
const ROUNDS: usize = 3;
const SECONDS: &str = "15";
const STREAMS: usize = 600;
const VIEWERS: usize = 1500;
/// Above this the server has no time left, and what it costs is no reading any more.
const BUSY: f64 = 0.9;

/// A load, and what is asked about it.
struct Case {
    title: &'static str,
    unit: &'static str,
    publishers: usize,
    players: usize,
    chunk_size: usize,
}

pub(crate) async fn ingest() -> Result<()> {
    for (title, chunk_size) in
        [("RTMP ingest, chunks of 4096 bytes (OBS)", 4096), ("RTMP ingest, chunks of 128 bytes (ffmpeg)", 128)]
    {
        compare(&Case { title, unit: "streams", publishers: STREAMS, players: 0, chunk_size }).await?;
    }
    Ok(())
}

pub(crate) async fn play() -> Result<()> {
    for (title, publishers) in [("RTMP play, viewers of one stream", 1), ("RTMP play, viewers of five streams", 5)] {
        compare(&Case { title, unit: "viewers", publishers, players: VIEWERS, chunk_size: 4096 }).await?;
    }
    Ok(())
}

async fn compare(case: &Case) -> Result<()> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let [nginx, ours] = [measure(Kind::Nginx, case).await?, measure(Kind::Tallylight, case).await?];
        rounds.push([nginx, ours]);
    }
    let count = if case.players > 0 { case.players } else { case.publishers };
    let per_core = |report: &Value| number(report, "/server_cores").map(|cores| count as f64 / cores);
    say(&format!(
        "\n### {}\n\n{} publishers, {} viewers, {ROUNDS} rounds in turn, {SECONDS} s each; median (least–greatest)\n\n\
         | | {} per core | core % | MiB | lag ms p50 | p99 | Mbit/s sent | received | load client % |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        case.title, case.publishers, case.players, case.unit
    ));
    for (index, kind) in Kind::BOTH.into_iter().enumerate() {
        let of =
            |value: &dyn Fn(&Value) -> f64| Spread::of(rounds.iter().filter_map(|round| round.get(index)).map(value));
        let field = |pointer: &'static str, factor: f64| {
            of(&|report| number(report, pointer).map_or(f64::NAN, |value| value * factor))
        };
        say(&format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            kind.name(),
            of(&|report| per_core(report).unwrap_or(f64::NAN)),
            field("/server_cores", 100.0),
            field("/server_resident_kib", 1.0 / 1024.0),
            field("/received/lag_ms/p50", 1.0),
            field("/received/lag_ms/p99", 1.0),
            field("/sent/bits_per_second", 1e-6),
            field("/received/bits_per_second", 1e-6),
            field("/client_cores", 100.0),
        ));
    }
    let mut ratios = Vec::new();
    for [nginx, ours] in &rounds {
        ratios.push(per_core(ours)? / per_core(nginx)?);
    }
    say(&format!("\nRatio of each round: {}", Spread::of(ratios)));
    Ok(())
}

async fn measure(kind: Kind, case: &Case) -> Result<Value> {
    machine::keep_to_core(0)?;
    let server = Server::start(kind, None).await?;
    machine::use_all_cores()?;
    let [publishers, players, chunk_size] =
        [case.publishers, case.players, case.chunk_size].map(|number| number.to_string());
    let report = load::run(
        server.folder.path(),
        &[
            "load",
            "--url",
            &server.url,
            "--pid",
            &server.pid(),
            "--seconds",
            SECONDS,
            "--publishers",
            &publishers,
            "--players",
            &players,
            "--chunk-size",
            &chunk_size,
        ],
    )
    .await?;
    ensure!(number(&report, "/server_cores")? < BUSY, "{} is overloaded: {report}", kind.name());
    // a server that falls behind looks cheap
    let expected = number(&report, "/sent/bits_per_second")? * case.players as f64 / case.publishers as f64;
    let received = number(&report, "/received/bits_per_second")?;
    ensure!(received >= expected * 0.97, "{} lost media: {report}", kind.name());
    Ok(report)
}

/// The slope between N and 2N publishers that nobody watches.
pub(crate) async fn memory() -> Result<()> {
    const STEPS: [usize; 2] = [300, 600];
    say(
        "\n### Memory per RTMP ingest that nobody watches\n\n| | MiB at 300 | MiB at 600 | MB per stream |\n| --- | --- | --- | --- |",
    );
    for kind in Kind::BOTH {
        let mut resident = Vec::new();
        for publishers in STEPS {
            let case = Case { title: "", unit: "", publishers, players: 0, chunk_size: 4096 };
            resident.push(number(&measure(kind, &case).await?, "/server_resident_kib")?);
        }
        let [least, most] = [resident.first(), resident.last()].map(|value| value.copied().unwrap_or(f64::NAN));
        let slope = (most - least) * 1024.0 / 1e6 / (STEPS[1] - STEPS[0]) as f64;
        say(&format!("| {} | {:.1} | {:.1} | {slope:.3} |", kind.name(), least / 1024.0, most / 1024.0));
    }
    Ok(())
}
