//! Streams as encoders send them, without B-frames, and their frames.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use media_core::{Kind, MediaTime, Packet, Role, Timescale, Track};
use media_rtp::Codec;
use rtmp::tag::{Part, VideoTag};
use tests::{flv, media};

const VIDEO: &str = "-f lavfi -i testsrc2=size=640x360:rate=25 -t 3 -g 25";

/// A stream of three seconds, with a keyframe each second; and the file that it is of.
pub(crate) struct Stream {
    pub(crate) codec: Codec,
    pub(crate) file: std::path::PathBuf,
    pub(crate) packets: Vec<Packet>,
}

pub(crate) fn h264(folder: &Path) -> Result<Stream> {
    let encoder = "-pix_fmt yuv420p -c:v libx264 -preset veryfast -tune zerolatency -profile:v high";
    flv(folder, Codec::H264, encoder)
}

pub(crate) fn h265(folder: &Path) -> Result<Stream> {
    let encoder =
        "-pix_fmt yuv420p -c:v libx265 -preset ultrafast -x265-params log-level=none:info=0:bframes=0:keyint=25";
    flv(folder, Codec::H265, encoder)
}

pub(crate) fn vp9(folder: &Path) -> Result<Stream> {
    flv(folder, Codec::Vp9, "-pix_fmt yuv420p -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 2M")
}

pub(crate) fn av1(folder: &Path) -> Result<Stream> {
    flv(folder, Codec::Av1, "-pix_fmt yuv420p -c:v libaom-av1 -usage realtime -cpu-used 8 -b:v 2M")
}

/// FFmpeg puts no VP8 into FLV, so the tags are those that the specification says.
pub(crate) fn vp8(folder: &Path) -> Result<Stream> {
    const HEADER: usize = 32;
    const FRAME_HEADER: usize = 12;

    let file = folder.join("vp8.ivf");
    media::write_enhanced(&[VIDEO, "-pix_fmt yuv420p -c:v libvpx -deadline realtime -cpu-used 8 -b:v 2M"], &file)?;
    let bytes = fs::read(&file)?;
    let mut rest = bytes.get(HEADER..).context("an IVF header")?;
    let mut packets = vec![packet(0, Role::Header, b"\x90vp08\0\0\x82\x02\x02\x02\0\0")];
    while let Some((header, tail)) = rest.split_first_chunk::<FRAME_HEADER>() {
        let size = usize::try_from(u32::from_le_bytes([header[0], header[1], header[2], header[3]]))?;
        let (frame, tail) = tail.split_at_checked(size).context("a frame")?;
        let is_key = frame.first().is_some_and(|first| first & 1 == 0);
        let (first, role) = if is_key { (0x91, Role::Key) } else { (0xA1, Role::Dependent) };
        let millis = i64::try_from(packets.len() - 1)? * 40;
        packets.push(packet(millis, role, &[&[first], &b"vp08"[..], frame].concat()));
        rest = tail;
    }
    Ok(Stream { codec: Codec::Vp8, file, packets })
}

fn flv(folder: &Path, codec: Codec, encoder: &str) -> Result<Stream> {
    let file = folder.join("source.flv");
    media::write_enhanced(&[VIDEO, encoder], &file)?;
    let packets = flv::packets(&file)?.into_iter().filter(|packet| packet.track.kind == Kind::Video);
    Ok(Stream { codec, packets: packets.collect(), file })
}

fn packet(millis: i64, role: Role, payload: &[u8]) -> Packet {
    let time = MediaTime::new(millis, Timescale::MILLIS);
    Packet::new(Track::first(Kind::Video), time, role, Bytes::copy_from_slice(payload))
}

/// A frame as a decoder gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) millis: i64,
    pub(crate) keyframe: bool,
    pub(crate) data: Bytes,
}

/// The frames of a stream, on its own clock. What RTP does not carry is left out: AV1's temporal delimiters.
pub(crate) fn frames(packets: &[Packet]) -> Vec<Frame> {
    let mut frames = Vec::new();
    for packet in packets {
        let tag = VideoTag::parse(&packet.payload).unwrap();
        let data = packet.payload.slice(tag.data_offset..);
        let is_delimited = tag.codec == Some(rtmp::tag::VideoCodec::Av1) && data.starts_with(&[0x12, 0]);
        let data = if is_delimited { data.slice(2..) } else { data };
        if tag.part == Part::Coded && !data.is_empty() {
            assert_eq!(tag.composition_time_ms, 0, "the encoders make no B-frames");
            frames.push(Frame { millis: packet.time.as_millis(), keyframe: tag.keyframe, data });
        }
    }
    frames
}

/// What a decoder makes of each frame of a file, as sums.
pub(crate) fn pictures(file: &Path) -> Result<Vec<String>> {
    sums(file, "")
}

/// As [`pictures`], of a file of pictures that are decoded.
pub(crate) fn raw_pictures(file: &Path) -> Result<Vec<String>> {
    sums(file, "-f rawvideo -pix_fmt yuv420p -video_size 640x360")
}

fn sums(file: &Path, format: &str) -> Result<Vec<String>> {
    let output = Command::new(tests::repository::cached("ffmpeg9")?)
        .args("-hide_banner -nostdin -loglevel error".split(' '))
        .args(format.split_whitespace())
        .arg("-i")
        .arg(file)
        .args("-map 0:v -fps_mode passthrough -f framemd5 -".split(' '))
        .output()
        .context("failed to run ffmpeg; run: tests/setup.sh")?;
    ensure!(output.status.success(), "{} does not decode: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let sums = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit(',').next());
    Ok(sums.map(|sum| sum.trim().to_owned()).collect())
}
