//! The media-node with the clients that people use: standalone, and as a node of a cluster.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends here, with the reason")]

mod adoption;
mod aiortc;
mod buckets;
mod cluster;
mod codecs;
mod disks;
mod drain;
mod hls;
mod hls_moves;
mod hostile;
mod obs;
mod recording;
mod relay;
mod rest;
mod standalone;
mod storage;
mod stories;
mod vods;
mod whep;
mod whip;
