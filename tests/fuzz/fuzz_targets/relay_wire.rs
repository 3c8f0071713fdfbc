#![no_main]

#[path = "../relay_targets.rs"]
mod relay_targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay_targets::relay_wire(input));
