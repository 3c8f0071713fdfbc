//! What must hold of offers and of datagrams of whoever sends them; as `rtmp_targets.rs` is run.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use media_webrtc::batch::{Batch, Sent, Sink, Transmit};
use media_webrtc::clock::Wallclock;
use media_webrtc::demux::{Directory, Limits};
use media_webrtc::dtls::Identity;
use media_webrtc::ice::Credentials;
use media_webrtc::path::{Path, Transport};
use media_webrtc::publisher::{self, Publisher, Received};
use media_webrtc::sdp::{Answer, Candidate, Codec, Direction, H264Profile, Offer};
use media_webrtc::source::Source;
use media_webrtc::transport::Event;
use media_webrtc::viewer::{Config, Viewer};

const TRACKS: [Codec; 2] = [Codec::H264(H264Profile { idc: 100, constraints: 0 }), Codec::Opus];

const OFFER: &str = "v=0\r\na=ice-ufrag:peer\r\na=ice-pwd:0123456789012345678901\r\na=fingerprint:sha-256 \
    00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\n";

/// An offer, which is refused or answered; the answer is one that we would read ourselves.
pub(crate) fn webrtc_offer(text: &[u8]) {
    let Ok(offer) = std::str::from_utf8(text).map_err(drop).and_then(|text| Offer::parse(text).map_err(drop)) else {
        return;
    };
    for (legs, direction) in [(offer.choose(&TRACKS, || 1), Direction::Send), (offer.accept(), Direction::Receive)] {
        let Ok(legs) = legs else { continue };
        let answer = Answer {
            offer: &offer,
            legs: &legs,
            direction,
            session_id: 1,
            credentials: &Credentials::new([0; 40]),
            fingerprint: &offer.fingerprint,
            candidates: &[Candidate { address: ([192, 0, 2, 1], 50_000).into(), transport: Transport::Udp }],
            cname: "stream",
        };
        let again = Offer::parse(&answer.to_string()).expect("an answer is well-formed");
        assert_eq!(again.sections.len(), offer.sections.len(), "it has a section for each");
        assert_eq!(again.fingerprint, offer.fingerprint);
        let taken = again.sections.iter().filter(|section| section.sends() || section.receives()).count();
        assert_eq!(taken, legs.len());
    }
}

#[derive(Default)]
struct Count(usize);

impl Sink for Count {
    fn send(&mut self, transmit: Transmit<'_>) -> Sent {
        self.0 += transmit.datagrams().count();
        Sent::Taken
    }
}

/// Datagrams, each after its length in two bytes, of which the upper five bits say where from. Their sender may know the
/// session's password, as a peer does, but has not its certificate.
pub(crate) fn webrtc_datagrams(mut input: &[u8]) {
    static IDENTITY: OnceLock<Arc<Identity>> = OnceLock::new();
    let identity = IDENTITY.get_or_init(|| Arc::new(Identity::generate().expect("there is randomness"))).clone();
    #[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    let mut now = Instant::now();
    let offer = Offer::parse(OFFER).expect("it is well-formed");
    let legs = offer.choose(&TRACKS[1..], || 1).expect("it has Opus");
    let credentials = Credentials::new([0; 40]);
    let config =
        Config { offer: &offer, legs: &legs, credentials: &credentials, cname: "stream".into(), identity, seed: 0 };
    let (mut viewer, mut directory) = (Viewer::new(&config, now), Directory::new(Limits::default()));
    let source = Source::new(&[TRACKS[1].into()], Wallclock { at: now, since_epoch: Duration::ZERO });
    let mut batch = Batch::new(Count::default());
    directory.add(credentials.ufrag.clone(), ()).expect("it is the first");
    let mut is_known = false;
    while let Some((&[high, low], rest)) = input.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high & 7, low])).min(rest.len());
        let (datagram, rest) = rest.split_at(length);
        input = rest;
        let path = Path {
            peer: ([192, 0, 2, 1], 5_000 + u16::from(high >> 3)).into(),
            local: None,
            transport: Transport::Udp,
        };
        now += Duration::from_millis(100);
        if directory.find(&path, datagram).is_some() {
            viewer.receive(path, datagram, &source, &mut batch, now);
        }
        viewer.handle_timeout(&source, &mut batch, now);
        while let Some(event) = viewer.poll_event() {
            match event {
                Event::Path(path) => {
                    directory.learn(&credentials.ufrag, path);
                    is_known = true;
                }
                Event::Connected => unreachable!("it has not the certificate"),
                Event::Restarted
                | Event::KeyframeWanted(_)
                | Event::Reported(_)
                | Event::Counted(_)
                | Event::Received(_)
                | Event::Closed(_) => {}
            }
        }
        assert!(is_known || batch.sink_mut().0 == 0, "who has not proved itself is not answered");
    }
}

/// A publisher with three encodings of a picture, and sound; both are sent again on request.
const PUBLISHER: &str = "v=0\r\na=group:BUNDLE 0 1\r\na=ice-ufrag:peer\r\na=ice-pwd:0123456789012345678901\r\n\
    a=fingerprint:sha-256 00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\na=mid:0\r\na=sendonly\r\na=rtcp-mux\r\na=rtpmap:96 VP8/90000\r\n\
    a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\na=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid\r\n\
    a=extmap:2 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\n\
    a=extmap:3 urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id\r\n\
    a=extmap:4 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n\
    a=rid:f send\r\na=rid:h send\r\na=rid:q send\r\na=simulcast:send f;h;q\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111 112\r\na=mid:1\r\na=sendonly\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\n\
    a=rtpmap:112 rtx/48000\r\na=fmtp:112 apt=111\r\na=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid\r\n";

/// RTP and RTCP of a publisher that has the keys, each after its length in two bytes, of which the upper five bits say how many
/// times 8 ms it comes after the one before.
pub(crate) fn webrtc_publisher(mut input: &[u8]) {
    static IDENTITY: OnceLock<Arc<Identity>> = OnceLock::new();
    let identity = IDENTITY.get_or_init(|| Arc::new(Identity::generate().expect("there is randomness"))).clone();
    #[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    let mut now = Instant::now();
    let offer = Offer::parse(PUBLISHER).expect("it is well-formed");
    let legs = offer.accept().expect("it has codecs that we know");
    let credentials = Credentials::new([0; 40]);
    let config = publisher::Config { offer: &offer, legs: &legs, credentials: &credentials, identity, seed: 0 };
    let mut publisher = Publisher::new(&config, now);
    let mut batch = Batch::new(Count::default());
    let (mut packets, mut bytes) = (0, 0);
    while let Some((&[high, low], rest)) = input.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high & 7, low])).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        input = rest;
        now += Duration::from_millis(8) * u32::from(high >> 3);
        publisher.receive_plain(packet, now);
        packets += 1;
        bytes += packet.len();
        for received in publisher.take_received() {
            let layer = match &received {
                Received::Packet(packet) => packet.layer,
                Received::Report(report) => report.layer,
            };
            let layers = offer.sections[legs[layer.track].section].layers();
            assert!(layer.layer < layers, "there is such a track");
            if let Received::Packet(packet) = received {
                assert!(packet.payload.len() <= length);
            }
        }
        publisher.want_keyframe(usize::from(high & 1));
        publisher.handle_timeout(&mut batch, now);
    }
    let counters = publisher.counters();
    assert!(counters.packets <= packets && counters.bytes <= bytes as u64);
    // four times at most, and what a packet makes missing is bounded
    assert!(counters.asked <= 4 * 256 * packets && counters.lost <= 256 * packets);
    assert!(batch.sink_mut().0 == 0, "nobody is answered who has not proved himself");
}
