//! Protocol sides that serve viewers.

pub(crate) mod hls;
pub mod rtmp;
