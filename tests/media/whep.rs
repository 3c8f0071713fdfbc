//! WebRTC viewers: what is published over RTMP is watched by WHEP, at any pod, and nothing of a session is left when it is over.

use anyhow::{Context as _, Result};
use reqwest::Method;
use serde_json::json;
use tallylight_crds::{Broadcast, BroadcastState};
use tests::{
    http,
    install::{self},
    media::Publisher,
    relaying, repository,
    service::{Launch, Service},
    wait,
    webrtc::{self, Client, Options, Refused},
};

use crate::standalone::{SOON, Standalone};

/// B-frames, as OBS' and ffmpeg's own settings have them.
const B_FRAMES: &str = "-f lavfi -i testsrc2=size=320x180:rate=25 -f lavfi -i sine=sample_rate=48000 -pix_fmt yuv420p -c:v libx264 \
                        -preset fast -g 25 -bf 2 -b:v 300k -c:a aac";
const HEVC: &str = "-f lavfi -i testsrc2=size=320x180:rate=25 -pix_fmt yuv420p -c:v libx265 -preset ultrafast -tune zerolatency \
                    -x265-params keyint=25:log-level=error -b:v 300k";

const H264_OFFER: &str = "v=0\r\na=ice-ufrag:peer\r\na=ice-pwd:0123456789012345678901\r\na=fingerprint:sha-256 \
    00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\na=rtcp-mux\r\na=recvonly\r\na=rtpmap:96 H264/90000\r\n\
    a=fmtp:96 packetization-mode=1;profile-level-id=64001f\r\n";

fn url(address: &str, stream: &str) -> String {
    format!("http://{address}/LiveApp/whep/{stream}")
}

/// A metric of a node, with its labels; 0 when nothing was counted.
async fn metric(node: &Service, name: &str) -> Result<f64> {
    let scraped = http::get(node.address("http")?, "/metrics").await?;
    let line = scraped.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(Ok(0.0), |value| value.parse().with_context(|| format!("{name} {value}")))
}

/// Waits until nothing of WebRTC is left on a node.
async fn until_nothing_is_left(node: &Service) -> Result<()> {
    wait::until("no session and no stream to be left", SOON, async || {
        let mut left = Vec::new();
        for name in [
            "tallylight_webrtc_sessions{state=\"Opening\"}",
            "tallylight_webrtc_sessions{state=\"Connected\"}",
            "tallylight_webrtc_streams",
            "tallylight_node_viewers{protocol=\"WebRtc\"}",
        ] {
            let value = metric(node, name).await.map_err(|error| error.to_string())?;
            if value > 0.0 {
                left.push(format!("{name} {value}"));
            }
        }
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    })
    .await
}

async fn play(address: &str, stream: &str) -> Result<Client> {
    webrtc::play(&url(address, stream), &Options::default()).await
}

/// The status, the headers and the text of a refusal.
async fn refusal(url: &str) -> Result<webrtc::Answer> {
    match webrtc::play(url, &Options::default()).await {
        Ok(_) => anyhow::bail!("{url} was answered 201"),
        Err(error) => Ok(error.downcast::<Refused>()?.0),
    }
}

/// Posts what a browser of old offers, or anything else.
async fn offer(url: &str, kind: &str, body: &str) -> Result<(u16, String)> {
    http::install_crypto();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut answer = client.post(url).header("content-type", kind).body(body.to_owned()).send().await?;
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        text.extend_from_slice(&chunk);
    }
    Ok((answer.status().as_u16(), String::from_utf8(text)?))
}

