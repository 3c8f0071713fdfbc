//! Loads an RTMP server with many publishers and players on one thread, and prints what came of it as one line of JSON.
//!
//! It is as cheap as it can be, so that one core of it can fill one core of a server: the media is cut into chunks once
//! and sent from one buffer, and most players only count bytes.

mod clip;
mod connection;
mod hooks;
mod latency;
mod load;
mod player;
mod publisher;
mod server;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Publishes many streams at the pace of their timestamps, and plays them.
    Load(LoadArguments),
    /// Publishes streams one after the other, and measures how long their hooks take.
    Hooks(HookArguments),
}

/// Where the server is and what is published.
#[derive(Debug, Args)]
struct Source {
    /// The application's address, as in rtmp://127.0.0.1:1935/live; streams are named load-0, load-1, …
    #[arg(long)]
    url: String,
    /// An FLV file with H.264 and AAC; it is repeated.
    #[arg(long)]
    clip: PathBuf,
    /// Chunk size of what is published, in bytes: 4096 as OBS sends, 128 as ffmpeg does.
    #[arg(long, default_value_t = 4096)]
    chunk_size: usize,
}

#[derive(Debug, Args)]
struct LoadArguments {
    #[command(flatten)]
    source: Source,
    /// Streams to publish.
    #[arg(long, default_value_t = 1)]
    publishers: usize,
    /// Players, spread evenly over the streams.
    #[arg(long, default_value_t = 0)]
    players: usize,
    /// Seconds from the last start to the measurement.
    #[arg(long, default_value_t = 5)]
    warm_up: u64,
    /// Seconds of the measurement.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// The server's processes, for their CPU time and memory.
    #[arg(long)]
    pid: Vec<u32>,
}

#[derive(Debug, Args)]
struct HookArguments {
    #[command(flatten)]
    source: Source,
    /// Where the hooks come in; port 0 chooses one, which is of use only to a server that is told.
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))]
    listen: SocketAddr,
    /// Publishes in all.
    #[arg(long, default_value_t = 200)]
    count: usize,
    /// Different streams, used in turn.
    #[arg(long, default_value_t = 1)]
    streams: usize,
}

fn main() -> Result<()> {
    let report = match Arguments::parse().command {
        Command::Load(arguments) => load::run(&arguments)?,
        Command::Hooks(arguments) => hooks::run(&arguments)?,
    };
    #[expect(clippy::print_stdout, reason = "the report is what this program is for")]
    {
        println!("{report}");
    }
    Ok(())
}
