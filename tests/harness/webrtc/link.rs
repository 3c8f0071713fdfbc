//! A client's way to the server: a UDP socket, or a TCP connection with each datagram after its length (RFC 4571); and what
//! the network does to it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result};
use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, UdpSocket},
};

/// What a path loses, as a share of its datagrams from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    pub received: f64,
    pub sent: f64,
}

/// Longer than any datagram of WebRTC.
const DATAGRAM: usize = 2_048;
/// A viewer that joins is sent a group of pictures at once.
const RECEIVE_BUFFER: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Link {
    way: Way,
    /// What the peer believes its own address to be, whatever a NAT makes of it.
    pub(super) local: SocketAddr,
    pub(super) loss: Loss,
    dice: Dice,
    buffer: BytesMut,
}

#[derive(Debug)]
enum Way {
    Udp(UdpSocket),
    Tcp(TcpStream, SocketAddr),
}

impl Link {
    pub(super) async fn udp(bind: IpAddr, loss: Loss) -> Result<Self> {
        let socket = UdpSocket::bind((bind, 0)).await.with_context(|| format!("failed to bind {bind}"))?;
        // the system gives as much of it as it is configured for
        SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
        let local = socket.local_addr()?;
        Ok(Self { way: Way::Udp(socket), local, loss, dice: Dice::new(local.port()), buffer: BytesMut::new() })
    }

    pub(super) async fn tcp(bind: IpAddr, server: SocketAddr, loss: Loss) -> Result<Self> {
        let socket = if bind.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind((bind, 0).into()).with_context(|| format!("failed to bind {bind}"))?;
        let stream = socket.connect(server).await.with_context(|| format!("failed to connect to {server}"))?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        Ok(Self { way: Way::Tcp(stream, server), local, loss, dice: Dice::new(local.port()), buffer: BytesMut::new() })
    }

    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.way, Way::Tcp(..))
    }

    /// Goes on from another port, as behind a NAT that has forgotten; what follows is not told to the peer's own side.
    pub(super) async fn rebind(&mut self) -> Result<()> {
        if let Way::Udp(socket) = &mut self.way {
            *socket = UdpSocket::bind((self.local.ip(), 0)).await?;
        }
        Ok(())
    }

    /// Waits for the next datagram that is not lost. Nothing is lost when the wait is given up.
    pub(super) async fn receive(&mut self) -> Result<(BytesMut, SocketAddr)> {
        loop {
            let (datagram, peer) = match &mut self.way {
                Way::Udp(socket) => {
                    self.buffer.resize(DATAGRAM, 0);
                    match socket.recv_from(&mut self.buffer).await {
                        Ok((length, peer)) => (self.buffer.split_to(length), peer),
                        // of a datagram that was sent to a port that nobody has
                        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                        Err(error) => return Err(error).context("failed to receive"),
                    }
                }
                Way::Tcp(stream, peer) => match framed(&mut self.buffer) {
                    Some(datagram) => (datagram, *peer),
                    None => {
                        let read = stream.read_buf(&mut self.buffer).await.context("failed to receive")?;
                        anyhow::ensure!(read > 0, "the server has closed the connection");
                        continue;
                    }
                },
            };
            if !self.dice.falls(self.loss.received) {
                return Ok((datagram, peer));
            }
        }
    }

    pub(super) async fn send(&mut self, datagram: &[u8], peer: SocketAddr) -> Result<()> {
        if self.dice.falls(self.loss.sent) {
            return Ok(());
        }
        match &mut self.way {
            // no route and no room are losses
            Way::Udp(socket) => drop(socket.send_to(datagram, peer).await),
            Way::Tcp(stream, _) => {
                let length = u16::try_from(datagram.len())?;
                stream.write_all(&[&length.to_be_bytes(), datagram].concat()).await?;
            }
        }
        Ok(())
    }
}

fn framed(buffer: &mut BytesMut) -> Option<BytesMut> {
    let length = usize::from(u16::from_be_bytes(*buffer.first_chunk()?));
    if buffer.len() < 2 + length {
        return None;
    }
    buffer.advance(2);
    Some(buffer.split_to(length))
}

/// The same throws in every run from the same port (xorshift).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn new(seed: u16) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ u64::from(seed))
    }

    fn falls(&mut self, share: f64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let [a, b, c, d, ..] = self.0.to_be_bytes();
        f64::from(u32::from_be_bytes([a, b, c, d])) < share * f64::from(u32::MAX)
    }
}
