//! WebRTC's transport, its viewers and publishers: SDP, ICE-lite, DTLS, SRTP, the history that is sent again from, and batches.
//!
//! A request of WHIP or WHEP is an [`sdp::Offer`]; [`sdp::Answer`] answers it. [`viewer::Viewer`] is the session that follows, and
//! [`source::Source`] what all viewers of a stream share; or it is a [`publisher::Publisher`]. A [`demux::Directory`] says which session a datagram is for. These know
//! no clock, no socket and no thread: datagrams, frames and `now` go in, batches, events and the next deadline come out.
//!
//! [`pool::Pool`] drives them: threads with sockets of one port. Only `pool.rs` and `worker.rs` know sockets, threads and clocks.
//!
//! Nothing here panics on bytes from outside, and what a peer can make a session hold is bounded.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::match_wildcard_for_single_variants, clippy::wildcard_enum_match_arm)
)]

pub mod batch;
mod bytes;
mod client_hello;
pub mod clock;
pub mod demux;
pub mod dtls;
mod flight;
mod framing;
pub mod history;
pub mod ice;
pub mod keyframe;
pub mod path;
pub mod pool;
pub mod publisher;
mod rtcp;
mod rtp;
pub mod sdp;
pub mod source;
mod srtp;
pub mod stun;
pub mod transport;
pub mod viewer;
pub mod worker;
