//! `standalone --demo`: shows the whole way on one machine. A built-in clip is published to this server through real RTMP,
//! and a built-in receiver prints each hook as it arrives.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::announce::print;
use crate::cli::{DEFAULT_DATA_DIR, StandaloneArgs};

mod clip;
pub(crate) mod publisher;
mod receiver;

pub(super) use receiver::Receiver;

/// Id of the clip's stream.
pub(super) const STREAM: &str = "demo";

/// How long the clip is on air: long enough to look at it in a player, short enough to wait for its end.
const ON_AIR: Duration = Duration::from_secs(20);

/// A folder that goes with the demo.
#[derive(Debug)]
pub(super) struct ScratchDir(PathBuf);

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // what is left is in the system's folder for such things
        let _removed = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes of the flags what the demo needs: a folder of its own unless one is given, and the receiver as default URL.
pub(super) async fn prepare(args: &mut StandaloneArgs) -> anyhow::Result<(Option<Receiver>, Option<ScratchDir>)> {
    let mut scratch = None;
    if args.node.data_dir.as_os_str() == DEFAULT_DATA_DIR {
        let folder = std::env::temp_dir().join(format!("tallylight-demo-{}", std::process::id()));
        args.node.data_dir.clone_from(&folder);
        scratch = Some(ScratchDir(folder));
    }
    let mut receiver = None;
    if args.listener_hook_url.is_none() {
        let bound = Receiver::bind().await.context("failed to listen for the demo's hooks")?;
        args.listener_hook_url = Some(bound.url());
        receiver = Some(bound);
    }
    Ok((receiver, scratch))
}

/// Publishes the clip for a while, then says how to go on.
pub(super) async fn show(rtmp: SocketAddr, app: String, until: CancellationToken) {
    let seconds = ON_AIR.as_secs();
    print(&format!("demo     the built-in clip goes on air as {app}/{STREAM} for {seconds} s\n"));
    let published = publisher::publish(rtmp, &app, STREAM, ON_AIR);
    match until.run_until_cancelled(published).await {
        None => {}
        Some(Ok(())) => print(
            "demo     the clip is over; this server stays: publish something of your own, or stop it with Ctrl-C\n",
        ),
        Some(Err(error)) => warn!("failed to publish the demo's clip: {error:#}"),
    }
}
