//! `tallylight-media-node`: takes streams in, plays them out, and reports their state. `run` is a pod of a cluster,
//! `standalone` a whole server.

use std::process::ExitCode;

use tallylight_media_node::{check, cli, run, standalone, telemetry};

/// Packets are many short-lived buffers that one thread makes and another frees.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = match cli::parse() {
        Ok(command) => command,
        Err(error) => error.exit(),
    };
    if let Some(node) = command.node() {
        telemetry::init(node);
    }
    let done =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Into::into).and_then(|runtime| {
            let done = match command {
                cli::Command::Run(args) => runtime.block_on(run::run(*args)),
                cli::Command::Standalone(args) => runtime.block_on(standalone::run(*args)),
                cli::Command::Check(args) => runtime.block_on(check::run(*args)),
            };
            // All that is ours has ended; a thread that waits for a disk may be left.
            runtime.shutdown_background();
            done
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
