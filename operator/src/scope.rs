//! Which namespaces the operator watches.

use std::sync::Arc;

use kube::{Api, Client};

/// A watched namespace; `None` when one watch covers all.
pub(crate) type Place = Option<String>;

/// The namespaces that are watched; none means all.
#[derive(Clone)]
pub(crate) struct Scope(Arc<Vec<String>>);

impl Scope {
    pub(crate) fn new(namespaces: Vec<String>) -> Self {
        Self(Arc::new(namespaces))
    }

    /// Whether all namespaces are watched.
    pub(crate) fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// The watched namespaces, or one place that stands for all.
    pub(crate) fn places(&self) -> Vec<Place> {
        if self.is_all() { vec![None] } else { self.0.iter().cloned().map(Some).collect() }
    }

    /// One API a namespace, with its name; a single one without a name for all.
    pub(crate) fn apis<K>(&self, client: &Client) -> Vec<(Place, Api<K>)>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        let api = |place: &Place| match place {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        self.places().into_iter().map(|place| (place.clone(), api(&place))).collect()
    }
}
