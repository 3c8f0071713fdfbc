//! Under which addresses peers are told to reach this node.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use media_webrtc::{path::Transport, sdp::Candidate};
use tracing::warn;

/// Addresses of an answer, for either transport; a machine with more has them for its pods. A client tries all of them.
const MOST: usize = 16;

/// An address that peers are told, in place of those of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertised {
    ip: IpAddr,
    /// Of the workers' own, when it says nothing.
    port: Option<u16>,
}

/// What is no address to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an advertised address is IP or IP:PORT, with an IPv6 address in brackets when a port follows")]
pub struct Invalid;

impl FromStr for Advertised {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (ip, port) = match (text.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
            (Ok(ip), _) => (ip, None),
            (Err(_), Ok(address)) if address.port() != 0 => (address.ip(), Some(address.port())),
            (Err(_), Ok(_) | Err(_)) => return Err(Invalid),
        };
        if ip.is_unspecified() { Err(Invalid) } else { Ok(Self { ip, port }) }
    }
}

impl Advertised {
    fn at(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, self.port.unwrap_or(port))
    }
}

/// The addresses of a node.
#[derive(Debug)]
pub(crate) enum Addresses {
    Told {
        always: Vec<SocketAddr>,
        /// A file of further ones, which may come later, and the port of those that have none.
        file: Option<(PathBuf, u16)>,
    },
    /// Those of the machine, which may get others.
    OfMachine { bound: SocketAddr },
}

impl Addresses {
    pub(crate) fn new(advertised: &[Advertised], file: Option<&Path>, bound: SocketAddr) -> Self {
        let file = file.map(|file| (file.to_owned(), bound.port()));
        if !advertised.is_empty() {
            let always = advertised.iter().map(|told| told.at(bound.port())).collect();
            return Self::Told { always, file };
        }
        if bound.ip().is_unspecified() { Self::OfMachine { bound } } else { Self::Told { always: vec![bound], file } }
    }

    /// The best first, over TCP after all over UDP.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        let addresses = match self {
            Self::Told { always, file } => {
                let mut all = always.clone();
                all.extend(
                    file.iter().flat_map(|(file, port)| in_file(file, *port)).filter(|later| !always.contains(later)),
                );
                all
            }
            Self::OfMachine { bound } => {
                let all = if_addrs::get_if_addrs().unwrap_or_else(|error| {
                    warn!(%error, "failed to list the machine's addresses; --webrtc-advertise tells them");
                    Vec::new()
                });
                reached(all.into_iter().map(|interface| interface.ip()), *bound)
            }
        };
        let over =
            |transport| addresses.iter().take(MOST).map(move |address| Candidate { address: *address, transport });
        over(Transport::Udp).chain(over(Transport::Tcp)).collect()
    }
}

/// What a file lists, separated by commas or blanks; nothing while it is not there, or empty.
fn in_file(file: &Path, port: u16) -> Vec<SocketAddr> {
    // a few bytes of the kubelet's memory
    let text = fs::read_to_string(file).unwrap_or_default();
    let words = text.split([',', ' ', '\n']).filter(|word| !word.is_empty());
    words.filter_map(|word| word.parse::<Advertised>().ok()).map(|told| told.at(port)).collect()
}

/// Of a machine's addresses those at which the socket is reached: IPv4 before IPv6, and loopback, which is of use on the machine
/// alone, last.
fn reached(all: impl Iterator<Item = IpAddr>, bound: SocketAddr) -> Vec<SocketAddr> {
    let is_reached = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => true,
        // an address of a link means nothing without the name of the interface
        IpAddr::V6(ip) => bound.is_ipv6() && !is_of_link(ip),
    };
    let mut reached: Vec<_> = all.filter(is_reached).collect();
    reached.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6()));
    reached.into_iter().map(|ip| SocketAddr::new(ip, bound.port())).collect()
}

fn is_of_link(ip: &Ipv6Addr) -> bool {
    ip.segments().first().is_some_and(|first| first & 0xffc0 == 0xfe80)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(all: &[&str]) -> Vec<IpAddr> {
        all.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    /// The addresses, which must be told for both transports.
    fn told(addresses: &Addresses) -> Vec<String> {
        let candidates = addresses.candidates();
        let (first, second) = candidates.split_at(candidates.len() / 2);
        assert!(first.iter().all(|candidate| candidate.transport == Transport::Udp), "{candidates:?}");
        assert!(second.iter().all(|candidate| candidate.transport == Transport::Tcp), "{candidates:?}");
        let text = |all: &[Candidate]| all.iter().map(|told| told.address.to_string()).collect::<Vec<_>>();
        assert_eq!(text(first), text(second));
        text(first)
    }

    #[test]
    fn what_is_advertised_is_told_and_nothing_else() {
        let advertised: Vec<Advertised> =
            ["198.51.100.7", "203.0.113.9:40000", "2001:db8::1", "[2001:db8::2]:9"].map(|a| a.parse().unwrap()).into();
        let addresses = Addresses::new(&advertised, None, "0.0.0.0:50000".parse().unwrap());

        let expected = ["198.51.100.7:50000", "203.0.113.9:40000", "[2001:db8::1]:50000", "[2001:db8::2]:9"];
        assert_eq!(told(&addresses), expected);
        for bad in ["", "host", "0.0.0.0", "::", "192.0.2.1:0", "192.0.2.1:99999", "2001:db8::1:port"] {
            assert_eq!(bad.parse::<Advertised>(), Err(Invalid), "{bad}");
        }
    }

    #[test]
    fn a_file_adds_what_comes_later() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("media-address");
        let addresses = Addresses::new(&["10.0.0.1".parse().unwrap()], Some(&file), "0.0.0.0:50004".parse().unwrap());
        assert_eq!(told(&addresses), ["10.0.0.1:50004"]);

        fs::write(&file, "203.0.113.9,10.0.0.1\nlive.example.com 203.0.113.10:7\n").unwrap();
        assert_eq!(told(&addresses), ["10.0.0.1:50004", "203.0.113.9:50004", "203.0.113.10:7"]);
    }

    #[test]
    fn a_socket_with_an_address_is_reached_there() {
        assert_eq!(told(&Addresses::new(&[], None, "127.0.0.1:4000".parse().unwrap())), ["127.0.0.1:4000"]);
    }

    #[test]
    fn a_socket_of_all_addresses_is_reached_at_those_of_the_machine() {
        let all = addresses(&["127.0.0.1", "::1", "fe80::1", "2001:db8::1", "192.0.2.1"]);
        let at = |bound: &str| -> Vec<String> {
            let reached = reached(all.iter().copied(), bound.parse().unwrap());
            reached.iter().map(ToString::to_string).collect()
        };

        assert_eq!(at("0.0.0.0:9"), ["192.0.2.1:9", "127.0.0.1:9"]);
        assert_eq!(at("[::]:9"), ["192.0.2.1:9", "[2001:db8::1]:9", "127.0.0.1:9", "[::1]:9"]);
        assert!(told(&Addresses::new(&[], None, "0.0.0.0:9".parse().unwrap())).contains(&"127.0.0.1:9".to_owned()));
    }
}
