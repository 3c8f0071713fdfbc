//! A receiver of hooks that prints each one.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    routing::post,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{http, standalone::announce::print};

/// Longest body that is read. Ours are under 64 KiB: metadata is the largest part.
const MAX_BODY: usize = 256 << 10;

/// The receiver, bound to a free port of the loopback.
#[derive(Debug)]
pub(in crate::standalone) struct Receiver {
    listener: TcpListener,
    address: SocketAddr,
}

#[derive(Clone)]
struct Printer {
    count: Arc<AtomicUsize>,
    start: Instant,
}

impl Receiver {
    pub(super) async fn bind() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// The hook URL.
    pub(in crate::standalone) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Prints hooks until cancelled.
    pub(in crate::standalone) async fn run(self, start: Instant, until: CancellationToken) {
        let printer = Printer { count: Arc::default(), start };
        let routes = Router::new().route("/hook", post(take)).layer(DefaultBodyLimit::max(MAX_BODY));
        http::serve(self.listener, routes.with_state(printer), until).await;
    }
}

async fn take(State(printer): State<Printer>, headers: HeaderMap, body: String) -> StatusCode {
    let number = printer.count.fetch_add(1, Ordering::Relaxed) + 1;
    print(&block(number, printer.start.elapsed(), &headers, &body));
    StatusCode::OK
}

/// One hook as text: a heading, then a line a field.
fn block(number: usize, since_start: Duration, headers: &HeaderMap, body: &str) -> String {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("no content type");
    let heading = format!("── hook {number}, {:.1} s after the start ", since_start.as_secs_f64());
    let mut text = format!("\n{heading:─<72}\nPOST /hook   {content_type}\n");
    if content_type.starts_with("application/x-www-form-urlencoded") {
        for (name, value) in form_urlencoded::parse(body.as_bytes()) {
            text += &format!("  {name:<12} {value}\n");
        }
    } else {
        text += &format!("  {body}\n");
    }
    text += &format!("{:─<72}\n\n", "");
    text
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_form_is_printed_decoded_with_a_line_a_field() {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded; charset=UTF-8");
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, form)]);

        let text = block(2, Duration::from_millis(1_500), &headers, "action=liveStreamStarted&id=a%20b");

        assert!(text.contains("hook 2, 1.5 s"), "{text}");
        assert!(text.contains("\n  action       liveStreamStarted\n  id           a b\n"), "{text}");
    }
}
