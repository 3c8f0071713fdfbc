//! STUN and TURN servers that clients are told of.

use std::{fmt, str::FromStr};

/// The address of one, such as `stun:stun.example.net:3478`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IceServer(String);

/// What is no address of an ICE server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an ICE server is stun:HOST[:PORT], stuns:…, turn:… or turns:…")]
pub struct Invalid;

impl FromStr for IceServer {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (scheme, rest) = text.split_once(':').ok_or(Invalid)?;
        let is_known = matches!(scheme, "stun" | "stuns" | "turn" | "turns");
        // it is written into a header, between < and >
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]?=&%".contains(&byte);
        if is_known && !rest.is_empty() && rest.bytes().all(is_plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid)
        }
    }
}

impl fmt::Display for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stun_and_turn_are_ice_servers_and_nothing_leads_out_of_a_header() {
        for good in ["stun:stun.example.net", "turn:192.0.2.1:3478?transport=udp", "stuns:[2001:db8::1]:5349"] {
            assert_eq!(good.parse::<IceServer>().unwrap().to_string(), good);
        }
        for bad in ["", "stun:", "https://example.net", "stun:a>; rel=x", "stun:a b", "stun:a\r\n"] {
            assert_eq!(bad.parse::<IceServer>(), Err(Invalid), "{bad:?}");
        }
    }
}
