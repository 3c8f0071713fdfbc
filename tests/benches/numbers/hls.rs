//! What LL-HLS costs: segments beside nginx, reloads of a playlist, thousands of players that wait for one part, and the memory
//! of a window.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tests::{http, ports, process::Process, repository, service::Service, wait};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::{JoinSet, yield_now},
    time::{Instant, timeout},
};

use crate::{load::HD_CLIP, machine, say, server::streaming, spread::Spread};

const ROUNDS: usize = 3;
/// How long one load lasts, in seconds.
const SECONDS: u64 = 10;
/// A segment that is asked for again and again is in the window for longer than a load lasts.
const LONG_WINDOW: &str = "--hls-window-seconds=120";
const PLAYERS: usize = 2_000;
/// Parts for which the players wait, after some in which they come into step.
const PARTS: usize = 30;
const FIRST_PARTS: usize = 5;
const SOON: Duration = Duration::from_secs(60);
/// A part, and 50 ms in which all players have it.
const AN_ANSWER: Duration = Duration::from_millis(350);
const MEDIA: &str = "/LiveApp/hls/load-0/media.m3u8";

pub(crate) async fn measure() -> Result<()> {
    http::install_crypto();
    say("\n### LL-HLS\n\nH.264 4 Mbit/s, parts of 300 ms, segments of 2 s; a core for the server, one for the load\n");
    say("| what | value |\n| --- | --- |");
    serving().await?;
    waiting().await?;
    memory().await
}

/// A file of the stream, once it is there.
async fn file(server: &Service, path: &str) -> Result<Bytes> {
    let url = format!("http://{}{path}", server.address("http")?);
    let client = reqwest::Client::builder().no_proxy().build()?;
    wait::until("the stream to be playable", SOON, async || {
        let answer = client.get(&url).send().await.and_then(reqwest::Response::error_for_status);
        match answer {
            Ok(answer) => answer.bytes().await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
}

/// The file name in the last line of a playlist that begins so.
fn last<'a>(playlist: &'a str, begin: &str) -> Result<&'a str> {
    playlist.lines().rev().find(|line| line.starts_with(begin)).with_context(|| format!("no {begin} in {playlist}"))
}

/// Segments and playlists over connections that are kept: rounds of nginx and ours in turn.
async fn serving() -> Result<()> {
    let folder = repository::folder("hls")?;
    let (server, _publisher) = streaming(folder.path(), 1, HD_CLIP, &["--hls=Always", LONG_WINDOW]).await?;
    let playlist = wait::until("a segment", SOON, async || {
        let text = file(&server, MEDIA).await.map_err(|error| format!("{error:#}"))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        if text.contains("#EXTINF") { Ok(text) } else { Err(text) }
    })
    .await?;
    let segment = last(&playlist, "segment-")?.to_owned();
    let path = MEDIA.replace("media.m3u8", &segment);
    let bytes = file(&server, &path).await?;
    fs::write(folder.path().join(&segment), &bytes)?;
    let (nginx, port) = nginx(folder.path()).await?;
    let ours = format!("http://{}", server.address("http")?);

    let (mut theirs, mut own, mut ratios, mut reloads) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let size = bytes.len() as f64 / 1e9;
        let by_nginx = size * answers(folder.path(), nginx.id(), &format!("http://127.0.0.1:{port}/{segment}")).await?;
        let by_us = size * answers(folder.path(), server.process.id(), &format!("{ours}{path}")).await?;
        theirs.push(by_nginx);
        own.push(by_us);
        ratios.push(by_us / by_nginx);
        reloads.push(answers(folder.path(), server.process.id(), &format!("{ours}{MEDIA}")).await?);
    }
    say(&format!("| bytes of a segment | {} |", bytes.len()));
    say(&format!("| segments, GB a CPU second, nginx | {} |", Spread::of(theirs)));
    say(&format!("| segments, GB a CPU second, Tallylight | {} |", Spread::of(own)));
    say(&format!("| ratio of each round | {} |", Spread::of(ratios)));
    say(&format!("| reloads of a playlist a core-second | {} |", Spread::of(reloads)));
    Ok(())
}

