//! The only file that opens a user's URL: one shared client, one POST an attempt, nothing followed, nothing trusted.

use std::{error::Error as StdError, io, net::SocketAddr, time::Duration};

use jiff::Timestamp;
use reqwest::{
    Certificate, Client as Inner, ClientBuilder, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{CONTENT_TYPE, RETRY_AFTER},
    redirect,
};
use uuid::Uuid;

use crate::{
    body::Body,
    dns::{NoAddress, SystemDns},
    endpoint::Endpoint,
    schedule,
    verdict::{Failure, Outcome},
};

/// Most of an answer's body that is read, so that the connection can serve again; nobody looks at it. A longer body costs
/// its connection.
const MAX_ANSWER: usize = 4096;
/// How long an idle connection is kept: shorter than the 60 s after which common balancers close theirs in silence.
const IDLE: Duration = Duration::from_secs(45);
/// Idle connections to one host: one a lane is the most that helps, and few lanes of one host work at once.
const IDLE_PER_HOST: usize = 32;
const USER_AGENT: &str = concat!("Tallylight/", env!("CARGO_PKG_VERSION"));

/// Sends hooks. Clones share connections.
#[derive(Debug, Clone)]
pub struct Client(Inner);

/// The client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the additional certificate authorities are no PEM bundle")]
    Certificates { source: reqwest::Error },
    #[error("the additional certificate authorities hold no certificate in PEM form")]
    NoCertificate,
    #[error("failed to make the client for hooks")]
    Build { source: reqwest::Error },
}

/// One attempt.
#[derive(Debug)]
pub struct Request<'a> {
    pub endpoint: &'a Endpoint,
    pub body: Body,
    /// Id of the event, the same at every attempt.
    pub id: Uuid,
    /// Time of this attempt.
    pub timestamp: Timestamp,
    /// From connect to the last byte of the answer that is read.
    pub timeout: Duration,
}

impl Client {
    /// Makes the client. It trusts the system's certificate authorities and those in `more_authorities`, a PEM bundle that
    /// may be empty. On a system without any, receivers with https fail as [`Failure::Tls`] and others work.
    ///
    /// # Errors
    /// When a certificate does not parse, or there is none in what is not empty: a key in its place would go unnoticed.
    pub fn new(more_authorities: &[u8]) -> Result<Self, Error> {
        // Fails when the process has a provider already, and then that one serves.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let authorities =
            Certificate::from_pem_bundle(more_authorities).map_err(|source| Error::Certificates { source })?;
        if authorities.is_empty() && !more_authorities.is_empty() {
            return Err(Error::NoCertificate);
        }
        let client = match builder().tls_certs_merge(authorities.clone()).build() {
            Ok(client) => client,
            Err(error) => {
                let client = builder().tls_certs_only(authorities).build();
                let client = client.map_err(|source| Error::Build { source })?;
                let error = &error as &dyn StdError;
                tracing::warn!(error, "the system has no certificate authorities: hooks to https fail; install them");
                client
            }
        };
        Ok(Self(client))
    }

    /// POSTs once. The status decides; what follows it is read within the deadline, up to 4 KiB, and forgotten.
    pub async fn post(&self, request: Request<'_>) -> Outcome {
        let Request { endpoint, body, id, timestamp, timeout } = request;
        let sent = self
            .0
            .post(endpoint.expose().clone())
            .timeout(timeout)
            .header(CONTENT_TYPE, body.content_type)
            .header("webhook-id", id.to_string())
            .header("webhook-timestamp", timestamp.as_second().to_string())
            .body(body.text)
            .send()
            .await;
        match sent {
            Ok(response) => {
                let outcome = answered(&response, timestamp);
                drain(response).await;
                outcome
            }
            Err(error) => Outcome::Failed(classify(&error)),
        }
    }
}

fn builder() -> ClientBuilder {
    Inner::builder()
        .user_agent(USER_AGENT)
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .dns_resolver(SystemDns::default())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_PER_HOST)
}

fn answered(response: &Response, now: Timestamp) -> Outcome {
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    Outcome::Answered {
        status: response.status().as_u16(),
        retry_after: retry_after.and_then(|value| schedule::retry_after(value, now)),
    }
}

async fn drain(mut response: Response) {
    let mut left = MAX_ANSWER;
    while let Ok(Some(chunk)) = response.chunk().await {
        match left.checked_sub(chunk.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn classify(error: &reqwest::Error) -> Failure {
    if error.is_timeout() {
        return Failure::Timeout;
    }
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(at) = cause {
        if at.is::<NoAddress>() {
            return Failure::Dns;
        }
        if is_tls(at) {
            return Failure::Tls;
        }
        cause = at.source();
    }
    if error.is_connect() { Failure::Connect } else { Failure::Reset }
}

/// Whether it is rustls's error, or I/O errors around one: `source` skips what an I/O error holds.
fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    error.is::<rustls::Error>() || held.is_some_and(|held| is_tls(held))
}

impl Resolve for SystemDns {
    fn resolve(&self, name: Name) -> Resolving {
        let lookup = self.lookup(name.as_str().to_owned());
        Box::pin(async move {
            // The port is the URL's; 0 stands for it.
            let found = lookup.await?.into_iter().map(|address| SocketAddr::new(address, 0));
            let found: Addrs = Box::new(found);
            Ok(found)
        })
    }
}

#[cfg(test)]
pub(crate) mod receiver;
#[cfg(test)]
mod tests;
