//! One session's DTLS association: the handshake in either role, the peer's certificate against the offer's fingerprint, and
//! the keys for SRTP.
//!
//! The library serves many peers by address. We give each session one of its own under a made-up address, so that the
//! association outlives a change of the peer's.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ring::digest;
use rtc_crypto::RTCCryptoProvider;
use rtc_crypto::providers::RingProvider;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::crypto::Certificate;
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_shared::TransportProtocol;

use crate::client_hello::{Hello, Offered};
use crate::flight::Seen;
use crate::sdp::{Fingerprint, Role};
use crate::srtp::{self, Profile};

/// RFC 5764 §4.2.
const EXPORTER: &str = "EXTRACTOR-dtls_srtp";

/// A flight that is not answered is sent again after this time, seven times; then the handshake has failed, after 5.6 s.
const FLIGHT: Duration = Duration::from_millis(700);

/// A handshake with more datagrams that the library refuses has failed.
const MAX_FAULTS: u32 = 8;

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// What a process shows its peers: one certificate, and how it shakes hands.
pub struct Identity {
    fingerprint: Fingerprint,
    provider: Arc<RingProvider>,
    gcm_server: Arc<HandshakeConfig>,
    sha1_server: Arc<HandshakeConfig>,
    client: Arc<HandshakeConfig>,
}

/// The library could not make a certificate or a configuration.
#[derive(Debug, thiserror::Error)]
#[error("failed to prepare DTLS: {0}")]
pub struct IdentityError(String);

impl Identity {
    /// Makes a key and a certificate, which WebRTC's peers know by their fingerprint alone.
    ///
    /// # Errors
    /// If the system has no randomness, or the library refuses our settings.
    pub fn generate() -> Result<Self, IdentityError> {
        use SrtpProtectionProfile::{Srtp_Aead_Aes_128_Gcm, Srtp_Aead_Aes_256_Gcm, Srtp_Aes128_Cm_Hmac_Sha1_80};
        let provider = Arc::new(RingProvider::new());
        let certificate = Certificate::generate_self_signed(vec!["tallylight".to_owned()], provider.crypto());
        let certificate = certificate.map_err(|source| IdentityError(source.to_string()))?;
        let der = certificate.certificate.first().ok_or_else(|| IdentityError("no certificate".to_owned()))?;
        let fingerprint = fingerprint_of(der);
        let build = |is_client, profiles| {
            let builder = ConfigBuilder::default()
                .with_crypto_provider(provider.clone())
                .with_certificates(vec![certificate.clone()])
                .with_srtp_protection_profiles(profiles)
                .with_extended_master_secret(ExtendedMasterSecretType::Require)
                .with_client_auth(ClientAuthType::RequireAnyClientCert)
                // certificates are known by the fingerprint of the offer, which `Association` compares
                .with_insecure_skip_verify(true)
                // without a name the library looks for one, and says that it misses it
                .with_server_name("tallylight".to_owned())
                .with_flight_interval(FLIGHT);
            builder.build(is_client, None).map(Arc::new).map_err(|source| IdentityError(source.to_string()))
        };
        let gcm = vec![Srtp_Aead_Aes_128_Gcm, Srtp_Aead_Aes_256_Gcm];
        let all = vec![Srtp_Aead_Aes_128_Gcm, Srtp_Aead_Aes_256_Gcm, Srtp_Aes128_Cm_Hmac_Sha1_80];
        Ok(Self {
            fingerprint,
            gcm_server: build(false, gcm)?,
            sha1_server: build(false, vec![Srtp_Aes128_Cm_Hmac_Sha1_80])?,
            client: build(true, all)?,
            provider,
        })
    }

    /// The fingerprint for answers.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}

fn fingerprint_of(der: &[u8]) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(digest::digest(&digest::SHA256, der).as_ref()).for_each(|(byte, from)| *byte = *from);
    Fingerprint(bytes)
}

/// Why an association ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the DTLS handshake failed: {0}")]
    Handshake(String),
    #[error("the peer has no SRTP profile that we have")]
    NoProfile,
    #[error("the peer's certificate is not the one that it announced")]
    Fingerprint,
}

/// What a datagram or a timeout led to.
#[derive(Debug)]
pub(crate) enum Progress {
    None,
    Connected(Box<srtp::Session>),
    PeerClosed,
}

pub(crate) struct Association {
    identity: Arc<Identity>,
    expected: Fingerprint,
    role: Role,
    endpoint: Endpoint,
    /// A server's, until it knows what to choose; with the datagrams that it came in.
    hello: Option<(Hello, Vec<BytesMut>)>,
    is_connected: bool,
    faults: u32,
    seen: Seen,
}

