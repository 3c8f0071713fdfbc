//! Replays the committed fuzz corpus with the stable compiler, so that what fuzzing once found stays fixed.

#[path = "../fuzz/mux_targets.rs"]
mod mux_targets;
#[path = "../fuzz/relay_targets.rs"]
mod relay_targets;
#[path = "../fuzz/rest_targets.rs"]
mod rest_targets;
#[path = "../fuzz/rtmp_targets.rs"]
mod rtmp_targets;

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn rtmp_chunks_of_the_corpus_break_no_rule() {
    for (path, input) in corpus("rtmp_chunk") {
        println!("{}", path.display());
        rtmp_targets::rtmp_chunk(&input);
    }
}

#[test]
fn rtmp_handshakes_of_the_corpus_break_no_rule() {
    for (path, input) in corpus("rtmp_handshake") {
        println!("{}", path.display());
        rtmp_targets::rtmp_handshake(&input);
    }
}

#[test]
fn amf0_values_of_the_corpus_break_no_rule() {
    for (path, input) in corpus("rtmp_amf0") {
        println!("{}", path.display());
        rtmp_targets::rtmp_amf0(&input);
    }
}

#[test]
fn flv_tags_of_the_corpus_break_no_rule() {
    for (path, input) in corpus("flv_tag") {
        println!("{}", path.display());
        rtmp_targets::flv_tag(&input);
    }
}

#[test]
fn rest_requests_of_the_corpus_break_no_rule() {
    for (path, input) in corpus("rest_json") {
        println!("{}", path.display());
        rest_targets::rest_json(&input);
    }
}

#[test]
fn relay_streams_of_the_corpus_break_no_rule() {
    for (path, input) in corpus("relay_wire") {
        println!("{}", path.display());
        relay_targets::relay_wire(&input);
    }
}

#[test]
fn packets_of_the_corpus_break_no_rule_of_the_muxer() {
    for (path, input) in corpus("mux_packets") {
        println!("{}", path.display());
        mux_targets::mux_packets(&input);
    }
}

#[test]
fn recordings_of_the_corpus_break_no_rule() {
    for (path, input) in corpus("mux_recover") {
        println!("{}", path.display());
        mux_targets::mux_recover(&input);
    }
}

/// The committed inputs of a target; the tests print the path of each, which shows when one fails.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = fs::read_dir(&folder)
        .expect("the target has a corpus")
        .map(|entry| entry.expect("the corpus can be listed").path())
        .map(|path| (path.clone(), fs::read(path).expect("the corpus can be read")))
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    inputs
}
