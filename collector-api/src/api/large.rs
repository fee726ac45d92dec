//! Answers of any length: short ones whole, as all others, long ones written while they are sent.
//!
//! What is to be sent is kept as what it was made of ([`Pieces`]; of series, numbers: 9 MB for a million points that are 20 MB of JSON), and written piece by piece, each when the client
//! has taken the one before. So no thread waits for a client, and what is written already is not kept.
//!
//! - **Memory** is bounded over all clients: what long answers are made of takes [`ROOM_BYTES`] at most, and is given back as it is sent. Without room there is the answer 503, with when to ask again.
//! - **Time**: a client that reads nothing is let go (`patience`); so is one that has not taken an answer within [`PATIENCE`].
//! - **What goes wrong** half-way ends the connection without the end of the body: nobody takes a part for the whole.
//! - **ETag**: a long answer's is made of what it is made of, not of its text, so that 304 needs no text.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use warp::Reply as _;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};
use warp::http::{HeaderValue, StatusCode};
use warp::hyper::body::Bytes;

use super::problem::{Kind, Problem};
use super::reply::{self, Response};

/// What is no longer than this is sent whole, with its length, in the best coding.
const WHOLE_BYTES: usize = 256 << 10;
/// A piece: written, and compressed, in well under a ms, for that is done on the threads of all connections.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces after which such a thread is left to others, however fast the client reads.
const PIECES_IN_A_ROW: u32 = 8;
/// Memory for what long answers are made of, of all clients: fourteen answers of a million numbers, or hundreds of charts.
pub(super) const ROOM_BYTES: usize = 128 << 20;
/// How long a client may take for one answer: 20 MB at 23 KB a second.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Something that writes itself piece by piece.
pub(super) trait Pieces: Send + Sync + 'static {
    /// Appends what comes next, until `out` has `most` bytes, or as few more as one value has. False: that was all.
    ///
    /// # Errors
    /// It can not be written; nothing more is.
    fn write(&mut self, out: &mut Vec<u8>, most: usize) -> io::Result<bool>;

    /// Frees what is written, and says how many bytes of memory the rest takes.
    fn free(&mut self) -> usize;

    /// Copies what is kept into memory of its size. Where it was made, what it was made from lay beside it; an allocator gives that back only if nothing that stays lies behind it.
    fn settle(&mut self);

    /// Feeds all that is written to a hash. Asked before anything is freed.
    fn digest(&self, into: &mut DefaultHasher);
}

/// What is in memory already, part by part.
#[derive(Debug)]
pub(super) struct Parts {
    /// What is not sent yet, and, until [`free`](Pieces::free), what was since the last time.
    parts: VecDeque<Vec<u8>>,
    /// Bytes of them that are sent.
    at: usize,
    /// Bytes of memory of all of them.
    held: usize,
}

impl FromIterator<Vec<u8>> for Parts {
    fn from_iter<T: IntoIterator<Item = Vec<u8>>>(parts: T) -> Self {
        let parts: VecDeque<_> = parts.into_iter().collect();
        let held = parts.iter().map(Vec::capacity).sum();
        Self { parts, at: 0, held }
    }
}

impl Pieces for Parts {
    fn write(&mut self, out: &mut Vec<u8>, most: usize) -> io::Result<bool> {
        let mut before = 0;
        for part in &self.parts {
            let from = self.at.saturating_sub(before).min(part.len());
            let bytes = most.saturating_sub(out.len()).min(part.len() - from);
            out.extend_from_slice(&part[from..from + bytes]);
            self.at += bytes;
            if from + bytes < part.len() {
                return Ok(true);
            }
            before += part.len();
        }
        Ok(false)
    }

    fn free(&mut self) -> usize {
        while let Some(part) = self.parts.pop_front_if(|part| part.len() <= self.at) {
            self.at -= part.len();
            self.held -= part.capacity();
        }
        self.held
    }

    fn settle(&mut self) {
        for part in &mut self.parts {
            *part = part.as_slice().to_vec();
        }
        self.held = self.parts.iter().map(Vec::capacity).sum();
    }

    fn digest(&self, into: &mut DefaultHasher) {
        for part in &self.parts {
            into.write(part);
        }
    }
}

/// Memory for long answers, in KiB.
#[derive(Debug, Clone)]
pub(super) struct Room {
    free: Arc<Semaphore>,
    whole: usize,
}

