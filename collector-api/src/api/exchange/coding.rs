//! Compression of answers by what the caller takes (RFC 9110 section 12.5.3), where it is worth the work: brotli or gzip of whole answers, gzip of streams. Server-sent
//! events never: they would wait in the encoder.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Frame};

use warp::http::HeaderValue;
use warp::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, HeaderMap,
};
use warp::hyper::body::Bytes;

use crate::api::accept::weights;

/// Answers below this go in one packet either way.
const MIN_BYTES: usize = 1024;
/// Answers up to this are compressed where they are, in well under a ms; larger ones on a thread that may take its time.
pub(super) const AT_ONCE_BYTES: usize = 16 << 10;
/// JSON of metrics at brotli 4: a sixth of the bytes for half the work of brotli 6, which saves a twentieth more.
const BROTLI_QUALITY: i32 = 4;
const BROTLI_WINDOW_BITS: i32 = 20;
const GZIP_LEVEL: u32 = 4;

/// A coding that we can write; the better one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Brotli,
    Gzip,
}

impl Coding {
    fn as_str(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// # Errors
    /// None that is known: it writes to memory.
    pub(super) fn encode(self, plain: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(plain.len() / 4);
        match self {
            Self::Brotli => {
                let params = brotli::enc::BrotliEncoderParams {
                    quality: BROTLI_QUALITY,
                    lgwin: BROTLI_WINDOW_BITS,
                    size_hint: plain.len(),
                    ..Default::default()
                };
                brotli::BrotliCompress(&mut &*plain, &mut out, &params)?;
            }
            Self::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                let mut encoder = flate2::write::GzEncoder::new(&mut out, level);
                encoder.write_all(plain)?;
                encoder.finish()?;
            }
        }
        Ok(out)
    }
}

/// Whether an answer is of a kind that shrinks.
pub(super) fn is_compressible(headers: &HeaderMap) -> bool {
    let fixed = headers.contains_key(CONTENT_ENCODING)
        || headers.contains_key(CONTENT_RANGE)
        || headers
            .get(CACHE_CONTROL)
            .is_some_and(|v| v.to_str().is_ok_and(|v| v.contains("no-transform")));
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let kind = kind.and_then(|k| k.split(';').next()).unwrap_or_default();
    let shrinks = kind.starts_with("text/") && kind != "text/event-stream"
        || kind.ends_with("json")
        || kind.ends_with("xml")
        || matches!(
            kind,
            "application/javascript" | "application/openmetrics-text"
        );
    shrinks && !fixed
}

/// What the caller thinks of codings.
struct Wanted(Vec<(String, u16)>);

impl Wanted {
    fn of(headers: &HeaderMap) -> Option<Self> {
        weights(headers, &ACCEPT_ENCODING).map(Self)
    }

    fn named(&self, name: &str) -> Option<u16> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, q)| *q)
    }

    fn weight(&self, coding: Coding) -> u16 {
        let named = self.named(coding.as_str());
        named.or_else(|| self.named("*")).unwrap_or(0)
    }

    /// Of no coding. Without a word about it, it may come as it is, but nobody would rather have it so.
    fn plain(&self) -> Option<u16> {
        let none = || self.named("*").filter(|q| *q == 0);
        self.named("identity").or_else(none)
    }
}

/// The coding for an answer of this length; `None`: as it is.
pub(super) fn choose(headers: &HeaderMap, bytes: usize) -> Option<Coding> {
    let wanted = Wanted::of(headers)?;
    let plain = wanted.plain();
    if bytes < MIN_BYTES && plain != Some(0) {
        return None;
    }
    let (best, q) = [Coding::Brotli, Coding::Gzip]
        .map(|coding| (coding, wanted.weight(coding)))
        .into_iter()
        .reduce(|best, next| if next.1 > best.1 { next } else { best })?;
    (q > 0 && q >= plain.unwrap_or(0)).then_some(best)
}

