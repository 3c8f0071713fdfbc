//! Fragments of SDP (RFC 8840), by which a client tells of its own addresses, or asks for new credentials.

use std::fmt;

use super::{Candidate, Error, ICE_LENGTHS, ICE_PASSWORD_LENGTHS, answer::write_candidate, is_ice_char};
use crate::ice::Credentials;

/// A section's name is echoed; names of browsers have one digit.
const MAX_MID: usize = 32;

/// What a client says of its ICE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// Its name in checks, where the fragment says it.
    pub ice_ufrag: Option<String>,
    /// The first section that it is about.
    mid: String,
}

impl Fragment {
    /// Reads a fragment. Candidates are passed over: the client checks us, and is answered where it comes from.
    ///
    /// # Errors
    /// [`Error::Malformed`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (mut ice_ufrag, mut mid) = (None, None);
        for line in text.lines() {
            match line.strip_prefix("a=").and_then(|attribute| attribute.split_once(':')) {
                Some(("ice-ufrag", name)) if ice_ufrag.is_none() => {
                    if !ICE_LENGTHS.contains(&name.len()) || !name.bytes().all(is_ice_char) {
                        return Err(Error::Malformed("its a=ice-ufrag is invalid"));
                    }
                    ice_ufrag = Some(name.to_owned());
                }
                Some(("ice-pwd", password)) if !ICE_PASSWORD_LENGTHS.contains(&password.len()) => {
                    return Err(Error::Malformed("its a=ice-pwd is invalid"));
                }
                Some(("mid", name)) if mid.is_none() => {
                    if name.is_empty() || name.len() > MAX_MID || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                        return Err(Error::Malformed("its a=mid is invalid"));
                    }
                    mid = Some(name.to_owned());
                }
                Some(_) | None => {}
            }
        }
        Ok(Self { ice_ufrag, mid: mid.unwrap_or_else(|| "0".to_owned()) })
    }
}

/// The answer to a restart; `Display` writes it.
#[derive(Debug, Clone, Copy)]
pub struct Restarted<'a> {
    pub fragment: &'a Fragment,
    pub credentials: &'a Credentials,
    /// The best first.
    pub candidates: &'a [Candidate],
}

impl fmt::Display for Restarted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fragment, credentials, candidates } = self;
        write!(f, "a=ice-lite\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:{}\r\n", fragment.mid)?;
        write!(f, "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\n", credentials.ufrag, credentials.password())?;
        for (rank, candidate) in candidates.iter().enumerate() {
            write_candidate(rank, candidate, f)?;
        }
        f.write_str("a=end-of-candidates\r\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Transport;

    #[test]
    fn a_fragment_says_the_peers_name_and_what_is_wrong_with_it() {
        let text = "a=group:BUNDLE 0 1\r\na=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\nm=audio 9 RTP/AVP 0\r\n\
                    a=mid:0\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n";
        assert_eq!(Fragment::parse(text), Ok(Fragment { ice_ufrag: Some("EsAw".to_owned()), mid: "0".to_owned() }));
        assert_eq!(Fragment::parse(""), Ok(Fragment { ice_ufrag: None, mid: "0".to_owned() }));
        for bad in ["a=ice-ufrag:E\r\n", "a=ice-ufrag:\u{e9}\u{e9}\u{e9}\r\n", "a=ice-pwd:short\r\n", "a=mid:a b\r\n"] {
            assert!(matches!(Fragment::parse(bad), Err(Error::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn the_answer_to_a_restart_has_the_new_credentials() {
        let fragment = Fragment::parse("a=mid:7\r\n").unwrap();
        let candidate = Candidate { address: ([192, 0, 2, 1], 9).into(), transport: Transport::Udp };
        let credentials = Credentials::new([1; 40]);
        let answer = Restarted { fragment: &fragment, credentials: &credentials, candidates: &[candidate] };

        let expected = format!(
            "a=ice-lite\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:7\r\na=ice-ufrag:BBBBBBBB\r\na=ice-pwd:{}\r\n\
             a=candidate:1 1 udp 2130706431 192.0.2.1 9 typ host\r\na=end-of-candidates\r\n",
            "B".repeat(32)
        );
        assert_eq!(answer.to_string(), expected);
    }
}
