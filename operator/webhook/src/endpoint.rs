//! A hook URL that may be called. Which hosts may be called at all is decided here, and nowhere else.

use std::fmt;

use tallylight_crds::{HookUrlSource, InvalidHookUrl, hook_url};
use url::Url;

/// A hook URL that passed the rules. Shows its origin only: path, query and user may carry a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    /// Parses a hook URL.
    ///
    /// # Errors
    /// When the text is no hook URL; the error does not repeat it.
    pub fn parse(text: &str, source: HookUrlSource) -> Result<Self, InvalidHookUrl> {
        Ok(Self(hook_url(text, source)?))
    }

    /// The URL to call, with everything that must not be shown.
    pub(crate) fn expose(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.origin().ascii_serialization())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_shows_its_origin_only() {
        let endpoint =
            Endpoint::parse("https://user:pass@h.example:8443/tok/en?key=s3", HookUrlSource::Secret).unwrap();
        assert_eq!(endpoint.to_string(), "https://h.example:8443");
        assert_eq!(format!("{endpoint:?}"), "Endpoint(https://h.example:8443)");
    }

    #[test]
    fn an_error_does_not_repeat_the_url() {
        let error = Endpoint::parse("https://user:pass@h.example/", HookUrlSource::Spec).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("pass@"), "{error}");
    }
}
