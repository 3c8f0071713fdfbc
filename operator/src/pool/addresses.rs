//! Decides where publishers and players reach a pool and each of its nodes. Knows no client.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use k8s_openapi::api::core::v1::{Node, Service};
use tallylight_crds::{Exposure, MAX_ADDRESSES, NodeAddress};

use super::{
    build,
    plan::{self, State},
    validate::{MediaAt, ValidatedPool},
};

/// Hosts by machine, which is a Node of Kubernetes; `None` for one that has none to tell.
pub(super) type Machines = BTreeMap<String, Option<String>>;

/// Host and port of RTMP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    host: String,
    port: u16,
}

/// As users write it: an IPv6 address in brackets.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<Ipv6Addr>() {
            Ok(ip) => write!(f, "[{ip}]:{}", self.port),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// What is known of a pool's addresses before its pods are looked at.
pub(super) struct Front<'a> {
    pool: &'a ValidatedPool,
    /// The host that all nodes share.
    host: Option<String>,
    /// The IP of the load balancer.
    balancer: Option<String>,
}

/// What a status tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) of_pool: Option<String>,
    pub(super) of_nodes: Vec<NodeAddress>,
}

impl<'a> Front<'a> {
    /// `service` is the pool's own, when it has been made. What the user says goes before what Kubernetes says.
    pub(super) fn new(pool: &'a ValidatedPool, service: Option<&Service>) -> Self {
        let of_service = || match pool.exposure {
            Exposure::LoadBalancer => ingress(service?),
            Exposure::ClusterIp => Some(format!("{}.{}.svc", build::base_name(pool), pool.namespace)),
            Exposure::HostPort | Exposure::HostNetwork => None,
        };
        let balancer = service.and_then(ip_of);
        Self { pool, host: pool.advertise_host.clone().or_else(of_service), balancer }
    }

    /// Whether each node is reached at its machine's own address.
    pub(super) fn asks_machines(&self) -> bool {
        self.host.is_none() && matches!(self.pool.exposure, Exposure::HostPort | Exposure::HostNetwork)
    }

    /// Where a node with this host port is reached, on a machine with this host, when that is known.
    pub(super) fn of_node(&self, host_port: Option<u16>, machine: Option<&str>) -> Option<Address> {
        let machine = machine.filter(|_| self.asks_machines());
        let port = match self.pool.exposure {
            Exposure::LoadBalancer | Exposure::ClusterIp => u16::try_from(self.pool.service.port).ok(),
            Exposure::HostPort => host_port,
            Exposure::HostNetwork => Some(build::RTMP_PORT),
        };
        Some(Address { host: self.host.as_deref().or(machine)?.to_owned(), port: port? })
    }

    /// Where this pod is reached.
    pub(super) fn of_pod(&self, pod: &plan::Pod, machines: &Machines) -> Option<Address> {
        let machine = pod.machine.as_ref();
        let host = machine.and_then(|machine| machines.get(&machine.name)?.as_deref().or(machine.ip.as_deref()));
        self.of_node(pod.port, host)
    }

    /// Whether media of WebRTC reach each node at its machine's own address.
    pub(super) fn asks_machines_for_media(&self) -> bool {
        let media = self.pool.web_rtc.as_ref().map(|webrtc| webrtc.media);
        media.is_some_and(|media| media.is_host_port() || matches!(media, MediaAt::Machine { .. }))
    }

    /// The IP by which browsers reach the media of a pod from outside, when it is not the one that the pod sees itself.
    pub(super) fn of_media(&self, pod: &plan::Pod, machines: &Machines) -> Option<String> {
        let machine = pod.machine.as_ref()?;
        let found = if self.asks_machines_for_media() {
            machines.get(&machine.name)?.clone()
        } else {
            let is_balanced = matches!(self.pool.web_rtc.as_ref()?.media, MediaAt::Balancer { .. });
            self.balancer.clone().filter(|_| is_balanced)
        };
        found.filter(|host| host.parse::<IpAddr>().is_ok() && machine.ip.as_ref() != Some(host))
    }

    /// Where a node has media of WebRTC, if it is at the host where it has RTMP.
    fn media_port(&self, pod: &plan::Pod) -> Option<u16> {
        match self.pool.web_rtc.as_ref()?.media {
            // as the pod was made: one may be older than the spec, or than WebRTC
            MediaAt::InStep { .. } | MediaAt::Machine { .. } => pod.media_port,
            MediaAt::Balancer { port } => Some(port),
            MediaAt::GivenPort | MediaAt::Pod { .. } => None,
        }
    }

