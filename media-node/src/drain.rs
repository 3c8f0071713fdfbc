//! What a node does between the signal to stop and its end: it takes no more publishers, and lets those that it has go on or
//! sends them to other nodes, until it has no session any more.

use std::time::Duration;

use ledger::Store;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::claim::Claims;

/// Before publishers are sent to other nodes: by then no Service sends them here again. Endpoints follow a pod within a second,
/// and load balancers, which ask `/readyz`, within two or three.
const UNLISTED: Duration = Duration::from_secs(3);
/// Pause between two publishers that are sent away. Each costs the store two writes, and two cores of control plane carry about
/// 200 a second.
const SPREAD: Duration = Duration::from_millis(20);
/// Pause before those are asked again who could not hear it, because their claim was under way.
const AGAIN: Duration = Duration::from_millis(100);
/// Time that is kept for the ends of those who are still there, or for a drain time of less than twice as much, half of it.
const LAST: Duration = Duration::from_secs(5);

/// Waits until no publisher of this node has a Broadcast, or almost until the deadline.
pub(crate) async fn drain<S: Store>(
    claims: &Claims<S>,
    draining: &CancellationToken,
    window: Duration,
    deadline: Instant,
) {
    draining.cancel();
    let left = deadline.saturating_duration_since(Instant::now());
    let latest = deadline - LAST.min(left / 2);
    if window.is_zero() {
        info!(sessions = claims.held().len(), "publishers may go on until the end of the drain time");
    } else if timeout_at(latest.min(Instant::now() + UNLISTED.min(left / 4)), claims.idle()).await.is_err() {
        info!(sessions = claims.held().len(), "publishers are sent to other nodes");
        let _in_time = timeout_at(latest, send_away(claims)).await;
    }
    let _in_time = timeout_at(latest, claims.idle()).await;
}

async fn send_away<S: Store>(claims: &Claims<S>) {
    loop {
        let held = claims.held();
        if held.is_empty() {
            return;
        }
        for key in held {
            claims.ask_to_leave(&key);
            sleep(SPREAD).await;
        }
        sleep(AGAIN).await;
    }
}
