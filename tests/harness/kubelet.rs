//! A small kubelet for media pods: puts pods that have no machine on one, says that their containers run, renews their Leases,
//! and removes them when they are told to stop. It runs nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Result;
use futures::{Stream, StreamExt as _, stream::FuturesUnordered};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Status,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time::MissedTickBehavior};

/// As media nodes do.
const RENEW: Duration = Duration::from_secs(5);
/// Leases are renewed in as many groups, one after the other, as nodes do that were not started at once.
const GROUPS: usize = 50;
/// Renewals under way at once.
const WRITERS: usize = 8;

/// What a test wants of pods from now on.
#[derive(Clone, Debug, Default)]
struct Wishes {
    /// Pods whose containers go on after SIGTERM.
    lingering: BTreeSet<String>,
    /// Annotations of Leases, by pod.
    loads: BTreeMap<String, Value>,
}

/// A running kubelet of one namespace; dropping it stops it.
pub struct Kubelet {
    wishes: watch::Sender<Wishes>,
    _tasks: JoinSet<()>,
}

impl Kubelet {
    /// Starts it, as the admin that `client` is.
    #[must_use]
    pub fn start(client: Client, namespace: &str) -> Self {
        Self::renewing(client, namespace, RENEW)
    }

    /// As [`Kubelet::start`], with another time between two renewals of a Lease.
    #[must_use]
    pub fn renewing(client: Client, namespace: &str, every: Duration) -> Self {
        let wishes = watch::Sender::new(Wishes::default());
        // Two watches, so that no Lease waits for pods that start.
        let machine = Machine {
            pods: Api::namespaced(client.clone(), namespace),
            leases: Api::namespaced(client, namespace),
            seen: BTreeMap::new(),
            wishes: wishes.subscribe(),
            addresses: 0,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(machine.clone().run_pods());
        tasks.spawn(machine.renew_leases(every));
        Self { wishes, _tasks: tasks }
    }

    /// Lets the pod's containers go on after it is told to stop, as sessions do until the drain time is over.
    pub fn linger(&self, pod: &str) {
        self.wishes.send_modify(|wishes| _ = wishes.lingering.insert(pod.to_owned()));
    }

    /// Ends the containers of a pod that lingers.
    pub fn finish(&self, pod: &str) {
        self.wishes.send_modify(|wishes| _ = wishes.lingering.remove(pod));
    }

    /// Sets annotations of the pod's Lease: what the node says of its load.
    pub fn report(&self, pod: &str, annotations: Value) {
        self.wishes.send_modify(|wishes| _ = wishes.loads.insert(pod.to_owned(), annotations));
    }
}

#[derive(Clone)]
struct Machine {
    pods: Api<Pod>,
    leases: Api<Lease>,
    seen: BTreeMap<String, Pod>,
    wishes: watch::Receiver<Wishes>,
    addresses: u16,
}

impl Machine {
    fn watch(&self) -> impl Stream<Item = watcher::Result<Event<Pod>>> + Send + use<> {
        let config = watcher::Config::default().labels("app.kubernetes.io/component=media-node");
        watcher(self.pods.clone(), config).default_backoff()
    }

    /// Takes note of an event, and returns the pod that is to be tended.
    fn see(&mut self, event: watcher::Result<Event<Pod>>) -> Option<String> {
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                let name = pod.name_any();
                self.seen.insert(name.clone(), pod);
                return Some(name);
            }
            Ok(Event::Delete(pod)) => _ = self.seen.remove(&pod.name_any()),
            Ok(Event::Init) => self.seen.clear(),
            Ok(Event::InitDone) | Err(_) => {}
        }
        None
    }

    async fn run_pods(mut self) {
        let mut events = std::pin::pin!(self.watch());
        loop {
            tokio::select! {
                Some(event) = events.next() => {
                    if let Some(name) = self.see(event) {
                        self.tend(&name).await;
                    }
                }
                Ok(()) = self.wishes.changed() => {
                    self.wishes.mark_unchanged();
                    self.tend_all().await;
                }
                else => return,
            }
        }
    }

    async fn renew_leases(mut self, every: Duration) {
        let mut events = std::pin::pin!(self.watch());
        let mut renewals = tokio::time::interval(every / GROUPS as u32);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut group = 0;
        loop {
            tokio::select! {
                Some(event) = events.next() => drop(self.see(event)),
                Ok(()) = self.wishes.changed() => {
                    self.wishes.mark_unchanged();
                    self.renew_all(0, 1).await;
                }
                _ = renewals.tick() => {
                    self.renew_all(group, GROUPS).await;
                    group = (group + 1) % GROUPS;
                }
                else => return,
            }
        }
    }

    async fn tend_all(&mut self) {
        for name in self.seen.keys().cloned().collect::<Vec<_>>() {
            self.tend(&name).await;
        }
    }

    /// Brings a pod one step on. What fails is seen again with the pod's next change, and by the test.
    async fn tend(&mut self, name: &str) {
        let Some(pod) = self.seen.get(name).cloned() else { return };
        let wishes = self.wishes.borrow().clone();
        let is_bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let is_new = pod.status.as_ref().and_then(|status| status.phase.as_deref()).is_none_or(|p| p == "Pending");
        let done: Result<()> = if pod.metadata.deletion_timestamp.is_some() {
            if wishes.lingering.contains(name) { Ok(()) } else { self.remove(name).await }
        } else if !is_bound {
            self.bind(name).await
        } else if is_new {
            self.run_containers(name).await
        } else {
            Ok(())
        };
        drop(done);
    }

    async fn bind(&self, name: &str) -> Result<()> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "machine-1"},
        });

        let _bound: Status = self.pods.create_subresource("binding", name, &PostParams::default(), &binding).await?;
        Ok(())
    }

    async fn run_containers(&mut self, name: &str) -> Result<()> {
        self.renew(name).await?;
        self.addresses = self.addresses.wrapping_add(1);
        let [high, low] = self.addresses.to_be_bytes();
        let address = format!("10.1.{high}.{low}");
        let status = json!({"status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "hostIP": "192.0.2.1",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}],
        }});
        self.pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await?;
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.pods.delete(name, &now).await?;
        Ok(())
    }

    /// Renews the Leases of one of so many groups, to which pods belong by name. One that is not renewed shows in the test.
    async fn renew_all(&self, group: usize, groups: usize) {
        let mut renewals = FuturesUnordered::new();
        for (name, pod) in &self.seen {
            let is_running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
            if !is_running || name.bytes().map(usize::from).sum::<usize>() % groups != group {
                continue;
            }
            renewals.push(self.renew(name));
            if renewals.len() == WRITERS {
                drop(renewals.next().await);
            }
        }
        while renewals.next().await.is_some() {}
    }

    async fn renew(&self, name: &str) -> Result<()> {
        let Some(pod) = self.seen.get(name) else { return Ok(()) };
        let annotations = self.wishes.borrow().loads.get(name).cloned().unwrap_or_else(|| json!({}));
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "labels": pod.labels(), "annotations": annotations, "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod.uid()},
            ]},
            "spec": {
                "holderIdentity": name, "leaseDurationSeconds": 15,
                "renewTime": format!("{:.6}", jiff::Timestamp::now()),
            },
        });
        self.leases.patch(name, &PatchParams::apply("kubelet").force(), &Patch::Apply(lease)).await?;
        Ok(())
    }
}
