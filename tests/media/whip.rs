//! Publishers over WebRTC: who may, what of it others see, and how they end.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use reqwest::Method;
use rustix::process::Signal;
use tests::{
    http,
    media::{self, Publisher},
    probe,
    receiver::Receiver,
    repository,
    service::{Launch, Service},
    webrtc::{self, Clip, Loss, Options, Refused},
};

use crate::{
    recording::{TONE, VIDEO, files, ready, storage},
    standalone::{SOON, Standalone},
};

/// What FFmpeg's WHIP takes: no B-frames, and Opus.
const H264: &str = "-pix_fmt yuv420p -c:v libx264 -preset ultrafast -tune zerolatency -bf 0 -g 25 -b:v 300k";
const OPUS: &str = "-c:a libopus -ar 48000 -ac 2 -b:a 64k";

fn whip(service: &Service, stream: &str) -> Result<String> {
    Ok(format!("http://{}/LiveApp/whip/{stream}", service.address("http")?))
}

#[tokio::test]
async fn a_stream_from_ffmpeg_over_whip_is_played_over_rtmp_and_recorded() -> Result<()> {
    let server = Standalone::with("whip-ffmpeg", &["--recording=On", "--recording-name={streamID}"]).await?;
    let (folder, url) = (server.folder.path(), whip(&server.service, "show")?);

    let publisher = Publisher::whip(folder, "publisher", &url, None, &[VIDEO, TONE, H264, OPUS])?;
    let started = server.receiver.wait_for(1, SOON).await?;
    server.until_status("show", "broadcasting").await?;
    let played = media::play_with_ffmpeg9(folder, "player", &server.rtmp("show")).await?;
    let second = webrtc::publish(&url, &clip().await?, &Options::default()).await;
    publisher.stop().await?;
    let requests = server.receiver.wait_for(2, SOON).await?;

    assert_eq!(started[0].action(), "liveStreamStarted");
    assert_eq!(played.codecs, ["h264", "opus"]);
    assert!(played.frames >= 25, "{played:?}");
    assert_eq!(refused(second)?.status, 409);
    assert_eq!(requests[1].action(), "liveStreamEnded");
    assert_eq!(requests[1].field("reason").as_deref(), Some("PublisherClosed"));
    ready(&server, 1).await?;
    assert_eq!(files(&storage(&server)), ["show.mp4"]);
    let file = storage(&server).join("show.mp4");
    probe::decodes(&file)?;
    let streams = probe::probe(&file)?;
    assert_eq!(streams.iter().map(|stream| stream.codec.as_str()).collect::<Vec<_>>(), ["h264", "opus"]);
    assert!(streams.iter().all(|stream| stream.length > 1.0), "{streams:?}");
    Ok(())
}

/// A clip of two seconds with one keyframe, as browsers send them.
async fn clip() -> Result<Clip> {
    Clip::flv(media::clip().await?)
}

fn refused<T>(answer: Result<T>) -> Result<webrtc::Answer> {
    let error = answer.err().context("it was taken")?;
    let Refused(answer) = error.downcast()?;
    Ok(answer)
}

