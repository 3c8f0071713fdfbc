//! What happens to media between a publisher and its readers, without a clock, a socket or a thread of its own.
//!
//! A publisher's [`Packet`]s go into a [`fanout::Fanout`]: one ring a broadcast, read by any number of
//! [`fanout::Subscriber`]s. [`broadcast::Lifecycle`] decides when a publisher is claimed, refused and ended.
//! Drivers own the sockets and give the time.

#![warn(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

pub mod broadcast;
pub mod codec;
pub mod fanout;
mod packet;
pub mod splice;
mod time;
mod track;
pub mod wire;

pub use packet::{Packet, Role};
pub use time::{MediaTime, RtmpClock, Timescale};
pub use track::{Kind, Track};