/// Answers a CPU second of a server.
async fn answers(folder: &Path, server: u32, url: &str) -> Result<f64> {
    let mut command = Command::new("taskset");
    command.args([
        "--cpu-list",
        "1",
        "wrk",
        "-t1",
        "-c32",
        &format!("-d{SECONDS}s"),
        "-H",
        "Accept-Encoding: gzip",
        url,
    ]);
    let log = folder.join("wrk.log");
    if log.exists() {
        fs::remove_file(&log)?;
    }
    let before = machine::cpu_seconds(server)?;
    let mut wrk = Process::spawn("wrk", folder, command)?.quiet();
    let ended = wrk.wait(SOON).await?;
    let cpu = machine::cpu_seconds(server)? - before;
    let report = wrk.log();
    ensure!(ended.success() && !report.contains("Non-2xx"), "the load failed: {report}");
    let requests = report.lines().find_map(|line| line.trim().split_once(" requests in "));
    let requests: f64 = requests.with_context(|| format!("no count in {report}"))?.0.parse()?;
    Ok(requests / cpu)
}

/// nginx with the same bytes in a file, one worker, which is the started process itself.
async fn nginx(folder: &Path) -> Result<(Process, u16)> {
    let port = ports::free()?;
    let at = folder.display();
    let configuration = format!(
        "daemon off; master_process off; worker_processes 1; pid {at}/pid; error_log {at}/error.log warn;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000;\n\
         server {{ listen 127.0.0.1:{port}; root {at}; }} }}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration)?;
    machine::keep_to_core(0)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg("/usr/share/nginx").arg("-c").arg(&file);
    let process = Process::spawn("nginx", folder, command)?;
    machine::use_all_cores()?;
    wait::until("nginx to listen", SOON, async || {
        std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string())
    })
    .await?;
    Ok((process, port))
}

/// An answer that a player has had. It has waited since the one before.
struct Answer {
    part: String,
    asked: Instant,
    answered: Instant,
}

/// How one part came to all players.
struct Part {
    first: Instant,
    last: Instant,
    players: usize,
    longest: Duration,
}

/// Players that all wait for the next part.
async fn waiting() -> Result<()> {
    let folder = repository::folder("hls-waiting")?;
    let (server, _publisher) = streaming(folder.path(), 1, HD_CLIP, &["--hls=Always"]).await?;
    file(&server, MEDIA).await?;
    machine::keep_to_core(1)?;
    let cpu = || anyhow::Ok((machine::cpu_seconds(server.process.id())?, machine::cpu_seconds(std::process::id())?));
    let before = cpu()?;
    let mut players = JoinSet::new();
    for _ in 0..PLAYERS {
        players.spawn(timeout(SOON, wait_for_parts(server.address("http")?.to_owned())));
    }
    let mut parts = BTreeMap::<String, Part>::new();
    while let Some(played) = players.join_next().await {
        for Answer { part, asked, answered } in played??? {
            let none = Part { first: answered, last: answered, players: 0, longest: Duration::ZERO };
            let part = parts.entry(part).or_insert(none);
            part.players += 1;
            part.first = part.first.min(answered);
            part.last = part.last.max(answered);
            part.longest = part.longest.max(answered - asked);
        }
    }
    let after = cpu()?;
    machine::use_all_cores()?;
    let all: Vec<&Part> = parts.values().filter(|part| part.players == PLAYERS).collect();
    ensure!(all.len() >= PARTS / 2, "the players did not come into step: {} parts", all.len());
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    let within = all.iter().filter(|part| part.longest <= AN_ANSWER).count();
    say(&format!(
        "| players that wait for one part; parts; of them all answered within 350 ms | {PLAYERS}; {}; {within} |",
        all.len()
    ));
    say(&format!(
        "| from request to answer, the longest of a part, ms | {} |",
        Spread::of(all.iter().map(|part| milliseconds(part.longest)))
    ));
    say(&format!(
        "| from the first to the last answer of a part, ms | {} |",
        Spread::of(all.iter().map(|part| milliseconds(part.last - part.first)))
    ));
    let answers = (PLAYERS * (1 + FIRST_PARTS + PARTS)) as f64;
    let of_an_answer = |before: f64, after: f64| (after - before) / answers * 1e6;
    say(&format!(
        "| CPU of an answer, connecting and the publisher included, µs: server; players | {:.1}; {:.1} |",
        of_an_answer(before.0, after.0),
        of_an_answer(before.1, after.1)
    ));
    Ok(())
}

