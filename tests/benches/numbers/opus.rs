//! What it costs to make Opus of a stream's AAC: once a stream, however many listen.

use std::{hint::black_box, time::Duration};

use anyhow::{Result, ensure};
use media_core::{MediaTime, Packet};
use media_rtp::bridge::AacToOpus;
use rustix::time::{ClockId, clock_gettime};
use tests::flv;

use crate::{load, machine, say, spread::Spread};

const RUNS: usize = 5;
/// 128 kbit/s of two channels: at the rate that Opus has, and at one that is brought to it.
const CLIPS: [(&str, &str); 2] =
    [("48 kHz", "TALLYLIGHT_BENCH_SOUND_48_CLIP"), ("44.1 kHz", "TALLYLIGHT_BENCH_SOUND_44_CLIP")];

pub(crate) fn measure() -> Result<()> {
    machine::keep_to_core(0)?;
    say("\n### AAC → Opus, 128 kbit/s stereo\n\n| sampled at | % of a core a stream | must |\n| --- | --- | --- |");
    for (name, variable) in CLIPS {
        let packets = flv::packets(&load::clip(variable)?)?;
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            runs.push(bridge(&packets)?);
        }
        say(&format!("| {name} | {} | ≤ 0.6 |", Spread::of(runs.into_iter().map(|share| share * 100.0))));
    }
    machine::use_all_cores()
}

/// The part of a core that a stream takes.
fn bridge(packets: &[Packet]) -> Result<f64> {
    let (mut bridge, mut out, begin) = (AacToOpus::default(), Vec::new(), cpu());
    for packet in packets {
        // what cannot be bridged is no sound
        let _unbridged = bridge.push(packet, &mut out);
    }
    let used = cpu() - begin;
    ensure!(out.len() > 1, "no sound came of it");
    black_box(&out);
    let seconds = |time: MediaTime| time.ticks() as f64 / f64::from(time.timescale().ticks_per_second());
    let times: Vec<f64> = out.iter().map(|packet| seconds(packet.time)).collect();
    let length = times.iter().copied().fold(0.0, f64::max) - times.iter().copied().fold(f64::INFINITY, f64::min);
    Ok(used.as_secs_f64() / length)
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
