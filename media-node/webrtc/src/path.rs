//! How a datagram came, and how one goes back.

use std::net::{IpAddr, SocketAddr};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Udp,
    /// One datagram a frame of RFC 4571, on a connection that the peer opened (ICE-TCP passive).
    Tcp,
}

/// Two ends and what is between them; one session has one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    pub peer: SocketAddr,
    /// The address of ours that the peer sent to, from which it must be answered; `None` if the system does not say.
    pub local: Option<IpAddr>,
    pub transport: Transport,
}
