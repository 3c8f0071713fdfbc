//! How long sessions wait for a publisher that is away, by pool.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use tallylight_crds::{Broadcast, Reason};

/// The reconnect windows of the pools. Clones share them.
#[derive(Debug, Clone)]
pub struct Windows {
    default: Duration,
    pools: Arc<RwLock<BTreeMap<String, Duration>>>,
}

impl Windows {
    /// One window for every pool that is not said to have another.
    #[must_use]
    pub fn new(default: Duration) -> Self {
        Self { default, pools: Arc::default() }
    }

    /// Says which pools have which.
    pub fn set(&self, pools: BTreeMap<String, Duration>) {
        *self.pools.write().unwrap_or_else(PoisonError::into_inner) = pools;
    }

    /// Until when the publisher is awaited whose session would end at `time`; `None` when it ends.
    pub(super) fn awaited(&self, broadcast: &Broadcast, reason: Reason, time: Timestamp) -> Option<Timestamp> {
        match reason {
            Reason::PublisherClosed | Reason::Stopped => return None,
            Reason::PublisherLost | Reason::PublisherTimeout | Reason::NodeShutdown | Reason::NodeLost => {}
        }
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        let window = pools.get(&broadcast.spec.pool).copied().unwrap_or(self.default);
        (!window.is_zero()).then(|| time.saturating_add(window).unwrap_or(Timestamp::MAX))
    }
}
