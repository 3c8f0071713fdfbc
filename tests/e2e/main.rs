//! A release on a cluster with real nodes, as a user has it: real kubelets run the images under Pod Security `restricted`.
//!
//! Needs root and the images, so no test here runs unasked: `make story` runs what CI does, `make e2e` all.

mod losses;
mod moves;
mod newcomers;
mod recordings;
mod release;
mod story;
mod webrtc;
