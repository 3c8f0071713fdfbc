use super::*;
use crate::ice::Credentials;
use crate::path::Transport;

const FINGERPRINT: &str =
    "AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99";
const HIGH: Codec = Codec::H264(H264Profile { idc: 100, constraints: 0 });

/// A viewer's offer in the form that Chromium writes, shortened.
fn chromium() -> String {
    format!(
        "v=0\r\no=- 42 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=extmap-allow-mixed\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 96 97 102 103 104 105 116 117\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n\
        a=ice-ufrag:Ab3+\r\na=ice-pwd:0123456789abcdefghijklmn\r\na=ice-options:trickle\r\n\
        a=fingerprint:sha-256 {FINGERPRINT}\r\na=setup:actpass\r\na=mid:0\r\na=recvonly\r\na=rtcp-mux\r\na=rtcp-rsize\r\n\
        a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n\
        a=rtpmap:102 H264/90000\r\na=rtcp-fb:102 goog-remb\r\na=rtcp-fb:102 transport-cc\r\na=rtcp-fb:102 nack\r\n\
        a=rtcp-fb:102 nack pli\r\n\
        a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f\r\n\
        a=rtpmap:103 rtx/90000\r\na=fmtp:103 apt=102\r\n\
        a=rtpmap:104 H264/90000\r\na=fmtp:104 level-asymmetry-allowed=1;packetization-mode=0;profile-level-id=64001f\r\n\
        a=rtpmap:105 rtx/90000\r\na=fmtp:105 apt=104\r\n\
        a=rtpmap:116 H264/90000\r\na=rtcp-fb:116 nack\r\na=rtcp-fb:116 nack pli\r\na=rtcp-fb:116 ccm fir\r\n\
        a=fmtp:116 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=64001f\r\n\
        a=rtpmap:117 rtx/90000\r\na=fmtp:117 apt=116\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111 9\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:Ab3+\r\na=ice-pwd:0123456789abcdefghijklmn\r\n\
        a=fingerprint:sha-256 {FINGERPRINT}\r\na=setup:actpass\r\na=mid:1\r\na=recvonly\r\na=rtcp-mux\r\n\
        a=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 transport-cc\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n\
        a=rtpmap:9 G722/8000\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:2\r\na=sctp-port:5000\r\n"
    )
}

#[test]
fn a_viewers_offer_is_read() {
    let offer = Offer::parse(&chromium()).unwrap();

    assert_eq!(offer.ice_ufrag, "Ab3+");
    assert_eq!(offer.fingerprint.to_string(), FINGERPRINT);
    assert_eq!(offer.role, Role::Server);
    let kinds: Vec<_> =
        offer.sections.iter().map(|section| (section.kind, section.receives(), section.sends())).collect();
    let (video, audio) = (Some(MediaKind::Video), Some(MediaKind::Audio));
    assert_eq!(kinds, [(video, true, false), (audio, true, false), (None, false, false)]);
}

#[test]
fn a_stream_is_offered_in_its_own_profile() {
    let offer = Offer::parse(&chromium()).unwrap();
    let chosen = |idc, constraints| {
        let legs = offer.choose(&[Codec::H264(H264Profile { idc, constraints })], || 1).unwrap();
        (legs[0].format.payload_type, legs[0].format.rtx)
    };
    assert_eq!(chosen(100, 0), (116, Some(117)), "high, and never the one without fragmentation");
    assert_eq!(chosen(66, 0), (102, Some(103)), "baseline");
    assert_eq!(chosen(77, 0), (116, Some(117)), "main is not offered, so what is above it");
    assert_eq!(chosen(244, 0), (102, Some(103)), "nothing is above, so the first");
}

