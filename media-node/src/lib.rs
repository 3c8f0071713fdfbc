//! The drivers of the media-node: sockets, files, the store and the process around `media-core` and `rtmp`.

pub mod admission;
pub mod check;
pub mod claim;
pub mod cli;
mod config;
pub mod connection;
mod data_dir;
mod drain;
mod ends_log;
mod http;
pub mod hub;
pub mod ingest;
mod lease;
pub mod listener;
mod load;
pub mod metrics;
mod own_sessions;
pub mod playback;
pub mod relay;
pub mod run;
pub mod server;
pub mod socket;
pub mod standalone;
mod stream_key;
pub mod telemetry;
mod tls;
mod yaml;
