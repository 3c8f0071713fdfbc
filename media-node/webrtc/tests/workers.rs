//! The workers on real sockets: peers are spread over them, followed when they move, and bounded.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends here, with the reason")]

#[path = "workers/faults.rs"]
mod faults;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use media_webrtc::clock::Wallclock;
use media_webrtc::demux::{Full, Limits};
use media_webrtc::dtls::Identity;
use media_webrtc::history::{Frame, Payload};
use media_webrtc::ice::Credentials;
use media_webrtc::path::Transport;
use media_webrtc::pool::{NewSession, Options, Pool, SessionId, StreamId};
use media_webrtc::sdp::{Answer, Candidate, Codec, Direction, H264Profile, Offer};
use media_webrtc::source::Layer;
use media_webrtc::transport::{Cause, ESTABLISH, Event};
use ring::hmac;
use str0m::change::SdpAnswer;
use str0m::media::MediaKind;
use str0m::net::{Protocol, Receive, TcpType};
use str0m::{Input, Output, Rtc};

const VIDEO: Codec = Codec::H264(H264Profile { idc: 100, constraints: 0 });
const STREAM: StreamId = StreamId(1);

/// No condition of these tests takes longer on a machine that is busy with others.
const DEADLINE: Duration = Duration::from_secs(30);

#[expect(clippy::disallowed_methods, reason = "these sockets are real")]
fn now() -> Instant {
    Instant::now()
}

/// Workers and what they told.
struct Server {
    pool: Pool,
    identity: Arc<Identity>,
    told: Arc<Mutex<Vec<(SessionId, Event)>>>,
}

impl Server {
    fn start(workers: usize, limits: Limits) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), workers, limits)
    }

    fn start_at(host: IpAddr, workers: usize, limits: Limits) -> Self {
        let (identity, told) = (Arc::new(Identity::generate().unwrap()), Arc::new(Mutex::new(Vec::new())));
        let options = Options { address: (host, 0).into(), workers, limits };
        let notify = {
            let told = told.clone();
            Box::new(move |session, event| told.lock().unwrap().push((session, event)))
        };
        let pool = Pool::start(&options, identity.clone(), notify).unwrap();
        #[expect(clippy::disallowed_methods, reason = "as above")]
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        pool.open(STREAM, &[VIDEO.into()], Wallclock { at: now(), since_epoch });
        Self { pool, identity, told }
    }

    fn add(&self, number: u8, offer: &Offer) -> (Credentials, Result<(), Full>) {
        let credentials = Credentials::new([number; 40]);
        let legs = offer.choose(&[VIDEO], ssrcs()).unwrap();
        let session = NewSession {
            id: SessionId(number.into()),
            stream: STREAM,
            offer: offer.clone(),
            legs,
            credentials: credentials.clone(),
            cname: "stream".into(),
            seed: 1,
        };
        let added = self.pool.add(session, now());
        (credentials, added)
    }

    fn has_told(&self, session: u8, event: &Event) -> bool {
        self.told.lock().unwrap().contains(&(SessionId(session.into()), event.clone()))
    }
}

fn ssrcs() -> impl FnMut() -> u32 {
    let mut next = 0;
    move || {
        next += 1;
        next
    }
}

/// Repeats `step`, which waits for a datagram for a moment, until it says that it is done.
fn until(what: &str, mut step: impl FnMut() -> bool) {
    let end = now() + DEADLINE;
    while !step() {
        assert!(now() < end, "{what}: not within {DEADLINE:?}");
        std::thread::yield_now();
    }
}

/// A socket whose reads wait for a moment.
fn socket() -> UdpSocket {
    socket_at(Ipv4Addr::LOCALHOST.into())
}

