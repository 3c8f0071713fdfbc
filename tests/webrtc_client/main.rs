//! The harness' WebRTC client as a program: for a network namespace, or a machine of a cluster. It prints what it saw as one line of JSON.
#![allow(clippy::print_stdout, reason = "what it saw is its product")]

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use tests::webrtc::{self, Client, Clip, Loss, Options, Seen, Srtp, Track, Transport};
use tokio::time::{Instant, sleep_until};

#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Where the offer is posted.
    url: String,
    /// Publish the pictures of this FLV file, again and again, instead of playing.
    #[arg(long)]
    publish: Option<PathBuf>,
    /// For so long; then the session is ended.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[arg(long, value_enum, default_value_t = Over::Udp)]
    over: Over,
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// The share of datagrams that is lost on the way here, from 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    lose_received: f64,
    /// The same on the way to the server.
    #[arg(long, default_value_t = 0.0)]
    lose_sent: f64,
    /// Protect media with that alone.
    #[arg(long, value_enum)]
    srtp: Option<Protection>,
    /// A bearer token.
    #[arg(long)]
    token: Option<String>,
    /// End without DELETE, as a client that is killed.
    #[arg(long)]
    vanish: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Over {
    Udp,
    Tcp,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Protection {
    Gcm,
    Sha1,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let options = Options {
        transport: match arguments.over {
            Over::Udp => Transport::Udp,
            Over::Tcp => Transport::Tcp,
        },
        bind: arguments.bind,
        loss: Loss { received: arguments.lose_received, sent: arguments.lose_sent },
        srtp: match arguments.srtp {
            None => Srtp::Any,
            Some(Protection::Gcm) => Srtp::Gcm,
            Some(Protection::Sha1) => Srtp::Sha1,
        },
        token: arguments.token,
        ..Options::default()
    };
    let mut client = match &arguments.publish {
        Some(file) => webrtc::publish(&arguments.url, &Clip::flv(file)?, &options).await?,
        None => webrtc::play(&arguments.url, &options).await?,
    };
    client.connected().await?;
    sleep_until(Instant::now() + Duration::from_secs(arguments.seconds)).await;
    let first_picture = client.first_picture_after();
    let seen = if arguments.vanish { client.seen() } else { close(client).await? };
    println!("{}", report(&seen, first_picture));
    Ok(())
}

async fn close(client: Client) -> Result<Seen> {
    client.close().await
}

fn report(seen: &Seen, first_picture: Option<Duration>) -> Value {
    let millis = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64() * 1e3);
    let Seen { state, answered_after, connected_after, video, audio, codecs, sent } = seen;
    json!({
        "state": format!("{state:?}"),
        "answered_ms": millis(*answered_after),
        "connected_ms": millis(*connected_after),
        "first_picture_ms": millis(first_picture),
        "codecs": codecs,
        "video": track(video),
        "audio": track(audio),
        "sent": {
            "packets": sent.packets,
            "bytes": sent.bytes,
            "frames": sent.frames,
            "keyframe_requests": sent.keyframe_requests,
            "nacks": sent.nacks,
        },
    })
}

fn track(track: &Track) -> Value {
    json!({
        "packets": track.packets,
        "bytes": track.bytes,
        "frames": track.frames,
        "keyframes": track.keyframes,
        "recovered": track.recovered,
        "duplicates": track.duplicates,
        "lost": track.lost,
        "nacked": track.nacked,
        "keyframe_requests": track.keyframe_requests,
        "freezes": track.freezes,
        "frozen_ms": track.frozen.as_secs_f64() * 1e3,
    })
}
