//! The certificate of RTMPS.

use std::{path::Path, sync::Arc};

use anyhow::{Context, bail};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

/// Reads a certificate chain and its key.
pub(crate) fn acceptor(cert: &Path, key: &Path) -> anyhow::Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("failed to read --tls-cert {}", cert.display()))?;
    if chain.is_empty() {
        bail!("--tls-cert {} holds no certificate in PEM form", cert.display());
    }
    let private =
        PrivateKeyDer::from_pem_file(key).with_context(|| format!("failed to read --tls-key {}", key.display()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("no TLS version is available")?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| format!("--tls-key {} does not fit --tls-cert {}", key.display(), cert.display()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