impl Association {
    pub(crate) fn new(identity: Arc<Identity>, role: Role, expected: Fingerprint) -> Self {
        let endpoint = Endpoint::new(PEER, TransportProtocol::UDP, None);
        let hello = (role == Role::Server).then(|| (Hello::default(), Vec::new()));
        Self { identity, expected, role, endpoint, hello, is_connected: false, faults: 0, seen: Seen::default() }
    }

    /// Begins the handshake if that is ours to do.
    pub(crate) fn start(&mut self, now: Instant) -> Result<(), Error> {
        match self.role {
            Role::Client => self.endpoint.connect(now, PEER, self.identity.client.clone(), None).map_err(handshake),
            Role::Server => Ok(()),
        }
    }

    pub(crate) fn receive(&mut self, datagram: &[u8], now: Instant) -> Result<Progress, Error> {
        let Some((hello, kept)) = &mut self.hello else { return self.read(BytesMut::from(datagram), now) };
        let offered = hello.read(datagram);
        kept.push(BytesMut::from(datagram));
        let config = match offered {
            Offered::Incomplete => return Ok(Progress::None),
            Offered::Malformed => return Err(Error::Handshake("the first message is no ClientHello".to_owned())),
            Offered::Profiles(profiles) if profiles.iter().any(|profile| *profile != Profile::CmSha1) => {
                &self.identity.gcm_server
            }
            Offered::Profiles(profiles) if !profiles.is_empty() => &self.identity.sha1_server,
            Offered::Profiles(_) => return Err(Error::NoProfile),
        };
        self.endpoint.set_server_config(Some(config.clone()));
        let (_, kept) = self.hello.take().unwrap_or_default();
        for datagram in kept {
            self.read(datagram, now)?;
        }
        Ok(Progress::None)
    }

    fn read(&mut self, datagram: BytesMut, now: Instant) -> Result<Progress, Error> {
        if !self.is_connected && self.seen.is_repetition(&datagram) {
            return Ok(Progress::None);
        }
        let events = match self.endpoint.read(now, PEER, None, datagram) {
            Ok(events) => events,
            Err(error) => return self.fault(error),
        };
        let mut progress = Progress::None;
        for event in events {
            match event {
                EndpointEvent::HandshakeComplete => progress = Progress::Connected(self.connected()?),
                EndpointEvent::PeerClosed => return Ok(Progress::PeerClosed),
                // data channels are refused in the answer
                EndpointEvent::ApplicationData(_) | _ => {}
            }
        }
        Ok(progress)
    }

    /// Who knows the peer's address can send in its name: one bad datagram ends nothing, and none does once we are connected.
    fn fault(&mut self, error: rtc_shared::error::Error) -> Result<Progress, Error> {
        self.faults = self.faults.saturating_add(1);
        if self.is_connected || self.faults < MAX_FAULTS { Ok(Progress::None) } else { Err(handshake(error)) }
    }

    fn connected(&mut self) -> Result<Box<srtp::Session>, Error> {
        let no_state = || Error::Handshake("the library has lost its state".to_owned());
        let state = self.endpoint.get_connection_state(PEER).ok_or_else(no_state)?;
        if state.peer_certificates.first().map(|der| fingerprint_of(der)) != Some(self.expected) {
            return Err(Error::Fingerprint);
        }
        let profile = match state.srtp_protection_profile() {
            SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm => Profile::Gcm128,
            SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm => Profile::Gcm256,
            SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 => Profile::CmSha1,
            SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_32 | SrtpProtectionProfile::Unsupported | _ => {
                return Err(Error::NoProfile);
            }
        };
        let material = state.export_keying_material(EXPORTER, &[], profile.material_length()).map_err(handshake)?;
        let session =
            srtp::Session::new(profile, material.as_ref(), state.is_client(), self.identity.provider.crypto());
        self.is_connected = true;
        session.map(Box::new).map_err(|error| Error::Handshake(error.to_string()))
    }

    /// The next datagram to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.endpoint.poll_transmit().map(|transmit| transmit.message)
    }

    /// When a flight is due again.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        if self.is_connected { None } else { self.endpoint.poll_timeout(&PEER) }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        match self.poll_timeout() {
            Some(due) if due <= now => self.endpoint.handle_timeout(PEER, now).map_err(handshake),
            Some(_) | None => Ok(()),
        }
    }

    /// Tells the peer that the association ends; `poll_transmit` gives what to send.
    pub(crate) fn close(&mut self, now: Instant) {
        drop(self.endpoint.stop(now, PEER));
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn handshake(error: rtc_shared::error::Error) -> Error {
    Error::Handshake(error.to_string())
}
