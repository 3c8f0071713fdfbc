//! Finds the addresses of a host by what the system's resolv.conf and hosts file say, with an error that has a type. Not by libc: a
//! lookup there holds a thread for as long as a silent name server lets it, and a static binary in an empty image has no NSS.

use std::{
    error::Error as StdError,
    fs,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use hickory_resolver::{TokioResolver, config::LookupIpStrategy, net::NetError};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The system's name servers.
#[derive(Default)]
pub struct SystemDns(Mutex<Option<(SystemTime, TokioResolver)>>);

/// No name server knows the host.
#[derive(Debug, thiserror::Error)]
#[error("the host has no address")]
pub struct NoAddress;

impl SystemDns {
    /// Returns the addresses of a host, one at least. How long that may take is the caller's to say.
    ///
    /// # Errors
    /// When there is none, or the system's name servers are not known.
    pub fn lookup(&self, host: String) -> impl Future<Output = Result<Vec<IpAddr>, NoAddress>> + Send + use<> {
        let resolver = self.current();
        async move {
            let found = resolver?.lookup_ip(host).await.map_err(|_unresolved| NoAddress)?;
            let found: Vec<IpAddr> = found.iter().collect();
            if found.is_empty() { Err(NoAddress) } else { Ok(found) }
        }
    }

    /// Returns the resolver, made anew when resolv.conf has changed since: a laptop finds the name servers of its next network.
    fn current(&self) -> Result<TokioResolver, NoAddress> {
        let changed = fs::metadata(RESOLV_CONF).and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, resolver)) = &*made
            && *when == changed
        {
            return Ok(resolver.clone());
        }
        let resolver = resolver().map_err(|error| {
            tracing::warn!(error = &error as &dyn StdError, "the system's name servers are not known");
            NoAddress
        })?;
        *made = Some((changed, resolver.clone()));
        Ok(resolver)
    }
}

fn resolver() -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.build()
}
