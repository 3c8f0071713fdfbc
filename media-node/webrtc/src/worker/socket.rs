//! A worker's socket, many datagrams a system call in (recvmmsg, GRO), a batch a call out (GSO), and its connections.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit as Datagrams, UdpSockRef, UdpSocketState};

use crate::batch::{Sent, Sink, Transmit};
use crate::path::{Path, Transport};
use crate::pool::Shared;
use crate::worker::tcp::Tcp;

/// What GRO joins at most.
const BUFFER: usize = 64 * 1024;

pub(super) struct Net {
    socket: UdpSocket,
    state: UdpSocketState,
    is_v6: bool,
    shared: Arc<Shared>,
    pub(super) tcp: Tcp,
}

impl Net {
    pub(super) fn new(socket: UdpSocket, tcp: Tcp, shared: Arc<Shared>) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let is_v6 = socket.local_addr()?.is_ipv6();
        Ok(Self { socket, state, is_v6, shared, tcp })
    }

    /// Of the socket, and of all connections.
    pub(super) fn descriptors(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.socket.as_fd(), self.tcp.descriptor())
    }

    /// Reads what is there; false if nothing is. Errors are those of datagrams that were sent, and say nothing of others.
    pub(super) fn receive(&self, received: &mut Received) -> bool {
        let Received { buffers, metas, count } = received;
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        *count = self.state.recv(UdpSockRef::from(&self.socket), &mut slices, metas).unwrap_or(0);
        *count > 0
    }

    fn send_part(&self, path: &Path, contents: &[u8], segment_size: Option<usize>) -> io::Result<()> {
        let peer = if self.is_v6 { mapped(path.peer) } else { path.peer };
        let datagrams = Datagrams { destination: peer, ecn: None, contents, segment_size, src_ip: path.local };
        self.state.try_send(UdpSockRef::from(&self.socket), &datagrams)
    }
}

impl Sink for Net {
    fn send(&mut self, transmit: Transmit<'_>) -> Sent {
        let Transmit { path, contents, segment_size } = transmit;
        if path.transport == Transport::Tcp {
            return self.tcp.send(&transmit);
        }
        let size = segment_size.unwrap_or(contents.len()).max(1);
        // one where there is no segmentation offload
        let most = size.saturating_mul(self.state.max_gso_segments().max(1));
        let mut sent = Sent::Taken;
        for part in contents.chunks(most) {
            if self.send_part(&path, part, (part.len() > size).then_some(size)).is_err() {
                // no loss: at most 64
                let datagrams = part.len().div_ceil(size) as u64;
                self.shared.counters.sends_refused.fetch_add(datagrams, Ordering::Relaxed);
                sent = Sent::Refused;
            }
        }
        sent
    }
}

/// IPv4 peers of a socket for both have addresses of IPv6.
fn mapped(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(peer) => SocketAddrV6::new(peer.ip().to_ipv6_mapped(), peer.port(), 0, 0).into(),
        SocketAddr::V6(_) => peer,
    }
}

/// What one call read.
pub(super) struct Received {
    buffers: Vec<Vec<u8>>,
    metas: [RecvMeta; BATCH_SIZE],
    count: usize,
}

impl Received {
    pub(super) fn new() -> Self {
        Self { buffers: vec![vec![0; BUFFER]; BATCH_SIZE], metas: [RecvMeta::default(); BATCH_SIZE], count: 0 }
    }

    pub(super) fn datagrams(&self, mut each: impl FnMut(Path, &[u8])) {
        for (meta, buffer) in self.metas.iter().zip(&self.buffers).take(self.count) {
            let peer = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
            let local = meta.dst_ip.map(|ip: IpAddr| ip.to_canonical());
            let path = Path { peer, local, transport: Transport::Udp };
            let contents = buffer.get(..meta.len).unwrap_or_default();
            contents.chunks(meta.stride.max(1)).for_each(|datagram| each(path, datagram));
        }
    }
}
