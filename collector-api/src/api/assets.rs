//! The dashboard's files, embedded when the collector was built: `web/dist`, if it was there.
//!
//! Names with a hash in them never change and may be kept for a year; all else is checked by `ETag` each time. The page may load nothing from
//! elsewhere (the Content-Security-Policy below). Without a dashboard `/` answers a page that says how to build it.

use std::borrow::Cow;

use rust_embed::{EmbeddedFile, RustEmbed};
use warp::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, REFERRER_POLICY};
use warp::http::{HeaderValue, StatusCode};
use warp::hyper::body::Bytes;

use super::endpoints::Call;
use super::params::Segment;
use super::problem::{Kind, Problem};
use super::reply::{Response, bytes, kept};

/// `unsafe-inline` for styles: charts set element styles. Nothing else is loosened.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'";
const FOR_A_YEAR: &str = "public, max-age=31536000, immutable";
/// Length of the hash that vite puts before the extension: `index-BkT2xY3_.js`.
const HASH_CHARS: usize = 8;

const NOT_BUILT: &str = include_str!("not_built.html");

#[derive(RustEmbed)]
#[folder = "../web/dist"]
#[allow_missing = true]
struct Dashboard;

pub(super) fn index(_: &Call, _: &Segment) -> Result<Response, Problem> {
    Ok(match Dashboard::get("index.html") {
        Some(file) => serve("index.html", file),
        None => {
            let page = bytes(StatusCode::OK, "text/html; charset=utf-8", NOT_BUILT);
            with_policy(kept(page))
        }
    })
}

pub(super) fn file(call: &Call, name: &Segment) -> Result<Response, Problem> {
    let found = name.file_name().map(|name| format!("assets/{name}"));
    let file = found
        .as_deref()
        .and_then(|path| Some((path, Dashboard::get(path)?)));
    match file {
        Some((path, file)) => Ok(serve(path, file)),
        None => Err(Problem::new(
            Kind::NotFound,
            format!("there is nothing at {}", call.path),
        )),
    }
}

fn serve(path: &str, file: EmbeddedFile) -> Response {
    let tag = format!("\"{}\"", hex(&file.metadata.sha256_hash()));
    let body = match file.data {
        Cow::Borrowed(data) => Bytes::from_static(data),
        Cow::Owned(data) => Bytes::from(data),
    };
    let mut response = bytes(StatusCode::OK, content_type(path), body);
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(ETAG, tag);
    }
    let cache = if is_hashed(path) {
        FOR_A_YEAR
    } else {
        "no-cache"
    };
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    with_policy(response)
}

fn with_policy(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn is_hashed(path: &str) -> bool {
    let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
    stem.len()
        .checked_sub(HASH_CHARS + 1)
        .and_then(|at| stem.get(at..))
        .is_some_and(|end| {
            let mixed = end
                .bytes()
                .any(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
            mixed
                && end.starts_with('-')
                && end
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        })
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("json" | "webmanifest") => "application/json",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_with_a_hash_are_kept_for_a_year() {
        assert!(is_hashed("assets/index-BkT2xY3_.js") && is_hashed("assets/a-b-D0c_-ddd.css"));
        for plain in [
            "assets/favicon.svg",
            "index.html",
            "assets/long-filename.svg",
            "assets/x-1.js",
        ] {
            assert!(!is_hashed(plain), "{plain}");
        }
    }
}
