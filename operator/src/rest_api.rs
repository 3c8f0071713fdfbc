//! Ant Media's REST API in a cluster: where it listens, and which MediaPool an application is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use axum::Router;
use kube::ResourceExt as _;
use ledger::KubeStore;
use rest::{Access, Application, Config, RtmpAddress, Token};
use tokio::net::TcpListener;

use crate::{cli::Run, resolve::Pools};

/// Port of RTMP that `rtmpURL` names when the flag names none.
const RTMP_PORT: u16 = 1935;

/// Listens where the flag says; without a credential, on loopback only.
pub(crate) async fn bind(args: &Run) -> anyhow::Result<TcpListener> {
    let mut address = args.rest_address;
    if args.rest_token_file.is_none() && !address.ip().is_loopback() {
        address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
        tracing::warn!(asked = %args.rest_address, %address, "REST has no credential: it listens on loopback only; give --rest-token-file to open it");
    }
    TcpListener::bind(address)
        .await
        .with_context(|| format!("failed to listen on {address}: choose another --rest-address"))
}

/// The routes of the API, over the cluster.
pub(crate) fn router(args: &Run, store: KubeStore, pools: Pools) -> anyhow::Result<Router> {
    let access = match &args.rest_token_file {
        Some(file) => {
            let text = std::fs::read_to_string(file).context("failed to read --rest-token-file")?;
            // One a line, so that a token can be exchanged for another without a gap.
            let tokens = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Token::new);
            let tokens: Vec<Token> = tokens.collect::<Result<_, _>>().context("--rest-token-file")?;
            anyhow::ensure!(!tokens.is_empty(), "--rest-token-file is empty: put a token into it");
            Access::Tokens(tokens)
        }
        None => Access::LoopbackOnly,
    };
    let applications = move |app: &str| {
        let pool = pools.of_app(app)?;
        Some(Application {
            namespace: pool.namespace().unwrap_or_default(),
            pool: pool.name_any(),
            listener_hook_url: pool.spec.listener_hook_url.clone(),
        })
    };
    let rtmp = rtmp_address(args.public_rtmp_host.as_deref());
    Ok(rest::router(Config { store, applications: Box::new(applications), rtmp, access }))
}

fn rtmp_address(flag: Option<&str>) -> RtmpAddress {
    let Some(flag) = flag else { return RtmpAddress { host: None, port: RTMP_PORT } };
    let with_port = flag.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = with_port.unwrap_or((flag, RTMP_PORT));
    RtmpAddress { host: Some(host.to_owned()), port }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_host_may_name_a_port() {
        let address = |host: &str, port| RtmpAddress { host: Some(host.into()), port };
        assert_eq!(rtmp_address(Some("live.example.com")), address("live.example.com", 1935));
        assert_eq!(rtmp_address(Some("live.example.com:31935")), address("live.example.com", 31935));
        assert_eq!(rtmp_address(Some("[2001:db8::1]:19")), address("[2001:db8::1]", 19));
        assert_eq!(rtmp_address(None), RtmpAddress { host: None, port: 1935 });
    }
}
