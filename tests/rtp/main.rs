//! RTP payloads of real encoders' streams, put together again by us and by other programs, and those of another program put
//! together by us.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends here, with the reason")]

mod foreign;
mod round_trips;
mod sound;
mod streams;
mod viewers;