#[tokio::test]
async fn a_stream_key_is_a_bearer_token_or_in_the_query() -> Result<()> {
    let folder = repository::folder("whip-keys")?;
    let manifests = folder.path().join("manifests");
    fs::create_dir(&manifests)?;
    let receiver = Receiver::start().await?;
    let objects = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: keys}}\nstringData: {{show: s3cr3t}}\n---\n\
         apiVersion: tallylight.dev/v1alpha1\nkind: Broadcast\nmetadata: {{name: show}}\n\
         spec: {{pool: default, listenerHookURL: \"{}\", publish: {{streamKeySecretRef: {{name: keys, key: show}}}}}}\n",
        receiver.url("hook"),
    );
    fs::write(manifests.join("show.yaml"), objects)?;
    let manifests = format!("--manifests={}", manifests.display());
    let service = Launch::standalone(folder.path()).args([manifests.as_str()]).start().await?;
    let (url, clip) = (whip(&service, "show")?, clip().await?);
    let with = |token: &str| Options { token: Some(token.to_owned()), ..Options::default() };

    let none = refused(webrtc::publish(&url, &clip, &Options::default()).await)?;
    let wrong = refused(webrtc::publish(&url, &clip, &with("guess")).await)?;
    let in_query = refused(webrtc::publish(&format!("{url}?key=guess"), &clip, &Options::default()).await)?;
    let mut first = webrtc::publish(&format!("{url}?key=s3cr3t"), &clip, &Options::default()).await?;
    first.connected().await?;
    receiver.wait_for(1, SOON).await?;
    first.close().await?;
    receiver.wait_for(2, SOON).await?;
    let publisher = Publisher::whip(folder.path(), "publisher", &url, Some("s3cr3t"), &[VIDEO, TONE, H264, OPUS])?;
    receiver.wait_for(3, SOON).await?;
    publisher.stop().await?;

    assert_eq!((none.status, none.headers.get("www-authenticate").map(String::as_str)), (401, Some("Bearer")));
    assert_eq!((wrong.status, in_query.status), (403, 403));
    receiver.wait_for(4, SOON).await?;
    assert!(!service.process.log().contains("s3cr3t"), "the log shows the key");
    receiver.check_promises()
}

#[tokio::test]
async fn what_is_published_over_whip_is_watched_over_whep() -> Result<()> {
    let server = Standalone::new("whip-whep").await?;
    let url = whip(&server.service, "show")?;
    let publisher = webrtc::publish(&url, &clip().await?, &Options::default()).await?;
    server.receiver.wait_for(1, SOON).await?;

    let mut viewer = webrtc::play(&url.replace("/whip/", "/whep/"), &Options::default()).await?;
    viewer.pictures(50).await?;
    publisher.lose(Loss { sent: 0.05, ..Loss::default() }).await?;
    until_counted(&server, "tallylight_webrtc_packets_missed_total{what=\"Recovered\"}", 10).await?;
    viewer.pictures(25).await?;

    let metrics = http::get(server.service.address("http")?, "/metrics").await?.body;
    assert!(metrics.contains("tallylight_node_publishers{protocol=\"WebRtc\"} 1\n"), "{metrics}");
    assert_eq!(http::metric(&metrics, "tallylight_webrtc_received_dropped_total"), Some(0.0));
    server.receiver.check_promises()
}

#[tokio::test]
async fn a_publisher_whose_keyframes_are_rare_is_asked_for_them() -> Result<()> {
    let server = Standalone::with("whip-keyframes", &["--hls-segment-seconds=1"]).await?;
    let file = server.folder.path().join("clip.flv");
    media::write(&[VIDEO, "-t 10 -pix_fmt yuv420p -c:v libx264 -preset ultrafast -bf 0 -g 1000"], &file)?;

    let publisher = webrtc::publish(&whip(&server.service, "show")?, &Clip::flv(&file)?, &Options::default()).await?;

    until_counted(&server, "tallylight_webrtc_keyframes_asked_total", 3).await?;
    publisher.close().await?;
    server.receiver.check_promises()
}

