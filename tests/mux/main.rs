//! What the muxer makes of real encoders' streams, seen by real players: files that are whole, cut off and finished, and
//! playlists.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends here, with the reason")]

mod browsers;
mod clips;
mod crashes;
mod files;
mod playlists;
mod tools;
