//! Reads at what address the machines of media pods are reached, which are Nodes of Kubernetes.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};

use super::{
    Error,
    addresses::{Machines, of_machine},
    plan,
};
use crate::scope::Scope;

/// Reads Nodes, if that is allowed.
pub(super) struct Reader {
    /// None when the operator is confined to namespaces: a Role grants nothing of the cluster's.
    nodes: Option<Api<Node>>,
    is_forbidden: AtomicBool,
}

impl Reader {
    pub(super) fn new(client: &Client, scope: &Scope) -> Self {
        let nodes = scope.is_all().then(|| Api::all(client.clone()));
        Self { nodes, is_forbidden: AtomicBool::new(false) }
    }

    /// Reads each machine of these pods once, for as long as one of them is there.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub(super) async fn learn(&self, machines: &mut Machines, pods: &[plan::Pod]) -> Result<(), Error> {
        let present: BTreeSet<&str> = pods.iter().filter_map(|pod| Some(pod.machine.as_ref()?.name.as_str())).collect();
        machines.retain(|name, _| present.contains(name.as_str()));
        for name in present {
            if !machines.contains_key(name) {
                machines.insert(name.to_owned(), self.host(name).await?);
            }
        }
        Ok(())
    }

    /// None when the machine is gone, tells nothing, or may not be read.
    async fn host(&self, name: &str) -> Result<Option<String>, Error> {
        let Some(nodes) = self.nodes.as_ref().filter(|_| !self.is_forbidden.load(Ordering::Relaxed)) else {
            return Ok(None);
        };
        match nodes.get_opt(name).await {
            Ok(node) => Ok(node.as_ref().and_then(of_machine)),
            Err(kube::Error::Api(answer)) if answer.code == 403 => {
                tracing::warn!("may not read Nodes: pods are told to be where their kubelets say");
                self.is_forbidden.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(source) => Err(Error::ReadMachine { source }),
        }
    }
}
