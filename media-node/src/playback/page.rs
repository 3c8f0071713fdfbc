//! The pages: one of ours plays every stream and file of an application, one publishes to its streams. They are the same bytes for
//! all; which stream it is about, a page reads from its own address.

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
/// is what a page makes of parts; what comes over WebRTC has no source that a policy could name. Other pages may frame it: it has no
/// credential, and does nothing but play.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src 'self' blob: http: https:; \
     base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
);
/// The page that is given a camera and a key is framed by nobody, and loads no media.
const PUBLISH_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'; \
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

macro_rules! file {
    ($kind:expr, $kept:expr, $policy:expr, $path:literal) => {
        LazyLock::new(|| File::new($kind, $kept, $policy, include_str!(concat!("../../assets/", $path))))
    };
}

static PLAY: LazyLock<File> = file!(HTML, FRESH, POLICY, "play/page.html");
static PLAY_SCRIPT: LazyLock<File> = file!(SCRIPT, FRESH, POLICY, "play/page.js");
static PLAY_STYLE: LazyLock<File> = file!(STYLE, FRESH, POLICY, "play/page.css");
static WHEP: LazyLock<File> = file!(SCRIPT, FRESH, POLICY, "play/whep.js");
static SESSION: LazyLock<File> = file!(SCRIPT, FRESH, POLICY, "play/session.js");
static STATISTICS: LazyLock<File> = file!(SCRIPT, FRESH, POLICY, "play/statistics.js");
static PAUSES: LazyLock<File> = file!(SCRIPT, FRESH, POLICY, "play/pauses.js");
static HLS_JS: LazyLock<File> = file!(SCRIPT, FOR_EVER, POLICY, "vendor/hls.js/hls.light.min.js");
static HLS_JS_LICENSE: LazyLock<File> = file!(PLAIN, FRESH, POLICY, "vendor/hls.js/LICENSE");
static PUBLISH: LazyLock<File> = file!(HTML, FRESH, PUBLISH_POLICY, "publish/page.html");
static PUBLISH_SCRIPT: LazyLock<File> = file!(SCRIPT, FRESH, PUBLISH_POLICY, "publish/page.js");
static PUBLISH_STYLE: LazyLock<File> = file!(STYLE, FRESH, PUBLISH_POLICY, "publish/page.css");

/// The routes of the pages: `/{app}/play?id=STREAM`, also `/{app}/play.html`, as Ant Media Server has it, and `/{app}/publish?id=STREAM`.
pub(super) fn routes(apps: Apps) -> Router {
    Router::new()
        .route("/{app}/play", get(play))
        .route("/{app}/play.html", get(play))
        .route("/{app}/play/{file}", get(part_of_play))
        .route("/{app}/publish", get(publish))
        .route("/{app}/publish.html", get(publish))
        .route("/{app}/publish/{file}", get(part_of_publish))
        .with_state(apps)
}

async fn play(State(apps): State<Apps>, Path(app): Path<String>, asked: HeaderMap) -> Response {
    answer(&apps, &app, Some(&PLAY), &asked)
}

async fn part_of_play(
    State(apps): State<Apps>,
    Path((app, file)): Path<(String, String)>,
    asked: HeaderMap,
) -> Response {
    answer(&apps, &app, play_file(&file), &asked)
}

async fn publish(State(apps): State<Apps>, Path(app): Path<String>, asked: HeaderMap) -> Response {
    answer(&apps, &app, Some(&PUBLISH), &asked)
}

async fn part_of_publish(
    State(apps): State<Apps>,
    Path((app, file)): Path<(String, String)>,
    asked: HeaderMap,
) -> Response {
    answer(&apps, &app, publish_file(&file), &asked)
}

fn play_file(name: &str) -> Option<&'static LazyLock<File>> {
    Some(match name {
        "page.js" => &PLAY_SCRIPT,
        "page.css" => &PLAY_STYLE,
        "whep.js" => &WHEP,
        "session.js" => &SESSION,
        "statistics.js" => &STATISTICS,
        "pauses.js" => &PAUSES,
        "hls-1.7.4.light.min.js" => &HLS_JS,
        "hls-license.txt" => &HLS_JS_LICENSE,
        _ => return None,
    })
}

fn publish_file(name: &str) -> Option<&'static LazyLock<File>> {
    Some(match name {
        "page.js" => &PUBLISH_SCRIPT,
        "page.css" => &PUBLISH_STYLE,
        _ => return None,
    })
}

fn answer(apps: &Apps, app: &str, file: Option<&LazyLock<File>>, asked: &HeaderMap) -> Response {
    match file.filter(|_| apps.pool(app).is_some()) {
        Some(file) => file.answer(asked),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A file of a page, with its compression.
struct File {
    kind: &'static str,
    kept: HeaderValue,
    policy: HeaderValue,
    text: Arc<Text>,
}

impl File {
    fn new(kind: &'static str, kept: HeaderValue, policy: HeaderValue, text: &'static str) -> Self {
        let hash = digest(&SHA256, text.as_bytes());
        let tag = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { kind, kept, policy, text: Text::new(text, tag) }
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
        set(CONTENT_SECURITY_POLICY, self.policy.clone());
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
        let first = PLAY.answer(&asked(std::slice::from_ref(&gzip)));
        let tag = first.headers()[ETAG].to_str().unwrap();
        let again = PLAY.answer(&asked(&[gzip, (IF_NONE_MATCH, tag)]));
        let plain = PLAY.answer(&asked(&[(IF_NONE_MATCH, tag)]));

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
    fn the_page_that_is_given_a_camera_and_a_key_is_framed_by_nobody() {
        let response = PUBLISH.answer(&HeaderMap::new());
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();

        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("connect-src 'self';"), "{policy}");
    }

    #[test]
    fn all_that_the_pages_name_is_served() {
        let named: Vec<_> = [&PLAY, &PUBLISH]
            .iter()
            .flat_map(|page| std::str::from_utf8(&page.text.plain).unwrap().split('"'))
            .filter_map(|quoted| quoted.split_once('/'))
            .filter(|(folder, file)| ["play", "publish"].contains(folder) && !file.contains(' '))
            .collect();

        assert_eq!(named.len(), 14, "{named:?}");
        for (folder, file) in named {
            assert!(if folder == "play" { play_file(file) } else { publish_file(file) }.is_some(), "{folder}/{file}");
        }
        for script in [&PLAY_SCRIPT, &WHEP, &SESSION, &STATISTICS, &PAUSES, &PUBLISH_SCRIPT] {
            let text = std::str::from_utf8(&script.text.plain).unwrap();
            for imported in text.split(" from \"").skip(1).filter_map(|rest| rest.split('"').next()) {
                let (_folder, file) = imported.rsplit_once('/').unwrap();
                assert!(play_file(file).is_some(), "{imported}");
            }
        }
    }

    #[test]
    fn an_application_that_is_not_there_has_no_page() {
        let apps = Apps::default();
        apps.set([("LiveApp".to_owned(), "live".to_owned())].into());
        let status = |app, file| answer(&apps, app, file, &HeaderMap::new()).status();

        assert_eq!(status("LiveApp", Some(&PLAY)), 200);
        assert_eq!(status("OtherApp", Some(&PLAY)), 404);
        assert_eq!(status("LiveApp", None), 404);
    }
}
