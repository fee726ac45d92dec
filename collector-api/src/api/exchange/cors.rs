//! Which web pages of other origins may read answers: none, unless the configuration names them (`http_cors_origins`). Fetch standard, "CORS protocol".
//!
//! No cookies are used, so no credentials are allowed: a page of another origin sends the token itself, or has none.

use std::collections::HashSet;

use warp::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    CACHE_CONTROL, HeaderMap, ORIGIN,
};
use warp::http::{HeaderValue, Method, Response, StatusCode};
use warp::hyper::body::Bytes;

use super::{Asked, vary};

const METHODS: &str = "GET, HEAD, POST, PATCH, DELETE";
/// What calls may carry beyond what any may.
const HEADERS: &str =
    "Authorization, Content-Type, If-None-Match, Last-Event-ID, X-Request-Id, Cache-Control";
/// What a page may read beyond what it may of any answer.
const EXPOSED: &str = "Allow, Content-Encoding, ETag, Event-Id, Link, Retry-After, X-Request-Id";
/// How long a browser need not ask again, in seconds; after a change of the configuration, old pages work this long.
const MAX_AGE_S: &str = "600";

/// Origins whose pages may read answers, as browsers write them: `https://status.example.org`.
#[derive(Debug, Clone, Default)]
pub struct Origins(HashSet<HeaderValue>);

/// A text that is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no origin; write scheme, host and port as a browser does, in lower case and without a path: https://status.example.org or http://localhost:5173"
)]
pub struct OriginError(String);

impl Origins {
    /// Reads origins as they stand in the configuration.
    ///
    /// # Errors
    /// One that is no origin: `*`, `null`, with a path, in upper case, with the port that its scheme implies.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, OriginError> {
        let parse = |text: &str| origin(text).ok_or_else(|| OriginError(text.to_owned()));
        texts
            .into_iter()
            .map(parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The origin of the page that asks, if it is one of these.
    pub(in crate::api) fn has(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        headers.get(ORIGIN).filter(|o| self.0.contains(*o)).cloned()
    }

    /// Answers what a browser asks before it sends a call that a page of elsewhere wants.
    pub(super) fn preflight(&self, asked: &Asked) -> Option<Response<Bytes>> {
        let is_one = asked.method == Method::OPTIONS
            && asked.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !is_one || self.has(&asked.headers).is_none() {
            return None;
        }
        let mut answer = Response::new(Bytes::new());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
            (ACCESS_CONTROL_MAX_AGE, MAX_AGE_S),
            (CACHE_CONTROL, "no-store"),
        ] {
            let value = HeaderValue::from_static(value);
            answer.headers_mut().insert(name, value);
        }
        Some(answer)
    }

    /// Lets a page of an allowed origin read the answer.
    pub(super) fn allow(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        vary(answer, "origin");
        if let Some(origin) = self.has(asked) {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            let exposed = HeaderValue::from_static(EXPOSED);
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }
}

fn origin(text: &str) -> Option<HeaderValue> {
    let (scheme, rest) = text.split_once("://")?;
    let implied = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return None,
    };
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_:[]".contains(c);
    let sound = !rest.is_empty() && rest.chars().all(legal) && !rest.ends_with(implied);
    HeaderValue::from_str(text).ok().filter(|_| sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_what_browsers_send() {
        for good in [
            "https://status.example.org",
            "http://localhost:5173",
            "http://[::1]:8080",
            "http://10.0.0.1",
        ] {
            assert!(Origins::parse([good]).is_ok(), "{good}");
        }
        for bad in [
            "*",
            "null",
            "",
            "status.example.org",
            "https://",
            "https://a/",
            "https://a/b",
            "https://A",
            "https://*.a",
            "https://a:443",
            "http://a:80",
            "ftp://a",
        ] {
            assert!(Origins::parse([bad]).is_err(), "{bad}");
        }
    }
}
