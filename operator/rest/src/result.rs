//! Ant Media Server's answer to what did not work, and how much of a request is read: for the routes, and for whoever stands in
//! front of them.

use std::time::Duration;

use axum::{
    Json,
    body::{Body, Bytes, to_bytes},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// Largest body of a request: fifty times what a full one takes. A larger one is a 413.
pub(crate) const MAX_BODY: usize = 64 * 1024;
/// Longest wait for a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    success: bool,
    message: Option<&'a str>,
    data_id: Option<&'a str>,
    error_id: i32,
}

/// Answers with this status and why.
#[must_use]
pub fn fail(status: StatusCode, message: &str) -> Response {
    (status, Json(Answer { success: false, message: Some(message), data_id: None, error_id: 0 })).into_response()
}

/// Answers that it was done.
pub(crate) fn done(message: Option<&str>, data_id: Option<&str>) -> Response {
    Json(Answer { success: true, message, data_id, error_id: 0 }).into_response()
}

/// Answers that it was not done, with the status that Ant Media Server has for that: 200.
pub(crate) fn undone(message: &str) -> Response {
    fail(StatusCode::OK, message)
}

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It has more than 64 KiB, or broke off.
    Large,
    /// It did not arrive within 10 s.
    Slow,
}

/// Reads a request's body.
///
/// # Errors
/// When it is larger than 64 KiB, or does not arrive within 10 s.
pub async fn read_body(body: Body) -> Result<Bytes, Unread> {
    let read = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY)).await;
    read.map_err(|_elapsed| Unread::Slow)?.map_err(|_too_large| Unread::Large)
}

impl IntoResponse for Unread {
    fn into_response(self) -> Response {
        match self {
            Self::Large => fail(StatusCode::PAYLOAD_TOO_LARGE, "the body must be at most 65536 bytes"),
            Self::Slow => fail(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
        }
    }
}
