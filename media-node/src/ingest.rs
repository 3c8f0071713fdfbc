//! Protocol sides that yield a publisher.

mod publisher;
pub mod rtmp;
pub(crate) mod whip;