/// Whether a stream may be gzip. Brotli would hold some MB for as long as its client reads.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    Wanted::of(headers).is_some_and(|wanted| {
        let q = wanted.weight(Coding::Gzip);
        q > 0 && q >= wanted.plain().unwrap_or(0)
    })
}

/// Says what a body is coded with.
pub(super) fn mark(headers: &mut HeaderMap, coding: Coding) {
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
    // A strong tag promises the same bytes, which these are not.
    let weak = headers
        .get(ETAG)
        .and_then(|tag| tag.to_str().ok())
        .filter(|tag| !tag.starts_with("W/"))
        .and_then(|tag| HeaderValue::try_from(format!("W/{tag}")).ok());
    if let Some(weak) = weak {
        headers.insert(ETAG, weak);
    }
}

/// A stream that is compressed on its way: holds an encoder's window (some 300 KB), and what came of one piece.
pub(in crate::api) struct CodedStream<B> {
    plain: B,
    /// `None`: all is sent.
    encoder: Option<flate2::write::GzEncoder<Vec<u8>>>,
}

impl<B> CodedStream<B> {
    pub(super) fn new(plain: B) -> Self {
        let level = flate2::Compression::new(GZIP_LEVEL);
        let encoder = Some(flate2::write::GzEncoder::new(Vec::new(), level));
        Self { plain, encoder }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for CodedStream<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        while self.encoder.is_some() {
            let frame = ready!(Pin::new(&mut self.plain).poll_frame(cx)).transpose()?;
            let piece = frame.map(|frame| frame.into_data().unwrap_or_default());
            let Some(encoder) = &mut self.encoder else {
                break;
            };
            // Writing to memory does not fail.
            let coded = match piece {
                Some(piece) => {
                    let _ = encoder.write_all(&piece);
                    std::mem::take(encoder.get_mut())
                }
                None => self
                    .encoder
                    .take()
                    .and_then(|encoder| encoder.finish().ok())
                    .unwrap_or_default(),
            };
            if !coded.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(coded.into()))));
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(accept: Option<&str>, bytes: usize) -> Option<Coding> {
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            headers.insert(ACCEPT_ENCODING, accept.parse().unwrap());
        }
        choose(&headers, bytes)
    }

    #[test]
    fn the_heaviest_coding_that_is_taken_is_used() {
        use Coding::{Brotli, Gzip};
        for (accept, expected) in [
            (None, None),
            (Some(""), None),
            (Some("gzip"), Some(Gzip)),
            (Some("gzip, deflate, br"), Some(Brotli)),
            (Some("br;q=0.5, gzip;q=0.8"), Some(Gzip)),
            (Some("BR"), Some(Brotli)),
            (Some("*"), Some(Brotli)),
            (Some("br;q=0, *;q=0.1"), Some(Gzip)),
            (Some("gzip;q=0"), None),
            (Some("gzip;q=0.5, identity"), None),
            (Some("zstd, deflate"), None),
            (Some("*;q=0"), None),
        ] {
            assert_eq!(chosen(accept, 5_000), expected, "{accept:?}");
        }
    }

    #[test]
    fn events_are_never_compressed() {
        let of = |kind: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            is_compressible(&headers)
        };
        for kind in [
            "application/json",
            "application/problem+json",
            "text/csv; charset=utf-8",
            "text/html; charset=utf-8",
            "image/svg+xml",
        ] {
            assert!(of(kind), "{kind}");
        }
        for kind in [
            "text/event-stream",
            "text/event-stream; charset=utf-8",
            "image/png",
            "application/octet-stream",
        ] {
            assert!(!of(kind), "{kind}");
        }
    }

    #[test]
    fn short_answers_stay_as_they_are_unless_that_is_refused() {
        assert_eq!(chosen(Some("br"), MIN_BYTES - 1), None);
        assert_eq!(chosen(Some("br"), MIN_BYTES), Some(Coding::Brotli));
        assert_eq!(chosen(Some("gzip, identity;q=0"), 5), Some(Coding::Gzip));
        assert_eq!(chosen(Some("gzip, *;q=0"), 5), Some(Coding::Gzip));
    }
}
