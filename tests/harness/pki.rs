//! Makes the certificates of a test control plane, and checks who signed one.

use std::{net::TcpStream, sync::Arc, time::Duration};

use anyhow::Result;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::ring,
    pki_types::{IpAddr, ServerName},
};

/// Longest wait of a handshake for the other side.
const SILENCE: Duration = Duration::from_secs(10);

/// A certificate authority that lives as long as its control plane.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

/// A certificate and its private key, both PEM.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// # Errors
    /// When key generation fails.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "tallylight test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Returns the authority's own certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> String {
        self.certificate.pem()
    }

    /// Signs a server certificate for these DNS names and addresses.
    ///
    /// # Errors
    /// When a name is not one.
    pub fn server(&self, names: &[&str]) -> Result<Leaf> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.sign(CertificateParams::new(names)?, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Signs a client certificate: to Kubernetes the common name is the user, the organization the group.
    ///
    /// # Errors
    /// When key generation fails.
    pub fn client(&self, user: &str, group: &str) -> Result<Leaf> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Whether the TLS server at this address (IP:PORT) shows a certificate for the IP that this authority signed.
    ///
    /// # Errors
    /// When nothing that speaks TLS answers there.
    pub async fn vouches_for(&self, address: &str) -> Result<bool> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone())?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let address: std::net::SocketAddr = address.parse()?;
        tokio::task::spawn_blocking(move || {
            let mut connection =
                ClientConnection::new(Arc::new(config), ServerName::IpAddress(IpAddr::from(address.ip())))?;
            let mut stream = TcpStream::connect_timeout(&address, SILENCE)?;
            stream.set_read_timeout(Some(SILENCE))?;
            match connection.complete_io(&mut stream) {
                Ok(_) => Ok(true),
                Err(error) => match error.get_ref().and_then(|error| error.downcast_ref()) {
                    Some(rustls::Error::InvalidCertificate(_)) => Ok(false),
                    _ => Err(error.into()),
                },
            }
        })
        .await?
    }

    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Leaf> {
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}