#[test]
fn a_codec_that_the_viewer_lacks_is_named() {
    let offer = Offer::parse(&chromium()).unwrap();
    for (codec, name) in [(Codec::H265, "H265"), (Codec::Av1, "AV1"), (Codec::Vp9, "VP9")] {
        let error = offer.choose(&[Codec::Opus, codec], || 1).unwrap_err();
        assert_eq!(error, Error::CodecMissing(codec));
        assert!(error.to_string().ends_with(name), "{error}");
    }
    // each track needs a section of its own
    assert_eq!(offer.choose(&[HIGH, HIGH], || 1), Err(Error::CodecMissing(HIGH)));
}

#[test]
fn a_viewer_is_sent_the_tracks_that_it_has_sections_for() {
    let sound_alone = chromium().replace("m=video", "m=text").replace("a=group:BUNDLE 0 1", "a=group:BUNDLE 1");
    let legs = Offer::parse(&sound_alone).unwrap().choose(&[HIGH, Codec::Opus], || 1).unwrap();
    let chosen: Vec<_> = legs.iter().map(|leg| (leg.section, leg.track, leg.format.codec)).collect();
    assert_eq!(chosen, [(1, 1, Codec::Opus)]);
    assert_eq!(Offer::parse(&sound_alone).unwrap().choose(&[HIGH], || 1), Err(Error::NoMedia));
}

#[test]
fn the_answer_says_how_to_reach_us_and_what_is_sent() {
    let offer = Offer::parse(&chromium()).unwrap();
    let mut next = 100;
    let legs = offer
        .choose(&[HIGH, Codec::Opus], || {
            next += 1;
            next
        })
        .unwrap();
    let credentials = Credentials::new(std::array::from_fn(|at| u8::try_from(at).unwrap()));
    let candidates = [
        Candidate { address: "192.0.2.1:50000".parse().unwrap(), transport: Transport::Udp },
        Candidate { address: "[2001:db8::1]:50000".parse().unwrap(), transport: Transport::Tcp },
    ];
    let answer = Answer {
        offer: &offer,
        legs: &legs,
        direction: Direction::Send,
        session_id: 7,
        credentials: &credentials,
        fingerprint: &offer.fingerprint,
        candidates: &candidates,
        cname: "stream",
    };
    let transport = format!(
        "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=fingerprint:sha-256 {FINGERPRINT}\r\na=setup:passive\r\na=sendonly\r\na=rtcp-mux\r\n",
        credentials.ufrag,
        credentials.password()
    );
    let reached = "a=candidate:1 1 udp 2130706431 192.0.2.1 50000 typ host\r\n\
        a=candidate:2 1 tcp 2120220415 2001:db8::1 50000 typ host tcptype passive\r\na=end-of-candidates\r\n";
    assert_eq!(
        answer.to_string(),
        format!(
            "v=0\r\no=- 7 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-lite\r\na=group:BUNDLE 0 1\r\na=msid-semantic: WMS *\r\n\
            m=video 9 UDP/TLS/RTP/SAVPF 116 117\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\n{transport}a=rtcp-rsize\r\n\
            a=rtpmap:116 H264/90000\r\na=fmtp:116 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=64001f\r\n\
            a=rtcp-fb:116 nack\r\na=rtcp-fb:116 nack pli\r\na=rtcp-fb:116 ccm fir\r\na=rtpmap:117 rtx/90000\r\n\
            a=fmtp:117 apt=116\r\na=msid:stream video\r\na=ssrc-group:FID 101 102\r\na=ssrc:101 cname:stream\r\n\
            a=ssrc:102 cname:stream\r\n{reached}\
            m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\n{transport}a=rtpmap:111 opus/48000/2\r\n\
            a=fmtp:111 minptime=10;useinbandfec=1\r\na=msid:stream audio\r\na=ssrc:103 cname:stream\r\n{reached}\
            m=application 0 UDP/DTLS/SCTP 0\r\nc=IN IP4 0.0.0.0\r\na=inactive\r\na=mid:2\r\n"
        )
    );
}