    pub(super) fn of_all(&self, pods: &[plan::Pod], machines: &Machines) -> Addresses {
        let mut ready: Vec<_> = pods.iter().filter(|pod| pod.state == State::Ready).collect();
        ready.sort_by_key(|pod| pod.order);
        let known = ready.iter().filter_map(|pod| Some((*pod, self.of_pod(pod, machines)?)));
        let nodes: Vec<_> = known.take(MAX_ADDRESSES).collect();
        let of_pool = match self.pool.exposure {
            Exposure::LoadBalancer | Exposure::ClusterIp => self.of_node(None, None),
            // each has a port, or an address, of its own
            Exposure::HostPort | Exposure::HostNetwork => nodes.first().map(|(_, address)| address.clone()),
        };
        let listed = |(pod, Address { host, port }): (&plan::Pod, Address)| NodeAddress {
            node: pod.name.clone(),
            host,
            rtmp_port: i32::from(port),
            web_rtc_port: self.media_port(pod).map(i32::from),
        };
        Addresses {
            of_pool: of_pool.map(|address| address.to_string()),
            of_nodes: nodes.into_iter().map(listed).collect(),
        }
    }
}

/// A name goes before an IP: it is what certificates name, and it stays.
fn ingress(service: &Service) -> Option<String> {
    let points = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
    points.iter().find_map(|point| point.hostname.clone().or_else(|| point.ip.clone())).filter(|host| !host.is_empty())
}

fn ip_of(service: &Service) -> Option<String> {
    let points = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
    points.iter().find_map(|point| point.ip.clone()).filter(|ip| !ip.is_empty())
}

