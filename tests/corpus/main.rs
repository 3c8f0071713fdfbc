//! Replays the committed fuzz corpus with the stable compiler, so that what fuzzing once found stays fixed.

#[path = "../fuzz/mux_targets.rs"]
mod mux_targets;
#[path = "../fuzz/relay_targets.rs"]
mod relay_targets;
#[path = "../fuzz/rest_targets.rs"]
mod rest_targets;
#[path = "../fuzz/rtmp_targets.rs"]
mod rtmp_targets;
#[path = "../fuzz/rtp_targets.rs"]
mod rtp_targets;
#[path = "../fuzz/webrtc_targets.rs"]
mod webrtc_targets;

use std::{fs, panic, path::Path};

#[test]
fn rtmp_chunks_of_the_corpus_break_no_rule() {
    replay("rtmp_chunk", rtmp_targets::rtmp_chunk);
}

#[test]
fn rtmp_handshakes_of_the_corpus_break_no_rule() {
    replay("rtmp_handshake", rtmp_targets::rtmp_handshake);
}

#[test]
fn amf0_values_of_the_corpus_break_no_rule() {
    replay("rtmp_amf0", rtmp_targets::rtmp_amf0);
}

#[test]
fn flv_tags_of_the_corpus_break_no_rule() {
    replay("flv_tag", rtmp_targets::flv_tag);
}

#[test]
fn rest_requests_of_the_corpus_break_no_rule() {
    replay("rest_json", rest_targets::rest_json);
}

#[test]
fn relay_streams_of_the_corpus_break_no_rule() {
    replay("relay_wire", relay_targets::relay_wire);
}

#[test]
fn packets_of_the_corpus_break_no_rule_of_the_muxer() {
    replay("mux_packets", mux_targets::mux_packets);
}

#[test]
fn recordings_of_the_corpus_break_no_rule() {
    replay("mux_recover", mux_targets::mux_recover);
}

#[test]
fn names_of_the_corpus_break_no_rule() {
    replay("hls_name", mux_targets::hls_name);
}

#[test]
fn offers_of_the_corpus_break_no_rule() {
    replay("webrtc_offer", webrtc_targets::webrtc_offer);
}

#[test]
fn datagrams_of_the_corpus_break_no_rule() {
    replay("webrtc_datagrams", webrtc_targets::webrtc_datagrams);
}

#[test]
fn publishers_packets_of_the_corpus_break_no_rule() {
    replay("webrtc_publisher", webrtc_targets::webrtc_publisher);
}

#[test]
fn rtp_packets_of_the_corpus_break_no_rule() {
    replay("rtp_packets", rtp_targets::rtp_packets);
}

#[test]
fn aac_frames_of_the_corpus_break_no_rule() {
    replay("aac_frames", rtp_targets::aac_frames);
}

/// Gives a target each of its committed inputs, and names the one that fails.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = fs::read_dir(&folder)
        .expect("the target has a corpus")
        .map(|entry| entry.expect("the corpus can be listed").path())
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for path in inputs {
        let input = fs::read(&path).expect("the corpus can be read");
        assert!(panic::catch_unwind(|| run(&input)).is_ok(), "{} breaks a rule", path.display());
    }
}
