//! A viewer of ours and an independent WebRTC stack (str0m), joined by datagrams in memory, in virtual time.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use media_webrtc::batch::{Batch, Sent, Sink, Transmit};
use media_webrtc::clock::Wallclock;
use media_webrtc::demux::{Directory, Limits};
use media_webrtc::dtls::Identity;
use media_webrtc::history::{Frame, Payload};
use media_webrtc::ice::Credentials;
use media_webrtc::path::{Path, Transport};
use media_webrtc::sdp::{Answer, Candidate, Codec, Direction, H264Profile, Offer};
use media_webrtc::source::{Layer, Source, Track};
use media_webrtc::transport::Event;
use media_webrtc::viewer::{Config, Viewer};
use str0m::change::SdpAnswer;
use str0m::media::{MediaKind, Mid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpPacket;
use str0m::{Input, Output, Rtc};

pub(crate) const TRACKS: [Codec; 2] = [Codec::H264(H264Profile { idc: 100, constraints: 0 }), Codec::Opus];
pub(crate) const VIDEO: usize = 0;
pub(crate) const AUDIO: usize = 1;

/// The time that a datagram takes each way.
pub(crate) const DELAY: Duration = Duration::from_millis(20);

/// Where our batches go.
#[derive(Default)]
pub(crate) struct Wire {
    datagrams: Vec<(Path, Vec<u8>)>,
    pub(crate) is_full: bool,
    pub(crate) batches: usize,
}

impl Sink for Wire {
    fn send(&mut self, transmit: Transmit<'_>) -> Sent {
        if self.is_full {
            return Sent::Refused;
        }
        self.batches += 1;
        self.datagrams.extend(transmit.datagrams().map(|datagram| (transmit.path, datagram.to_vec())));
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

/// Says of a datagram to the peer whether it gets lost.
pub(crate) type Loss = Box<dyn FnMut(&[u8]) -> bool>;

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) viewer: Viewer,
    pub(crate) source: Source,
    pub(crate) batch: Batch<Wire>,
    pub(crate) directory: Directory<u32>,
    pub(crate) peer: Rtc,
    pub(crate) video: Mid,
    /// What a translator on the way makes of the peer's address.
    pub(crate) seen_as: SocketAddr,
    pub(crate) loss: Loss,
    /// Nothing comes from the peer any more.
    pub(crate) is_cut: bool,
    pub(crate) events: Vec<Event>,
    pub(crate) received: Vec<RtpPacket>,
    pub(crate) answer: String,
    ufrag: String,
    local: SocketAddr,
    flying: VecDeque<Flying>,
}

/// What a test changes.
pub(crate) struct Setup {
    /// Edits the peer's offer on its way to us.
    pub(crate) offer: fn(String) -> String,
    /// Edits our answer on its way back.
    pub(crate) answer: fn(String) -> String,
    /// Encodings of the video.
    pub(crate) video_layers: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self { offer: |text| text, answer: |text| text, video_layers: 1 }
    }
}

