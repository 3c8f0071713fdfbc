//! Protocol sides that serve viewers.

pub mod rtmp;
