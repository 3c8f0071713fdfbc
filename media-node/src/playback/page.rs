//! The play page: one page of ours for every stream and file of an application, with what it is made of. It is the same bytes for
//! all; which stream it plays, the page reads from its own address.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, REFERRER_POLICY, VARY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
    routing::get,
};
use ring::digest::{SHA256, digest};

use super::hls::answer::{has, takes_gzip};
use crate::{admission::Apps, packager::Text};

/// Nothing but what this server has, and no text becomes code. Media may be elsewhere: files in a bucket are redirected to. `blob:`
/// is what a page makes of parts. Other pages may frame it: it has no credential, and does nothing but play.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src 'self' blob: http: https:; \
     base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
);
const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");
const NO_SNIFFING: HeaderValue = HeaderValue::from_static("nosniff");
/// Asked for each time, and answered 304: a new release is seen at once.
const FRESH: HeaderValue = HeaderValue::from_static("public, no-cache");
/// Its name has its version in it.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

static PAGE: LazyLock<File> = LazyLock::new(|| File::new(HTML, FRESH, include_str!("../../assets/play/page.html")));
static PAGE_SCRIPT: LazyLock<File> =
    LazyLock::new(|| File::new(SCRIPT, FRESH, include_str!("../../assets/play/page.js")));
static PAGE_STYLE: LazyLock<File> =
    LazyLock::new(|| File::new(STYLE, FRESH, include_str!("../../assets/play/page.css")));
static HLS_JS: LazyLock<File> =
    LazyLock::new(|| File::new(SCRIPT, FOR_EVER, include_str!("../../assets/vendor/hls.js/hls.light.min.js")));
static HLS_JS_LICENSE: LazyLock<File> =
    LazyLock::new(|| File::new(PLAIN, FRESH, include_str!("../../assets/vendor/hls.js/LICENSE")));

/// The routes of the page: `/{app}/play?id=STREAM`, and `/{app}/play.html`, as Ant Media Server has it.
pub(super) fn routes(apps: Apps) -> Router {
    Router::new()
        .route("/{app}/play", get(page))
        .route("/{app}/play.html", get(page))
        .route("/{app}/play/{file}", get(part))
        .with_state(apps)
}

async fn page(State(apps): State<Apps>, Path(app): Path<String>, asked: HeaderMap) -> Response {
    answer(&apps, &app, Some(&PAGE), &asked)
}

async fn part(State(apps): State<Apps>, Path((app, file)): Path<(String, String)>, asked: HeaderMap) -> Response {
    let file = match file.as_str() {
        "page.js" => Some(&PAGE_SCRIPT),
        "page.css" => Some(&PAGE_STYLE),
        "hls-1.7.4.light.min.js" => Some(&HLS_JS),
        "hls-license.txt" => Some(&HLS_JS_LICENSE),
        _ => None,
    };
    answer(&apps, &app, file, &asked)
}

fn answer(apps: &Apps, app: &str, file: Option<&LazyLock<File>>, asked: &HeaderMap) -> Response {
    match file.filter(|_| apps.pool(app).is_some()) {
        Some(file) => file.answer(asked),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A file of the page, with its compression.
struct File {
    kind: &'static str,
    kept: HeaderValue,
    text: Arc<Text>,
}

impl File {
    fn new(kind: &'static str, kept: HeaderValue, text: &'static str) -> Self {
        let hash = digest(&SHA256, text.as_bytes());
        let tag = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { kind, kept, text: Text::new(text, tag) }
    }

    fn answer(&self, asked: &HeaderMap) -> Response {
        let (bytes, tag) = if takes_gzip(asked) {
            (&self.text.gzip, format!("\"{}-gzip\"", self.text.tag))
        } else {
            (&self.text.plain, format!("\"{}\"", self.text.tag))
        };
        let mut response = if has(asked, &tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(CONTENT_TYPE, self.kind)], Body::from(bytes.clone())).into_response()
        };
        let mut set = |name: HeaderName, value: HeaderValue| response.headers_mut().insert(name, value);
        if takes_gzip(asked) {
            set(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Ok(tag) = tag.try_into() {
            set(ETAG, tag); // it is hexadecimal digits
        }
        set(CACHE_CONTROL, self.kept.clone());
        set(VARY, HeaderValue::from_static("Accept-Encoding"));
        set(CONTENT_SECURITY_POLICY, POLICY);
        set(REFERRER_POLICY, NO_REFERRER);
        set(X_CONTENT_TYPE_OPTIONS, NO_SNIFFING);
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::http::header::{ACCEPT_ENCODING, IF_NONE_MATCH};

    use super::*;

    fn asked(headers: &[(HeaderName, &str)]) -> HeaderMap {
        headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_browser_that_has_the_page_is_told_so_and_may_run_nothing_else() {
        let gzip = (ACCEPT_ENCODING, "gzip");
        let first = PAGE.answer(&asked(std::slice::from_ref(&gzip)));
        let tag = first.headers()[ETAG].to_str().unwrap();
        let again = PAGE.answer(&asked(&[gzip, (IF_NONE_MATCH, tag)]));
        let plain = PAGE.answer(&asked(&[(IF_NONE_MATCH, tag)]));

        assert_eq!([first.status(), again.status(), plain.status()], [200, 304, 200]);
        assert_eq!(first.headers()[CONTENT_TYPE], HTML);
        assert_eq!(first.headers()[CONTENT_ENCODING], "gzip");
        assert!(plain.headers().get(CONTENT_ENCODING).is_none());
        for response in [&first, &again, &plain] {
            let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
            assert_eq!(response.headers()[CACHE_CONTROL], "public, no-cache");
        }
    }

    #[test]
    fn the_page_names_files_that_are_served() {
        let page = include_str!("../../assets/play/page.html");
        for name in ["page.js", "page.css", "hls-1.7.4.light.min.js", "hls-license.txt"] {
            assert!(page.contains(&format!("\"play/{name}\"")), "{name}");
        }
    }

    #[test]
    fn an_application_that_is_not_there_has_no_page() {
        let apps = Apps::default();
        apps.set([("LiveApp".to_owned(), "live".to_owned())].into());
        let status = |app, file| answer(&apps, app, file, &HeaderMap::new()).status();

        assert_eq!(status("LiveApp", Some(&PAGE)), 200);
        assert_eq!(status("OtherApp", Some(&PAGE)), 404);
        assert_eq!(status("LiveApp", None), 404);
    }
}
