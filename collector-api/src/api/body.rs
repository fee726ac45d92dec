//! What a call brings: read whole, within bounds of bytes and time, once it is known that the caller may ask. GET and the like bring nothing that is read.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, BufMut as _};
use futures_core::Stream;
use warp::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use warp::hyper::body::Bytes;

use super::problem::{Kind, Problem};

/// How long a body may take: a form of 64 KiB takes a second at the speed of a modem.
const PATIENCE: Duration = Duration::from_secs(10);

/// A body on its way in.
pub(super) trait Sent: Stream<Item = Result<Self::Piece, warp::Error>> + Send {
    type Piece: Buf + Send;
}

impl<S, P> Sent for S
where
    S: Stream<Item = Result<P, warp::Error>> + Send,
    P: Buf + Send,
{
    type Piece = P;
}

/// A form, which looks like a query string.
///
/// # Errors
/// 415 for another type; as [`read`].
pub(super) async fn form(
    headers: &HeaderMap,
    body: impl Sent,
    most: usize,
) -> Result<String, Problem> {
    let body = read(headers, body, most).await?;
    if !body.is_empty() {
        check_type(headers, &["application/x-www-form-urlencoded"])?;
    }
    String::from_utf8(body.into()).map_err(|_| {
        let detail = "the form has bytes that are no UTF-8; write them percent-encoded, as %C3%A9";
        Problem::new(Kind::Malformed, detail)
    })
}

/// Checks what a body is said to be.
///
/// # Errors
/// 415 for none of `types`.
pub(super) fn check_type(headers: &HeaderMap, types: &[&str]) -> Result<(), Problem> {
    let given = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let given = given.and_then(|v| v.split(';').next()).unwrap_or_default();
    if types.iter().any(|t| given.trim().eq_ignore_ascii_case(t)) {
        return Ok(());
    }
    let detail = format!(
        "Content-Type is {:?}; send {}",
        given.trim(),
        types.join(" or ")
    );
    Err(Problem::new(Kind::UnsupportedMediaType, detail))
}

/// All of a body.
///
/// # Errors
/// 413 beyond `most` bytes, 408 beyond [`PATIENCE`], 400 when it breaks off.
pub(super) async fn read(
    headers: &HeaderMap,
    body: impl Sent,
    most: usize,
) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body has more than {most} bytes, which is the most here");
        Problem::new(Kind::BodyTooLarge, detail)
    };
    let said = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    if said.is_some_and(|said| said.parse().map_or(true, |bytes: usize| bytes > most)) {
        return Err(too_large());
    }
    let mut body = pin!(body);
    let whole = async {
        let mut whole = Vec::new();
        while let Some(piece) = poll_fn(|cx| body.as_mut().poll_next(cx)).await {
            let piece = piece.map_err(|error| {
                Problem::new(Kind::Malformed, format!("the body broke off: {error}"))
            })?;
            if whole.len() + piece.remaining() > most {
                return Err(too_large());
            }
            whole.put(piece);
        }
        Ok(Bytes::from(whole))
    };
    tokio::time::timeout(PATIENCE, whole)
        .await
        .unwrap_or_else(|_| {
            let detail = format!("the body was not there within {PATIENCE:?}");
            Err(Problem::new(Kind::Timeout, detail))
        })
}
