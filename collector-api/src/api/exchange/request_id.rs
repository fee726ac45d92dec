//! The id of a call: in the log, in the answer's `X-Request-Id` and in every problem document, so that one can be found by the other.
//!
//! A caller's own id is taken if it is sane, so that it goes through a chain of programs; else one is made.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use ulid::Ulid;
use warp::http::HeaderValue;
use warp::http::header::{HeaderMap, HeaderName};

pub(in crate::api) const NAME: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken over: a UUID has 36 characters, a trace id with its span 55.
const MAX_CHARS: usize = 64;

tokio::task_local! {
    static CURRENT: RequestId;
}

/// One call's id: 1 to 64 of `A-Z a-z 0-9 . _ -`.
#[derive(Debug, Clone)]
pub(in crate::api) struct RequestId(Arc<str>);

impl RequestId {
    /// The caller's id, or a new one.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(NAME).and_then(|value| value.to_str().ok());
        let sane = |text: &&str| {
            let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            (1..=MAX_CHARS).contains(&text.len()) && text.bytes().all(legal)
        };
        match given.filter(sane) {
            Some(given) => Self(given.into()),
            None => Self(Ulid::new().to_string().into()),
        }
    }

    pub(super) fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).unwrap_or_else(|_| HeaderValue::from_static("-")) // legal characters only
    }

    /// That of the call which this task answers.
    pub(in crate::api) fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    pub(in crate::api) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Does work that belongs to this call.
pub(super) fn during<F: Future>(id: RequestId, work: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(id, work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_taken_and_any_other_one_replaced() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(NAME, HeaderValue::from_bytes(text.as_bytes()).unwrap());
            RequestId::of(&headers).0.to_string()
        };
        let long = "x".repeat(64);
        for good in ["a", "00f067aa0ba902b7", "A.b_c-9", &long] {
            assert_eq!(of(good), good);
        }
        for bad in ["", "a b", "a\"b", "é", &format!("{long}x"), "a/b"] {
            let made = of(bad);
            assert!(made != bad && made.len() == 26, "{bad}: {made}");
        }
        assert_ne!(of(""), of(""));
    }
}