impl World {
    pub(crate) fn new(setup: &Setup) -> Self {
        #[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
        let now = Instant::now();
        let local: SocketAddr = ([192, 0, 2, 20], 5_000).into();
        let mut peer = Rtc::builder()
            .set_crypto_provider(Arc::new(str0m::crypto::from_feature_flags()))
            .set_rtp_mode(true)
            .build(now);
        peer.add_local_candidate(str0m::Candidate::host(local, "udp").unwrap());
        let mut api = peer.sdp_api();
        let video = api.add_media(MediaKind::Video, str0m::media::Direction::RecvOnly, None, None, None);
        api.add_media(MediaKind::Audio, str0m::media::Direction::RecvOnly, None, None, None);
        let (offer, pending) = api.apply().unwrap();

        let offer = Offer::parse(&(setup.offer)(offer.to_sdp_string())).unwrap();
        let mut ssrc = 1_000;
        let legs = offer.choose(&TRACKS, || {
            ssrc += 1;
            ssrc
        });
        let (legs, identity) = (legs.unwrap(), Arc::new(Identity::generate().unwrap()));
        let credentials = Credentials::new([7; 40]);
        let answer = Answer {
            offer: &offer,
            legs: &legs,
            direction: Direction::Send,
            session_id: 1,
            credentials: &credentials,
            fingerprint: identity.fingerprint(),
            candidates: &[Candidate { address: ([192, 0, 2, 1], 50_000).into(), transport: Transport::Udp }],
            cname: "stream",
        };
        let answer = (setup.answer)(answer.to_string());
        peer.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer).unwrap()).unwrap();

        let config = Config {
            offer: &offer,
            legs: &legs,
            credentials: &credentials,
            cname: "stream".into(),
            identity,
            seed: 0x7ffe,
        };
        let mut directory = Directory::new(Limits::default());
        directory.add(credentials.ufrag.clone(), 1).unwrap();
        Self {
            now,
            viewer: Viewer::new(&config, now),
            source: Source::new(
                &[Track { codec: TRACKS[VIDEO], layers: setup.video_layers }, TRACKS[AUDIO].into()],
                Wallclock { at: now, since_epoch: Duration::from_secs(1_700_000_000) },
            ),
            batch: Batch::new(Wire::default()),
            directory,
            peer,
            video,
            seen_as: local,
            loss: Box::new(|_| false),
            is_cut: false,
            events: Vec::new(),
            received: Vec::new(),
            answer,
            ufrag: credentials.ufrag,
            local,
            flying: VecDeque::new(),
        }
    }

    /// A world whose two ends are connected.
    pub(crate) fn connected() -> Self {
        let mut world = Self::new(&Setup::default());
        world.run(Duration::from_secs(2));
        assert!(world.viewer.is_connected(), "{:?}", world.events);
        assert!(world.peer.is_connected());
        world
    }

    /// Gives the source a frame and has the viewer send it.
    pub(crate) fn push(&mut self, track: usize, frame: &Frame) {
        let pushed = self.source.push(Layer::only(track), frame, self.now).unwrap();
        self.viewer.send(&pushed, &self.source, &mut self.batch, self.now);
    }

    /// Lets time pass, with all that happens in it.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let peer_due = self.exchange();
            let ours = self.viewer.poll_timeout().map(|(due, _)| due);
            let flying = self.flying.iter().map(|flying| flying.at).min();
            let next = [Some(peer_due), ours, flying].into_iter().flatten().min().filter(|next| *next <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            if ours.is_some_and(|due| due <= self.now) {
                self.viewer.handle_timeout(&self.source, &mut self.batch, self.now);
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

    /// Takes up what both ends want to send, and returns when the peer's next timeout is due.
    fn exchange(&mut self) -> Instant {
        let at = self.now + DELAY;
        for (path, datagram) in std::mem::take(&mut self.batch.sink_mut().datagrams) {
            if !(self.loss)(&datagram) {
                self.flying.push_back(Flying { at, way: Way::ToPeer, path, datagram });
            }
        }
        while let Some(event) = self.viewer.poll_event() {
            match &event {
                Event::Path(path) => self.directory.learn(&self.ufrag, *path),
                Event::Connected => self.directory.open(&self.ufrag),
                Event::Closed(_) => self.directory.remove(&self.ufrag),
                Event::Restarted
                | Event::KeyframeWanted(_)
                | Event::Reported(_)
                | Event::Counted(_)
                | Event::Received(_) => {}
            }
            self.events.push(event);
        }
        loop {
            match self.peer.poll_output().unwrap() {
                Output::Timeout(due) => return due,
                Output::Transmit(transmit) if !self.is_cut => {
                    let local = Some(transmit.destination.ip());
                    let path = Path { peer: self.seen_as, local, transport: Transport::Udp };
                    self.flying.push_back(Flying { at, way: Way::ToUs, path, datagram: transmit.contents.to_vec() });
                }
                Output::Event(str0m::Event::RtpPacket(packet)) => self.received.push(packet),
                Output::Transmit(_) | Output::Event(_) => {}
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(at) = self.flying.iter().position(|flying| flying.at <= self.now) {
            let Flying { way, path, datagram, .. } = self.flying.remove(at).unwrap();
            match way {
                Way::ToUs if self.directory.find(&path, &datagram).is_some() => {
                    self.viewer.receive(path, &datagram, &self.source, &mut self.batch, self.now);
                }
                // to where the peer no longer is, or from where we know nobody
                Way::ToPeer if path.peer != self.seen_as => {}
                Way::ToUs => {}
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

    /// The payloads that the peer received of a track, in the order of their numbers.
    pub(crate) fn payloads(&self, track: usize) -> Vec<Bits> {
        let is_track = |packet: &&RtpPacket| *packet.header.ssrc == ssrc(track);
        let mut packets: Vec<_> = self.received.iter().filter(is_track).collect();
        packets.sort_by_key(|packet| *packet.seq_no);
        packets.into_iter().map(|packet| Bits(Bytes::copy_from_slice(&packet.payload))).collect()
    }
}

/// A payload, of which a failed test shows the beginning.
#[derive(PartialEq)]
pub(crate) struct Bits(Bytes);

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?}+{}", &self.0[..self.0.len().min(6)], self.0.len())
    }
}

fn ssrc(track: usize) -> u32 {
    1_001 + 2 * u32::try_from(track).unwrap()
}

/// Frame `number` of a video of 25 pictures a second, whose packets hold what no other packet holds.
pub(crate) fn picture(number: u32, is_keyframe: bool) -> Frame {
    picture_of(number, is_keyframe, 4)
}

pub(crate) fn picture_of(number: u32, is_keyframe: bool, packets: u32) -> Frame {
    let payload = |at: u32| {
        let filling = vec![7; if at == packets - 1 { 300 } else { 1_100 }];
        let bytes = [&[0x7c][..], &at.to_be_bytes(), &number.to_be_bytes(), &filling].concat().into();
        Payload { bytes, marker: at == packets - 1 }
    };
    let packets = (0..packets).map(payload);
    Frame {
        timestamp: number * 3_600,
        time: Duration::from_millis(40) * number,
        is_keyframe,
        packets: packets.collect(),
    }
}

/// Packet `number` of sound, of 20 ms.
pub(crate) fn sound(number: u32) -> Frame {
    let bytes = [&number.to_be_bytes()[..], &[7; 100]].concat().into();
    Frame {
        timestamp: number * 960,
        time: Duration::from_millis(20) * number,
        is_keyframe: true,
        packets: vec![Payload { bytes, marker: false }],
    }
}

pub(crate) fn bits_of(frames: &[Frame]) -> Vec<Bits> {
    frames.iter().flat_map(|frame| frame.packets.iter().map(|packet| Bits(packet.bytes.clone()))).collect()
}
