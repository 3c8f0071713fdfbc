//! What FFmpeg sends as RTP, put together by us.

use std::{
    net::UdpSocket,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use media_core::{Kind, Packet, Track};
use media_rtp::{
    Codec,
    depacketize::{Event, Receiver, Rtp},
};
use tests::repository;

use crate::streams::{self, Stream};

/// Three seconds are sent in real time.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long after the last packet none is awaited any more, when FFmpeg has ended.
const SILENCE: Duration = Duration::from_millis(200);

#[test]
fn h264_of_ffmpeg_is_put_together() -> Result<()> {
    is_put_together("h264", streams::h264, "-bsf:v h264_mp4toannexb")
}

#[test]
fn h265_of_ffmpeg_is_put_together() -> Result<()> {
    is_put_together("h265", streams::h265, "-bsf:v hevc_mp4toannexb")
}

#[test]
fn vp8_of_ffmpeg_is_put_together() -> Result<()> {
    is_put_together("vp8", streams::vp8, "")
}

#[test]
fn vp9_of_ffmpeg_is_put_together() -> Result<()> {
    is_put_together("vp9", streams::vp9, "-strict experimental")
}

#[test]
fn av1_of_ffmpeg_is_put_together() -> Result<()> {
    is_put_together("av1", streams::av1, "-strict experimental")
}

fn is_put_together(name: &str, stream: impl FnOnce(&Path) -> Result<Stream>, options: &str) -> Result<()> {
    let folder = repository::folder(&format!("rtp-foreign-{name}"))?;
    let Stream { codec, file, packets } = stream(folder.path())?;

    let came = streams::frames(&sent_by_ffmpeg(codec, &file, options)?);

    let theirs = streams::frames(&packets);
    assert_eq!(came.len(), theirs.len());
    for (index, (ours, theirs)) in came.iter().zip(&theirs).enumerate() {
        assert_eq!(ours.keyframe, theirs.keyframe, "frame {index}");
        assert!(ours.data == theirs.data, "frame {index}: {} bytes for {}", ours.data.len(), theirs.data.len());
    }
    Ok(())
}

fn sent_by_ffmpeg(codec: Codec, file: &Path, options: &str) -> Result<Vec<Packet>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(SILENCE))?;
    let port = socket.local_addr()?.port();
    // RTCP comes to the same port, as with WebRTC
    let url = format!("rtp://127.0.0.1:{port}?rtcpport={port}&pkt_size=1200");
    let mut ffmpeg = Command::new(repository::cached("ffmpeg9")?)
        .args("-hide_banner -nostdin -loglevel error -re -i".split(' '))
        .arg(file)
        .args("-map 0:v -c copy".split(' '))
        .args(options.split_whitespace())
        .args(["-f", "rtp", &url])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("failed to run ffmpeg; run: tests/setup.sh")?;
    let track = Track::first(Kind::Video);
    let start = Instant::now();
    let (mut receiver, mut events) = (Receiver::new(&[(track, codec)], start), Vec::new());
    let mut datagram = vec![0; 2_048];
    loop {
        ensure!(start.elapsed() < DEADLINE, "ffmpeg does not end");
        match socket.recv(&mut datagram) {
            Ok(length) => {
                if let Some(rtp) = rtp(datagram.get(..length).unwrap_or_default()) {
                    receiver.push(track, rtp, Instant::now(), &mut events);
                }
            }
            Err(_silence) => {
                if let Some(status) = ffmpeg.try_wait()? {
                    ensure!(status.success(), "ffmpeg failed: {status}");
                    break;
                }
            }
        }
    }
    let packets = events.into_iter().filter_map(|event| match event {
        Event::Packet(packet) => Some(packet),
        Event::Missing { .. } | Event::KeyframeNeeded(_) => None,
    });
    Ok(packets.collect())
}

/// A packet without extensions, as FFmpeg sends it; `None` for RTCP.
fn rtp(datagram: &[u8]) -> Option<Rtp> {
    let (header, payload) = datagram.split_first_chunk::<12>()?;
    let &[_, second, s1, s0, t3, t2, t1, t0, ..] = header;
    let is_rtcp = (72..=76).contains(&(second & 0x7F));
    (!is_rtcp).then(|| Rtp {
        sequence: u16::from_be_bytes([s1, s0]),
        timestamp: u32::from_be_bytes([t3, t2, t1, t0]),
        marker: second & 0x80 != 0,
        payload: Bytes::copy_from_slice(payload),
    })
}
