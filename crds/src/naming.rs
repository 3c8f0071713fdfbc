//! From a stream id to the name of its Broadcast, by one pure function, so that a lookup is one GET by name.

use std::{fmt, net::IpAddr};

use sha2::{Digest, Sha256};

/// Longest DNS label, RFC 1123.
const MAX_LABEL: usize = 63;
/// Bytes of readable text kept in a derived name: `x-` + text + `-` + 16 hex digits stay below [`MAX_LABEL`].
const MAX_READABLE: usize = 40;
/// Longest DNS name, RFC 1123.
const MAX_HOST: usize = 253;

/// A stream id as publishers, players and hooks know it: 1 to 253 characters of `A-Z a-z 0-9 _ . -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(String);

/// The text is not a stream id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidStreamId;

impl fmt::Display for InvalidStreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stream id must be 1 to 253 characters of A-Z, a-z, 0-9, '_', '.' and '-'")
    }
}

impl std::error::Error for InvalidStreamId {}

impl StreamId {
    /// Parses a stream id.
    ///
    /// # Errors
    /// When the text is empty, longer than 253 bytes, or holds another character.
    pub fn parse(text: &str) -> Result<Self, InvalidStreamId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if text.is_empty() || text.len() > 253 || !text.bytes().all(allowed) {
            return Err(InvalidStreamId);
        }
        Ok(Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Longest name of an application; the schema's bound too.
const MAX_APP: usize = 63;

/// The text is not the name of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidApp;

impl fmt::Display for InvalidApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an application's name must be 1 to 63 characters of A-Z, a-z, 0-9, '_' and '-'")
    }
}

impl std::error::Error for InvalidApp {}

/// Checks the name of an application by the rule of `MediaPool.spec.app`, for the callers that have no API server to ask.
///
/// # Errors
/// When it breaks the rule: as a path segment it could not be addressed.
pub fn check_app(name: &str) -> Result<(), InvalidApp> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    let fits = (1..=MAX_APP).contains(&name.len()) && name.bytes().all(allowed);
    if fits { Ok(()) } else { Err(InvalidApp) }
}

/// Whether the text is an IP, or a DNS name in lower case: what `MediaPool.spec.nodes.advertiseHost` may be. The last label begins
/// with a letter, so that a mistyped IP is no name.
#[must_use]
pub fn is_host(text: &str) -> bool {
    let is_name = || {
        let top = text.rsplit('.').next().unwrap_or_default();
        text.split('.').all(is_dns_label) && top.starts_with(|first: char| first.is_ascii_lowercase())
    };
    text.len() <= MAX_HOST && (text.parse::<IpAddr>().is_ok() || is_name())
}

/// Names the Broadcast of a stream id: the id itself when it is a DNS label, else readable text plus a hash of the id.
#[must_use]
pub fn object_name(id: &StreamId) -> String {
    if is_dns_label(id.as_str()) {
        return id.as_str().to_owned();
    }
    let readable: String = id
        .as_str()
        .bytes()
        .take(MAX_READABLE)
        .map(|b| match b.to_ascii_lowercase() {
            b'_' | b'.' => '-',
            b => char::from(b),
        })
        .collect();
    let digest = Sha256::digest(id.as_str().as_bytes());
    let hash: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("x-{}-{hash}", readable.trim_matches('-'))
}

/// Whether the text is a DNS label (RFC 1123): the names that a Broadcast may have.
fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edge = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
    let bytes = text.as_bytes();
    bytes.len() <= MAX_LABEL && bytes.iter().all(|b| inner(*b)) && edge(bytes.first()) && edge(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(id: &str) -> String {
        object_name(&StreamId::parse(id).unwrap())
    }

    #[test]
    fn a_dns_label_names_itself() {
        assert_eq!(name("studio-1"), "studio-1");
        assert_eq!(name(&"a".repeat(63)), "a".repeat(63));
    }

    #[test]
    fn any_other_id_gets_a_stable_dns_label_of_its_own() {
        let ids = ["Studio", "studio_1", "studio.1", "-a", "a-", "___", ".", &"b".repeat(64), &"Z".repeat(253)];
        let names: Vec<String> = ids.iter().map(|id| name(id)).collect();
        for n in &names {
            assert!(is_dns_label(n), "{n}");
        }
        let mut unique = names.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        // Written out, because a change of the function would lose every Broadcast that has such an id.
        assert_eq!(name("Studio"), "x-studio-0aa91af2ec4c1fd7");
    }

    #[test]
    fn an_application_is_named_as_a_path_segment_can_be() {
        for name in ["LiveApp", "a", "live_app-2", &"a".repeat(63)] {
            assert_eq!(check_app(name), Ok(()), "{name}");
        }
        for name in ["", "a/b", "a b", "a.b", "é", "a?b", &"a".repeat(64)] {
            assert_eq!(check_app(name), Err(InvalidApp), "{name}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_ip_without_a_port() {
        for host in ["live.example.com", "edge-1", "192.0.2.7", "2001:db8::7", "1.cdn.example", &"a".repeat(63)] {
            assert!(is_host(host), "{host}");
        }
        for other in ["", "a:1935", "192.0.2.7:1", "[::1]", "999.1.1.1", "a..b", "-a", "A.b", "rtmp://a", "a.", "a/b"] {
            assert!(!is_host(other), "{other}");
        }
        assert!(!is_host(&"a".repeat(64)) && !is_host(&format!("{}a", "a.".repeat(127))));
    }

    #[test]
    fn what_is_no_stream_id_is_refused() {
        for id in ["", "a b", "a/b", "ä", "a?key=1", &"c".repeat(254)] {
            assert_eq!(StreamId::parse(id), Err(InvalidStreamId), "{id}");
        }
    }
}
