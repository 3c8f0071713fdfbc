//! Writes down what a node sees of a publisher while its session lasts.

use ledger::{Input, Key, Store};
use tallylight_crds::FrameOrder;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{Backoff, Claims, OnAir};

impl<S: Store> Claims<S> {
    /// Writes down what was seen of a session's publisher, in the background, for as long as the session is this node's.
    pub(crate) fn note(&self, session: &OnAir, frames: FrameOrder) {
        let (known, owner) = (session.known.clone(), session.owner);
        let (claims, key) = (self.clone(), Key::of(&known));
        self.0.tasks.spawn(async move {
            let input = Input::Note { owner, frames };
            let mut backoff = Backoff::for_ends();
            while claims.on_air(&key).is_some_and(|(_, held)| held == owner) {
                match timeout(backoff.attempt(), ledger::commit(&claims.0.store, &known, &input)).await {
                    Ok(Ok(_)) => return,
                    Ok(Err(error)) => debug!(broadcast = %key, %error, "failed to write down what a publisher sends"),
                    Err(_elapsed) => debug!(broadcast = %key, "the store does not answer"),
                }
                claims.0.metrics.store_error();
                sleep(backoff.next()).await;
            }
        });
    }
}
