//! The Service in front of a pool's nodes.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tallylight_crds::Exposure;

use crate::pool::validate::{MediaAt, ValidatedPool};

pub(crate) fn service(pool: &ValidatedPool) -> Service {
    let kind = match pool.exposure {
        Exposure::LoadBalancer => "LoadBalancer",
        Exposure::HostPort | Exposure::HostNetwork | Exposure::ClusterIp => "ClusterIP",
    };
    let mut metadata = super::metadata(pool, super::base_name(pool));
    metadata.annotations = Some(pool.service.annotations.clone()).filter(|annotations| !annotations.is_empty());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(kind.to_owned()),
            load_balancer_class: pool.service.load_balancer_class.clone(),
            ip_family_policy: Some("PreferDualStack".to_owned()),
            selector: Some(super::selector(pool)),
            ports: Some(ports(pool)),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// By name: of pods that are older than a port, Kubernetes sends nobody there.
fn ports(pool: &ValidatedPool) -> Vec<ServicePort> {
    let port = |name: &str, port: i32| ServicePort {
        name: Some(name.to_owned()),
        protocol: Some("TCP".to_owned()),
        port,
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    };
    // Where the pool has RTMP at that port, RTMP keeps it.
    let http = i32::from(super::HTTP_PORT);
    let http = (pool.serves_users() && pool.service.port != http).then(|| port(super::HTTP, http));
    [port("rtmp", pool.service.port)].into_iter().chain(http).chain(media_ports(pool)).collect()
}

/// Only where a balancer brings media too: at others the Service is not how they reach a node.
fn media_ports(pool: &ValidatedPool) -> Vec<ServicePort> {
    let media = pool.web_rtc.as_ref().map(|webrtc| webrtc.media);
    let Some(MediaAt::Balancer { port: number }) = media else { return Vec::new() };
    let port = |name: &str, protocol: &str| ServicePort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: number.into(),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    };
    vec![port(super::WEBRTC, "UDP"), port(super::WEBRTC_TCP, "TCP")]
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tallylight_crds::HlsMode;

    use super::*;
    use crate::pool::validate::tests::with_rest;

    /// Of a pool without WebRTC.
    fn built(nodes: serde_json::Value, mode: HlsMode, upstream: Option<&str>) -> Vec<(String, i32)> {
        let mut pool = with_rest(nodes, upstream).unwrap();
        (pool.hls.mode, pool.web_rtc) = (mode, None);
        ports(&pool)
    }

    fn ports(pool: &ValidatedPool) -> Vec<(String, i32)> {
        let ports = service(pool).spec.unwrap().ports.unwrap();
        ports.into_iter().map(|port| (port.name.unwrap(), port.port)).collect()
    }

    #[test]
    fn http_has_a_port_where_nodes_serve_hls_or_pass_rest_on() {
        let rtmp = |port| ("rtmp".to_owned(), port);
        let http = ("http".to_owned(), 5080);
        let upstream = Some("http://operator:5080");

        assert_eq!(built(json!({}), HlsMode::Off, None), [rtmp(1935)]);
        assert_eq!(built(json!({}), HlsMode::OnDemand, None), [rtmp(1935), http.clone()]);
        assert_eq!(built(json!({}), HlsMode::Off, upstream), [rtmp(1935), http]);
        assert_eq!(built(json!({"service": {"port": 5080}}), HlsMode::Always, upstream), [rtmp(5080)]);
    }

    #[test]
    fn http_has_a_port_where_there_are_recordings_and_nothing_else() {
        let mut pool = with_rest(json!({}), None).unwrap();
        (pool.hls.mode, pool.web_rtc) = (HlsMode::Off, None);
        let http = [("rtmp".to_owned(), 1935), ("http".to_owned(), 5080)];

        assert_eq!(ports(&ValidatedPool { records: true, ..pool.clone() }), http);
        let storages = serde_json::from_value(json!([{"name": "vods", "volume": {"claimName": "vods"}}])).unwrap();
        assert_eq!(ports(&ValidatedPool { storages, ..pool }), http);
    }

    #[test]
    fn media_of_webrtc_have_a_port_where_a_balancer_brings_them() {
        let mut pool = with_rest(json!({"exposure": "LoadBalancer"}), None).unwrap();
        assert_eq!(ports(&pool), [("rtmp".to_owned(), 1935), ("http".to_owned(), 5080)]);

        pool.web_rtc.as_mut().unwrap().media = MediaAt::Balancer { port: 50_000 };
        let all = service(&pool).spec.unwrap().ports.unwrap();
        let media: Vec<_> = all.iter().filter(|port| port.port == 50_000).collect();
        assert_eq!(media.iter().map(|port| port.protocol.as_deref().unwrap()).collect::<Vec<_>>(), ["UDP", "TCP"]);
    }
}
