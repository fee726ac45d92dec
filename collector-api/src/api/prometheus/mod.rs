//! What Prometheus and Grafana ask: expositions to scrape (`/metrics`, `/metrics/devices`) and the query API below `/prometheus/api/v1/`. By `docs/prometheus.md`.
//!
//! [`text`] writes the two forms of an exposition, `own` and `devices` fill them; names and labels are `query`'s (`families`).

mod asked;
mod devices;
mod matrix;
mod own;
pub(super) mod query;
mod requests;
mod text;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use devmon_core::wire::TimestampMs;
use warp::http::StatusCode;
use warp::http::header::{ACCEPT, HeaderMap, HeaderValue, VARY};
use warp::reply::Response as Long;

pub use requests::Requests;
pub use text::Format;

use super::Api;
use super::endpoints::Call;
use super::large;
use super::params::{Params, Segment};
use super::problem::Problem;
use super::reply::{self, Response};

/// `GET /metrics`.
pub(super) fn own(api: &Api, call: &Call, _: &Segment) -> Result<Response, Problem> {
    Params::parse(&call.query, &[])?;
    let format = format(&call.headers);
    Ok(exposed(format, own::expose(api, format)))
}

/// `GET /metrics/devices`.
pub(super) fn devices(api: &Api, call: &Call, _: &Segment) -> Result<Long, Problem> {
    let wanted = devices::Wanted::parse(&call.query)?;
    let format = format(&call.headers);
    let exposition = devices::gather(api, &wanted, format, TimestampMs::now())?;
    let mut response = large::answer(&api.room, format.content_type(), exposition.pieces())?;
    differs_by_accept(response.headers_mut());
    Ok(response)
}

/// The password of basic authentication (RFC 7617), which Prometheus and Grafana can send where they can send no token of their own; the user does not matter.
pub(super) fn basic_password(authorization: &[u8]) -> Option<Vec<u8>> {
    let (scheme, given) = authorization.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let plain = STANDARD.decode(given.trim_ascii()).ok()?;
    let colon = plain.iter().position(|&b| b == b':')?;
    Some(plain[colon + 1..].to_vec())
}

fn format(headers: &HeaderMap) -> Format {
    Format::accepted(headers.get(ACCEPT).and_then(|v| v.to_str().ok()))
}

fn exposed(format: Format, text: String) -> Response {
    let mut response = reply::bytes(StatusCode::OK, format.content_type(), text);
    differs_by_accept(response.headers_mut());
    response
}

fn differs_by_accept(headers: &mut HeaderMap) {
    headers.insert(VARY, HeaderValue::from_static("accept"));
}
