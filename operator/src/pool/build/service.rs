//! The Service in front of a pool's nodes.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tallylight_crds::Exposure;

use crate::pool::validate::ValidatedPool;

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
            ports: Some(vec![ServicePort {
                name: Some("rtmp".to_owned()),
                protocol: Some("TCP".to_owned()),
                port: pool.service.port,
                target_port: Some(IntOrString::String("rtmp".to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
