//! Who may call: this machine alone, or whoever has a token.

use std::{fmt, net::SocketAddr};

use axum::http::{HeaderMap, Uri, header, uri::Authority};
use subtle::{Choice, ConstantTimeEq};

/// Fewest characters of a token: below that it can be guessed.
const SHORTEST: usize = 16;

/// Who may call.
#[derive(Debug, Clone)]
pub enum Access {
    /// Programs on this machine. Web pages in a browser on it may not: a page could let hooks be sent into its network.
    LoopbackOnly,
    /// Whoever sends `Authorization: Bearer` with one of these; several, so that one can be replaced without a gap.
    Tokens(Vec<Token>),
}

/// A bearer token. Its `Debug` is `***`.
#[derive(Clone)]
pub struct Token(String);

/// The token is too short, or has characters that a header cannot carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a REST token must be {SHORTEST} or more visible ASCII characters; `openssl rand -hex 32` makes a good one")]
pub struct WeakToken;

impl Token {
    /// Takes a token; white space around it, as files have it, is left out.
    ///
    /// # Errors
    /// When it is shorter than 16 characters, or not visible ASCII.
    pub fn new(text: &str) -> Result<Self, WeakToken> {
        let text = text.trim();
        if text.len() < SHORTEST || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(WeakToken);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotLocal,
    FromAPage,
    NoToken,
}

impl Refusal {
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::NotLocal => "REST has no token configured and so answers this machine only; configure a REST token",
            Self::FromAPage => {
                "REST has no token configured and so answers no web page, and no host name but localhost; configure a REST token"
            }
            Self::NoToken => "the request must carry the REST token: Authorization: Bearer TOKEN",
        }
    }
}

impl Access {
    pub(crate) fn check(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> Result<(), Refusal> {
        match self {
            Self::LoopbackOnly if !peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback()) => {
                Err(Refusal::NotLocal)
            }
            // Who asked a proxy on this machine may be anywhere.
            Self::LoopbackOnly if is_passed_on(headers) => Err(Refusal::NotLocal),
            Self::LoopbackOnly if is_from_a_page(headers) => Err(Refusal::FromAPage),
            Self::LoopbackOnly => Ok(()),
            Self::Tokens(tokens) => match bearer(headers) {
                Some(given) if any(tokens, given) => Ok(()),
                Some(_) | None => Err(Refusal::NoToken),
            },
        }
    }
}

/// Whether a browser sent it for a page: a page of another origin says so in `Origin`, and one whose name was bent to this
/// machine's address says so in `Host`.
fn is_from_a_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host_is_local = text(header::HOST).is_none_or(|host| host.parse().is_ok_and(|host| is_local(&host)));
    let origin_is_local = text(header::ORIGIN)
        .is_none_or(|origin| origin.parse::<Uri>().is_ok_and(|origin| origin.authority().is_some_and(is_local)));
    !host_is_local || !origin_is_local
}

fn is_local(authority: &Authority) -> bool {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    is_loopback || host.eq_ignore_ascii_case("localhost")
}

/// Whether a proxy says that it came from elsewhere, as media nodes do.
fn is_passed_on(headers: &HeaderMap) -> bool {
    headers.contains_key(header::FORWARDED) || headers.contains_key("x-forwarded-for")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Compares with all, and in a time that does not tell how much was right.
fn any(tokens: &[Token], given: &str) -> bool {
    tokens.iter().fold(Choice::from(0), |found, token| found | token.0.as_bytes().ct_eq(given.as_bytes())).into()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn check(access: &Access, peer: &str, headers: &[(HeaderName, &'static str)]) -> Result<(), Refusal> {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        access.check(peer.parse().ok(), &headers)
    }

    #[test]
    fn without_a_token_this_machine_alone_may_call() {
        let access = Access::LoopbackOnly;
        for peer in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(check(&access, peer, &[(header::HOST, "localhost:5080")]), Ok(()), "{peer}");
        }
        for peer in ["10.0.0.1:1", "[2001:db8::1]:1", "0.0.0.0:1"] {
            assert_eq!(check(&access, peer, &[]), Err(Refusal::NotLocal), "{peer}");
        }
        assert_eq!(access.check(None, &HeaderMap::new()), Err(Refusal::NotLocal), "who does not show may not call");
    }

    #[test]
    fn without_a_token_no_web_page_may_call() {
        let local = |headers: &[(HeaderName, &'static str)]| check(&Access::LoopbackOnly, "127.0.0.1:1", headers);
        for host in ["localhost", "LOCALHOST:5080", "127.0.0.1:5080", "[::1]:5080"] {
            assert_eq!(local(&[(header::HOST, host)]), Ok(()), "{host}");
        }
        assert_eq!(local(&[(header::HOST, "evil.example")]), Err(Refusal::FromAPage));
        assert_eq!(local(&[(header::ORIGIN, "https://evil.example")]), Err(Refusal::FromAPage));
        assert_eq!(local(&[(header::ORIGIN, "null")]), Err(Refusal::FromAPage));
        assert_eq!(local(&[(header::ORIGIN, "http://localhost:3000")]), Ok(()));
    }

    #[test]
    fn without_a_token_what_a_proxy_passes_on_is_not_from_this_machine() {
        for name in [header::FORWARDED, HeaderName::from_static("x-forwarded-for")] {
            let passed_on = check(&Access::LoopbackOnly, "127.0.0.1:1", &[(name, "127.0.0.1")]);
            assert_eq!(passed_on, Err(Refusal::NotLocal));
        }
    }

    #[test]
    fn a_token_opens_for_everyone_who_has_it() {
        let tokens = ["0123456789abcdef", "fedcba9876543210\n"].map(|token| Token::new(token).unwrap());
        let access = Access::Tokens(tokens.into());
        let with = |value| check(&access, "10.0.0.1:1", &[(header::AUTHORIZATION, value)]);
        assert_eq!(with("Bearer 0123456789abcdef"), Ok(()));
        assert_eq!(with("bearer fedcba9876543210"), Ok(()));
        for wrong in ["Bearer 0123456789abcde", "Bearer ", "Basic 0123456789abcdef", "0123456789abcdef"] {
            assert_eq!(with(wrong), Err(Refusal::NoToken), "{wrong}");
        }
        assert_eq!(check(&access, "127.0.0.1:1", &[]), Err(Refusal::NoToken), "this machine needs it too");
    }

    #[test]
    fn a_weak_token_is_refused_and_none_is_shown() {
        for weak in ["", "short", "with space in it!", "ünïcödé-ünïcödé-"] {
            assert_eq!(Token::new(weak).err(), Some(WeakToken), "{weak}");
        }
        assert_eq!(format!("{:?}", Token::new("0123456789abcdef").unwrap()), "***");
    }
}
