//! What most tests here begin with: a tenant with a pool, a receiver, a node, and the operator under its own account.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    install::{self, Tenant},
    node::Node,
    receiver::Receiver,
    repository,
    service::{Launch, Service},
};

/// Within this everything happens that is not waiting for a schedule; a busy machine is slow.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) struct Stage {
    // Dropped in this order: the operator before what it talks to.
    pub(crate) operator: Option<Service>,
    pub(crate) node: Node,
    pub(crate) receiver: Receiver,
    pub(crate) tenant: Tenant,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) folder: TempDir,
}

impl Stage {
    /// Everything, with the operator running.
    pub(crate) async fn new(name: &str, pool: Value) -> Result<Self> {
        let mut stage = Self::without_operator(name, pool).await?;
        stage.start_operator().await?;
        Ok(stage)
    }

    /// Everything but the operator.
    pub(crate) async fn without_operator(name: &str, pool: Value) -> Result<Self> {
        let folder = repository::folder(name)?;
        let tenant = install::tenant(name).await?;
        tenant.pool(&pool).await?;
        let node = Node::start(&tenant, "live", "media-live-1").await?;
        let receiver = Receiver::start().await?;
        let kubeconfig = tenant.operator_kubeconfig(folder.path()).await?;
        Ok(Self { operator: None, node, receiver, tenant, kubeconfig, folder })
    }

    pub(crate) fn launch(&self) -> Launch {
        Launch::operator(self.folder.path(), &self.kubeconfig, &self.tenant.namespace)
    }

    pub(crate) async fn start_operator(&mut self) -> Result<()> {
        self.operator = Some(self.launch().start().await?);
        Ok(())
    }

    /// Makes a Broadcast whose events come to the receiver.
    pub(crate) async fn broadcast(&self, name: &str) -> Result<()> {
        self.tenant.broadcast(name, &json!({"listenerHookURL": self.receiver.url("hook")})).await
    }
}
