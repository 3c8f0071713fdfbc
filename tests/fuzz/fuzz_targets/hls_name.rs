#![no_main]

#[path = "../mux_targets.rs"]
mod mux_targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| mux_targets::hls_name(input));