impl Room {
    pub(super) fn of(bytes: usize) -> Self {
        let whole = bytes >> 10;
        Self {
            free: Arc::new(Semaphore::new(whole)),
            whole,
        }
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        if kib(bytes) > self.whole {
            let (mib, most) = (bytes.div_ceil(1 << 20), self.whole >> 10);
            let detail = format!(
                "the answer takes {mib} MiB of memory, and all answers on their way may take {most}; ask for less at a time"
            );
            return Err(Problem::new(Kind::TooManyPoints, detail));
        }
        let room = u32::try_from(kib(bytes)).ok();
        let room = room.and_then(|kib| self.free.clone().try_acquire_many_owned(kib).ok());
        room.ok_or_else(|| {
            Problem::new(
                Kind::Busy,
                "the answers that are on their way have all the memory that they may; ask again, or for fewer points at a time",
            )
        })
    }
}

fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}

/// A good answer that may be kept.
///
/// # Errors
/// It is long, and there is no room.
pub(super) fn answer(
    room: &Room,
    content_type: &'static str,
    mut pieces: impl Pieces,
) -> Result<warp::reply::Response, Problem> {
    let broken = |error: io::Error| {
        tracing::error!(%error, "an answer could not be written");
        Problem::new(Kind::Internal, "the answer could not be written")
    };
    let mut begin = Vec::new();
    let more = pieces.write(&mut begin, WHOLE_BYTES).map_err(broken)?;
    let response = |body: Vec<u8>| reply::kept(reply::bytes(StatusCode::OK, content_type, body));
    if !more {
        return Ok(response(begin).into_response());
    }
    let tag = tag(content_type, &pieces);
    let room = room.take(begin.len() + pieces.free())?;
    pieces.settle();
    let mut streamed = warp::reply::stream(Body::new(begin, pieces, room)).into_response();
    *streamed.headers_mut() = response(Vec::new()).into_parts().0.headers;
    streamed.headers_mut().extend(tag.map(|tag| (ETAG, tag)));
    Ok(streamed)
}

/// An answer that is in memory as it is: a short one stays whole, a long one is sent in pieces.
///
/// # Errors
/// It is long, and there is no room.
pub(super) fn whole(room: &Room, answer: Response) -> Result<warp::reply::Response, Problem> {
    if answer.body().len() <= WHOLE_BYTES {
        return Ok(answer.into_response());
    }
    let (mut head, body) = answer.into_parts();
    let room = room.take(body.len())?;
    let pieces: Parts = body.chunks(PIECE_BYTES).map(<[u8]>::to_vec).collect();
    drop(body);
    if head
        .headers
        .get(CACHE_CONTROL)
        .is_some_and(|c| c != "no-store")
    {
        let content_type = head.headers.get(CONTENT_TYPE);
        let content_type = content_type
            .and_then(|t| t.to_str().ok())
            .unwrap_or_default();
        let tag = tag(content_type, &pieces);
        head.headers.extend(tag.map(|tag| (ETAG, tag)));
    }
    let mut streamed = warp::reply::stream(Body::new(Vec::new(), pieces, room)).into_response();
    *streamed.status_mut() = head.status;
    *streamed.headers_mut() = head.headers;
    Ok(streamed)
}

fn tag(content_type: &str, pieces: &impl Pieces) -> Option<HeaderValue> {
    let mut hash = DefaultHasher::new(); // without a random key: the same in every process of a release
    hash.write(content_type.as_bytes());
    pieces.digest(&mut hash);
    HeaderValue::try_from(format!("W/\"{:016x}\"", hash.finish())).ok()
}

/// Everything, in pieces of so many bytes or a value more; what is sent is freed.
#[cfg(test)]
pub(super) fn in_pieces(mut answer: impl Pieces, most: usize) -> Vec<u8> {
    let (mut text, mut left) = (Vec::new(), usize::MAX);
    loop {
        let mut piece = Vec::new();
        let more = answer.write(&mut piece, most).unwrap();
        text.extend(piece);
        answer.settle();
        let now = answer.free();
        assert!(now <= left, "what is written is freed");
        left = now;
        if !more {
            assert_eq!(left, 0);
            return text;
        }
    }
}

/// A long answer on its way.
struct Body {
    /// What was written before it was known how long the answer is.
    begin: Bytes,
    /// `None`: all is written.
    rest: Option<Box<dyn Pieces>>,
    room: OwnedSemaphorePermit,
    until: Instant,
    in_a_row: u32,
}

