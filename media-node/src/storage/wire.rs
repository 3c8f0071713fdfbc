//! What passes between `object_store` and the network. Answers that are errors become typed ones, with the code that S3 gives
//! them; requests that make an object get the ACL, and are signed anew with it.

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use async_trait::async_trait;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header::AUTHORIZATION};
use futures::StreamExt;
use object_store::{
    ClientOptions,
    aws::{AwsAuthorizer, AwsCredentialProvider},
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
        ReqwestConnector,
    },
};

/// Most bytes of an error's body that are looked at; the code is in the first few.
const MAX_ERROR: usize = 16 << 10;
const DIGEST: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const ACL: HeaderName = HeaderName::from_static("x-amz-acl");

/// An answer that is an error.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// As S3 spells it; empty in an answer without a body, or with one that is not of S3.
    pub(super) code: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code.as_str() {
            "" => write!(f, "status {}", self.status.as_u16()),
            code => write!(f, "{code}, status {}", self.status.as_u16()),
        }
    }
}

/// How objects are made others' than the bucket's settings say.
#[derive(Clone, Debug)]
pub(super) struct Acl {
    pub(super) value: HeaderValue,
    pub(super) region: String,
    /// Known once the client is made.
    pub(super) credentials: Arc<OnceLock<AwsCredentialProvider>>,
}

/// Makes the client. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    acl: Option<Acl>,
    made: Arc<Mutex<Option<HttpClient>>>,
}

impl Wire {
    pub(super) fn new(acl: Option<Acl>) -> Self {
        Self { acl, made: Arc::default() }
    }

    /// The client that was made last: those before it ask for credentials.
    pub(super) fn client(&self) -> Option<HttpClient> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl HttpConnector for Wire {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        let client = HttpClient::new(Client { inner, acl: self.acl.clone() });
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }
}

#[derive(Debug)]
struct Client {
    inner: HttpClient,
    acl: Option<Acl>,
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if let Some(acl) = self.acl.as_ref().filter(|_| makes_an_object(&request)) {
            acl.add(&mut request).await.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        }
        let response = self.inner.execute(request).await?;
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let code = code(&read(response.into_body()).await);
        Err(HttpError::new(HttpErrorKind::Unknown, Answer { status, code }))
    }
}

impl Acl {
    async fn add(&self, request: &mut HttpRequest) -> object_store::Result<()> {
        let Some(credentials) = self.credentials.get() else { return Ok(()) };
        let credential = credentials.get_credential().await?;
        request.headers_mut().insert(ACL, self.value.clone());
        request.headers_mut().remove(AUTHORIZATION);
        // said when it was signed first: of a body in pieces it would be said that it is signed piece by piece
        let digest = request.headers().get(DIGEST).and_then(digest);
        AwsAuthorizer::new(&credential, "s3", &self.region).try_authorize(request, digest.as_deref())
    }
}

/// The bytes of a digest in hexadecimal digits; `None` for what is none.
fn digest(text: &HeaderValue) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    pairs.collect()
}

/// Whether it puts an object, or begins an upload of one. Requests for credentials bear no authorization.
fn makes_an_object(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let begins =
        request.method() == Method::POST && query.split('&').any(|part| matches!(part, "uploads" | "uploads="));
    let puts = request.method() == Method::PUT && !query.contains("partNumber=");
    request.headers().contains_key(AUTHORIZATION) && (begins || puts)
}

async fn read(body: HttpResponseBody) -> Vec<u8> {
    let (mut stream, mut bytes) = (body.bytes_stream(), Vec::new());
    while let Some(Ok(chunk)) = stream.next().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() >= MAX_ERROR {
            break;
        }
    }
    bytes
}

/// The code in S3's document of an error.
fn code(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code.trim());
    let is_code =
        |code: &&str| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    code.filter(is_code).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_and_nothing_else_is_taken_for_one() {
        assert_eq!(digest(&HeaderValue::from_static("00ff7a")), Some(vec![0, 255, 122]));
        assert_eq!(digest(&HeaderValue::from_static("UNSIGNED-PAYLOAD")), None);
    }

    #[test]
    fn the_code_of_an_error_is_found_and_nothing_else_is_taken_for_one() {
        let document = b"<?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code><Message>m</Message></Error>";
        assert_eq!(code(document), "NoSuchBucket");
        assert_eq!(code(b"<html>not found</html>"), "");
        assert_eq!(code(b"<Code><script></Code>"), "");
        assert_eq!(code(b""), "");
    }
}
