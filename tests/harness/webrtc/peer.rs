//! The driver of one peer connection: its socket, its timers, what it receives and what it publishes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use rtc::{
    interceptor::{NackResponderBuilder, Registry, Slot},
    media_stream::MediaStreamTrack,
    peer_connection::{
        RTCPeerConnection, RTCPeerConnectionBuilder,
        configuration::{
            interceptor_registry::configure_rtcp_reports,
            media_engine::{MIME_TYPE_H264, MIME_TYPE_OPUS, MIME_TYPE_RTX, MediaEngine},
            setting_engine::SettingEngineBuilder,
        },
        event::{RTCPeerConnectionEvent, RTCTrackEvent},
        message::{RTCMessage, TaggedRTCMessage},
        sdp::RTCSessionDescription,
        state::RTCPeerConnectionState,
        transport::{CandidateConfig, CandidateHostConfig, RTCIceCandidate, RTCIceCandidateInit},
    },
    rtcp::{
        payload_feedbacks::picture_loss_indication::PictureLossIndication,
        transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers},
    },
    rtp::{codec::h264::H264Payloader, packetizer::Payloader as _},
    rtp_transceiver::{
        RTCRtpReceiverId, RTCRtpSenderId, RTCRtpTransceiverDirection, RTCRtpTransceiverInit,
        rtp_sender::{
            RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters,
            RTCRtpRtxParameters, RtpCodecKind,
        },
    },
    sansio::Protocol as _,
    shared::{TaggedBytesMut, TransportContext, TransportProtocol},
    statistics::StatsSelector,
};
use tokio::{sync::mpsc, time::sleep_until};

use super::{
    Clip, Loss, Options, Seen, State, Track, Transport,
    clip::{Picture, SILENCE_LENGTH},
    frames::{Assembler, Kind, Piece, begins_keyframe},
    link::Link,
    now,
};

/// How often it is looked what is missing.
const FEEDBACK: Duration = Duration::from_millis(20);
/// As browsers cut their packets.
const MTU: usize = 1_188;
const VIDEO_SSRC: u32 = 0x7a11_0001;
const RTX_SSRC: u32 = 0x7a11_0002;
const AUDIO_SSRC: u32 = 0x7a11_0003;

/// What a client offers to protect media with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Srtp {
    #[default]
    Any,
    Gcm,
    Sha1,
}

#[derive(Debug)]
pub(super) enum Command {
    Keyframe,
    Rebind,
    Lose(Loss),
}

pub(super) struct Peer {
    pc: RTCPeerConnection,
    nack: bool,
    receiving: HashMap<String, Receiving>,
    publishing: Option<Publishing>,
    state: State,
    connected: Option<Instant>,
    next_feedback: Instant,
}

/// A track that comes.
struct Receiving {
    receiver: RTCRtpReceiverId,
    ssrc: u32,
    codec: String,
    kind: Kind,
    assembler: Assembler,
}

/// What is sent, once it is connected.
struct Publishing {
    clip: Clip,
    video: RTCRtpSenderId,
    audio: RTCRtpSenderId,
    payloader: H264Payloader,
    began: Option<Instant>,
    pictures: usize,
    sounds: u32,
    video_sequence: u16,
    audio_sequence: u16,
    sent: super::Sent,
}

