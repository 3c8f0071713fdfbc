//! Answers to players: which headers they have, and bodies that are not copied.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, atomic::AtomicU64},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{
            ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG,
            IF_NONE_MATCH, RETRY_AFTER, VARY,
        },
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;

use super::query;
use crate::{metrics::HlsRefusal, packager::Text, storage};

pub(in crate::playback) const PLAYLIST: HeaderValue = HeaderValue::from_static(storage::playlist::PLAYLIST);
/// MP4 in whole, or in segments and parts.
pub(in crate::playback) const MEDIA: HeaderValue = HeaderValue::from_static(storage::playlist::MEDIA);
/// A name of media is never taken again.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// A stream may begin, or media come, at any time.
const A_MOMENT: HeaderValue = HeaderValue::from_static("public, max-age=1");
const NOT_AT_ALL: HeaderValue = HeaderValue::from_static("no-store");
/// When somebody who came too early may ask again, in seconds.
const SOON: HeaderValue = HeaderValue::from_static("2");

/// What a CDN may do with a playlist (RFC 8216bis, appendix B): one that was awaited stays what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Half a target duration.
    Briefly(Duration),
    /// Six target durations.
    Long(Duration),
}

impl Kept {
    pub(crate) fn header(self) -> HeaderValue {
        let seconds = match self {
            Self::Briefly(target) => target.as_secs() / 2,
            Self::Long(target) => target.as_secs() * 6,
        };
        format!("public, max-age={}", seconds.max(1)).try_into().unwrap_or(A_MOMENT)
    }
}

/// A file: its bytes, in as many pieces as they were made in.
#[derive(Clone, Debug)]
pub(crate) struct Media {
    pub(crate) tag: String,
    pub(crate) chunks: Arc<[Bytes]>,
}

/// Why a player does not get what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No such application, stream or file; or the stream is not live.
    NotLive,
    /// A file that the playlist does not name, or no longer.
    NoSuchFile,
    /// More is asked for than can come soon.
    TooFar,
    Query(query::Invalid),
    /// What was awaited has not come in time.
    Late,
    /// The node that has the stream does not answer.
    Unreachable,
    /// Too much is under way.
    Busy,
}

impl Refusal {
    /// As it is counted.
    pub(crate) fn label(self) -> HlsRefusal {
        match self {
            Self::NotLive => HlsRefusal::NotLive,
            Self::NoSuchFile => HlsRefusal::NoSuchFile,
            Self::TooFar => HlsRefusal::TooFar,
            Self::Query(_) => HlsRefusal::BadQuery,
            Self::Late => HlsRefusal::Late,
            Self::Unreachable => HlsRefusal::Unreachable,
            Self::Busy => HlsRefusal::Busy,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text, kept) = match self {
            Self::NotLive => (StatusCode::NOT_FOUND, "the stream is not live".to_owned(), A_MOMENT),
            Self::NoSuchFile => (StatusCode::NOT_FOUND, "the playlist names no such file".to_owned(), A_MOMENT),
            Self::TooFar => {
                (StatusCode::BAD_REQUEST, "_HLS_msn or _HLS_part is too far ahead of the stream".to_owned(), A_MOMENT)
            }
            Self::Query(invalid) => (StatusCode::BAD_REQUEST, invalid.to_string(), A_MOMENT),
            Self::Late => (StatusCode::SERVICE_UNAVAILABLE, "the stream does not go on".to_owned(), NOT_AT_ALL),
            Self::Unreachable => {
                (StatusCode::SERVICE_UNAVAILABLE, "the stream cannot be had from its node".to_owned(), NOT_AT_ALL)
            }
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "too many requests are under way".to_owned(), NOT_AT_ALL),
        };
        let mut response = (status, [(CACHE_CONTROL, kept)], text + "\n").into_response();
        match self {
            Self::NotLive | Self::Late | Self::Unreachable | Self::Busy => {
                response.headers_mut().insert(RETRY_AFTER, SOON);
            }
            Self::NoSuchFile | Self::TooFar | Self::Query(_) => {}
        }
        response
    }
}

