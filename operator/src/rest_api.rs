//! Ant Media's REST API in a cluster: where it listens, and which MediaPool an application is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use tokio::net::TcpListener;

use crate::cli::Run;

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
