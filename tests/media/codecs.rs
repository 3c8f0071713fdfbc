//! What is in a recording of each codec that encoders publish, and how far apart picture and sound are in it.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rtmp::Message;
use tests::{
    media::{self, CLAPS, Publisher},
    probe,
};

use crate::{
    recording::{AAC, H264, TONE, VIDEO, encode, files, listed, name, ready, storage},
    standalone::{SOON, Standalone},
};

const H265: &str = "-pix_fmt yuv420p -c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=25:bframes=2";
const AV1: &str = "-pix_fmt yuv420p -c:v libaom-av1 -usage realtime -cpu-used 8 -g 25";
const VP9: &str = "-pix_fmt yuv420p -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 25";
const OPUS: &str = "-c:a libopus -b:a 64k";

/// What a recording may be off: less than people notice, in seconds.
const OFFSET: f64 = 0.020;

#[tokio::test]
async fn h265_av1_vp9_and_opus_are_in_the_file_as_ffmpeg_sends_them() -> Result<()> {
    let server = Standalone::with("record-codecs", &["--recording=On", "--recording-name={streamID}"]).await?;
    let mut publishers = Vec::new();
    for (stream, codec) in [("hevc", H265), ("av1", AV1), ("vp9", VP9)] {
        let sent = [VIDEO, TONE, "-t 4", codec, OPUS];
        let url = server.rtmp(stream);
        publishers.push(Publisher::enhanced(server.folder.path(), &format!("publisher-{stream}"), &url, &sent)?);
    }
    for publisher in &mut publishers {
        ensure!(publisher.process.wait(SOON).await?.success(), "{}", publisher.process.log());
    }

    ready(&server, 3).await?;
    assert_eq!(files(&storage(&server)), ["av1.mp4", "hevc.mp4", "vp9.mp4"]);
    for codec in ["av1", "hevc", "vp9"] {
        let file = storage(&server).join(format!("{codec}.mp4"));
        probe::decodes(&file)?;
        let streams = probe::probe(&file)?;
        let [video, audio] = &streams[..] else { panic!("{streams:?}") };
        assert_eq!((video.codec.as_str(), video.packets, audio.codec.as_str()), (codec, 100, "opus"));
        assert!((video.length - 4.0).abs() < 0.05 && (audio.length - 4.0).abs() < 0.05, "{streams:?}");
    }
    server.receiver.check_promises()
}

#[tokio::test]
async fn a_picture_size_and_a_codec_that_change_in_mid_stream_begin_the_next_parts() -> Result<()> {
    let flags = ["--recording=On", "--recording-name={streamID}-{part}"];
    let server = Standalone::with("record-change", &flags).await?;
    let folder = server.folder.path();
    let large = "-f lavfi -i testsrc2=size=640x360:rate=25";
    let clips = [
        flv(folder, "small", &[VIDEO, TONE, "-t 3", H264, AAC])?,
        flv(folder, "large", &[large, TONE, "-t 3", H264, AAC])?,
        flv(folder, "hevc", &[large, TONE, "-t 3", H265, AAC])?,
    ];
    let sent = one_after_the_other(&clips);

    let mut publisher = server.publish("show").await?;
    let lasts = Duration::from_millis(sent.last().context("a message")?.timestamp_ms.into());
    publisher.send_clip(&sent, Instant::now() + lasts + Duration::from_millis(100)).await?;
    publisher.finish().await?;

    let hooks = ready(&server, 3).await?;
    let names: Vec<_> = hooks.iter().map(name).collect();
    assert_eq!(files(&storage(&server)), ["show-1.mp4", "show-2.mp4", "show-3.mp4"], "{names:?}");
    for (number, codec) in ["h264", "h264", "hevc"].into_iter().enumerate() {
        let file = storage(&server).join(format!("show-{}.mp4", number + 1));
        probe::decodes(&file)?;
        let streams = probe::probe(&file)?;
        assert_eq!((streams[0].codec.as_str(), streams[0].packets), (codec, 75), "{}", file.display());
        assert!((streams[0].length - 3.0).abs() < 0.1, "{streams:?}");
        let audio = streams.get(1).with_context(|| format!("sound goes on in {}", file.display()))?;
        assert!((audio.length - 3.0).abs() < 0.2, "{streams:?}");
    }
    let rows = listed(&server).await?;
    assert_eq!(rows.len(), 3, "{rows:?}");
    for hook in &hooks {
        let id = hook.field("vodId");
        assert!(rows.iter().any(|row| row["vodId"].as_str() == id.as_deref()), "{id:?} is not among {rows:?}");
    }
    server.receiver.check_promises()
}

#[tokio::test]
async fn picture_and_sound_stay_together_in_a_file() -> Result<()> {
    stay_together("MP4", "mp4").await
}

#[tokio::test]
async fn picture_and_sound_stay_together_in_a_playlist() -> Result<()> {
    stay_together("HLS", "m3u8").await
}

/// Records flashes and beeps, with frames that are shown in another order than they are sent.
async fn stay_together(format: &str, extension: &str) -> Result<()> {
    let flags = ["--recording=On", "--recording-name={streamID}", &format!("--recording-format={format}")];
    let server = Standalone::with(&format!("record-claps-{extension}"), &flags).await?;
    let mut publisher = encode(&server, "claps", &[CLAPS[0], CLAPS[1], "-t 12", H264, AAC])?;
    publisher.process.wait(SOON).await?;
    ready(&server, 1).await?;

    let apart = probe::claps(&storage(&server).join(format!("claps.{extension}")))?;
    assert_eq!(apart.len(), 6, "from the begin to the end: {apart:?}");
    assert!(apart.iter().all(|apart| apart.abs() <= OFFSET), "beeps are off by {apart:?} s");
    Ok(())
}

/// What an encoder sends: the messages of a file that it writes.
fn flv(folder: &Path, name: &str, arguments: &[&str]) -> Result<Vec<Message>> {
    let path = folder.join(format!("{name}.flv"));
    media::write_enhanced(arguments, &path)?;
    Ok(rtmp::flv::messages(fs::read(&path)?.into()))
}

/// One stream of several, as of an encoder whose settings are changed while it sends.
fn one_after_the_other(clips: &[Vec<Message>]) -> Vec<Message> {
    let (mut all, mut start): (Vec<Message>, u32) = (Vec::new(), 0);
    for clip in clips {
        let mut end = start;
        for message in clip {
            let timestamp_ms = start + message.timestamp_ms;
            end = end.max(timestamp_ms);
            all.push(Message { timestamp_ms, ..message.clone() });
        }
        start = end + 40;
    }
    all
}
