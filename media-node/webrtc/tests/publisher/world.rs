//! A publisher's session of ours and an independent WebRTC stack (str0m) that publishes, joined by datagrams in memory, in virtual
//! time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use media_webrtc::batch::{Batch, Sent, Sink, Transmit};
use media_webrtc::dtls::Identity;
use media_webrtc::ice::Credentials;
use media_webrtc::path::{Path, Transport};
use media_webrtc::publisher::{Config, Layer, Packet, Publisher, Received, Report};
use media_webrtc::sdp::{Answer, Candidate, Direction, Offer};
use media_webrtc::transport::Event;
use str0m::bwe::{Bitrate, BweKind};
use str0m::change::SdpAnswer;
use str0m::media::{KeyframeRequest, MediaKind, Mid, Rid, Simulcast, SimulcastLayer};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpWrite;
use str0m::{Input, Output, Rtc};

/// The time that a datagram takes each way.
pub(crate) const DELAY: Duration = Duration::from_millis(20);

#[derive(Default)]
pub(crate) struct Wire(Vec<(Path, Vec<u8>)>);

impl Sink for Wire {
    fn send(&mut self, transmit: Transmit<'_>) -> Sent {
        self.0.extend(transmit.datagrams().map(|datagram| (transmit.path, datagram.to_vec())));
        Sent::Taken
    }
}

enum Way {
    ToPeer,
    ToUs,
}

struct Flying {
    at: Instant,
    way: Way,
    path: Path,
    datagram: Vec<u8>,
}

/// What becomes of a datagram of the peer: it takes so much longer, or is lost.
pub(crate) type Fate = Box<dyn FnMut(&[u8]) -> Option<Duration>>;

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) publisher: Publisher,
    pub(crate) peer: Rtc,
    pub(crate) fate: Fate,
    pub(crate) events: Vec<Event>,
    pub(crate) packets: Vec<Packet>,
    pub(crate) reports: Vec<Report>,
    pub(crate) requests: Vec<(Instant, KeyframeRequest)>,
    /// What the peer believes that the path takes, in bits a second.
    pub(crate) estimate: Option<f64>,
    pub(crate) answer: String,
    payload_types: Vec<u8>,
    pub(crate) video: Mid,
    pub(crate) audio: Mid,
    batch: Batch<Wire>,
    local: SocketAddr,
    flying: VecDeque<Flying>,
}

/// What a test changes.
pub(crate) struct Setup {
    /// The names of the encodings.
    pub(crate) layers: &'static [&'static str],
    /// Edits the peer's offer on its way to us.
    pub(crate) offer: fn(String) -> String,
}

impl Default for Setup {
    fn default() -> Self {
        Self { layers: &[], offer: |text| text }
    }
}

