//! AAC that became Opus, decoded by others: as long as before, and the same tone.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use media_core::Role;
use media_rtp::{
    Payload,
    bridge::AacToOpus,
    packetize::{Audio, AudioPacketizer},
};
use tests::{flv, media, repository};

use crate::viewers::Capture;

/// A tone, five seconds long.
const TONE: &str = "-f lavfi -i sine=frequency=440:sample_rate=48000 -t 5 -c:a aac -b:a 128k";

#[test]
fn stereo_of_48000_hz_is_heard() -> Result<()> {
    is_heard("stereo", "-ac 2 -ar 48000")
}

#[test]
fn mono_of_44100_hz_is_heard() -> Result<()> {
    is_heard("mono", "-ac 1 -ar 44100")
}

#[test]
fn stereo_of_22050_hz_is_heard() -> Result<()> {
    is_heard("low", "-ac 2 -ar 22050")
}

fn is_heard(name: &str, format: &str) -> Result<()> {
    let folder = repository::folder(&format!("rtp-sound-{name}"))?;
    let source = folder.path().join("source.flv");
    media::write(&[TONE, format], &source)?;

    let (mut bridge, mut opus) = (AacToOpus::default(), Vec::new());
    for packet in flv::packets(&source)?.iter().filter(|packet| packet.track.kind == media_core::Kind::Audio) {
        bridge.push(packet, &mut opus)?;
    }
    assert_eq!(opus.iter().filter(|packet| packet.role == Role::Header).count(), 1);

    let mut packetizer = AudioPacketizer::default();
    let payloads: Vec<(u32, Payload)> = opus
        .iter()
        .filter_map(|packet| match packetizer.push(packet) {
            Audio::Frame(frame) => Some((frame.timestamp, frame.payloads.into_iter().next()?)),
            Audio::Nothing | Audio::Unsupported(_) | Audio::Unreadable => None,
        })
        .collect();
    assert!(payloads.windows(2).all(|pair| pair[1].0.wrapping_sub(pair[0].0) == 960), "20 ms each");
    let caps = "application/x-rtp,media=audio,clock-rate=48000,encoding-name=OPUS,payload=96";
    let output = Capture::of(folder.path(), &payloads)?
        .through(caps, "rtpopusdepay ! opusparse ! matroskamux streamable=true")?;

    let samples = samples(&output)?;
    let seconds = samples.len() as f64 / 48_000.0;
    assert!((seconds - 5.0).abs() < 0.1, "{seconds} s");
    // the begin and the end of the tone are not its middle
    let middle = &samples[24_000..samples.len() - 24_000];
    let rises = middle.windows(2).filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0).count();
    let hertz = rises as f64 * 48_000.0 / middle.len() as f64;
    assert!((hertz - 440.0).abs() < 1.0, "{hertz} Hz");
    let loud = middle.iter().fold(0.0_f32, |most, sample| most.max(sample.abs()));
    assert!((0.05..=0.2).contains(&loud), "ffmpeg's tone is an eighth of what there is: {loud}");
    Ok(())
}

fn samples(file: &std::path::Path) -> Result<Vec<f32>> {
    let output = Command::new("ffmpeg")
        .args("-hide_banner -nostdin -loglevel error -i".split(' '))
        .arg(file)
        .args("-ac 1 -ar 48000 -f f32le -".split(' '))
        .output()
        .context("failed to run ffmpeg; run: tests/setup.sh")?;
    ensure!(output.status.success(), "it does not decode: {}", String::from_utf8_lossy(&output.stderr));
    let sample = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    Ok(output.stdout.chunks_exact(4).map(sample).collect())
}
