//! Other servers of the same clip to the same viewers.

pub(crate) mod ours;
pub(crate) mod plain;
pub(crate) mod rtc;
pub(crate) mod webrtc;

use ::rtc::{
    media_stream::MediaStreamTrack,
    peer_connection::configuration::media_engine::{MIME_TYPE_H264, MediaEngine},
    rtp_transceiver::rtp_sender::{
        RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters,
        RtpCodecKind,
    },
};
use anyhow::{Context, Result};

/// The baseline of H264, which the clips have.
const FORMAT: &str = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";
const SSRC: u32 = 0x5eed;

/// The one codec of a viewer's connection, under the number that the viewer has for it: the crates send under the first that they know.
struct Format {
    payload_type: u8,
    codec: RTCRtpCodec,
}

impl Format {
    fn of_offer(offer: &str) -> Result<Self> {
        let fitting = offer
            .lines()
            .filter_map(|line| line.strip_prefix("a=fmtp:"))
            .find(|line| line.contains("packetization-mode=1") && line.contains("profile-level-id=42e01f"));
        let (payload_type, _) = fitting.and_then(|line| line.split_once(' ')).context("no H264 is offered")?;
        let feedback =
            |(typ, parameter): (&str, &str)| RTCPFeedback { typ: typ.to_owned(), parameter: parameter.to_owned() };
        let codec = RTCRtpCodec {
            mime_type: MIME_TYPE_H264.to_owned(),
            clock_rate: 90_000,
            channels: 0,
            sdp_fmtp_line: FORMAT.to_owned(),
            rtcp_feedback: [("nack", ""), ("nack", "pli")].map(feedback).into(),
        };
        Ok(Self { payload_type: payload_type.parse()?, codec })
    }

    fn engine(&self) -> Result<MediaEngine> {
        let mut engine = MediaEngine::default();
        let parameters = RTCRtpCodecParameters { rtp_codec: self.codec.clone(), payload_type: self.payload_type };
        engine.register_codec(parameters, RtpCodecKind::Video)?;
        Ok(engine)
    }

    fn track(&self) -> MediaStreamTrack {
        let rtp_coding_parameters = RTCRtpCodingParameters { ssrc: Some(SSRC), ..RTCRtpCodingParameters::default() };
        let codec = self.codec.clone();
        let encoding = RTCRtpEncodingParameters { rtp_coding_parameters, codec, ..RTCRtpEncodingParameters::default() };
        MediaStreamTrack::new("clip".into(), "video".into(), "video".into(), RtpCodecKind::Video, vec![encoding])
    }
}
