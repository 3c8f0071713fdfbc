//! A plain HTTP client for the REST API, health checks and metrics.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::{Client, Method};
use serde_json::Value;

/// Longer than anything that is asked for may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Makes ring the cryptography of this process. Safe to call again.
pub fn install_crypto() {
    // An error says that it was installed before.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// An answer, read whole.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// # Errors
    /// When the body is not JSON; with the body.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {} {}", self.status, self.body))
    }
}

/// Sends a request to `http://<address><path>`, with a JSON body when there is one.
///
/// # Errors
/// When there is no answer.
pub async fn request(method: Method, address: &str, path: &str, body: Option<&str>) -> Result<Answer> {
    request_as(None, method, address, path, body).await
}

/// Sends a request as [`request`] does, with a bearer token when there is one.
///
/// # Errors
/// When there is no answer.
pub async fn request_as(
    token: Option<&str>,
    method: Method,
    address: &str,
    path: &str,
    body: Option<&str>,
) -> Result<Answer> {
    install_crypto();
    let client = Client::builder().timeout(TIMEOUT).no_proxy().build()?;
    let mut request = client.request(method, format!("http://{address}{path}"));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_owned());
    }
    let mut response = request.send().await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(Answer { status: response.status().as_u16(), body: String::from_utf8(bytes)? })
}

/// # Errors
/// When there is no answer.
pub async fn get(address: &str, path: &str) -> Result<Answer> {
    request(Method::GET, address, path, None).await
}

/// # Errors
/// When there is no answer.
pub async fn post(address: &str, path: &str, body: &str) -> Result<Answer> {
    request(Method::POST, address, path, Some(body)).await
}

/// Returns the sum of a metric over its labels, from Prometheus text: `None` when it is not exported.
#[must_use]
pub fn metric(text: &str, name: &str) -> Option<f64> {
    let values: Vec<f64> = text
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}
