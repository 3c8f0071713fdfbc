//! Uploads to a real S3 server, and recordings that players fetch.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends here, with the reason")]

mod faults;
mod growing;
mod playlists;
mod salvage;
mod serving;
mod trouble;