/// The host by which a machine is reached: from outside if it can be. Its plain host name comes last, as few can resolve it.
pub(super) fn of_machine(node: &Node) -> Option<String> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let by_kind = |kind| addresses.iter().find(|found| found.type_ == kind).map(|found| found.address.clone());
    ["ExternalIP", "ExternalDNS", "InternalIP", "Hostname"].into_iter().find_map(by_kind)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pool::{
        plan::tests::{nth, ready},
        validate::tests::validated,
    };

    fn service(ingress: &Value) -> Service {
        serde_json::from_value(json!({"status": {"loadBalancer": {"ingress": ingress}}})).unwrap()
    }

    /// A pod on machine `m`, whose kubelet says 10.0.0.1.
    fn on_machine(name: &str, order: i64, port: Option<u16>) -> plan::Pod {
        let machine = Some(plan::Machine { name: "m".into(), ip: Some("10.0.0.1".into()) });
        let media_port = port.map(|port| port + 43_000);
        plan::Pod { machine, port, media_port, ..nth(order, ready(name)) }
    }

    fn pool_address(
        nodes: Value,
        service: Option<&Service>,
        pods: &[plan::Pod],
        machine: Option<&str>,
    ) -> Option<String> {
        let pool = validated(nodes).unwrap();
        let machines = [("m".to_owned(), machine.map(str::to_owned))].into();
        Front::new(&pool, service).of_all(pods, &machines).of_pool
    }

    #[test]
    fn each_exposure_has_its_address() {
        let pods = [on_machine("b", 2, Some(7001)), on_machine("a", 1, Some(7004))];
        let balancer = service(&json!([{"ip": "198.51.100.1", "hostname": "lb.example.com"}]));
        let balanced =
            |service: &Service| pool_address(json!({"exposure": "LoadBalancer"}), Some(service), &pods, None);
        let at_port = |machine| pool_address(json!({"exposure": "HostPort"}), None, &pods, machine);

        assert_eq!(pool_address(json!({}), None, &[], None).as_deref(), Some("media-live.tv.svc:1935"));
        assert_eq!(balanced(&balancer).as_deref(), Some("lb.example.com:1935"));
        assert_eq!(balanced(&service(&json!([{"ip": "2001:db8::1"}]))).as_deref(), Some("[2001:db8::1]:1935"));
        assert_eq!(balanced(&Service::default()), None, "there is no balancer yet");
        assert_eq!(at_port(Some("203.0.113.9")).as_deref(), Some("203.0.113.9:7004"), "the oldest node's");
        assert_eq!(at_port(None).as_deref(), Some("10.0.0.1:7004"), "as the kubelet says");
        let on_network = pool_address(json!({"exposure": "HostNetwork"}), None, &pods, Some("203.0.113.9"));
        assert_eq!(on_network.as_deref(), Some("203.0.113.9:1935"));
        assert_eq!(pool_address(json!({"exposure": "HostPort"}), None, &[], None), None, "no node is ready");
    }

    #[test]
    fn what_the_user_advertises_goes_before_all() {
        let balancer = service(&json!([{"ip": "198.51.100.1"}]));
        for (exposure, address) in [
            ("LoadBalancer", "live.example.com:443"),
            ("ClusterIP", "live.example.com:443"),
            ("HostPort", "live.example.com:7004"),
            ("HostNetwork", "live.example.com:1935"),
        ] {
            let nodes = json!({"exposure": exposure, "advertiseHost": "live.example.com", "service": {"port": 443}});
            let pods = [on_machine("a", 1, Some(7004))];
            let found = pool_address(nodes, Some(&balancer), &pods, Some("203.0.113.9"));
            assert_eq!(found.as_deref(), Some(address), "{exposure}");
        }
    }

    #[test]
    fn media_are_told_the_address_from_outside_that_a_pod_cannot_see() {
        let of = |nodes: Value, media: Option<MediaAt>, service: Option<&Service>, machine: Option<&str>| {
            let mut pool = validated(nodes).unwrap();
            if let Some(media) = media {
                pool.web_rtc.as_mut().unwrap().media = media;
            }
            let machines = [("m".to_owned(), machine.map(str::to_owned))].into();
            Front::new(&pool, service).of_media(&on_machine("a", 1, Some(7004)), &machines)
        };
        let at_port = |machine| of(json!({"exposure": "HostPort"}), None, None, machine);
        assert_eq!(at_port(Some("203.0.113.9")).as_deref(), Some("203.0.113.9"));
        assert_eq!(at_port(Some("10.0.0.1")), None, "the pod sees that one itself");
        assert_eq!(at_port(Some("m.example.com")), None, "a name is no candidate");
        assert_eq!(at_port(None), None);
        let given = of(json!({"exposure": "LoadBalancer"}), Some(MediaAt::GivenPort), None, Some("203.0.113.9"));
        assert_eq!(given.as_deref(), Some("203.0.113.9"));
        let balancer = service(&json!([{"ip": "198.51.100.1", "hostname": "lb.example.com"}]));
        let balanced = Some(MediaAt::Balancer { port: 50_000 });
        let found = of(json!({"exposure": "LoadBalancer"}), balanced, Some(&balancer), None);
        assert_eq!(found.as_deref(), Some("198.51.100.1"));
        assert_eq!(of(json!({"exposure": "LoadBalancer"}), None, Some(&balancer), Some("203.0.113.9")), None);
    }

    #[test]
    fn nodes_that_are_ready_are_listed_up_to_a_bound() {
        let pool = validated(json!({"exposure": "HostPort"})).unwrap();
        let mut pods: Vec<_> = (0..100).map(|order| on_machine(&format!("n{order}"), order, Some(7000))).collect();
        pods[0].state = State::Starting;
        pods[1].machine = None;

        let listed = Front::new(&pool, None).of_all(&pods, &Machines::from([("m".into(), None)])).of_nodes;

        assert_eq!(listed.len(), MAX_ADDRESSES);
        let (node, host) = ("n2".into(), "10.0.0.1".into());
        assert_eq!(listed[0], NodeAddress { node, host, rtmp_port: 7000, web_rtc_port: Some(50_000) });
    }

    #[test]
    fn a_machine_is_reached_from_outside_if_it_can_be() {
        let host = |kinds: &[&str]| {
            let addresses: Vec<_> = kinds.iter().map(|kind| json!({"type": kind, "address": kind})).collect();
            of_machine(&serde_json::from_value(json!({"status": {"addresses": addresses}})).unwrap())
        };
        assert_eq!(host(&["Hostname", "InternalIP", "ExternalDNS", "ExternalIP"]).as_deref(), Some("ExternalIP"));
        assert_eq!(host(&["Hostname", "InternalIP", "ExternalDNS"]).as_deref(), Some("ExternalDNS"));
        assert_eq!(host(&["Hostname", "InternalIP"]).as_deref(), Some("InternalIP"));
        assert_eq!(host(&["Hostname"]).as_deref(), Some("Hostname"));
        assert_eq!(host(&[]), None);
    }
}
