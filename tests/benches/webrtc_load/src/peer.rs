//! One viewer: a peer connection of `str0m` and its socket.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use str0m::{
    Candidate, Input, Output, Rtc,
    change::{SdpAnswer, SdpOffer},
    crypto::CryptoProvider,
    media::{Direction, MediaKind, Mid},
    net::{Protocol, Receive},
    rtp::{RtpWrite, SeqNo},
};

use crate::{clip::Due, http};

/// What a viewer that joins is sent at once: a group of pictures, of which each datagram takes twice its length.
const RECEIVE_BUFFER: usize = 8 << 20;

/// What viewers see together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) lost: u64,
}

pub(crate) struct Peer {
    pub(crate) socket: UdpSocket,
    local: SocketAddr,
    rtc: Rtc,
    /// Only counts, once it is connected.
    light: bool,
    /// When its offer was sent, and when the first packet of media came.
    pub(crate) began: Instant,
    pub(crate) first: Option<Instant>,
    pub(crate) due: Instant,
    /// Sources and their latest numbers.
    sources: Vec<(u32, u16)>,
}

/// How viewers are made.
pub(crate) struct Making {
    pub(crate) crypto: Arc<CryptoProvider>,
    pub(crate) ip: IpAddr,
    pub(crate) sound: bool,
}

impl Peer {
    /// Joins over WHEP.
    pub(crate) fn whep(making: &Making, url: &str, light: bool) -> Result<Self> {
        let mut peer = Self::new(making, light)?;
        let mut api = peer.rtc.sdp_api();
        api.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
        if making.sound {
            api.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
        }
        let (offer, pending) = api.apply().context("no offer")?;
        peer.began = Instant::now();
        let answer = http::post(url, "application/sdp", &offer.to_sdp_string())?;
        peer.rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer)?)?;
        Ok(peer)
    }

    /// Publishes over WHIP: pictures alone.
    pub(crate) fn whip(making: &Making, url: &str) -> Result<(Self, Mid)> {
        let mut peer = Self::new(making, false)?;
        let mut api = peer.rtc.sdp_api();
        let mid = api.add_media(MediaKind::Video, Direction::SendOnly, None, None, None);
        let (offer, pending) = api.apply().context("no offer")?;
        let answer = http::post(url, "application/sdp", &offer.to_sdp_string())?;
        peer.rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer)?)?;
        peer.drive()?;
        Ok((peer, mid))
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.rtc.is_connected()
    }

    /// Sends a frame, and returns how many bytes it was.
    pub(crate) fn send(&mut self, mid: Mid, frame: &Due<'_>, sequence: &mut u64, now: Instant) -> Result<usize> {
        let format = self.rtc.media(mid).and_then(|media| media.remote_pts().first().copied()).context("no format")?;
        let mut bytes = 0;
        for (index, payload) in frame.payloads.iter().enumerate() {
            let last = index + 1 == frame.payloads.len();
            bytes += payload.len();
            let number = SeqNo::from(*sequence);
            *sequence += 1;
            let packet = RtpWrite::new(format, number, frame.timestamp, now, payload.to_vec()).marker(last);
            let mut api = self.rtc.direct_api();
            api.stream_tx_by_mid(mid, None).context("nothing to send on")?.write_rtp(packet);
        }
        self.timeout(now)?;
        Ok(bytes)
    }

    /// A viewer that answers the server's offer, which `ask` gets and `answer` takes.
    pub(crate) fn answering(
        making: &Making,
        light: bool,
        ask: impl FnOnce() -> Result<String>,
        answer: impl FnOnce(&str) -> Result<()>,
    ) -> Result<Self> {
        let mut peer = Self::new(making, light)?;
        peer.began = Instant::now();
        let ours = peer.rtc.sdp_api().accept_offer(SdpOffer::from_sdp_string(&ask()?)?)?;
        answer(&ours.to_sdp_string())?;
        Ok(peer)
    }

    fn new(making: &Making, light: bool) -> Result<Self> {
        let socket = UdpSocket::bind((making.ip, 0))?;
        socket.set_nonblocking(true)?;
        if set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
            set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
        }
        let (local, now) = (socket.local_addr()?, Instant::now());
        let mut rtc = Rtc::builder()
            .set_crypto_provider(making.crypto.clone())
            .clear_codecs()
            .enable_h264(true)
            .enable_opus(true, false)
            .set_rtp_mode(true)
            .build(now);
        rtc.add_local_candidate(Candidate::host(local, "udp")?);
        Ok(Self { socket, local, rtc, light, began: now, first: None, due: now, sources: Vec::new() })
    }

    /// Reads all that is there.
    pub(crate) fn read(&mut self, buffer: &mut [u8], now: Instant, seen: &mut Seen) -> Result<()> {
        while let Ok((length, source)) = self.socket.recv_from(buffer) {
            let datagram = buffer.get(..length).unwrap_or_default();
            if self.count(datagram, now, seen) && self.light {
                continue;
            }
            let Ok(contents) = datagram.try_into() else { continue };
            let receive = Receive { proto: Protocol::Udp, source, destination: self.local, contents };
            self.rtc.handle_input(Input::Receive(now, receive))?;
            self.drive()?;
        }
        Ok(())
    }

    /// Does what is due.
    pub(crate) fn timeout(&mut self, now: Instant) -> Result<()> {
        self.rtc.handle_input(Input::Timeout(now))?;
        self.drive()
    }

    pub(crate) fn drive(&mut self) -> Result<()> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(due) => {
                    self.due = due;
                    return Ok(());
                }
                // no room is a loss
                Output::Transmit(transmit) => drop(self.socket.send_to(&transmit.contents, transmit.destination)),
                Output::Event(_) => {}
            }
        }
    }

    /// Counts a datagram if it is media.
    fn count(&mut self, datagram: &[u8], now: Instant, seen: &mut Seen) -> bool {
        let [first, kind, a, b, _, _, _, _, c, d, e, f, ..] = datagram else { return false };
        // RFC 7983 §7, and RFC 5761 §4 for RTCP
        if !(128..192).contains(first) || (64..96).contains(&(kind & 0x7f)) {
            return false;
        }
        self.first.get_or_insert(now);
        let (ssrc, number) = (u32::from_be_bytes([*c, *d, *e, *f]), u16::from_be_bytes([*a, *b]));
        match self.sources.iter_mut().find(|(source, _)| *source == ssrc) {
            Some((_, last)) => {
                let ahead = number.wrapping_sub(*last);
                if (1..0x8000).contains(&ahead) {
                    seen.lost += u64::from(ahead) - 1;
                    *last = number;
                }
            }
            None => self.sources.push((ssrc, number)),
        }
        seen.packets += 1;
        // no loss: at most a datagram
        seen.bytes += datagram.len() as u64;
        true
    }
}
