//! Which pools are to be looked at, by whoever saw a change. Waking never waits and never loses one: a pool is on the list once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use futures::{Stream, stream};
use kube::runtime::reflector::ObjectRef;
use tallylight_crds::{MediaPool, SessionState};
use tokio::sync::Notify;

use crate::{broadcast::Guarded, scope::Place};

/// The lists of pools to look at, one a watched namespace. Clones share them.
#[derive(Clone)]
pub(crate) struct Wakes(Arc<Vec<(Place, List)>>);

/// No longer than there are pools.
#[derive(Default)]
struct List {
    pools: Mutex<BTreeSet<(String, String)>>,
    added: Notify,
}

impl Wakes {
    pub(crate) fn new(places: Vec<Place>) -> Self {
        Self(Arc::new(places.into_iter().map(|place| (place, List::default())).collect()))
    }

    /// The pool may have to change.
    pub(crate) fn wake(&self, namespace: &str, name: &str) {
        let is_here = |place: &Place| place.as_deref().is_none_or(|place| place == namespace);
        for (_, list) in self.0.iter().filter(|(place, _)| is_here(place)) {
            list.pools.lock().unwrap_or_else(PoisonError::into_inner).insert((namespace.to_owned(), name.to_owned()));
            list.added.notify_one();
        }
    }

    /// The pools of a watched namespace, as they are woken. One taker a place.
    pub(crate) fn of(&self, place: &Place) -> impl Stream<Item = ObjectRef<MediaPool>> + Send + 'static {
        let index = self.0.iter().position(|(found, _)| found == place);
        stream::unfold((self.clone(), index), async |(wakes, index)| {
            let (_, list) = wakes.0.get(index?)?;
            loop {
                let next = list.pools.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
                if let Some((namespace, name)) = next {
                    let pool = ObjectRef::new(&name).within(&namespace);
                    return Some((pool, (wakes, index)));
                }
                list.added.notified().await;
            }
        })
    }
}

/// Tells when the session of a Broadcast opens, moves or ends, and wakes its pool then.
pub(crate) struct SessionChanges {
    wakes: Wakes,
    /// Node and pool of each Broadcast on air, by UID. Only for telling changes: what counts is in the caches.
    open: Mutex<BTreeMap<String, (String, String)>>,
}

impl SessionChanges {
    pub(crate) fn new(wakes: Wakes) -> Self {
        Self { wakes, open: Mutex::default() }
    }

    pub(crate) fn see(&self, object: &Guarded) {
        let Ok(broadcast) = &object.0 else { return };
        let session = broadcast.status.as_ref().map(|status| &status.session);
        let node = session.filter(|session| session.state == SessionState::Open).and_then(|s| s.node.clone());
        let now = node.map(|node| (node, broadcast.spec.pool.clone()));
        self.change(object, now);
    }

    /// The Broadcast is gone.
    pub(crate) fn forget(&self, object: &Guarded) {
        self.change(object, None);
    }

    /// Everything is listed anew: what went away meanwhile is not told of.
    pub(crate) fn relist(&self) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        drop(open);
    }

    fn change(&self, object: &Guarded, now: Option<(String, String)>) {
        let meta = kube::Resource::meta(object);
        let uid = meta.uid.clone().unwrap_or_default();
        let before = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            match &now {
                Some(now) => open.insert(uid, now.clone()),
                None => open.remove(&uid),
            }
        };
        if before != now {
            let namespace = meta.namespace.as_deref().unwrap_or_default();
            for (_, pool) in before.into_iter().chain(now) {
                self.wakes.wake(namespace, &pool);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};

    use super::*;

    #[test]
    fn a_pool_that_is_woken_often_is_looked_at_once() {
        let wakes = Wakes::new(vec![Some("a".into()), Some("b".into())]);
        let mut of_a = Box::pin(wakes.of(&Some("a".into())));
        wakes.wake("a", "one");
        wakes.wake("a", "one");
        wakes.wake("b", "other");
        wakes.wake("a", "two");

        let seen: Vec<String> =
            std::iter::from_fn(|| of_a.next().now_or_never().flatten()).map(|pool| pool.name).collect();

        assert_eq!(seen, ["one", "two"]);
        wakes.wake("a", "one");
        assert_eq!(
            of_a.next().now_or_never().flatten().map(|pool| pool.name).as_deref(),
            Some("one"),
            "and again later"
        );
    }
}
