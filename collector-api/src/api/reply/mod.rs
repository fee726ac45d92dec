//! Answers in their documented form, by what they are about. Names and nullability here are the contract of `docs/rest-api.md`.
//!
//! Integers are written exactly, whatever their size; floats in the shortest form that reads back to the same bits.

mod dead_letter;
mod device;
mod metric;
mod series;
mod status;

use schemars::JsonSchema;
use serde::Serialize;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, LINK, X_CONTENT_TYPE_OPTIONS};
use warp::http::{HeaderValue, StatusCode};
use warp::hyper::body::Bytes;

use super::exchange::vary;
pub use dead_letter::{DEAD_LETTER_SHOWN_BYTES, DeadLetterItem};
pub use device::{Device, DeviceInFull};
pub use metric::{FleetItem, Latest, LatestFlat, LatestTree, Metric};
pub use series::{ColumnHead, FleetColumnHead, FleetSeries, FleetSeriesHead, Series, SeriesHead};
pub use status::Status;
pub(super) use status::{Intake, state};

/// Five minutes: a look here and there at the same chart asks once.
const CLOSED: &str = "private, max-age=300";

/// An answer whose body is whole.
pub type Response = warp::http::Response<Bytes>;

/// An answer of the given type that must not be cached.
pub(super) fn respond(
    status: StatusCode,
    content_type: &'static str,
    document: &impl Serialize,
) -> Response {
    match serde_json::to_vec(document) {
        Ok(body) => bytes(status, content_type, body),
        Err(error) => {
            // Only a map with keys that are no strings can not be written; there is none.
            tracing::error!(%error, "an answer could not be written");
            bytes(
                StatusCode::INTERNAL_SERVER_ERROR,
                "application/problem+json",
                Vec::new(),
            )
        }
    }
}

/// An answer of bytes that must not be cached.
pub(super) fn bytes(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A good answer, which may be kept by whom asks each time whether it still holds (`ETag`: `exchange`).
pub(super) fn json(document: &impl Serialize) -> Response {
    kept(respond(StatusCode::OK, "application/json", document))
}

/// Lets the caller keep an answer, and ask whether it still holds.
pub(super) fn kept(mut response: Response) -> Response {
    let no_cache = HeaderValue::from_static("no-cache");
    response.headers_mut().insert(CACHE_CONTROL, no_cache);
    response
}

/// Lets the caller keep an answer about what is long over without asking, for a while: what comes late, or is forgotten, shows after that.
pub(super) fn keep_closed<B>(response: &mut warp::http::Response<B>) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(CLOSED));
    // Not for whom lost the token meanwhile.
    vary(headers, "authorization");
}

/// Says that there are other forms of this answer.
pub(super) fn with_vary<B>(mut response: warp::http::Response<B>) -> warp::http::Response<B> {
    vary(response.headers_mut(), "accept");
    response
}

/// A good answer with nothing to say.
pub(super) fn done() -> Response {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    response
}

/// Adds the link to the next page.
pub(super) fn with_link<B>(
    mut response: warp::http::Response<B>,
    link: Option<String>,
) -> warp::http::Response<B> {
    if let Some(value) = link.and_then(|l| HeaderValue::try_from(l).ok()) {
        response.headers_mut().insert(LINK, value);
    }
    response
}

/// A page of a list.
#[derive(Debug, Serialize, JsonSchema)]
pub struct List<T> {
    pub items: Vec<T>,
    pub next_cursor: Option<String>,
}
