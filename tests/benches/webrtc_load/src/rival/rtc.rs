//! The crate `rtc` under a driver of ours: one thread, one socket, a frame to a viewer as one system call.

use std::{
    collections::HashMap,
    io::IoSliceMut,
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use ::rtc::{
    interceptor::Registry,
    peer_connection::{
        RTCPeerConnection, RTCPeerConnectionBuilder,
        configuration::{
            interceptor_registry::{configure_nack, configure_rtcp_reports},
            setting_engine::SettingEngineBuilder,
        },
        event::RTCPeerConnectionEvent,
        sdp::RTCSessionDescription,
        state::RTCPeerConnectionState,
        transport::{CandidateConfig, CandidateHostConfig, RTCIceCandidate, RTCIceCandidateInit},
    },
    rtp,
    rtp_transceiver::RTCRtpSenderId,
    sansio::Protocol as _,
    shared::{TaggedBytesMut, TransportContext, TransportProtocol},
};
use anyhow::{Context, Result};
use bytes::BytesMut;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Format, SSRC};
use crate::{ServeArguments, clip::Clip, http};

/// How long the driver waits at most before it looks for viewers that have joined and for timers.
const TURN: Duration = Duration::from_millis(5);
/// What GRO joins at most.
const BUFFER: usize = 64 << 10;
/// Linux cuts a buffer into 64 at most.
const MAX_SEGMENTS: usize = 64;

struct Viewer {
    connection: RTCPeerConnection,
    sender: RTCRtpSenderId,
    payload_type: u8,
    ufrag: String,
    is_connected: bool,
}

pub(crate) fn run(arguments: &ServeArguments) -> Result<()> {
    let clip = Clip::read(&arguments.clip)?;
    let listener = TcpListener::bind(arguments.http)?;
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    let local = socket.local_addr()?;
    let (joined, incoming) = channel();
    thread::scope(|scope| {
        scope.spawn(move || http::serve(&listener, |offer| answer(offer, local, &joined)));
        Driver::new(socket, incoming)?.run(&clip)
    })
}

fn answer(offer: &str, local: SocketAddr, joined: &Sender<Viewer>) -> Result<String> {
    let format = Format::of_offer(offer)?;
    let mut engine = format.engine()?;
    let registry = configure_rtcp_reports(configure_nack(Registry::new(), &mut engine));
    let mut connection = RTCPeerConnectionBuilder::new()
        .with_setting_engine(SettingEngineBuilder::new().with_lite(true).build())
        .with_media_engine(engine)
        .with_interceptor_registry(registry)
        .build(Instant::now())?;
    let sender = connection.add_track(format.track())?;
    connection.set_remote_description(Instant::now(), RTCSessionDescription::offer(offer.to_owned())?)?;
    let base_config = CandidateConfig {
        network: "udp".to_owned(),
        address: local.ip().to_string(),
        port: local.port(),
        component: 1,
        ..CandidateConfig::default()
    };
    let candidate = CandidateHostConfig { base_config, ..CandidateHostConfig::default() }.new_candidate_host()?;
    connection.add_local_candidate(RTCIceCandidate::from(&candidate).to_json()?)?;
    let answer = connection.create_answer(None)?;
    connection.set_local_description(Instant::now(), answer)?;
    connection.add_local_candidate(RTCIceCandidateInit::default())?;
    let answer = connection.local_description().context("no answer was made")?.sdp;
    let ufrag = answer.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).context("no ufrag")?.to_owned();
    let viewer = Viewer { connection, sender, payload_type: format.payload_type, ufrag, is_connected: false };
    joined.send(viewer).ok().context("the driver is gone")?;
    Ok(answer)
}

struct Driver {
    socket: UdpSocket,
    local: SocketAddr,
    state: UdpSocketState,
    incoming: Receiver<Viewer>,
    viewers: Vec<Viewer>,
    names: HashMap<String, usize>,
    paths: HashMap<SocketAddr, usize>,
    buffers: Vec<Vec<u8>>,
    batch: Vec<u8>,
}

