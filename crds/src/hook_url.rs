//! What a hook URL may be: the rules that CEL holds for `listenerHookURL`, for the callers that have no API server to ask.

use url::Url;

/// Longest hook URL, in bytes; the schema's bound too.
pub const MAX_HOOK_URL: usize = 2048;

/// Where a hook URL was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookUrlSource {
    /// In a spec, which many may read: no user name or password.
    Spec,
    /// In a Secret: it may carry a user name and a password.
    Secret,
}

/// Why a text is no hook URL. The text itself is never repeated: it may carry a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidHookUrl {
    TooLong,
    NotAbsolute,
    Scheme,
    Host,
    Port,
    Fragment,
    User,
}

impl std::fmt::Display for InvalidHookUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TooLong => "must be at most 2048 bytes",
            Self::NotAbsolute => "must be an absolute URL",
            Self::Scheme => "must have scheme http or https",
            Self::Host => "must have a host",
            Self::Port => "must have a port from 1 to 65535, or none",
            Self::Fragment => "must not have a fragment",
            Self::User => {
                "must not contain a user name or password; keep the URL in a Secret and name it in hooks.urlSecretRef"
            }
        })
    }
}

impl std::error::Error for InvalidHookUrl {}

/// Parses a hook URL.
///
/// # Errors
/// When it breaks a rule; which one is safe to show.
pub fn hook_url(text: &str, source: HookUrlSource) -> Result<Url, InvalidHookUrl> {
    if text.len() > MAX_HOOK_URL {
        return Err(InvalidHookUrl::TooLong);
    }
    // The URL standard repairs what it can (spaces around, tabs inside, one slash for two); a spec's reader does not.
    if text.bytes().any(|b| b.is_ascii_control() || matches!(b, b' ' | b'\\')) {
        return Err(InvalidHookUrl::NotAbsolute);
    }
    let (scheme, rest) = text.split_once("://").ok_or(InvalidHookUrl::NotAbsolute)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(InvalidHookUrl::Scheme);
    }
    if text.contains('#') {
        return Err(InvalidHookUrl::Fragment);
    }
    if rest.is_empty() || rest.starts_with(['/', '?', ':', '@']) {
        return Err(InvalidHookUrl::Host);
    }
    let url = Url::parse(text).map_err(|error| match error {
        url::ParseError::InvalidPort => InvalidHookUrl::Port,
        url::ParseError::EmptyHost
        | url::ParseError::InvalidDomainCharacter
        | url::ParseError::IdnaError
        | url::ParseError::InvalidIpv4Address
        | url::ParseError::InvalidIpv6Address => InvalidHookUrl::Host,
        _ => InvalidHookUrl::NotAbsolute,
    })?;
    let has_user = rest.split(['/', '?']).next().is_some_and(|authority| authority.contains('@'));
    if has_user && source == HookUrlSource::Spec {
        return Err(InvalidHookUrl::User);
    }
    if url.port() == Some(0) {
        return Err(InvalidHookUrl::Port);
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Result<Url, InvalidHookUrl> {
        hook_url(text, HookUrlSource::Spec)
    }

    #[test]
    fn what_the_schema_takes_is_taken() {
        for text in [
            "http://www.example.com/webhook",
            "HTTPS://example.com",
            "http://127.0.0.1:8080/a?b=c&d=%20",
            "https://[::1]:9/x",
            "http://example.com/a@b",
            "http://example.com?mail=a@b",
        ] {
            assert!(spec(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn each_broken_rule_is_named() {
        let long = format!("http://h/{}", "a".repeat(MAX_HOOK_URL));
        for (text, wrong) in [
            ("", InvalidHookUrl::NotAbsolute),
            ("/webhook", InvalidHookUrl::NotAbsolute),
            ("http:/example.com", InvalidHookUrl::NotAbsolute),
            (" http://example.com", InvalidHookUrl::NotAbsolute),
            ("http://exa\tmple.com", InvalidHookUrl::NotAbsolute),
            ("http:\\\\example.com", InvalidHookUrl::NotAbsolute),
            ("ftp://example.com", InvalidHookUrl::Scheme),
            ("http://", InvalidHookUrl::Host),
            ("http:///path", InvalidHookUrl::Host),
            ("http://:80/", InvalidHookUrl::Host),
            ("http://[::1/", InvalidHookUrl::Host),
            ("http://h:70000/", InvalidHookUrl::Port),
            ("http://h:0/", InvalidHookUrl::Port),
            ("http://h/#x", InvalidHookUrl::Fragment),
            ("http://u:p@h/", InvalidHookUrl::User),
            ("http://u@h/", InvalidHookUrl::User),
            (&long, InvalidHookUrl::TooLong),
        ] {
            assert_eq!(spec(text), Err(wrong), "{text}");
        }
    }

    #[test]
    fn only_a_secret_may_hold_a_password() {
        assert!(hook_url("http://u:p@h/", HookUrlSource::Secret).is_ok());
        assert_eq!(hook_url("http://@", HookUrlSource::Secret), Err(InvalidHookUrl::Host));
    }
}
