//! The way between a broadcast's packets, which are FLV and Enhanced RTMP tags, and RTP payloads, which WebRTC carries. No
//! sockets, no clock, no SRTP: a driver gives sequence numbers and addresses.
//!
//! [`packetize`] makes of a frame the payloads that viewers get, once for all of them; they share the frame's memory.
//! [`depacketize`] makes of a publisher's RTP packets those of a broadcast. [`bridge`] makes
//! Opus of AAC, which WebRTC does not know.

#![warn(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

pub mod bridge;
mod clock;
mod codec;
pub mod depacketize;
mod nal;
mod obu;
pub mod packetize;
mod payload;

pub use codec::Codec;
pub use payload::{MaxPayload, Payload};
