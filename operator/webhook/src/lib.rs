//! Delivery of a ledger's events to their `listenerHookURL`: what is sent, where, when again, and what is written down.
//!
//! [`body`], [`endpoint`], [`settings`], [`schedule`], [`verdict`] and [`lane`] decide, without a clock or a connection;
//! [`http`] alone opens a user's URL, by what [`dns`] finds, and [`deliver`] drives. It drops no event, and makes none but
//! those of recordings, by [`tell()`].

#![warn(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

pub mod body;
mod crash;
pub mod deliver;
pub mod dns;
pub mod endpoint;
pub mod http;
pub mod lane;
pub mod schedule;
pub mod settings;
mod tell;
pub mod verdict;

pub use body::Body;
pub use deliver::{Dispatcher, Options, Report, Resolver};
pub use endpoint::Endpoint;
pub use settings::{ResolveError, Settings};
pub use tell::{Told, tell};
