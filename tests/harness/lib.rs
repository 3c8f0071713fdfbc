//! The parts that Tallylight's tests are made of, all of them real: an API server, our own binaries as processes, a hook
//! receiver, ffmpeg and GStreamer.
//!
//! A part is a handle. It is ready when its constructor returns, and gone when it is dropped, also when the test process is
//! killed ([`watchdog`]). Nothing here sleeps or retries: what must become true is awaited with a deadline ([`wait`]).
//! `make test` builds what the parts need; each says what is missing and how to get it.

pub mod aiortc;
pub mod apiserver;
pub mod browser;
pub mod cluster;
pub mod disk;
pub mod encoder;
pub mod fleet;
pub mod flv;
pub mod front;
pub mod hls;
pub mod http;
pub mod identity;
pub mod install;
pub mod kubelet;
pub mod media;
pub mod node;
pub mod obs;
pub mod pki;
pub mod ports;
pub mod probe;
pub mod process;
pub mod proxy;
pub mod receiver;
pub mod recorder;
pub mod relaying;
pub mod repository;
pub mod rtmp;
pub mod s3;
pub mod service;
pub mod site;
pub mod status;
pub mod wait;
pub mod watchdog;
pub mod webrtc;
