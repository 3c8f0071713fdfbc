//! Watches the Broadcasts whose session is this node's, so that publishers hear what others do to them.

use std::collections::HashSet;

use futures::StreamExt;
use kube::{
    Api, Client,
    core::DeserializeGuard,
    runtime::{watcher, watcher::Event},
};
use ledger::{Key, KubeStore, Store};
use tallylight_crds::Broadcast;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{claim::Claims, recording::Recorder};

/// Watches until cancelled.
pub(crate) async fn watch(
    client: Client,
    store: KubeStore,
    namespace: String,
    node: String,
    (claims, recorder): (Claims<KubeStore>, Recorder),
    until: CancellationToken,
) {
    let api: Api<DeserializeGuard<Broadcast>> = Api::namespaced(client, &namespace);
    let config = watcher::Config::default().fields(&format!("status.session.node={node}"));
    let mut events = std::pin::pin!(ledger::watch(api, config));
    let mut listed = HashSet::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = until.cancelled() => return,
        };
        match event {
            None => return,
            Some(Err(error)) => {
                warn!(error = &error as &dyn std::error::Error, "the watch of own sessions failed; it is tried again")
            }
            Some(Ok(Event::Init)) => listed.clear(),
            Some(Ok(Event::InitApply(found))) => {
                listed.extend(see(found, &claims, &recorder));
            }
            Some(Ok(Event::InitDone)) => {
                // A list is as of now: what it does not name, somebody else has, or it is gone.
                for key in claims.held().into_iter().filter(|key| !listed.contains(key)) {
                    look(&store, &claims, &key).await;
                }
            }
            Some(Ok(Event::Apply(found))) => {
                see(found, &claims, &recorder);
            }
            // It no longer is this node's, or it is gone: only a read can tell.
            Some(Ok(Event::Delete(gone))) => {
                if let Ok(broadcast) = gone.0 {
                    look(&store, &claims, &Key::of(&broadcast)).await;
                }
            }
        }
    }
}

fn see(found: DeserializeGuard<Broadcast>, claims: &Claims<KubeStore>, recorder: &Recorder) -> Option<Key> {
    match found.0 {
        Ok(broadcast) => {
            claims.observe(&broadcast);
            recorder.observe(&broadcast);
            Some(Key::of(&broadcast))
        }
        Err(invalid) => {
            debug!(name = invalid.metadata.name, "a Broadcast that cannot be read is left out");
            None
        }
    }
}

async fn look(store: &KubeStore, claims: &Claims<KubeStore>, key: &Key) {
    match store.get(key).await {
        Ok(Some(broadcast)) => claims.observe(&broadcast),
        Ok(None) => claims.observe_gone(key),
        // the session's own end finds out
        Err(error) => debug!(broadcast = %key, %error, "failed to read a Broadcast"),
    }
}
