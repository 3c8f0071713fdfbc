//! The operator: holds no media code, turns the status of Broadcasts into webhooks.

mod attempts;
mod broadcast;
mod cli;
mod controllers;
mod crd;
mod default_pool;
mod deliver;
mod events;
mod health;
mod leader;
mod metrics;
mod node_watch;
mod nodes;
mod paused;
mod pool;
mod pool_keys;
mod recording;
mod resolve;
mod rest_api;
mod run;
mod scope;
mod secrets;
mod telemetry;

use anyhow::Context as _;
use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    match cli::Cli::parse().command {
        cli::Command::Crd(args) => {
            crd::write(args.format, args.output_dir.as_deref()).context("failed to write the definitions")
        }
        cli::Command::Run(args) => {
            telemetry::init(args.log_format);
            rustls::crypto::ring::default_provider()
                .install_default()
                .ok()
                .context("failed to choose a TLS provider")?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(run::run(*args))
        }
    }
}
