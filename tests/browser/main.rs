//! The pages in Chromium: what viewers see of live streams and of files, and what publishers send.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends here, with the reason")]

mod controls;
mod files;
mod live;
mod publish;
mod refusals;
mod stage;
mod webrtc;
