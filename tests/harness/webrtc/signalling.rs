//! The HTTP of WHIP (RFC 9725) and WHEP (draft-ietf-wish-whep).

use std::{collections::BTreeMap, fmt, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use reqwest::{Client, Method, RequestBuilder, Url};

use crate::http::install_crypto;

/// Longer than anything that is asked for may take, `?wait=` included.
const TIMEOUT: Duration = Duration::from_secs(60);

/// An answer, read whole; the names of headers are in lower case.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// The answer to an offer, when it is not 201.
#[derive(Clone, Debug)]
pub struct Refused(pub Answer);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the offer was answered {} {}", self.0.status, self.0.body)
    }
}

impl std::error::Error for Refused {}

/// Where a session is ended and changed.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    client: Client,
    url: Url,
    token: Option<String>,
}

/// Posts an offer.
pub(super) async fn post(url: &str, offer: &str, token: Option<&str>) -> Result<(Answer, Resource)> {
    install_crypto();
    let client = Client::builder().timeout(TIMEOUT).no_proxy().build()?;
    let url: Url = url.parse().with_context(|| format!("{url} is no URL"))?;
    let mut request = client.post(url.clone()).header("content-type", "application/sdp").body(offer.to_owned());
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = send(request).await?;
    if answer.status != 201 {
        return Err(Refused(answer).into());
    }
    let location = answer.headers.get("location").context("the answer has no Location")?;
    let resource = Resource { client, url: url.join(location)?, token: token.map(str::to_owned) };
    Ok((answer, resource))
}

impl Resource {
    pub(super) async fn delete(&self) -> Result<Answer> {
        send(self.request(Method::DELETE)).await
    }

    pub(super) async fn patch(&self, fragment: &str, if_match: Option<&str>) -> Result<Answer> {
        let mut request = self.request(Method::PATCH).header("content-type", "application/trickle-ice-sdpfrag");
        if let Some(tag) = if_match {
            request = request.header("if-match", tag);
        }
        send(request.body(fragment.to_owned())).await
    }

    fn request(&self, method: Method) -> RequestBuilder {
        let request = self.client.request(method, self.url.clone());
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

async fn send(request: RequestBuilder) -> Result<Answer> {
    let mut response = request.send().await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    let headers = response.headers().iter();
    let headers =
        headers.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    Ok(Answer { status: response.status().as_u16(), headers: headers.collect(), body: String::from_utf8(bytes)? })
}

/// The first candidate of TCP in an answer.
pub(super) fn tcp_candidate(answer: &str) -> Option<SocketAddr> {
    answer.lines().filter_map(|line| line.strip_prefix("a=candidate:")).find_map(|candidate| {
        let fields: Vec<_> = candidate.split_ascii_whitespace().collect();
        match fields.as_slice() {
            [_, _, transport, _, ip, port, ..] if transport.eq_ignore_ascii_case("tcp") => {
                Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
            }
            _ => None,
        }
    })
}
