//! Loads a WebRTC server with many viewers, and prints what came of it as one line of JSON; and is the servers that ours is
//! compared with.
//!
//! The viewers are on `str0m`, which shares nothing with the servers. They decrypt what they get and report on it as browsers do; with
//! `--light` most only count, so that one core of viewers can fill one core of a server.

mod clip;
mod http;
mod janus;
mod peer;
mod publish;
mod rival;
mod server;
mod view;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plays a stream many times.
    View(ViewArguments),
    /// Publishes a clip as many streams, over WHIP.
    Publish(PublishArguments),
    /// Serves a clip over WHEP, on other stacks than ours or on ours alone, without an end.
    Serve(ServeArguments),
    /// Sends a clip as plain RTP, without an end: what Janus' streaming plugin takes.
    Rtp(RtpArguments),
}

#[derive(Debug, Args)]
struct ViewArguments {
    /// Where an offer is posted, as in http://127.0.0.1:5080/LiveApp/whep/load-0; or Janus' root, as in http://127.0.0.1:8088/janus.
    #[arg(long)]
    url: String,
    #[arg(long, value_enum, default_value_t = Signalling::Whep)]
    signalling: Signalling,
    #[arg(long, default_value_t = 100)]
    viewers: usize,
    /// Viewers that join in a second.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Offer sound, too.
    #[arg(long)]
    sound: bool,
    /// Only one in twenty decrypts and reports; the others count, and are silent but for ICE.
    #[arg(long)]
    light: bool,
    /// Where the viewers are.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    ip: IpAddr,
    /// Seconds from the last join to the measurement.
    #[arg(long, default_value_t = 2)]
    warm_up: u64,
    /// Seconds of the measurement.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// The server's processes, for their CPU time and memory.
    #[arg(long)]
    pid: Vec<u32>,
}

#[derive(Debug, Args)]
struct PublishArguments {
    /// The application's address, as in http://127.0.0.1:5080/LiveApp/whip; streams are named load-0, load-1, …
    #[arg(long)]
    url: String,
    /// An FLV file with H.264; it is repeated.
    #[arg(long)]
    clip: PathBuf,
    #[arg(long, default_value_t = 50)]
    publishers: usize,
    /// Seconds from the last publisher's begin to the measurement.
    #[arg(long, default_value_t = 3)]
    warm_up: u64,
    /// Seconds of the measurement.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// The server's processes, for their CPU time and memory.
    #[arg(long)]
    pid: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Signalling {
    Whep,
    /// The streaming plugin of Janus, mountpoint 1.
    Janus,
}

#[derive(Debug, Args)]
struct ServeArguments {
    #[arg(long, value_enum)]
    stack: Stack,
    /// An FLV file with H.264; it is repeated.
    #[arg(long)]
    clip: PathBuf,
    /// Where offers are posted, at any path.
    #[arg(long)]
    http: SocketAddr,
    /// Of ours.
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stack {
    /// Our own workers, without a node around them.
    Ours,
    /// The high-level crate `webrtc`, as its examples use it: a connection a viewer, with a task and a socket of its own.
    Webrtc,
    /// The crate `rtc`, without I/O of its own, on one socket and with segmentation offload.
    Rtc,
}

#[derive(Debug, Args)]
struct RtpArguments {
    /// An FLV file with H.264; it is repeated.
    #[arg(long)]
    clip: PathBuf,
    #[arg(long)]
    to: SocketAddr,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::View(arguments) => say(&view::run(&arguments)?.to_string()),
        Command::Publish(arguments) => say(&publish::run(&arguments)?.to_string()),
        Command::Serve(arguments) => match arguments.stack {
            Stack::Ours => rival::ours::run(&arguments)?,
            Stack::Webrtc => rival::webrtc::run(&arguments)?,
            Stack::Rtc => rival::rtc::run(&arguments)?,
        },
        Command::Rtp(arguments) => rival::plain::run(&arguments)?,
    }
    Ok(())
}

fn say(text: &str) {
    #[expect(clippy::print_stdout, reason = "the report is what this program is for")]
    {
        println!("{text}");
    }
}
