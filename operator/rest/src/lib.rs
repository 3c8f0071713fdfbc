//! Ant Media Server's REST, as its pages show it, over a ledger's store: create a broadcast, look at one,
//! start and stop to record it, and list, show and delete recordings.
//!
//! It writes Broadcasts and Recordings and reads them; it sends no hook and opens no user's URL. [`input`] is pure and parses what a client
//! sent; the rest is the feature `server`.

#[cfg(feature = "server")]
mod access;
#[cfg(feature = "server")]
mod create;
pub mod input;
#[cfg(feature = "server")]
mod result;
#[cfg(feature = "server")]
mod router;
#[cfg(feature = "server")]
mod upstream;
#[cfg(feature = "server")]
mod view;
#[cfg(feature = "server")]
mod vod;

#[cfg(feature = "server")]
pub use access::{Access, Token, WeakToken};
#[cfg(feature = "server")]
pub use result::{Unread, fail, read_body};
#[cfg(feature = "server")]
pub use router::{Application, Config, FindApplication, RtmpAddress, router};
#[cfg(feature = "server")]
pub use upstream::{InvalidUpstream, Upstream};
