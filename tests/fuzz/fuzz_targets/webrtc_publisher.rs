#![no_main]

#[path = "../webrtc_targets.rs"]
#[expect(dead_code, reason = "each target runs one of them")]
mod webrtc_targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| webrtc_targets::webrtc_publisher(input));