impl Driver {
    fn new(socket: UdpSocket, incoming: Receiver<Viewer>) -> Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            local: socket.local_addr()?,
            state: UdpSocketState::new(UdpSockRef::from(&socket))?,
            socket,
            incoming,
            viewers: Vec::new(),
            names: HashMap::new(),
            paths: HashMap::new(),
            buffers: vec![vec![0; BUFFER]; BATCH_SIZE],
            batch: Vec::with_capacity(BUFFER),
        })
    }

    fn run(mut self, clip: &Clip) -> Result<()> {
        let (began, mut number, mut sequence) = (Instant::now(), 0, 0_u16);
        let mut timers = began;
        loop {
            let frame = clip.due(number)?;
            let now = Instant::now();
            if began + frame.at <= now {
                self.send(&frame, sequence, now);
                sequence = sequence.wrapping_add(u16::try_from(frame.payloads.len())?);
                number += 1;
                continue;
            }
            while let Ok(viewer) = self.incoming.try_recv() {
                self.names.insert(viewer.ufrag.clone(), self.viewers.len());
                self.viewers.push(viewer);
            }
            let wait = Timespec::try_from((began + frame.at - now).min(TURN))?;
            let mut descriptors = [PollFd::new(&self.socket, PollFlags::IN)];
            // a signal is a turn, too
            let _interrupted = poll(&mut descriptors, Some(&wait));
            self.receive(Instant::now());
            if timers + TURN <= Instant::now() {
                timers = Instant::now();
                (0..self.viewers.len()).for_each(|viewer| self.timeout(viewer, timers));
            }
        }
    }

    fn send(&mut self, frame: &crate::clip::Due<'_>, sequence: u16, now: Instant) {
        for viewer in 0..self.viewers.len() {
            let Some(Viewer { connection, sender, payload_type, is_connected: true, .. }) =
                self.viewers.get_mut(viewer)
            else {
                continue;
            };
            let Some(mut sender) = connection.rtp_sender(*sender) else { continue };
            let mut number = sequence;
            for (index, payload) in frame.payloads.iter().enumerate() {
                let header = rtp::Header {
                    version: 2,
                    ssrc: SSRC,
                    payload_type: *payload_type,
                    sequence_number: number,
                    timestamp: frame.timestamp,
                    marker: index + 1 == frame.payloads.len(),
                    ..rtp::Header::default()
                };
                number = number.wrapping_add(1);
                // a viewer that is gone
                drop(sender.write_rtp(now, rtp::Packet { header, payload: payload.clone() }));
            }
            self.flush(viewer);
        }
    }

    fn receive(&mut self, now: Instant) {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut slices: Vec<_> = self.buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        let count = self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut metas).unwrap_or(0);
        let mut datagrams = Vec::new();
        for (meta, buffer) in metas.iter().zip(&self.buffers).take(count) {
            let contents = buffer.get(..meta.len).unwrap_or_default();
            datagrams.extend(contents.chunks(meta.stride.max(1)).map(|datagram| (meta.addr, BytesMut::from(datagram))));
        }
        for (peer_addr, message) in datagrams {
            let known = self.paths.get(&peer_addr).copied();
            let Some(viewer) = known.or_else(|| self.names.get(name(&message)?).copied()) else { continue };
            self.paths.insert(peer_addr, viewer);
            let transport = TransportContext {
                local_addr: self.local,
                peer_addr,
                ecn: None,
                transport_protocol: TransportProtocol::UDP,
            };
            if let Some(Viewer { connection, .. }) = self.viewers.get_mut(viewer) {
                // what it does not understand
                drop(connection.handle_read(TaggedBytesMut { now, transport, message }));
            }
            self.flush(viewer);
        }
    }

    fn timeout(&mut self, viewer: usize, now: Instant) {
        let Some(Viewer { connection, .. }) = self.viewers.get_mut(viewer) else { return };
        if connection.poll_timeout().is_some_and(|due| due <= now) {
            // a viewer that is gone
            drop(connection.handle_timeout(now));
            self.flush(viewer);
        }
    }

    /// Sends all that a viewer's connection has, runs of one size as one call.
    fn flush(&mut self, viewer: usize) {
        let Some(Viewer { connection, is_connected, .. }) = self.viewers.get_mut(viewer) else { return };
        let (mut size, mut peer) = (0, None);
        self.batch.clear();
        while let Some(transmit) = connection.poll_write() {
            let (message, to) = (&transmit.message, Some(transmit.transport.peer_addr));
            let fits = peer == to
                && message.len() <= size
                && self.batch.len().is_multiple_of(size)
                && self.batch.len() / size < MAX_SEGMENTS;
            if !fits {
                put(&self.state, &self.socket, peer, &self.batch, size);
                self.batch.clear();
                (size, peer) = (message.len(), to);
            }
            self.batch.extend_from_slice(message);
        }
        put(&self.state, &self.socket, peer, &self.batch, size);
        while let Some(event) = connection.poll_event() {
            if let RTCPeerConnectionEvent::OnConnectionStateChangeEvent(state) = event {
                *is_connected = state == RTCPeerConnectionState::Connected;
            }
        }
        while connection.poll_read().is_some() {}
    }
}

fn put(state: &UdpSocketState, socket: &UdpSocket, peer: Option<SocketAddr>, contents: &[u8], size: usize) {
    let Some(destination) = peer.filter(|_| !contents.is_empty()) else { return };
    let segment_size = (contents.len() > size).then_some(size);
    let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
    // no room is a loss
    drop(state.try_send(UdpSockRef::from(socket), &transmit));
}

/// Our part of the USERNAME of a check (RFC 8445 §7.2.2).
fn name(datagram: &[u8]) -> Option<&str> {
    const USERNAME: [u8; 2] = [0, 6];

    let mut rest = datagram.get(20..)?;
    while let Some(([a, b, c, d], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        let value = after.get(..length)?;
        if [*a, *b] == USERNAME {
            return std::str::from_utf8(value).ok()?.split_once(':').map(|(ours, _)| ours);
        }
        rest = after.get(length.next_multiple_of(4)..)?;
    }
    None
}
