#![no_main]

#[path = "../rtp_targets.rs"]
mod rtp_targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| rtp_targets::aac_frames(input));
