//! The certificate of RTMPS and HTTPS: read at the start, and again when its files change.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::{Context, bail};
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::{Metrics, Outcome};

/// How often the files are looked at. A mounted Secret changes up to a minute after its object does, and who issues
/// certificates renews them weeks before their end.
const LOOK: Duration = Duration::from_secs(10);

/// A certificate that follows its files.
#[derive(Debug)]
pub(crate) struct Certificate {
    files: Files,
    /// What was read last, whether it could be used or not.
    read: Pem,
    current: Arc<Current>,
    config: ServerConfig,
}

#[derive(Debug)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
}

/// The contents of both files.
#[derive(PartialEq, Eq)]
struct Pem {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pem")
    }
}

/// What handshakes are answered with.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Certificate {
    /// Reads a certificate chain and its key.
    ///
    /// # Errors
    /// When a file cannot be read, holds something else, or the two do not belong together; with the flag of the file.
    pub(crate) fn read(cert: &Path, key: &Path) -> anyhow::Result<Self> {
        let files = Files { cert: cert.to_owned(), key: key.to_owned() };
        let read = files.read()?;
        let current = Arc::new(Current(RwLock::new(Arc::new(files.parse(&read)?))));
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .context("no TLS version is available")?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as _);
        Ok(Self { files, read, current, config })
    }

    /// Answers each handshake with the certificate as it is then, and one of the protocols, if there are some to choose from.
    pub(crate) fn acceptor(&self, protocols: &[&[u8]]) -> TlsAcceptor {
        let mut config = self.config.clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Follows the files until cancelled. Connections that are there keep what they began with.
    pub(crate) async fn follow(mut self, metrics: Metrics, cancel: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK);
        while cancel.run_until_cancelled(looks.tick()).await.is_some() {
            let outcome = match self.look() {
                Ok(false) => continue,
                Ok(true) => {
                    info!(cert = %self.files.cert.display(), "tls.renewed");
                    Outcome::Ok
                }
                Err(error) => {
                    warn!(error = format!("{error:#}"), "the new certificate cannot be used; the old one stays");
                    Outcome::Failed
                }
            };
            metrics.certificate_read(outcome);
        }
    }

    /// Takes the files' contents over when they have changed; says whether they had. What cannot be used is told once.
    fn look(&mut self) -> anyhow::Result<bool> {
        // Files that are not there for a moment, while they are replaced, are no news.
        let Ok(now) = self.files.read() else { return Ok(false) };
        if now == self.read {
            return Ok(false);
        }
        self.read = now;
        let next = Arc::new(self.files.parse(&self.read)?);
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(true)
    }
}

impl Files {
    fn read(&self) -> anyhow::Result<Pem> {
        let read = |flag, path: &Path| -> anyhow::Result<Vec<u8>> {
            fs::read(path).with_context(|| format!("failed to read {flag} {}", path.display()))
        };
        Ok(Pem { chain: read("--tls-cert", &self.cert)?, key: read("--tls-key", &self.key)? })
    }

    fn parse(&self, pem: &Pem) -> anyhow::Result<CertifiedKey> {
        let (cert, key) = (self.cert.display(), self.key.display());
        let chain = CertificateDer::pem_slice_iter(&pem.chain)
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| format!("failed to read --tls-cert {cert}"))?;
        if chain.is_empty() {
            bail!("--tls-cert {cert} holds no certificate in PEM form");
        }
        let private =
            PrivateKeyDer::from_pem_slice(&pem.key).with_context(|| format!("failed to read --tls-key {key}"))?;
        CertifiedKey::from_der(chain, private, &provider())
            .with_context(|| format!("--tls-key {key} does not fit --tls-cert {cert}"))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
