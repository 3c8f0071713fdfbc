//! Watches the Recordings that this node is responsible for: those that it takes over from another, and those to be deleted.

use futures::StreamExt;
use kube::{
    Api, Client,
    core::DeserializeGuard,
    runtime::{watcher, watcher::Event},
};
use tallylight_crds::Recording;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::recording::Recorder;

/// Watches until cancelled.
pub(crate) async fn watch(
    client: Client,
    namespace: String,
    node: String,
    recorder: Recorder,
    until: CancellationToken,
) {
    let api: Api<DeserializeGuard<Recording>> = Api::namespaced(client, &namespace);
    let config = watcher::Config::default().fields(&format!("spec.node={node}"));
    let mut events = std::pin::pin!(ledger::watch(api, config));
    while let Some(Some(event)) = until.run_until_cancelled(events.next()).await {
        match event {
            Ok(Event::InitApply(found) | Event::Apply(found)) => match found.0 {
                Ok(recording) => recorder.observe_recording(&recording),
                Err(invalid) => debug!(name = invalid.metadata.name, "a Recording that cannot be read is left out"),
            },
            // another node's now, or deleted, which was seen before
            Ok(Event::Init | Event::InitDone | Event::Delete(_)) => {}
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "the watch of own recordings failed; it is tried again"
                );
            }
        }
    }
}
