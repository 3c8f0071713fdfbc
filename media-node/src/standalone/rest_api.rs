//! Ant Media's REST on a standalone server: who may call it, and which application is which pool's.

use std::{fs, net::SocketAddr};

use anyhow::{Context, ensure};
use axum::Router;
use ledger::SqliteStore;
use rest::{Access, Application, Config, RtmpAddress, Token};
use tracing::warn;

use super::{NAMESPACE, catalog::Catalog};
use crate::{cli::StandaloneArgs, server::Addresses};

/// The routes of the API.
pub(super) fn routes(
    args: &StandaloneArgs,
    store: SqliteStore,
    catalog: Catalog,
    addresses: &Addresses,
) -> anyhow::Result<Router> {
    let access = access(args, addresses.user_http())?;
    let applications = move |app: &str| {
        let (pool, listener_hook_url) = catalog.of_app(app)?;
        Some(Application { namespace: NAMESPACE.to_owned(), pool, listener_hook_url })
    };
    let rtmp = RtmpAddress { host: None, port: addresses.rtmp.port() };
    Ok(rest::router(Config { store, applications: Box::new(applications), rtmp, access }))
}

fn access(args: &StandaloneArgs, http: SocketAddr) -> anyhow::Result<Access> {
    let Some(file) = &args.rest_token_file else {
        if !http.ip().is_loopback() {
            warn!(address = %http, "REST has no credential: it answers this machine only; give --rest-token-file to open it");
        }
        return Ok(Access::LoopbackOnly);
    };
    let text =
        fs::read_to_string(file).with_context(|| format!("failed to read --rest-token-file {}", file.display()))?;
    // one a line, so that a token can be exchanged for another without a gap
    let tokens = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Token::new);
    let tokens: Vec<Token> = tokens.collect::<Result<_, _>>().context("--rest-token-file cannot be used")?;
    ensure!(!tokens.is_empty(), "--rest-token-file {} is empty; put a token into it", file.display());
    Ok(Access::Tokens(tokens))
}