fn socket_at(host: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((host, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 2_048];
    match socket.recv(&mut buffer) {
        Ok(length) => {
            buffer.truncate(length);
            Some(buffer)
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        Err(error) => panic!("failed to receive: {error}"),
    }
}

/// A viewer on an independent stack.
struct Viewer {
    rtc: Rtc,
    socket: Socket,
    payloads: HashSet<Vec<u8>>,
}

#[derive(Clone, Copy)]
enum Way {
    Udp,
    Tcp,
}

enum Socket {
    Udp(UdpSocket),
    Tcp(Connection),
}

impl Viewer {
    fn join(server: &Server, number: u8) -> Self {
        Self::join_over(Way::Udp, server, number)
    }

    fn join_over(way: Way, server: &Server, number: u8) -> Self {
        Self::join_from(Ipv4Addr::LOCALHOST.into(), way, server, number)
    }

    fn join_from(host: IpAddr, way: Way, server: &Server, number: u8) -> Self {
        let address = server.pool.address();
        let provider = Arc::new(str0m::crypto::from_feature_flags());
        let mut rtc = Rtc::builder().set_crypto_provider(provider).set_rtp_mode(true).build(now());
        let (socket, local, transport) = match way {
            Way::Udp => {
                let socket = socket_at(host);
                let local = socket.local_addr().unwrap();
                (Socket::Udp(socket), str0m::Candidate::host(local, "udp").unwrap(), Transport::Udp)
            }
            Way::Tcp => {
                let connection = Connection::open(address);
                let local = connection.stream.local_addr().unwrap();
                let candidate = str0m::Candidate::builder().tcp().host(local).tcptype(TcpType::Active).build().unwrap();
                (Socket::Tcp(connection), candidate, Transport::Tcp)
            }
        };
        rtc.add_local_candidate(local);
        let mut api = rtc.sdp_api();
        api.add_media(MediaKind::Video, str0m::media::Direction::RecvOnly, None, None, None);
        let (offer, pending) = api.apply().unwrap();
        let offer = Offer::parse(&offer.to_sdp_string()).unwrap();
        let (credentials, added) = server.add(number, &offer);
        added.unwrap();
        let answer = Answer {
            offer: &offer,
            legs: &offer.choose(&[VIDEO], ssrcs()).unwrap(),
            direction: Direction::Send,
            session_id: 1,
            credentials: &credentials,
            fingerprint: server.identity.fingerprint(),
            candidates: &[Candidate { address, transport }],
            cname: "stream",
        };
        rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer.to_string()).unwrap()).unwrap();
        Self { rtc, socket, payloads: HashSet::new() }
    }

    fn step(&mut self, server: SocketAddr) {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(_) => break,
                Output::Transmit(transmit) => match &mut self.socket {
                    Socket::Udp(socket) => {
                        // the system says so of what a rule drops
                        let _dropped = socket.send_to(&transmit.contents, transmit.destination);
                    }
                    Socket::Tcp(connection) => connection.send(&transmit.contents),
                },
                Output::Event(str0m::Event::RtpPacket(packet)) => {
                    self.payloads.insert(packet.payload.to_vec());
                }
                Output::Event(_) => {}
            }
        }
        let (received, destination, proto) = match &mut self.socket {
            Socket::Udp(socket) => (receive(socket), socket.local_addr().unwrap(), Protocol::Udp),
            Socket::Tcp(connection) => (connection.receive(), connection.stream.local_addr().unwrap(), Protocol::Tcp),
        };
        let input = match received {
            Some(datagram) => {
                let contents = datagram.as_slice().try_into().unwrap();
                let receive = Receive { proto, source: server, destination, contents };
                return self.rtc.handle_input(Input::Receive(now(), receive)).unwrap();
            }
            None => Input::Timeout(now()),
        };
        self.rtc.handle_input(input).unwrap();
    }
}

fn frame(number: u8) -> Arc<Frame> {
    let packets = (0..20_u8).map(|at| Payload {
        bytes: [&[0x7c, at, number][..], &vec![at; if at == 19 { 100 } else { 1_100 }]].concat().into(),
        marker: at == 19,
    });
    Arc::new(Frame {
        timestamp: u32::from(number) * 3_000,
        time: Duration::from_millis(33) * u32::from(number),
        is_keyframe: number.is_multiple_of(10),
        packets: packets.collect(),
    })
}

