//! Measures what BENCHMARKS.md says, side by side with nginx-rtmp where that can do it, and prints it as Markdown.
//!
//! `make bench` sets up what is needed and runs all of it; `make bench BENCH="ingest play"` runs parts.

mod api;
mod hls;
mod hls_latency;
mod hooks;
mod load;
mod machine;
mod media;
mod muxing;
mod operator_memory;
mod opus;
mod record;
mod relay;
mod scale;
mod server;
mod spread;
mod webrtc_latency;
mod whep;
mod whip;

use std::env;

use anyhow::{Result, bail};

const PARTS: [&str; 22] = [
    "ingest",
    "play",
    "memory",
    "mux",
    "hls",
    "hls-latency",
    "webrtc-latency",
    "record",
    "hooks",
    "api",
    "relay",
    "operator",
    "scale",
    "whep-fan-out",
    "whep-small",
    "whep-workers",
    "whep-memory",
    "whep-joins",
    "whep-idle",
    "whep-loss",
    "whip",
    "opus",
];
/// Stands for all that begin so.
const WHEP: &str = "whep";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut parts: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some(at) = parts.iter().position(|part| part == WHEP) {
        parts.splice(at..=at, PARTS.into_iter().filter(|part| part.starts_with(WHEP)).map(str::to_owned));
    }
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
        bail!("unknown part {unknown}; the parts are: {}", PARTS.join(", "));
    }
    if parts.is_empty() {
        parts = PARTS.map(str::to_owned).to_vec();
    }
    say(&machine::describe()?);
    for part in parts {
        match part.as_str() {
            "ingest" => media::ingest().await?,
            "play" => media::play().await?,
            "memory" => media::memory().await?,
            "mux" => muxing::measure()?,
            "hls" => hls::measure().await?,
            "record" => record::measure().await?,
            "hls-latency" => hls_latency::measure().await?,
            "webrtc-latency" => webrtc_latency::measure().await?,
            "hooks" => hooks::measure().await?,
            "api" => api::measure().await?,
            "relay" => relay::measure().await?,
            "scale" => scale::measure().await?,
            "whep-fan-out" => whep::fan_out().await?,
            "whep-small" => whep::small().await?,
            "whep-workers" => whep::workers().await?,
            "whep-memory" => whep::memory().await?,
            "whep-joins" => whep::joins().await?,
            "whep-idle" => whep::idle().await?,
            "whep-loss" => whep::loss().await?,
            "whip" => whip::measure().await?,
            "opus" => opus::measure()?,
            _ => operator_memory::measure().await?,
        }
    }
    Ok(())
}

/// Prints a line or a table.
fn say(text: &str) {
    #[expect(clippy::print_stdout, reason = "the results are what this program is for")]
    {
        println!("{text}");
    }
}