impl Peer {
    /// A connection and its offer, without candidates of others than this link.
    pub(super) fn offer(options: &Options, link: &Link, clip: Option<Clip>) -> Result<(Self, String)> {
        use rtc::dtls::extension::extension_use_srtp::SrtpProtectionProfile::{
            Srtp_Aead_Aes_128_Gcm, Srtp_Aead_Aes_256_Gcm, Srtp_Aes128_Cm_Hmac_Sha1_80,
        };
        let mut settings = SettingEngineBuilder::new();
        settings = match options.srtp {
            Srtp::Any => settings,
            Srtp::Gcm => settings.with_srtp_protection_profiles(vec![Srtp_Aead_Aes_128_Gcm, Srtp_Aead_Aes_256_Gcm]),
            Srtp::Sha1 => settings.with_srtp_protection_profiles(vec![Srtp_Aes128_Cm_Hmac_Sha1_80]),
        };
        if options.transport == Transport::Tcp {
            use rtc::ice::network_type::NetworkType::{Tcp4, Tcp6};
            settings = settings.with_network_types(vec![Tcp4, Tcp6]);
        }
        // without its generator of NACKs, which goes on asking for what came by RTX
        let registry = configure_rtcp_reports(Registry::new());
        let registry = registry.with(Slot::NackResponder, NackResponderBuilder::new().build());
        let mut pc = RTCPeerConnectionBuilder::new()
            .with_setting_engine(settings.build())
            .with_media_engine(media(clip.is_some())?)
            .with_interceptor_registry(registry)
            .build(now())?;
        let publishing = match clip {
            Some(clip) => Some(Publishing::new(&mut pc, clip)?),
            None => {
                for kind in [RtpCodecKind::Video, RtpCodecKind::Audio] {
                    let direction = RTCRtpTransceiverDirection::Recvonly;
                    let init = RTCRtpTransceiverInit { direction, ..RTCRtpTransceiverInit::default() };
                    pc.add_transceiver_from_kind(kind, Some(init))?;
                }
                None
            }
        };
        pc.add_local_candidate(candidate(options.transport, link)?)?;
        let offer = pc.create_offer(None)?;
        pc.set_local_description(now(), offer)?;
        pc.add_local_candidate(RTCIceCandidateInit::default())?;
        let offer = pc.local_description().context("no offer was made")?.sdp;
        let peer = Self {
            pc,
            nack: options.nack,
            receiving: HashMap::new(),
            publishing,
            state: State::Connecting,
            connected: None,
            next_feedback: now(),
        };
        Ok((peer, offer))
    }

    pub(super) fn answer(&mut self, answer: &str) -> Result<()> {
        let description = RTCSessionDescription::answer(answer.to_owned())?;
        self.pc.set_remote_description(now(), description).context("the answer is refused")?;
        Ok(())
    }

    /// Drives it until it has no owner any more, or the server has closed it.
    pub(super) async fn run(
        mut self,
        mut link: Link,
        mut commands: mpsc::Receiver<Command>,
        seen: Arc<Mutex<Seen>>,
        began: Instant,
    ) -> Result<()> {
        loop {
            self.events();
            self.read();
            self.publish(now())?;
            self.feedback(now())?;
            while let Some(transmit) = self.pc.poll_write() {
                link.send(&transmit.message, transmit.transport.peer_addr).await?;
            }
            self.show(&seen, began);
            let due = self.due();
            tokio::select! {
                command = commands.recv() => match command {
                    None => return self.pc.close().map_err(Into::into),
                    Some(Command::Keyframe) => self.ask_for_keyframes()?,
                    Some(Command::Rebind) => link.rebind().await?,
                    Some(Command::Lose(loss)) => link.loss = loss,
                },
                received = link.receive() => {
                    let (message, peer_addr) = received?;
                    let transport_protocol = if link.is_tcp() { TransportProtocol::TCP } else { TransportProtocol::UDP };
                    let transport = TransportContext { local_addr: link.local, peer_addr, ecn: None, transport_protocol };
                    // what it does not understand is no reason to end
                    drop(self.pc.handle_read(TaggedBytesMut { now: now(), transport, message }));
                }
                () = sleep_until(due.into()) => {}
            }
            if self.pc.poll_timeout().is_some_and(|due| due <= now()) {
                self.pc.handle_timeout(now())?;
            }
        }
    }

    fn due(&mut self) -> Instant {
        let publish = self.publishing.as_ref().and_then(Publishing::due);
        let feedback = self.connected.map(|_| self.next_feedback);
        let own = self.pc.poll_timeout();
        // for ever, when there is nothing to wait for
        own.into_iter().chain(publish).chain(feedback).min().unwrap_or_else(|| now() + Duration::from_secs(3_600))
    }

