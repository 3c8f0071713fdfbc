#![no_main]

#[path = "../rest_targets.rs"]
mod rest_targets;

libfuzzer_sys::fuzz_target!(|body: &[u8]| rest_targets::rest_json(body));
