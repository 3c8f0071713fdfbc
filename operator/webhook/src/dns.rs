//! Finds the addresses of a host by what the system's resolv.conf and hosts file say, with an error that has a type. Not by libc: a
//! lookup there holds a thread for as long as a silent name server lets it, and a static binary in an empty image has no NSS.

use std::{
    error::Error as StdError,
    fs,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use hickory_resolver::{
    ResolverBuilder, TokioResolver, config::LookupIpStrategy, net::NetError, net::runtime::TokioRuntimeProvider,
};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long a name server may take before the question is asked anew: of the next server, or of the next that stands behind one Service,
/// since each question has a port of its own. A machine that is lost takes name servers with it, and their answers wait for 5 s by default.
const ANSWER: Duration = Duration::from_secs(1);
/// How often a question is asked anew. With the first time it fits into the 10 s of an attempt.
const REPEATS: usize = 7;

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
    patient(TokioResolver::builder_tokio()?)
}

fn patient(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<TokioResolver, NetError> {
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = ANSWER;
    options.attempts = REPEATS;
    builder.build()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
    use tokio::{net::UdpSocket, time::Instant};

    use super::*;

    /// What an attempt may take, the schema's default.
    const DEADLINE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_question_that_nobody_answers_is_asked_anew_within_an_attempt() {
        let silent = server().await;
        let dns = asking(&[&silent]);
        let began = Instant::now();

        let found = dns.lookup("receiver.test.".to_owned()).await;

        assert!(found.is_err());
        assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
        let questions = u32::try_from(REPEATS + 1).unwrap();
        assert!(began.elapsed() >= ANSWER * questions, "each time: {:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn servers_that_are_dead_cost_a_second_and_not_the_attempt() {
        let (first, second, alive) = (server().await, server().await, server().await);
        let dns = asking(&[&first, &second, &alive]);
        let began = Instant::now();

        let found = tokio::select! {
            found = dns.lookup("receiver.test.".to_owned()) => found,
            () = answer(alive) => unreachable!("it answers without an end"),
        };

        assert_eq!(found.unwrap(), [Ipv4Addr::new(192, 0, 2, 7)]);
        assert!(began.elapsed() < 3 * ANSWER, "{:?}", began.elapsed());
    }

    async fn server() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").await.unwrap()
    }

    fn asking(servers: &[&UdpSocket]) -> SystemDns {
        let servers = servers.iter().map(|server| name_server(server.local_addr().unwrap())).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        let changed = fs::metadata(RESOLV_CONF).and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        SystemDns(Mutex::new(Some((changed, patient(builder).unwrap()))))
    }

    fn name_server(at: SocketAddr) -> NameServerConfig {
        let mut connection = ConnectionConfig::udp();
        connection.port = at.port();
        NameServerConfig::new(at.ip(), true, vec![connection])
    }

    /// Says 192.0.2.7 to each question for IPv4, and that there is nothing to others.
    async fn answer(socket: UdpSocket) {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question).await {
            let name = question[12..length].iter().position(|byte| *byte == 0).unwrap();
            let end = 12 + name + 5;
            let is_v4 = question[end - 3] == 1;
            let mut answer = question[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]);
            answer.extend(&question[12..end]);
            if is_v4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
            }
            socket.send_to(&answer, from).await.unwrap();
        }
    }
}