#[test]
fn viewers_of_all_workers_receive_the_stream() {
    let server = Server::start(2, Limits::default());
    let address = server.pool.address();
    let mut viewers: Vec<_> = (1..=8).map(|number| Viewer::join(&server, number)).collect();
    until("all are connected", || {
        viewers.iter_mut().for_each(|viewer| viewer.step(address));
        (1..=8).all(|number| server.has_told(number, &Event::Connected))
    });
    let mut expected = HashSet::new();
    for number in 0..20 {
        let frame = frame(number);
        expected.extend(frame.packets.iter().map(|packet| packet.bytes.to_vec()));
        server.pool.push(STREAM, Layer::only(0), &frame);
        // one at a time, which is what the sockets of the viewers hold
        until("all have the frame", || {
            viewers.iter_mut().for_each(|viewer| viewer.step(address));
            viewers.iter().all(|viewer| viewer.payloads == expected)
        });
    }
    let counted = server.pool.counted();
    assert_eq!((counted.adopted, counted.frames_dropped, counted.handovers_dropped), (8, 0, 0));

    server.pool.end(&Credentials::new([1; 40]).ufrag);
    until("it is told that one was ended", || server.has_told(1, &Event::Closed(Cause::Closed)));
    server.pool.close(STREAM);
    until("all were ended", || (1..=8).all(|number| server.has_told(number, &Event::Closed(Cause::Closed))));
    server.pool.stop();
}

const OFFER: &str = "v=0\r\na=ice-ufrag:peer\r\na=ice-pwd:0123456789012345678901\r\na=fingerprint:sha-256 \
    00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\na=rtcp-mux\r\na=rtpmap:96 H264/90000\r\n\
    a=fmtp:96 packetization-mode=1;profile-level-id=64001f\r\n";

/// The check of a peer that knows a session's name and password.
fn check(ufrag: &str, password: &[u8]) -> Vec<u8> {
    check_of(&format!("{ufrag}:peer"), password)
}

fn check_of(username: &str, password: &[u8]) -> Vec<u8> {
    let attribute = |kind: u16, value: &[u8]| {
        let mut out = [kind.to_be_bytes(), u16::try_from(value.len()).unwrap().to_be_bytes()].concat();
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    };
    let with_length = |body: &[u8], more: usize| {
        let length = u16::try_from(body.len() + more).unwrap().to_be_bytes();
        [&[0, 1][..], &length, &[0x21, 0x12, 0xa4, 0x42], &[9; 12], body].concat()
    };
    let mut body = [attribute(6, username.as_bytes()), attribute(0x25, &[])].concat();
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password);
    let tag = hmac::sign(&key, &with_length(&body, 24));
    body.extend(attribute(8, tag.as_ref()));
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &with_length(&body, 8));
    body.extend(attribute(0x8028, &(u32::try_from(crc).unwrap() ^ 0x5354_554e).to_be_bytes()));
    with_length(&body, 0)
}

#[test]
fn a_peer_that_moves_is_answered_by_its_own_worker_wherever_it_lands() {
    let server = Server::start(2, Limits::default());
    let (credentials, added) = server.add(1, &Offer::parse(OFFER).unwrap());
    added.unwrap();
    // the password is 32 letters of the alphabet at 1, for bytes of 1
    let check = check(&credentials.ufrag, &[b'B'; 32]);
    // each has a port of its own, which the kernel gives one of the workers: all 32 to one is a chance of 2^-31
    for _ in 0..32 {
        let socket = socket();
        socket.send_to(&check, server.pool.address()).unwrap();
        until("the check is answered", || receive(&socket).is_some_and(|answer| answer.starts_with(&[1, 1])));
    }
    let counted = server.pool.counted();
    assert_eq!((counted.adopted, counted.handovers_dropped, counted.checks_unknown), (1, 0, 0));
    assert!(counted.handed_over > 0, "{counted:?}");
    server.pool.stop();
}

