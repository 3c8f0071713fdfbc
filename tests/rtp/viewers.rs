//! What viewers get, put together by GStreamer: our payloads in a capture file.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use media_core::Packet;
use media_rtp::{
    MaxPayload, Payload,
    packetize::{Video, VideoPacketizer},
};
use tests::repository;

use crate::streams::{self, Stream};

#[test]
fn h264_is_put_together_by_gstreamer() -> Result<()> {
    let elements = "rtph264depay ! video/x-h264,stream-format=byte-stream,alignment=au";
    is_put_together("h264", streams::h264, "H264", elements)
}

#[test]
fn h265_is_put_together_by_gstreamer() -> Result<()> {
    let elements = "rtph265depay ! video/x-h265,stream-format=byte-stream,alignment=au";
    is_put_together("h265", streams::h265, "H265", elements)
}

#[test]
fn vp8_is_put_together_by_gstreamer() -> Result<()> {
    is_put_together("vp8", streams::vp8, "VP8", "rtpvp8depay ! vp8dec ! video/x-raw,format=I420")
}

#[test]
fn vp9_is_put_together_by_gstreamer() -> Result<()> {
    is_put_together("vp9", streams::vp9, "VP9", "rtpvp9depay ! vp9dec ! video/x-raw,format=I420")
}

fn is_put_together(
    name: &str,
    stream: impl FnOnce(&Path) -> Result<Stream>,
    encoding: &str,
    elements: &str,
) -> Result<()> {
    let folder = repository::folder(&format!("rtp-viewer-{name}"))?;
    let Stream { file, packets, .. } = stream(folder.path())?;

    let capture = Capture::of(folder.path(), &payloads(&packets))?;
    let caps = format!("application/x-rtp,media=video,clock-rate=90000,encoding-name={encoding},payload=96");
    let output = capture.through(&caps, elements)?;

    let theirs = streams::pictures(&file)?;
    assert_eq!(theirs.len(), 75);
    let is_raw = elements.contains("x-raw");
    let ours = if is_raw { streams::raw_pictures(&output)? } else { streams::pictures(&output)? };
    assert_eq!(ours, theirs);
    Ok(())
}

fn payloads(packets: &[Packet]) -> Vec<(u32, Payload)> {
    let mut packetizer = VideoPacketizer::new(MaxPayload::DEFAULT);
    let frames = packets.iter().filter_map(|packet| match packetizer.push(packet) {
        Video::Frame(frame) => Some(frame),
        Video::Nothing | Video::BFrames | Video::Unsupported(_) | Video::Unreadable => None,
    });
    frames.flat_map(|frame| frame.payloads.into_iter().map(move |payload| (frame.timestamp, payload))).collect()
}

/// A capture file of RTP over UDP, Ethernet and IPv4.
pub(crate) struct Capture(PathBuf);

impl Capture {
    pub(crate) fn of(folder: &Path, packets: &[(u32, Payload)]) -> Result<Self> {
        const PORT: u16 = 5004;

        // magic, version 2.4, no zone, no accuracy, the most bytes of a packet, Ethernet
        let mut file = Vec::new();
        for word in [0xA1B2_C3D4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
            file.extend(word.to_le_bytes());
        }
        for (index, (timestamp, payload)) in packets.iter().enumerate() {
            let mut rtp = vec![0x80, if payload.marker { 0x80 | 96 } else { 96 }];
            rtp.extend(u16::try_from(index)?.to_be_bytes());
            rtp.extend(timestamp.to_be_bytes());
            rtp.extend(7_u32.to_be_bytes());
            payload.write_to(&mut rtp);
            let mut udp = [PORT.to_be_bytes(), PORT.to_be_bytes()].concat();
            udp.extend(u16::try_from(8 + rtp.len())?.to_be_bytes());
            udp.extend([0, 0]);
            let mut ip = vec![0x45, 0];
            ip.extend(u16::try_from(20 + udp.len() + rtp.len())?.to_be_bytes());
            ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
            let ethernet = [&[0; 12][..], &[8, 0]].concat();
            let packet = [ethernet, ip, udp, rtp].concat();
            let length = u32::try_from(packet.len())?;
            let micros = u32::try_from(index)? * 100;
            for word in [micros / 1_000_000, micros % 1_000_000, length, length] {
                file.extend(word.to_le_bytes());
            }
            file.extend(packet);
        }
        let path = folder.join("packets.pcap");
        fs::write(&path, file)?;
        Ok(Self(path))
    }

    /// Writes what elements of GStreamer make of it.
    pub(crate) fn through(&self, caps: &str, elements: &str) -> Result<PathBuf> {
        let path = self.0.with_extension("out");
        let (input, output) = (self.0.display(), path.display());
        let pipeline =
            format!("filesrc location={input} ! pcapparse caps={caps} ! {elements} ! filesink location={output}");
        let ran = Command::new("gst-launch-1.0")
            .arg("-q")
            .args(pipeline.split_whitespace())
            .output()
            .context("failed to run gst-launch-1.0; run: tests/setup.sh")?;
        ensure!(ran.status.success(), "GStreamer failed: {}", String::from_utf8_lossy(&ran.stderr));
        Ok(path)
    }
}
