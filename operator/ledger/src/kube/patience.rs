//! Asks nothing of an API server that has asked for patience. Whoever asks waits here, within its own deadline.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode, header::RETRY_AFTER};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tokio::time::{Instant, sleep_until};
use tower::{Service, layer::layer_fn};

/// Longest wait that is granted, about the longest that the API server asks for (32 s).
const LONGEST: Duration = Duration::from_secs(30);

/// Leases are asked for all the same: they are few, and one that runs out costs a new leader with new lists, or every session of
/// a node.
const EXEMPT: &str = "/apis/coordination.k8s.io/";

/// Makes a client whose requests wait while the API server has asked for it: by 429 or 503 with `Retry-After`, for at most 30 s.
/// Leases do not wait.
///
/// # Errors
/// When the configuration is not one of a cluster.
pub fn patient_client(config: Config) -> kube::Result<Client> {
    let patience = Patience::default();
    let layer = layer_fn(move |inner| Patient { inner, patience: patience.clone() });
    Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
}

/// Until when nothing is asked. Clones share it.
#[derive(Clone, Default)]
struct Patience(Arc<Mutex<Option<Instant>>>);

impl Patience {
    async fn wait(&self) {
        while let Some(until) = self.until(Instant::now()) {
            sleep_until(until).await;
        }
    }

    fn hear(&self, status: StatusCode, headers: &HeaderMap, now: Instant) {
        if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return;
        }
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let Some(asked) = seconds.map(Duration::from_secs) else { return };
        let until = now + asked.min(LONGEST);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = (*known).max(Some(until));
    }

    fn until(&self, now: Instant) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).filter(|until| now < *until)
    }
}

struct Patient<S> {
    inner: S,
    patience: Patience,
}

impl<S, B> Service<Request<Body>> for Patient<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let patience = self.patience.clone();
        let waits = !request.uri().path().starts_with(EXEMPT);
        // Nothing is sent before it is polled.
        let answer = self.inner.call(request);
        Box::pin(async move {
            if !waits {
                // Nor do the others wait for what it hears: it is asked often, and would put them off for ever.
                return answer.await;
            }
            patience.wait().await;
            let answer = answer.await?;
            patience.hear(answer.status(), answer.headers(), Instant::now());
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For how many seconds nothing is asked after this answer.
    fn pause(status: u16, retry_after: &'static str) -> u64 {
        let (patience, now) = (Patience::default(), Instant::now());
        let headers = HeaderMap::from_iter([(RETRY_AFTER, retry_after.parse().unwrap())]);
        patience.hear(StatusCode::from_u16(status).unwrap(), &headers, now);
        patience.until(now).map_or(0, |until| (until - now).as_secs())
    }

    #[test]
    fn nothing_is_asked_before_the_time_that_the_server_named() {
        assert_eq!((pause(429, "7"), pause(503, "7")), (7, 7));
        assert_eq!(pause(429, "86400"), 30, "there is an end to patience");
    }

    #[test]
    fn what_nobody_put_off_is_asked_at_once() {
        assert_eq!((pause(200, "7"), pause(500, "7")), (0, 0));
        assert_eq!((pause(429, "soon"), pause(429, "-1"), pause(429, "0")), (0, 0, 0));
    }

    #[test]
    fn of_two_answers_the_longer_wait_counts_and_both_end() {
        let (patience, now) = (Patience::default(), Instant::now());
        for seconds in ["9", "1"] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, seconds.parse().unwrap())]);
            patience.hear(StatusCode::TOO_MANY_REQUESTS, &headers, now);
        }
        let end = now + Duration::from_secs(9);
        assert_eq!(patience.until(now), Some(end));
        assert_eq!(patience.until(end), None);
    }
}