#[test]
fn a_session_goes_on_under_new_credentials_once_its_peer_checks_with_them() {
    let server = Server::start(2, Limits { sessions: 2, ..Limits::default() });
    let (old, new) = (Credentials::new([1; 40]), Credentials::new([2; 40]));
    let old_check = || check(&old.ufrag, &[b'B'; 32]);
    // the peer has a new name as well
    let new_check = || check_of(&format!("{}:new", new.ufrag), &[b'C'; 32]);
    // peers repeat their checks, and one may be there before the worker knows of the new name
    let is_answered = |check: &[u8]| {
        let socket = socket();
        until("the check is answered", || {
            socket.send_to(check, server.pool.address()).unwrap();
            receive(&socket).is_some_and(|answer| answer.starts_with(&[1, 1]))
        });
    };
    server.add(1, &Offer::parse(OFFER).unwrap()).1.unwrap();
    is_answered(&old_check());

    assert!(server.pool.restart(&old.ufrag, "unused", Credentials::new([3; 40])));
    assert!(server.pool.restart(&old.ufrag, "new", new.clone()));
    assert!(!server.pool.restart(&old.ufrag, "new", new.clone()), "the name is taken");
    is_answered(&old_check());
    is_answered(&new_check());
    assert_eq!(server.pool.counted().adopted, 1);
    let socket = socket();
    let unknown = server.pool.counted().checks_unknown;
    until("the old name is unknown", || {
        socket.send_to(&old_check(), server.pool.address()).unwrap();
        receive(&socket);
        server.pool.counted().checks_unknown > unknown
    });
    assert!(!server.pool.restart(&old.ufrag, "new", Credentials::new([3; 40])));

    // one that nobody has come for yet; the two are all that there may be
    server.add(4, &Offer::parse(OFFER).unwrap()).1.unwrap();
    let (awaited, renamed) = (Credentials::new([4; 40]), Credentials::new([5; 40]));
    assert!(server.pool.restart(&awaited.ufrag, "new", renamed.clone()));
    assert_eq!(server.add(6, &Offer::parse(OFFER).unwrap()).1, Err(Full::Sessions));
    is_answered(&check_of(&format!("{}:new", renamed.ufrag), &[b'F'; 32]));

    // either name ends it
    assert!(server.pool.restart(&new.ufrag, "newer", Credentials::new([7; 40])));
    server.pool.end(&Credentials::new([7; 40]).ufrag);
    until("it is over", || server.has_told(1, &Event::Closed(Cause::Closed)));
    assert!(!server.pool.restart(&new.ufrag, "newer", Credentials::new([8; 40])));
    server.add(8, &Offer::parse(OFFER).unwrap()).1.unwrap();
    server.pool.stop();
}

#[test]
fn workers_without_sessions_and_streams_sleep() {
    let server = Server::start(2, Limits::default());
    server.pool.close(STREAM);
    let turns = || server.pool.counted().turns;
    let silent = socket();
    until("nobody wakes up in half a second", || {
        let before = turns();
        // a read of a socket that nothing comes to takes 2 ms or longer
        (0..250).for_each(|_| assert_eq!(receive(&silent), None));
        turns() == before
    });
    let before = turns();
    server.add(1, &Offer::parse(OFFER).unwrap()).1.unwrap();
    until("one sees to it that the session's wait ends", || turns() > before);
    server.pool.stop();
}

#[test]
fn strangers_are_counted_and_not_answered() {
    let server = Server::start(2, Limits::default());
    let socket = socket();
    for _ in 0..50 {
        for datagram in
            [&check("nobody00", &[b'B'; 32])[..], &[0, 1, 0, 0], &[22, 0xfe, 0xfd], &[0x80, 96], &[0xff], &[]]
        {
            socket.send_to(datagram, server.pool.address()).unwrap();
        }
    }
    until("all are counted", || {
        let counted = server.pool.counted();
        // an empty datagram is nothing
        (counted.checks_unknown, counted.datagrams_unknown) == (100, 150)
    });
    assert_eq!(receive(&socket), None);
    server.pool.stop();
}

