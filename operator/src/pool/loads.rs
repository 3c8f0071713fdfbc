//! What media nodes say of their load, in annotations of their Leases.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt as _;
use tallylight_crds::{CPU_ANNOTATION, MEGABITS_OUT_ANNOTATION, POOL_LABEL};

use super::{plan::Load, wakes::Wakes};
use crate::nodes::NodeKey;

/// Loads by node. Clones share them.
#[derive(Clone)]
pub(crate) struct Loads {
    wakes: Wakes,
    loads: Arc<Mutex<BTreeMap<NodeKey, Load>>>,
}

impl Loads {
    pub(crate) fn new(wakes: Wakes) -> Self {
        Self { wakes, loads: Arc::default() }
    }

    /// A Lease as it was watched; wakes its pool when the load has changed.
    pub(crate) fn see(&self, lease: &Lease) {
        let load = read(lease);
        let key = key(lease);
        let before = self.loads.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), load);
        if before.unwrap_or_default() != load
            && let Some(pool) = lease.labels().get(POOL_LABEL)
        {
            self.wakes.wake(&key.namespace, pool);
        }
    }

    pub(crate) fn forget(&self, lease: &Lease) {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(lease));
    }

    pub(crate) fn of(&self, node: &NodeKey) -> Load {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner).get(node).copied().unwrap_or_default()
    }
}

/// A node that says nothing, or nonsense, counts by its sessions alone.
fn read(lease: &Lease) -> Load {
    let number = |annotation: &str| lease.annotations().get(annotation).and_then(|text| text.parse().ok());
    Load {
        megabits_out: number(MEGABITS_OUT_ANNOTATION).unwrap_or(0),
        cpu_percent: number(CPU_ANNOTATION).unwrap_or(0),
    }
}

fn key(lease: &Lease) -> NodeKey {
    NodeKey { namespace: lease.namespace().unwrap_or_default(), name: lease.name_any() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_in_a_lease_of_release_0_1_0_is_read() {
        let lease = serde_json::from_str(include_str!("../../../tests/fixtures/0.1.0/lease.json")).unwrap();
        assert_eq!(read(&lease), Load { megabits_out: 340, cpu_percent: 85 });
    }
}