    fn events(&mut self) {
        while let Some(event) = self.pc.poll_event() {
            match event {
                RTCPeerConnectionEvent::OnConnectionStateChangeEvent(state) => {
                    self.state = match state {
                        RTCPeerConnectionState::Connected => State::Connected,
                        RTCPeerConnectionState::Disconnected => State::Disconnected,
                        RTCPeerConnectionState::Failed => State::Failed,
                        RTCPeerConnectionState::Closed => State::Closed,
                        _ => State::Connecting,
                    };
                    if self.state == State::Connected {
                        self.connected.get_or_insert_with(now);
                    }
                }
                RTCPeerConnectionEvent::OnTrack(RTCTrackEvent::OnOpen(track)) => {
                    let Some(receiver) = self.pc.rtp_receiver(track.receiver_id) else { continue };
                    let codec = receiver.track().codec(track.ssrc).map(|codec| codec.mime_type.to_ascii_lowercase());
                    let codec = codec.unwrap_or_default();
                    let kind = if receiver.track().kind() == RtpCodecKind::Video { Kind::Video } else { Kind::Audio };
                    let (receiver, assembler) = (track.receiver_id, Assembler::new(kind));
                    let receiving = Receiving { receiver, ssrc: track.ssrc, codec, kind, assembler };
                    self.receiving.entry(track.track_id).or_insert(receiving);
                }
                _ => {}
            }
        }
    }

    fn read(&mut self) {
        while let Some(TaggedRTCMessage { message, now }) = self.pc.poll_read() {
            let RTCMessage::RtpPacket(track, packet) = message else { continue };
            let Some(receiving) = self.receiving.get_mut(&track) else { continue };
            let keyframe = begins_keyframe(&receiving.codec, &packet.payload);
            let piece = Piece { marker: packet.header.marker, keyframe };
            receiving.assembler.take(packet.header.sequence_number, packet.payload.len(), piece, now);
        }
    }

    /// Asks for what is missing.
    fn feedback(&mut self, now: Instant) -> Result<()> {
        if self.connected.is_none() || now < self.next_feedback {
            return Ok(());
        }
        self.next_feedback = now + FEEDBACK;
        for receiving in self.receiving.values_mut() {
            let Receiving { receiver, ssrc, assembler, .. } = receiving;
            assembler.give_up(now);
            let Some(mut receiver) = self.pc.rtp_receiver(*receiver) else { continue };
            if assembler.wants_keyframe(now) {
                receiver.write_rtcp(now, vec![keyframe_request(*ssrc)])?;
            }
            let missing = if self.nack { assembler.missing(now) } else { Vec::new() };
            if !missing.is_empty() {
                let nacks = nack_pairs_from_sequence_numbers(&missing);
                let request = TransportLayerNack { sender_ssrc: 1, media_ssrc: *ssrc, nacks };
                receiver.write_rtcp(now, vec![Box::new(request)])?;
            }
        }
        Ok(())
    }

    fn ask_for_keyframes(&mut self) -> Result<()> {
        for receiving in self.receiving.values_mut().filter(|receiving| receiving.kind == Kind::Video) {
            if let Some(mut receiver) = self.pc.rtp_receiver(receiving.receiver) {
                receiver.write_rtcp(now(), vec![keyframe_request(receiving.ssrc)])?;
                receiving.assembler.asks_for_keyframe();
            }
        }
        Ok(())
    }

    fn publish(&mut self, now: Instant) -> Result<()> {
        if self.connected.is_none() {
            return Ok(());
        }
        match &mut self.publishing {
            Some(publishing) => publishing.send(&mut self.pc, now),
            None => Ok(()),
        }
    }