#[test]
fn a_publisher_is_accepted_in_its_first_codec_that_we_know() {
    let text = chromium().replace("a=recvonly", "a=sendonly");
    let legs = Offer::parse(&text).unwrap().accept().unwrap();
    let chosen: Vec<_> = legs.iter().map(|leg| (leg.section, leg.format.codec, leg.format.rtx)).collect();
    assert_eq!(chosen, [(0, Codec::Vp8, Some(97)), (1, Codec::Opus, None)]);

    let other = text.replace("opus/48000/2", "speex/16000");
    assert_eq!(Offer::parse(&other).unwrap().accept(), Err(Error::CodecMissing(Codec::Opus)));
    assert_eq!(Offer::parse(&chromium()).unwrap().accept(), Err(Error::NoMedia), "a viewer sends nothing");
}

#[test]
fn the_side_that_waits_is_chosen_by_the_offer() {
    let role = |setup: &str| Offer::parse(&chromium().replace("a=setup:actpass", setup)).map(|offer| offer.role);
    assert_eq!(role("a=setup:actpass"), Ok(Role::Server));
    assert_eq!(role("a=setup:active"), Ok(Role::Server));
    assert_eq!(role("a=setup:passive"), Ok(Role::Client));
    assert_eq!(role("a=x"), Ok(Role::Server));
    assert_eq!(role("a=setup:holdconn"), Err(Error::Malformed("its a=setup is unknown")));
    assert_eq!((Role::Client.setup(), Role::Server.setup()), ("active", "passive"));
}

#[test]
fn an_offer_that_cannot_be_answered_says_why() {
    let edit = |from: &str, to: &str| Offer::parse(&chromium().replace(from, to)).unwrap_err().to_string();
    for (from, to, why) in [
        ("v=0", "x=0", "it does not begin with v=0"),
        ("a=mid:0", "a=mid:0\ra=x", "it has a control character"),
        ("m=video 9", "m=video", "an m= line is invalid"),
        ("SAVPF 96", "SAVPF 296", "an m= line is invalid"),
        ("a=ice-ufrag:Ab3+", "a=x", "it has no a=ice-ufrag"),
        ("a=ice-ufrag:Ab3+", "a=ice-ufrag:a b c", "its a=ice-ufrag is invalid"),
        ("a=ice-pwd:0123456789abcdefghijklmn", "a=ice-pwd:short", "its a=ice-pwd is invalid"),
        ("a=ice-pwd:0123456789abcdefghijklmn", "a=x", "it has no a=ice-pwd"),
        ("a=fingerprint:sha-256", "a=x", "it has no a=fingerprint"),
        ("a=fingerprint:sha-256", "a=fingerprint:sha-1", "its fingerprint is not of sha-256"),
        (FINGERPRINT, "AA:BB", "its fingerprint is invalid"),
        ("a=rtcp-mux", "a=x", "a section has no a=rtcp-mux"),
        ("a=group:BUNDLE 0 1", "a=group:BUNDLE 0", "its sections are not one BUNDLE"),
        ("a=mid:1", "a=x", "a section has no a=mid"),
    ] {
        assert_eq!(edit(from, to), format!("the offer is malformed: {why}"), "{from} → {to}");
    }
    assert_eq!(edit("UDP/TLS/RTP/SAVPF", "RTP/AVP"), "the offer has neither audio nor video");
    assert_eq!(
        edit("v=0", &format!("v=0\r\n{}", "a".repeat(MAX_OFFER))),
        "the offer is malformed: it is longer than 64 KiB"
    );
}

proptest::proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "v=0(\n(m=(video|audio) 9 UDP/TLS/RTP/SAVPF( [0-9]{1,3}){0,4}|a=[a-z-]{1,12}(:.{0,40})?|.{0,40})){0,30}") {
        if let Ok(offer) = Offer::parse(&text) {
            let _unanswerable = offer.choose(&[HIGH, Codec::Opus], || 1);
        }
    }
}
