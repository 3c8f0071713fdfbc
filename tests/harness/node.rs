//! The ledger's side of a media-node, without media: what a suite of the operator needs of one. It has a Pod object, the
//! token of that pod, a Lease that it renews, and claims and ends sessions as the media-node does.

use std::time::Duration;

use anyhow::{Result, bail};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use ledger::{Claim, Committed, Input, Key, KubeStore, Owner, Store, commit};
use serde_json::json;
use tallylight_crds::{Broadcast, COMPONENT_LABEL, MEDIA_NODE_COMPONENT, POOL_LABEL, Protocol, Reason};
use tokio::task::JoinSet;

use crate::{identity, install::Tenant};

/// As the media-node renews.
const RENEWAL: Duration = Duration::from_secs(5);
/// At one input; each may take 10 s.
const ATTEMPTS: u32 = 3;

/// A node that lives as long as its handle, or until it is silenced.
pub struct Node {
    store: KubeStore,
    namespace: String,
    name: String,
    heartbeat: JoinSet<()>,
}

impl Node {
    /// Makes the pod and the Lease, and begins to renew.
    ///
    /// # Errors
    /// When a node of that name exists.
    pub async fn start(tenant: &Tenant, pool: &str, name: &str) -> Result<Self> {
        let client = tenant.plane.client(&tenant.media_pod(pool, name).await?).await?;
        let leases = Api::<Lease>::namespaced(client.clone(), &tenant.namespace);
        let mut lease = Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(name.to_owned()),
                lease_duration_seconds: Some(15),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        lease.metadata.name = Some(name.to_owned());
        let labels = [(POOL_LABEL, pool), (COMPONENT_LABEL, MEDIA_NODE_COMPONENT)];
        lease.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        leases.create(&PostParams::default(), &lease).await?;
        let mut heartbeat = JoinSet::new();
        heartbeat.spawn(renew(leases, name.to_owned()));
        let store = KubeStore::new(client, "tallylight-media-node");
        Ok(Self { store, namespace: tenant.namespace.clone(), name: name.to_owned(), heartbeat })
    }

    /// Speaks for a pod that is there, whose Lease a [`Kubelet`](crate::kubelet::Kubelet) renews.
    ///
    /// # Errors
    /// When its token is refused.
    pub async fn of_pod(tenant: &Tenant, pod: &Pod) -> Result<Self> {
        let name = pod.name_any();
        let credential = identity::of_pod(&tenant.admin, &tenant.namespace, pod).await?;
        let store = KubeStore::new(tenant.plane.client(&credential).await?, "tallylight-media-node");
        Ok(Self { store, namespace: tenant.namespace.clone(), name, heartbeat: JoinSet::new() })
    }

    pub(crate) fn store(&self) -> &KubeStore {
        &self.store
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Stops renewing the Lease, as a node does that is cut off or dead; its pod object stays.
    pub async fn silence(&mut self) {
        self.heartbeat.shutdown().await;
    }

    /// Opens a session.
    ///
    /// # Errors
    /// When the Broadcast is not there or not free, or the store does not answer.
    pub async fn open(&self, broadcast: &str) -> Result<Owner> {
        let claim = Claim {
            id: uuid::Uuid::new_v4().to_string(),
            node: self.name.clone(),
            address: Some("127.0.0.1".to_owned()),
            protocol: Protocol::Rtmp,
            time: Timestamp::now(),
        };
        let opened = self.commit(broadcast, &Input::Claim(claim)).await?;
        Ok(Owner::of(&opened.status_or_default().session))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// When it is not this node's any more.
    pub async fn end(&self, broadcast: &str, owner: Owner, reason: Reason) -> Result<()> {
        self.commit(broadcast, &Input::End { owner, reason, time: Timestamp::now() }).await?;
        Ok(())
    }

    /// Opens a session and ends it at once.
    ///
    /// # Errors
    /// As [`Node::open`].
    pub async fn session(&self, broadcast: &str) -> Result<()> {
        let owner = self.open(broadcast).await?;
        self.end(broadcast, owner, Reason::PublisherClosed).await
    }

    /// Without an answer the same input is given again, as media nodes do: it takes effect once.
    async fn commit(&self, broadcast: &str, input: &Input) -> Result<Box<Broadcast>> {
        let key = Key { namespace: self.namespace.clone(), name: broadcast.to_owned() };
        let mut attempts = 1;
        loop {
            match self.attempt(&key, input).await {
                Err(ledger::Error::Unavailable { .. }) if attempts < ATTEMPTS => attempts += 1,
                Ok(Some(Committed::Done(broadcast))) => return Ok(broadcast),
                other => bail!("{input:?} of {key}: {other:?}"),
            }
        }
    }

    async fn attempt(&self, key: &Key, input: &Input) -> Result<Option<Committed>, ledger::Error> {
        match self.store.get(key).await? {
            Some(known) => commit(&self.store, &known, input).await.map(Some),
            None => Ok(None),
        }
    }
}

async fn renew(leases: Api<Lease>, name: String) {
    let mut ticks = tokio::time::interval(RENEWAL);
    loop {
        ticks.tick().await;
        let renewed = Patch::Merge(json!({"spec": {"renewTime": MicroTime(Timestamp::now())}}));
        // An outage is the test's own doing; the next renewal tells.
        drop(leases.patch(&name, &PatchParams::default(), &renewed).await);
    }
}