    fn show(&mut self, seen: &Mutex<Seen>, began: Instant) {
        let track = |kind| self.receiving.values().find(|receiving| receiving.kind == kind);
        let of = |kind| track(kind).map_or_else(Track::default, |receiving| receiving.assembler.track());
        let (video, audio) = (of(Kind::Video), of(Kind::Audio));
        let codecs = [Kind::Video, Kind::Audio].into_iter().filter_map(track);
        let codecs = codecs.map(|receiving| receiving.codec.clone()).collect();
        let sent = self.publishing.as_ref().map(|publishing| publishing.sent).unwrap_or_default();
        let connected_after = self.connected.map(|at| at.duration_since(began));
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let answered_after = seen.answered_after;
        *seen = Seen { state: self.state, answered_after, connected_after, video, audio, codecs, sent };
    }
}

fn keyframe_request(media_ssrc: u32) -> Box<PictureLossIndication> {
    Box::new(PictureLossIndication { sender_ssrc: 1, media_ssrc })
}

fn candidate(transport: Transport, link: &Link) -> Result<RTCIceCandidateInit> {
    let (network, port) = match transport {
        Transport::Udp => ("udp", link.local.port()),
        // RFC 6544 §4.5: it does not listen
        Transport::Tcp => ("tcp", 9),
    };
    let base_config = CandidateConfig {
        network: network.to_owned(),
        address: link.local.ip().to_string(),
        port,
        component: 1,
        ..CandidateConfig::default()
    };
    let tcp_type = match transport {
        Transport::Udp => rtc::ice::tcp_type::TcpType::Unspecified,
        Transport::Tcp => rtc::ice::tcp_type::TcpType::Active,
    };
    let candidate = CandidateHostConfig { base_config, tcp_type }.new_candidate_host()?;
    Ok(RTCIceCandidate::from(&candidate).to_json()?)
}

/// A viewer offers all that the library knows; a publisher what it sends, since the library takes the first that is offered.
fn media(publishes: bool) -> Result<MediaEngine> {
    let mut media = MediaEngine::default();
    if publishes {
        for (payload_type, codec) in [(102, h264()), (103, retransmission(102))] {
            media.register_codec(RTCRtpCodecParameters { rtp_codec: codec, payload_type }, RtpCodecKind::Video)?;
        }
        media.register_codec(RTCRtpCodecParameters { rtp_codec: opus(), payload_type: 111 }, RtpCodecKind::Audio)?;
    } else {
        media.register_default_codecs()?;
    }
    Ok(media)
}

fn h264() -> RTCRtpCodec {
    let feedback =
        |(typ, parameter): (&str, &str)| RTCPFeedback { typ: typ.to_owned(), parameter: parameter.to_owned() };
    RTCRtpCodec {
        mime_type: MIME_TYPE_H264.to_owned(),
        clock_rate: 90_000,
        channels: 0,
        sdp_fmtp_line: "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f".to_owned(),
        rtcp_feedback: [("nack", ""), ("nack", "pli"), ("ccm", "fir")].map(feedback).into(),
    }
}

fn retransmission(of: u8) -> RTCRtpCodec {
    RTCRtpCodec {
        mime_type: MIME_TYPE_RTX.to_owned(),
        clock_rate: 90_000,
        channels: 0,
        sdp_fmtp_line: format!("apt={of}"),
        rtcp_feedback: Vec::new(),
    }
}

fn opus() -> RTCRtpCodec {
    RTCRtpCodec {
        mime_type: MIME_TYPE_OPUS.to_owned(),
        clock_rate: 48_000,
        channels: 2,
        sdp_fmtp_line: "minptime=10;useinbandfec=1".to_owned(),
        rtcp_feedback: Vec::new(),
    }
}

