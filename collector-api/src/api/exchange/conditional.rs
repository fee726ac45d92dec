//! Whether the caller has the answer already (RFC 9110 section 13). Saves the way, not the work: the answer is made first.
//!
//! An answer that may be kept gets a weak `ETag` made of its bytes, unless it has one: weak, for it is the same in every coding. A stream has one of its own, or none.

use std::hash::{DefaultHasher, Hasher as _};

use warp::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, IF_NONE_MATCH,
};
use warp::http::{HeaderValue, Response, StatusCode};
use warp::hyper::body::Bytes;

use super::Asked;

/// Answers 304 to whom has this answer.
pub(super) fn check(asked: &Asked, mut answer: Response<Bytes>) -> Response<Bytes> {
    let kept = answer.headers().get(CACHE_CONTROL);
    let never = kept.is_none_or(|kept| kept.as_bytes() == b"no-store");
    if !asked.reads() || answer.status() != StatusCode::OK || never {
        return answer;
    }
    if !answer.headers().contains_key(ETAG)
        && let Ok(tag) = HeaderValue::try_from(tag(answer.body()))
    {
        answer.headers_mut().insert(ETAG, tag);
    }
    match unchanged(asked, &answer) {
        Some(unchanged) => unchanged,
        None => answer,
    }
}

/// The answer 304 to whom has this answer, which has a tag.
pub(super) fn unchanged<B>(asked: &Asked, answer: &Response<B>) -> Option<Response<Bytes>> {
    let known = asked.reads()
        && answer.status() == StatusCode::OK
        && is_known(&asked.headers, answer.headers());
    known.then(|| {
        let mut unchanged = Response::new(Bytes::new());
        *unchanged.status_mut() = StatusCode::NOT_MODIFIED;
        *unchanged.headers_mut() = answer.headers().clone();
        for name in [CONTENT_TYPE, CONTENT_LENGTH] {
            unchanged.headers_mut().remove(name);
        }
        unchanged
    })
}

/// Of 64 bits: two answers of one address that are alike in them do not happen in the life of a machine.
fn tag(body: &[u8]) -> String {
    let mut hasher = DefaultHasher::new(); // without a random key: the same in every process of a release
    hasher.write(body);
    format!("W/\"{:016x}\"", hasher.finish())
}

/// Weak comparison (section 8.8.3.2).
fn is_known(asked: &HeaderMap, answer: &HeaderMap) -> bool {
    let Some(tag) = answer.get(ETAG).and_then(|tag| tag.to_str().ok()) else {
        return false;
    };
    let tag = tag.trim_start_matches("W/");
    let known = asked.get_all(IF_NONE_MATCH).iter();
    known
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}
