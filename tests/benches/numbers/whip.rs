//! Publishers over WHIP: how many streams a core takes in.

use anyhow::Result;
use tests::repository;

use crate::{
    load::{self, number},
    machine, say,
    spread::Spread,
    whep::alone,
};

const CLIP: &str = "TALLYLIGHT_BENCH_WHIP_CLIP";
const ROUNDS: usize = 3;
const PUBLISHERS: usize = 60;

pub(crate) async fn measure() -> Result<()> {
    let mut reports = Vec::new();
    for _ in 0..ROUNDS {
        let folder = repository::folder("whip")?;
        machine::keep_to_core(0)?;
        let server = alone(folder.path(), 1).await?;
        machine::use_all_cores()?;
        let mut command = std::process::Command::new("taskset");
        command.args(["--cpu-list", "1"]).arg(repository::binary("webrtc-load")?).arg("publish");
        command.args(["--url", &format!("http://{}/LiveApp/whip", server.address("http")?)]);
        command.args(["--publishers", &PUBLISHERS.to_string(), "--pid", &server.process.id().to_string()]);
        command.arg("--clip").arg(load::clip(CLIP)?);
        reports.push(load::report(folder.path(), command).await?);
    }
    let of = |pointer: &str, factor: f64| {
        Spread::of(reports.iter().map(|report| number(report, pointer).map_or(f64::NAN, |value| value * factor)))
    };
    say(&format!(
        "\n### WHIP, {PUBLISHERS} publishers of 2.5 Mbit/s\n\n{ROUNDS} rounds; median (least–greatest)\n\n\
         | streams a core (must be ≥ 150) | core % | MiB | Mbit/s sent | latest frame ms | load client % |\n\
         | --- | --- | --- | --- | --- | --- |\n| {} | {} | {} | {} | {} | {} |",
        of("/server_streams_a_core", 1.0),
        of("/server_cores", 100.0),
        of("/server_resident_kib", 1.0 / 1024.0),
        of("/sent_bits_per_second", 1e-6),
        of("/latest_ms", 1.0),
        of("/client_cores", 100.0),
    ));
    Ok(())
}
