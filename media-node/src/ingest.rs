//! Protocol sides that yield a publisher.

pub mod rtmp;
