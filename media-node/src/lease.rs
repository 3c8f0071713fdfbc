//! The heartbeat of a node in a cluster: one Lease, named as the node. From its age the operator tells a lost node.

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{Api, Client, api::PostParams};
use tallylight_crds::{
    COMPONENT_LABEL, DRAINING_ANNOTATION, MEDIA_NODE_COMPONENT, POOL_LABEL, RELAY_ADDRESS_ANNOTATION,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    cli::RunArgs,
    load::Load,
    metrics::{Metrics, Outcome},
};

/// A node whose Lease is older than this is lost.
const DURATION_SECONDS: i32 = 15;
/// A third of the duration, so that two renewals may fail.
const RENEW: Duration = Duration::from_secs(5);
/// Pause after a renewal that failed.
const RETRY: Duration = Duration::from_secs(1);
/// Longest wait for an answer. A renewal after one that failed asks twice: together with it that is still within the duration when
/// each answer takes 2 s.
const ANSWER: Duration = Duration::from_secs(4);

/// Keeps a Lease.
pub(crate) struct Keeper {
    api: Api<Lease>,
    fresh: Lease,
    known: Option<Lease>,
    failing: bool,
    load: Load,
    /// Where other nodes reach this one; empty without a relay.
    relay_address: String,
    /// Cancelled when the node begins to drain.
    draining: CancellationToken,
    metrics: Metrics,
}

impl Keeper {
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        args: &RunArgs,
        relay_address: Option<&str>,
        draining: CancellationToken,
        metrics: Metrics,
    ) -> Self {
        let owner = args.pod_uid.as_ref().map(|uid| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: args.node_name.clone(),
            uid: uid.clone(),
            ..OwnerReference::default()
        });
        let labels = [(POOL_LABEL, args.pool.as_str()), (COMPONENT_LABEL, MEDIA_NODE_COMPONENT)];
        let metadata = ObjectMeta {
            name: Some(args.node_name.clone()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        };
        let spec = LeaseSpec {
            holder_identity: Some(args.node_name.clone()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            ..LeaseSpec::default()
        };
        let fresh = Lease { metadata, spec: Some(spec) };
        Self {
            api: Api::namespaced(client, namespace),
            fresh,
            known: None,
            failing: false,
            load: Load::new(metrics.clone()),
            relay_address: relay_address.unwrap_or_default().to_owned(),
            draining,
            metrics,
        }
    }

    /// Renews until cancelled, and at once when the node begins to drain. `held` turns true with the first success.
    pub(crate) async fn run(mut self, held: watch::Sender<bool>, until: CancellationToken) {
        loop {
            let is_draining = self.draining.is_cancelled();
            let renewed = tokio::select! {
                renewed = self.renew(is_draining) => renewed,
                () = until.cancelled() => return,
            };
            let pause = match renewed {
                Ok(()) => self.renewed(&held),
                Err(error) => self.failed(&error),
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.draining.cancelled(), if !is_draining => {}
                () = until.cancelled() => return,
            }
        }
    }

    fn renewed(&mut self, held: &watch::Sender<bool>) -> Duration {
        if std::mem::take(&mut self.failing) {
            info!("the Lease is renewed again");
        }
        self.metrics.lease_renewed(Outcome::Ok);
        held.send_replace(true);
        RENEW
    }

    /// Warns of the first failure in a row.
    fn failed(&mut self, why: &dyn fmt::Display) -> Duration {
        if !std::mem::replace(&mut self.failing, true) {
            warn!(error = %why, "failed to renew the Lease; it is tried each second");
        }
        self.known = None; // it may have been written, or by somebody else: read it again
        self.metrics.lease_renewed(Outcome::Failed);
        RETRY
    }

    async fn renew(&mut self, is_draining: bool) -> Result<(), Error> {
        let name = self.fresh.metadata.name.clone().unwrap_or_default();
        let found = match self.known.take() {
            Some(known) => Some(known),
            None => answered(self.api.get_opt(&name)).await?,
        };
        let now = MicroTime(Timestamp::now());
        let mut next = self.fresh.clone();
        let mut annotations = self.load.annotations();
        // also when it does not: the container before this one may have said that it does
        annotations.insert(DRAINING_ANNOTATION.to_owned(), is_draining.to_string());
        annotations.insert(RELAY_ADDRESS_ANNOTATION.to_owned(), self.relay_address.clone());
        next.metadata.annotations = Some(annotations);
        let spec = next.spec.get_or_insert_default();
        spec.renew_time = Some(now.clone());
        let held_before = found.as_ref().and_then(|lease| lease.spec.as_ref()?.acquire_time.clone());
        spec.acquire_time = Some(held_before.unwrap_or(now));
        let answer = match found {
            None => answered(self.api.create(&PostParams::default(), &next)).await?,
            Some(found) => {
                next.metadata.resource_version = found.metadata.resource_version;
                // what others put there stays
                next.metadata.annotations = Some(merged(found.metadata.annotations, next.metadata.annotations));
                next.metadata.labels = Some(merged(found.metadata.labels, next.metadata.labels));
                answered(self.api.replace(&name, &PostParams::default(), &next)).await?
            }
        };
        self.known = Some(answer);
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the API server refuses: {0}")]
    Refused(Box<kube::Error>),
    #[error("the API server does not answer")]
    Silent,
}

async fn answered<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    match timeout(ANSWER, request).await {
        Ok(answer) => answer.map_err(|error| Error::Refused(Box::new(error))),
        Err(_elapsed) => Err(Error::Silent),
    }
}

type Pairs = BTreeMap<String, String>;

fn merged(found: Option<Pairs>, ours: Option<Pairs>) -> Pairs {
    let mut all = found.unwrap_or_default();
    all.extend(ours.unwrap_or_default());
    all
}