#[tokio::test]
async fn what_is_published_over_rtmp_is_watched_over_webrtc_with_its_sound() -> Result<()> {
    let standalone = Standalone::new("whep").await?;
    let (node, publisher) = (&standalone.service, standalone.ffmpeg("show").await?);
    standalone.until_status("show", "broadcasting").await?;
    let address = node.address("http")?;

    let mut client = play(address, "show").await?;
    let seen = client.until("pictures and sound", |seen| seen.video.frames >= 50 && seen.audio.frames >= 100).await?;
    let location = client.answer.headers.get("location").cloned().unwrap_or_default();
    let tag = client.answer.headers.get("etag").cloned().unwrap_or_default();
    assert!(location.starts_with("/LiveApp/whep/show/standalone/"), "{location}");
    assert_eq!(seen.codecs, ["video/h264", "audio/opus"]);
    assert_eq!((seen.video.lost, seen.audio.lost), (0, 0), "{seen:?}");
    assert_eq!(metric(node, "tallylight_node_viewers{protocol=\"WebRtc\"}").await?, 1.0);
    assert_eq!(metric(node, "tallylight_webrtc_sessions{state=\"Connected\"}").await?, 1.0);

    let trickled = client.patch("a=mid:0\r\n", Some(&tag)).await?;
    let outdated = client.patch("a=mid:0\r\n", Some("\"other\"")).await?;
    assert_eq!((trickled.status, outdated.status), (204, 412));
    let restart = "a=ice-ufrag:another\r\na=ice-pwd:0123456789012345678901\r\n";
    let restarted = client.patch(restart, Some("*")).await?;
    assert_eq!(restarted.status, 200);
    assert!(restarted.body.contains("a=ice-ufrag:") && restarted.headers.get("etag") != Some(&tag), "{restarted:?}");
    client.pictures(25).await?;
    client.close().await?;
    until_nothing_is_left(node).await?;
    assert!(metric(node, "tallylight_webrtc_packets_sent_total").await? > 100.0);
    assert!(metric(node, "tallylight_node_media_bytes_total{protocol=\"WebRtc\",direction=\"Out\"}").await? > 10_000.0);
    assert_eq!(metric(node, "tallylight_webrtc_sessions_ended_total{cause=\"Closed\"}").await?, 1.0);
    publisher.stop().await?;
    assert!(standalone.service.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn the_end_of_a_stream_ends_its_sessions() -> Result<()> {
    let standalone = Standalone::new("whep-end").await?;
    let publisher = standalone.ffmpeg("show").await?;
    standalone.until_status("show", "broadcasting").await?;
    let mut client = play(standalone.service.address("http")?, "show").await?;
    client.pictures(10).await?;

    publisher.stop().await?;
    until_nothing_is_left(&standalone.service).await?;

    assert_eq!(metric(&standalone.service, "tallylight_webrtc_sessions_ended_total{cause=\"Closed\"}").await?, 1.0);
    Ok(())
}

#[tokio::test]
async fn a_player_may_wait_for_a_stream_that_is_yet_to_come() -> Result<()> {
    let standalone = Standalone::new("whep-wait").await?;
    let address = standalone.service.address("http")?;
    let url = format!("{}?wait=60", url(address, "show"));
    let options = Options::default();
    let (client, publisher) = tokio::join!(webrtc::play(&url, &options), standalone.ffmpeg("show"));

    client?.pictures(10).await?;
    publisher?.stop().await
}

#[tokio::test]
async fn a_stream_of_another_pod_is_watched_at_this_one() -> Result<()> {
    let (tenant, folder) = (install::tenant("whep-relay").await?, repository::folder("whep-relay")?);
    let path = folder.path();
    tenant.pool(&json!({})).await?;
    tenant.broadcast("show", &json!({})).await?;
    let kubeconfig = tenant.operator_kubeconfig(path).await?;
    let _operator = Launch::operator(path, &kubeconfig, &tenant.namespace).start().await?;
    let key_file = relaying::key_file(&tenant, path).await?;
    let one = relaying::node(&tenant, path, "media-live-1", &key_file).await?;
    let two = relaying::node(&tenant, path, "media-live-2", &key_file).await?;
    let publisher = Publisher::ffmpeg(path, "publisher", &one.rtmp("LiveApp", "show")?).await?;
    let is_live = |b: &Broadcast| b.status_or_default().state == BroadcastState::Live;
    tenant.until("show", "to be live", SOON, is_live).await?;

    let mut client = play(two.address("publicHttp")?, "show").await?;
    client.until("pictures and sound", |seen| seen.video.frames >= 25 && seen.audio.frames >= 50).await?;
    let location = client.answer.headers.get("location").cloned().unwrap_or_default();
    assert!(location.starts_with("/LiveApp/whep/show/media-live-2/"), "{location}");
    assert_eq!(metric(&one, "tallylight_webrtc_sessions{state=\"Connected\"}").await?, 0.0);

    publisher.stop().await?;
    until_nothing_is_left(&two).await?;
    assert_eq!(metric(&two, "tallylight_webrtc_sessions_ended_total{cause=\"Closed\"}").await?, 1.0);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused_with_the_reason() -> Result<()> {
    let standalone = Standalone::new("whep-refusals").await?;
    let (node, folder) = (&standalone.service, standalone.folder.path());
    let address = node.address("http")?;
    let b_frames = Publisher::encoding(folder, "b-frames", &standalone.rtmp("b-frames"), &[B_FRAMES])?;
    let hevc = Publisher::enhanced(folder, "hevc", &standalone.rtmp("hevc"), &[HEVC])?;
    standalone.until_status("b-frames", "broadcasting").await?;
    standalone.until_status("hevc", "broadcasting").await?;

    let refused = refusal(&url(address, "b-frames")).await?;
    assert_eq!(refused.status, 406);
    assert!(refused.body.contains("B-frames") && refused.body.contains("bframes=0"), "{}", refused.body);
    assert_eq!(metric(node, "tallylight_webrtc_refusals_total{reason=\"Reordered\"}").await?, 1.0);
    let (status, text) = offer(&url(address, "hevc"), "application/sdp", H264_OFFER).await?;
    assert_eq!((status, &*text), (406, "the offer has no section with the codec H265\n"));
    let (status, text) = offer(&url(address, "hevc"), "application/sdp", "v=0\r\n").await?;
    assert_eq!((status, &*text), (400, "the offer has neither audio nor video\n"));
    let (status, text) = offer(&url(address, "hevc"), "application/json", "{}").await?;
    assert_eq!((status, &*text), (415, "the body must be application/sdp\n"));

    let refused = refusal(&url(address, "nobody")).await?;
    assert_eq!((refused.status, refused.headers.get("retry-after").map(String::as_str)), (404, Some("2")));
    let refused = refusal(&format!("http://{address}/OtherApp/whep/show")).await?;
    assert_eq!((refused.status, refused.headers.get("retry-after")), (404, None));
    let refused = refusal(&format!("{}?wait=soon", url(address, "b-frames"))).await?;
    assert_eq!(refused.status, 400);
    let gone = http::request(Method::DELETE, address, "/LiveApp/whep/show/standalone/0123", None).await?;
    assert_eq!(gone.status, 404);

    b_frames.stop().await?;
    hevc.stop().await?;
    until_nothing_is_left(node).await
}

#[tokio::test]
async fn a_node_whose_port_is_taken_says_which_flag_is_to_be_changed() -> Result<()> {
    let standalone = Standalone::new("whep-port").await?;
    let folder = repository::folder("whep-port-2")?;
    let taken = format!("--webrtc-address={}", standalone.service.address("webrtc")?);
    let without = Launch::standalone(folder.path()).named("off").args(["--webrtc-workers=0"]);

    let mut second = Launch::standalone(folder.path()).args([taken.as_str()]).spawn()?;
    let status = second.wait(SOON).await?;
    assert!(!status.success() && second.log().contains("--webrtc-address"), "{}", second.log());

    let without = without.start().await?;
    assert_eq!(refusal(&url(without.address("http")?, "show")).await?.status, 501);
    Ok(())
}