async fn wait_for_parts(address: String) -> Result<Vec<Answer>> {
    let mut socket = TcpStream::connect(&address).await?;
    socket.set_nodelay(true)?;
    let (mut answers, mut part) = (Vec::with_capacity(PARTS), String::new());
    let mut playlist = ask(&mut socket, &address, MEDIA).await?;
    let mut asked = Instant::now();
    for number in 0..FIRST_PARTS + PARTS {
        let hint = last(&playlist, "#EXT-X-PRELOAD-HINT")?;
        let next = hint.split('"').nth(1).and_then(|name| name.strip_prefix("part-")?.strip_suffix(".m4s"));
        let next = next.with_context(|| format!("no part in {hint}"))?;
        ensure!(part != next, "an answer without what was awaited: {hint}");
        next.clone_into(&mut part);
        let (msn, index) = part.split_once('.').context("a part has two numbers")?;
        playlist = ask(&mut socket, &address, &format!("{MEDIA}?_HLS_msn={msn}&_HLS_part={index}")).await?;
        let answered = Instant::now();
        if number >= FIRST_PARTS {
            answers.push(Answer { part: part.clone(), asked, answered });
        }
        asked = answered;
        // all share a core, which players elsewhere do not: an answer that has come is not late because another player asks
        yield_now().await;
    }
    Ok(answers)
}

/// One request and its answer over a connection that is kept. It spares the load's core: the players must not wait for themselves.
async fn ask(socket: &mut TcpStream, address: &str, path: &str) -> Result<String> {
    socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let (mut answer, mut body) = (Vec::with_capacity(16 << 10), None);
    loop {
        ensure!(socket.read_buf(&mut answer).await? > 0, "the connection ended");
        if body.is_none()
            && let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default());
            ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.context("no length")?.parse()?;
            body = Some((end + 4, end + 4 + length));
        }
        if let Some((from, to)) = body
            && let Some(body) = answer.get(from..to)
        {
            return Ok(String::from_utf8(body.to_vec())?);
        }
    }
}

/// What streams take with a window of 12 s and without, and with many readers.
async fn memory() -> Result<()> {
    const STREAMS: [usize; 2] = [10, 20];
    const READERS: usize = 200;
    /// The window is full, and what was let go of meanwhile is given back.
    const FULL: Duration = Duration::from_secs(40);
    let (mut readings, mut listed) = (BTreeMap::new(), Vec::new());
    for (what, arguments) in [("no HLS", &["--hls=Off"][..]), ("HLS", &["--hls=Always", "--hls-window-seconds=12"][..])]
    {
        for streams in STREAMS {
            let folder = repository::folder("hls-memory")?;
            let (server, _publisher) = streaming(folder.path(), streams, HD_CLIP, arguments).await?;
            machine::rest(FULL).await;
            readings.insert((what, streams), resident_mb(&server)?);
            if what == "HLS" {
                listed.push(window_mb(&server).await?);
            }
            if what == "HLS" && Some(&streams) == STREAMS.last() {
                let mut readers = Command::new("taskset");
                let url = format!("http://{}{MEDIA}", server.address("http")?);
                readers.args(["--cpu-list", "1", "wrk", "-t1", &format!("-c{READERS}"), "-d10s", &url]);
                let ended = Process::spawn("wrk", folder.path(), readers)?.quiet().wait(SOON).await?;
                ensure!(ended.success(), "the readers failed");
                readings.insert(("HLS, read", streams), resident_mb(&server)?);
            }
        }
    }
    let at = |what, streams| readings.get(&(what, streams)).copied().unwrap_or(f64::NAN);
    let [few, many] = STREAMS;
    let slope = |what| (at(what, many) - at(what, few)) / (many - few) as f64;
    say(&format!("| memory of a stream without HLS, MB | {:.2} |", slope("no HLS")));
    say(&format!("| memory of a stream with a window of 12 s, MB | {:.2} |", slope("HLS")));
    say(&format!("| what its playlist lists, MB | {} |", Spread::of(listed)));
    say(&format!("| {READERS} readers take, MB in all | {:.2} |", at("HLS, read", many) - at("HLS", many)));
    Ok(())
}

/// What a stream's playlist lists: its segments, and the parts of the one that is open.
async fn window_mb(server: &Service) -> Result<f64> {
    let playlist = String::from_utf8(file(server, MEDIA).await?.to_vec())?;
    let open = playlist.rsplit_once("\nsegment-").map_or("", |(_, open)| open);
    let parts = open
        .lines()
        .filter(|line| line.starts_with("#EXT-X-PART:"))
        .filter_map(|line| line.split('"').find(|value| value.starts_with("part-")));
    let mut bytes = 0;
    for name in playlist.lines().filter(|line| line.starts_with("segment-")).chain(parts) {
        bytes += file(server, &MEDIA.replace("media.m3u8", name)).await?.len();
    }
    Ok(bytes as f64 / 1e6)
}

fn resident_mb(server: &Service) -> Result<f64> {
    Ok(machine::resident_kib(server.process.id())? as f64 * 1024.0 / 1e6)
}
