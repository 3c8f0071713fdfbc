//! How and where a Broadcast's events are sent: its own settings over its MediaPool's.

use std::time::Duration;

use tallylight_crds::{
    Action, Broadcast, ContentType, HookUrlSource, Hooks, InvalidHookUrl, MediaPoolSpec, SecretKeyRef, StreamDefaults,
};

use crate::{endpoint::Endpoint, verdict::Failure};

/// Deadline of a request when neither Broadcast nor MediaPool sets one: long enough for a cold receiver behind a balancer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a delivery needs to know, every default decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The application that the receiver is told.
    pub app: String,
    /// Where events go; without one they are settled unsent.
    pub endpoint: Option<Endpoint>,
    pub content_type: ContentType,
    /// From connect to the last byte of the answer that is read.
    pub timeout: Duration,
    /// Actions that are sent; `None` for those that are sent by default.
    pub actions: Option<Vec<Action>>,
}

/// Why settings cannot be had now. The delivery is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("the MediaPool that spec.pool names does not exist; create it")]
    PoolMissing,
    #[error("the Secret that hooks.urlSecretRef names, or its key, does not exist; create it")]
    SecretMissing,
    #[error("the hook URL {0}")]
    InvalidUrl(#[from] InvalidHookUrl),
    /// The store, or the API server, gave no answer.
    #[error("the settings could not be read")]
    Unavailable,
}

impl ResolveError {
    pub(crate) fn failure(self) -> Failure {
        match self {
            Self::PoolMissing => Failure::PoolMissing,
            Self::SecretMissing => Failure::SecretMissing,
            Self::InvalidUrl(_) => Failure::InvalidUrl,
            Self::Unavailable => Failure::Settings,
        }
    }
}

/// Where a Broadcast's hook URL is written: the caller reads the Secret, if it is one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum UrlSource<'a> {
    Spec(&'a str),
    Secret(&'a SecretKeyRef),
}

/// Finds where the URL is: the Broadcast's own, else the pool's; a Secret before a plain one.
#[must_use]
pub fn url_source<'a>(broadcast: &'a Broadcast, pool: &'a MediaPoolSpec) -> Option<UrlSource<'a>> {
    let spec = &broadcast.spec;
    written(spec.hooks.as_ref(), spec.listener_hook_url.as_deref())
        .or_else(|| written(pool.hooks.as_ref(), pool.listener_hook_url.as_deref()))
}

fn written<'a>(hooks: Option<&'a Hooks>, plain: Option<&'a str>) -> Option<UrlSource<'a>> {
    let secret = hooks.and_then(|hooks| hooks.url_secret_ref.as_ref()).map(UrlSource::Secret);
    secret.or_else(|| plain.map(UrlSource::Spec))
}

impl Settings {
    /// Settles a Broadcast's settings. `secret` is the text in the Secret that [`url_source`] named, when it named one.
    ///
    /// # Errors
    /// When the URL is in a Secret that there is not, or is none.
    pub fn of(broadcast: &Broadcast, pool: &MediaPoolSpec, secret: Option<&str>) -> Result<Self, ResolveError> {
        let endpoint = match url_source(broadcast, pool) {
            None => None,
            Some(UrlSource::Spec(url)) => Some(Endpoint::parse(url, HookUrlSource::Spec)?),
            Some(UrlSource::Secret(_)) => {
                let url = secret.ok_or(ResolveError::SecretMissing)?;
                // Files and `kubectl create secret --from-file` end in a line feed.
                Some(Endpoint::parse(url.trim_end_matches(['\r', '\n']), HookUrlSource::Secret)?)
            }
        };
        let StreamDefaults { listener_hook_url: _, hooks: defaults } = pool.stream_defaults();
        let hooks = broadcast.spec.hooks.clone().unwrap_or_default().or(&defaults);
        let timeout = hooks.timeout_seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
        Ok(Self {
            app: pool.app.clone(),
            endpoint,
            content_type: hooks.content_type.unwrap_or_default(),
            timeout: timeout.map_or(TIMEOUT, Duration::from_secs),
            actions: hooks.actions,
        })
    }

    /// Whether events with this action are sent.
    #[must_use]
    pub fn sends(&self, action: Action) -> bool {
        action.is_sent(self.actions.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use tallylight_crds::BroadcastSpec;

    use super::*;

    fn key(name: &str) -> SecretKeyRef {
        SecretKeyRef { name: name.into(), key: "url".into() }
    }

    fn secret(name: &str) -> Hooks {
        Hooks { url_secret_ref: Some(key(name)), ..Hooks::default() }
    }

    fn broadcast(url: Option<&str>, hooks: Option<Hooks>) -> Broadcast {
        let spec = BroadcastSpec { listener_hook_url: url.map(Into::into), hooks, ..BroadcastSpec::default() };
        Broadcast::new("b", spec)
    }

    fn pool(url: Option<&str>, hooks: Option<Hooks>) -> MediaPoolSpec {
        MediaPoolSpec {
            app: "LiveApp".into(),
            listener_hook_url: url.map(Into::into),
            hooks,
            ..MediaPoolSpec::default()
        }
    }

    #[test]
    fn a_broadcasts_own_url_comes_first_and_a_secret_before_a_plain_one() {
        let (own, default) = ("http://own/", "http://default/");
        let everything = (broadcast(Some(own), Some(secret("own"))), pool(Some(default), Some(secret("default"))));
        assert_eq!(url_source(&everything.0, &everything.1), Some(UrlSource::Secret(&key("own"))));
        assert_eq!(url_source(&broadcast(Some(own), None), &everything.1), Some(UrlSource::Spec(own)));
        assert_eq!(url_source(&broadcast(None, None), &everything.1), Some(UrlSource::Secret(&key("default"))));
        assert_eq!(url_source(&broadcast(None, None), &pool(Some(default), None)), Some(UrlSource::Spec(default)));
        assert_eq!(url_source(&broadcast(None, None), &pool(None, None)), None);
    }

    #[test]
    fn each_field_is_the_broadcasts_else_the_pools_else_the_default() {
        let pool = pool(None, Some(Hooks { content_type: Some(ContentType::Json), ..Hooks::default() }));
        let own = Hooks { timeout_seconds: Some(3), actions: Some(vec![Action::LiveStreamEnded]), ..Hooks::default() };
        let settings = Settings::of(&broadcast(None, Some(own)), &pool, None).unwrap();
        assert_eq!(settings.content_type, ContentType::Json);
        assert_eq!(settings.timeout, Duration::from_secs(3));
        assert!(settings.sends(Action::LiveStreamEnded) && !settings.sends(Action::LiveStreamStarted));
        let settings = Settings::of(&broadcast(None, None), &MediaPoolSpec::default(), None).unwrap();
        assert_eq!((settings.content_type, settings.timeout, settings.actions), (ContentType::Form, TIMEOUT, None));
    }

    #[test]
    fn a_secret_is_needed_and_may_end_in_a_line_feed() {
        let (broadcast, pool) = (broadcast(None, Some(secret("own"))), pool(None, None));
        assert_eq!(Settings::of(&broadcast, &pool, None), Err(ResolveError::SecretMissing));
        let settings = Settings::of(&broadcast, &pool, Some("https://u:p@h/x\n")).unwrap();
        assert_eq!(settings.endpoint.unwrap().to_string(), "https://h");
        let error = Settings::of(&broadcast, &pool, Some("h.example/?token=s3")).unwrap_err();
        assert!(!error.to_string().contains("s3"), "{error}");
    }
}