impl Publishing {
    fn new(pc: &mut RTCPeerConnection, clip: Clip) -> Result<Self> {
        let mut add = |name: &str, kind, ssrc, rtx: Option<u32>, codec| {
            let rtx = rtx.map(|ssrc| RTCRtpRtxParameters { ssrc });
            let rtp_coding_parameters =
                RTCRtpCodingParameters { ssrc: Some(ssrc), rtx, ..RTCRtpCodingParameters::default() };
            let encoding =
                RTCRtpEncodingParameters { rtp_coding_parameters, codec, ..RTCRtpEncodingParameters::default() };
            pc.add_track(MediaStreamTrack::new("clip".into(), name.into(), name.into(), kind, vec![encoding]))
        };
        Ok(Self {
            clip,
            video: add("video", RtpCodecKind::Video, VIDEO_SSRC, Some(RTX_SSRC), h264())?,
            audio: add("audio", RtpCodecKind::Audio, AUDIO_SSRC, None, opus())?,
            payloader: H264Payloader::default(),
            began: None,
            pictures: 0,
            sounds: 0,
            video_sequence: 1,
            audio_sequence: 1,
            sent: super::Sent::default(),
        })
    }

    fn due(&self) -> Option<Instant> {
        let began = self.began?;
        Some(began + self.picture()?.0.min(SILENCE_LENGTH * self.sounds))
    }

    /// The next picture, and when it is due after the begin.
    fn picture(&self) -> Option<(Duration, &Picture)> {
        let count = self.clip.pictures.len();
        let picture = self.clip.pictures.get(self.pictures.checked_rem(count)?)?;
        let round = u32::try_from(self.pictures / count).ok()?;
        Some((self.clip.length * round + picture.at, picture))
    }

    fn send(&mut self, pc: &mut RTCPeerConnection, now: Instant) -> Result<()> {
        let began = *self.began.get_or_insert(now);
        while let Some((at, picture)) = self.picture().filter(|(at, _)| began + *at <= now) {
            let (data, timestamp) = (picture.data.clone(), ticks(at, 90));
            let payloads = self.payloader.payload(MTU, &data)?;
            let count = payloads.len();
            for (index, payload) in payloads.into_iter().enumerate() {
                let sequence = self.video_sequence;
                self.video_sequence = sequence.wrapping_add(1);
                let marker = index + 1 == count;
                let header = Header { ssrc: VIDEO_SSRC, payload_type: 102, sequence, timestamp, marker };
                self.packet(pc, self.video, &header, payload, now)?;
            }
            self.pictures += 1;
            self.sent.frames += 1;
        }
        while began + SILENCE_LENGTH * self.sounds <= now {
            let (sequence, timestamp) = (self.audio_sequence, self.sounds.wrapping_mul(960));
            self.audio_sequence = sequence.wrapping_add(1);
            let header = Header { ssrc: AUDIO_SSRC, payload_type: 111, sequence, timestamp, marker: self.sounds == 0 };
            self.packet(pc, self.audio, &header, Clip::silence(), now)?;
            self.sounds += 1;
        }
        let report = pc.get_stats(now, StatsSelector::None);
        self.sent.nacks = report.outbound_rtp_streams().map(|stream| u64::from(stream.nack_count)).sum();
        self.sent.keyframe_requests = report.outbound_rtp_streams().map(|stream| u64::from(stream.pli_count)).sum();
        Ok(())
    }

    fn packet(
        &mut self,
        pc: &mut RTCPeerConnection,
        sender: RTCRtpSenderId,
        header: &Header,
        payload: Bytes,
        now: Instant,
    ) -> Result<()> {
        let &Header { ssrc, payload_type, sequence, timestamp, marker } = header;
        self.sent.packets += 1;
        self.sent.bytes += payload.len() as u64;
        let header = rtc::rtp::Header {
            version: 2,
            ssrc,
            payload_type,
            sequence_number: sequence,
            timestamp,
            marker,
            ..rtc::rtp::Header::default()
        };
        let mut sender = pc.rtp_sender(sender).context("the sender is gone")?;
        sender.write_rtp(now, rtc::rtp::Packet { header, payload }).context("a packet was refused")
    }
}

struct Header {
    ssrc: u32,
    payload_type: u8,
    sequence: u16,
    timestamp: u32,
    marker: bool,
}

/// So many ticks a millisecond, modulo 2^32 as RTP times are.
fn ticks(at: Duration, per_millisecond: u128) -> u32 {
    let [.., a, b, c, d] = (at.as_micros() * per_millisecond / 1_000).to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}