impl Body {
    fn new(begin: Vec<u8>, rest: impl Pieces, room: OwnedSemaphorePermit) -> Self {
        Self {
            begin: begin.into(),
            rest: Some(Box::new(rest)),
            room,
            until: Instant::now() + PATIENCE,
            in_a_row: 0,
        }
    }

    /// The next piece; an empty one behind the last.
    fn piece(&mut self) -> io::Result<Bytes> {
        if self.begin.is_empty() && self.rest.is_none() {
            return Ok(Bytes::new());
        }
        if Instant::now() > self.until {
            let detail = format!("the client has not taken the answer within {PATIENCE:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, detail));
        }
        if !self.begin.is_empty() {
            let bytes = self.begin.len().min(PIECE_BYTES);
            return Ok(self.begin.split_to(bytes));
        }
        let Some(rest) = &mut self.rest else {
            return Ok(Bytes::new());
        };
        let mut out = Vec::with_capacity(PIECE_BYTES + 1024);
        let more = rest.write(&mut out, PIECE_BYTES)?;
        let needed = if more { kib(rest.free()) } else { 0 };
        if !more {
            self.rest = None;
        }
        let over = self.room.num_permits().saturating_sub(needed);
        drop(self.room.split(over));
        Ok(out.into())
    }

    /// Nothing more comes.
    fn end(&mut self) {
        self.begin = Bytes::new();
        self.rest = None;
        drop(self.room.split(self.room.num_permits()));
    }
}

impl futures_core::Stream for Body {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.in_a_row == PIECES_IN_A_ROW {
            self.in_a_row = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.in_a_row += 1;
        let piece = self.piece();
        if !piece.as_ref().is_ok_and(|piece| !piece.is_empty()) {
            self.end();
        }
        Poll::Ready(match piece {
            Ok(piece) if piece.is_empty() => None,
            piece => Some(piece),
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_core::Stream as _;

    use super::*;

    /// So many pieces, and an error behind them.
    struct Broken(usize);

    impl Pieces for Broken {
        fn write(&mut self, out: &mut Vec<u8>, most: usize) -> io::Result<bool> {
            self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::InvalidData)?;
            out.resize(most, b'x');
            Ok(true)
        }

        fn free(&mut self) -> usize {
            self.0 * 1024
        }

        fn settle(&mut self) {}

        fn digest(&self, _: &mut DefaultHasher) {}
    }

    fn body(room: &Room, pieces: usize, until: Instant) -> Body {
        Body {
            begin: Bytes::from(vec![b'x'; PIECE_BYTES + 1]),
            rest: Some(Box::new(Broken(pieces))),
            room: room.take(pieces * 1024).unwrap(),
            until,
            in_a_row: 0,
        }
    }

    /// What comes next, however often the thread is left to others.
    fn next(body: &mut Body) -> Option<io::Result<usize>> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        loop {
            if let Poll::Ready(next) = Pin::new(&mut *body).poll_next(&mut cx) {
                return next.map(|piece| piece.map(|piece| piece.len()));
            }
        }
    }

    #[test]
    fn what_breaks_off_ends_with_an_error_and_gives_back_its_room() {
        let room = Room::of(32 << 10);
        let mut body = body(&room, 20, Instant::now() + PATIENCE);
        assert!(room.take(13 << 10).is_err());
        let begin = [next(&mut body), next(&mut body)];
        assert!(matches!(begin, [Some(Ok(PIECE_BYTES)), Some(Ok(1))]));
        for sent in 1..=20 {
            assert!(matches!(next(&mut body), Some(Ok(PIECE_BYTES))), "{sent}");
            assert_eq!(body.room.num_permits(), 20 - sent);
        }
        assert!(next(&mut body).unwrap().is_err());
        assert!(next(&mut body).is_none());
        assert!(room.take(32 << 10).is_ok());
    }

    #[test]
    fn who_takes_too_long_gets_an_error() {
        let room = Room::of(32 << 10);
        let mut body = body(&room, 20, Instant::now() - Duration::from_millis(1));
        let error = next(&mut body).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(next(&mut body).is_none());
        assert!(room.take(32 << 10).is_ok());
    }

    #[test]
    fn a_client_that_reads_fast_leaves_the_thread_to_others() {
        let room = Room::of(32 << 10);
        let mut body = body(&room, 20, Instant::now() + PATIENCE);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let in_a_row = std::iter::from_fn(|| {
            let ready = Pin::new(&mut body).poll_next(&mut cx).is_ready();
            ready.then_some(())
        });
        assert_eq!(in_a_row.count(), PIECES_IN_A_ROW as usize);
    }
}