impl World {
    pub(crate) fn new(setup: &Setup) -> Self {
        #[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
        let now = Instant::now();
        let local: SocketAddr = ([192, 0, 2, 20], 5_000).into();
        let mut peer = Rtc::builder()
            .set_crypto_provider(Arc::new(str0m::crypto::from_feature_flags()))
            .clear_codecs()
            .enable_h264(true)
            .enable_opus(true, false)
            .enable_bwe(Some(Bitrate::mbps(1)))
            .set_rtp_mode(true)
            .build(now);
        peer.add_local_candidate(str0m::Candidate::host(local, "udp").unwrap());
        let mut api = peer.sdp_api();
        let send = setup.layers.iter().map(|rid| SimulcastLayer::new(rid)).collect();
        let simulcast = (!setup.layers.is_empty()).then_some(Simulcast { send, recv: Vec::new() });
        let send_only = str0m::media::Direction::SendOnly;
        let video = api.add_media(MediaKind::Video, send_only, None, None, simulcast);
        let audio = api.add_media(MediaKind::Audio, send_only, None, None, None);
        let (offer, pending) = api.apply().unwrap();

        let offer = Offer::parse(&(setup.offer)(offer.to_sdp_string())).unwrap();
        let (legs, identity) = (offer.accept().unwrap(), Arc::new(Identity::generate().unwrap()));
        let credentials = Credentials::new([7; 40]);
        let answer = Answer {
            offer: &offer,
            legs: &legs,
            direction: Direction::Receive,
            session_id: 1,
            credentials: &credentials,
            fingerprint: identity.fingerprint(),
            candidates: &[Candidate { address: ([192, 0, 2, 1], 50_000).into(), transport: Transport::Udp }],
            cname: "stream",
        };
        let answer = answer.to_string();
        peer.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer).unwrap()).unwrap();
        let config = Config { offer: &offer, legs: &legs, credentials: &credentials, identity, seed: 5 };
        Self {
            now,
            publisher: Publisher::new(&config, now),
            peer,
            fate: Box::new(|_| Some(Duration::ZERO)),
            events: Vec::new(),
            packets: Vec::new(),
            reports: Vec::new(),
            requests: Vec::new(),
            estimate: None,
            answer,
            payload_types: legs.iter().map(|leg| leg.format.payload_type).collect(),
            video,
            audio,
            batch: Batch::new(Wire::default()),
            local,
            flying: VecDeque::new(),
        }
    }

    /// A world whose two ends are connected.
    pub(crate) fn connected(setup: &Setup) -> Self {
        let mut world = Self::new(setup);
        world.run(Duration::from_secs(2));
        assert!(world.publisher.is_connected() && world.peer.is_connected(), "{:?}", world.events);
        world
    }

    /// Has the peer send a packet of a track's encoding, with this number.
    pub(crate) fn send(&mut self, mid: Mid, rid: Option<&str>, number: u64, payload: &[u8]) {
        let (leg, ticks) = if mid == self.video { (0, 3_600) } else { (1, 960) };
        let payload_type = self.payload_types[leg].into();
        // truncation: some thousands of packets at most
        let time = number as u32 * ticks;
        let write =
            RtpWrite::new(payload_type, number.into(), time, self.now, payload.to_vec()).nackable(true).marker(true);
        let mut api = self.peer.direct_api();
        api.stream_tx_by_mid(mid, rid.map(Rid::from)).unwrap().write_rtp(write);
    }

    /// Lets time pass, with all that happens in it.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let peer_due = self.exchange();
            let ours = self.publisher.poll_timeout(self.now).map(|(due, _)| due);
            let flying = self.flying.iter().map(|flying| flying.at).min();
            let next = [Some(peer_due), ours, flying].into_iter().flatten().min().filter(|next| *next <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            if ours.is_some_and(|due| due <= self.now) {
                self.publisher.handle_timeout(&mut self.batch, self.now);
            }
            if peer_due <= self.now {
                self.peer.handle_input(Input::Timeout(self.now)).unwrap();
            }
            self.deliver();
        }
        self.now = end;
        self.peer.handle_input(Input::Timeout(end)).unwrap();
        self.exchange();
    }

    /// Takes up what both ends want to send and have got, and returns when the peer's next timeout is due.
    fn exchange(&mut self) -> Instant {
        let at = self.now + DELAY;
        for (path, datagram) in std::mem::take(&mut self.batch.sink_mut().0) {
            self.flying.push_back(Flying { at, way: Way::ToPeer, path, datagram });
        }
        while let Some(event) = self.publisher.poll_event() {
            self.events.push(event);
        }
        for received in self.publisher.take_received() {
            match received {
                Received::Packet(packet) => self.packets.push(packet),
                Received::Report(report) => self.reports.push(report),
            }
        }
        loop {
            match self.peer.poll_output().unwrap() {
                Output::Timeout(due) => return due,
                Output::Transmit(transmit) => {
                    let path =
                        Path { peer: self.local, local: Some(transmit.destination.ip()), transport: Transport::Udp };
                    if let Some(late) = (self.fate)(&transmit.contents) {
                        let datagram = transmit.contents.to_vec();
                        self.flying.push_back(Flying { at: at + late, way: Way::ToUs, path, datagram });
                    }
                }
                Output::Event(str0m::Event::KeyframeRequest(request)) => self.requests.push((self.now, request)),
                Output::Event(str0m::Event::EgressBitrateEstimate(BweKind::Twcc { estimate, .. })) => {
                    self.estimate = Some(estimate.as_f64());
                }
                Output::Event(_) => {}
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(at) = self.flying.iter().position(|flying| flying.at <= self.now) {
            let Flying { way, path, datagram, .. } = self.flying.remove(at).unwrap();
            match way {
                Way::ToUs => self.publisher.receive(path, &datagram, &mut self.batch, self.now),
                Way::ToPeer => {
                    let contents = datagram.as_slice().try_into().unwrap();
                    let (source, destination) = ((path.local.unwrap(), 50_000).into(), self.local);
                    let receive = Receive { proto: Protocol::Udp, source, destination, contents };
                    self.peer.handle_input(Input::Receive(self.now, receive)).unwrap();
                }
            }
            self.exchange();
        }
    }

    /// The payloads of an encoding in the order of their numbers, each once.
    pub(crate) fn payloads(&self, layer: Layer) -> Vec<Vec<u8>> {
        let mut packets: Vec<_> = self.packets.iter().filter(|packet| packet.layer == layer).collect();
        let Some(first) = packets.first().map(|packet| packet.sequence) else { return Vec::new() };
        packets.sort_by_key(|packet| packet.sequence.wrapping_sub(first.wrapping_sub(1_000)));
        packets.into_iter().map(|packet| packet.payload.to_vec()).collect()
    }
}
