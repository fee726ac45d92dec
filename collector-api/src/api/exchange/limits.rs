//! Bounds on the head of a call, each with its own status. hyper has bounds of its own, above these: they protect the memory, these explain. Bounds on bodies are
//! the routes' own.

use hyper::Request;
use hyper::body::Incoming;

use crate::api::problem::{Kind, Problem};

/// Longest path and query: 50 percent-encoded paths of 300 bytes.
pub(in crate::api) const MAX_URI_BYTES: usize = 16 << 10;
/// All names and values of headers. Browsers and proxies send some 2 KiB.
pub(in crate::api) const MAX_HEADER_BYTES: usize = 16 << 10;
/// What of a head hyper holds: more ends the connection.
pub(in crate::api) const MAX_HEAD_BYTES: usize = 64 << 10;

/// Checks a call's head.
pub(super) fn check(call: &Request<Incoming>) -> Result<(), Problem> {
    let uri = call.uri();
    let uri_bytes = uri.path_and_query().map_or(0, |text| text.as_str().len());
    if uri_bytes > MAX_URI_BYTES {
        let detail = format!(
            "the path and query have {uri_bytes} bytes; the most is {MAX_URI_BYTES}. Ask for fewer things at a time"
        );
        return Err(Problem::new(Kind::UriTooLong, detail));
    }
    let headers = call.headers().iter();
    let header_bytes: usize = headers.map(|(n, v)| n.as_str().len() + v.len()).sum();
    if header_bytes > MAX_HEADER_BYTES {
        let detail =
            format!("the headers have {header_bytes} bytes; the most is {MAX_HEADER_BYTES}");
        return Err(Problem::new(Kind::HeadersTooLarge, detail));
    }
    Ok(())
}
