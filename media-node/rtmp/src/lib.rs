//! RTMP 1.0 with Enhanced RTMP v2, without input and output: bytes in, events and bytes out.
//!
//! [`server::Session`] and [`client::Session`] each hold one connection. The driver owns the socket, the clock and the
//! deadlines: it appends what it read to a buffer, calls `receive` until that returns `None`, and writes what
//! `take_output` returns. [`chunk::write_message`] makes the bytes of a media message that all players of a stream
//! share; [`tag`] says what a media message holds without copying it.
//!
//! Nothing here panics on bytes from outside, and what a peer can make a session hold is bounded ([`chunk::Limits`]).
//!
//! Sources: Adobe's RTMP specification 1.0 (section numbers in the comments are its), AMF 0, FLV 10.1 annex E, and
//! Veovera's Enhanced RTMP v2.

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::match_wildcard_for_single_variants,
        clippy::wildcard_enum_match_arm
    )
)]

pub mod amf0;
pub mod chunk;
pub mod client;
mod connection;
mod error;
pub mod flv;
mod handshake;
mod message;
pub mod name;
pub mod server;
pub mod status;
pub mod tag;

pub use error::Error;
pub use message::{Kind, Message};