/// Waits until a metric, with its labels, is at least that.
async fn until_counted(server: &Standalone, metric: &str, least: u64) -> Result<()> {
    let address = server.service.address("http")?;
    tests::wait::until(format!("{metric} to be {least}"), SOON, async || {
        let metrics = http::get(address, "/metrics").await.map_err(|error| error.to_string())?.body;
        let found = metrics.lines().find_map(|line| line.strip_prefix(metric)).map(str::trim).unwrap_or_default();
        if found.parse::<u64>().is_ok_and(|found| found >= least) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
}

#[tokio::test]
async fn a_publisher_that_falls_silent_ends_and_one_that_is_deleted_is_closed() -> Result<()> {
    let server = Standalone::with("whip-ends", &["--publisher-timeout-seconds=2"]).await?;
    let (clip, options) = (clip().await?, Options::default());
    let silent = webrtc::publish(&whip(&server.service, "silent")?, &clip, &options).await?;
    server.receiver.wait_for(1, SOON).await?;
    drop(silent);
    let ended = server.receiver.wait_for(2, SOON).await?;
    assert_eq!(ended[1].field("reason").as_deref(), Some("PublisherTimeout"));

    let deleted = webrtc::publish(&whip(&server.service, "deleted")?, &clip, &options).await?;
    server.receiver.wait_for(3, SOON).await?;
    let trickled = deleted.patch("a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n", None).await?;
    deleted.close().await?;
    let ended = server.receiver.wait_for(4, SOON).await?;
    assert_eq!(trickled.status, 204);
    assert_eq!(ended[3].field("reason").as_deref(), Some("PublisherClosed"));

    let mut ffmpeg = Publisher::whip(
        server.folder.path(),
        "publisher",
        &whip(&server.service, "killed")?,
        None,
        &[VIDEO, TONE, H264, OPUS],
    )?;
    server.receiver.wait_for(5, SOON).await?;
    ffmpeg.process.signal(Signal::KILL)?;
    let ended = server.receiver.wait_for(6, SOON).await?;
    assert_eq!(ended[5].field("reason").as_deref(), Some("PublisherTimeout"));
    server.receiver.check_promises()
}

const OFFER: &str = "v=0\r\na=ice-ufrag:peer\r\na=ice-pwd:0123456789012345678901\r\na=fingerprint:sha-256 \
    00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=sendonly\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\n";

#[tokio::test]
async fn an_offer_that_is_not_taken_is_answered_with_the_reason() -> Result<()> {
    let server = Standalone::with("whip-errors", &["--webrtc-ice-server=stun:192.0.2.1:3478"]).await?;
    let address = server.service.address("http")?.to_owned();
    http::install_crypto();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let post = async |path: &str, kind: &str, body: String| -> Result<(u16, String)> {
        let request = client.post(format!("http://{address}{path}")).header("content-type", kind).body(body);
        let answer = request.send().await?;
        assert_eq!(answer.headers()["access-control-allow-origin"], "*");
        Ok((answer.status().as_u16(), answer.text().await?))
    };
    let (show, sdp) = ("/LiveApp/whip/show", "application/sdp");

    assert_eq!(post(show, "text/plain", OFFER.to_owned()).await?.0, 415);
    assert_eq!(post(show, sdp, "v=1".to_owned()).await?.0, 400);
    let lacking = post(show, sdp, OFFER.replace("opus/48000/2", "PCMU/8000")).await?;
    assert_eq!((lacking.0, lacking.1.contains("Opus")), (406, true), "{}", lacking.1);
    assert_eq!(post("/OtherApp/whip/show", sdp, OFFER.to_owned()).await?.0, 404);
    let taken = post(show, sdp, OFFER.to_owned()).await?;
    assert_eq!((taken.0, taken.1.contains("a=recvonly")), (201, true), "{}", taken.1);
    // nobody has come yet, but the place is taken
    assert_eq!(post(show, sdp, OFFER.to_owned()).await?.0, 409);
    let gone = http::request(Method::DELETE, &address, "/LiveApp/whip/show/standalone/none", None).await?;
    assert_eq!(gone.status, 404);

    let options = client.request(Method::OPTIONS, format!("http://{address}{show}")).send().await?;
    assert_eq!((options.status().as_u16(), &options.headers()["accept-post"]), (204, &"application/sdp".parse()?));
    assert_eq!(options.headers()["link"], "<stun:192.0.2.1:3478>; rel=\"ice-server\"");
    assert!(server.receiver.requests().is_empty(), "none of them has sent media");
    Ok(())
}

#[tokio::test]
async fn a_publisher_that_never_comes_makes_room_after_15_s() -> Result<()> {
    let server = Standalone::new("whip-never").await?;
    let url = whip(&server.service, "show")?;
    http::install_crypto();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let offer = client.post(&url).header("content-type", "application/sdp").body(OFFER);
    assert_eq!(offer.send().await?.status().as_u16(), 201);

    let clip = clip().await?;
    let mut client = tests::wait::until("the place to be free", Duration::from_secs(60), async || {
        webrtc::publish(&url, &clip, &Options::default()).await.map_err(|error| error.to_string())
    })
    .await?;
    client.connected().await?;
    server.receiver.wait_for(1, SOON).await?;
    server.receiver.check_promises()
}