/// A playlist, or that the player has it.
pub(crate) fn playlist(text: &Text, kept: HeaderValue, asked: &HeaderMap, sent: &Counter<u64, AtomicU64>) -> Response {
    let zipped = takes_gzip(asked);
    let tag = if zipped { format!("\"{}-gzip\"", text.tag) } else { format!("\"{}\"", text.tag) };
    let mut response = if has(asked, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let bytes = if zipped { &text.gzip } else { &text.plain };
        let mut response = Response::new(body([bytes.clone()].into(), sent));
        response.headers_mut().insert(CONTENT_TYPE, PLAYLIST);
        if zipped {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, kept);
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    insert_tag(headers, &tag);
    response
}

/// A file, or that the player has it.
pub(crate) fn media(media: &Media, asked: &HeaderMap, sent: &Counter<u64, AtomicU64>) -> Response {
    let tag = format!("\"{}\"", media.tag);
    let mut response = if has(asked, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = Response::new(body(Arc::clone(&media.chunks), sent));
        response.headers_mut().insert(CONTENT_TYPE, MEDIA);
        response
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, FOR_EVER);
    insert_tag(headers, &tag);
    response
}

/// What a browser asks before it asks for more than it may without.
pub(crate) async fn preflight() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Lets pages of any origin read an answer: whoever may reach a stream may play it.
pub(crate) fn open_to_pages(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, OPTIONS"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*"));
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("Age, Content-Length, Date, ETag, Retry-After"),
    );
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

fn insert_tag(headers: &mut HeaderMap, tag: &str) {
    // digits, letters, dots and dashes of ours
    if let Ok(tag) = tag.try_into() {
        headers.insert(ETAG, tag);
    }
}

pub(in crate::playback) fn has(asked: &HeaderMap, tag: &str) -> bool {
    let known = asked.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    known.flat_map(|value| value.split(',')).any(|known| {
        let known = known.trim();
        known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag
    })
}

pub(in crate::playback) fn takes_gzip(asked: &HeaderMap) -> bool {
    let codings = asked.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    codings.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let is_refused =
            parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.trim_matches(['0', '.']).is_empty()));
        is_gzip && !is_refused
    })
}

fn body(chunks: Arc<[Bytes]>, sent: &Counter<u64, AtomicU64>) -> Body {
    let left = chunks.iter().map(|chunk| chunk.len() as u64).sum();
    Body::new(Chunks { chunks, next: 0, left, sent: sent.clone() })
}

/// Pieces of media, sent as they are.
struct Chunks {
    chunks: Arc<[Bytes]>,
    next: usize,
    left: u64,
    sent: Counter<u64, AtomicU64>,
}

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(chunk) = self.chunks.get(self.next).cloned() else { return Poll::Ready(None) };
        self.next += 1;
        let length = chunk.len() as u64;
        self.left -= length;
        self.sent.inc_by(length);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(header: axum::http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header, value.parse().unwrap())])
    }

    #[test]
    fn playlists_are_compressed_for_those_who_say_that_they_can_read_it() {
        for (value, expected) in
            [("gzip", true), ("br, GZIP;q=0.5", true), ("gzip;q=0", false), ("gzip; q=0.0", false), ("br", false)]
        {
            assert_eq!(takes_gzip(&asked(ACCEPT_ENCODING, value)), expected, "{value}");
        }
    }

    #[test]
    fn who_has_it_is_told_so() {
        for (value, expected) in
            [("\"a\"", true), ("\"b\", W/\"a\"", true), ("*", true), ("\"b\"", false), ("a", false)]
        {
            assert_eq!(has(&asked(IF_NONE_MATCH, value), "\"a\""), expected, "{value}");
        }
    }

    #[test]
    fn what_was_awaited_is_kept_for_longer() {
        let target = Duration::from_secs(4);
        assert_eq!(Kept::Briefly(target).header(), "public, max-age=2");
        assert_eq!(Kept::Long(target).header(), "public, max-age=24");
    }
}
