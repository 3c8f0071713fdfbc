//! Where REST is served, for media nodes that pass requests on to it.

use std::{fmt, str::FromStr};

use axum::http::{
    Uri,
    uri::{Authority, Scheme},
};

/// Port of a URL that names none.
const HTTP_PORT: u16 = 80;

/// Host and port of a REST API that is reached by plain HTTP inside a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream(Authority);

/// It is no URL of the form `http://HOST:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be http://HOST or http://HOST:PORT, without a path or a password")]
pub struct InvalidUpstream;

impl Upstream {
    /// A name, or an IP address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host().trim_start_matches('[').trim_end_matches(']')
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(HTTP_PORT)
    }
}

impl FromStr for Upstream {
    type Err = InvalidUpstream;

    fn from_str(text: &str) -> Result<Self, InvalidUpstream> {
        let uri: Uri = text.parse().map_err(|_no_url| InvalidUpstream)?;
        let is_bare = uri.scheme() == Some(&Scheme::HTTP) && uri.path() == "/" && uri.query().is_none();
        // A port that is none would be read as port 80.
        let is_whole = |authority: &&Authority| {
            let after_host = authority.as_str().strip_prefix(authority.host());
            after_host.is_some_and(|rest| rest.is_empty() || authority.port_u16().is_some())
        };
        let authority = uri.authority().filter(is_whole).filter(|authority| is_bare && !authority.host().is_empty());
        authority.cloned().map(Self).ok_or(InvalidUpstream)
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_a_host_and_a_port() {
        for (text, host, port) in [
            ("http://tallylight-operator.media.svc:5080", "tallylight-operator.media.svc", 5080),
            ("http://127.0.0.1:1", "127.0.0.1", 1),
            ("http://[fd00::1]:5080/", "fd00::1", 5080),
            ("http://operator", "operator", 80),
        ] {
            let upstream: Upstream = text.parse().unwrap();
            assert_eq!((upstream.host(), upstream.port()), (host, port), "{text}");
            assert_eq!(upstream.to_string().parse(), Ok(upstream), "{text}");
        }
    }

    #[test]
    fn what_says_more_or_less_is_refused() {
        for text in [
            "",
            "operator:5080",
            "https://operator",
            "http://",
            "http://operator/rest",
            "http://operator/?a",
            "http://user:secret@operator",
            "http://operator:99999",
            "http://operator:",
        ] {
            assert_eq!(text.parse::<Upstream>(), Err(InvalidUpstream), "{text}");
        }
    }
}
