#![no_main]

#[path = "../rtmp_targets.rs"]
#[expect(dead_code, reason = "each target runs one of them")]
mod rtmp_targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| rtmp_targets::rtmp_chunk(input));
