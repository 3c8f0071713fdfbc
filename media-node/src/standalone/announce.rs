//! Tells people where the server is, on standard output.

use std::{
    io::{self, Write},
    net::SocketAddr,
};

use super::demo;
use crate::server::Addresses;

/// Writes text to standard output. Should that be closed, serving goes on.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The addresses, and how to use them. Without a credential REST says whom it answers.
pub(super) fn addresses(addresses: &Addresses, app: &str, with_demo: bool, rest_has_token: bool) -> String {
    let rest_is_for = if rest_has_token { "with a token" } else { "this machine only; --rest-token-file opens it" };
    let (rtmp, http) = (reachable(addresses.rtmp), reachable(addresses.http));
    let user_http = reachable(addresses.user_http());
    let stream = if with_demo { demo::STREAM } else { "STREAM" };
    let mut text = format!(
        "publish  rtmp://{rtmp}/{app}/STREAM\n\
         \x20        OBS: service Custom, server rtmp://{rtmp}/{app}, stream key STREAM\n\
         \x20        ffmpeg -re -i FILE -c copy -f flv rtmp://{rtmp}/{app}/STREAM\n\
         play     ffplay rtmp://{rtmp}/{app}/{stream}\n\
         \x20        vlc rtmp://{rtmp}/{app}/{stream}\n\
         \x20        http://{user_http}/{app}/streams/{stream}.m3u8  (HLS)\n\
         \x20        http://{user_http}/{app}/play?id={stream}  (in a browser)\n\
         REST     http://{user_http}/{app}/rest/v2/broadcasts/{stream}  ({rest_is_for})\n\
         metrics  http://{http}/metrics\n"
    );
    if let Some(rtmps) = addresses.rtmps {
        text += &format!("TLS      rtmps://{}/{app}/STREAM\n", reachable(rtmps));
    }
    text
}

/// An address that can be typed: all interfaces are reached at this machine's loopback.
fn reachable(address: SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("localhost:{}", address.port()) } else { address.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_all_interfaces_are_shown_as_one_that_can_be_typed() {
        let bound = Addresses {
            http: SocketAddr::from(([127, 0, 0, 1], 5080)),
            public_http: None,
            public_https: None,
            rtmp: SocketAddr::from(([0, 0, 0, 0], 1935)),
            rtmps: None,
            relay: None,
            webrtc: None,
        };

        let text = addresses(&bound, "LiveApp", false, false);

        assert!(text.contains("rtmp://localhost:1935/LiveApp/STREAM"), "{text}");
        assert!(text.contains("http://127.0.0.1:5080/LiveApp/rest"), "{text}");
    }

    #[test]
    fn without_a_token_it_is_said_whom_rest_answers() {
        let bound = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let bound = Addresses {
            http: bound(5080),
            public_http: None,
            public_https: None,
            rtmp: bound(1935),
            rtmps: None,
            relay: None,
            webrtc: None,
        };

        assert!(addresses(&bound, "LiveApp", false, false).contains("this machine only; --rest-token-file opens it"));
        assert!(!addresses(&bound, "LiveApp", false, true).contains("this machine only"));
    }
}
