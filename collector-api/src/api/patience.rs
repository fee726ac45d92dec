//! A connection that does not wait for ever for its client to read.
//!
//! A write that makes no progress for [`PATIENCE`] is an error, which ends the connection and frees what waits to be sent on it. Reading is left to hyper, which has its own
//! timeouts.

use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a client may take nothing of what is sent to it: a phone that comes out of a tunnel has read again by then.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What is known of a connection to those who answer its calls.
#[derive(Debug, Default)]
pub(super) struct Line(AtomicBool);

impl Line {
    /// The client did not read, and was given up.
    pub(super) fn gave_up(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// A stream whose writes have patience, and an end.
pub(super) struct Patient<S> {
    stream: S,
    line: Arc<Line>,
    patience: Duration,
    /// Since a write had to wait: until when it may.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, line: Arc<Line>, patience: Duration) -> Self {
        Self {
            stream,
            line,
            patience,
            waiting: None,
        }
    }

    /// What becomes of a write, given what the stream says to it.
    fn judge<T>(&mut self, cx: &mut Context<'_>, written: Poll<Result<T>>) -> Poll<Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let patience = self.patience;
        let sleep = || Box::pin(sleep_until(Instant::now() + patience));
        ready!(self.waiting.get_or_insert_with(sleep).as_mut().poll(cx));
        self.line.0.store(true, Relaxed);
        let detail = format!("the client has read nothing for {patience:?}");
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, detail)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