#[test]
fn a_peer_over_ipv6_or_mapped_ipv4_is_told_its_own_address() {
    let identity = Arc::new(Identity::generate().unwrap());
    let options = Options { address: "[::]:0".parse().unwrap(), workers: 1, limits: Limits::default() };
    let pool = Pool::start(&options, identity, Box::new(|_, _| {})).unwrap();
    pool.open(STREAM, &[VIDEO.into()], Wallclock { at: now(), since_epoch: Duration::ZERO });
    let offer = Offer::parse(OFFER).unwrap();
    let session = NewSession {
        id: SessionId(1),
        stream: STREAM,
        legs: offer.choose(&[VIDEO], ssrcs()).unwrap(),
        offer,
        credentials: Credentials::new([1; 40]),
        cname: "stream".into(),
        seed: 1,
    };
    pool.add(session, now()).unwrap();
    let check = check(&"B".repeat(8), &[b'B'; 32]);
    for (host, family) in [("127.0.0.1", 1), ("::1", 2)] {
        let socket = UdpSocket::bind((host, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        socket.send_to(&check, (host, pool.address().port())).unwrap();
        until("the check is answered", || receive(&socket).is_some_and(|answer| answer[25] == family));
        let mut connection = Connection::open(SocketAddr::new(host.parse().unwrap(), pool.address().port()));
        connection.send(&check);
        until("the check is answered", || connection.receive().is_some_and(|answer| answer[25] == family));
    }
    pool.stop();
}

#[test]
fn sessions_that_nobody_comes_for_are_bounded_and_end() {
    let server = Server::start(2, Limits { sessions: 8, half_open: 2, ..Limits::default() });
    let offer = Offer::parse(OFFER).unwrap();
    // one that was added 15 s ago
    let session = NewSession {
        id: SessionId(4),
        stream: STREAM,
        legs: offer.choose(&[VIDEO], ssrcs()).unwrap(),
        offer: offer.clone(),
        credentials: Credentials::new([4; 40]),
        cname: "stream".into(),
        seed: 1,
    };
    server.pool.add(session, now() - ESTABLISH).unwrap();
    until("it is over", || server.has_told(4, &Event::Closed(Cause::NeverConnected)));

    assert_eq!(server.add(1, &offer).1, Ok(()));
    let (credentials, added) = server.add(2, &offer);
    assert_eq!(added, Ok(()));
    assert_eq!(server.add(3, &offer).1, Err(Full::HalfOpen));
    server.pool.end(&credentials.ufrag);
    assert!(server.has_told(2, &Event::Closed(Cause::Closed)));
    assert_eq!(server.add(3, &offer).1, Ok(()));
    server.pool.stop();
}

/// A peer's connection, whose reads wait for a moment.
struct Connection {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Connection {
    fn open(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        Self { stream, bytes: Vec::new() }
    }

    fn send(&mut self, datagram: &[u8]) {
        let length = u16::try_from(datagram.len()).unwrap().to_be_bytes();
        self.stream.write_all(&[&length, datagram].concat()).unwrap();
    }

    /// The next datagram.
    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut buffer = [0; 16_384];
        match self.stream.read(&mut buffer) {
            Ok(0) => panic!("the connection was closed"),
            Ok(length) => self.bytes.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("failed to receive: {error}"),
        }
        let length = usize::from(u16::from_be_bytes([*self.bytes.first()?, *self.bytes.get(1)?]));
        let frame = self.bytes.get(2..2 + length)?.to_vec();
        self.bytes.drain(..2 + length);
        Some(frame)
    }

    /// Reports whether the other end has closed it.
    fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0; 16_384]) {
            Ok(length) => length == 0,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

#[test]
fn a_peer_over_tcp_is_served_by_its_sessions_worker() {
    let server = Server::start(2, Limits::default());
    let (credentials, added) = server.add(1, &Offer::parse(OFFER).unwrap());
    added.unwrap();
    let check = check(&credentials.ufrag, &[b'B'; 32]);
    let mut connections = Vec::new();
    // each is accepted by one of the two
    for _ in 0..20 {
        let mut connection = Connection::open(server.pool.address());
        // in two parts, of which the first is no frame
        connection.stream.write_all(&[0]).unwrap();
        connection.stream.write_all(&[&[u8::try_from(check.len()).unwrap()][..], &check].concat()).unwrap();
        until("the check is answered", || connection.receive().is_some_and(|answer| answer.starts_with(&[1, 1])));
        connections.push(connection);
    }
    let counted = server.pool.counted();
    assert_eq!((counted.adopted, counted.connections_accepted, counted.handovers_dropped), (1, 20, 0), "{counted:?}");
    assert!(counted.handed_over > 0, "{counted:?}");
    // one session has eight, the newest
    let mut open: Vec<_> = connections.drain(12..).collect();
    connections.iter_mut().for_each(|old| until("the older are closed", || old.is_closed()));

    open[7].send(&check);
    until("the newest is answered", || open[7].receive().is_some());
    server.pool.end(&credentials.ufrag);
    until("it is over", || server.has_told(1, &Event::Closed(Cause::Closed)));
    open.iter_mut().for_each(|last| until("the session's connections go with it", || last.is_closed()));
    server.pool.stop();
}

#[test]
fn strangers_over_tcp_are_bounded_and_closed() {
    let server = Server::start(1, Limits { connections: 16, ..Limits::default() });
    let address = server.pool.address();
    for frame in [&check("nobody00", &[b'B'; 32])[..], b"\0\x0eGET / HTTP/1.1", &[22, 0xfe, 0xfd]] {
        let mut connection = Connection::open(address);
        connection.send(frame);
        until("it is closed", || connection.is_closed());
    }
    let mut oversize = Connection::open(address);
    oversize.stream.write_all(&[0xff; 100]).unwrap();
    until("it is closed", || oversize.is_closed());
    assert_eq!(server.pool.counted().connections_unproven, 4);

    let mut silent: Vec<_> = (0..6).map(|_| Connection::open(address)).collect();
    until("all are accepted", || server.pool.counted().connections_accepted == 10);
    until("there are too many", || server.pool.counted().connections_refused == 2);
    silent[..2].iter_mut().for_each(|oldest| until("the oldest go", || oldest.is_closed()));
    // the others have 10 s to prove themselves
    silent[2..].iter_mut().for_each(|other| until("they go as well", || other.is_closed()));
    assert_eq!(server.pool.counted().connections_unproven, 8);
    server.pool.stop();
}

#[test]
fn connections_that_peers_hold_ready_make_room_for_others() {
    let server = Server::start(1, Limits { connections: 8, ..Limits::default() });
    let open = |server: &Server, number: u8| {
        let check = check(&Credentials::new([number; 40]).ufrag, &[b'A' + number; 32]);
        let mut connection = Connection::open(server.pool.address());
        connection.send(&check);
        until("the check is answered", || connection.receive().is_some());
        connection
    };
    (1..=3).for_each(|number| server.add(number, &Offer::parse(OFFER).unwrap()).1.unwrap());
    let mut held: Vec<_> = (0..8).map(|at| open(&server, 1 + at / 4)).collect();
    let _third = open(&server, 3);
    until("the oldest has gone", || held[0].is_closed());
    assert_eq!(server.pool.counted().connections_refused, 1);
    assert!(!held[1].is_closed());
    server.pool.stop();
}

#[test]
fn a_viewer_over_tcp_that_lags_goes_on_at_a_keyframe_and_holds_up_nobody() {
    let server = Server::start(1, Limits::default());
    let mut viewer = Viewer::join_over(Way::Tcp, &server, 1);
    let mut other = Viewer::join(&server, 2);
    let address = server.pool.address();
    until("both are connected", || {
        viewer.step(address);
        other.step(address);
        (1..=2).all(|number| server.has_told(number, &Event::Connected))
    });
    // what the system holds of a connection, and what we hold, is full some time
    let mut number = 0;
    until("it lags", || {
        let frame = frame(number);
        server.pool.push(STREAM, Layer::only(0), &frame);
        let payload = frame.packets[19].bytes.to_vec();
        until("the other has the frame", || {
            other.step(address);
            other.payloads.contains(&payload)
        });
        number += 1;
        server.pool.counted().connection_sends_refused > 0
    });
    assert!(number < 200, "{number}");
    // a keyframe comes once there is room
    let key = 240;
    until("it has caught up", || {
        viewer.step(address);
        other.step(address);
        server.pool.push(STREAM, Layer::only(0), &frame(key));
        viewer.payloads.contains(&frame(key).packets[19].bytes.to_vec())
    });
    server.pool.stop();
}
