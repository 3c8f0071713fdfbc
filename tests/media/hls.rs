//! LL-HLS of a live stream, with the players that people use and one that knows all the rules.

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read as _},
    ops::RangeFrom,
    time::Duration,
};

use ::rtmp::{Kind, Message};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use reqwest::{Client, Method, Response};
use tests::{
    hls::{Playlist, player::Player},
    http,
    media::{self, Publisher},
    pki::Authority,
    repository, rtmp, wait,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::standalone::{SOON, Standalone};

/// B-frames, and a keyframe each second.
const VIDEO: &str = "-f lavfi -i testsrc2=size=320x180:rate=25";
const TONE: &str = "-f lavfi -i sine=frequency=440:sample_rate=48000";
const H264: &str = "-pix_fmt yuv420p -c:v libx264 -preset ultrafast -bf 2 -b_strategy 0 -g 25 -sc_threshold 0";
const AAC: &str = "-c:a aac -b:a 64k";

fn encode(server: &Standalone, stream: &str, arguments: &[&str]) -> Result<Publisher> {
    Publisher::encoding(server.folder.path(), &format!("publisher-{stream}"), &server.rtmp(stream), arguments)
}

fn url(server: &Standalone, path: &str) -> Result<String> {
    Ok(format!("http://{}{path}", server.service.address("http")?))
}

/// Waits until the stream can be played.
async fn playable(server: &Standalone, stream: &str) -> Result<String> {
    let path = format!("/LiveApp/streams/{stream}.m3u8");
    let address = server.service.address("http")?;
    wait::until(format!("{stream} to be playable"), SOON, async || match http::get(address, &path).await {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    url(server, &path)
}

async fn ask(method: Method, url: &str, headers: &[(&str, &str)]) -> Result<Response> {
    http::install_crypto();
    let mut request = Client::builder().no_proxy().build()?.request(method, url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.send().await?)
}

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

#[tokio::test]
async fn every_playlist_of_a_live_stream_keeps_the_rules_to_its_end() -> Result<()> {
    let server = Standalone::with("hls-rules", &["--hls-segment-seconds=1", "--hls-window-seconds=30"]).await?;
    let publisher = encode(&server, "show", &[VIDEO, TONE, H264, AAC])?;

    let mut player = Player::tune_in(&playable(&server, "show").await?).await?;
    player.watch(18).await?;
    publisher.stop().await?;
    while !player.playlist.ended {
        player.reload().await?;
    }

    assert!(player.deltas > 0, "it asked for delta updates and got none");
    assert!(player.playlist.segments.len() >= 18, "{:?}", player.playlist);
    assert!(player.playlist.independent_segments);
    let last = player.playlist.segments.last().context("a segment")?;
    assert_eq!(player.ask(&last.uri).await?.status(), 200, "players finish what there is");
    Ok(())
}

/// Sound, as much as it is told to send.
struct Sound {
    client: rtmp::Client,
    frames: RangeFrom<u32>,
}

impl Sound {
    async fn publish(server: &Standalone, stream: &str) -> Result<Self> {
        let mut client = server.publish(stream).await?;
        let header = Bytes::from_static(&[0xAF, 0, 0x11, 0x90]);
        client.send(&Message { kind: Kind::Audio, timestamp_ms: 0, payload: header }).await?;
        Ok(Self { client, frames: 0.. })
    }

    /// Sends so many frames of 1,024 samples at 48 kHz.
    async fn send(&mut self, frames: usize) -> Result<()> {
        for frame in self.frames.by_ref().take(frames) {
            let payload = Bytes::from_static(b"\xaf\x01sound");
            self.client.send(&Message { kind: Kind::Audio, timestamp_ms: frame * 64 / 3, payload }).await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn hundreds_who_wait_for_a_part_are_all_answered_with_the_same_playlist() -> Result<()> {
    const PLAYERS: usize = 300;
    let server = Standalone::with("hls-waiting", &["--hls=Always", "--hls-part-milliseconds=500"]).await?;
    let mut sound = Sound::publish(&server, "radio").await?;
    let (address, path) = (server.service.address("http")?, "/LiveApp/hls/radio/media.m3u8");
    // a frame at a time, for what comes before it is muxed is nobody's: then a part has just ended, and the next wants 23
    let mut before = None;
    let hint = wait::until("a part to end", SOON, async || {
        sound.send(if before.is_none() { 23 } else { 1 }).await.map_err(|error| error.to_string())?;
        // before there is a segment it waits for one
        let asked = timeout(Duration::from_millis(500), http::get(address, path)).await;
        let text = asked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?.body;
        let hint = Playlist::parse(&text).ok().and_then(|playlist| playlist.preload_hint);
        match (before.take(), hint) {
            (Some(before), Some(hint)) if before != hint => Ok(hint),
            (_, hint) => {
                before = hint;
                Err(text)
            }
        }
    })
    .await?;
    let next = hint.strip_prefix("part-").and_then(|name| name.strip_suffix(".m4s")).context("a part")?;
    let (segment, part) = next.split_once('.').context("two numbers")?;
    let request = format!(
        "GET {path}?_HLS_msn={segment}&_HLS_part={part} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    );

    let mut players = Vec::new();
    for _ in 0..PLAYERS {
        let mut player = TcpStream::connect(address).await?;
        player.write_all(request.as_bytes()).await?;
        players.push(player);
    }
    // its answer comes after theirs would
    http::get(address, path).await?;
    for player in &players {
        let early = player.try_read(&mut [0]);
        assert!(early.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{early:?}");
    }
    sound.send(24).await?;

    let mut tags = BTreeSet::new();
    for mut player in players {
        let mut answer = String::new();
        timeout(SOON, player.read_to_string(&mut answer)).await.context("a player waits")??;
        let has_it = |line: &str| line.starts_with("#EXT-X-PART:") && line.contains(&hint);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.lines().any(has_it), "{answer}");
        tags.insert(answer.lines().find(|line| line.starts_with("etag: ")).context("no tag")?.to_owned());
    }
    assert_eq!(tags.len(), 1, "{tags:?}");
    Ok(())
}

#[tokio::test]
async fn ffmpeg_and_gstreamer_play_both_addresses() -> Result<()> {
    let server = Standalone::new("hls-players").await?;
    let _publisher = encode(&server, "show", &[VIDEO, TONE, H264, AAC])?;
    let (folder, first) = (server.folder.path(), playable(&server, "show").await?);
    let second = url(&server, "/LiveApp/hls/show/index.m3u8")?;

    let (one, two, (), ()) = tokio::try_join!(
        media::play_hls_with_ffmpeg(folder, "ffmpeg-1", &first),
        media::play_hls_with_ffmpeg(folder, "ffmpeg-2", &second),
        media::play_hls_with_gstreamer(folder, "gstreamer-1", &first),
        media::play_hls_with_gstreamer(folder, "gstreamer-2", &second),
    )?;

    assert!(one >= 45 && two >= 45, "{one} and {two} frames in two seconds");
    let metrics = http::get(server.service.address("http")?, "/metrics").await?.body;
    let viewers = metrics.lines().find(|line| line.starts_with("tallylight_node_viewers{protocol=\"Hls\"}"));
    assert!(viewers.is_some_and(|line| !line.ends_with(" 0")), "{viewers:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_sent_can_be_cached_and_read_by_any_page() -> Result<()> {
    let server = Standalone::new("hls-http").await?;
    let _publisher = encode(&server, "show", &[VIDEO, TONE, H264, AAC])?;
    let player = Player::tune_in(&playable(&server, "show").await?).await?;
    let playlist = url(&server, "/LiveApp/hls/show/media.m3u8")?;
    let segment = player.playlist.segments.last().context("a segment")?;
    let media = url(&server, &format!("/LiveApp/hls/show/{}", segment.uri))?;

    let plain = ask(Method::GET, &playlist, &[]).await?;
    assert_eq!(header(&plain, "content-type"), Some("application/vnd.apple.mpegurl"));
    assert_eq!(header(&plain, "cache-control"), Some("public, max-age=2"), "half a target duration");
    assert_eq!(header(&plain, "vary"), Some("Accept-Encoding"));
    assert_eq!(header(&plain, "access-control-allow-origin"), Some("*"));
    let awaited = format!("{playlist}?_HLS_msn={}", player.next_segment());
    let awaited = ask(Method::GET, &awaited, &[]).await?;
    assert_eq!(header(&awaited, "cache-control"), Some("public, max-age=24"), "six target durations");

    let zipped = ask(Method::GET, &playlist, &[("accept-encoding", "gzip")]).await?;
    assert_eq!(header(&zipped, "content-encoding"), Some("gzip"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*zipped.bytes().await?).read_to_string(&mut text)?;
    Playlist::parse(&text)?;
    let Ok(m3u8_rs::Playlist::MediaPlaylist(parsed)) = m3u8_rs::parse_playlist_res(text.as_bytes()) else {
        panic!("another parser takes it for something else: {text}")
    };
    assert!(!parsed.segments.is_empty() && !parsed.end_list);

    let file = ask(Method::GET, &media, &[]).await?;
    assert_eq!(header(&file, "content-type"), Some("video/mp4"));
    assert_eq!(header(&file, "cache-control"), Some("public, max-age=31536000, immutable"));
    let (tag, length) = (header(&file, "etag").context("a tag")?.to_owned(), file.content_length());
    assert_eq!(length, Some(file.bytes().await?.len() as u64));
    let head = ask(Method::HEAD, &media, &[]).await?;
    assert_eq!(
        (head.status().as_u16(), header(&head, "content-length").map(str::to_owned)),
        (200, length.map(|l| l.to_string()))
    );
    let again = ask(Method::GET, &media, &[("if-none-match", &tag)]).await?;
    assert_eq!((again.status().as_u16(), header(&again, "etag")), (304, Some(&*tag)));
    assert!(again.bytes().await?.is_empty());

    let preflight = [("origin", "https://example.org"), ("access-control-request-method", "GET")];
    let preflight = ask(Method::OPTIONS, &playlist, &preflight).await?;
    assert_eq!((preflight.status().as_u16(), header(&preflight, "access-control-allow-origin")), (204, Some("*")));
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_with_the_reason() -> Result<()> {
    let server = Standalone::with("hls-refusals", &["--hls-part-milliseconds=500"]).await?;
    let _publisher = encode(&server, "show", &[VIDEO, TONE, H264, AAC])?;
    let player = Player::tune_in(&playable(&server, "show").await?).await?;
    let (next, parts) = (player.next_segment(), player.playlist.open.len());

    for (path, status) in [
        ("nobody/media.m3u8".to_owned(), 404),
        ("a%2Fb/media.m3u8".to_owned(), 404),
        ("show/other.m3u8".to_owned(), 404),
        ("show/segment-1.m4s".to_owned(), 404),
        (format!("show/segment-{}.m4s", next + 9), 404),
        (format!("show/part-{}.0.m4s", next + 9), 404),
        ("show/init-1.mp4".to_owned(), 404),
        (format!("show/media.m3u8?_HLS_msn={}", next + 9), 400),
        (format!("show/media.m3u8?_HLS_msn={next}&_HLS_part={}", parts + 90), 400),
        ("show/media.m3u8?_HLS_msn=x".to_owned(), 400),
        ("show/media.m3u8?_HLS_part=1".to_owned(), 400),
        ("show/media.m3u8?_HLS_skip=maybe".to_owned(), 400),
    ] {
        let answer = ask(Method::GET, &url(&server, &format!("/LiveApp/hls/{path}"))?, &[]).await?;
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(header(&answer, "access-control-allow-origin"), Some("*"), "pages see why: {path}");
    }
    let absent = ask(Method::GET, &url(&server, "/LiveApp/streams/nobody.m3u8")?, &[]).await?;
    assert_eq!((absent.status().as_u16(), header(&absent, "retry-after")), (404, Some("2")));
    let application = ask(Method::GET, &url(&server, "/OtherApp/streams/show.m3u8")?, &[]).await?;
    assert_eq!(application.status(), 404);
    let metrics = http::get(server.service.address("http")?, "/metrics").await?.body;
    for (reason, count) in [("TooFar", 2.0), ("BadQuery", 3.0)] {
        let name = format!("tallylight_node_hls_refusals_total{{reason=\"{reason}\"}}");
        assert_eq!(http::metric(&metrics, &name), Some(count), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn it_can_be_turned_off() -> Result<()> {
    let server = Standalone::with("hls-off", &["--hls=Off"]).await?;
    let _publisher = encode(&server, "show", &[VIDEO, TONE, H264, AAC])?;
    server.until_status("show", "broadcasting").await?;

    let answer = ask(Method::GET, &url(&server, "/LiveApp/streams/show.m3u8")?, &[]).await?;
    assert_eq!(answer.status(), 404);
    Ok(())
}

#[tokio::test]
async fn a_publisher_that_comes_back_with_another_picture_goes_on_after_a_discontinuity() -> Result<()> {
    let server = Standalone::with("hls-again", &["--hls-segment-seconds=1", "--reconnect-window-seconds=60"]).await?;
    let mut publisher = encode(&server, "show", &[VIDEO, TONE, H264, AAC])?;
    let mut player = Player::tune_in(&playable(&server, "show").await?).await?;
    player.watch(2).await?;

    publisher.process.signal(rustix::process::Signal::KILL)?;
    let bigger = VIDEO.replace("320x180", "640x360");
    let publisher = encode(&server, "show", &[&bigger, TONE, H264, AAC])?;
    player.watch(4).await?;
    publisher.stop().await?;
    while !player.playlist.ended {
        player.reload().await?;
    }

    let breaks = player.playlist.segments.iter().filter(|segment| segment.breaks).count();
    assert_eq!(breaks, 1, "{:?}", player.playlist);
    let mut maps: Vec<_> = player.playlist.segments.iter().filter_map(|segment| segment.map.clone()).collect();
    maps.dedup();
    assert_eq!(maps.len(), 2, "each has its own initialization segment");
    Ok(())
}

#[tokio::test]
async fn sound_alone_is_played_too() -> Result<()> {
    let server = Standalone::with("hls-sound", &["--hls=Always", "--hls-segment-seconds=1"]).await?;
    let _publisher = encode(&server, "radio", &[TONE, AAC])?;

    let address = playable(&server, "radio").await?;
    let mut player = Player::tune_in(&address).await?;
    player.watch(3).await?;
    let text = http::get(server.service.address("http")?, "/LiveApp/hls/radio/index.m3u8").await?.body;
    assert!(text.contains("CODECS=\"mp4a.40.2\"") && !text.contains("RESOLUTION"), "{text}");
    media::play_hls_with_ffmpeg(server.folder.path(), "ffmpeg", &address).await?;
    Ok(())
}

#[tokio::test]
async fn it_is_served_over_http_2_with_tls_and_without() -> Result<()> {
    let authority = Authority::new()?;
    let folder = repository::folder("hls-tls")?;
    let leaf = authority.server(&["localhost"])?;
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&cert, &leaf.certificate)?;
    fs::write(&key, &leaf.key)?;
    let (cert, key) = (format!("--tls-cert={}", cert.display()), format!("--tls-key={}", key.display()));
    let arguments = ["--public-http-address=127.0.0.1:0", "--public-https-address=127.0.0.1:0", &cert, &key];
    let server = Standalone::with("hls-h2", &arguments).await?;
    let _publisher = encode(&server, "show", &[VIDEO, TONE, H264, AAC])?;
    let (plain, tls) = (server.service.address("publicHttp")?, server.service.address("publicHttps")?);
    http::install_crypto();
    let client = || Client::builder().no_proxy().timeout(SOON);
    let trusting =
        client().tls_certs_only([reqwest::Certificate::from_pem(authority.certificate().as_bytes())?]).build()?;
    let prior = client().http2_prior_knowledge().build()?;
    let tls = format!("https://localhost:{}/LiveApp/streams/show.m3u8", tls.rsplit(':').next().context("a port")?);
    let plain = format!("http://{plain}/LiveApp/streams/show.m3u8");
    wait::until("the stream to be playable", SOON, async || match trusting.get(&tls).send().await {
        Ok(answer) if answer.status() == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;

    for (client, url) in [(trusting, tls), (prior, plain)] {
        assert_eq!(client.get(&url).send().await?.version(), reqwest::Version::HTTP_2);
        Player::with(client, &url).await?.watch(2).await?;
    }
    Ok(())
}
